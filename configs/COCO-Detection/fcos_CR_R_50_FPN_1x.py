"""Detectron2's FCOS, which YAML cannot describe, for its tools/lazyconfig_train_net.py."""

from crnas_d2 import lazy_model

from ..common.coco import dataloader
from ..common.recipe_1x import lr_multiplier, optimizer, train

model = lazy_model("CR-ResNet50", "fcos")
optimizer.lr = 0.01
