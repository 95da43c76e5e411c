"""A recipe and its two datasets, for the page of datasets."""

from tiny_coco import write_tiny_coco

RECIPE = """
DATASETS:
  COCO_JSON:
    - ["own_train", "train/annotations.json", "train/images"]
    - ["own_val", "val/annotations.json", "val/images"]
  ARCHVAL:
    SIZE: 3
    DIR: "splits"
SEARCH:
  FINAL: "Small-Data/faster_rcnn_R_18_FPN.yaml"
  RECIPE:
    STAGE_SUPERNET: "Small-Data/stage_supernet_R_18_FPN.yaml"
OUTPUT_DIR: "out"
"""


def write_inspected_recipe(folder):
    """``recipe.yaml``, whose paths are relative to the folder, and the data in train and val."""
    write_tiny_coco(folder / "train", images=8, shapes=((64, 48), (40, 64)))
    write_tiny_coco(folder / "val", images=4, seed=1)
    (folder / "recipe.yaml").write_text(RECIPE)
