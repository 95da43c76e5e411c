"""What the figures draw: positions, counts, labels and correlations against made results."""

from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from made_runs import make_classifier, make_detector, make_search
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text

import crnas_d2
from crnas_d2 import ARCHITECTURES, Architecture
from crnas_d2.analysis import PAPER_RESULTS, analyze_detector
from crnas_d2.analysis.style import render, styled
from crnas_d2.report.correlation import correlate, draw_correlations
from crnas_d2.report.plots import draw_accuracy, draw_flops, seeds_text
from crnas_d2.report.points import (
    Point,
    accuracy_points,
    check_paper_datasets,
    flops_points,
    kind_of,
    paper_accuracy_points,
    paper_flops_points,
)
from crnas_d2.report.runs import read_run, read_runs, read_stage_ranking


def coco(network):
    return f"COCO-Detection/faster_rcnn_{network}_FPN_1x.yaml"


def markers(axes):
    """x, y, form and whether it is filled, of all points."""
    return [
        (*line.get_xydata()[0], line.get_marker(), line.get_markerfacecolor() != "white")
        for line in axes.lines
        if line.get_marker() in "os^D*p"
    ]


def labels(axes):
    return [text.get_text() for text in axes.texts if isinstance(text, Annotation)]


@pytest.fixture
def detectors(tmp_path):
    """ResNet18 by two seeds, CR-ResNet18 and SCR-ResNet50 by one."""
    return read_runs(
        [
            make_detector(tmp_path / "a", 32.0, seed=1),
            make_detector(tmp_path / "b", 33.0, seed=2),
            make_detector(tmp_path / "c", 34.5, base=coco("CR_R_18")),
            make_detector(tmp_path / "d", 37.0, base=coco("SCR_R_50")),
        ]
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_kinds(name):
    assert kind_of(ARCHITECTURES[name]) == name.rpartition("-")[0]


def test_kind_of_baseline_with_dilations():
    assert kind_of(Architecture((2, 2, 2, 2), (0, 1, 0, 0, 0, 0, 0, 0))) == "CR"


def test_measured_points_of_flops(detectors):
    figure = draw_flops(flops_points(detectors), "coco_2017_val")
    (axes,) = figure.axes
    giga = {n: analyze_detector(crnas_d2.get_config(coco(n))).macs / 1e9 for n in ("R_18", "R_50")}
    assert markers(axes) == [
        (giga["R_18"], 32.5, "o", True),
        (giga["R_18"], 34.5, "^", True),
        (giga["R_50"], 37.0, "s", True),
    ]
    assert labels(axes) == ["2-2-2-2", "1-1-2-4", "1-3-5-7"]
    assert axes.get_title(loc="left") == "3 networks, each of 1 to 2 seeds; mean and range"
    assert "800x1088" in axes.get_xlabel() and "measured" in axes.get_xlabel()
    assert "coco_2017_val" in axes.get_ylabel()
    (bars,) = axes.collections  # the range of two seeds
    (path,) = bars.get_paths()
    assert path.vertices[:, 1].tolist() == [32.0, 33.0]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-1] == "filled: measured"


def test_papers_points_of_flops():
    points = paper_flops_points()
    found = {point.label: point for point in points}
    assert len(found) == 16 and all(point.in_paper for point in points)
    aps = {
        **{"MobileNetV2": 32.2, "SCR-MobileNetV2": 33.5, "CR-MobileNetV2": 33.9},
        **{"ResNet18": 32.1, "SCR-ResNet18": 33.4, "CR-ResNet18": 33.8},
        **{"ResNet50": 36.4, "SCR-ResNet50": 37.4, "CR-ResNet50": 38.3},
        **{"ResNet101": 38.6, "SCR-ResNet101": 39.5, "CR-ResNet101": 40.2},
        **{"ResNeXt50": 37.9, "SCR-ResNeXt50": 38.9},
        **{"ResNeXt101": 40.6, "SCR-ResNeXt101": 41.5},
    }
    assert {name: point.y for name, point in found.items()} == aps
    assert found["ResNet50"].x == found["CR-ResNet50"].x == pytest.approx(177.526, abs=5e-4)
    assert found["CR-MobileNetV2"].x - found["MobileNetV2"].x == pytest.approx(0.293, abs=5e-4)
    assert not any(point.y in (37.6, 39.3, 39.6, 41.0) for point in points)  # 2x and NAS-FPN


def test_papers_layer_is_told_apart(detectors):
    points = flops_points(detectors) + paper_flops_points()
    figure = draw_flops(points, "coco_2017_val")
    (axes,) = figure.axes
    drawn = markers(axes)
    assert [filled for *_, filled in drawn] == [True] * 3 + [False] * 16
    assert len(drawn) == len(points)
    styles = {line.get_linestyle() for line in axes.lines if len(line.get_xydata()) > 1}
    assert styles == {"-", ":", "--"}
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[-2:] == ["filled: measured", "hollow: paper, COCO minival (not measured here)"]


