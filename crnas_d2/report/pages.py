"""Pages of one file, which open from the disk and need no network."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jinja2

from detectron2.utils.collect_env import collect_env_info

from .. import __version__
from ..files import clean_temporaries, write_atomically
from ..procedure.outputs import PAGE
from .themes import THEMES

logger = logging.getLogger(__name__)

T = TypeVar("T")


def render_page(
    template: str,
    content: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **functions: Callable[..., Any],
) -> bytes:
    """
    Args:
        template: file in the folder ``templates``.
        content: what it shows, beside the ``themes``.
        filters, functions: what it calls, by their names in it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    environment.globals |= {"themes": THEMES, **functions}
    return environment.get_template(template).render(content).encode()


def versions() -> str:
    """Of this project and what it runs on."""
    return f"crnas_d2 {__version__}\n{collect_env_info()}"


def write_report(folder: str, content: bytes) -> str:
    """Write the page of a folder, whole or not at all. Returns its path."""
    path = os.path.join(folder, PAGE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    clean_temporaries(os.path.dirname(path))
    write_atomically(path, content)
    return path


def attempt(part: str, make: Callable[[], T], tell: Callable[[str], object]) -> T | None:
    """What a part of the report is made of; None where it fails, which is told and logged."""
    try:
        return make()
    except Exception as error:
        tell(f"The {part} could not be made: {error or type(error).__name__}")
        logger.debug(f"The {part} could not be made", exc_info=True)
        return None
