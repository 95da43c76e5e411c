"""Videos outside of datasets."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from detectron2.utils.file_io import PathManager

from .images import UnreadableError

try:
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]  # it reads videos

logger = logging.getLogger(__name__)


class Video:
    """A single pass over the frames of a video.

    Each frame is RGB as uint8 of shape (h, w, 3), turned as the file says.

    Attributes:
        frames_per_second: frame rate, 25 if the file does not state it.
    """

    def __init__(self, path: str):
        """
        Raises:
            UnreadableError: it cannot be read as a video. Its first frame raises it too.
        """
        self._path = path
        self._capture = cv2.VideoCapture(PathManager.get_local_path(path))
        if not self._capture.isOpened():
            raise UnreadableError(f"{path}: OpenCV cannot read it as a video")
        self.frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or 25.0
        self._told = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))  # negative if unknown

    def __iter__(self) -> Iterator[np.ndarray]:
        count = 0
        while True:
            there, frame = self._capture.read()
            if not there:
                break
            count += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        self._capture.release()
        if not count:
            raise UnreadableError(f"{self._path}: OpenCV finds no frame in it")
        if count < self._told:
            logger.warning(
                f"{self._path}: {count} frames can be read, of the {self._told} that it tells of"
            )
