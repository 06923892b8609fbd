"""The library. Names for your own scripts can be imported from here, to train
(docs/use_the_loader.md) and to use a model (docs/use_the_model.md); torch and DALI are loaded by
the first use that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from psla_wds.errors import PslaError
    from psla_wds.features.config import FeatureConfig
    from psla_wds.loading.batches import LoaderConfig, evaluation_batches, training_batches
    from psla_wds.loading.draw_sampler import DrawSampler
    from psla_wds.loading.epochs import Epochs, Share
    from psla_wds.loading.loader import Batch, Loader
    from psla_wds.loading.waveforms import (
        WaveformBatch,
        WaveformConfig,
        WaveformLoader,
        evaluation_waveforms,
        training_waveforms,
    )
    from psla_wds.reading.config import ReaderConfig
    from psla_wds.sampling.augment import Draws
    from psla_wds.sampling.config import AugmentConfig, SamplerConfig
    from psla_wds.shards.index import ShardIndex
    from psla_wds.shards.index_files import open_indexes
    from psla_wds.tagging.config import EventConfig, WindowConfig
    from psla_wds.tagging.events import Event
    from psla_wds.tagging.tagger import Tagger, Tags, WindowTags

__all__ = [
    "AugmentConfig",
    "Batch",
    "DrawSampler",
    "Draws",
    "Epochs",
    "Event",
    "EventConfig",
    "FeatureConfig",
    "Loader",
    "LoaderConfig",
    "PslaError",
    "ReaderConfig",
    "SamplerConfig",
    "ShardIndex",
    "Share",
    "Tagger",
    "Tags",
    "WaveformBatch",
    "WaveformConfig",
    "WaveformLoader",
    "WindowConfig",
    "WindowTags",
    "evaluation_batches",
    "evaluation_waveforms",
    "open_indexes",
    "training_batches",
    "training_waveforms",
]

_NAMES = {
    "errors": ("PslaError",),
    "features.config": ("FeatureConfig",),
    "loading.batches": ("LoaderConfig", "evaluation_batches", "training_batches"),
    "loading.draw_sampler": ("DrawSampler",),
    "loading.epochs": ("Epochs", "Share"),
    "loading.loader": ("Batch", "Loader"),
    "loading.waveforms": (
        "WaveformBatch",
        "WaveformConfig",
        "WaveformLoader",
        "evaluation_waveforms",
        "training_waveforms",
    ),
    "reading.config": ("ReaderConfig",),
    "sampling.augment": ("Draws",),
    "sampling.config": ("AugmentConfig", "SamplerConfig"),
    "shards.index": ("ShardIndex",),
    "shards.index_files": ("open_indexes",),
    "tagging.config": ("EventConfig", "WindowConfig"),
    "tagging.events": ("Event",),
    "tagging.tagger": ("Tagger", "Tags", "WindowTags"),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
