"""Models that start from files of all kinds, against the tensors in them."""

import logging

import pytest
import torch
import zoo_files
from safetensors.torch import save_file
from thin_supernets import randomize
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import mobilenet_v2, resnet18

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer, read_seed_network, remap_backbone
from crnas_d2.checkpoint.convert import convert
from crnas_d2.checkpoint.start import start

from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

COCO = list(MetadataCatalog.get("coco_2017_val").thing_classes)
BASELINE = {"MODEL.CR.STAGE_CODE": [3, 4, 6, 3]}
CR_R_50 = {
    "MODEL.CR.STAGE_CODE": [1, 3, 5, 7],
    "MODEL.CR.OPERATION_CODE": [0, 0, 1, 0, 0, 0, 1, 2, 0, 0, 1, 0, 2, 1, 1, 2],
}
# The config of this project for each detector of the zoo
CONFIGS = {
    "FASTER": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {}),
    "MASK": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", {}),
    "CASCADE": ("COCO-Cascade/cascade_mask_rcnn_R_101_FPN_20e.yaml", BASELINE),
    "RETINANET": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", {}),
    "C4": ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", {}),
    "DC5": ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", {}),
    "X_101": ("COCO-Detection/faster_rcnn_X_101_32x4d_FPN_1x.yaml", zoo_files.THIN_GROUPS),
}
UP_TO_RES4 = {
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4"],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256]],
}


def thin(network, **changes):
    """The config of a thin detector that takes the zoo's weights; ``network`` is one of CONFIGS."""
    name, own = CONFIGS[network]
    cfg = crnas_d2.get_config(name)
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.FPN.NORM": "",
        "MODEL.CLASS_NAMES": COCO,
        "MODEL.INIT.SETTINGS": "ignore",
        **zoo_files.THIN,
        **own,
    }
    cfg.merge_from_list([entry for item in {**settings, **changes}.items() for entry in item])
    return cfg


def fresh(cfg):
    torch.manual_seed(1)
    return build_model(cfg)


def load(cfg, path):
    model = fresh(cfg)
    CRCheckpointer(model, "", cfg).load(str(path))
    return model


def assert_taken(found, expected):
    """The tensors of the second are all in the first, bit for bit."""
    assert expected
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


def below(tensors, *prefixes):
    return {key: tensor for key, tensor in tensors.items() if key.startswith(prefixes)}


@pytest.fixture
def zoo(tmp_path):
    """Writes a detector of the zoo; returns its tensors and the path."""

    def write(network, **options):
        path = tmp_path / f"{network}.pkl"
        model = zoo_files.write_zoo_detector(str(path), getattr(zoo_files, network), **options)
        return model.state_dict(), path

    return write


@pytest.fixture
def log(caplog):
    logger = logging.getLogger("crnas_d2.checkpoint")
    logger.setLevel(logging.INFO)
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(logging.NOTSET)


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
