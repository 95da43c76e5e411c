"""The figure of effective receptive fields beside the anchors."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from thin_backbones import gaussian, thin_fpn

import crnas_d2
from crnas_d2.analysis.erf_figure import anchor_sizes, draw_erfs


def test_anchor_sizes():
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    shapes = thin_fpn([1, 1, 1, 1]).output_shape()
    # figure 1: "{64, 128, 256} for {p3, p4, p5}"
    assert anchor_sizes(cfg, shapes) == {4: (32,), 8: (64,), 16: (128,), 32: (256,), 64: (512,)}
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64]]
    assert anchor_sizes(cfg, shapes) == dict.fromkeys([4, 8, 16, 32, 64], (32, 64))
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.RETINANET.IN_FEATURES = ["p4"]
    assert anchor_sizes(cfg, shapes) == {16: (32, 64)}
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    assert anchor_sizes(cfg, shapes) == {}


def panels(figure):
    return [axis for axis in figure.axes if axis.get_title()]


def test_figure():
    fields = [
        {feature: gaussian(feature, stride, sigma) for feature, stride in (("p3", 8), ("p4", 16))}
        for sigma in (4.0, 6.0)
    ]
    figure = draw_erfs(dict(zip("ab", fields)), {"a": {8: (16, 32)}, "b": {16: (20,)}})
    drawn = panels(figure)
    assert [axis.get_title().split(",")[0] for axis in drawn] == [
        "p3: σ 4.0 px",
        "p4: σ 4.0 px",
        "p3: σ 6.0 px",
        "p4: σ 6.0 px",
    ]
    assert drawn[0].get_title().endswith(f"{fields[0]['p3'].share:.1%}")
    assert [axis.get_ylabel() for axis in drawn] == ["a", "", "b", ""]
    boxes = [{p.get_bbox().bounds for p in axis.patches} for axis in drawn]
    assert all(isinstance(p, Rectangle) for axis in drawn for p in axis.patches)
    assert boxes == [{(24, 24, 16, 16), (16, 16, 32, 32)}, set(), set(), {(22, 22, 20, 20)}]
    assert "anchor" in figure.texts[-1].get_text()

    image = drawn[2].images[0]
    np.testing.assert_array_equal(image.get_array(), fields[1]["p3"].map)
    rgba = image.cmap(image.norm(np.array([1.0, 0.1, 0.0101, 0.0099, 0.0])))
    assert (rgba[3:] == 1).all() and (rgba[:3] != 1).any(axis=1).all()
    luminance = rgba[:3, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(luminance) > 0.2).all()


def test_narrow_figure():
    """The same maps, one column for each network."""
    fields = {
        name: {feature: gaussian(feature, 8, sigma) for feature in ("p3", "p4")}
        for name, sigma in (("a", 4.0), ("b", 6.0))
    }
    drawn = panels(draw_erfs(fields, narrow=True))
    places = {(axis.get_title().split("\n")[0]): axis.get_subplotspec() for axis in drawn}
    rows_and_columns = {name: (s.rowspan.start, s.colspan.start) for name, s in places.items()}
    assert rows_and_columns == {"a, p3": (0, 0), "a, p4": (1, 0), "b, p3": (0, 1), "b, p4": (1, 1)}
    maps = {axis.get_title().split("\n")[0]: axis.images[0].get_array() for axis in drawn}
    for name, erfs in fields.items():
        for feature, erf in erfs.items():
            np.testing.assert_array_equal(maps[f"{name}, {feature}"], erf.map)


def test_long_names_are_wrapped_at_underscores():
    name = "cascade_mask_rcnn_CR_R_101_FPN_20e"
    figure = draw_erfs({name: {"c5": gaussian("c5", 32, 5.0)}})
    assert panels(figure)[0].get_ylabel() == "cascade_mask_rcnn_\nCR_R_101_FPN_20e"


def test_figure_without_anchors():
    figure = draw_erfs({"a": {"c5": gaussian("c5", 32, 5.0)}})
    assert not panels(figure)[0].patches and "anchor" not in "".join(
        text.get_text() for text in figure.texts
    )


@pytest.mark.parametrize(
    "networks, message",
    [
        ({}, "no effective receptive field"),
        ({"a": {}}, "no effective receptive field"),
        (
            {"a": {"p3": gaussian("p3", 8, 3.0)}, "b": {"p4": gaussian("p4", 16, 3.0)}},
            r"'b' has the features \['p4'\]; expected \['p3'\]",
        ),
    ],
)
def test_what_cannot_be_drawn(networks, message):
    with pytest.raises(ValueError, match=message):
        draw_erfs(networks)
