"""Parquet files as Hugging Face has them: audio files in one column, labels in another."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from posixpath import splitext
from typing import Any

from tyro.conf import Positional

from psla_wds.cli import LocationArg
from psla_wds.errors import ManifestError
from psla_wds.io.locations import Location, member
from psla_wds.io.scratch import scratch_database, scratch_errors, to_bytes
from psla_wds.io.stores import at
from psla_wds.labels.class_list import ClassList, read_class_list
from psla_wds.labels.manifest import Cell, Clip, resolve_labels
from sharding.sources.parquet_files import open_parquet, remove_unpacked
from sharding.sources.source import files_below, require

LABEL_COLUMNS = ("labels", "label", "mids", "category", "categories", "class", "classes", "tags")
"""Names of columns of labels; human_labels, which AudioSet has beside labels, comes last."""
SPLIT_NAME = re.compile(r"(.+?)-\d{5}-of-\d{5}.*|(train|validation|valid|val|test|eval|dev)")
UNKNOWN = -1
"""Class of a clip without a label, in a column of one class a clip."""
ROWS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class ParquetSource:
    """Clips in Parquet files: a column of audio files (bytes, or a struct of bytes and path, as
    `datasets` writes them), and a column of labels: names, mids, indices, or lists of them."""

    files: Positional[tuple[LocationArg, ...]]
    """Parquet files, folders of them, or their URLs."""
    class_labels: LocationArg | None = None
    """CSV of the classes: index,mid,display_name. Default: those of a ClassLabel column."""
    audio_column: str | None = None
    """Column of the audio. Default: the only one that can be."""
    label_column: str | None = None
    """Column of the labels. Default: labels, label, mids, category, ..., if it is the only one."""
    separator: str = "|"
    """Separator of labels in a text."""
    id_column: str | None = None
    """Column of the clip ids. Default: the path beside the audio, without suffix; FILE-ROW where
    there is none or another row has it."""
    split: str | None = None
    """Name of the split. Default: from names such as train-00000-of-00002.parquet; from the folder
    for 00.parquet."""
    split_column: str | None = None
    """Column of the splits, such as fold, whose numbers become fold1, fold2, ..."""
    group_column: str | None = None
    """Column of a group, such as recording or speaker: --eval-share puts all clips of a group into
    one split."""

    def read(self) -> tuple[ClassList, Iterable[Clip]]:
        require(bool(self.files), "no Parquet file is given", "parquet FILE", "name one or more")
        files = parquet_files(self.files)
        if self.class_labels:
            classes = read_class_list(self.class_labels)
        else:
            with open_parquet(files[0]) as file:
                columns = self._columns(file, files[0])
            fix = "set --class-labels, or another --label-column"
            require(
                columns.class_names is not None,
                f"column {columns.labels} does not name the classes of its numbers or texts",
                files[0],
                fix,
            )
            names = columns.class_names or ()
            require(len(set(names)) == len(names), "two classes have one name", files[0], fix)
            classes = ClassList(names, names)
        return classes, self._clips(files, classes)

    def clean_up(self) -> None:
        """Delete what packing has unpacked."""
        for path in parquet_files(self.files):
            remove_unpacked(path)

    def _clips(self, files: list[Location], classes: ClassList) -> Iterator[Clip]:
        ids = _Ids(files)
        for path in files:
            split = _split_of(path) if self.split is None else self.split
            with open_parquet(path) as file:
                columns = self._columns(file, path)
                for number, cell, row in self._rows(file, columns):
                    where = f"{path}, row {number}"
                    given = row[self.id_column] if self.id_column else None
                    audio_path = (row[columns.audio] or {}).get("path") if columns.path else None
                    yield Clip(
                        clip_id=ids.of(path, number, audio_path) if given is None else str(given),
                        path=path,
                        labels=self._labels(row[columns.labels], columns, classes, where),
                        split=self._split(row) or split,
                        source=where,
                        part=cell,
                        suffix=splitext(str(audio_path or ""))[1],
                        group=self._group(row),
                    )

    def _columns(self, file: Any, path: Location) -> "Columns":
        schema = file.schema_arrow
        features = _features(schema)
        audio = self.audio_column or _audio_column(schema, features, path)
        labels = self.label_column or _label_column(schema, path)
        for name in filter(None, (audio, labels, *self._own_columns())):
            columns, number = ", ".join(schema.names), schema.names.count(name)
            require(number == 1, f"{number} columns are named {name}", path, f"it has {columns}")
        is_audio = _holds_bytes(schema.field(audio).type)
        require(is_audio, f"column {audio} has no bytes", path, "name another --audio-column")
        leaves = [file.schema.column(number).path for number in range(len(file.schema))]
        parts = [name for name in leaves if f"{name}.".startswith(f"{audio}.")]
        of_bytes = [name for name in parts if f"{name}.".startswith(f"{audio}.bytes.")]
        return Columns(
            audio=audio,
            leaf=leaves.index((of_bytes or parts)[0]),
            path=f"{audio}.path" if f"{audio}.path" in leaves else None,
            labels=labels,
            class_names=_class_names(features.get(labels)),
        )

    def _own_columns(self) -> tuple[str | None, ...]:
        return self.id_column, self.split_column, self.group_column

    def _rows(self, file: Any, columns: "Columns") -> Iterator[tuple[int, Cell, dict[str, Any]]]:
        """Number in the file, place and values of each row, but for the audio, which is not
        read."""
        number = 0
        names = [*filter(None, (columns.labels, columns.path, *self._own_columns()))]
        for group in range(file.num_row_groups):
            row_of_group = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, [group], names, use_threads=False):
                for row in batch.to_pylist():
                    yield number, Cell(group, row_of_group, columns.leaf), row
                    number, row_of_group = number + 1, row_of_group + 1

    def _labels(
        self, value: Any, columns: "Columns", classes: ClassList, where: str
    ) -> tuple[int, ...]:
        if columns.class_names is not None:
            numbers = value if isinstance(value, list) else [value]
            known = [number for number in numbers if number not in (None, UNKNOWN)]
            is_unique = len(set(known)) == len(known)
            require(is_unique, f"{known} has a class twice", where, "write each class once")
            value = [_name_of(number, columns.class_names, where) for number in known]
        elif isinstance(value, str) and self.separator != "|":
            value = value.split(self.separator)
        return resolve_labels(value, classes, where)

    def _group(self, row: dict[str, Any]) -> str:
        value = row[self.group_column] if self.group_column else None
        return "" if value is None else str(value)

    def _split(self, row: dict[str, Any]) -> str:
        value = row[self.split_column] if self.split_column else None
        if isinstance(value, int):
            return f"{self.split_column}{value}"
        return "" if value is None else str(value)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of a file that are read."""

    audio: str
    leaf: int
    """Number of the column of its bytes among all that have no parts."""
    path: str | None
    """Column of paths beside them."""
    labels: str
    class_names: tuple[str, ...] | None
    """Names of the numbers in it, where the file has them."""


