"""Models that start from files of all kinds, against the tensors in them."""

import pytest
import torch
import zoo_files
from safetensors.torch import save_file
from thin_supernets import randomize
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import mobilenet_v2, resnet18
from zoo_starts import COCO, CONFIGS, CR_R_50, UP_TO_RES4, assert_taken, below, fresh, load, thin

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.checkpoint.convert import convert
from crnas_d2.checkpoint.start import start


@pytest.mark.parametrize("network", CONFIGS)
def test_a_baseline_is_the_zoos_detector(zoo, network):
    expected, path = zoo(network)
    found = load(thin(network), path).state_dict()
    assert found.keys() == expected.keys()
    assert_taken(found, expected)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_classifier_of_torchvision_is_translated(tmp_path, log, suffix):
    torch.manual_seed(0)
    public, path = randomize(resnet18()).state_dict(), tmp_path / f"resnet18.{suffix}"
    torch.save(public, path) if suffix == "pth" else save_file(public, path)
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = "cpu", 8
    before, found = fresh(cfg).state_dict(), load(cfg, path).state_dict()
    backbone = {f"backbone.bottom_up.{key}": t for key, t in convert(public)[0].items()}
    assert_taken(found, backbone)
    others = {key: t for key, t in before.items() if ".bottom_up." not in key}
    assert_taken(found, others)
    assert f"resnet18.{suffix} is a resnet of torchvision, without fc." in log.text
    assert f"new, as resnet18.{suffix} has none: neck, proposal_generator, roi_heads." in log.text
    assert "classes of resnet" not in log.text


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "broken, message",
    [
        ({"layer4.1.bn2.running_var": None}, "res5.1.conv2.norm.running_var"),
        ({"layer2.0.extra.weight": torch.ones(3)}, "layer2.0.extra"),
        ({"layer1.0.conv1.weight": torch.ones(64, 64, 1, 1)}, "of another shape: layer1.0.conv1"),
    ],
)
def test_no_file_leaves_a_part_of_the_backbone_random(tmp_path, suffix, broken, message):
    public = {**resnet18().state_dict(), **broken}
    public = {key: tensor for key, tensor in public.items() if tensor is not None}
    path = tmp_path / f"resnet18.{suffix}"
    torch.save(public, path) if suffix == "pth" else save_file(public, path)
    cfg = crnas_d2.get_config("ImageNet/R_18.yaml")
    cfg.MODEL.DEVICE = "cpu"
    with pytest.raises(ValueError, match=message):
        load(cfg, path)


