"""How to train: the paper's 1x recipe (section 4.1), with the iterations of ../Base-RCNN-FPN.yaml."""

import torch
from fvcore.common.param_scheduler import MultiStepParamScheduler

from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params

train = dict(
    output_dir="./output",
    # Without a default, as frozen layers must not be random: a checkpoint of train_net.py; or the
    # tensors of a safetensors file of tools/convert_weights.py, saved by
    #   torch.save(safetensors.torch.load_file("backbone.safetensors"), "backbone.pth")
    # as "train.init_checkpoint='backbone.pth?matching_heuristics=True'".
    init_checkpoint="???",
    max_iter=95279,
    amp=dict(enabled=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=3),
    eval_period=5000,
    log_period=20,
    device="cuda",
)

optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),  # Detectron2 adds the model
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
)

# Shares of the training: with another max_iter the steps move along.
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[58633, 80620], num_updates=95279
    ),
    warmup_factor=0.001,
    warmup_length=1000 / 95279,
    warmup_method="linear",
)
