"""The command line of crnas analyze, and MODEL_ZOO.md as it must be committed."""

import glob
import os
import re

import pytest

from crnas_d2.analysis import PAPER_RESULTS, PaperResult
from crnas_d2.config import configs_dir

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
R_50 = os.path.join(configs_dir(), "COCO-Detection", "faster_rcnn_R_50_FPN_1x.yaml")


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def table_of(text):
    lines = [cells(line) for line in text.splitlines() if line.startswith("|")]
    return {tuple(line[:2]): line[2:] for line in lines}


def test_table_of_one_config(tool, capsys):
    tool.main(["--config-file", R_50])
    out = capsys.readouterr().out
    table = table_of(out)
    assert table["backbone", "res3"] == ["17.826", "10.0%", "", "1.220"]
    assert table["neck", "FPN top block"] == ["0.000", "0.0%", "", "0.000"]
    assert table["RPN", "RPN head"] == ["43.023", "24.2%", "", "0.594"]
    assert table["RoI heads", "box predictor"] == ["0.411", "0.2%", "0.411", "0.411"]
    assert table["backbone", ""][:2] == ["70.899", "39.9%"]
    assert table["detector", ""][:2] == ["177.526", "100.0%"]
    assert "Image 800x1088, 1000 proposals" in out
    assert "Paper (Table 1): 192.5 GFLOPs. Counted in what we read as the paper's" in out
    assert "convention: 192.7" in out


def test_retinanet(tool, capsys):
    tool.main(["--config-file", R_50.replace("faster_rcnn", "retinanet")])
    out = capsys.readouterr().out
    table = table_of(out)
    assert table["dense head", "class subnet"] == ["72.866", "35.9%", "", "4.020"]
    assert table["detector", ""][:2] == ["202.780", "100.0%"]
    assert "\nImage 800x1088, 80 classes.\nThe paper has no numbers for this config." in out


def test_keypoints_and_pixels(tool, capsys):
    panoptic = ["MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.KEYPOINT_ON", "True"]
    tool.main(["--config-file", R_50, "--mask-rois", "50", *panoptic])
    out = capsys.readouterr().out
    table = table_of(out)
    # 8 convolutions to 512 channels on 14x14, and 4x4 weights for 17 keypoints, by hand
    per_roi = 14 * 14 * (9 * 512 * (256 + 7 * 512) + 512 * 17 * 16) / 1e6
    assert table["RoI heads", "keypoint head"][2] == f"{per_roi:.3f}"
    assert table["semantic segmentation", "semantic head"][2] == ""
    assert (
        "\nImage 800x1088, 1000 proposals, 50 keypoint RoIs, 80 classes, 54 classes of pix" in out
    )


def test_proposals_alone(tool, capsys):
    tool.main(["--config-file", R_50, "MODEL.META_ARCHITECTURE", "ProposalNetwork"])
    out = capsys.readouterr().out
    assert table_of(out)["detector", ""][0] == "163.222"  # 177.526 without box head and predictor
    assert "\nImage 800x1088.\n" in out


def test_sizes_and_config_keys(tool, capsys):
    options = ["--input-size", "400", "544", "--proposals", "10", "--mask-rois", "3"]
    keys = ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"]
    tool.main(["--config-file", R_50, *options, *keys])
    out = capsys.readouterr().out
    table = table_of(out)
    assert table["backbone", "stem"][0] == "0.532"  # 7 * 7 * 3 * 64 * 416 / 2 * 544 / 2
    assert table["RoI heads", "box head"][2] == "13.894"
    assert ("RoI heads", "mask head") in table
    assert "Image 400x544, 10 proposals, 3 mask RoIs" in out
    assert "Paper" not in out  # its numbers are for other sizes


