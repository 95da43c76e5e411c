"""Effective receptive fields against closed forms, finite differences and torch's autograd."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from thin_backbones import FEATURES, THIN, gaussian, thin_fpn
from thin_supernets import assert_same, make_final, make_supernet, randomize
from torch import nn

import crnas_d2
from crnas_d2 import CRResNet
from crnas_d2.analysis.erf import (
    ERF,
    dataset_images,
    effective_receptive_fields,
    noise_images,
    random_network,
    trained_network,
)
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.modeling.nas_fpn import NASFPN

from detectron2.data import DatasetCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

DIGITS = "Digits/faster_rcnn_CR_R_18_FPN.yaml"


class Chain(Backbone):
    """Layers in a row; the feature is "out"."""

    def __init__(self, *layers, stride=1):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.stride = stride

    def forward(self, x):
        return {"out": self.layers(x)}

    def output_shape(self):
        return {"out": ShapeSpec(channels=1, stride=self.stride)}


def uniform_convolution(dilation=1, stride=1):
    layer = nn.Conv2d(1, 1, 3, stride, padding=dilation, dilation=dilation, bias=False)
    nn.init.constant_(layer.weight, 1 / 9)
    return layer


def digits_config():
    cfg = crnas_d2.get_config(DIGITS)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def measure(model, feature, images):
    return effective_receptive_fields(model, [feature], images)[feature]


def test_of_a_convolution_is_its_kernel():
    layer = nn.Conv2d(3, 4, (3, 5), padding=(1, 2))
    erf = measure(Chain(layer), "out", noise_images(2, 16))
    kernel = layer.weight.detach().double().sum(0).abs().sum(0).numpy()
    expected = np.zeros((16, 16))
    expected[7:10, 6:11] = kernel / kernel.max()
    np.testing.assert_allclose(erf.map, expected, rtol=1e-6)


@pytest.mark.parametrize("layers, dilation", [(1, 1), (6, 1), (3, 2), (2, 5)])
def test_sigma_of_uniform_convolutions(layers, dilation):
    chain = Chain(*(uniform_convolution(dilation) for _ in range(layers)))
    erf = measure(chain, "out", torch.randn(1, 1, 40, 40))
    assert erf.sigma == pytest.approx(dilation * math.sqrt(layers * 2 / 3), rel=1e-6)
    assert erf.center == (20, 20) and erf.map[20, 20] == erf.map.max() == 1


def test_sigma_and_share_of_a_gaussian():
    erf = gaussian("p3", 8, 5.0, (100, 80))
    assert erf.sigma == pytest.approx(5.0, rel=1e-6)
    # exp(-r^2 / 2 s^2) > 0.01 within r = s sqrt(2 ln 100)
    assert erf.share == pytest.approx(math.pi * 25 * 2 * math.log(100) / 8000, rel=0.02)


def test_sigma_is_the_mean_of_two_axes_around_the_centroid():
    shifted = np.zeros((20, 30))
    shifted[3, [5, 11]] = shifted[3, 8] = 1  # variance 6 along x, 0 along y
    assert ERF("p3", 8, shifted).sigma == pytest.approx(math.sqrt(6 / 2))


@pytest.mark.parametrize("size, stride, center", [(32, 8, 16), (40, 8, 16), (28, 8, 16)])
def test_center_of_a_strided_feature(size, stride, center):
    layers = [uniform_convolution(stride=2) for _ in range(3)]
    erf = measure(Chain(*layers, stride=stride), "out", torch.randn(1, 1, size, size))
    assert erf.center == (center, center)
    for axis in (0, 1):
        weights = erf.map.sum(axis) / erf.map.sum()
        assert (weights * np.arange(size)).sum() == pytest.approx(center)


def test_against_finite_differences():
    torch.manual_seed(0)
    fpn = randomize(thin_fpn([1, 2, 1, 1], [0, 0, 2, 0, 1])).double().eval()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    bottom_up = fpn.bottom_up

    def center_of(feature, x):
        output = (bottom_up if feature == "res4" else fpn)(x)[feature][0]
        return output[:, output.shape[1] // 2, output.shape[2] // 2].sum().item()

    erfs = effective_receptive_fields(fpn, ["c4", "p3"], image)
    rng = np.random.default_rng(0)
    for name, feature in (("c4", "res4"), ("p3", "p3")):
        brightest = tuple(np.unravel_index(erfs[name].map.argmax(), (64, 64)))
        pixels = [brightest, *map(tuple, rng.integers(16, 48, (12, 2)))]
        magnitudes = []
        for y, x in pixels:
            sum_of_channels = 0
            for channel in range(3):
                step = torch.zeros_like(image)
                step[0, channel, y, x] = 1e-5
                with torch.no_grad():
                    change = center_of(feature, image + step) - center_of(feature, image - step)
                sum_of_channels += abs(change) / 2e-5
            magnitudes.append(sum_of_channels)
        found = [erfs[name].map[pixel] for pixel in pixels]
        assert np.ptp(found) > 0.3
        np.testing.assert_allclose(found, np.divide(magnitudes, magnitudes[0]), atol=1e-5)


def test_is_the_mean_over_images():
    fpn = randomize(thin_fpn([1, 1, 1, 1])).eval()
    images = noise_images(3, 64)
    images[1] *= 5
    x = images.clone().requires_grad_()
    fpn(x)["p4"][:, :, 2, 2].sum().backward()
    expected = x.grad.abs().sum((0, 1))
    expected = (expected / expected.max()).numpy()
    np.testing.assert_allclose(measure(fpn, "p4", images).map, expected, atol=1e-5)


def test_no_gradient_through_batch_statistics():
    chain = Chain(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    chain.train()
    erf = measure(chain, "out", noise_images(1, 32))
    assert (np.argwhere(erf.map > 0).min(), np.argwhere(erf.map > 0).max()) == (15, 17)


def test_mode_makes_no_difference():
    fpn = randomize(thin_fpn([1, 1, 1, 1]))
    images = noise_images(1, 64)
    in_training = effective_receptive_fields(fpn.train(), ["c3", "p3"], images)
    in_evaluation = effective_receptive_fields(fpn.eval(), ["c3", "p3"], images)
    for feature in ("c3", "p3"):
        assert (in_training[feature].map == in_evaluation[feature].map).all()


@pytest.mark.parametrize("activation_checkpoint", [False, True])
def test_leaves_the_model_as_it_was(activation_checkpoint):
    fpn = thin_fpn([1, 1, 1, 1], activation_checkpoint=activation_checkpoint).train()
    fpn.bottom_up.res3.eval()
    fpn.fpn_output2.weight.requires_grad_(False)
    fpn.fpn_output3.weight.grad = torch.ones_like(fpn.fpn_output3.weight)
    state = {name: tensor.clone() for name, tensor in fpn.state_dict().items()}
    modes = [module.training for module in fpn.modules()]
    images = noise_images(1, 64)
    kept = images.clone()
    with torch.no_grad():
        effective_receptive_fields(fpn, ["c2", "p2", "p5"], images)
    assert [module.training for module in fpn.modules()] == modes
    assert_same(fpn.state_dict(), state)
    for name, parameter in fpn.named_parameters():
        assert parameter.requires_grad == (name != "fpn_output2.weight")
        assert (parameter.grad is None) == (name != "fpn_output3.weight")
    assert (fpn.fpn_output3.weight.grad == 1).all()
    assert torch.equal(images, kept) and not images.requires_grad


def test_one_forward_pass_for_all_features_of_an_image():
    fpn = thin_fpn([1, 1, 1, 1])
    passes = []
    fpn.bottom_up.stem.register_forward_hook(lambda *_: passes.append(1))
    effective_receptive_fields(fpn, ["c2", "c5", "p2", "p6"], noise_images(2, 64))
    assert len(passes) == 2
    assert len(fpn.bottom_up._forward_hooks) == 0


@pytest.mark.parametrize("kind", ["basic", "bottleneck", "resnext", "mobilenetv2"])
def test_names_of_features(kind):
    torch.manual_seed(0)
    code = {"mobilenetv2": (1, 1, 1, 1, 2, 1, 2, 1, 1, 1)}.get(kind, (1, 2, 3, 2))
    plain = randomize(make_final("stage", kind, code))
    images = noise_images(1, 128)
    erfs = effective_receptive_fields(plain, ["c2", "c3", "c4", "c5", "res4"], images)
    assert [erf.stride for erf in erfs.values()] == [4, 8, 16, 32, 16]
    assert list(erfs) == [erf.feature for erf in erfs.values()]
    assert (erfs["c4"].map == erfs["res4"].map).all()
    assert not (erfs["c4"].map == erfs["c5"].map).all()
    pyramids = {
        "FPN": FPN(plain, FEATURES, 8, top_block=LastLevelMaxPool()),
        "NAS-FPN": NASFPN(plain, out_channels=8, num_cells=1),
    }
    for name, pyramid in pyramids.items():
        levels = {"FPN": "23456", "NAS-FPN": "34567"}[name]
        features = ["c3", "res5", *(f"p{level}" for level in levels)]
        below = effective_receptive_fields(pyramid, features, images)
        assert [erf.stride for erf in below.values()][2:] == [2 ** int(level) for level in levels]
        np.testing.assert_allclose(below["c3"].map, erfs["c3"].map, atol=1e-6)
        np.testing.assert_allclose(below["res5"].map, erfs["c5"].map, atol=1e-6)
        assert (below["p3"].share > below["c3"].share) and below["p5"].share <= 1


def test_c5_of_a_dc5_backbone_is_its_res5():
    torch.manual_seed(0)
    options = {**THIN, "out_features": ["res4", "res5"]}
    dilated = randomize(CRResNet((1, 1, 1, 2), res5_dilation=2, **options))
    plain = CRResNet((1, 1, 1, 2), **options)
    plain.load_state_dict(dilated.state_dict())
    images = noise_images(1, 256)
    erfs, plain_erfs = (
        effective_receptive_fields(model, ["c4", "c5", "res5"], images)
        for model in (dilated, plain)
    )
    assert [erf.stride for erf in erfs.values()] == [16, 16, 16]
    assert [erf.stride for erf in plain_erfs.values()] == [16, 32, 32]
    assert (erfs["c5"].map == erfs["res5"].map).all()
    assert erfs["c5"].sigma > 1.2 * erfs["c4"].sigma


def test_a_supernet_on_its_path():
    torch.manual_seed(0)
    supernet = randomize(make_supernet("stage", "basic"))
    images = noise_images(1, 64)
    with pytest.raises(RuntimeError, match="set_path"):
        measure(supernet, "c5", images)
    maps = []
    for path in [(1, 1, 2, 1), (2, 3, 4, 3)]:
        supernet.set_path(path)
        maps.append(measure(supernet, "c5", images))
    assert maps[0].sigma < maps[1].sigma


def test_reallocation_shrinks_shallow_fields_and_grows_deep_ones():
    """Against sigma of c3, c4, c5 as others measured it at 512 pixels, on other random weights."""
    images = noise_images(1, 512)
    for network, sigmas in (("R_50", [15.2, 36.2, 58.3]), ("SCR_R_50", [12.0, 32.5, 77.1])):
        cfg = crnas_d2.get_config(f"COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml")
        cfg.MODEL.DEVICE = "cpu"
        backbone = random_network(cfg, images).backbone.bottom_up
        erfs = effective_receptive_fields(backbone, ["c3", "c4", "c5"], images)
        np.testing.assert_allclose([erf.sigma for erf in erfs.values()], sigmas, rtol=0.05)


@pytest.mark.parametrize(
    "features, shape, message",
    [
        (["p3", "p9"], (1, 3, 64, 64), r"\['p9'\].*expected one or more of c2, .*res2.*p6"),
        ([], (1, 3, 64, 64), "expected one or more of c2"),
        (["p6"], (1, 3, 32, 32), "32x32 pixels; expected 64 or more"),
        (["p3"], (1, 3, 64, 80), "64x80 pixels; expected multiples of 32"),
        (["p3"], (0, 3, 64, 64), "expected .* one image or more"),
        (["p3"], (3, 64, 64), r"\(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_measured(features, shape, message):
    with pytest.raises(ValueError, match=message):
        effective_receptive_fields(thin_fpn([1, 1, 1, 1]), features, torch.zeros(shape))


@pytest.mark.parametrize("weight, largest", [(0.0, "0.0"), (math.nan, "nan")])
def test_gradient_zero_or_not_finite(weight, largest):
    layer = uniform_convolution()
    nn.init.constant_(layer.weight, weight)
    with pytest.raises(ValueError, match=f"'out': the largest gradient is {largest}"):
        measure(Chain(layer), "out", torch.ones(1, 1, 8, 8))


def test_noise_images():
    images = noise_images(3, 64, seed=1)
    assert images.shape == (3, 3, 64, 64)
    assert abs(images.mean()) < 0.02 and abs(images.std() - 1) < 0.02
    assert torch.equal(images, noise_images(3, 64, seed=1))
    assert not torch.equal(images, noise_images(3, 64, seed=2))


@pytest.mark.parametrize("count, shown", [(1, [0]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4])])
def test_dataset_images(tmp_path, catalogs, count, shown):
    rng = np.random.default_rng(0)
    stored = [rng.integers(0, 256, (20, 40, 3), np.uint8) for _ in range(5)]
    files = [str(tmp_path / f"{i}.png") for i in range(5)]
    for pixels, file in zip(stored, files):
        Image.fromarray(pixels).save(file)
    DatasetCatalog.register("erf_images", lambda: [{"file_name": file} for file in files])
    cfg = digits_config()
    cfg.INPUT.FORMAT = "BGR"
    images = dataset_images(cfg, "erf_images", count, 20)
    cropped = np.stack([stored[i][:, 10:30, ::-1] for i in shown])
    expected = (cropped - np.array(cfg.MODEL.PIXEL_MEAN)) / cfg.MODEL.PIXEL_STD
    np.testing.assert_allclose(images, expected.transpose(0, 3, 1, 2), atol=1e-5)

    resized = Image.fromarray(stored[0]).resize((80, 40), Image.Resampling.BILINEAR)
    expected = (np.asarray(resized)[:, 20:60, ::-1] - np.array(cfg.MODEL.PIXEL_MEAN)) / (
        cfg.MODEL.PIXEL_STD
    )
    found = dataset_images(cfg, "erf_images", 1, 40)[0]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


def test_dataset_absent_or_empty(catalogs):
    DatasetCatalog.register("erf_nothing", list)
    with pytest.raises(ValueError, match="'erf_nothing' is empty"):
        dataset_images(digits_config(), "erf_nothing", 1, 32)
    with pytest.raises(ValueError, match="'erf_absent' is not registered"):
        dataset_images(digits_config(), "erf_absent", 1, 32)


def test_random_network_normalizes_the_images():
    cfg = digits_config()
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    images = noise_images(2, 64)
    state = torch.get_rng_state()
    model = random_network(cfg, images, seed=3)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    outputs = {}
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 1 + 2 * 8 + 3 + 2 * 4  # stem, blocks, shortcuts, FPN
    for norm in norms:
        norm.register_forward_hook(lambda m, _, out: outputs.update({m: out.clone()}))
    with torch.no_grad():
        model.backbone(images)
    for norm in norms:
        output = outputs[norm]
        assert output.mean((0, 2, 3)).abs().max() < 1e-3
        count = output.numel() // output.shape[1]
        assert output.var((0, 2, 3), unbiased=False).mean() == pytest.approx(
            1, abs=2 / count + 0.01
        )
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 2
    assert_same(random_network(cfg, images, seed=3).state_dict(), model.state_dict())
    other = random_network(cfg, images, seed=4).backbone.bottom_up.stem.conv1.weight
    assert not torch.equal(other, model.backbone.bottom_up.stem.conv1.weight)


def test_random_mobilenetv2_has_gradients():
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_MNV2_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    images = noise_images(1, 128)
    erf = measure(random_network(cfg, images), "c5", images)
    assert erf.share > 0.1


def test_trained_network(tmp_path):
    cfg = digits_config()
    trained = randomize(random_network(cfg, noise_images(1, 64)))
    CRCheckpointer(trained, str(tmp_path), cfg).save("model_final")
    weights = str(tmp_path / "model_final.pth")
    loaded = trained_network(cfg, weights)
    assert_same(loaded.state_dict(), trained.state_dict())
    assert not loaded.training

    cfg.MODEL.CR.OPERATION_CODE = [0] * 8
    with pytest.raises(ValueError, match="another model .*\n.*MODEL.CR.OPERATION_CODE"):
        trained_network(cfg, weights)
    cfg = digits_config()
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    with pytest.raises(ValueError, match="another model .*\n.*MODEL.RESNETS.RES5_DILATION"):
        trained_network(cfg, weights)
    cfg = digits_config()
    with pytest.raises(FileNotFoundError, match="weights 'no.pth'"):
        trained_network(cfg, "no.pth")

    part = {k: v for k, v in trained.state_dict().items() if "fpn_lateral" not in k}
    torch.save({"model": part}, tmp_path / "part.pth")
    cfg.MODEL.INIT.SOURCE = "torchvision"
    with pytest.raises(ValueError, match=r"part.pth' have no values for 40 .*fpn_lateral2"):
        trained_network(cfg, str(tmp_path / "part.pth"))


def test_networks_that_train_with_sync_bn_are_measured_by_one_process():
    """torch's SyncBN would wait for the other processes, or fail on the CPU."""
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    assert cfg.MODEL.RESNETS.NORM == "SyncBN"
    cfg.MODEL.FPN.NORM = "SyncBN"
    model = random_network(cfg, noise_images(1, 64))
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
