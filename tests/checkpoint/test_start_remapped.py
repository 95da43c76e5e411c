"""Networks of other codes, and supernets, that start from files, against the tensors in them."""

import pytest
import torch
import zoo_files
from torchvision.models import mobilenet_v2
from zoo_starts import CONFIGS, CR_R_50, assert_taken, fresh, load, thin

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer, read_seed_network, remap_backbone
from crnas_d2.checkpoint.convert import convert

from detectron2.modeling import build_model


def test_other_codes_are_refused_with_what_to_do(zoo):
    _, path = zoo("FASTER")
    todo = r"MODEL.INIT.REMAP True .* crnas remap FASTER.pkl remapped.safetensors --config-file"
    with pytest.raises(ValueError, match=rf"missing \(backbone.bottom_up.res5.3.conv1.*{todo}"):
        load(thin("FASTER", **CR_R_50), path)
    dilated = {"MODEL.CR.OPERATION_CODE": [0] * 15 + [2]}
    with pytest.raises(ValueError, match=rf"dilations \[1, 1, 1\] for \[1, 1, 3\] in res5.*{todo}"):
        load(thin("FASTER", **dilated), path)
    supernet = {"MODEL.BACKBONE.NAME": "build_dilation_supernet_fpn_backbone"}
    with pytest.raises(ValueError, match=rf"missing \(.*conv2.ops.0.weight.*{todo}"):
        load(thin("FASTER", **supernet), path)
    named = {**dilated, "MODEL.WEIGHTS": "in a folder/FASTER.pkl"}
    with pytest.raises(
        ValueError, match="crnas remap 'in a folder/FASTER.pkl' remapped.safetensors"
    ):
        load(thin("FASTER", **named), path)
    half = {"MODEL.RESNETS.RES2_OUT_CHANNELS": 8}
    with pytest.raises(ValueError, match=rf"of another shape \(.* for \(.*{todo}"):
        load(thin("FASTER", **half), path)


def test_what_remapping_does_not_mend_is_refused_without_it(zoo):
    _, path = zoo("FASTER")
    with pytest.raises(ValueError, match="of another shape") as error:
        load(thin("FASTER", **{"MODEL.RESNETS.RES2_OUT_CHANNELS": 32}), path)
    assert "REMAP" not in str(error.value)
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_MNV2_FPN_1x.yaml")
    cfg.MODEL.DEVICE = "cpu"
    with pytest.raises(ValueError, match="FASTER.pkl are of a resnet; .* of another family"):
        load(cfg, path)
    cfg.MODEL.INIT.REMAP = True
    with pytest.raises(
        ValueError, match="the seed network is a resnet .* the target is a mobilene"
    ):
        load(cfg, path)


@pytest.mark.parametrize("network", CONFIGS)
def test_a_reallocated_detector_has_the_heads_of_the_zoos(zoo, log, network):
    expected, path = zoo(network)
    codes = CR_R_50 if network != "X_101" else {"MODEL.CR.STAGE_CODE": [2, 4, 15, 12]}
    cfg = thin(network, **codes, **{"MODEL.INIT.REMAP": True})
    model = fresh(cfg)
    remapped, report = remap_backbone(read_seed_network(str(path)).weights, model)
    assert report.changes()
    found = load(cfg, path).state_dict()
    for key, tensor in remapped.items():
        place = "bottom_up." if "bottom_up" in "".join(found) else ""
        place = "roi_heads." if network == "C4" and key.startswith("res5.") else f"backbone.{place}"
        assert torch.equal(found[place + key], tensor), key
    others = {
        k: t
        for k, t in expected.items()
        if ".bottom_up." not in k and ".res" not in k and ".stem" not in k
    }
    assert len(others) >= 8
    assert_taken(found, others)
    assert f"{network}.pkl is remapped; not as they were: res2 (shortened)" in log.text
    assert "would freeze" not in log.text


