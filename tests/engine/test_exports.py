"""crnas train --dry-run on the exports of four tools: ready, or what is to be mended."""

import os

import pytest
from exports import NAMES, write_cvat, write_label_studio, write_labelme, write_roboflow
from on_disk import edit_json

from crnas_d2.commands import train as train_command
from crnas_d2.config import read_config
from crnas_d2.data import setup_datasets

from detectron2.data import DatasetCatalog, MetadataCatalog

pytestmark = pytest.mark.usefixtures("catalogs")
WRITERS = {
    "Roboflow": write_roboflow,
    "CVAT": write_cvat,
    "Label Studio": write_label_studio,
    "labelme": write_labelme,
}


@pytest.fixture
def dry_run(tiny_config, capsys):
    """Exit code, and the lines that are printed, of a training set and a test set."""

    def run(train, test, *opts):
        entries = [["export_train", *train], ["export_val", *test]]
        args = ["--config-file", str(tiny_config), "--dry-run", *options(entries), *map(str, opts)]
        code = 0
        try:
            train_command.main(args)
        except SystemExit as end:
            code = end.code
        return code, capsys.readouterr().out.splitlines()

    return run


def options(entries):
    return [
        *("DATASETS.COCO_JSON", str(entries)),
        *("DATASETS.TRAIN", "('export_train',)", "DATASETS.TEST", "('export_val',)"),
    ]


def faults(said):
    (start,) = (i for i, line in enumerate(said) if line.startswith("To be mended"))
    return said[start + 1 :]


@pytest.mark.parametrize("tool", WRITERS)
@pytest.mark.parametrize("masks", [False, True])
def test_ready(tool, masks, tmp_path, dry_run):
    pair = [WRITERS[tool](tmp_path / part, seed=i) for i, part in enumerate(("train", "val"))]
    code, said = dry_run(*pair, "MODEL.MASK_ON", masks)
    if masks and tool != "labelme":  # boxes were drawn
        assert code == 1 and len(faults(said)) >= 12, "\n".join(said)
        assert all(any(path in fault for path, _ in pair) for fault in faults(said))
        assert "segmentation" in faults(said)[0]
    else:
        assert code == 0 and said[-1].startswith("Ready: "), "\n".join(said)


@pytest.mark.parametrize("tool", WRITERS)
def test_the_objects_that_detectron2_gets(tool, tmp_path, tiny_config):
    """Are those that were drawn, of the classes that were meant."""
    entries = [
        ["export_train", *WRITERS[tool](tmp_path / "train", seed=5)],
        ["export_val", *WRITERS[tool](tmp_path / "val", seed=6)],
    ]
    cfg = read_config(str(tiny_config), options(entries))
    setup_datasets(cfg)
    names = MetadataCatalog.get("export_train").thing_classes
    images = DatasetCatalog.get("export_train")
    assert len(images) == 6 and all(os.path.isfile(image["file_name"]) for image in images)
    found = [[names[a["category_id"]] for a in image["annotations"]] for image in images]
    assert found == [NAMES] * 6
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == len(names)


@pytest.mark.parametrize("tool, group", [("Roboflow", "shapes"), ("labelme", "_background_")])
def test_a_category_that_is_no_class(tool, group, tmp_path, dry_run, tiny_config):
    """It is named, with the key that leaves it out, and left out by that key."""
    pair = [WRITERS[tool](tmp_path / part, seed=i) for i, part in enumerate(("train", "val"))]
    code, said = dry_run(*pair)
    warnings = [line for line in said if group in line]
    assert code == 0 and warnings and all("DATASETS.LEFT_OUT_CATEGORIES" in w for w in warnings)
    left_out = ["DATASETS.LEFT_OUT_CATEGORIES", f"['{group}']"]
    code, said = dry_run(*pair, *left_out)
    assert code == 0 and not any("no box" in line for line in said)
    entries = [["export_train", *pair[0]], ["export_val", *pair[1]]]
    cfg = read_config(str(tiny_config), [*options(entries), *left_out])
    setup_datasets(cfg)
    assert cfg.MODEL.CLASS_NAMES == NAMES


def test_a_class_with_the_name_of_its_project(tmp_path, dry_run):
    """Roboflow's group and class 1 may have one name."""
    pair = [write_roboflow(tmp_path / p, seed=i, project="blue") for i, p in enumerate("ab")]
    assert dry_run(*pair)[0] == 0


def test_classes_that_one_part_of_an_export_lacks(tmp_path, dry_run):
    train, test = (write_roboflow(tmp_path / p, seed=i) for i, p in enumerate("ab"))

    def drop_red(data):
        data["categories"] = data["categories"][:2]
        data["annotations"] = [a for a in data["annotations"] if a["category_id"] < 2]

    edit_json(test[0], drop_red)
    code, said = dry_run(train, test)
    assert code == 1 and len(faults(said)) == 1
    assert "the same categories" in faults(said)[0] and test[0] in faults(said)[0]


