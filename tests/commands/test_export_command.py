"""crnas export: what it writes runs without this project and finds what the model finds."""

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from thin_detector import write_detector
from tiny_coco import write_tiny_coco

from crnas_d2.checkpoint import CRCheckpointer, inherit_subnet
from crnas_d2.config import configs_dir, read_config
from crnas_d2.data import setup_datasets
from crnas_d2.engine import CRTrainer
from crnas_d2.engine.agreement import match_detections
from crnas_d2.engine.export_check import detect, find_candidates
from crnas_d2.engine.hooks import find_supernet

OUTPUTS = {
    "faster": ["pred_boxes", "pred_classes", "scores", "image_size"],
    "mask": ["pred_boxes", "pred_classes", "pred_masks", "scores", "image_size"],
    "retinanet": ["pred_boxes", "pred_classes", "scores", "image_size"],
}


@pytest.fixture
def detector(tmp_path):
    """Writes a thin detector with random weights; returns its config file and the model."""

    def write(base):
        path = Path(write_detector(tmp_path, base))
        cfg = read_config(str(path))
        model = CRTrainer.build_model(cfg).eval()
        CRCheckpointer(model, "", cfg).load(cfg.MODEL.WEIGHTS)
        return path, model

    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return write


def export(tool, path, *arguments):
    folder = path.parent
    files = ["--config-file", path, "--output", folder / "out"]
    tool.main([str(x) for x in (*files, "--sample-image", folder / "image.png", *arguments)])
    (name,) = os.listdir(folder / "out")
    return folder / "out" / name


def run(file, image):
    """As a user does who has the file alone."""
    if file.suffix == ".ts":
        with torch.no_grad():
            return torch.jit.load(file)(image)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == ["image"]
    return [torch.as_tensor(output) for output in session.run(None, {"image": image.numpy()})]


def assert_same_detections(outputs, instances):
    """In whatever order: equal scores have none."""
    fields = {name: getattr(x, "tensor", x) for name, x in instances.get_fields().items()}
    *outputs, size = outputs
    found = match_detections(fields, dict(zip(sorted(fields), outputs, strict=True)), 1e-4)
    assert len(instances) > 0 and not found.missing and not found.extra
    assert size.tolist() == list(instances.image_size)


# Another size, and another ratio of the sides, than those of the sample image.
OTHER_IMAGE = torch.rand(3, 97, 141, generator=torch.Generator().manual_seed(1)) * 255


@pytest.mark.parametrize(
    "kind, base",
    [
        ("faster", "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"),
        ("mask", "COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x.yaml"),
        ("retinanet", "COCO-Detection/retinanet_CR_R_50_FPN_1x.yaml"),
    ],
)
@pytest.mark.parametrize("file_format, name", [("torchscript", "model.ts"), ("onnx", "model.onnx")])
def test_exported_detector(tool, detector, capsys, kind, base, file_format, name):
    path, model = detector(base)
    file = export(tool, path, "--format", file_format)
    assert file.name == name
    printed = capsys.readouterr().out
    assert "image 96x128: " in printed and "image 64x85: " in printed
    assert f"outputs: {', '.join(OUTPUTS[kind])}" in printed
    if file_format == "onnx":
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        assert [x.name for x in session.get_outputs()] == OUTPUTS[kind]
    with torch.no_grad():
        if kind == "retinanet":
            instances = model([{"image": OTHER_IMAGE}])[0]["instances"]
        else:
            (instances,) = model.inference([{"image": OTHER_IMAGE}], do_postprocess=False)
    assert_same_detections(run(file, OTHER_IMAGE), instances)


CASCADE = """
  ROI_HEADS: {NAME: "CascadeROIHeads"}
  ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: True}
"""
KEYPOINTS = """
  KEYPOINT_ON: True
  ROI_KEYPOINT_HEAD: {CONV_DIMS: [8]}
"""


def write_base(folder, model):
    """A Faster R-CNN with other keys in MODEL, as a file. Of the keypoints of a box, TorchScript
    takes a tenth of a second."""
    path = folder / "base.yaml"
    base = "crnas_d2://COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"
    path.write_text(f'_BASE_: "{base}"\nTEST: {{DETECTIONS_PER_IMAGE: 10}}\nMODEL:{model}')
    return str(path)


