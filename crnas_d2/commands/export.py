"""Export a trained detector as TorchScript or ONNX, and check the file against the model.

crnas export --config-file COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x.yaml \\
    --output output/deploy MODEL.WEIGHTS output/model_final.pth
crnas export ... --format onnx --sample-image street.jpg
crnas export --config-file Supernet/... --path 1-3-5-7 ...    # one network of a supernet

Writes model.ts or model.onnx into a folder: the whole detector by tracing, as Detectron2's
tools/deploy/export_model.py does. Its input and outputs are

image          (3, H, W) float32 of any size, 0 to 255, channels in the order of INPUT.FORMAT,
               resized as INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST say
pred_boxes     (N, 4) x0, y0, x1, y1 in pixels of that image
pred_classes   (N,)
pred_masks     (N, 1, 28, 28) probabilities inside the box; where there is a mask head
scores         (N,)
image_size     (2,) H, W

On the sample image, and on the same at two thirds of its size, the file must find on the CPU what
the model finds, in whatever order: scores that are equal within the tolerance have none, and of
such detections either may pass the threshold, the largest number, or NMS. If it does not, nothing
is written, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, PanopticFPN, RetinaNet
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances

from ..checkpoint.trained import load_trained
from ..config import read_config
from ..data import setup_datasets
from ..data.naming_mapper import NamingMapper
from ..engine import CRTrainer
from ..engine.agreement import Selection, leave_out_ties, match_detections
from ..engine.config_check import prepare_trained
from ..engine.hooks import find_supernet
from ..files import write_atomically
from ..modeling.supernet import ChoiceBlock
from .command_line import command, command_parser

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

FILES = {"torchscript": "model.ts", "onnx": "model.onnx"}
# torch.export cannot handle varying numbers of proposals and detections; torch before 2.5 has none
BY_TRACING: dict[str, Any] = (
    {"dynamo": False} if "dynamo" in signature(torch.onnx.export).parameters else {}
)
ONNX_OPSET = 16  # the first one whose RoiAlign has the half-pixel shift of ROIAlignV2

Detector: TypeAlias = GeneralizedRCNN | RetinaNet
Function = Callable[[torch.Tensor], Sequence[torch.Tensor]]


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the detector")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the file")
    parser.add_argument("--format", choices=FILES, default="torchscript", help="(%(default)s)")
    parser.add_argument(
        "--sample-image",
        metavar="IMAGE",
        help="to trace and to check; by default the first one of the first of DATASETS.TEST",
    )
    parser.add_argument(
        "--path", type=parse_path, help="of a supernet: the network to export, such as 1-3-5-7"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest difference of an output, over the model's largest value (%(default)s)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args(argv)
    if args.format == "onnx" and onnxruntime is None:
        parser.error("--format onnx checks the file: pip install onnx onnxruntime")

    cfg = read_config(args.config_file, args.opts)
    cfg.MODEL.DEVICE = "cpu"
    image = read_sample(cfg, args.sample_image)
    prepare_trained(cfg)
    if args.format == "onnx" and cfg.MODEL.KEYPOINT_ON:
        raise ValueError(
            "MODEL.KEYPOINT_ON is True: torch cannot write keypoints as ONNX; "
            "expected --format torchscript"
        )
    model = load_model(cfg)
    choose_network(model, args.path)
    smaller = F.interpolate(image[None], scale_factor=2 / 3, mode="bilinear")[0]

    found = detect(model, image)
    if len(found) == 0:
        raise ValueError(
            "the model detects nothing in the sample image, so there is nothing to trace or to "
            "check; expected another --sample-image, or a lower "
            f"{'MODEL.RETINANET' if isinstance(model, RetinaNet) else 'MODEL.ROI_HEADS'}"
            ".SCORE_THRESH_TEST"
        )
    adapter = TracingAdapter(model, image, detect).eval()
    names = [*sorted(found.get_fields()), "image_size"]
    content, exported = EXPORTS[args.format](adapter, image, names)

    checks = [compare(adapter, exported, x, names, args.tolerance) for x in (image, smaller)]
    if not all(checks):
        raise RuntimeError(f"{args.format} differs from the model; nothing was written")
    os.makedirs(args.output, exist_ok=True)
    path = os.path.join(args.output, FILES[args.format])
    write_atomically(path, content)
    print(f"wrote {path} ({len(content) / 1e6:.1f} MB); outputs: {', '.join(names)}")


def parse_path(text: str) -> list[int]:
    return [int(entry) for entry in text.split("-")]


def load_model(cfg: CfgNode) -> Detector:
    """Build the detector of a config, with its weights.

    Raises:
        ValueError: the config describes another kind of model, or MODEL.WEIGHTS lacks values for
            some parameters.
    """
    model = CRTrainer.build_model(cfg).eval()
    if not isinstance(model, Detector) or isinstance(model, PanopticFPN):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}; expected a GeneralizedRCNN "
            "or a RetinaNet"
        )
    load_trained(model, cfg, cfg.MODEL.WEIGHTS, part=model)
    return model


def choose_network(model: Detector, path: Sequence[int] | None) -> None:
    """Reduce a supernet to the network of a path, in place.

    Raises:
        ValueError: there is no path for a supernet, the supernet does not have it, or there is a
            path for a model that is not a supernet.
    """
    supernet = find_supernet(model)
    if supernet is None and path is not None:
        raise ValueError(f"--path is {path}; expected none, as the model is no supernet")
    if supernet is None:
        return
    if path is None:
        raise ValueError(
            "the model is a supernet; expected --path, such as "
            + "-".join(map(str, next(iter(supernet.space))))
        )
    supernet.set_path(path)
    for module in list(supernet.modules()):
        for name, child in module.named_children():
            if isinstance(child, ChoiceBlock):
                setattr(module, name, torch.nn.Sequential(*child.active()))


def read_sample(cfg: CfgNode, image_file: str | None) -> torch.Tensor:
    """Read an image preprocessed for a test, with shape (3, H, W).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no image is named, and DATASETS.TEST is empty.
    """
    if image_file is None:
        if not cfg.DATASETS.TEST:
            raise ValueError("DATASETS.TEST is empty; expected --sample-image")
        setup_datasets(cfg)
        image_file = DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]["file_name"]
    mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
    return mapper({"file_name": image_file})["image"].float()


def detect(model: Detector, image: torch.Tensor) -> Instances:
    """Detect objects in one image, without pasting their masks into it."""
    with torch.no_grad():
        if isinstance(model, RetinaNet):
            return model([{"image": image}])[0]["instances"]
        return model.inference([{"image": image}], do_postprocess=False)[0]


def export_torchscript(
    adapter: TracingAdapter, image: torch.Tensor, names: Sequence[str]
) -> tuple[bytes, Function]:
    file = io.BytesIO()
    with unheeded_warnings():
        torch.jit.save(torch.jit.trace(adapter, (image,), check_trace=False), file)
        file.seek(0)
        return file.getvalue(), torch.jit.load(file)


def export_onnx(
    adapter: TracingAdapter, image: torch.Tensor, names: Sequence[str]
) -> tuple[bytes, Function]:
    file = io.BytesIO()
    with unheeded_warnings():
        torch.onnx.export(
            adapter,
            (image,),
            file,  # type: ignore[arg-type]  # it does take a stream
            **BY_TRACING,
            opset_version=ONNX_OPSET,
            input_names=["image"],
            output_names=list(names),
            dynamic_axes={
                "image": {1: "height", 2: "width"},
                **{name: {0: "detections"} for name in names if name != "image_size"},
            },
        )
    content = file.getvalue()
    assert onnxruntime is not None  # main() asks for it
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(image: torch.Tensor) -> list[torch.Tensor]:
        return [torch.as_tensor(output) for output in session.run(None, {"image": image.numpy()})]

    return content, run


EXPORTS = {"torchscript": export_torchscript, "onnx": export_onnx}


@contextlib.contextmanager
def unheeded_warnings() -> Iterator[None]:
    """Silence the warnings of tracing about constants, which the check at another size verifies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare(
    adapter: TracingAdapter,
    exported: Function,
    image: torch.Tensor,
    names: Sequence[str],
    tolerance: float,
) -> bool:
    """Print how far the detections of the exported model in an image are from those of the model.

    Returns:
        Whether the detections match one to one, with all outputs within the tolerance, except for
        ties in the selection of the detections.
    """
    with torch.no_grad():
        first, second = (dict(zip(names, run(image), strict=True)) for run in (adapter, exported))
    size, other_size = first.pop("image_size").tolist(), second.pop("image_size").tolist()
    agreement = match_detections(first, second, tolerance)
    counts = [len(detections["scores"]) for detections in (first, second)]
    print(
        f"image {size[0]}x{size[1]}: {counts[0]} detections, {counts[1]} of the exported model, "
        f"{counts[0] - len(agreement.missing)} of them the same"
    )
    for name, difference in agreement.differences.items():
        print(
            f"  {name}: largest difference {difference:.2g}, tolerance {agreement.limits[name]:.2g}"
        )
    missing, extra = leave_out_ties(
        agreement,
        first,
        second,
        find_selection(adapter.model),
        lambda score: find_candidates(adapter.model, image, score),
    )
    for what, detections, indices in (
        ("of the model alone", first, missing),
        ("of the exported model alone", second, extra),
    ):
        for index in indices[:3]:
            box = ", ".join(f"{x:.2f}" for x in detections["pred_boxes"][index].tolist())
            kind, score = detections["pred_classes"][index], detections["scores"][index]
            print(f"  {what}: class {kind}, score {score:.6f}, box {box}")
        if len(indices) > 3:
            print(f"  {what}: {len(indices) - 3} more")
    return size == other_size and not missing and not extra


