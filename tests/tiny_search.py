"""Supernet detectors of toy size on a tiny dataset: a search over one, and a whole procedure."""

import functools
import json
import tempfile
from pathlib import Path
from random import Random

import torch
from image_folder import write_image_folder
from tiny_coco import write_tiny_coco

from crnas_d2.checkpoint import CRCheckpointer, inherit_subnet
from crnas_d2.config import configs_dir, read_config
from crnas_d2.data import setup_datasets
from crnas_d2.engine import CRTrainer
from crnas_d2.engine.loader import seed_from
from crnas_d2.engine.sync_bn import without_sync_bn

CONFIG = """
_BASE_: "{configs}/Base-RCNN-FPN.yaml"
MODEL:
  DEVICE: "cpu"
  MASK_ON: {masks}
  BACKBONE: {{NAME: "build_{step}_supernet_fpn_backbone", FREEZE_AT: 0}}
  CR: {{BLOCK: "basic", STAGE_CODE: [1, 1, 2, 1]}}
  SUPERNET: {{STAGE_CHOICES: [[1, 2], [1, 2], [1, 2, 3], [1, 2]]}}
  RESNETS: {{NORM: "BN", STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8}}
  FPN: {{OUT_CHANNELS: 16, NORM: "BN"}}
  ANCHOR_GENERATOR: {{SIZES: [[8], [16], [32], [64], [128]]}}
  RPN:
    PRE_NMS_TOPK_TRAIN: 40
    PRE_NMS_TOPK_TEST: 40
    POST_NMS_TOPK_TRAIN: 20
    POST_NMS_TOPK_TEST: 20
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 16}}
  ROI_BOX_HEAD: {{FC_DIM: 16}}
DATASETS:
  COCO_JSON: [["{name}_train", "{root}/annotations.json", "{root}/images"]]
  TRAIN: ["{name}_archtrain"]
  TEST: ["{name}_archval"]
  ARCHVAL: {{SIZE: 7, DIR: "{root}"}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 2, BASE_LR: 0.04, MAX_ITER: 200, STEPS: [], WARMUP_ITERS: 10}}
SEARCH:
  IMAGES_PER_BATCH: 2
  GROUP_SIZE: 4
  BN: {{BATCHES: 2, IMAGES_PER_BATCH: 2}}
OUTPUT_DIR: "{root}/output"
SEED: 1
"""
# Of the recipe below, in order
STEPS = [
    "stage_pretraining",
    "stage_supernet",
    "stage_search",
    "dilation_supernet",
    "operation_search",
    "baseline",
    "final",
]
RECIPE = """
VERSION: 2
DATASETS:
  COCO_JSON:
    - ["{name}_train", "{root}/annotations.json", "{root}/images"]
    - ["{name}_val", "{root}/val/annotations.json", "{root}/val/images"]
SOLVER: {{MAX_ITER: 6}}
SEARCH:
  BUDGETS: [5]
  FINAL: "final.yaml"
  RECIPE:
    STAGE_PRETRAINING: "stage_pretraining.yaml"
    STAGE_SUPERNET: "stage.yaml"
    DILATION_SUPERNET: "dilation.yaml"
OUTPUT_DIR: "{root}/output"
"""
PRETRAINING = """
_BASE_: "stage.yaml"
MODEL:
  META_ARCHITECTURE: "ImageClassifier"
  BACKBONE: {{NAME: "build_stage_supernet_backbone"}}
  RESNETS: {{OUT_FEATURES: ["res5"]}}
DATASETS:
  IMAGE_FOLDERS: [["{name}_colors", "{root}/colors"]]
  TRAIN: ["{name}_colors"]
  TEST: []
INPUT: {{CLASSIFICATION: {{CROP_SIZE: 32, TEST_SIZE: 32}}}}
SEED: 7
"""
FINAL = """
_BASE_: "dilation.yaml"
MODEL:
  BACKBONE: {{NAME: "build_cr_fpn_backbone"}}
DATASETS: {{TRAIN: ["{name}_train"], TEST: ["{name}_val"]}}
"""


def write_search_config(folder, step, masks=False, detector="faster_rcnn", share_blocks=False):
    """A config for search_net.py, and the weights that it names. Returns its path.

    Args:
        detector: of :data:`DETECTORS`.
        share_blocks: between the choices of a stage.
    """
    path, weights = folder / f"{step}.yaml", folder / f"{step}_supernet" / "model_final.pth"
    text = _write_search_data(folder, step, masks, detector, share_blocks)
    path.write_text(text.replace("MODEL:", f'MODEL:\n  WEIGHTS: "{weights}"', 1))
    weights.parent.mkdir()
    weights.write_bytes(_trained(step, masks, detector, share_blocks))
    return path


