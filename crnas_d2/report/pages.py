"""Pages in a single file, which open from the disk without a network."""

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
    """Render a page.

    Args:
        template: name of a file in the folder ``templates``.
        content: variables of the template, in addition to the ``themes``.
        filters, functions: filters and functions of the template, by name.
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
    """Describe the versions of this project and its environment."""
    return f"crnas_d2 {__version__}\n{collect_env_info()}"


def write_report(folder: str, content: bytes) -> str:
    """Write the page of a folder atomically, and return its path."""
    path = os.path.join(folder, PAGE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    clean_temporaries(os.path.dirname(path))
    write_atomically(path, content)
    return path


def attempt(part: str, make: Callable[[], T], tell: Callable[[str], object]) -> T | None:
    """Make a part of the report, or report and log that it failed, and return None."""
    try:
        return make()
    except Exception as error:
        tell(f"The {part} could not be made: {error or type(error).__name__}")
        logger.debug(f"The {part} could not be made", exc_info=True)
        return None