def find_selection(model: Detector) -> Selection:
    selector, names = find_selector(model)
    score_threshold, iou_threshold, most = (getattr(selector, name) for name in names)
    return Selection(score_threshold, iou_threshold, most if most >= 0 else math.inf)


def find_candidates(model: Detector, image: torch.Tensor, score: float) -> dict[str, torch.Tensor]:
    """Get what the model would detect with scores above ``score`` without NMS."""
    selector, names = find_selector(model)
    usual = [getattr(selector, name) for name in names]
    try:
        for name, value in zip(names, (score, 1.0, sys.maxsize)):
            setattr(selector, name, value)
        found = detect(model, image)
    finally:
        for name, value in zip(names, usual):
            setattr(selector, name, value)
    return {
        "pred_boxes": found.pred_boxes.tensor,
        "pred_classes": found.pred_classes,
        "scores": found.scores,
    }


def find_selector(model: Detector) -> tuple[torch.nn.Module, Sequence[str]]:
    """Get the module that selects the detections, and its attributes for :class:`Selection`."""
    names = ("test_score_thresh", "test_nms_thresh")
    if isinstance(model, RetinaNet):
        return model, (*names, "max_detections_per_image")
    predictors = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]
    return predictors[-1], (*names, "test_topk_per_image")  # that of the last stage of a cascade
