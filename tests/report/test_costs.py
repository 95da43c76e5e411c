"""The size at which test images pass through a detector, against what its mapper makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from crnas_d2.analysis import analyze_detector
from crnas_d2.config import get_config
from crnas_d2.procedure.networks import Network
from crnas_d2.report.costs import Costs, InputSize

from detectron2.data import DatasetMapper
from detectron2.modeling import build_model

COCO = "COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml"


def images(*sizes):
    return [{"height": height, "width": width} for height, width in sizes]


@pytest.mark.parametrize("height, width", [(480, 640), (640, 427), (100, 1000), (256, 256)])
@pytest.mark.parametrize("shorter, longer", [(800, 1333), (160, 160), (0, 0)])
def test_size(tmp_path, height, width, shorter, longer):
    cfg = get_config(COCO)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = shorter, longer
    size = InputSize.of(cfg, images((height, width), (height, width), (9, 9)))
    assert size.image == (height, width)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / "image.png")
    mapped = DatasetMapper(cfg, is_train=False)(
        {"file_name": str(tmp_path / "image.png"), "height": height, "width": width}
    )
    assert size.resized == tuple(mapped["image"].shape[1:])
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    mapped["image"] = mapped["image"].to("meta")
    padded = model.preprocess_image([mapped]).tensor.shape[2:]
    assert size.padded == tuple(padded)


def test_images_without_a_size():
    with pytest.raises(ValueError, match="no image with a height and a width"):
        InputSize.of(get_config(COCO), [{"file_name": "a.jpg"}])


def pair():
    found = get_config(COCO)
    found.MODEL.CR.STAGE_CODE = [1, 3, 2, 2]
    return Network("baseline", get_config(COCO)), Network("found", found)


def costs_of(networks, size):
    return Costs(networks, tuple(network.cost for network in networks), size)


def test_costs_at_both_sizes():
    networks = pair()
    costs = costs_of(networks, InputSize.of(networks[0].cfg, images((100, 200))))
    assert list(costs.by_size) == ["800 x 1088", "672 x 1344"]
    for size, (before, after) in zip(((800, 1088), (672, 1344)), costs.by_size.values()):
        assert before == analyze_detector(networks[0].cfg, size)
        assert after == analyze_detector(networks[1].cfg, size)
    assert "100 x 200, resized to 667 x 1333, padded to 672 x 1344, is the other" in costs.explain()
    tables = dict(costs.tables())
    assert list(tables) == ["GMACs, 800 x 1088", "GMACs, 672 x 1344", "M parameters"]
    for size, (before, after) in costs.by_size.items():
        *modules, total = tables[f"GMACs, {size}"]
        assert total == ("detector", before.macs / 1e9, after.macs / 1e9)
        assert [name for name, *_ in modules] == [module.name for module in before.modules]
        for i in (1, 2):
            assert sum(row[i] for row in modules) == pytest.approx(total[i])
    parameters = [network.cost.parameters / 1e6 for network in networks]
    assert tables["M parameters"][-1] == ("detector", *parameters)


def test_the_paper_s_size_is_there_once():
    networks = pair()
    costs = costs_of(networks, InputSize.of(networks[0].cfg, images((480, 640))))
    assert list(costs.by_size) == ["800 x 1088"]
    assert "480 x 640, resized to 800 x 1067, padded to 800 x 1088, is the same" in costs.explain()
    assert list(costs_of(networks, None).by_size) == ["800 x 1088"]
