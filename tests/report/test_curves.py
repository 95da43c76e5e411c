"""The curves of trainings, against what metrics.json says."""

import json
from dataclasses import replace

import pytest
from matplotlib.colors import to_hex

from crnas_d2.analysis.style import BASELINE, FOUND
from crnas_d2.config import get_config
from crnas_d2.procedure.networks import Network, Training
from crnas_d2.procedure.overview import StepOverview
from crnas_d2.report.curves import MOST_POINTS, Curves, draw_curves


def write_metrics(folder, lines):
    folder.mkdir(exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines]
    (folder / "metrics.json").write_text("".join(texts))


def step(folder, searches=False):
    return StepOverview(folder.name, str(folder), "", searches, "", "", done=True)


@pytest.fixture
def networks(tmp_path):
    """Baseline and found, each trained once."""
    cfg = get_config("Digits/faster_rcnn_R_18_FPN.yaml")
    return [
        Network(name, cfg, [Training(1, str(tmp_path / folder))])
        for name, folder in (("baseline", "baseline"), ("found", "final"))
    ]


def test_damaged_and_resumed_metrics(tmp_path):
    lines = [
        {"iteration": 19, "total_loss": 3.0},
        {"iteration": 39, "total_loss": 2.0, "bbox/AP": 1.5},
        '{"iteration": 59, "total_loss": NaN, "bbox/AP": NaN}\n',
        '{"iteration": 79, "total_loss": Infinity}\n',
        '{"iteration": 99, "total_l{"iteration": 39, "total_loss": 9.0}\n',  # torn, then resumed
        "[1, 2]\n",
        '{"total_loss": 7.0}\n',
        {"iteration": 39, "total_loss": 2.5, "bbox/AP": 1.75},  # after a resume
        {"iteration": 59, "total_loss": 1.0},
        '{"iteration": 79, "total_lo',
    ]
    write_metrics(tmp_path / "final", lines)
    curves = Curves.read("found", str(tmp_path / "final"), "bbox/AP")
    assert curves.loss == {19: 3.0, 39: 2.5, 59: 1.0}
    assert curves.metric == {39: 1.75}


def test_no_metrics_yet(tmp_path, networks):
    assert Curves.read("found", str(tmp_path), "bbox/AP").loss == {}
    assert draw_curves([step(tmp_path / "final")], networks, "bbox/AP") == []


def drawn(axes):
    """The lines of a panel as points, by color."""
    lines = (line for line in axes.get_lines() if len(line.get_xdata()))
    return {to_hex(line.get_color()).upper(): line.get_xydata().tolist() for line in lines}


def test_figures(tmp_path, networks):
    """Both networks on common axes; the trainings before the searches apart."""
    folders = [tmp_path / name for name in ("stage_supernet", "stage_search", "final", "baseline")]
    for number, folder in enumerate(folders):
        write_metrics(
            folder,
            [
                {"iteration": i, "total_loss": number + i, "bbox/AP": 10.0 * number + i}
                for i in range(3)
            ],
        )
    steps = [step(folder, searches=folder.name == "stage_search") for folder in folders]
    trained, before = draw_curves(steps, networks, "bbox/AP")
    for figure in (trained.wide, trained.narrow):
        loss, metric = figure.axes
        expected = {FOUND: [[i, 2 + i] for i in range(3)], BASELINE: [[i, 3 + i] for i in range(3)]}
        assert drawn(loss) == expected
        expected = {
            FOUND: [[i, 20 + i] for i in range(3)],
            BASELINE: [[i, 30 + i] for i in range(3)],
        }
        assert drawn(metric) == expected
    for figure in (before.wide, before.narrow):
        assert [axes.get_title() for axes in figure.axes] == ["stage supernet"]
        assert list(drawn(figure.axes[0]).values()) == [[[i, i] for i in range(3)]]


def test_a_line_for_each_seed(tmp_path, networks):
    """Of both networks, or of the baseline alone where it was found itself."""
    folders = [tmp_path / name for name in ("baseline", "baseline_2", "final", "final_2")]
    for number, folder in enumerate(folders):
        write_metrics(folder, [{"iteration": i, "total_loss": number + i} for i in range(3)])
    before, after = (
        [Training(i, str(f)) for i, f in enumerate(p)] for p in (folders[:2], folders[2:])
    )
    steps = [step(folder) for folder in folders]
    for found, lines in (
        (after, [(BASELINE, 0), (BASELINE, 1), (FOUND, 2), (FOUND, 3)]),
        (None, [(BASELINE, 0), (BASELINE, 1)]),
    ):
        trainings = [before, found] if found else [before]
        pair = [replace(network, trainings=t) for network, t in zip(networks, trainings)]
        trained, *_ = draw_curves(steps, pair, "bbox/AP")
        assert "a line for each seed" in trained.caption
        (axes,) = trained.wide.axes
        drawn_lines = [
            (to_hex(line.get_color()).upper(), line.get_ydata()[0]) for line in axes.lines
        ]
        assert drawn_lines == lines
        names = [text.get_text() for text in trained.wide.legends[0].texts]
        assert names == ["baseline", "found"][: len(pair)]
        assert trained.caption.startswith(f"Training of {' and '.join(names)}: loss")


def test_one_network_of_several_test_sets(tmp_path, networks):
    """Detectron2 writes the name of the dataset where there are several."""
    networks[0].cfg.DATASETS.TEST = ("first", "second")
    lines = [{"iteration": 9, "first/bbox/AP": 5.0, "second/bbox/AP": 6.0}]
    write_metrics(tmp_path / "final", lines)
    (chart,) = draw_curves([step(tmp_path / "final")], networks, "bbox/AP")
    (axes,) = chart.wide.axes
    assert drawn(axes) == {FOUND: [[9, 5.0]]} and "first" in chart.caption


def test_long_trainings_are_thinned(tmp_path, networks):
    lines = [{"iteration": 20 * i, "total_loss": 1.0} for i in range(5 * MOST_POINTS + 1)]
    write_metrics(tmp_path / "final", lines)
    (chart,) = draw_curves([step(tmp_path / "final")], networks, "bbox/AP")
    (points,) = drawn(chart.wide.axes[0]).values()
    assert MOST_POINTS / 2 < len(points) <= MOST_POINTS
    assert points[-1][0] == 20 * 5 * MOST_POINTS
