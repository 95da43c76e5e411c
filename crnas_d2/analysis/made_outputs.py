"""Synthetic outputs of a detector's heads, so that all networks process the same number of boxes.

How many proposals survive NMS, and how many boxes have a score, depends on the weights. With random
weights these numbers are accidental, and so would be the time that depends on them. So the heads
run, but their outputs are replaced: all networks have the same proposals and the same objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.modeling import GeneralizedRCNN, ProposalNetwork, RetinaNet, SemanticSegmentor

LIKELY, UNLIKELY = 3.0, -10.0  # logits; a number below 1 is added to the former

Make = Callable[[Any], Any]


def replace_outputs(model: nn.Module) -> None:
    """Make a detector find as much as it possibly can in each image, from now on.

    Each level has its maximum number of candidates, at random anchors, and each proposal is an
    object of a random class. So there are ``POST_NMS_TOPK_TEST`` proposals and
    ``TEST.DETECTIONS_PER_IMAGE`` boxes, or what NMS leaves if that is less.

    The detector still computes everything it would compute. The copies of the synthetic outputs are
    additional work.

    Args:
        model: a model in evaluation mode: a ``GeneralizedRCNN`` or ``PanopticFPN`` with an RPN and
            box heads, a ``ProposalNetwork`` with an RPN, a ``RetinaNet``, or a
            ``SemanticSegmentor``, which has no boxes.

    Raises:
        ValueError: the model is of another kind.
    """
    for head, make in _heads(model):
        head.register_forward_hook(_Replacement(make))


class _Replacement:
    """A forward hook that replaces outputs by what ``make`` makes of the first one of these shapes."""

    def __init__(self, make: Make):
        self._make = make
        self._made: dict[tuple, Any] = {}

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        key = tuple((tensor.shape, tensor.dtype) for tensor in _tensors(output))
        if key not in self._made:
            self._made[key] = self._make(output)
        return _copy(self._made[key])  # RetinaNet writes into it


def _heads(model: nn.Module) -> Iterator[tuple[nn.Module, Make]]:
    """Iterate over the heads that determine the number of boxes, each with a replacement function."""
    if isinstance(model, SemanticSegmentor):
        return
    if isinstance(model, RetinaNet):
        yield model.head, lambda output: _candidates(output, model.test_topk_candidates)
        return
    rpn: Any = getattr(model, "proposal_generator", None)
    if not hasattr(rpn, "rpn_head"):
        raise _unknown(model, "an RPN")
    yield rpn.rpn_head, lambda output: _candidates(output, rpn.pre_nms_topk[False])
    if isinstance(model, ProposalNetwork):
        return
    predictors = getattr(getattr(model, "roi_heads", None), "box_predictor", None)
    if not isinstance(model, GeneralizedRCNN) or predictors is None:
        raise _unknown(model, "box heads")
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        yield predictor, _objects


def _unknown(model: nn.Module, expected: str) -> ValueError:
    return ValueError(
        f"the latency of a {type(model).__name__} depends on what its random weights find; expected "
        f"{expected}, whose outputs can be made"
    )


def _candidates(output: tuple[list[Tensor], ...], count: int) -> tuple[list[Tensor], ...]:
    """Make the outputs of an RPN's or a RetinaNet's head.

    For each level these are logits of shape (N, A x classes, H, W), of which ``count`` are likely
    in each image, and zeros for everything else, which leave the anchors unchanged.
    """
    logits, *others = output
    made = []
    for level in logits:
        order = _drawn(level.flatten(1).shape, level)
        places = order.topk(min(count, order.shape[1]), dim=1).indices
        scores = LIKELY + _drawn(places.shape, level)
        made.append(torch.full_like(order, UNLIKELY).scatter(1, places, scores).view_as(level))
    return made, *([torch.zeros_like(level) for level in levels] for levels in others)


def _objects(output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Make the outputs of a box predictor.

    In each RoI, one of the logits of shape (R, classes + 1) is likely, other than the last one,
    which is the background. All deltas are 0.
    """
    logits, deltas = output
    scores, classes = (LIKELY + _drawn(logits[:, :-1].shape, logits)).max(1, keepdim=True)
    return torch.full_like(logits, UNLIKELY).scatter(1, classes, scores), torch.zeros_like(deltas)


def _drawn(shape: torch.Size, like: Tensor) -> Tensor:
    """Draw numbers from 0 to 1, which are always the same for a shape."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(like)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        for part in output:
            yield from _tensors(part)


def _copy(output: Any) -> Any:
    return output.clone() if isinstance(output, Tensor) else type(output)(map(_copy, output))
