"""The input of a classifier, against torchvision's preprocessing of PIL images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.models import ResNet50_Weights
from torchvision.transforms.v2 import functional as F

import crnas_d2
from crnas_d2.data.classification import ClassificationMapper


@pytest.fixture
def image(tmp_path):
    """A smooth image that tells left from right, top from bottom, and the channels apart."""
    y, x = np.mgrid[:300, :400]
    pixels = np.stack([x * 255 / 400, y * 255 / 300, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], -1)
    path = tmp_path / "image.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return str(path)


def map_image(path, **options):
    batch = ClassificationMapper(**options)({"file_name": path, "label": 3})
    assert batch["label"] == 3
    assert batch["image"].dtype == torch.uint8
    return batch["image"]


def test_evaluation_is_torchvisions(image):
    cfg = crnas_d2.get_config("ImageNet/R_50.yaml")
    batch = ClassificationMapper(cfg, is_train=False)({"file_name": image, "label": 0})
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    expected = ResNet50_Weights.IMAGENET1K_V1.transforms()(Image.open(image))
    ours = (batch["image"] - mean) / std
    assert ours.shape == (3, 224, 224)
    assert (ours - expected).abs().max() < 1.01 / min(cfg.MODEL.PIXEL_STD)


def test_training_is_torchvisions(image):
    cfg = crnas_d2.get_config("ImageNet/R_50.yaml")
    mapper = ClassificationMapper(cfg, is_train=True)
    peer = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, (0.08, 1.0), (3 / 4, 4 / 3)),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    seen = []
    for seed in range(8):
        torch.manual_seed(seed)
        ours = mapper({"file_name": image, "label": 0})["image"]
        torch.manual_seed(seed)
        expected = peer(Image.open(image))
        assert ours.is_contiguous()
        assert (ours.int() - expected.int()).abs().max() <= 1
        seen.append(expected)
    flipped = [bool(image[0, 0, 0] > image[0, 0, -1]) for image in seen]
    assert 0 < sum(flipped) < len(flipped)


@pytest.mark.parametrize("flip, axes", [("horizontal", [2]), ("vertical", [1]), ("none", [])])
def test_flips(image, flip, axes):
    """With the whole image as the crop, what is left to chance is the flip."""
    whole = F.resize(F.pil_to_tensor(Image.open(image).crop((0, 0, 300, 300))), [60, 60])
    Image.open(image).crop((0, 0, 300, 300)).save(image)
    options = dict(is_train=True, crop_size=60, scale=(1, 1), aspect_ratio=(1, 1), flip=flip)
    torch.manual_seed(0)
    seen = [map_image(image, **options).int() for _ in range(12)]
    expected = [whole.int()] + ([whole.flip(axes).int()] if axes else [])
    near = [[bool((one - peer).abs().max() <= 1) for peer in expected] for one in seen]
    assert all(sum(row) == 1 for row in near)
    assert all(any(column) for column in zip(*near))


def test_channel_order_and_gray_images(image, tmp_path):
    options = dict(is_train=False, crop_size=32, test_size=32)
    rgb = map_image(image, **options)
    assert torch.equal(map_image(image, **options, image_format="BGR"), rgb.flip(0))
    gray = str(tmp_path / "gray.png")
    Image.open(image).convert("L").save(gray)
    assert map_image(gray, **options, image_format="L").shape == (1, 32, 32)
    one, *others = map_image(gray, **options)
    assert all(torch.equal(one, other) for other in others)


def test_unreadable_image_is_named(image, tmp_path):
    content = open(image, "rb").read()
    for name, bad in (("cut.png", content[: len(content) // 2]), ("text.png", b"no image")):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(OSError, match=f"cannot read the image .*{name}"):
            map_image(str(tmp_path / name), is_train=False)
    with pytest.raises(OSError, match="cannot read the image .*gone.png"):
        map_image(str(tmp_path / "gone.png"), is_train=False)


@pytest.mark.parametrize(
    "options, expectation",
    [
        (dict(crop_size=0), "0 < crop_size"),
        (dict(crop_size=300), "crop_size <= test_size"),
        (dict(scale=(0.5, 0.2)), r"scale\[0\] <= scale\[1\]"),
        (dict(scale=(0.5,)), r"scale\[0\] <= scale\[1\]"),
        (dict(aspect_ratio=(0, 1)), r"0 < aspect_ratio\[0\]"),
        (dict(flip="diagonal"), "flip, one of .*'diagonal'"),
    ],
)
def test_options_out_of_range(options, expectation):
    with pytest.raises(ValueError, match=f"expected .*{expectation}"):
        ClassificationMapper(is_train=True, **options)
