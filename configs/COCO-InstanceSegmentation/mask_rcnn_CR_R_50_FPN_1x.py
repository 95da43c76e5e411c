"""mask_rcnn_CR_R_50_FPN_1x.yaml for Detectron2's tools/lazyconfig_train_net.py."""

from ..common.coco import dataloader
from ..common.mask_rcnn_fpn import model
from ..common.recipe_1x import lr_multiplier, optimizer, train

dataloader.train.mapper.use_instance_mask = True
