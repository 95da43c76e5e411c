"""Images and predictions.json of ``crnas predict``."""

import json
import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from sklearn.datasets import load_sample_image
from thin_detector import write_detector

from crnas_d2.commands import predict
from crnas_d2.config import read_config
from crnas_d2.report.drawing import class_color

from detectron2.engine import DefaultPredictor
from detectron2.structures import BitMasks, Boxes, Instances

BOXES = [[10.0, 30.0, 50.0, 80.0], [60.0, 30.0, 100.0, 70.0], [110.0, 30.0, 150.0, 60.0]]
SCORES = [0.9, 0.625, 0.25]
NAMES = ["cat", "dog", "\u732b"]
SIZE = (90, 160)


class ThreeObjects:
    """Finds the same three objects in every image, of a class each; notes its inputs."""

    class_names = NAMES
    masks = False

    def __init__(self):
        self.seen = []

    def __call__(self, bgr):
        self.seen.append(bgr)
        instances = Instances(bgr.shape[:2])
        instances.pred_boxes = Boxes(torch.tensor(BOXES))
        instances.scores = torch.tensor(SCORES)
        instances.pred_classes = torch.tensor([0, 1, 2])
        if self.masks:
            masks = torch.zeros(3, *bgr.shape[:2], dtype=torch.bool)
            for mask, box in zip(masks, BOXES):
                x0, y0, x1, y1 = map(int, box)
                mask[y0:y1, x0 : x1 - 10] = True
            instances.pred_masks = masks
        return {"instances": instances}


@pytest.fixture
def predictor(monkeypatch):
    predictor = ThreeObjects()
    monkeypatch.setattr(predict, "read_trained", lambda path, opts: (path, opts))
    monkeypatch.setattr(predict, "Predictor", lambda cfg: predictor)
    return predictor


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.full((*SIZE, 3), 60, np.uint8)
    for name in ("a.png", "deep/b.jpg"):
        os.makedirs(os.path.dirname(f"photos/{name}"), exist_ok=True)
        Image.fromarray(pixels).save(f"photos/{name}")
    return tmp_path / "photos"


def run(*arguments, output="out"):
    predict.main(["--model", "x", "--input", *arguments, "--output", output])
    return read(output)


def read(folder):
    with open(os.path.join(folder, "predictions.json"), encoding="utf-8") as f:
        return json.load(f)


def drawn(path):
    """Which of the three boxes are drawn: their color is on both of their sides, half-way down."""
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    found = []
    for index, (x0, y0, x1, y1) in enumerate(BOXES):
        color = np.multiply(class_color(index, 3), 255)
        row = image[round((y0 + y1) / 2) + 1]
        hits = np.abs(row - color).max(axis=1) < 40
        found.append(
            bool(hits[round(x0) - 1 : round(x0) + 2].any() and hits[round(x1) - 1 :].any())
        )
    return found


def test_images_keep_their_names_and_get_what_is_sure_enough(photos, predictor, capsys):
    content = run("photos")
    assert sorted(os.listdir("out")) == ["a.png", "deep", "predictions.json"]
    for name, kind in (("a.png", "PNG"), ("deep/b.jpg", "JPEG")):
        assert Image.open(f"out/{name}").format == kind
        assert Image.open(f"out/{name}").size == SIZE[::-1]
        assert drawn(f"out/{name}") == [True, True, False]
    assert len(content["annotations"]) == 4
    printed = capsys.readouterr().out
    assert "photos/a.png: 1 cat, 1 dog\n" in printed and "wrote out/predictions.json" in printed


@pytest.mark.parametrize("threshold, count", [("0", 3), ("0.25", 3), ("0.3", 2), ("0.95", 0)])
def test_threshold(photos, predictor, capsys, threshold, count):
    predict.main(
        f"--model x --input photos/a.png --output out --conf-threshold {threshold}".split()
    )
    assert drawn("out/a.png") == [i < count for i in range(3)]
    assert len(read("out")["annotations"]) == count
    assert ("photos/a.png: nothing" in capsys.readouterr().out) == (count == 0)