@pytest.mark.parametrize(
    "file_format, model_keys",
    [("torchscript", CASCADE), ("onnx", CASCADE), ("torchscript", KEYPOINTS)],
)
def test_other_heads(tool, detector, tmp_path, file_format, model_keys):
    path, model = detector(write_base(tmp_path, model_keys))
    train = "('keypoints_coco_2017_train',)"  # which tells the names of the keypoints
    file = export(tool, path, "--format", file_format, "DATASETS.TRAIN", train)
    with torch.no_grad():
        (instances,) = model.inference([{"image": OTHER_IMAGE}], do_postprocess=False)
    assert instances.has("pred_keypoints") == (model_keys is KEYPOINTS)
    assert_same_detections(run(file, OTHER_IMAGE), instances)


@pytest.mark.parametrize(
    "step, network, shared",
    [("stage", "R_50", False), ("stage", "R_50", True), ("dilation", "SCR_R_50", False)],
)
def test_one_network_of_a_supernet(tool, detector, tmp_path, step, network, shared):
    base = tmp_path / "base.yaml"
    base.write_text(
        f'_BASE_: "{configs_dir()}/Supernet/{step}_supernet_{network}_FPN.yaml"\n'
        f"MODEL: {{SUPERNET: {{SHARE_BLOCKS: {shared}}}}}"
    )
    path, supernet = detector(str(base))
    space = find_supernet(supernet).space
    chosen = [choices[1] for choices in space.choices]
    file = export(tool, path, "--path", "-".join(map(str, chosen)))

    cfg = read_config(str(path))
    cfg.MODEL.BACKBONE.NAME = "build_cr_fpn_backbone"
    cfg.MODEL.CR["STAGE_CODE" if step == "stage" else "OPERATION_CODE"] = chosen
    final = CRTrainer.build_model(cfg).eval()
    final.load_state_dict(inherit_subnet(supernet.state_dict(), chosen))
    with torch.no_grad():
        (instances,) = final.inference([{"image": OTHER_IMAGE}], do_postprocess=False)
    assert_same_detections(run(file, OTHER_IMAGE), instances)
    elements = sum(tensor.numel() for tensor in torch.jit.load(file).parameters())
    assert elements == sum(tensor.numel() for tensor in final.parameters())


def test_difference_is_told_and_nothing_written(tool, detector, refused, monkeypatch):
    path, _ = detector("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml")

    def export_another_model(adapter, image, names):
        with torch.no_grad():
            adapter.model.roi_heads.box_predictor.bbox_pred.bias += 0.01
        content = tool.export_torchscript(adapter, image, names)
        with torch.no_grad():
            adapter.model.roi_heads.box_predictor.bbox_pred.bias -= 0.01
        return content

    monkeypatch.setitem(tool.EXPORTS, "torchscript", export_another_model)
    with refused("torchscript differs from the model; nothing was written") as said:
        export(tool, path)
    assert "of the exported model, 0 of them the same" in said.out
    assert "of the model alone: class" in said.out
    assert "of the exported model alone: " in said.out
    assert not (path.parent / "out").exists()


def test_other_order_is_no_difference(tool, detector, monkeypatch, capsys):
    path, _ = detector("COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x.yaml")

    def export_in_reverse(adapter, image, names):
        content, exported = tool.export_torchscript(adapter, image, names)

        def run(image):
            *outputs, size = exported(image)
            return [*(output.flip(0) for output in outputs), size]

        return content, run

    monkeypatch.setitem(tool.EXPORTS, "torchscript", export_in_reverse)
    export(tool, path)
    assert "alone" not in capsys.readouterr().out


def test_candidates_are_what_nms_and_threshold_leave_out(tool, detector):
    _, model = detector("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml")
    found = detect(model, OTHER_IMAGE)
    score = found.scores.median().item()
    candidates = find_candidates(model, OTHER_IMAGE, score)
    assert len(candidates["scores"]) > (found.scores > score).sum() > 0
    assert (candidates["scores"] > score).all()
    known = {tuple(box) for box in candidates["pred_boxes"].tolist()}
    assert {tuple(box) for box in found[found.scores > score].pred_boxes.tensor.tolist()} <= known
    again = detect(model, OTHER_IMAGE)
    assert torch.equal(again.pred_boxes.tensor, found.pred_boxes.tensor)  # it is as before


