"""faster_rcnn_CR_R_50_FPN_1x.yaml for Detectron2's tools/lazyconfig_train_net.py.

lazyconfig_train_net.py --config-file faster_rcnn_CR_R_50_FPN_1x.py --num-gpus 8 train.init_checkpoint=...
"""

from ..common.coco import dataloader
from ..common.faster_rcnn_fpn import model
from ..common.recipe_1x import lr_multiplier, optimizer, train
