"""Datasets and their splits. Importing this registers those that need no config, reading nothing."""

from .catalog import setup_datasets
from .digits import RECIPES, register_digits
from .imagenet import register_imagenet
from .splits import register_splits

__all__ = ["register_digits", "register_imagenet", "register_splits", "setup_datasets"]

for name in RECIPES:
    register_digits(name)
register_imagenet()
# Section 4.1: 5,000 images for archval. That of digits is as large as its val set.
register_splits("coco_2017_train", size=5000)
register_splits("digits_train", size=300)
register_splits("close_digits_train", size=600)
