"""Which picture it was that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .pictures import read_picture

PICTURE_KEYS = ("file_name", "sem_seg_file_name", "pan_seg_file_name")  # of Detectron2's format


class NamingMapper:
    """A mapper, which names the picture where it fails because that cannot be read.

    Pillow does not say of which file its faults are, and Detectron2 adds nothing.
    """

    def __init__(self, mapper: Callable[[dict[str, Any]], Any]):
        self._mapper = mapper

    def __call__(self, dataset_dict: dict[str, Any]) -> Any:
        """
        Raises:
            UnreadableError: a picture cannot be read.
            Exception: as the mapper, where it is no picture's fault.
        """
        pictures = [dataset_dict[key] for key in PICTURE_KEYS if key in dataset_dict]
        try:
            return self._mapper(dataset_dict)
        except Exception:
            for path in pictures:
                read_picture(path)
            raise