def _write_search_data(folder, step, masks, detector, share_blocks):
    """Returns the text of the config, without weights."""
    folder.mkdir(exist_ok=True)
    root = folder / "data"
    if not root.exists():
        json_file = write_tiny_coco(root, images=12, shapes=[(64, 48), (48, 64), (64, 64)])
        if masks:
            add_masks(json_file)
    name = f"tiny_{abs(hash(str(folder)))}"
    text = CONFIG.format(configs=configs_dir(), step=step, root=root, name=name, masks=masks)
    text = DETECTORS[detector](text)
    return text.replace("SUPERNET: {", f"SUPERNET: {{SHARE_BLOCKS: {share_blocks}, ")


@functools.cache
def _trained(*kind):
    """The weights of a supernet, which is trained once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "supernet.yaml")
        path.write_text(_write_search_data(Path(folder), *kind))
        cfg = load(path, "OUTPUT_DIR", folder, "DATASETS.TEST", ())
        seed_from(1)
        CRTrainer(cfg).train()
        return Path(folder, "model_final.pth").read_bytes()


def to_retinanet(text):
    """The config of a RetinaNet, from that of a Faster R-CNN or of a supernet in it.

    As in Detectron2's own configs, its learning rate is half of that: with more it diverges on some CPUs.
    """
    base = f'"{configs_dir()}/Base-RCNN-FPN.yaml"'
    return (
        text.replace(base, f'[{base}, "{configs_dir()}/Base-RetinaNet.yaml"]')
        .replace("_fpn_backbone", "_retinanet_fpn_backbone")
        .replace(
            "  ANCHOR_GENERATOR:",
            "  RETINANET: {NUM_CONVS: 1, SCORE_THRESH_TEST: 0.0}\n  ANCHOR_GENERATOR:",
        )
        .replace("[[8], [16], [32], [64], [128]]", "[[16], [32], [64], [128], [256]]")
        .replace("BASE_LR: 0.04", "BASE_LR: 0.02")
    )


def to_dc5(text):
    """The config of a Faster R-CNN on a dilated res5, likewise."""
    return (
        text.replace("Base-RCNN-FPN.yaml", "Base-RCNN-DC5.yaml")
        .replace("_fpn_backbone", "_backbone")
        .replace("[[8], [16], [32], [64], [128]]", "[[8, 16, 32, 64]]")
    )


def to_cascade_rcnn(text):
    """The config of a Cascade R-CNN, from that of a Faster R-CNN or of a supernet in it."""
    return text.replace("  ROI_HEADS: {", '  ROI_HEADS: {NAME: "CascadeROIHeads", ').replace(
        "  ROI_BOX_HEAD: {", "  ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: True, "
    )


DETECTORS = {
    "faster_rcnn": str,
    "cascade_rcnn": to_cascade_rcnn,
    "retinanet": to_retinanet,
    "dc5": to_dc5,
}


def add_masks(json_file):
    """The rectangle of each box, as a polygon."""
    data = json.loads(json_file.read_text())
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    json_file.write_text(json.dumps(data))


def load(path, *opts):
    """The config, its datasets registered."""
    cfg = read_config(str(path), list(map(str, opts)))
    setup_datasets(cfg)
    return cfg


def build(cfg):
    """The model with the weights of the config, in evaluation mode."""
    model = CRTrainer.build_model(without_sync_bn(cfg, "")).eval()
    CRCheckpointer(model, "", cfg).load(cfg.MODEL.WEIGHTS)
    return model


def build_subnet(cfg, path):
    """The detector of a path, built alone, with its weights from the supernet's file."""
    final = cfg.clone()
    neck = cfg.MODEL.BACKBONE.NAME.split("supernet")[1]
    final.MODEL.BACKBONE.NAME = f"build_cr{neck}"
    key = "STAGE_CODE" if "stage" in cfg.MODEL.BACKBONE.NAME else "OPERATION_CODE"
    final.MODEL.CR[key] = list(path)
    model = CRTrainer.build_model(final).eval()
    weights = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    model.load_state_dict(inherit_subnet(weights, path))
    return model


def some_paths(space, count, seed=0):
    """Distinct paths in no order."""
    paths = list(space)
    Random(seed).shuffle(paths)
    return paths[:count]


def write_recipe(folder, detector="faster_rcnn", relative_to=None):
    """A recipe of the whole procedure, and all that it names. Returns its path.

    Args:
        detector: of :data:`DETECTORS`.
        relative_to: folder from which the paths of the data are given; None makes them absolute.
    """
    adapt = DETECTORS[detector]
    root = folder / "data"
    write_tiny_coco(root, images=12, shapes=[(64, 48), (48, 64), (64, 64)])
    write_tiny_coco(root / "val", images=4, seed=1)
    write_image_folder(root / "colors")
    root = root.relative_to(relative_to) if relative_to else root
    name = f"procedure_{abs(hash(str(folder)))}"
    for step in ("stage", "dilation"):
        text = CONFIG.format(configs=configs_dir(), step=step, root=root, name=name, masks=False)
        (folder / f"{step}.yaml").write_text(adapt(text))
    (folder / "stage_pretraining.yaml").write_text(PRETRAINING.format(root=root, name=name))
    (folder / "final.yaml").write_text(adapt(FINAL.format(name=name)))
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(root=root, name=name))
    return path
