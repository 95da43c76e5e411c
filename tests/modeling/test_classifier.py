"""The classifier against torchvision's, with the same weights."""

import pytest
import torch
from torchvision.models import mobilenet_v2, resnet18, resnext50_32x4d

import crnas_d2
from crnas_d2 import CRResNet
from crnas_d2.checkpoint.convert import convert
from crnas_d2.modeling import ImageClassifier

from detectron2.modeling import build_model

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PEERS = {
    "R_18": (resnet18, "fc"),
    "X_50_32x4d": (resnext50_32x4d, "fc"),
    "MNV2": (mobilenet_v2, "classifier.1"),
}


def batch_of(images, side=64, classes=10, seed=0):
    torch.manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8),
        "label": torch.randint(0, classes, (images,)),
    }


def tiny_classifier(classes=10, **options):
    torch.manual_seed(0)
    backbone = CRResNet((1, 1, 2, 1), block="basic", stem_out_channels=8, res2_out_channels=8)
    return ImageClassifier(
        backbone=backbone, num_classes=classes, pixel_mean=MEAN, pixel_std=STD, **options
    )


@pytest.mark.parametrize("network", PEERS)
def test_scores_and_loss_are_torchvisions(network):
    make, head = PEERS[network]
    torch.manual_seed(0)
    peer = make(num_classes=10)
    cfg = crnas_d2.get_config(f"ImageNet/{network}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 10
    cfg.MODEL.CLASSIFIER.DROPOUT = 0.0
    model = build_model(cfg)
    weights, _ = convert(peer.state_dict())
    model.backbone.load_state_dict(weights, strict=False)
    model.linear.load_state_dict(peer.get_submodule(head).state_dict())

    batch = batch_of(4)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    images = (batch["image"] - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(batch), peer.eval()(images), rtol=1e-4, atol=1e-5)
    if network == "MNV2":
        peer.classifier[0].p = 0.0
    loss = torch.nn.CrossEntropyLoss()(peer.train()(images), batch["label"])
    losses = model.train()(batch)
    assert list(losses) == ["loss_cls"]
    torch.testing.assert_close(losses["loss_cls"], loss, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_alone():
    model, batch = tiny_classifier(dropout=0.5), batch_of(8)
    plain = tiny_classifier()
    assert model(batch)["loss_cls"] != model(batch)["loss_cls"]
    assert plain(batch)["loss_cls"] == plain(batch)["loss_cls"]
    for network in (model, plain):
        network.load_state_dict(plain.state_dict())
        network.eval()
    assert torch.equal(model(batch), plain(batch))
    assert crnas_d2.get_config("ImageNet/MNV2.yaml").MODEL.CLASSIFIER.DROPOUT == (
        mobilenet_v2().classifier[0].p
    )


def test_classifies_the_last_feature():
    backbone = CRResNet((1, 1, 2, 1), block="basic", out_features=["res2", "res4"])
    model = ImageClassifier(backbone=backbone, num_classes=3, pixel_mean=MEAN, pixel_std=STD)
    assert model.feature == "res4"
    assert model.linear.weight.shape == (3, 256)
    assert model.eval()({"image": batch_of(2)["image"]}).shape == (2, 3)


def test_checkpoint_has_no_pixel_statistics():
    keys = tiny_classifier().state_dict()
    assert {key for key in keys if not key.startswith("backbone.")} == {
        "linear.weight",
        "linear.bias",
    }


def test_learns_a_batch_by_heart():
    model, batch = tiny_classifier(), batch_of(10)
    batch["label"] = torch.arange(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        loss = model(batch)["loss_cls"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    assert torch.equal(model.eval()(batch).argmax(1), batch["label"])
