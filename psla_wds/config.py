"""Settings as dataclasses: kinds and ranges of their fields, and conversion to JSON and back."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import cattrs

from psla_wds.errors import ConfigError
from psla_wds.io.atomic_files import sha256_of
from psla_wds.io.regular import CLASSES_BYTES, read_text

C = TypeVar("C")

SUMS, OWN_SUM = "sha256", "meta_sha256"
SEAL = (SUMS, OWN_SUM)
"""Keys of check sums in JSON: of the files beside it, and of its own values."""

_converter = cattrs.Converter(forbid_extra_keys=True)
_converter.register_unstructure_hook(Path, str)
_converter.register_structure_hook(Path, lambda value, _: Path(_checked(value, str)))


def _checked(value: Any, kind: type) -> Any:
    """The value, if it is of a type; a float may be written as an integer."""
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{value!r:.80} is not {kind.__name__}")
    if isinstance(value, str):
        value.encode()  # ValueError: text that UTF-8 cannot hold
    return kind(value)


for _kind in (bool, int, float, str):  # cattrs would convert anything
    _converter.register_structure_hook(_kind, _checked)


class Kind(Enum):
    """Effect of a setting on results; a field states it as `Annotated[type, kind]`."""

    METHOD = "changes what is learned"  # the default
    DATA = "names files of the method; the fingerprint of the index covers their content"
    PLACE = "says where shards lie and how this machine reads them"
    START = "says what this start of the command does"
    SPEED = "changes how fast a run goes, what it logs, or when it gives up"


@dataclass(frozen=True)
class Within:
    """Range of a number, or of each number of a tuple, as `Annotated[float, Within(0, 1)]`."""

    low: int | float = -math.inf
    high: int | float = math.inf
    without: tuple[int | float, ...] = ()
    """Ends that are not in the range."""

    def holds(self, value: int | float) -> bool:
        return self.low <= value <= self.high and math.isfinite(value) and value not in self.without

    def __str__(self) -> str:
        above = "above" if self.low in self.without else "at least"
        below = "below" if self.high in self.without else "at most"
        ends = [f"{above} {self.low:g}"] if math.isfinite(self.low) else []
        ends += [f"{below} {self.high:g}"] if math.isfinite(self.high) else []
        return " and ".join(ends)


def kinds_of(config_type: type) -> dict[str, Kind]:
    """The kind of each field of a configuration; default `Kind.METHOD`."""
    return {name: next(_marks(hint, Kind), Kind.METHOD) for name, hint in _hints(config_type)}


def check_ranges(config: Any, section: str = "") -> None:
    """Raise `ConfigError` for the first field with a number that is outside its `Within`.

    Args:
        section: prefix of the flags, such as "optimizer".
    """
    for name, hint in _hints(type(config)):
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        numbers = [number for number in values if isinstance(number, int | float)]
        for allowed in _marks(hint, Within):
            if not all(allowed.holds(number) for number in numbers):
                raise ConfigError(
                    f"{name}={value} is out of range",
                    where=flag(name, section),
                    fix=f"set {flag(name, section)} to a number that is {allowed}",
                )


def flag(name: str, section: str = "") -> str:
    """The flag on the command line for a field with this (dotted) name."""
    return "--" + f"{section}.{name}".lstrip(".").replace("_", "-")


def _hints(config_type: type) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(config_type, include_extras=True)
    return ((field.name, hints[field.name]) for field in fields(config_type))


Mark = TypeVar("Mark", Kind, Within)

SEED = Within(0, 2**63 - 1)
"""Range of seeds, which torch and numpy take."""
BATCH_SIZE = Within(1, 2**16)
"""Range of numbers of clips that are in memory at once."""


def _marks(hint: Any, kind: type[Mark]) -> Iterator[Mark]:
    if get_origin(hint) is Annotated:
        yield from (mark for mark in get_args(hint)[1:] if isinstance(mark, kind))


def to_json(config: Any) -> dict[str, Any]:
    """A configuration dataclass as values of JSON."""
    return json.loads(json.dumps(_converter.unstructure(config)))


def from_json(config_type: type[C], values: Any, *, where: object) -> C:
    """The configuration that `to_json` converted; `ConfigError` for unknown or wrong settings."""
    try:
        if not isinstance(values, dict):
            raise ConfigError(
                "the configuration is not a table of settings", where=where, fix="write {...}"
            )
        return _converter.structure(values, config_type)
    except cattrs.BaseValidationError as error:
        config_errors = [e for e in error.exceptions if isinstance(e, ConfigError)]
        if config_errors:
            raise config_errors[0] from None
        raise ConfigError(
            "; ".join(cattrs.transform_error(error, path="config")),
            where=where,
            fix="use a configuration that this version wrote",
        ) from None


def read_json(
    config_type: type[C],
    path: Path,
    *,
    besides: tuple[str, ...] = (),
    max_bytes: int = CLASSES_BYTES,
) -> C:
    """The configuration in a file, such as a run's config.json; names in `besides` are ignored."""
    try:
        values = json.loads(read_text(path, max_bytes=max_bytes))
        # ValueError: text that UTF-8 cannot hold, or numbers that are not finite
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"cannot read the configuration: {error}", where=path, fix="check the path"
        ) from None
    if isinstance(values, dict):
        values = {name: value for name, value in values.items() if name not in besides}
    return from_json(config_type, values, where=path)


def write_sealed(values: dict[str, Any], path: Path, *, files: Iterable[str] = ()) -> None:
    """Write values of JSON with the SHA-256 of files beside them, and their own."""
    sealed = values | {SUMS: {name: sha256_of(path.with_name(name)) for name in files}}
    sealed[OWN_SUM] = _sum_of(sealed)
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def check_seal(path: Path) -> None:
    """ValueError or OSError if values that `write_sealed` wrote, or files beside them, have
    changed. Those without sums, of an older version, pass."""
    values = json.loads(read_text(path))
    own_sum = values.pop(OWN_SUM, None)
    if own_sum != (_sum_of(values) if SUMS in values else None):
        raise ValueError(f"{path.name} has changed since it was written")
    for name, sha256 in values.get(SUMS, {}).items():
        if Path(name).name != name or sha256_of(path.with_name(name)) != sha256:
            raise ValueError(f"{name:.80} has changed since it was written")


def _sum_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
