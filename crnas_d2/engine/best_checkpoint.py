"""The checkpoint with the best test result so far."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

from detectron2.engine import hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils.file_io import PathManager

from ..checkpoint.checkpointer import BEST
from ..checkpoint.weights_file import read_checkpoint

logger = logging.getLogger(__name__)


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's BestCheckpointer, which also remembers the best result across a resume.

    Every checkpoint contains the best value. The checkpoint of an iteration is saved before its
    test, so if a run was killed between that test and the next checkpoint, the result is read from
    model_best.pth.
    """

    best_metric: float | None

    def before_train(self) -> None:
        path = os.path.join(self._checkpointer.save_dir, f"{BEST}.pth")
        if self.trainer.start_iter > 0 and PathManager.isfile(path):
            saved = read_checkpoint(path)
            if saved["iteration"] == self.trainer.start_iter - 1:
                self.load_state_dict(saved["trainer"]["hooks"][type(self).__qualname__])

    def _best_checking(self) -> None:
        results = flatten_results_dict(self.trainer._last_eval_results)
        value = float(results.get(self._val_metric, math.nan))  # a NumPy number could not be loaded
        if not math.isfinite(value):
            logger.warning(f"{self._val_metric} of this test is {value}: {BEST}.pth stays as it is")
        elif self.best_metric is None or value > self.best_metric:
            self.best_metric = value
            self.best_iter = min(self.trainer.iter, self.trainer.max_iter - 1)
            self._checkpointer.save(BEST, iteration=self.best_iter)
            logger.info(f"{self._val_metric} of {value:.2f} is the best so far: saved {BEST}.pth")

    def state_dict(self) -> dict[str, Any]:
        return {
            "metric": self._val_metric,
            "value": self.best_metric,
            "iteration": self.best_iter,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["metric"] == self._val_metric:
            self.best_metric, self.best_iter = state["value"], state["iteration"]
