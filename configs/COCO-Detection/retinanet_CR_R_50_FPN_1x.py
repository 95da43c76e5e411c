"""retinanet_CR_R_50_FPN_1x.yaml for Detectron2's tools/lazyconfig_train_net.py."""

from crnas_d2 import lazy_model

from ..common.coco import dataloader
from ..common.recipe_1x import lr_multiplier, optimizer, train

model = lazy_model("CR-ResNet50", "retinanet")
optimizer.lr = 0.01
