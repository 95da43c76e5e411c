"""Rows of classes, carried over by name: what a model finds must not depend on the classes' order."""

import copy
import os

import pytest
import torch
import zoo_files
from sklearn.datasets import load_sample_image
from thin_detector import CONFIG
from torch import nn
from torch.testing import assert_close

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.checkpoint.classes import describe_difference, find_class_rows, match_class_rows
from crnas_d2.config import configs_dir, read_config
from crnas_d2.modeling.classifier import ImageClassifier

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead

FASTER = "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x.yaml"
CASCADE = "COCO-Cascade/cascade_mask_rcnn_CR_R_101_FPN_20e.yaml"
RETINANET = "COCO-Detection/retinanet_CR_R_50_FPN_1x.yaml"
SHALLOW = ["MODEL.CR.STAGE_CODE", [1, 1, 1, 1], "MODEL.CR.OPERATION_CODE", [0, 0, 0, 0]]
SAVED = ("cat", "dog", "cup", "ball")
OTHER_ORDER = ("ball", "cat", "cup", "dog")
FEWER = ("hat", "cup", "cat")  # one is new, two of the saved ones are not there


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Models by name of the base, names of the classes, and seed; as they come from Detectron2."""
    models = {}

    def build(base, names, seed=0, **changes):
        key = (base, names, seed, str(changes))
        if key not in models:
            path = tmp_path_factory.mktemp("built") / "detector.yaml"
            where = os.path.join(configs_dir(), base)
            count = len(names)
            path.write_text(CONFIG.format(base=where, weights="", names=[], num_classes=count))
            cfg = read_config(str(path), SHALLOW)
            if "Cascade" in base:
                cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = False
            for name, value in changes.items():
                cfg.merge_from_list([f"MODEL.{name.replace('__', '.')}", value])
            torch.manual_seed(seed)
            model = build_model(cfg).eval()
            for name, tensor in model.state_dict().items():
                if name.startswith(("roi_heads.", "head.", "proposal")) and tensor.dim() > 1:
                    tensor.normal_(std=0.05)
            models[key] = model
        return copy.deepcopy(models[key])

    return build


def loaded(model, tensors):
    model.load_state_dict(tensors)
    return model


def state_of(model, tensors):
    """The model's state with these tensors in it."""
    return {**model.state_dict(), **tensors}


def find_objects(model, names):
    image = torch.as_tensor(load_sample_image("china.jpg")[::4, ::4].transpose(2, 0, 1).copy())
    with torch.no_grad():
        found = model([{"image": image}])[0]["instances"]
    assert len(found) > 20
    order = sorted(
        range(len(found)), key=lambda i: (-found.scores[i].item(), found.pred_classes[i])
    )
    masks = found.pred_masks.sum((1, 2)).tolist() if found.has("pred_masks") else [0] * len(found)
    return [
        (
            names[found.pred_classes[i]],
            found.scores[i].item(),
            found.pred_boxes.tensor[i].tolist(),
            masks[i],
        )
        for i in order
    ]


@pytest.mark.parametrize("base", [FASTER, MASK, CASCADE, RETINANET])
def test_the_same_classes_in_another_order_find_the_same(built, base):
    trained, fresh = built(base, SAVED), built(base, OTHER_ORDER, seed=1)
    tensors, report = match_class_rows(trained.state_dict(), SAVED, fresh, OTHER_ORDER)
    expected = find_objects(trained, SAVED)
    assert len({name for name, *_ in expected}) > 1
    found = find_objects(loaded(fresh, tensors), OTHER_ORDER)
    for one, other in zip(sorted(found), sorted(expected), strict=True):
        assert one[0] == other[0] and one[3] == other[3]
        assert one[1] == pytest.approx(other[1], rel=1e-5)
        assert one[2] == pytest.approx(other[2], rel=1e-4, abs=1e-3)
    assert find_objects(loaded(fresh, trained.state_dict()), OTHER_ORDER) != expected  # the trap
    assert report.kept == list(OTHER_ORDER) and report.new == report.unused == []
    assert "the same 4 classes in another order" in str(report)
    assert "('ball', 'cat', 'cup', 'dog')" in str(report)