def parquet_files(locations: Iterable[Location]) -> list[Location]:
    """Files, and those in folders by their names; `ManifestError` where a folder has none."""
    found: list[Location] = []
    for location in locations:
        if location.name.endswith(".parquet") or not at(location).is_folder():
            found.append(location)
            continue
        names = sorted(name for name in files_below(location) if name.endswith(".parquet"))
        require(bool(names), "there is no .parquet file here", location, "check the path")
        found += [member(location, name) for name in names]
    return found


class _Ids:
    """Ids of clips by their paths in the rows, as long as no two are the same."""

    def __init__(self, files: list[Location]) -> None:
        self._stems = Counter(path.stem for path in files)
        with scratch_errors():
            self._database = scratch_database(self)
            self._database.execute("CREATE TABLE ids (id PRIMARY KEY) WITHOUT ROWID")

    def of(self, file: Location, number: int, path: str | None) -> str:
        """The path without suffix, or FILE-ROW where there is none or it was there before."""
        clip_id = splitext(str(path or ""))[0]
        with scratch_errors():
            insert = "INSERT OR IGNORE INTO ids VALUES (?)"
            if clip_id and self._database.execute(insert, [to_bytes(clip_id)]).rowcount:
                return clip_id
        folder = f"{file.parent.name}/" if self._stems[file.stem] > 1 else ""
        return f"{folder}{file.stem}-{number}"


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` says of each column, if it wrote the file."""
    try:
        text = (schema.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(text)["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: object) -> tuple[str, ...] | None:
    """Names of a ClassLabel, or of a list of them."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    names = feature.get("names")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return _class_names(feature.get("feature"))


def _audio_column(schema: Any, features: dict[str, Any], path: Location) -> str:
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    declared = [name for name in fitting if "Audio" in str(features.get(name))]
    return _only(declared or fitting, "--audio-column", schema, path)


def _label_column(schema: Any, path: Location) -> str:
    fitting = [name for name in schema.names if name in LABEL_COLUMNS]
    last = [name for name in schema.names if name == "human_labels"]
    return _only(fitting or last, "--label-column", schema, path)


def _only(names: list[str], flag: str, schema: Any, path: Location) -> str:
    if len(names) == 1:
        return names[0]
    columns = ", ".join(names or schema.names)
    raise ManifestError(
        f"{len(names) or 'none'} of the columns can be meant by {flag}: {columns}",
        where=path,
        fix=f"set {flag}",
    )


def _holds_bytes(kind: Any) -> bool:
    """Whether a type is bytes, a list of them, or a struct with a field of either."""
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    if types.is_list(kind) or types.is_large_list(kind):
        return types.is_uint8(kind.value_type)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _split_of(path: Location) -> str:
    """The split that the name of a file says, if it does."""
    stem = path.parent.name if path.stem.isdigit() else path.stem
    found = SPLIT_NAME.fullmatch(stem)
    return (found[1] or found[2]) if found else stem if path.stem.isdigit() else ""


def _name_of(number: int, names: tuple[str, ...], where: str) -> str:
    fits = 0 <= number < len(names)
    require(fits, f"label {number} is none of {len(names)} classes", where, "write the file again")
    return names[number]
