"""The detectors that a reallocated network is transferred to: with masks, cascaded, and on VOC."""

import glob
import os
import random
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer, inherit_subnet
from crnas_d2.config import configs_dir, get_architecture, read_config
from crnas_d2.config_files import name_in_configs
from crnas_d2.data import setup_datasets
from crnas_d2.data.digits import DigitsRecipe, generate
from crnas_d2.engine import CRTrainer

from detectron2.modeling import build_model

PUBLISHED = {name_in_configs(name): codes for name, codes in crnas_d2.ARCHITECTURES.items()}
MASK = [
    f"COCO-InstanceSegmentation/mask_rcnn_{prefix}{network}_FPN_1x.yaml"
    for network in ("R_50", "R_101", "MNV2")
    for prefix in ("", "CR_")
]
CASCADE = [f"COCO-Cascade/cascade_mask_rcnn_{n}_FPN_20e.yaml" for n in ("R_101", "CR_R_101")]
VOC = [
    f"PascalVOC-Detection/faster_rcnn_{prefix}{network}_FPN_18e.yaml"
    for network in ("R_50", "R_101")
    for prefix in ("", "CR_")
]
VOC_CLASSES = 20
EXPECTED_AP = ["AP", "AP50", "AP75"]


def faster_rcnn_of(name):
    """The Faster R-CNN on COCO with the same network."""
    network = name.split("rcnn_")[1].split("_FPN")[0]
    return crnas_d2.get_config(f"COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml")


def solver_of(cfg):
    return {key: value for key, value in cfg.SOLVER.items() if key not in ("STEPS", "MAX_ITER")}


@pytest.mark.parametrize("names", [MASK, CASCADE, VOC])
def test_every_network_of_the_paper_is_there(names):
    folder = os.path.dirname(names[0])
    files = glob.glob(f"{folder}/*_rcnn_*.yaml", root_dir=configs_dir())
    assert sorted(name for name in files if "/Base-" not in name) == sorted(names)


@pytest.mark.parametrize("name", [*MASK, *CASCADE, *VOC])
def test_network_is_that_of_the_faster_rcnn(name):
    cfg, faster = crnas_d2.get_config(name), faster_rcnn_of(name)
    network = name.split("rcnn_")[1].split("_FPN")[0]
    assert get_architecture(cfg) == PUBLISHED[network]
    for key in ("BACKBONE", "CR", "RESNETS", "FPN", "ANCHOR_GENERATOR", "PIXEL_MEAN", "PIXEL_STD"):
        assert cfg.MODEL[key] == faster.MODEL[key], key
    assert solver_of(cfg) == solver_of(faster)


@pytest.mark.parametrize("name", MASK)
def test_mask_rcnn_is_the_faster_rcnn_with_a_mask_head(name):
    cfg, faster = crnas_d2.get_config(name), faster_rcnn_of(name)
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        heads = build_model(cfg).roi_heads
        masks = heads.mask_head.layers(torch.empty(2, 256, *heads.mask_pooler.output_size))
    assert masks.shape == (2, 80, 28, 28)
    assert len(heads.mask_head.conv_norm_relus) == 4
    cfg.MODEL.DEVICE = faster.MODEL.DEVICE
    faster.MODEL.MASK_ON = True
    faster.MODEL.ROI_MASK_HEAD = cfg.MODEL.ROI_MASK_HEAD
    assert cfg == faster


@pytest.mark.parametrize("name", CASCADE)
def test_cascade_mask_rcnn(name):
    """Appendix A.4: 20 epochs, steps at 16 and 19."""
    cfg = crnas_d2.get_config(name)
    iterations_per_epoch = 117266 / cfg.SOLVER.IMS_PER_BATCH
    assert (*cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER) == tuple(
        round(epoch * iterations_per_epoch) for epoch in (16, 19, 20)
    )
    with torch.device("meta"):
        cfg.MODEL.DEVICE = "meta"
        heads = build_model(cfg).roi_heads
    assert [matcher.thresholds[1] for matcher in heads.proposal_matchers] == [0.5, 0.6, 0.7]
    assert [p.bbox_pred.out_features for p in heads.box_predictor] == [4, 4, 4]
    assert heads.mask_on
    assert cfg.DATASETS == faster_rcnn_of(name).DATASETS


@pytest.mark.parametrize("name", VOC)
def test_recipe_on_voc(name):
    """Appendix A.3: 07+12 trainval, 18 epochs, steps at 15 and 17, sides of 600 and 1000."""
    cfg = crnas_d2.get_config(name)
    assert cfg.DATASETS.TRAIN == ("voc_2007_trainval", "voc_2012_trainval")
    assert cfg.DATASETS.TEST == ("voc_2007_test",)
    iterations_per_epoch = (5011 + 11540) / cfg.SOLVER.IMS_PER_BATCH
    assert (*cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER) == tuple(
        round(epoch * iterations_per_epoch) for epoch in (15, 17, 18)
    )
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((600,), 1000)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (600, 1000)
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == VOC_CLASSES


