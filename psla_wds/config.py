"""Configurations to JSON and back: what a run was made of, in a file that makes it again."""

import json
from pathlib import Path
from typing import Any, TypeVar

import cattrs

from psla_wds.errors import ConfigError

C = TypeVar("C")

_converter = cattrs.Converter(forbid_extra_keys=True)
_converter.register_unstructure_hook(Path, str)
_converter.register_structure_hook(Path, lambda value, _: Path(value))


def to_json(config: Any) -> dict[str, Any]:
    """A configuration dataclass as values that JSON knows."""
    return json.loads(json.dumps(_converter.unstructure(config)))


def from_json(config_type: type[C], values: Any, *, where: object) -> C:
    """The configuration that `to_json` gave; unknown and missing settings are errors."""
    try:
        if not isinstance(values, dict):
            raise ConfigError(
                "the configuration is no table of settings", where=where, fix="write {...}"
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


def read_json(config_type: type[C], path: Path, *, besides: tuple[str, ...] = ()) -> C:
    """The configuration in a file, such as a run's config.json.

    Args:
        besides: names of what else the file may have, which is no setting.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"cannot read the configuration: {error}", where=path, fix="check the path"
        ) from None
    if isinstance(values, dict):
        values = {name: value for name, value in values.items() if name not in besides}
    return from_json(config_type, values, where=path)
