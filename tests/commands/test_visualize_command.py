"""The figure of crnas visualize, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_coco import write_tiny_coco

from crnas_d2.report.drawing import class_color, draw_objects

from detectron2.data import DatasetCatalog, MetadataCatalog

CONFIG = """
DATASETS:
  COCO_JSON: [["{name}", "{root}/annotations.json", "{root}/images"]]
  TRAIN: []
  TEST: ["{name}"]
"""
NAME = "shown_rectangles"


@pytest.fixture
def data(tmp_path):
    """A dataset of 5 images of 64 pixels with a red (id 3) and a blue (id 7) object each."""
    json_file = write_tiny_coco(tmp_path / "data", images=5)
    (tmp_path / "config.yaml").write_text(CONFIG.format(name=NAME, root=tmp_path / "data"))
    yield json.loads(json_file.read_text())
    if NAME in DatasetCatalog:
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


@pytest.fixture
def run(tool, data, tmp_path):
    def run(results, *options):
        (tmp_path / "results.json").write_text(json.dumps(results))
        files = {
            "--config-file": tmp_path / "config.yaml",
            "--input": tmp_path / "results.json",
            "--output": tmp_path / "figures" / "out.png",
        }
        tool.main([*(str(part) for pair in files.items() for part in pair), *options])
        return np.asarray(Image.open(files["--output"]).convert("RGB"))

    return run


def as_results(annotations, score):
    return [
        {"score": score, **{key: a[key] for key in ("image_id", "category_id", "bbox")}}
        for a in annotations
    ]


def panels(tool, figure, row, column=0):
    """Ground truth and detections of a pair in the figure."""
    top = tool.HEADER + row * (tool.PANEL + tool.CAPTION)
    left = tool.MARGIN + column * (2 * tool.PANEL + tool.GAP + tool.MARGIN)
    right = left + tool.PANEL + tool.GAP
    return [figure[top : top + tool.PANEL, x : x + tool.PANEL].astype(int) for x in (left, right)]


def colored(panel, color):
    """Pixels of the color, up to what drawing at fractions of pixels changes."""
    return np.abs(panel - np.round(np.multiply(color, 255))).max(axis=2) <= 12


def test_size_of_the_grid(tool, run, data, capsys):
    figure = run(as_results(data["annotations"], 0.9), "--max-images", "3")
    rows, columns = 2, 2
    assert figure.shape == (
        tool.HEADER + rows * (tool.PANEL + tool.CAPTION),
        columns * (2 * tool.PANEL + tool.GAP + tool.MARGIN) + tool.MARGIN,
        3,
    )
    assert f"3 of 5 images of {NAME}" in capsys.readouterr().out
    assert (figure[-(tool.PANEL + tool.CAPTION) :, -tool.PANEL :] == 255).all()  # no 4th pair


@pytest.mark.parametrize("max_images, shown", [(1, [0]), (3, [0, 2, 4]), (9, [0, 1, 2, 3, 4])])
def test_images_are_evenly_spaced(tool, run, tmp_path, max_images, shown):
    figure = run([], "--max-images", str(max_images))
    for i, index in enumerate(shown):
        detections = panels(tool, figure, *divmod(i, 2))[1]
        original = Image.open(tmp_path / "data" / "images" / f"{index + 1:04d}.png")
        enlarged = np.asarray(original.resize((tool.PANEL, tool.PANEL), Image.Resampling.NEAREST))
        assert (np.abs(detections - enlarged) > 8).any(axis=2).mean() < 0.02


def test_detections_that_equal_the_ground_truth_look_like_it(tool, run, data):
    figure = run(as_results(data["annotations"], 0.9), "--max-images", "1")
    truth, detections = panels(tool, figure, 0)
    scale = tool.PANEL / 64
    for index, annotation in enumerate(data["annotations"][:2]):
        color = class_color(index, 2)
        x, y, w, h = np.multiply(annotation["bbox"], scale)
        for panel in (truth, detections):
            # Along the middle of the box, the color is at its edges.
            xs = np.flatnonzero(colored(panel, color)[round(y + h / 2)])
            ys = np.flatnonzero(colored(panel, color)[:, round(x + w / 2)])
            ends = [x, x + w, y + h]
            assert (
                np.abs([xs.min(), xs.max(), ys[ys < y + h + 4].max()] - np.array(ends)).max() <= 4
            )
    same = (np.abs(truth - detections) <= 8).all(axis=2)
    assert 0.9 < same.mean() < 1  # a detection's label has a score besides


def test_threshold_hides_detections(tool, run, data):
    results = as_results(data["annotations"], 0.6)
    results[1]["score"] = 0.3
    first, second = class_color(0, 2), class_color(1, 2)
    shown = {}
    for threshold in ("0.2", "0.5", "0.7"):
        figure = run(results, "--max-images", "1", "--conf-threshold", threshold)
        truth, detections = panels(tool, figure, 0)
        assert colored(truth, first).any() and colored(truth, second).any()
        shown[threshold] = [bool(colored(detections, color).any()) for color in (first, second)]
    assert shown == {"0.2": [True, True], "0.5": [True, False], "0.7": [False, False]}


def test_masks_are_filled_where_the_results_have_them(tool, data, tmp_path):
    names = ["red", "blue"]
    path = str(tmp_path / "data" / "images" / "0001.png")
    square = {"bbox": [8, 8, 48, 48], "bbox_mode": 1, "category_id": 1}
    truth = {**square, "segmentation": [[8, 8, 56, 8, 56, 56, 8, 56]]}
    image = {"file_name": path, "annotations": [truth]}
    plain, _ = tool.draw_pair(image, [{**square, "score": 0.9}], names)
    filled, detected = tool.draw_pair(image, [{**truth, "score": 0.9}], names)
    middle = slice(100, 300)
    blank = draw_objects(np.asarray(Image.open(path)), [], names, tool.PANEL / 64)
    assert (plain[middle, middle] == blank[middle, middle]).all()
    assert (filled[middle, middle] == detected[middle, middle]).all()
    halfway = (blank + np.multiply(class_color(1, 2), 255)) / 2
    assert np.abs(filled[middle, middle] - halfway[middle, middle]).max() <= 2


def test_wide_image_fits_its_panel(tool, tmp_path):
    box = {"bbox": [0, 0, 1600, 30], "bbox_mode": 0, "category_id": 0, "score": 1.0}
    path = str(tmp_path / "wide.png")
    Image.fromarray(np.full((400, 1600, 3), 60, np.uint8)).save(path)
    _, drawn = tool.draw_pair({"file_name": path, "annotations": []}, [box], ["red"])
    assert drawn.shape == (tool.PANEL // 4, tool.PANEL, 3)


def test_digits_of_the_embedded_dataset_have_ten_colors():
    colors = {class_color(i, 10) for i in range(10)}
    assert len(colors) == 10 and all(max(color) == 1 for color in colors)


@pytest.mark.parametrize(
    "results, message",
    [
        ({"images": []}, "expected a list of results"),
        ([{"image_id": 1, "score": 1.0}], "expected a list of results .*bbox"),
        (
            [{"image_id": 77, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.9}],
            f"no result of an image of {NAME}.*such as 77.*such as 1",
        ),
        (
            [{"image_id": 1, "category_id": 4, "bbox": [0, 0, 9, 9], "score": 0.9}],
            "no category id 4",
        ),
    ],
)
def test_results_of_something_else_are_refused(run, refused, tmp_path, results, message):
    with refused(f"{tmp_path / 'results.json'}.*{message}"):
        run(results)
    assert not (tmp_path / "figures").exists()


def test_missing_files(tool, data, refused, tmp_path):
    files = ["--config-file", "no.yaml", "--input", "no.json", "--output", "out.png"]
    with refused("config file 'no.yaml'"):
        tool.main(files)
    with refused("no.json"):
        tool.main([files[0], str(tmp_path / "config.yaml"), *files[2:]])


def test_no_test_set(run, refused):
    with refused("DATASETS.TEST is empty"):
        run([], "DATASETS.TEST", "()")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--output", "out.jpg"], "out.jpg"),
        (["--conf-threshold", "1.5"], "1.5"),
        (["--max-images", "0"], "expected 1 or more"),
    ],
)
def test_options_out_of_range(run, capsys, options, message):
    with pytest.raises(SystemExit):
        run([], *options)
    assert message in capsys.readouterr().err


def test_an_image_of_the_data_is_never_replaced(run, data, refused, tmp_path):
    path = tmp_path / "data" / "images" / "0001.png"
    before = path.read_bytes()
    with refused(f"output {path} is read too"):
        run(as_results(data["annotations"], 1.0), "--output", str(path))
    assert path.read_bytes() == before


def test_the_detections_beside_the_weights_are_the_default(tool, data, tmp_path):
    folder = tmp_path / "run"
    (folder / "inference").mkdir(parents=True)
    detections = json.dumps(as_results(data["annotations"], 0.9))
    (folder / "inference" / "coco_instances_results.json").write_text(detections)
    figures = {}
    weights = ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
    given = ["--input", str(folder / "inference" / "coco_instances_results.json")]
    for name, options, opts in (("default", [], weights), ("given", given, [])):
        output = tmp_path / f"{name}.png"
        files = ["--config-file", str(tmp_path / "config.yaml"), "--output", str(output)]
        tool.main([*files, *options, *opts])
        figures[name] = output.read_bytes()
    assert figures["default"] == figures["given"]


def test_neither_weights_nor_detections(tool, data, tmp_path, capsys):
    files = ["--config-file", tmp_path / "config.yaml", "--output", tmp_path / "out.png"]
    with pytest.raises(SystemExit):
        tool.main(list(map(str, files)))
    assert "MODEL.WEIGHTS is empty; expected trained weights, or a file" in capsys.readouterr().err
