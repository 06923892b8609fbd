"""Sources: data sets in their published forms; each gives a class list and its clips."""

from sharding.sources.audioset import AudioSetSource
from sharding.sources.class_folders import FolderSource
from sharding.sources.esc50 import Esc50Source
from sharding.sources.fsd50k import Fsd50kSource
from sharding.sources.hdf5 import Hdf5Source
from sharding.sources.listed import ManifestSource
from sharding.sources.parquet import ParquetSource
from sharding.sources.psla_json import PslaJsonSource
from sharding.sources.source import Source
from sharding.sources.tars import TarsSource

__all__ = [
    "AudioSetSource",
    "Esc50Source",
    "FolderSource",
    "Fsd50kSource",
    "Hdf5Source",
    "ManifestSource",
    "ParquetSource",
    "PslaJsonSource",
    "Source",
    "TarsSource",
]