def test_parts_that_fit_are_taken_and_others_are_new(zoo, log):
    mask, path = zoo("MASK")
    found = load(thin("FASTER"), path).state_dict()
    assert_taken(found, {key: t for key, t in mask.items() if ".mask_head." not in key})
    assert "not used of MASK.pkl: roi_heads.mask_head" in log.text

    log.clear()
    found, before = (
        f(thin("RETINANET"), *a).state_dict() for f, a in ((load, [path]), (fresh, []))
    )
    assert_taken(found, {key: t for key, t in mask.items() if key.startswith("backbone.bottom_up")})
    assert_taken(found, below(before, "head.", "backbone.top_block.", "backbone.fpn_output2"))
    assert_taken(found, {k: t for k, t in below(mask, "backbone.fpn_").items() if k in found})
    assert "new, as MASK.pkl has none: backbone.top_block, head, head, outputs of" in log.text
    assert "not used of MASK.pkl: proposal_generator, roi_heads.box_head" in log.text

    log.clear()
    wider = thin("MASK", **{"MODEL.ROI_BOX_HEAD.FC_DIM": 24, "MODEL.ROI_MASK_HEAD.NUM_CONV": 2})
    found, before = load(wider, path).state_dict(), fresh(wider).state_dict()
    assert_taken(found, below(before, "roi_heads.box_", "roi_heads.mask_head."))
    assert_taken(found, below(mask, "proposal_generator.", "backbone.fpn_"))
    assert "new: roi_heads.box_head; in MASK.pkl 4 tensor(s) have another shape" in log.text
    assert "fc1.weight (16, 784) for (24, 784)" in log.text
    assert "new: roi_heads.mask_head; in MASK.pkl it has 4 tensor(s) more" in log.text
    assert "new: roi_heads.mask_head, outputs of classes; in MASK.pkl they belong to" in log.text

    log.clear()
    finer = thin("MASK", **{"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 8})
    found, before = load(finer, path).state_dict(), fresh(finer).state_dict()
    assert_taken(found, below(before, "roi_heads.box_"))
    assert_taken(found, below(mask, "roi_heads.mask_head."))
    assert "new: roi_heads.box_head; in MASK.pkl 1 tensor(s) have another shape" in log.text
    assert (
        "new: roi_heads.box_predictor, outputs of classes; in MASK.pkl they belong to" in log.text
    )

    log.clear()
    load(thin("MASK", **{"MODEL.FPN.NORM": "BN"}), path)
    assert "new: neck; in MASK.pkl 32 of its tensors are not there" in log.text


def test_classes_go_by_their_names(zoo, log):
    expected, path = zoo("FASTER")
    cfg = thin("FASTER", **{"MODEL.CLASS_NAMES": ["kite", "blood cell", "dog"]})
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    found, before = load(cfg, path).state_dict(), fresh(cfg).state_dict()
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(found[name][0], expected[name][COCO.index("kite")])
    assert torch.equal(found[name][1], before[name][1])
    assert torch.equal(found[name][2], expected[name][COCO.index("dog")])
    assert torch.equal(found[name][3], expected[name][80])  # the background
    assert "2 of 3 classes have rows of a class of the same name ('kite', 'dog')" in log.text

    log.clear()
    cfg.MODEL.CLASS_NAMES = []
    found = load(cfg, path).state_dict()
    assert_taken(found, below(before, "roi_heads.box_predictor."))
    assert_taken(found, below(expected, "roi_heads.box_head."))
    assert "new: roi_heads.box_predictor, outputs of classes; in FASTER.pkl 4 tensor(s)" in log.text
    assert "cls_score.weight (81, 16) for (4, 16)" in log.text

    log.clear()
    cfg.MODEL.CLASS_NAMES = ["kite", "blood cell", "dog"]
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 24
    load(cfg, path)
    assert "outputs of classes; in FASTER.pkl 2 tensor(s) have another shape" in log.text


def test_res5_of_any_network_goes_into_the_heads_of_c4(tmp_path, zoo):
    c4, path = zoo("C4")
    faster, other = zoo("FASTER")
    found = load(thin("C4"), other).state_dict()
    for key, tensor in below(faster, "backbone.bottom_up.").items():
        stage = key.removeprefix("backbone.bottom_up.")
        place = "roi_heads." if stage.startswith("res5") else "backbone."
        assert torch.equal(found[place + stage], tensor), key
    found = load(thin("FASTER"), path).state_dict()
    assert_taken(
        found,
        {
            k.replace("backbone.", "backbone.bottom_up."): t
            for k, t in c4.items()
            if k.startswith("backbone.")
        },
    )
    assert_taken(
        found,
        {k.replace("roi_heads.", "backbone.bottom_up."): t for k, t in c4.items() if ".res5." in k},
    )


def test_stages_that_a_detector_does_not_build_are_left_out(tmp_path, zoo, log):
    expected, path = zoo("FASTER")
    cfg = thin("FASTER", **UP_TO_RES4)
    found = load(cfg, path).state_dict()
    assert not below(found, "backbone.bottom_up.res5.", "backbone.fpn_lateral5.")
    assert_taken(found, {key: expected[key] for key in found})
    assert "without res5, which the model does not build" in log.text

    log.clear()
    public = tmp_path / "mobilenet_v2.pth"
    torch.save(mobilenet_v2(width_mult=0.25).state_dict(), public)
    cfg = crnas_d2.get_config("COCO-Detection/faster_rcnn_MNV2_FPN_1x.yaml")
    for key, value in {
        **UP_TO_RES4,
        "MODEL.DEVICE": "cpu",
        "MODEL.CR.WIDTH_MULTIPLIER": 0.25,
    }.items():
        cfg.merge_from_list([key, value])
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 8
    weights = convert(torch.load(public))[0]
    found = load(cfg, public).backbone.bottom_up.state_dict()
    assert not below(found, "c160", "c320", "c1280")
    assert_taken(
        found,
        {k: t for k, t in weights.items() if k.partition(".")[0] not in ("c160", "c320", "c1280")},
    )
    assert "without c160, c320, c1280, which the model does not build" in log.text


def test_a_part_of_several_processes_models_is_loaded_behind_its_wrapper(tmp_path, zoo):
    expected, path = zoo("FASTER")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        cfg = thin("FASTER")
        model = DistributedDataParallel(fresh(cfg))
        CRCheckpointer(model, "", cfg).load(str(path))
    finally:
        torch.distributed.destroy_process_group()
    assert_taken(model.module.state_dict(), expected)


def test_new_parts_are_those_of_the_model_that_all_processes_have_in_common(zoo):
    """Nothing is drawn while weights are loaded."""
    _, path = zoo("FASTER")
    cfg = thin("RETINANET", **CR_R_50, **{"MODEL.INIT.REMAP": True})
    model = fresh(cfg)
    states = [start(str(path), model, cfg) for _ in range(2)]
    state = torch.get_rng_state()
    assert_taken(*states)
    assert states[0].keys() == model.state_dict().keys()
    assert torch.equal(torch.get_rng_state(), state)


def test_models_of_other_backbones_take_what_has_their_names(tmp_path, zoo):
    expected, path = zoo("FASTER")
    cfg = zoo_files.zoo_config()
    crnas_d2.add_crnas_config(cfg)
    found = load(cfg, path).state_dict()
    assert_taken(found, expected)
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="resnet18.pth with 122 tensors .* do not fill"):
        load(cfg, tmp_path / "resnet18.pth")
