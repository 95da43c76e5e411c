"""Pages of one file, which open from the disk and need no network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jinja2

from .themes import THEMES


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