THIN = [
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 32, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 50),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.01),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 0),
    *("DATALOADER.NUM_WORKERS", 0, "SEED", 1),
]


def train(config, *opts):
    """Train and evaluate as train_net.py does. Returns the trainer and the tensors before."""
    cfg = read_config(os.path.join(configs_dir(), config), list(opts))
    setup_datasets(cfg)
    torch.manual_seed(0)
    trainer = CRTrainer(cfg)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    return trainer, before


def assert_learned(trainer, before, losses):
    """Every loss is there and finite, and has reached the parameters of every part."""
    for loss in losses:
        assert torch.tensor(trainer.storage.history(loss).latest()).isfinite(), loss
    after = dict(trainer.model.named_parameters())
    unchanged = [name for name, p in after.items() if torch.equal(p, before[name])]
    assert unchanged == []


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory):
    """Options for a few easy scenes in the manner of the embedded dataset, and their json."""
    recipe = DigitsRecipe((4, 1), (1, 1), digit_sizes=(64, 160), max_digits=2)
    root = generate(str(tmp_path_factory.mktemp("few") / "digits"), recipe)
    json_file = f"{root}/annotations/instances_train.json"
    own = ["few_digits", json_file, f"{root}/train"]
    names = ["DATASETS.TRAIN", own[:1], "DATASETS.TEST", own[:1]]
    sides = ["INPUT.MIN_SIZE_TRAIN", (96,), "INPUT.MIN_SIZE_TEST", 96]
    return ["DATASETS.COCO_JSON", [own], *names, *sides], json_file


