"""The folder of a run: its lock, its configuration, and the state from which it continues."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from psla_wds.config import to_json
from psla_wds.errors import ConfigError, PslaError
from psla_wds.io.atomic_files import atomic_open, disk_errors, lock_folder
from psla_wds.text_table import of_bytes
from train.config import (
    CONFIG,
    MADE_WITH,
    TrainConfig,
    may_change_on_resume,
    read_config,
    read_made_with,
)
from train.run.state import StateFiles

logger = logging.getLogger("train")


class RunDir:
    """Files of one run; only rank 0 writes them. Use it with `with`: it holds a lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states = StateFiles(folder)
        self._lock: int | None = None

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def recorded(self, config: TrainConfig) -> TrainConfig:
        """The configuration with the SHA-256 of the initial weights that the run began with."""
        path = self.folder / CONFIG
        if not config.resume or not path.exists() or config.model.initial_sha256 is not None:
            return config
        sha256 = read_config(path).model.initial_sha256
        return replace(config, model=replace(config.model, initial_sha256=sha256))

    def find_state(self, config: TrainConfig) -> dict[str, Any] | None:
        """The state to continue from; None for a new run. Writes nothing."""
        begun = (self.folder / CONFIG).exists()
        if begun and config.resume:
            self._check_same_run(config)
            return self.states.load()
        if self.folder.exists() and (not self.folder.is_dir() or any(self._content())):
            advice = "add --resume to continue it, or " if begun else ""
            raise ConfigError(
                "the run folder is not empty",
                where=self.folder,
                fix=f"{advice}choose another --run-dir",
            )
        return None

    def _content(self) -> Iterator[Path]:
        """Files, but that of a run which was killed while it wrote its configuration."""
        return (path for path in self.folder.iterdir() if path.name != f"{CONFIG}.tmp")

    def check_room(self, num_bytes: int) -> None:
        """Raise `PslaError` unless the folder can be written and has that many bytes free."""
        place = self.folder.absolute()
        while not place.exists():
            place = place.parent
        if not place.is_dir() or not os.access(place, os.W_OK):
            raise PslaError(
                "the run folder cannot be written",
                where=self.folder,
                fix=f"choose another --run-dir, or give write access to {place}",
            )
        free_bytes = shutil.disk_usage(place).free
        if free_bytes < num_bytes:
            raise PslaError(
                f"the checkpoints and states of this run take {of_bytes(num_bytes)}, and "
                f"{of_bytes(free_bytes)} are free",
                where=self.folder,
                fix="choose another --run-dir, or make room there",
            )

    def begin(self, config: TrainConfig, made_with: dict[str, Any]) -> None:
        """Make and lock the folder, and write the configuration that repeats the run.

        Args:
            made_with: what the run depends on beside its settings.
        """
        path, content = self.folder / CONFIG, to_json(replace(config, resume=False))
        again = "run it again, or choose another --run-dir"
        with disk_errors(self.folder, "write the run folder", then=again):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.folder)
            if self._lock is None:  # two runs would spoil the log and the state of both
                raise PslaError(
                    "another run is training in this folder",
                    where=self.folder,
                    fix="wait for it, or stop it; or choose another --run-dir",
                )
            if path.exists():
                _tell_changes(read_made_with(path), made_with, path)
            with atomic_open(path, "w") as file:
                json.dump(content | {MADE_WITH: made_with}, file, indent=2)
                file.write("\n")

    def _check_same_run(self, config: TrainConfig) -> None:
        path = self.folder / CONFIG
        before, now = to_json(read_config(path)), to_json(config)
        may_change = may_change_on_resume(config)
        changed = [name for name in now if name not in may_change and now[name] != before[name]]
        if changed:
            differences = "; ".join(f"{n} was {before[n]}, now {now[n]}" for n in changed)
            raise ConfigError(
                f"this run was begun with other settings: {differences}",
                where=path,
                fix="resume with the same settings, or choose another --run-dir",
            )


def _tell_changes(before: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Warn if a run continues with other versions or sources, which can change its result."""
    before, now = _flat(before), _flat(now)
    for name in sorted((before.keys() & now.keys()) - {"commit"}):  # it may concern documents only
        if before[name] != now[name]:
            logger.warning("%s: %s was %s, now %s", path, name, before[name], now[name])


def _flat(made_with: dict[str, Any]) -> dict[str, Any]:
    versions = made_with.get("versions")
    if not isinstance(versions, dict):
        return made_with
    return {name: value for name, value in made_with.items() if name != "versions"} | versions
