"""Finds installed fonts that have the characters of a text."""

from __future__ import annotations

import contextlib
import functools
import logging
import unicodedata
import warnings
from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.font_manager import FontEntry, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font

logger = logging.getLogger(__name__)

FIRST = "DejaVu Sans"  # ships with matplotlib
REGULAR = 400  # weight


@functools.lru_cache
def find_families(texts: Sequence[str]) -> tuple[str, ...]:
    """Find font families for some texts, to be used as matplotlib's ``family``.

    matplotlib takes each character from the first family that has it. Characters that no installed
    font has are drawn as boxes. This is logged in one sentence with all of them, once for equal
    texts.

    Args:
        texts: a tuple of texts.

    Returns:
        matplotlib's own font, followed by as few other families as possible.
    """
    families = [FIRST]
    missing = {c for text in texts for c in text if unicodedata.category(c)[0] not in "CZ"}
    missing -= _covered(_first_font(), missing)
    while missing:
        best = max(_other_fonts(), key=lambda font: len(_covered(font, missing)), default=None)
        covered = _covered(best, missing) if best else set()
        if best is None or not covered:
            logger.warning(
                f"no font of this machine has the characters {' '.join(sorted(missing))}, which are "
                "drawn as boxes; install one that has them, such as Noto (on Debian and Ubuntu: "
                "fonts-noto-cjk for Chinese, Japanese and Korean, fonts-noto-core for other scripts)"
            )
            break
        families.append(best.name)
        missing -= covered
    return tuple(families)


@contextlib.contextmanager
def unheeded_glyphs() -> Iterator[None]:
    """Silence matplotlib's warnings about missing glyphs and unsupported scripts.

    :func:`find_families` has already logged missing glyphs.
    """
    with warnings.catch_warnings():
        for message in ("Glyph .* missing from", "Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def _first_font() -> FontEntry:
    return min((font for font in fontManager.ttflist if font.name == FIRST), key=_faults)


@functools.cache
def _other_fonts() -> tuple[FontEntry, ...]:
    """Get one font of each other installed family, the best match first.

    Fonts that were installed since matplotlib last looked are included.
    """
    known = {font.fname for font in fontManager.ttflist}
    for path in sorted(set(findSystemFonts()) - known):
        # Not every installed file is an intact outline font.
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError, ValueError):
            fontManager.addfont(path)
    fonts: dict[str, FontEntry] = {}
    for font in sorted(fontManager.ttflist, key=_faults):
        if not _is_of_matplotlib(font) and getattr(font, "index", 0) == 0:
            fonts.setdefault(font.name, font)
    return tuple(sorted(fonts.values(), key=_faults))


def _is_of_matplotlib(font: FontEntry) -> bool:
    """Whether a font belongs to matplotlib, whose other fonts have a mathematical encoding."""
    return font.fname.startswith(matplotlib.get_data_path())


def _faults(font: FontEntry) -> tuple:
    """Get a sort key by deviations from a plain sans-serif font."""
    weight = font.weight if isinstance(font.weight, int) else REGULAR
    return (
        font.style != "normal" or font.stretch != "normal",
        abs(weight - REGULAR),
        "Serif" in font.name or "Mono" in font.name,
        "Sans" not in font.name,
        font.name,
        font.fname,
    )


def _covered(font: FontEntry, characters: set[str]) -> set[str]:
    """Get the characters that a font has."""
    file = _open(font.fname)
    return {c for c in characters if file.get_char_index(ord(c))}


@functools.lru_cache(maxsize=64)
def _open(path: str) -> FT2Font:
    return FT2Font(path)