def check_columns(outputs, expected, fresh, block=1, background=0):
    """Outputs for FEWER against those of the trained head for SAVED and of the fresh one.

    Args:
        outputs, expected, fresh: (N, classes x block + background).
    """
    for i, name in enumerate(FEWER):
        columns = slice(i * block, (i + 1) * block)
        if name in SAVED:
            j = SAVED.index(name)
            assert_close(outputs[:, columns], expected[:, j * block : (j + 1) * block])
        else:
            assert_close(outputs[:, columns], fresh[:, columns])
    if background:
        assert_close(outputs[:, -1], expected[:, -1])
        assert not torch.allclose(outputs[:, -1], fresh[:, -1])


@pytest.mark.parametrize("base", [MASK, CASCADE])
def test_rows_of_roi_heads_by_name(built, base):
    trained, fresh = built(base, SAVED), built(base, FEWER, seed=1)
    tensors, report = match_class_rows(trained.state_dict(), SAVED, fresh, FEWER)
    model = loaded(built(base, FEWER, seed=1), state_of(fresh, tensors))
    assert report.left_out == ()

    def predictors(detector):
        boxes = detector.roi_heads.box_predictor
        return list(boxes) if isinstance(boxes, nn.ModuleList) else [boxes]

    x = torch.randn(5, 16)
    for own, old, new in zip(predictors(model), predictors(trained), predictors(fresh)):
        scores, boxes = zip(*(head(x) for head in (own, old, new)))
        check_columns(*scores, background=1)
        if base == MASK:
            check_columns(*boxes, block=4)
        else:  # one box for all classes
            assert_close(boxes[0], boxes[1])
            assert boxes[0].shape == (5, 4)
    x = torch.randn(2, 16, 7, 7)
    masks = [m.roi_heads.mask_head.predictor(x) for m in (model, trained, fresh)]
    check_columns(*masks)


def check_dense_head(model, old, new, features, anchors):
    with torch.no_grad():
        own, expected, fresh = (m.head(features)[0] for m in (model, old, new))
    for a, b, c in zip(own, expected, fresh):
        assert a.shape[1] == len(FEWER) * anchors
        a, c = (permute_to_N_HWA_K(t, len(FEWER)).flatten(0, 1) for t in (a, c))
        check_columns(a, permute_to_N_HWA_K(b, len(SAVED)).flatten(0, 1), c)


def test_rows_of_retinanet_by_name(built):
    trained, fresh = built(RETINANET, SAVED), built(RETINANET, FEWER, seed=1)
    tensors, report = match_class_rows(trained.state_dict(), SAVED, fresh, FEWER)
    model = loaded(built(RETINANET, FEWER, seed=1), state_of(fresh, tensors))
    features = [torch.randn(1, 16, 4, 4) for _ in range(5)]
    # The towers are the trained ones' for both, so that the last layer alone decides.
    fresh.head.cls_subnet.load_state_dict(trained.head.cls_subnet.state_dict())
    check_dense_head(model, trained, fresh, features, anchors=3)
    assert report.kept == ["cup", "cat"] and report.left_out == ()


