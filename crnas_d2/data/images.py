"""Images outside of datasets: finding them, and videos, by names and patterns; reading them."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import UnidentifiedImageError

from detectron2.data.detection_utils import read_image

from ..paths import is_remote, real_path

IMAGES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


class UnreadableError(OSError):
    """A file is not an image or video, or is damaged."""


@dataclass(frozen=True)
class Source:
    """An image or video file.

    Attributes:
        path: path of the file.
        name: path relative to the folder that was named, or the file name if the file itself was.
    """

    path: str
    name: str

    @property
    def is_video(self) -> bool:
        return self.path.lower().endswith(VIDEOS)


def find_sources(inputs: Sequence[str], leave_out: str) -> list[Source]:
    """Find images and videos, in alphabetical order for each input.

    Args:
        inputs: files with any extension, URLs that ``PathManager`` can open, file patterns such as
            ``photos/**/*.jpg``, and folders, which stand for all images and videos at any depth.
        leave_out: a folder to skip.

    Raises:
        FileNotFoundError: nothing matches an input.
    """
    sources: dict[str, Source] = {}
    for name in inputs:
        if os.path.isdir(name):
            found = _find_in_folder(name, real_path(leave_out))
        elif is_remote(name) or os.path.isfile(name):
            found = [Source(name, os.path.basename(name))]
        else:
            paths = filter(os.path.isfile, sorted(glob.glob(name, recursive=True)))
            found = [Source(path, os.path.basename(path)) for path in paths]
        if not found:
            raise FileNotFoundError(
                f"input {name!r}: there is no such file, or no image or video in this folder; "
                f"those end in {', '.join((*IMAGES, *VIDEOS))}"
            )
        for source in found:
            sources.setdefault(real_path(source.path), source)
    return list(sources.values())


def _find_in_folder(folder: str, leave_out: str) -> list[Source]:
    sources = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if real_path(os.path.join(parent, f)) != leave_out)
        for name in sorted(names):
            if name.lower().endswith((*IMAGES, *VIDEOS)):
                path = os.path.join(parent, name)
                sources.append(Source(path, os.path.relpath(path, folder)))
    return sources


def read_pixels(path: str, channels: str = "RGB") -> np.ndarray:
    """Read an image, turned by its EXIF orientation.

    Args:
        path: path of the file.
        channels: order of the channels, see :func:`detectron2.data.detection_utils.read_image`.

    Returns:
        uint8 of shape (h, w, 3).

    Raises:
        UnreadableError: it cannot be read as an image.
    """
    try:
        return read_image(path, format=channels)
    except UnidentifiedImageError as error:  # its message shows a Python object
        raise UnreadableError(f"{path}: it is no image that Pillow can read") from error
    except Exception as error:  # plugins of Pillow may raise anything on a damaged file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableError(f"{path}: {reason}") from error
