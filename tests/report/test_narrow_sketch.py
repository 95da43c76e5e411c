"""The sketch for a phone, by what stands in it."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from crnas_d2.analysis.sketch import SketchedNetwork
from crnas_d2.analysis.style import DILATION_COLORS, PALE
from crnas_d2.report.narrow_sketch import SMALLEST_NUMBERED, draw_narrow_sketches
from crnas_d2.report.themes import NARROW


@pytest.mark.parametrize("name", ["CR-ResNet50", "CR-ResNet101", "CR-MobileNetV2"])
def test_boxes_and_shares(name):
    networks = [
        SketchedNetwork.published(name.removeprefix("CR-")),
        SketchedNetwork.published(name),
    ]
    figure = draw_narrow_sketches(networks)
    (axes,) = figure.axes
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    stages = [stage for network in networks for stage in network.stages]
    assert [to_hex(box.get_facecolor()).upper() for box in boxes] == [
        PALE.upper() if dilation is None else DILATION_COLORS[dilation].upper()
        for stage in stages
        for dilation in stage.dilations or [None]
    ]
    texts = [text.get_text() for text in axes.texts]
    for network in networks:
        assert network.label in texts
    assert [text for text in texts if text.endswith(" %")] == [
        f"{100 * share:.1f} %" for network in networks for share in network.shares
    ]
    numbers = [text for text in texts if text.isdigit()]
    expected = [str(d) for stage in stages for d in stage.dilations]
    assert numbers == (expected if boxes[0].get_width() >= SMALLEST_NUMBERED else [])
    # Nothing runs into what stands to the right of it, nor out of the figure.
    figure.draw_without_rendering()
    ends = [t.get_window_extent() for t in axes.texts if t.get_text().endswith(" %")]
    to_pixels = axes.transData.transform
    assert max(to_pixels((box.get_x() + box.get_width(), 0))[0] for box in boxes) < min(
        end.x0 for end in ends
    )
    assert all(
        extent.x0 >= 0 and extent.x1 <= NARROW * figure.dpi
        for extent in (t.get_window_extent() for t in axes.texts)
    )