class ChannelsOf(nn.Module):
    """What a head is told of a backbone."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def output_shape(self):
        return {"p3": ShapeSpec(channels=self.channels, stride=8)}


def test_rows_of_fcos_by_name():
    def build(names, seed):
        torch.manual_seed(seed)
        shapes = [ShapeSpec(channels=8)]
        head = FCOSHead(input_shape=shapes, num_classes=len(names), conv_dims=[8], norm="")
        return FCOS(
            backbone=ChannelsOf(8),
            head=head,
            head_in_features=["p3"],
            num_classes=len(names),
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
        )

    trained, fresh, model = build(SAVED, 0), build(FEWER, 1), build(FEWER, 1)
    tensors, _ = match_class_rows(trained.state_dict(), SAVED, fresh, FEWER)
    loaded(model, tensors)
    fresh.head.cls_subnet.load_state_dict(trained.head.cls_subnet.state_dict())
    check_dense_head(model, trained, fresh, [torch.randn(1, 8, 4, 4)], anchors=1)


def test_rows_of_the_classifier_by_name():
    def build(names):
        return ImageClassifier(
            backbone=ChannelsOf(6), num_classes=len(names), pixel_mean=[0.0], pixel_std=[1.0]
        )

    trained, fresh = build(SAVED), build(FEWER)
    tensors, report = match_class_rows(trained.state_dict(), SAVED, fresh, FEWER)
    x = torch.randn(5, 6)
    before = fresh.linear(x)
    check_columns(loaded(fresh, tensors).linear(x), trained.linear(x), before)
    assert report.new == ["hat"]


def test_what_is_told_of_other_classes(built):
    names = ("Dog", "ca t", "cups", "ball")
    trained, fresh = built(FASTER, SAVED), built(FASTER, names, seed=1)
    _, report = match_class_rows(trained.state_dict(), SAVED, fresh, names)
    assert (report.kept, report.new) == (["ball"], ["Dog", "ca t", "cups"])
    assert report.unused == ["cat", "dog", "cup"]
    text = str(report)
    assert "1 of 4 classes have rows of a class of the same name ('ball')" in text
    assert "taken as different: 'dog' and 'Dog', 'cat' and 'ca t', 'cup' and 'cups'" in text
    many = tuple(f"class of number {i}" for i in range(80))
    told = describe_difference(many, ("dog",))
    assert told.startswith("80 in the checkpoint, 1 in the data; in the checkpoint alone: ")
    assert "and 75 more" in told and "'class of number 5'" not in told and "'dog'" in told


def test_no_difference_to_describe():
    for saved, names in ((SAVED, OTHER_ORDER), (SAVED, ()), ((), SAVED), (SAVED, SAVED)):
        assert describe_difference(saved, names) == ""


@pytest.mark.parametrize("saved, names", [((), SAVED), (SAVED, ()), ((), ()), (SAVED, SAVED)])
def test_same_or_unknown_names_of_as_many_classes(built, saved, names):
    trained, fresh = built(MASK, SAVED), built(MASK, SAVED, seed=1)
    tensors, report = match_class_rows(trained.state_dict(), saved, fresh, names)
    assert all(torch.equal(t, tensors[name]) for name, t in trained.state_dict().items())
    assert tensors.keys() == trained.state_dict().keys()
    assert ("not known" in str(report)) == (() in (saved, names))
    assert str(report) == "" if saved == names != () else str(report)


def test_unknown_names_of_another_number_of_classes(built):
    trained, fresh = built(CASCADE, SAVED), built(CASCADE, FEWER, seed=1)
    tensors, report = match_class_rows(trained.state_dict(), (), fresh, FEWER)
    expected = {f"roi_heads.box_predictor.{i}.cls_score" for i in range(3)}
    expected |= {"roi_heads.mask_head.predictor"}
    left_out = {f"{layer}.{name}" for layer in expected for name in ("weight", "bias")}
    assert set(report.left_out) == left_out == trained.state_dict().keys() - tensors.keys()
    assert "8 tensor(s)" in str(report)


def test_one_box_for_all_classes_serves_one_class(built):
    """Which has rows of the same shape in a model that has a box for each class."""
    trained, fresh = built(CASCADE, SAVED), built(CASCADE, ("hat",), seed=1)
    tensors, report = match_class_rows(trained.state_dict(), SAVED, fresh, ("hat",))
    for i in range(3):
        name = f"roi_heads.box_predictor.{i}.bbox_pred.weight"
        assert torch.equal(tensors[name], trained.state_dict()[name])
    mask = "roi_heads.mask_head.predictor.weight"
    assert torch.equal(tensors[mask], fresh.state_dict()[mask])  # those are of other classes
    assert report.left_out == () and report.kept == []


def test_heads_that_cannot_fit_are_left_out(built):
    """Of other anchors, so that the shape is the same by chance; and of other channels."""
    trained = built(RETINANET, ("cat",), ANCHOR_GENERATOR__ASPECT_RATIOS=[[0.5, 1.0]])
    fresh = built(RETINANET, ("dog", "cat"), ANCHOR_GENERATOR__ASPECT_RATIOS=[[1.0]])
    name = "head.cls_score.weight"
    assert trained.state_dict()[name].shape == fresh.state_dict()[name].shape
    tensors, report = match_class_rows(trained.state_dict(), ("cat",), fresh, ("dog", "cat"))
    assert name not in tensors and name in report.left_out and name in str(report)

    wider = built(FASTER, SAVED, ROI_BOX_HEAD__FC_DIM=24)
    tensors, report = match_class_rows(
        wider.state_dict(), SAVED, built(FASTER, OTHER_ORDER), OTHER_ORDER
    )
    assert "roi_heads.box_predictor.cls_score.weight" not in tensors
    assert "roi_heads.box_predictor.cls_score.bias" in tensors


def test_weights_without_heads_are_not_looked_at(built):
    for base in (MASK, RETINANET):
        backbone = {
            name: tensor
            for name, tensor in built(base, SAVED).state_dict().items()
            if name.startswith("backbone.")
        }
        fresh = built(base, FEWER)
        for saved in ((), ("twice", "twice"), SAVED):
            tensors, report = match_class_rows(backbone, saved, fresh, FEWER)
            assert tensors == backbone and str(report) == ""


def test_names_that_are_there_twice(built):
    """The first "cat" is the first one, the second the second, in whatever order."""
    saved, names = ("cat", "dog", "cat", "ball"), ("ball", "cat", "cat", "dog")
    trained, fresh = built(FASTER, saved), built(FASTER, names, seed=1)
    tensors, report = match_class_rows(trained.state_dict(), saved, fresh, names)
    name = "roi_heads.box_predictor.cls_score.weight"
    rows = trained.state_dict()[name]
    assert torch.equal(tensors[name], rows[[3, 0, 2, 1, 4]])
    assert report.kept == ["ball", "cat", "cat#2", "dog"]
    assert describe_difference(saved, names) == ""
    lacking = describe_difference(saved, ("ball", "cat", "dog", "hat"))
    assert "in the checkpoint alone: 'cat#2'; in the data alone: 'hat'" in lacking


def test_names_of_another_number_than_the_models_classes(built):
    trained = built(FASTER, SAVED)
    with pytest.raises(ValueError, match="has 3 names, and roi_heads.box_.* for 4 classes"):
        match_class_rows(trained.state_dict(), SAVED, trained, FEWER)


def test_heads_of_an_unknown_kind(built):
    """Their rows cannot be found, so only the same order is safe."""

    class Scorer(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_classes = len(SAVED)
            self.score = nn.Linear(16, len(SAVED))

    model = built(FASTER, SAVED)
    model.roi_heads.box_predictor = Scorer()
    tensors = model.state_dict()
    assert match_class_rows(tensors, SAVED, model, SAVED)[0].keys() == tensors.keys()
    with pytest.raises(
        ValueError, match="roi_heads is a StandardROIHeads, of which it is not known"
    ):
        match_class_rows(tensors, SAVED, model, OTHER_ORDER)


def test_precision_and_what_is_given_stay(built):
    trained, fresh = built(FASTER, SAVED), built(FASTER, OTHER_ORDER, seed=1)
    halves = {name: tensor.half() for name, tensor in trained.state_dict().items()}
    before = copy.deepcopy(halves), copy.deepcopy(fresh.state_dict())
    tensors, _ = match_class_rows(halves, SAVED, fresh, OTHER_ORDER)
    name = "roi_heads.box_predictor.cls_score.bias"
    assert tensors[name].dtype == torch.float32
    assert tensors[name][0] == halves[name][3] and tensors[name][4] == halves[name][4]
    for states, now in zip(before, (halves, fresh.state_dict())):
        assert all(torch.equal(tensor, now[key]) for key, tensor in states.items())


def test_semantic_segmentation_has_no_rows_of_these_classes(built):
    model = built(FASTER, SAVED)
    model.sem_seg_head = nn.Conv2d(8, len(SAVED), 1)
    assert {name.partition(".")[0] for name in find_class_rows(model)} == {"roi_heads"}


def test_a_model_with_a_backbone_of_detectron2(tmp_path):
    """Which is loaded by the names of its tensors."""

    def config(names):
        cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
        settings = {**zoo_files.THIN, "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone"}
        cfg.merge_from_list([entry for item in settings.items() for entry in item])
        cfg.MODEL.DEVICE, cfg.MODEL.CLASS_NAMES = "cpu", list(names)
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(names)
        return cfg

    trained, fresh = (build_model(config(names)) for names in (SAVED, FEWER))
    CRCheckpointer(trained, str(tmp_path), config(SAVED)).save("model")
    before = copy.deepcopy(fresh.roi_heads.box_predictor.cls_score)
    CRCheckpointer(fresh, "", config(FEWER)).load(str(tmp_path / "model.pth"))
    x = torch.randn(5, 16)
    scores = [m.roi_heads.box_predictor.cls_score(x) for m in (fresh, trained)]
    check_columns(*scores, before(x), background=1)
