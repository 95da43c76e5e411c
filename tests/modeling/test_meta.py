import pytest
import torch
from torch import nn

from crnas_d2 import get_config
from crnas_d2.modeling.meta import on_meta

from detectron2.modeling import build_model


@pytest.mark.parametrize(
    "name",
    [
        "Digits/stage_supernet_R_18_FPN.yaml",
        "Digits/classifier_R_18.yaml",
        "COCO-Detection/faster_rcnn_MNV2_FPN_1x.yaml",
    ],
)
def test_a_model_has_the_tensors_that_it_has_with_values(name):
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "meta"
    with on_meta():
        ours = build_model(cfg)
    with torch.device("meta"):
        torchs = build_model(cfg)
    assert _facts(ours) == _facts(torchs)
    assert {tensor.device.type for tensor in ours.state_dict().values()} == {"meta"}


def _facts(model):
    return [
        (name, tensor.shape, tensor.dtype, tensor.requires_grad)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    ]


def test_only_tensors_without_values_are_not_drawn():
    with on_meta():
        real = torch.zeros(1000, device="cpu")
        nn.init.kaiming_uniform_(real.view(10, 100))
        assert real.std() > 0.05
        assert nn.init.normal_(torch.empty(3)).is_meta
        torch.manual_seed(0)
        drawn = torch.zeros(3, device="cpu").normal_()
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.zeros(3).normal_())