def test_predictions_are_a_dataset_of_coco(photos, predictor):
    run("photos")
    coco = COCO("out/predictions.json")
    assert [coco.cats[i]["name"] for i in (1, 2, 3)] == NAMES
    images = coco.loadImgs(coco.getImgIds())
    assert [image["file_name"] for image in images] == ["a.png", "deep/b.jpg"]
    assert [(image["height"], image["width"]) for image in images] == [SIZE, SIZE]
    (found,) = coco.loadAnns(coco.getAnnIds(imgIds=images[1]["id"], catIds=[2]))
    assert found["bbox"] == [60, 30, 40, 40] and found["area"] == 40 * 40
    assert found["score"] == 0.625 and found["iscrowd"] == 0 and found["id"] > 0


def test_masks_are_drawn_and_written(photos, predictor):
    run("photos/a.png")
    plain = np.asarray(Image.open("out/a.png")).astype(int)
    predictor.masks = True
    run("photos/a.png", output="masks")
    filled = np.asarray(Image.open("masks/a.png"))
    assert (plain[60, 20] == 60).all() and (filled[60, 20] != 60).any()  # inside the mask
    assert (filled[60, 45] == 60).all()  # in the box alone
    coco = COCO("masks/predictions.json")
    (found,) = coco.loadAnns(coco.getAnnIds(catIds=[1]))
    mask = coco.annToMask(found)
    assert mask.shape == SIZE and mask[30:80, 10:40].all() and mask.sum() == found["area"] == 1500


def test_the_detector_gets_bgr_turned_by_exif(photos, predictor):
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[0, 0] = [10, 20, 30]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save("turned.png", exif=exif)
    content = run("turned.png")
    (seen,) = predictor.seen
    assert seen.shape == (160, 90, 3)
    assert seen[0, -1].tolist() == [30, 20, 10]
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (90, 160)
    assert Image.open("out/turned.png").size == (90, 160)


def test_video(photos, predictor, capsys):
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 29.97, SIZE[::-1])
    for shade in (40, 60, 80, 100):
        writer.write(np.full((*SIZE, 3), shade, np.uint8))
    writer.release()
    content = run("clip.avi", "photos/a.png")
    assert sorted(os.listdir("out")) == ["a.png", "clip.mp4", "predictions.json"]
    video = cv2.VideoCapture("out/clip.mp4")
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(29.97)
    frames = []
    while (frame := video.read())[0]:
        frames.append(frame[1])
    assert [round(float(frame[2:8, 2:8].mean())) for frame in frames] == pytest.approx(
        [40, 60, 80, 100], abs=6
    )
    Image.fromarray(frames[1][:, :, ::-1]).save("frame.png")
    assert drawn("frame.png") == [True, True, False]
    images = content["images"]
    assert [image.get("frame") for image in images] == [0, 1, 2, 3, None]
    assert {image["file_name"] for image in images} == {"clip.avi", "a.png"}
    assert len(content["annotations"]) == 10
    assert "clip.avi: 4 cat, 4 dog\n" in capsys.readouterr().out


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(photos, predictor, refused):
    for name in ("0.png", "broken.mp4"):
        (photos / name).write_text("no image")
    with refused("2 faults:\n  photos/0.png: .*\n  photos/broken.mp4: "):
        run("photos")
    assert sorted(os.listdir("out")) == ["a.png", "deep", "predictions.json"]
    assert [image["file_name"] for image in read("out")["images"]] == ["a.png", "deep/b.jpg"]


def test_other_formats_become_png(photos, predictor):
    Image.open("photos/a.png").save("a.gif")
    run("a.gif")
    assert Image.open("out/a.gif.png").format == "PNG" and drawn("out/a.gif.png")[0]


def unchanged(path):
    before = path.read_bytes()
    return lambda: path.read_bytes() == before