def test_datasets_are_not_needed_with_a_sample_image(tool, detector):
    path, _ = detector("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml")
    own = [["own", "absent.json", "absent"]]
    export(tool, path, "DATASETS.COCO_JSON", own, "DATASETS.TEST", "('own',)")


@pytest.mark.parametrize(
    "detector_name, node", [("faster_rcnn", "ROI_HEADS"), ("retinanet", "RETINANET")]
)
def test_nothing_to_compare(tool, detector, refused, detector_name, node):
    path, _ = detector(f"COCO-Detection/{detector_name}_CR_R_50_FPN_1x.yaml")
    key = f"MODEL.{node}.SCORE_THRESH_TEST"
    with refused(f"detects nothing in the sample image.* lower {key}"):
        export(tool, path, key, "0.999")


def test_weights_of_a_backbone_alone(tool, detector, refused):
    path, model = detector("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml")
    weights = path.parent / "backbone.pth"
    backbone = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.")}
    torch.save({"model": backbone}, weights)
    with refused("have no values for .* such as proposal_generator.rpn_h"):
        export(tool, path, "MODEL.WEIGHTS", weights, "MODEL.INIT.SOURCE", "torchvision")


@pytest.mark.parametrize(
    "base, arguments, message",
    [
        (
            "Supernet/stage_supernet_R_50_FPN.yaml",
            [],
            "is a supernet; expected --path, such as 1-1-1-1",
        ),
        ("Supernet/stage_supernet_R_50_FPN.yaml", ["--path", "9-1-1-1"], "not in the space"),
        ("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml", ["--path", "1-3-5-7"], "no supernet"),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", ["MODEL.WEIGHTS", ""], "WEIGHTS is empty"),
        (
            "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
            [
                *("--format", "onnx", "MODEL.KEYPOINT_ON", "True"),
                *("DATASETS.TRAIN", "('keypoints_coco_2017_train',)"),
            ],
            "KEYPOINT_ON is True: torch cannot write keypoints as ONNX; expected --format torchscript",
        ),
    ],
)
def test_what_cannot_be_exported(tool, detector, refused, base, arguments, message):
    path, _ = detector(base)
    with refused(message):
        export(tool, path, *arguments)


@pytest.mark.parametrize("name", ["PanopticFPN", "SemanticSegmentor"])
def test_a_model_of_another_kind(tool, detector, tmp_path, refused, name):
    path, _ = detector(write_base(tmp_path, f'\n  META_ARCHITECTURE: "{name}"\n'))
    with refused(f"ARCHITECTURE is '{name}'; expected a GeneralizedRCNN or a RetinaNet"):
        export(tool, path)


def test_sample_of_the_test_set(tool, tmp_path):
    path = tmp_path / "own.yaml"
    json_file = write_tiny_coco(tmp_path / "data", shapes=[(60, 80)])
    own = ["own_test", str(json_file), str(tmp_path / "data" / "images")]
    path.write_text(f"DATASETS: {{COCO_JSON: [{own}], TRAIN: [], TEST: [own_test]}}")
    cfg = read_config(str(path), ["INPUT.MIN_SIZE_TEST", 30, "INPUT.FORMAT", "RGB"])
    setup_datasets(cfg)
    image = tool.read_sample(cfg, None)
    assert (image.shape, image.dtype) == ((3, 40, 30), torch.float32)
    assert image.amax(dim=(1, 2)).tolist() == pytest.approx([200, 128, 200], abs=5)
    with pytest.raises(ValueError, match="DATASETS.TEST is empty; expected --sample-image"):
        tool.read_sample(read_config(str(path), ["DATASETS.TEST", ()]), None)
    with pytest.raises(OSError, match="absent.png"):
        tool.read_sample(cfg, "absent.png")


def test_bad_command_line(tool, detector, monkeypatch, capsys):
    path, _ = detector("COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml")
    with pytest.raises(SystemExit, match="2"):
        export(tool, path, "--path", "1-x")
    assert "--path: invalid" in capsys.readouterr().err
    monkeypatch.setattr(tool, "onnxruntime", None)
    with pytest.raises(SystemExit, match="2"):
        export(tool, path, "--format", "onnx")
    assert "pip install onnx onnxruntime" in capsys.readouterr().err
