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
import os
import warnings
from collections.abc import Iterator, Sequence
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.export import TracingAdapter
from detectron2.modeling import PanopticFPN, RetinaNet

from ..checkpoint.trained import load_trained
from ..config import read_config
from ..data import setup_datasets
from ..data.naming_mapper import NamingMapper
from ..engine import CRTrainer
from ..engine.config_check import prepare_trained
from ..engine.export_check import Detector, Function, compare, detect
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
