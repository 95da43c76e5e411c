import pytest
from tiny_coco import write_tiny_coco

from crnas_d2.config import configs_dir

TINY = """
_BASE_: "{configs}/Base-RCNN-FPN.yaml"
MODEL:
  DEVICE: "cpu"
  BACKBONE: {{FREEZE_AT: 0}}
  CR: {{BLOCK: "basic", STAGE_CODE: [1, 1, 2, 1]}}
  RESNETS: {{STEM_OUT_CHANNELS: 8, RES2_OUT_CHANNELS: 8}}
  FPN: {{OUT_CHANNELS: 16}}
  ANCHOR_GENERATOR: {{SIZES: [[8], [16], [32], [64], [128]]}}
  RPN:
    PRE_NMS_TOPK_TRAIN: 40
    PRE_NMS_TOPK_TEST: 40
    POST_NMS_TOPK_TRAIN: 20
    POST_NMS_TOPK_TEST: 20
  ROI_HEADS: {{BATCH_SIZE_PER_IMAGE: 16}}
  ROI_BOX_HEAD: {{FC_DIM: 16}}
DATASETS:
  COCO_JSON:
    - ["{name}_train", "{root}/annotations.json", "{root}/images"]
    - ["{name}_val", "{root}/annotations.json", "{root}/images"]
  TRAIN: ["{name}_train"]
  TEST: ["{name}_val"]
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 2, BASE_LR: 0.01, MAX_ITER: 4, STEPS: [], WARMUP_ITERS: 1, CHECKPOINT_PERIOD: 2}}
OUTPUT_DIR: "{output}"
SEED: 1
"""


def write_tiny_config(folder):
    root = folder / "data"
    write_tiny_coco(root)
    path = folder / "tiny.yaml"
    path.write_text(
        TINY.format(
            configs=configs_dir(),
            root=root,
            output=folder / "output",
            name=f"tiny_{abs(hash(str(folder)))}",
        )
    )
    return path


@pytest.fixture
def tiny_config(tmp_path):
    """Path of a config that trains a tiny detector for 4 iterations on a tiny dataset."""
    return write_tiny_config(tmp_path)


@pytest.fixture(scope="module")
def shared_tiny_config(tmp_path_factory):
    """Such a config for all tests of a file."""
    return write_tiny_config(tmp_path_factory.mktemp("shared"))
