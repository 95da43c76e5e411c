"""Reads the header of an image file, and checks that Detectron2 reads the image correctly."""

from __future__ import annotations

import struct
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from detectron2.data.detection_utils import read_image
from detectron2.utils.file_io import PathManager

from .image_facts import ImageFacts

ORIENTATION = 274  # number of the tag in EXIF data and in TIFF
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
PNG_SIGNATURE_BYTES = 8
PNG_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks that may hold an orientation

STORE_TURNED = (
    'To store it turned: python -c "import sys; from PIL import Image, ImageOps; '
    '[ImageOps.exif_transpose(Image.open(p)).save(p) for p in sys.argv[1:]]" PATH'
)
TO_8_BITS = (
    "To make it one of 8 bits, where 65535 is the highest value of all images: "
    'python -c "import sys; import numpy as np; from PIL import Image; '
    "[Image.fromarray((np.asarray(Image.open(p)) * (255 / 65535)).clip(0, 255).astype('uint8'))"
    '.save(p) for p in sys.argv[1:]]" PATH'
)


class Fault(NamedTuple):
    """Why Detectron2 cannot read an image, or reads something other than what it shows.

    Attributes:
        what: predicate about the file, such as "is no image that Pillow can read".
        remedy: what can be done about it, with "PATH" for the file. Empty if nothing can.
    """

    what: str
    remedy: str = ""


def read_facts(path: str, decode: bool = False) -> ImageFacts | Fault:
    """Read the facts about an image, or its fault.

    Args:
        path: path of an image that ``PathManager`` can open.
        decode: read the whole file instead of the header only. The values of an image with more
            than 8 bits are read in any case.
    """
    try:
        with PathManager.open(path, "rb") as f:
            if not f.read(1):
                return Fault("is empty: it has 0 bytes")
            f.seek(0)
            image = Image.open(f)
            size, orientation = _stored_size(image), _orientation(image, f)
            facts = ImageFacts(*size, image.mode, orientation, image.format or "", decode)
            fault = _fault_of_values(image) or _fault_of_turn(facts)
        if decode and not fault:
            read_image(path, "RGB")
    except UnidentifiedImageError:  # its message shows a Python object
        return Fault("is no image that Pillow can read")
    except Exception as error:  # plugins of Pillow may raise anything on a damaged file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Fault(f"cannot be read: {reason}")
    return fault or facts


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Get (width, height) before any rotation. Pillow rotates a TIFF itself."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2[TIFF_WIDTH], image.tag_v2[TIFF_HEIGHT]
    return image.size


def _orientation(image: Image.Image, f: BinaryIO) -> int:
    """Get the orientation as Detectron2 does."""
    try:
        if image.format == "PNG" and "exif" not in image.info and not _has_text_behind(f):
            # PNG's own method decodes the image to look behind it
            exif = Image.Image.getexif(image)
        else:
            exif = image.getexif()
        orientation = exif.get(ORIENTATION)
    except Exception:  # Detectron2 ignores it too
        return 1
    return orientation if type(orientation) is int and 1 <= orientation <= 8 else 1


def _has_text_behind(png: BinaryIO) -> bool:
    """Whether a PNG has text chunks after its pixels. The file's position is restored."""
    place = png.tell()
    try:
        png.seek(PNG_SIGNATURE_BYTES)
        has_pixels = False
        while len(head := png.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            has_pixels |= kind == b"IDAT"
            if has_pixels and kind in PNG_TEXTS:
                return True
            png.seek(length + 4, 1)  # and the checksum
        return False
    finally:
        png.seek(place)


def _fault_of_values(image: Image.Image) -> Fault | None:
    """Find a fault in how Detectron2 converts an image with more than 8 bits."""
    if not image.mode.startswith(("I", "F")):
        return None
    values = np.asarray(image)
    low, high = values.min(), values.max()
    what = f"has values from {low:g} to {high:g} (mode {image.mode}), "
    if not (low >= 0 and high <= 255):
        color = "white" if low >= 0 else "black or white"
        what += f"of which Detectron2 shows those outside 0 to 255 as {color}"
    elif image.mode == "F" and 0 < high <= 1:
        what += "which Detectron2 shows as black"
    else:
        return None
    return Fault(what, TO_8_BITS)


def _fault_of_turn(facts: ImageFacts) -> Fault | None:
    if facts.format != "TIFF" or facts.orientation not in (6, 8):
        return None
    what = (
        f"is a TIFF of orientation {facts.orientation}, which Pillow turns, and Detectron2 once more, "
        "so that it stands on its head"
    )
    return Fault(what, STORE_TURNED)
