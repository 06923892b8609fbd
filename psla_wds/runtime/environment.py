"""The environment of a run: versions, sources, machine. With the settings, it makes a run
reproducible."""

import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
COMPUTES = ("psla_wds", "eval", "train")
"""Packages that the result of a run depends on."""
DISTRIBUTIONS = (
    "psla-wds",
    "torch",
    "torchaudio",
    "torchvision",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "efficientnet_pytorch",
    "numpy",
)
MATTER_NOT = (":(top,exclude)benchmarks/results", ":(top,exclude)*.md")


def environment() -> dict[str, Any]:
    """As JSON values. What is absent, such as a GPU or a git checkout, is null."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "commit": commit(),
        "sources": sources_digest(),
        "python": platform.python_version(),
        "versions": {name: v for name in DISTRIBUTIONS if (v := version(name))},
        "gpu": gpu,
        "cuda": torch.version.cuda if gpu else None,
    }


def version(distribution: str) -> str | None:
    """Version of a package; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@cache
def sources_digest() -> str:
    """Digest of the source files that compute a run, from a checkout or a wheel."""
    sources = [path for package in COMPUTES for path in (ROOT / package).rglob("*.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:12]


def commit() -> str | None:
    """Commit of the checkout that holds this file; None in a wheel.

    "with changes" follows if files that can matter differ. Documents and results, which an earlier
    benchmark may have written, do not matter.
    """
    try:
        _git("ls-files", "--error-unmatch", "psla_wds/runtime/environment.py")
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *MATTER_NOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} with changes" if changed else head


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