def test_images_that_were_not_exported(tmp_path, dry_run):
    pair = [write_roboflow(tmp_path / p, seed=i) for i, p in enumerate("ab")]
    missing = sorted(name for name in os.listdir(pair[1][1]) if name.endswith(".jpg"))[:2]
    for name in missing:
        os.remove(os.path.join(pair[1][1], name))
    code, said = dry_run(*pair)
    assert code == 1 and len(faults(said)) == 2
    for name in missing:
        assert sum(name in fault for fault in faults(said)) == 1


def test_masks_of_the_brush_are_all_crowd(tmp_path, dry_run):
    pair = [write_cvat(tmp_path / p, seed=i, brush=True) for i, p in enumerate("ab")]
    code, said = dry_run(*pair)
    assert code == 1 and any(pair[0][0] in f and "iscrowd" in f for f in faults(said)), said


def test_brush_and_polygons_need_another_format_of_masks(tmp_path, dry_run):
    """Run lengths, of which the line that is to be added takes care."""
    pair = [write_cvat(tmp_path / p, seed=i, brush=True) for i, p in enumerate("ab")]

    def to_objects(data):
        for annotation in data["annotations"]:
            annotation["iscrowd"] = 0

    for json_file, _ in pair:
        edit_json(json_file, to_objects)
    assert dry_run(*pair)[0] == 0
    code, said = dry_run(*pair, "MODEL.MASK_ON", True)
    assert code == 1 and any("INPUT.MASK_FORMAT" in fault for fault in faults(said))
    line = ["MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask"]
    assert dry_run(*pair, *line)[0] == 0


def test_a_test_set_that_nobody_has_labeled(tmp_path, dry_run):
    train, test = (write_cvat(tmp_path / p, seed=i) for i, p in enumerate("ab"))
    edit_json(test[0], lambda data: data.update(annotations=[]))
    code, said = dry_run(train, test)
    assert code == 0, "\n".join(said)
    code, said = dry_run(test, train)
    assert code == 1 and any(test[0] in fault for fault in faults(said))


@pytest.mark.parametrize("size", [(0, 0), (None, None)])
@pytest.mark.parametrize("tool", ["CVAT", "Label Studio"])
def test_images_whose_size_the_tool_did_not_know(tool, size, tmp_path, dry_run):
    train, test = (WRITERS[tool](tmp_path / p, seed=i) for i, p in enumerate("ab"))

    def forget(data):
        for image in data["images"][2:4]:
            image["width"], image["height"] = size

    edit_json(train[0], forget)
    code, said = dry_run(train, test)
    assert code == 1 and len(faults(said)) == 2
    for image in (2, 3):
        number = image + (tool == "CVAT")
        assert sum(train[0] in f and f"image {number}:" in f for f in faults(said)) == 1


def test_images_elsewhere(tmp_path, dry_run):
    """Without its images, Label Studio exports paths that lead to where it has them."""
    pair = [
        write_label_studio(tmp_path / "export" / p, seed=i, folder=f"../../media/upload/{i}")
        for i, p in enumerate("ab")
    ]
    code, said = dry_run(*pair)
    assert code == 1 and all("DATASETS.IMAGES_OUTSIDE_ROOT" in fault for fault in faults(said))
    assert dry_run(*pair, "DATASETS.IMAGES_OUTSIDE_ROOT", True)[0] == 0


def test_boxes_that_were_drawn_by_a_click_or_over_the_edge(tmp_path, dry_run):
    pair = [write_label_studio(tmp_path / p, seed=i) for i, p in enumerate("ab")]

    def draw(data):
        data["annotations"][1].update(bbox=[3.0, 4.0, 0.0, 0.0], area=0.0)
        data["annotations"][3].update(bbox=[-7.5, 2.0, 20.0, 9.0], area=180.0)

    edit_json(pair[0][0], draw)
    code, said = dry_run(*pair)
    assert code == 0
    for number in (1, 3):
        assert any(pair[0][0] in line and f"annotation {number}" in line for line in said), said


def test_names_with_the_separator_of_windows(tmp_path, dry_run):
    pair = [write_labelme(tmp_path / p, seed=i) for i, p in enumerate("ab")]

    def to_windows(data):
        for image in data["images"]:
            image["file_name"] = image["file_name"].replace("/", "\\")

    edit_json(pair[0][0], to_windows)
    code, said = dry_run(*pair)
    assert code == 1 and len(faults(said)) == 6
    assert all("JPEGImages\\" in fault for fault in faults(said))


def test_lines_among_the_polygons(tmp_path, dry_run):
    """A line has two points, of which pycocotools makes no mask."""
    pair = [write_labelme(tmp_path / p, seed=i) for i, p in enumerate("ab")]

    def draw_line(data):
        data["annotations"][0]["segmentation"] = [[1.0, 2.0, 9.0, 9.0]]
        data["annotations"][2]["segmentation"].append([1.0, 2.0, 9.0, 9.0])

    edit_json(pair[0][0], draw_line)
    for masks in (False, True):
        code, said = dry_run(*pair, "MODEL.MASK_ON", masks)
        assert code == 0, "\n".join(said)
    assert any("annotation 0" in line for line in said) and any("annotation 2" in l for l in said)