@pytest.mark.parametrize(
    "inputs, output, message",
    [
        (["photos"], "photos", "is an input; expected another folder"),
        (["photos"], "link", "is an input"),
        (["photos/a.png", "other/a.png"], "out", "other/a.png would both become out/a.png"),
        (["photos/a.png"], "other", "other/a.png is there, and not from an earlier run"),
        (["photos/deep"], "json", "json/predictions.json is there, and not from"),
        (["clips"], "out", "would both become out/a.mp4"),
        (["absent.png"], "out", "'absent.png': there is no such file"),
    ],
)
def test_nothing_is_written_over_an_input_or_what_is_not_ours(
    photos, predictor, refused, inputs, output, message
):
    for folder in ("other", "json", "clips"):
        os.mkdir(folder)
    os.symlink("photos", "link")
    Image.open("photos/a.png").save("other/a.png")
    for name in ("json/predictions.json", "clips/a.mp4", "clips/a.avi"):
        with open(name, "w") as f:
            f.write("{}")
    same = [unchanged(path) for path in (photos / "a.png", photos / ".." / "other" / "a.png")]
    with refused(message):
        run(*inputs, output=output)
    assert all(same() for same in same) and not predictor.seen
    assert not os.path.exists("out")


def test_a_second_run_replaces_the_first_and_does_not_read_it(photos, predictor):
    run("photos", output="photos/out")
    assert len(run("photos", output="photos/out")["images"]) == 2
    predict.main(
        ["--model", "x", "--input", "photos", "--output", "photos/out", "--conf-threshold", "0"]
    )
    assert drawn("photos/out/a.png") == [True, True, True]


def test_a_run_that_was_killed_can_be_repeated(photos, predictor, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="130"):
        patch.setattr(ThreeObjects, "__call__", kill)
        run("photos")
    assert COCO("out/predictions.json").getImgIds() == []
    assert len(run("photos")["images"]) == 2


def test_a_model_of_another_kind(photos, predictor, refused, monkeypatch):
    monkeypatch.setattr(ThreeObjects, "__call__", lambda self, bgr: {"sem_seg": None})
    with refused("the model gives sem_seg; expected a detector"):
        run("photos")


def test_bad_threshold(capsys):
    with pytest.raises(SystemExit, match="2"):
        predict.main(["--model", "x", "--input", "y", "--output", "z", "--conf-threshold", "50"])
    assert "--conf-threshold is 50.0; expected a value from 0 to 1" in capsys.readouterr().err


def test_predictions_of_a_detector_are_those_of_detectron2(tmp_path):
    config = write_detector(
        tmp_path, "COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x.yaml", NAMES
    )
    image = str(tmp_path / "china.png")
    Image.fromarray(load_sample_image("china.jpg")).save(image)
    expected = DefaultPredictor(read_config(config))(cv2.imread(image))["instances"]
    output = str(tmp_path / "out")
    predict.main(
        ["--model", config, "--input", image, "--output", output, "--conf-threshold", "0.28"]
    )
    expected = expected[expected.scores >= 0.28]
    coco = COCO(os.path.join(output, "predictions.json"))
    found = coco.loadAnns(coco.getAnnIds())
    assert 3 <= len(found) == len(expected) < 100
    assert [a["score"] for a in found] == expected.scores.tolist()
    assert [a["category_id"] - 1 for a in found] == expected.pred_classes.tolist()
    boxes = np.array([a["bbox"] for a in found])
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(boxes, expected.pred_boxes.tensor, rtol=1e-6)
    masks = np.array([coco.annToMask(a) for a in found], bool)
    assert BitMasks(torch.from_numpy(masks)).tensor.equal(expected.pred_masks)


def test_without_opencv(monkeypatch, capsys):
    monkeypatch.setattr(predict, "cv2", None)
    with pytest.raises(SystemExit, match="2"):
        predict.main(["--model", "x", "--input", "y", "--output", "z"])
    assert "pip install opencv-python-headless" in capsys.readouterr().err
