"""The weights of a trained supernet in the networks of its space."""

import pytest
import torch
from test_classifier_weights import load, thin

from crnas_d2.checkpoint import CRCheckpointer, inherit_subnet

from detectron2.modeling import build_model

CODES = {"MODEL.CR.STAGE_CODE": [2, 1, 3, 2], "MODEL.CR.OPERATION_CODE": [0, 2, 1, 0, 0, 1, 2, 1]}
FINAL = "COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml"
SUPERNETS = {
    "stage": ("Supernet/stage_supernet_R_18_FPN.yaml", CODES["MODEL.CR.STAGE_CODE"]),
    "shared": ("Supernet/stage_supernet_R_18_FPN.yaml", CODES["MODEL.CR.STAGE_CODE"]),
    "dilation": ("Supernet/dilation_supernet_SCR_R_18_FPN.yaml", CODES["MODEL.CR.OPERATION_CODE"]),
}


def save_supernet(folder, step, **changes):
    choices = {"MODEL.SUPERNET.STAGE_CHOICES": [[1, 2], [1, 2], [2, 3], [2, 3]]}
    shared = {"MODEL.SUPERNET.SHARE_BLOCKS": step == "shared"}
    cfg = thin(SUPERNETS[step][0], **{**CODES, **choices, **shared, **changes})
    torch.manual_seed(0)
    model = build_model(cfg)
    CRCheckpointer(model, str(folder), cfg).save("model_final", iteration=9)
    return model, str(folder / "model_final.pth")


@pytest.mark.parametrize("step", SUPERNETS)
def test_a_detector_inherits_all_of_its_path(tmp_path, step):
    supernet, path = save_supernet(tmp_path, step)
    torch.manual_seed(1)
    detector = load(thin(FINAL, **CODES, **{"MODEL.BACKBONE.FREEZE_AT": 0}), path)
    expected = inherit_subnet(supernet.state_dict(), SUPERNETS[step][1])
    found = detector.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


def test_a_classifier_s_supernet_gives_a_detector_its_backbone(tmp_path):
    cfg = thin("ImageNet/dilation_supernet_SCR_R_18.yaml", **CODES)
    supernet = build_model(cfg)
    CRCheckpointer(supernet, str(tmp_path), cfg).save("model_final")
    detector = load(thin(FINAL, **CODES), str(tmp_path / "model_final.pth"))
    expected = inherit_subnet(supernet.backbone.state_dict(), CODES["MODEL.CR.OPERATION_CODE"])
    found = detector.backbone.bottom_up.state_dict()
    assert {key for key in expected if "num_batches" not in key} <= found.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


def test_a_supernet_takes_all_of_its_own(tmp_path):
    supernet, path = save_supernet(tmp_path, "stage")
    choices = {"MODEL.SUPERNET.STAGE_CHOICES": [[1, 2], [1, 2], [2, 3], [2, 3]]}
    loaded = load(thin(SUPERNETS["stage"][0], **choices), path).state_dict()
    assert all(torch.equal(tensor, loaded[key]) for key, tensor in supernet.state_dict().items())


FEWER = {"MODEL.SUPERNET.STAGE_CHOICES": [[1], [2], [3], [2, 3]]}


@pytest.mark.parametrize("step", ["stage", "shared"])
def test_a_supernet_of_fewer_choices_takes_what_it_has(tmp_path, step):
    supernet, path = save_supernet(tmp_path, step)
    shared = {"MODEL.SUPERNET.SHARE_BLOCKS": step == "shared"}
    fewer = load(thin(SUPERNETS[step][0], **FEWER, **shared), path).state_dict()
    for code in ([1, 2, 3, 2], [1, 2, 3, 3]):
        found, expected = (inherit_subnet(it, code) for it in (fewer, supernet.state_dict()))
        assert found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())


@pytest.mark.parametrize("step, other", [("stage", True), ("shared", False)])
def test_blocks_that_are_shared_are_not_those_of_branches(tmp_path, step, other):
    _, path = save_supernet(tmp_path, step)
    choices = {"MODEL.SUPERNET.STAGE_CHOICES": [[1, 2], [1, 2], [2, 3], [2, 3]]}
    with pytest.raises(ValueError, match="of another backbone than the model's: .* tensor"):
        load(thin(SUPERNETS[step][0], **choices, **{"MODEL.SUPERNET.SHARE_BLOCKS": other}), path)


def test_networks_that_are_not_in_the_supernet_are_refused(tmp_path):
    _, path = save_supernet(tmp_path, "dilation")
    other = {"MODEL.CR.STAGE_CODE": [2, 2, 2, 2]}
    with pytest.raises(ValueError, match=r"stage code \[2, 1, 3, 2\]; expected \[2, 2, 2, 2\]"):
        load(thin(FINAL, **{**CODES, **other}), path)
    wider = {"MODEL.RESNETS.STEM_OUT_CHANNELS": 16, "MODEL.RESNETS.RES2_OUT_CHANNELS": 16}
    with pytest.raises(ValueError, match="another backbone than the model's: .* of another shape"):
        load(thin(FINAL, **CODES, **wider), path)
    (tmp_path / "stage").mkdir()
    _, path = save_supernet(tmp_path / "stage", "stage")
    codes = {"MODEL.CR.STAGE_CODE": [3, 1, 2, 2]}
    with pytest.raises(ValueError, match=r"path \[3, 1, 2, 2\]: 3 at res2; .* has \[1, 2\] there"):
        load(thin(FINAL, **{**CODES, **codes}), path)


@pytest.mark.parametrize("kind", ["C4", "DC5"])
def test_a_detector_of_another_kind_has_the_stages(tmp_path, kind):
    supernet, path = save_supernet(tmp_path, "stage")
    cfg = thin(f"COCO-Detection/faster_rcnn_CR_R_50_{kind}_1x.yaml", **CODES)
    cfg.MODEL.CR.BLOCK, cfg.MODEL.RESNETS.NORM = "basic", "BN"
    expected = inherit_subnet(supernet.state_dict(), CODES["MODEL.CR.STAGE_CODE"])
    found = load(cfg, path).state_dict()
    stages = [key for key in expected if ".bottom_up." in key]
    for key in stages:
        in_heads = kind == "C4" and ".res5." in key
        place = key.replace("backbone.bottom_up", "roi_heads" if in_heads else "backbone")
        assert torch.equal(found[place], expected[key]), key
    assert len(stages) > 100