def test_config_that_the_paper_has_not(tool, capsys, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(f'_BASE_: "{os.path.abspath(R_50)}"\n')
    tool.main(["--config-file", str(own)])
    assert "The paper has no numbers for this config." in capsys.readouterr().out


def test_config_without_printed_flops(tool, capsys):
    tool.main(["--config-file", R_50.replace("R_50", "SCR_R_50")])
    assert "Paper (Table 4): box AP 37.4, FLOPs not printed." in capsys.readouterr().out
    voc = os.path.join(configs_dir(), "PascalVOC-Detection", "faster_rcnn_CR_R_50_FPN_18e.yaml")
    tool.main(["--config-file", voc])
    assert "Paper (Table 2): box AP50 85.1, FLOPs not printed." in capsys.readouterr().out


def test_missing_config(tool, refused):
    with refused("config file 'absent.yaml': no such file"):
        tool.main(["--config-file", "absent.yaml"])


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--all", "--config-file", R_50],
        ["--all", "--proposals", "300"],
        ["--config-file", R_50, "--input-size", "800"],
    ],
)
def test_bad_command_line(tool, argv, tmp_path):
    output = tmp_path / "MODEL_ZOO.md"
    with pytest.raises(SystemExit, match="2"):
        tool.main(["--output", str(output), *argv])
    assert not output.exists()


@pytest.fixture(scope="module")
def zoo(tool, tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "MODEL_ZOO.md"
    tool.main(["--all", "--output", str(path)])
    assert os.listdir(path.parent) == ["MODEL_ZOO.md"]
    return path.read_text()


def test_model_zoo_is_up_to_date(zoo):
    with open(os.path.join(ROOT, "MODEL_ZOO.md")) as file:
        assert file.read() == zoo


def test_model_zoo_has_each_config_and_its_results(zoo):
    linked = re.findall(r"\(configs/(\S+?)\)", zoo)
    folders = ["COCO-Detection", "COCO-InstanceSegmentation", "COCO-Cascade", "PascalVOC-Detection"]
    files = [f for folder in folders for f in glob.glob(f"{folder}/*.yaml", root_dir=configs_dir())]
    assert sorted(linked) == sorted(file for file in files if "/Base-" not in file)
    assert set(PAPER_RESULTS) <= set(linked)

    tables = zoo.split("\n## ")[1:]
    assert len(tables) == len(folders)
    for table in tables:
        names = [cells(line)[0] for line in table.splitlines() if line.startswith("| ")]
        assert len(set(names)) == len(names)  # one row for all schedules of a network
    rows = [cells(line) for line in zoo.splitlines() if line.startswith("| ")]
    row = next(row for row in rows if row[0] == "faster_rcnn_CR_R_50_FPN")
    assert row[1:3] == ["1, 3, 5, 7", "0 010 00120 0102112"]
    assert row[3:5] == ["70.90", "177.53"]
    assert row[6:9] == ["192.7", "192.5", "38.3 (1x), 39.3 (2x)"]
    row = next(row for row in rows if row[0] == "faster_rcnn_SCR_X_101_32x4d_FPN")
    assert row[1:5] == ["3, 4, 15, 11", "all 0", "138.22", "244.85"]
    assert row[6:9] == ["", "", "41.5 (1x)"]
    row = next(row for row in rows if row[0] == "mask_rcnn_CR_R_101_FPN")
    assert row[6:9] == ["325.8", "325.8", "box 41.5, mask 36.7 (1x)"]
    row = next(row for row in rows if row[0] == "cascade_mask_rcnn_CR_R_101_FPN")
    assert row[6:9] == ["", "", "44.5 (20e)"]
    row = next(row for row in rows if row[0] == "faster_rcnn_CR_R_101_FPN" and "VOC" in row[-1])
    assert row[6:9] == ["", "", "AP50 86.5 (18e)"]


def test_model_zoo_says_what_is_not_measured(zoo):
    text = " ".join(zoo.split())
    assert "No trained weights are published here, and no AP below was measured" in text


def test_results_are_of_the_table_that_they_name():
    for name, row in PAPER_RESULTS.items():
        assert isinstance(row, PaperResult)
        assert (row.gflops is None) == (row.table in (2, 4, 8, 9))
        assert (row.mask_ap is not None) == (row.table == 3) == ("/mask_rcnn" in name)
        assert (row.table == 8) == ("/cascade_mask_rcnn" in name)
        assert (row.box_ap is None) == (row.box_ap50 is not None) == (row.table == 2)
        assert (row.table == 2) == name.startswith("PascalVOC")
        assert name.endswith("_2x.yaml") == (row.table == 7)