def test_paper_alone():
    figure = draw_flops(paper_flops_points(), "coco_2017_val")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "All APs are the paper's."
    assert sorted(labels(axes)) == sorted(n for n in ARCHITECTURES if "-" not in n)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "filled: measured" not in texts
    assert ElementTree.fromstring(render(figure, "svg")).tag.endswith("svg")
    assert render(figure, "svg") == render(figure, "svg")


def crowd():
    random = np.random.default_rng(0)
    return [
        Point("-".join(map(str, random.integers(1, 9, 4))), "SCR", (x,), (y,))
        for x, y in random.normal(30, 1, (25, 2)).tolist()
    ]


@pytest.mark.parametrize("make_points", [paper_flops_points, crowd])
def test_labels_overlap_nothing(make_points):
    figure = draw_flops(make_points(), "coco_2017_val")
    (axes,) = figure.axes
    with styled():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    # An annotation's extent has its line in it.
    areas = [Text.get_window_extent(t, canvas.get_renderer()) for t in axes.texts]
    assert len(areas) == len(labels(axes)) > 5
    for a, b in combinations(areas, 2):
        assert not a.overlaps(b)
    for x, y, *_ in markers(axes):
        center = axes.transData.transform((x, y))
        assert not any(area.contains(*center) for area in areas)
    for area in areas:
        assert axes.bbox.x0 <= area.x0 and area.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= area.y0 and area.y1 <= axes.bbox.y1


def test_accuracy_pairs_equal_networks(detectors, tmp_path):
    folders = [
        make_classifier(tmp_path / "r18", 70.0),
        make_classifier(tmp_path / "r18_again", 70.5, seed=2),
        make_classifier(tmp_path / "scr", 71.0, code=(1, 1, 2, 4)),
        make_classifier(
            tmp_path / "cr", 69.0, code=(1, 1, 2, 4), operations=(0, 0, 1, 0, 1, 0, 2, 1)
        ),
    ]
    classifiers = read_runs(folders)
    points, unpaired = accuracy_points(classifiers, detectors)
    assert [(p.label, p.kind, p.xs, p.ys) for p in points] == [
        ("2-2-2-2", "", (70.0, 70.5), (32.0, 33.0)),
        ("1-1-2-4", "CR", (69.0,), (34.5,)),
    ]
    assert unpaired == [classifiers[2], detectors[3]]
    figure = draw_accuracy(points, "imagenet_val", "coco_2017_val")
    (axes,) = figure.axes
    assert markers(axes) == [(70.25, 32.5, "o", True), (69.0, 34.5, "^", True)]
    assert "imagenet_val" in axes.get_xlabel() and "coco_2017_val" in axes.get_ylabel()


def test_no_pair(detectors, tmp_path):
    # The same codes as those of ResNeXt50.
    classifier = read_run(make_classifier(tmp_path / "r50", 1.0, code=(3, 4, 6, 3)))
    with pytest.raises(ValueError, match="no classifier has the .* r?.*r50 is 3-4-6-3; .*a is 2-2"):
        accuracy_points([classifier], detectors)


def test_two_recipes_of_one_classifier(detectors, tmp_path):
    classifiers = read_runs(
        [
            make_classifier(tmp_path / "short", 60.0, SOLVER={"MAX_ITER": 9}),
            make_classifier(tmp_path / "long", 70.0),
        ]
    )
    with pytest.raises(ValueError, match="short and .*long are classifiers of one network"):
        accuracy_points(classifiers, detectors)


def test_papers_points_of_accuracy():
    points = paper_accuracy_points()
    assert [(point.x, point.y) for point in points] == [(76.5, 38.3), (77.3, 40.2)]
    best = {PAPER_RESULTS[coco(n)].box_ap for n in ("CR_R_50", "CR_R_101")}
    assert {point.y for point in points} == best
    (axes,) = draw_accuracy(points, "imagenet_val", "coco_2017_val").axes
    assert [filled for *_, filled in markers(axes)] == [False, False]


def test_paper_shares_no_axis_with_other_data(detectors, tmp_path):
    check_paper_datasets(detectors)
    check_paper_datasets([])
    own = read_run(make_detector(tmp_path / "own", 1.0, test=["own_val"]))
    with pytest.raises(ValueError, match="on coco_2017_val, those of .*own on own_val"):
        check_paper_datasets([own])
    images = read_run(make_classifier(tmp_path / "images", 1.0, test=["own_images"]))
    with pytest.raises(ValueError, match="on imagenet_val, those of .*images on own_images"):
        check_paper_datasets(detectors, [images])


@pytest.mark.parametrize(
    "counts, expected",
    [
        ((1,), "1 network, each of 1 seed"),
        ((1, 1), "2 networks, each of 1 seed"),
        ((3, 3), "2 networks, each of 3 seeds; mean and range"),
        ((1, 4, 2), "3 networks, each of 1 to 4 seeds; mean and range"),
    ],
)
def test_seeds_text(counts, expected):
    assert seeds_text([Point("", "", (1.0,), (1.0,) * count) for count in counts]) == expected


