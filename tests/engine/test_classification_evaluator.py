"""Top-1 and top-5 accuracy against scikit-learn."""

import numpy as np
import pytest
import torch
from forked import run_forked

from crnas_d2.engine.classification_evaluator import ClassificationEvaluator

from detectron2.utils import comm

metrics = pytest.importorskip("sklearn.metrics")


def predictions(classes, images=53, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(classes), rng.integers(0, classes, images - classes)]
    scores = rng.normal(size=(images, classes))
    scores[np.arange(images), labels] += 1
    return torch.tensor(labels), torch.tensor(scores)


def evaluate(labels, scores, batch=10):
    evaluator = ClassificationEvaluator()
    evaluator.process({"label": labels}, scores)  # forgotten by the reset
    evaluator.reset()
    for part in torch.arange(len(labels)).split(batch):
        evaluator.process({"label": labels[part]}, scores[part])
    return evaluator.evaluate()


def expected(labels, scores, k):
    if k >= scores.shape[1]:
        return 100
    return 100 * metrics.top_k_accuracy_score(labels, scores, k=k)


@pytest.mark.parametrize("classes", [3, 5, 6, 20])
def test_accuracy(classes):
    labels, scores = predictions(classes)
    results = evaluate(labels, scores)
    assert list(results) == ["classification"]
    assert results["classification"] == pytest.approx(
        {f"top{k}": expected(labels, scores, k) for k in (1, 5)}
    )
    if classes == 20:
        assert results["classification"]["top1"] < results["classification"]["top5"] < 100


def evaluate_a_rank():
    labels, scores = predictions(20)
    part = slice(0, 40) if comm.get_rank() == 0 else slice(40, None)  # as uneven as the last shard
    return evaluate(labels[part], scores[part])


def test_accuracy_of_two_processes():
    assert run_forked(2, evaluate_a_rank) == [evaluate(*predictions(20)), None]


def test_scores_that_are_not_finite():
    labels, scores = predictions(3)
    scores[7, 1] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate(labels, scores)


def test_no_image():
    with pytest.raises(ValueError, match="no image"):
        ClassificationEvaluator().evaluate()