def test_masks_of_digits(few_digits, tmp_path):
    opts, json_file = few_digits
    short = ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 60, "SOLVER.BASE_LR", 0.05]
    own = [*short, "SOLVER.WARMUP_ITERS", 0, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)]
    trainer, before = train("Digits/mask_rcnn_CR_R_18_FPN.yaml", *opts, *own)
    losses = ["loss_mask", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"]
    assert_learned(trainer, before, losses)

    results = tmp_path / "inference" / "coco_instances_results.json"
    truth = COCO(json_file)
    scores = COCOeval(truth, truth.loadRes(str(results)), "segm")
    scores.evaluate(), scores.accumulate(), scores.summarize()
    assert list(trainer._last_eval_results) == ["bbox", "segm"]
    measured = [trainer._last_eval_results["segm"][key] for key in EXPECTED_AP]
    assert measured == pytest.approx(list(scores.stats[:3] * 100))
    assert measured[1] > 5


def test_digits_with_masks_are_those_without_and_a_mask_head():
    for network in ("R_18", "CR_R_18"):
        cfg = crnas_d2.get_config(f"Digits/mask_rcnn_{network}_FPN.yaml")
        faster = crnas_d2.get_config(f"Digits/faster_rcnn_{network}_FPN.yaml")
        faster.MODEL.MASK_ON = True
        faster.MODEL.ROI_MASK_HEAD = cfg.MODEL.ROI_MASK_HEAD
        assert cfg == faster


def test_cascade_with_masks_trains(few_digits, tmp_path):
    opts, _ = few_digits
    own = [*THIN, "INPUT.MASK_FORMAT", "bitmask", "SOLVER.MAX_ITER", 2]
    own += ["DATASETS.TEST", (), "OUTPUT_DIR", str(tmp_path)]
    trainer, before = train(CASCADE[1], *opts, *own)
    stages = [f"loss_{kind}_stage{stage}" for kind in ("cls", "box_reg") for stage in range(3)]
    assert_learned(trainer, before, [*stages, "loss_mask", "loss_rpn_cls", "loss_rpn_loc"])


@pytest.mark.parametrize("kind, masks", [("C4", True), ("DC5", False)])
def test_detectors_on_one_level_train_and_are_evaluated(few_digits, tmp_path, kind, masks):
    opts, _ = few_digits
    own = [*THIN, *opts, "MODEL.RESNETS.NORM", "BN", "SOLVER.MAX_ITER", 4]
    own += ["OUTPUT_DIR", str(tmp_path), "MODEL.MASK_ON", masks, "INPUT.MASK_FORMAT", "bitmask"]
    own += ["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"]
    own += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", -1.0]
    own += ["MODEL.ANCHOR_GENERATOR.SIZES", [[32, 64]]]
    trainer, before = train(f"COCO-Detection/faster_rcnn_CR_R_50_{kind}_1x.yaml", *own)
    losses = ["loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"]
    assert_learned(trainer, before, losses + ["loss_mask"] * masks)
    assert list(trainer._last_eval_results) == ["bbox", "segm"][: 1 + masks]
    again = CRTrainer.build_model(trainer.cfg)
    CRCheckpointer(again, "", trainer.cfg).load(str(tmp_path / "model_final.pth"))
    detections = tmp_path / "inference" / "coco_instances_results.json"
    first = detections.read_text()
    CRTrainer.test(trainer.cfg, again)
    assert detections.read_text() == first and "score" in first


@pytest.mark.parametrize("step", ["stage", "dilation"])
def test_a_supernet_trains_in_a_dc5_detector(few_digits, tmp_path, step):
    opts, _ = few_digits
    own = [*THIN, *opts, "MODEL.RESNETS.NORM", "BN", "SOLVER.MAX_ITER", 2, "DATASETS.TEST", ()]
    own += ["MODEL.BACKBONE.NAME", f"build_{step}_supernet_backbone", "OUTPUT_DIR", str(tmp_path)]
    own += ["MODEL.SUPERNET.STAGE_CHOICES", [[1, 2]] * 4]
    config = "COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml"
    trainer, before = train(config, *own)
    changed = [n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert any(name.startswith("backbone.res5.") for name in changed)
    path = str(tmp_path / "model_final.pth")
    codes = ["MODEL.CR.STAGE_CODE", [1, 2, 2, 1]] if step == "stage" else []
    cfg = read_config(os.path.join(configs_dir(), config), [*own[:-2], *codes])
    cfg.MODEL.BACKBONE.NAME = "build_cr_backbone"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = trainer.cfg.MODEL.ROI_HEADS.NUM_CLASSES
    final = CRTrainer.build_model(cfg)
    CRCheckpointer(final, "", cfg).load(path)
    saved = inherit_subnet(trainer.model.state_dict(), [1, 2, 2, 1] if codes else [0] * 16)
    assert [k for k, t in final.state_dict().items() if not torch.equal(t, saved[k])] == []


COLORS = {"cup": (200, 30, 30), "ball": (30, 30, 200)}


def write_voc(root, images):
    """Images of 80 x 60 pixels with a cup and a ball, in VOC layout, as splits train and test."""
    rng = random.Random(0)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = [f"{index:06d}" for index in range(images)]
    for split in ("train", "test"):
        (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))
    for name in names:
        image = Image.new("RGB", (80, 60), (128, 128, 128))
        text = "<annotation><size><width>80</width><height>60</height></size>"
        for index, (cls, color) in enumerate(COLORS.items()):
            x0, y0 = 40 * index + rng.randint(1, 10), rng.randint(1, 20)
            x1, y1 = x0 + rng.randint(15, 25), y0 + rng.randint(15, 30)
            ImageDraw.Draw(image).rectangle((x0 - 1, y0 - 1, x1 - 1, y1 - 1), fill=color)
            text += (
                f"<object><name>{cls}</name><pose>Left</pose><truncated>0</truncated><difficult>0"
                f"</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
                f"<ymax>{y1}</ymax></bndbox></object>"
            )
        image.save(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(text + "</annotation>")


def train_on_voc(root, classes, output, *opts):
    names = [f"{root.parent.name}_{root.name}_{split}" for split in ("train", "test")]
    dirs = [[n, str(root), s, 2007, classes] for n, s in zip(names, ("train", "test"))]
    data = ["DATASETS.VOC_DIRS", dirs, "DATASETS.TRAIN", names[:1], "DATASETS.TEST", names[1:]]
    return train(VOC[1], *THIN, *data, "OUTPUT_DIR", str(output), *opts)


def test_voc_sample(tmp_path):
    write_voc(tmp_path / "voc", images=8)
    trainer, before = train_on_voc(
        *(tmp_path / "voc", list(COLORS), tmp_path / "out"),
        *("INPUT.MIN_SIZE_TRAIN", (60,), "INPUT.MIN_SIZE_TEST", 60),
        *("SOLVER.MAX_ITER", 60, "SOLVER.BASE_LR", 0.1, "SOLVER.IMS_PER_BATCH", 4),
        *("MODEL.FPN.NORM", "BN"),  # or else it diverges at this learning rate
        *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [24], [32], [48]]),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
    )
    assert_learned(trainer, before, ["loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"])
    assert trainer.cfg.MODEL.ROI_HEADS.NUM_CLASSES == len(COLORS)
    result = trainer._last_eval_results["bbox"]
    assert list(result) == EXPECTED_AP
    assert result["AP50"] > 1


def test_voc_photographs(tmp_path):
    data = os.environ.get("CRNAS_D2_DATA")
    if not data:
        pytest.skip("CRNAS_D2_DATA does not name a folder with the dataset bccd")
    trainer, before = train_on_voc(
        *(Path(data) / "bccd" / "voc", ["RBC", "WBC", "Platelets"], tmp_path / "out"),
        *("SOLVER.MAX_ITER", 2, "INPUT.MIN_SIZE_TRAIN", (120,), "INPUT.MIN_SIZE_TEST", 120),
    )
    assert_learned(trainer, before, ["loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"])
    assert list(trainer._last_eval_results["bbox"]) == EXPECTED_AP