CODES = [(2, 2, 3, 1), (1, 1, 2, 4), (3, 1, 1, 3), (2, 2, 2, 2), (1, 2, 3, 2), (4, 2, 1, 1)]


def kendall(xs, ys):
    """Tau b by counting."""
    pairs = list(combinations(range(len(xs)), 2))
    signs = [(np.sign(xs[i] - xs[j]), np.sign(ys[i] - ys[j])) for i, j in pairs]
    different = [sum(sign[axis] != 0 for sign in signs) for axis in (0, 1)]
    return sum(a * b for a, b in signs) / np.sqrt(np.prod(different))


def test_correlation_by_counting(tmp_path):
    scores = dict(zip(CODES, (37.0, 36.5, 36.0, 36.0, 35.5, 30.0)))
    alone = {CODES[1]: (70.0, 74.0), CODES[2]: (75.0,), CODES[3]: (71.0,), CODES[5]: (71.5,)}
    runs = [
        read_run(make_detector(tmp_path / f"{i}_{seed}", ap, seed=seed, code=code))
        for i, (code, aps) in enumerate(alone.items())
        for seed, ap in enumerate(aps)
    ]
    extra = read_run(make_detector(tmp_path / "extra", 1.0, code=(5, 1, 1, 1)))
    ranking = read_stage_ranking(make_search(tmp_path / "search", scores))
    found = correlate(ranking, [*runs, extra])
    xs, ys = [36.5, 36.0, 36.0, 30.0], [72.0, 75.0, 71.0, 71.5]
    assert [(p.label, p.x, p.y) for p in found.points] == list(
        zip(["1-1-2-4", "3-1-1-3", "2-2-2-2", "4-2-1-1"], xs, ys)
    )
    assert found.tau == pytest.approx(kendall(xs, ys)) and found.tau != 0
    assert found.unmatched == (extra,)
    assert found.choice == CODES[0]

    (axes,) = draw_correlations([found], "digits_val").axes
    assert markers(axes) == [(x, y, "o", True) for x, y in zip(xs, ys)]
    # The choice was not trained alone; its line says where it is.
    (line,) = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert line.get_xdata()[0] == 37.0
    (bars,) = axes.collections
    assert bars.get_paths()[0].vertices[:, 1].tolist() == [70.0, 74.0]
    title = axes.get_title(loc="left")
    assert f"Kendall's tau {found.tau:.2f} (p {found.p:.2f}); 4 networks, each of 1 to 2" in title
    assert "own_archval" in axes.get_xlabel() and "digits_val" in axes.get_ylabel()


def test_choice_is_marked_in_each_panel(tmp_path):
    runs = [
        read_run(make_detector(tmp_path / str(i), 70.0 + i, code=code))
        for i, code in enumerate(CODES)
    ]
    up, down = (
        read_stage_ranking(make_search(tmp_path / name, dict(zip(codes, range(6, 0, -1)))))
        for name, codes in (("up", CODES[::-1]), ("down", CODES))
    )
    correlations = [correlate(ranking, runs) for ranking in (up, down)]
    assert [found.tau for found in correlations] == [pytest.approx(1), pytest.approx(-1)]
    assert correlations[0].p == pytest.approx(2 / 720)  # 2 of 6! orders are as far from chance
    first, second = draw_correlations(correlations, "digits_val").axes
    stars = [[m[:2] for m in markers(axes) if m[2] == "*"] for axes in (first, second)]
    assert stars == [[(6, 75.0)], [(6, 70.0)]]


def test_correlation_takes_the_metric_of_the_search(tmp_path):
    runs = [
        read_run(make_detector(tmp_path / str(i), 70.0 + i, code=code))
        for i, code in enumerate(CODES[:2])
    ]
    scores = dict(zip(CODES, (2.0, 1.0)))
    found = correlate(
        read_stage_ranking(make_search(tmp_path / "a", scores, metric="bbox/AP50")), runs
    )
    assert [point.y for point in found.points] == [90.0, 91.0]
    with pytest.raises(ValueError, match="segm/AP is None"):
        correlate(read_stage_ranking(make_search(tmp_path / "b", scores, metric="segm/AP")), runs)


def test_detectors_that_do_not_correlate(tmp_path):
    ranking = read_stage_ranking(make_search(tmp_path / "search", dict.fromkeys(CODES, 1.0)))
    run = read_run(make_detector(tmp_path / "a", 1.0, code=CODES[0]))
    longer = read_run(make_detector(tmp_path / "b", 1.0, code=CODES[0], SOLVER={"MAX_ITER": 5}))
    dilated = read_run(make_detector(tmp_path / "c", 1.0, code=CODES[0], operations=[1] * 8))
    with pytest.raises(ValueError, match="search ranks 1 of the 1 stage codes .* expected two"):
        correlate(ranking, [run])
    with pytest.raises(ValueError, match="a and .*b have stage code 2-2-3-1 and differ in more"):
        correlate(ranking, [run, longer])
    with pytest.raises(ValueError, match="c has dilations"):
        correlate(ranking, [dilated])
