"""A mapper that names the image that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .images import read_pixels

IMAGE_KEYS = ("file_name", "sem_seg_file_name", "pan_seg_file_name")  # in Detectron2's format


class NamingMapper:
    """Wraps a mapper to name the image if it fails because the image cannot be read.

    Errors of Pillow do not name the file, and Detectron2 adds nothing.
    """

    def __init__(self, mapper: Callable[[dict[str, Any]], Any]):
        self._mapper = mapper

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """Map a sample.

        Raises:
            UnreadableError: an image cannot be read.
            Exception: any other error of the mapper.
        """
        images = [dataset_dict[key] for key in IMAGE_KEYS if key in dataset_dict]
        try:
            return self._mapper(dataset_dict)
        except Exception:
            for path in images:
                read_pixels(path)
            raise
