"""A trace of a detector on the meta device: what its modules compute for a fixed number of RoIs."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork, SemanticSegmentor, build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import (
    BaseKeypointRCNNHead,
    BaseMaskRCNNHead,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import ImageList

from ..modeling.meta import on_meta
from .places import locate

DETECTORS = (GeneralizedRCNN, DenseDetector, ProposalNetwork, SemanticSegmentor)


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer in a forward pass.

    Attributes:
        name: path of the layer in the detector.
        layer: the layer.
        input_shape: shape of its first argument.
        output_shape: shape of its result, after its norm and activation.
    """

    name: str
    layer: nn.Module
    input_shape: torch.Size
    output_shape: torch.Size


@dataclass
class Trace:
    """What a detector computes for one image.

    Attributes:
        model: the detector, on the meta device and in evaluation mode.
        calls: calls of its layers, that is, of modules with parameters or without children, in the
            order in which they end.
        macs: multiply-adds by the path of the module that executes them itself, over all its calls.
    """

    model: nn.Module
    calls: list[LayerCall] = field(default_factory=list)
    macs: Counter[str] = field(default_factory=Counter)


def trace_detector(
    detector: CfgNode | nn.Module, input_size: tuple[int, int], proposals: int, mask_rois: int
) -> Trace:
    """Run each module of a detector once, on one image.

    The arguments and errors are those of :func:`.flops.analyze_detector`.
    """
    sizes = (*input_size, proposals, mask_rois)
    if len(sizes) != 4 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"input_size {input_size}, proposals {proposals}, mask_rois {mask_rois}: "
            "expected height and width, and two numbers, all positive integers"
        )
    model = _on_meta(detector)
    if not isinstance(model, DETECTORS):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {type(model).__name__!r}: what can be counted is a "
            f"{', a '.join(kind.__name__ for kind in DETECTORS)} or derived from one of them"
        )
    image = torch.empty(len(model.pixel_mean), *input_size, device="meta")
    trace = Trace(model)
    with torch.no_grad(), _Recorder(trace):
        _run(model, image, proposals, mask_rois)
    _check_complete(trace)
    return trace


def _on_meta(detector: CfgNode | nn.Module) -> nn.Module:
    if isinstance(detector, nn.Module):
        return copy.deepcopy(detector).to("meta").eval()
    cfg = detector.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with on_meta():
        return build_model(cfg).eval()


def _run(model: nn.Module, image: torch.Tensor, proposals: int, mask_rois: int) -> None:
    backbone: Any = model.backbone
    padded = ImageList.from_tensors(
        [image], backbone.size_divisibility, padding_constraints=backbone.padding_constraints
    )
    features = backbone(padded.tensor)
    if isinstance(model, DenseDetector):
        model.head([features[name] for name in model.head_in_features])
        return
    rpn = getattr(model, "proposal_generator", None)
    if isinstance(rpn, RPN):
        rpn.rpn_head([features[name] for name in rpn.in_features])
    heads = getattr(model, "roi_heads", None)
    if isinstance(heads, Res5ROIHeads):
        _run_res5(heads, features, proposals, mask_rois)
    elif isinstance(heads, StandardROIHeads):
        _run_heads(heads, features, proposals, mask_rois)
    sem_seg_head = getattr(model, "sem_seg_head", None)
    if sem_seg_head is not None:
        sem_seg_head(features)


def _run_res5(
    heads: Res5ROIHeads, features: dict[str, torch.Tensor], proposals: int, mask_rois: int
) -> None:
    pooled = _pooled(features, heads.in_features, heads.pooler, proposals)
    heads.box_predictor(heads.res5(pooled).mean((2, 3)))
    if heads.mask_on and isinstance(heads.mask_head, BaseMaskRCNNHead):
        pooled = _pooled(features, heads.in_features, heads.pooler, mask_rois)
        heads.mask_head.layers(heads.res5(pooled))


def _run_heads(
    heads: StandardROIHeads, features: dict[str, torch.Tensor], proposals: int, mask_rois: int
) -> None:
    pooled = _pooled(features, heads.box_in_features, heads.box_pooler, proposals)
    for head, predictor in zip(_each(heads.box_head), _each(heads.box_predictor), strict=True):
        predictor(head(pooled))
    if heads.mask_on and isinstance(heads.mask_head, BaseMaskRCNNHead):
        pooled = _pooled(features, heads.mask_in_features, heads.mask_pooler, mask_rois)
        heads.mask_head.layers(pooled)
    if heads.keypoint_on and isinstance(heads.keypoint_head, BaseKeypointRCNNHead):
        pooled = _pooled(features, heads.keypoint_in_features, heads.keypoint_pooler, mask_rois)
        heads.keypoint_head.layers(pooled)


def _pooled(
    features: dict[str, torch.Tensor], names: list[str], pooler: ROIPooler, rois: int
) -> torch.Tensor:
    feature = features[names[0]]
    return feature.new_empty(rois, feature.shape[1], *pooler.output_size)


def _each(heads: nn.Module) -> Iterable[nn.Module]:
    return heads if isinstance(heads, nn.ModuleList) else [heads]


def _check_complete(trace: Trace) -> None:
    """Check that all weights were used, except for a backbone, as a supernet runs one of its paths."""
    has_neck = hasattr(trace.model.backbone, "bottom_up")
    called = {call.name for call in trace.calls}
    for name, module in trace.model.named_modules():
        dimensions = [parameter.ndim for parameter in module.parameters(recurse=False)]
        may_rest = name.startswith("backbone.") and name not in called
        has_no_place = dimensions and locate(name, has_neck) is None
        if has_no_place or (max(dimensions, default=0) > 1 and not (trace.macs[name] or may_rest)):
            raise ValueError(
                f"{name}, a {type(module).__name__}, is not counted; expected convolutions and "
                "products of matrices, in a backbone, an RPN, the head of a dense detector, box heads, "
                "a mask head, a keypoint head and a semantic head alone"
            )


class _Recorder:
    """Records what runs within its context.

    Torch counts the operators. What it has counted since a module began or a child of it ended
    belongs to the module itself.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._counter = FlopCounterMode(display=False)
        self._running = [""]
        self._seen = 0

    def __enter__(self) -> None:
        self._handles = []
        for name, module in self._trace.model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._begin(name)))
            self._handles.append(module.register_forward_hook(self._end(name)))
        self._counter.__enter__()

    def __exit__(self, *error: object) -> None:
        self._counter.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _settle(self) -> None:
        counted = self._counter.get_total_flops() // 2
        self._trace.macs[self._running[-1]] += counted - self._seen
        self._seen = counted

    def _begin(self, name: str):
        def hook(module: nn.Module, args: tuple) -> None:
            self._settle()
            self._running.append(name)

        return hook

    def _end(self, name: str):
        def hook(module: nn.Module, args: tuple, output: object) -> None:
            self._settle()
            self._running.pop()
            is_layer = any(True for _ in module.parameters(recurse=False))
            if is_layer or not any(module.children()):
                if args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
                    self._trace.calls.append(LayerCall(name, module, args[0].shape, output.shape))

        return hook
