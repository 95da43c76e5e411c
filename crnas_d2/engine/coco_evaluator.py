"""Detectron2's COCOEvaluator, for data sets as people have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2 import evaluation

from ..data.class_names import tell_apart


class COCOEvaluator(evaluation.COCOEvaluator):
    """Detectron2's, but where several classes have one name, each has its own AP, see
    :func:`tell_apart`."""

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        names = None if class_names is None else tell_apart(class_names)
        return super()._derive_coco_results(coco_eval, iou_type, names)
