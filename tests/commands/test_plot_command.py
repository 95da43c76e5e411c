"""The command line of crnas plot."""

from xml.etree import ElementTree

import pytest
from made_runs import make_classifier, make_detector, make_search

from crnas_d2.architecture import parse_code


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def is_svg(path):
    return ElementTree.parse(path).getroot().tag.endswith("svg")


def test_flops(tool, tmp_path, capsys):
    folders = [
        make_detector(tmp_path / "baseline", 54.5, test=["own_val"]),
        make_detector(tmp_path / "final", 55.25, test=["own_val"], code=(1, 1, 2, 4)),
    ]
    output = tmp_path / "new" / "flops.svg"
    tool.main(["flops", *folders, "--output", str(output)])
    out = capsys.readouterr().out
    assert is_svg(output)
    assert rows(out) == [
        ["network", "kind", "source, seeds", "GMACs", "AP on own_val"],
        ["2-2-2-2", "baseline", "measured, 1", "133.07", "54.50"],
        ["1-1-2-4", "stages reallocated (SCR)", "measured, 1", "133.07", "55.25"],
    ]
    assert f"wrote {output}" in out
    assert "baseline was evaluated at iteration 90000 of 95279 last." in out


def test_flops_of_the_paper_alone(tool, tmp_path, capsys):
    output = tmp_path / "flops.png"
    tool.main(["flops", "--paper", "--output", str(output)])
    table = rows(capsys.readouterr().out)[1:]
    assert len(table) == 16
    assert {row[2] for row in table} == {"paper"}
    assert output.read_bytes().startswith(b"\x89PNG")


def test_accuracy(tool, tmp_path, capsys):
    classifiers = [
        make_classifier(tmp_path / "cls", 70.0),
        make_classifier(tmp_path / "lone", 71.0, code=(1, 1, 1, 5)),
    ]
    detector = make_detector(tmp_path / "det", 32.0)
    output = tmp_path / "accuracy.svg"
    argv = ["accuracy", "--classifiers", *classifiers, "--detectors", detector, "--paper"]
    tool.main([*argv, "--output", str(output)])
    out = capsys.readouterr().out
    assert is_svg(output)
    assert [row[2:] for row in rows(out)[1:]] == [
        ["measured, 1", "70.00", "32.00"],
        ["paper", "76.50", "38.30"],
        ["paper", "77.30", "40.20"],
    ]
    assert f"Left out: {classifiers[1]} has no partner" in out


def test_correlation(tool, tmp_path, capsys):
    codes = [parse_code(text) for text in ("2-2-3-1", "1-1-2-4", "2-2-2-2")]
    searches = [
        make_search(tmp_path / name, dict(zip(order, (30.0, 20.0, 10.0))))
        for name, order in (("one", codes), ("two", codes[::-1]))
    ]
    detectors = [
        make_detector(tmp_path / f"d{i}", 70.0 - i, code=code, SOLVER={"MAX_ITER": 90000})
        for i, code in enumerate([*codes, (1, 1, 1, 5)])
    ]
    output = tmp_path / "correlation.svg"
    argv = ["correlation", "--search", *searches, "--detectors", *detectors]
    tool.main([*argv, "--output", str(output)])
    out = capsys.readouterr().out
    assert is_svg(output)
    one, two = (f"{folder}: Kendall's tau" for folder in searches)
    assert f"{one} 1.00 (p 0.333), the search's choice is 2-2-3-1" in out
    assert f"{two} -1.00 (p 0.333), the search's choice is 2-2-2-2" in out
    assert out.count(f"Left out: {detectors[3]} has a stage code that the search did not") == 2
    assert "Note:" not in out
    assert [row[3] for row in rows(out)[1:4]] == ["30.00", "20.00", "10.00"]


def test_datasets_are_not_mixed(tool, refused, tmp_path):
    folders = [make_detector(tmp_path / name, 1.0, test=[name]) for name in ("one", "two")]
    output = tmp_path / "flops.svg"
    with refused("tested on one .* two .* expected one dataset"):
        tool.main(["flops", *folders, "--output", str(output)])
    with refused("the paper's numbers are on coco_2017_val"):
        tool.main(["flops", folders[0], "--paper", "--output", str(output)])
    assert not output.exists()


def test_folder_that_is_no_run(tool, refused, tmp_path):
    with refused("config.yaml: no such file; expected the OUTPUT_DIR of a training"):
        tool.main(["flops", str(tmp_path), "--output", "x.svg"])


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "required: figure"),
        (
            ["flops", "--output", "x.svg"],
            "flops has nothing to draw; expected runs, --paper, or both",
        ),
        (["flops", "--paper"], "required: --output"),
        (["flops", "--paper", "--output", "x.jpg"], "ends in .svg, .png or .pdf"),
        (["accuracy", "--output", "x.svg"], "expected --classifiers with --detectors, --paper"),
        (
            ["accuracy", "--paper", "--detectors", "d", "--output", "x.svg"],
            "expected --classifiers with --detectors",
        ),
        (["correlation", "--search", "s", "--output", "x.svg"], "required: --detectors"),
        (
            ["correlation", "--search", "s", "--detectors", "d", "--paper", "--output", "x.svg"],
            "unrecognized arguments: --paper",
        ),
    ],
)
def test_bad_command_line(tool, argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        tool.main(argv)
    assert message in capsys.readouterr().err