def test_remapping_on_load_follows_its_keys(zoo, log):
    _, path = zoo("FASTER")
    keys = {
        "MODEL.INIT.REMAP": True,
        "MODEL.INIT.FUNCTION_PRESERVING": True,
        "MODEL.INIT.INTERPOLATE_DILATED": True,
    }
    cfg = thin("FASTER", **CR_R_50, **keys, **{"MODEL.BACKBONE.FREEZE_AT": 2})
    expected, _ = remap_backbone(read_seed_network(str(path)).weights, fresh(cfg), True, True)
    assert_taken(load(cfg, path).backbone.bottom_up.state_dict(), expected)
    assert "MODEL.BACKBONE.FREEZE_AT 2 would freeze" in log.text
    assert "Train with\nMODEL.BACKBONE.FREEZE_AT 1" in log.text


def test_with_the_same_codes_nothing_is_remapped(tmp_path, log):
    """A second remap would repeat and interpolate what a training has made of the first."""
    cfg = thin(
        "FASTER", **CR_R_50, **{"MODEL.INIT.REMAP": True, "MODEL.INIT.INTERPOLATE_DILATED": True}
    )
    saved = fresh(cfg)
    CRCheckpointer(saved, str(tmp_path), cfg).save("model_final")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.1
    torch.manual_seed(2)
    model = build_model(cfg)
    CRCheckpointer(model, "", cfg).load(str(tmp_path / "model_final.pth"))
    assert_taken(model.state_dict(), saved.state_dict())
    assert "remapped" not in log.text


def supernet(kind, **changes):
    choices = {
        "MODEL.BACKBONE.NAME": f"build_{kind}_supernet_fpn_backbone",
        "MODEL.SUPERNET.STAGE_CHOICES": [[1, 3], [4, 5], [2, 6], [3, 7]],
        "MODEL.INIT.REMAP": True,
    }
    return thin("FASTER", **{**choices, **changes})


@pytest.mark.parametrize("kind, path", [("stage", [3, 4, 6, 3]), ("dilation", [0] * 16)])
def test_every_path_of_a_supernet_starts_from_the_detector(zoo, kind, path):
    """On the path that is the baseline it is the zoo's own detector."""
    _, file = zoo("FASTER")
    theirs = zoo_files.build_zoo_detector(zoo_files.FASTER)
    cfg = supernet(
        kind,
        **{
            "MODEL.RESNETS.STRIDE_IN_1X1": True,
            "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
            "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        },
    )
    model = load(cfg, file).eval()
    model.backbone.bottom_up.set_path(path)
    torch.manual_seed(0)
    inputs = [{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)}]
    with torch.no_grad():
        one, other = (m(inputs)[0]["instances"] for m in (theirs, model))
    assert len(one) > 20
    assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert torch.equal(one.scores, other.scores)


def test_thinner_supernets_read_the_first_channels_with_the_necks_first_weights(zoo, log):
    expected, path = zoo("FASTER")
    half = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 4,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 2,
    }
    found = load(supernet("stage", **half), path).state_dict()
    for level, channels in zip((2, 3, 4, 5), (8, 16, 32, 64)):
        name = f"backbone.fpn_lateral{level}.weight"
        assert torch.equal(found[name], expected[name][:, :channels]), name
    rest = {k: t for k, t in expected.items() if "bottom_up" not in k and "lateral" not in k}
    assert_taken(found, rest)
    assert "new:" not in log.text


def test_supernets_of_classifiers_start_from_public_weights(tmp_path):
    public = tmp_path / "mobilenet_v2.pth"
    torch.save(mobilenet_v2(width_mult=0.25).state_dict(), public)
    cfg = crnas_d2.get_config("ImageNet/stage_supernet_MNV2.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.CR.WIDTH_MULTIPLIER, cfg.MODEL.INIT.REMAP = "cpu", 0.25, True
    model = fresh(cfg)
    expected, _ = remap_backbone(convert(torch.load(public))[0], model)
    assert_taken(load(cfg, public).backbone.state_dict(), expected)
