"""Paths of files and folders: expanding, comparing and naming them."""

from __future__ import annotations

import functools
import glob
import os
from collections.abc import Iterable


def datasets_root() -> str:
    """Get Detectron2's folder of datasets: ``$DETECTRON2_DATASETS``, or ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def cache_folder(configured: str) -> str:
    """Get the folder in which results of checks are cached, which may not exist yet.

    It is ``DATASETS.CACHE_DIR``, or ``crnas_d2_cache`` below Detectron2's folder of datasets if
    that is empty.
    """
    return configured or os.path.join(datasets_root(), "crnas_d2_cache")


def expand_path(path: str) -> str:
    """Replace ``~`` and environment variables in a path, as a shell does."""
    return os.path.expanduser(os.path.expandvars(path))


def is_remote(path: str) -> bool:
    """Tell whether a path is a URI such as ``s3://...``, which only ``PathManager`` can open."""
    return "://" in path


def real_path(path: str) -> str:
    """Get the absolute path with symbolic links resolved, which uniquely identifies a local file."""
    return path if is_remote(path) else os.path.realpath(path)


def real_file(path: str) -> str:
    """Same as :func:`real_path`, but faster for many files in the same folder."""
    if is_remote(path):
        return path
    folder, name = os.path.split(path)
    path = os.path.join(_real_folder(folder), name)
    return os.path.realpath(path) if os.path.islink(path) else path


@functools.lru_cache(maxsize=1024)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)


def check_not_read(output: str, inputs: Iterable[str]) -> None:
    """Check before any work that a command does not overwrite one of its inputs.

    Raises:
        ValueError: the output is one of the inputs.
    """
    for path in inputs:
        if path and real_path(path) == real_path(output):
            raise ValueError(f"output {output} is read too, as {path}; expected another file")


def tell_places(folder: str, pattern: str) -> str:
    """Describe for an error message which folders have such files. Empty if none has any."""
    found = sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))
    return f"; there is one in {', '.join(map(os.path.dirname, found))}" if found else ""
