"""Top-1 and top-5 accuracy of a classifier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

TOP = (1, 5)


class ClassificationEvaluator(DatasetEvaluator):
    """Counts the images whose label is the best class, or among the best five.

    If there are fewer than five classes, all of them count as the best five.
    """

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self._images = 0
        self._correct = [0] * len(TOP)

    def process(self, inputs: Mapping[str, torch.Tensor], outputs: torch.Tensor) -> None:
        """Count the hits in a batch.

        Args:
            inputs: a dict with "label" of shape (N,).
            outputs: class scores of shape (N, classes).

        Raises:
            FloatingPointError: a score is not finite.
        """
        if not outputs.isfinite().all():
            raise FloatingPointError(
                f"the classifier gives scores that are not finite, after {self._images} images"
            )
        labels = inputs["label"].to(outputs.device)
        best = outputs.topk(min(max(TOP), outputs.shape[1])).indices
        hits = best == labels[:, None]
        self._images += len(labels)
        for index, k in enumerate(TOP):
            self._correct[index] += int(hits[:, :k].sum())

    def evaluate(self) -> OrderedDict | None:
        """Compute the accuracies.

        Returns:
            On the main process ``{"classification": {"top1": ..., "top5": ...}}``, in percent of
            the images on all ranks. None on the others.

        Raises:
            ValueError: there was no image.
        """
        counts = comm.gather([self._images, *self._correct])
        if not comm.is_main_process():
            return None
        images, *correct = map(sum, zip(*counts))
        if images == 0:
            raise ValueError("there is no image to evaluate the classifier on")
        accuracy = {f"top{k}": 100 * count / images for k, count in zip(TOP, correct)}
        return OrderedDict(classification=accuracy)
