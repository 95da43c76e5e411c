"""The ``metrics.json`` of a training."""

from __future__ import annotations

import json
from typing import Any, TextIO

from detectron2.utils.events import JSONWriter

from ..files import to_json


class MetricsWriter(JSONWriter):
    """Detectron2's JSONWriter with valid JSON, in which numbers that are not finite are null."""

    _file_handle: Any

    def __init__(self, path: str):
        super().__init__(path)
        self._file_handle = _ValidLines(self._file_handle)


class _ValidLines:
    def __init__(self, file: TextIO):
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(to_json(json.loads(line), sort_keys=True) + "\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
