"""Made outputs of a detector's heads, so that as many boxes go on in every network.

How many proposals NMS leaves, and how many boxes have a score, depends on the weights. With random
weights these numbers are accidents, and so is the time that goes by with them. So the heads run, and
what they give is replaced: all networks have the same proposals and the same objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from detectron2.modeling import GeneralizedRCNN, ProposalNetwork, RetinaNet, SemanticSegmentor

LIKELY, UNLIKELY = 3.0, -10.0  # logits; to the first one a number below 1 is added

Make = Callable[[Any], Any]


def replace_outputs(model: nn.Module) -> None:
    """Let a detector, from now on, find as much as it may find in each image: each level has its
    full number of candidates, at anchors by chance, and each proposal is an object, of a class by
    chance. So ``POST_NMS_TOPK_TEST`` proposals and ``TEST.DETECTIONS_PER_IMAGE`` boxes go on, or
    what NMS leaves where that is less.

    All that the detector computes it still computes. Copies of the made outputs come on top.

    Args:
        model: in evaluation mode; a ``GeneralizedRCNN`` or ``PanopticFPN`` with an RPN and box
            heads, a ``ProposalNetwork`` with an RPN, a ``RetinaNet``, or a
            ``SemanticSegmentor``, which has no boxes.

    Raises:
        ValueError: it is something else.
    """
    for head, make in _heads(model):
        head.register_forward_hook(_Replacement(make))


class _Replacement:
    """A forward hook: what ``make`` made of the first output of the same shapes, instead of any."""

    def __init__(self, make: Make):
        self._make = make
        self._made: dict[tuple, Any] = {}

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        key = tuple((tensor.shape, tensor.dtype) for tensor in _tensors(output))
        if key not in self._made:
            self._made[key] = self._make(output)
        return _copy(self._made[key])  # as RetinaNet writes into it


def _heads(model: nn.Module) -> Iterator[tuple[nn.Module, Make]]:
    """The heads whose outputs tell how many boxes go on, and what makes theirs."""
    if isinstance(model, SemanticSegmentor):
        return
    if isinstance(model, RetinaNet):
        yield model.head, lambda output: _candidates(output, model.test_topk_candidates)
        return
    rpn = getattr(model, "proposal_generator", None)
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
        f"the latency of a {type(model).__name__} depends on what its random weights find: expected "
        f"{expected}, whose outputs can be made"
    )


def _candidates(output: tuple[list[Tensor], ...], count: int) -> tuple[list[Tensor], ...]:
    """Of an RPN's or a RetinaNet's head: for each level, logits (N, A x classes, H, W) of which
    ``count`` are likely in each image; and 0 for all else, which leaves the anchors as they are."""
    logits, *others = output
    made = []
    for level in logits:
        order = _drawn(level.flatten(1).shape, level)
        places = order.topk(min(count, order.shape[1]), dim=1).indices
        scores = LIKELY + _drawn(places.shape, level)
        made.append(torch.full_like(order, UNLIKELY).scatter(1, places, scores).view_as(level))
    return made, *([torch.zeros_like(level) for level in levels] for levels in others)


def _objects(output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of a box predictor: logits (R, classes + 1) of which one in each RoI is likely, not that of
    the background, which is the last; deltas of 0."""
    logits, deltas = output
    scores, classes = (LIKELY + _drawn(logits[:, :-1].shape, logits)).max(1, keepdim=True)
    return torch.full_like(logits, UNLIKELY).scatter(1, classes, scores), torch.zeros_like(deltas)


def _drawn(shape: torch.Size, like: Tensor) -> Tensor:
    """Numbers from 0 to 1, always the same ones for a shape."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(like)


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        for part in output:
            yield from _tensors(part)


def _copy(output: Any) -> Any:
    return output.clone() if isinstance(output, Tensor) else type(output)(map(_copy, output))
