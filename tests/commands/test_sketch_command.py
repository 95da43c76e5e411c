"""The command line of crnas sketch."""

import os
from xml.etree import ElementTree

import pytest

from crnas_d2.config import configs_dir

R_18 = os.path.join(configs_dir(), "COCO-Detection", "faster_rcnn_R_18_FPN_1x.yaml")


def test_names_and_a_found_config(tool, tmp_path, capsys):
    found = tmp_path / "final.yaml"
    found.write_text(
        f'_BASE_: "{os.path.abspath(R_18)}"\nMODEL: {{CR: {{STAGE_CODE: [1, 1, 2, 4]}}}}\n'
    )
    output = tmp_path / "new" / "sketch.svg"
    tool.main(["ResNet18", str(found), "--output", str(output)])
    svg = output.read_text()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    # Letters are paths; each text stands in a comment beside them.
    assert "<!-- ResNet18 -->" in svg
    assert f"<!-- {found} -->" in svg
    assert svg.count("<!--   8 blocks, 31.5 GMACs -->") == 2
    assert svg.count("<!-- 48.2 % -->") == 1
    assert capsys.readouterr().out == f"wrote {output}: ResNet18, {found}\n"


def test_labels(tool, tmp_path):
    output = tmp_path / "sketch.svg"
    tool.main(["MobileNetV2", R_18, "--labels", "small", "large", "--output", str(output)])
    svg = output.read_text()
    assert "<!-- small -->" in svg and "<!-- large -->" in svg
    assert "MobileNetV2" not in svg


def test_png(tool, tmp_path):
    output = tmp_path / "sketch.png"
    tool.main(["CR-ResNet50", "--output", str(output)])
    assert output.read_bytes().startswith(b"\x89PNG")


def test_unknown_name(tool, refused, tmp_path):
    output = tmp_path / "sketch.svg"
    with refused("'CR-ResNet34' is neither .* ResNet18, SCR-ResNet18, CR-"):
        tool.main(["ResNet18", "CR-ResNet34", "--output", str(output)])
    assert not output.exists()


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--output", "x.svg"], "required: NETWORK"),
        (["ResNet18"], "required: --output"),
        (["ResNet18", "--output", "x.jpg"], "expected a name that ends in .svg, .png or .pdf"),
        (
            ["ResNet18", "ResNet50", "--labels", "a", "--output", "x.svg"],
            "1 --labels for 2 networks",
        ),
    ],
)
def test_bad_command_line(tool, argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.main(argv)
    assert message in capsys.readouterr().err
