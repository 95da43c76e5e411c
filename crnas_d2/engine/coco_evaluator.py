"""Detectron2's COCOEvaluator, extended to irregular datasets."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2 import evaluation

from ..data.class_names import tell_apart

RESULTS_FILE = "coco_instances_results.json"  # Detectron2's name


class COCOEvaluator(evaluation.COCOEvaluator):
    """Detectron2's COCOEvaluator, which supports classes with equal names.

    Each of these gets its own AP, see :func:`tell_apart`. For a test set without annotations, it
    logs where the detections are.
    """

    def evaluate(self, img_ids: Sequence[Any] | None = None) -> dict[str, Any]:
        """Evaluate as Detectron2 does.

        Returns:
            On the main process, the results by task. Empty if there are no annotations.
        """
        results = super().evaluate(img_ids)
        if self._output_dir and not self._do_evaluation:
            path = os.path.join(self._output_dir, RESULTS_FILE)
            logging.getLogger(__name__).info(
                f"{self._metadata.name} has no annotations: its detections are in {path}, and it has "
                "no AP"
            )
        return results

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        names = None if class_names is None else tell_apart(class_names)
        return super()._derive_coco_results(coco_eval, iou_type, names)
