"""Lazy models and Python configs: the detectors of the YAML ones, trained by Detectron2 alone."""

import json
import math
import os

import pytest
import torch
from made_batch import make_batch
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue
from tiny_coco import write_tiny_coco

import crnas_d2
from crnas_d2 import ARCHITECTURES, Architecture, CRResNet, lazy_model
from crnas_d2.config import configs_dir
from crnas_d2.config_files import name_in_configs

import detectron2
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer, create_ddp_model, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage

FASTER = "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x"
MASK = "COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x"
RETINANET = "COCO-Detection/retinanet_CR_R_50_FPN_1x"
FCOS_ONLY_LAZY = "COCO-Detection/fcos_CR_R_50_FPN_1x"
DETECTORS = {
    FASTER: "faster_rcnn",
    MASK: "mask_rcnn",
    RETINANET: "retinanet",
    FCOS_ONLY_LAZY: "fcos",
}
ALL_CONFIGS = pytest.mark.parametrize("name", DETECTORS)
CONFIGS_IN_YAML = pytest.mark.parametrize("name", [FASTER, MASK, RETINANET])

# The same thin detector in both kinds of config.
THIN_BODY = {"stem_out_channels": 8, "res2_out_channels": 16, "width_per_group": 4}
THIN_YAML = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
]


def load(name):
    return LazyConfig.load(os.path.join(configs_dir(), f"{name}.py"))


def make_thin(detector, **options):
    model = lazy_model("CR-ResNet50", detector, **THIN_BODY, **options)
    model.backbone.out_channels = 16
    if "rcnn" in detector:
        model.roi_heads.box_head.fc_dims = [16, 16]
    if "mask" in detector:
        model.roi_heads.mask_head.conv_dims = [16] * 5
    if detector == "fcos":
        model.head.norm = ""  # GN has 32 groups
    return model


def get_yaml(name, *opts):
    cfg = crnas_d2.get_config(f"{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(opts))
    return cfg


def shapes_of(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def assert_same_network(lazy, yaml):
    """All tensors by their names and shapes, and which of them are trained."""
    yaml.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model, expected = instantiate(lazy), build_model(yaml)
    assert shapes_of(model) == shapes_of(expected)
    trained, expected = (
        [name for name, p in m.named_parameters() if p.requires_grad] for m in (model, expected)
    )
    assert trained == expected
    return model


@CONFIGS_IN_YAML
def test_same_network_as_in_yaml(name):
    model = assert_same_network(load(name).model, get_yaml(name))
    assert model.backbone.bottom_up.architecture == ARCHITECTURES["CR-ResNet50"]
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert any("bottom_up.res2" in name for name in trained)
    assert not any("bottom_up.stem" in name for name in trained)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_one_line(name):
    yaml = get_yaml(f"COCO-Detection/faster_rcnn_{name_in_configs(name)}_FPN_1x")
    model = assert_same_network(lazy_model(name), yaml)
    assert model.backbone.bottom_up.architecture == ARCHITECTURES[name]


@pytest.mark.parametrize("name", ["CR-ResNet18", "SCR-ResNeXt50", "CR-MobileNetV2"])
def test_retinanet_over_other_families(name):
    yaml = get_yaml(f"COCO-Detection/faster_rcnn_{name_in_configs(name)}_FPN_1x")
    family = ARCHITECTURES[name].family
    yaml.merge_from_file(os.path.join(configs_dir(), "Base-RetinaNet.yaml"), allow_unsafe=False)
    yaml.MODEL.BACKBONE.NAME = f"build_cr_{family}_retinanet_fpn_backbone"
    assert_same_network(lazy_model(name, "retinanet"), yaml)


def test_arguments():
    lazy = make_thin("retinanet", num_classes=3, norm="GN", freeze_at=0)
    yaml = get_yaml(RETINANET, *THIN_YAML)
    yaml.MODEL.RESNETS.NORM, yaml.MODEL.BACKBONE.FREEZE_AT = "GN", 0
    yaml.MODEL.RETINANET.NUM_CLASSES = 3
    lazy.backbone.norm, yaml.MODEL.FPN.NORM = "BN", "BN"
    assert_same_network(lazy, yaml)


def test_codes_of_ones_own():
    codes = Architecture([1, 2, 1, 1], [0, 1, 0, 2, 0])
    bottom_up = instantiate(lazy_model(codes, block="basic", **THIN_BODY)).backbone.bottom_up
    assert bottom_up.architecture == codes
    assert type(bottom_up) is CRResNet and "conv3" not in dict(bottom_up.res2[0].named_children())
    codes = ARCHITECTURES["SCR-MobileNetV2"]
    bottom_up = instantiate(
        lazy_model(codes, "retinanet", width_multiplier=0.25)
    ).backbone.bottom_up
    assert bottom_up.architecture == codes


def test_a_lazy_model_is_its_own():
    """A change in one is none in the next, nor in what the module holds."""
    for detector in DETECTORS.values():
        before, model = (lazy_model("CR-ResNet50", detector) for _ in range(2))
        assert model == before
        model.pixel_mean[0] = 0.0
        model.backbone.bottom_up.stage_code[0] = 9
        if "rcnn" in detector:
            model.roi_heads.box_in_features.append("p6")
        else:
            model.head_in_features.append("p8")
        assert model != before == lazy_model("CR-ResNet50", detector)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["CR-ResNet34"], ["architecture is 'CR-ResNet34'", "SCR-ResNet50, CR-ResNet50,"]),
        ([[3, 4, 6, 3]], ["architecture is [3, 4, 6, 3]", "an Architecture"]),
        (
            ["CR-ResNet50", "yolo"],
            ["detector is 'yolo'", "faster_rcnn, mask_rcnn, retinanet, fcos"],
        ),
    ],
)
def test_unknown_names(arguments, words):
    with pytest.raises(ValueError) as error:
        lazy_model(*arguments)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("detector", ["retinanet", "fcos"])
def test_dense_detectors_are_detectron2s(detector):
    """All but the backbone and the input is that of Detectron2's own lazy config."""
    folder = os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs")
    path = os.path.join(folder, "common", "models", f"{detector}.py")
    theirs, ours = LazyConfig.load(path).model, lazy_model("CR-ResNet50", detector)
    ours = OmegaConf.merge(ours, {"pixel_mean": theirs.pixel_mean, "pixel_std": theirs.pixel_std})
    if detector == "retinanet":
        ours.input_format = theirs.input_format
        assert ours.pop("test_score_thresh") == 0.05  # the default
    ours.backbone.bottom_up = theirs.backbone.bottom_up
    with torch.device("meta"):
        models = [instantiate(model) for model in (ours, theirs)]
    assert repr(models[0]) == repr(models[1])
    for key in set(theirs) - {"backbone", "head", "anchor_generator"}:
        assert plain(ours[key]) == plain(theirs[key]), key
    for model in models:
        assert model.test_nms_thresh == {"retinanet": 0.5, "fcos": 0.6}[detector]
    cells = [m.anchor_generator.cell_anchors for m in map(instantiate, (ours, theirs))]
    assert all(torch.equal(a, b) for a, b in zip(*cells, strict=True))


def plain(value):
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


@CONFIGS_IN_YAML
def test_same_losses_and_detections_as_with_yaml(name):
    batch = make_batch()
    torch.manual_seed(0)
    models = [
        instantiate(make_thin(DETECTORS[name])),
        build_model(get_yaml(name, *THIN_YAML)),
    ]
    models[1].load_state_dict(models[0].state_dict())
    results = []
    for model in models:
        torch.manual_seed(0)
        (model if name == RETINANET else model.roi_heads.box_predictor).test_score_thresh = 0.0
        with torch.no_grad(), EventStorage():
            losses = model.train()(batch)
            detections = [r["instances"] for r in model.eval()(batch)]
        results.append((losses, detections))
    (ours, our_detections), (expected, expected_detections) = results
    assert ours.keys() == expected.keys()
    assert ("loss_mask" in ours) == (name == MASK)
    for key, loss in expected.items():
        assert loss > 0 and torch.equal(ours[key], loss), key
    for one, other in zip(our_detections, expected_detections, strict=True):
        assert len(one) == len(other) > 90  # of at most 100; empty ones are dropped
        for field, value in other.get_fields().items():
            tensors = [x.tensor if isinstance(x, Boxes) else x for x in (one.get(field), value)]
            assert torch.equal(*tensors), field


@CONFIGS_IN_YAML
def test_same_recipe_as_in_yaml(name):
    ours, yaml = load(name), get_yaml(name)
    model = CRResNet([1, 1, 1, 1], norm="BN", stem_out_channels=8, res2_out_channels=16)
    ours.optimizer.params.model = model
    optimizer, expected = instantiate(ours.optimizer), build_optimizer(yaml, model)
    for one, other in zip(optimizer.param_groups, expected.param_groups, strict=True):
        assert len(one["params"]) == len(other["params"])
        for key in ("lr", "momentum", "weight_decay", "nesterov"):
            assert one[key] == pytest.approx(other[key]), key

    assert ours.train.max_iter == yaml.SOLVER.MAX_ITER
    multiplier = instantiate(ours.lr_multiplier)
    schedule = build_lr_scheduler(yaml, expected)
    steps = [0, 1, 500, 999, 1000, *(s + d for s in yaml.SOLVER.STEPS for d in (-1, 0, 1))]
    for iteration in [*steps, yaml.SOLVER.MAX_ITER - 1]:
        schedule.last_epoch = iteration
        lr = yaml.SOLVER.BASE_LR * multiplier(iteration / ours.train.max_iter)
        assert schedule.get_lr()[0] == pytest.approx(lr), iteration


@CONFIGS_IN_YAML
def test_same_data_as_in_yaml(name):
    ours, yaml = load(name).dataloader, get_yaml(name)
    assert (ours.train.dataset.names,) == yaml.DATASETS.TRAIN
    assert (ours.test.dataset.names,) == yaml.DATASETS.TEST
    assert ours.evaluator.dataset_name == ours.test.dataset.names
    assert ours.train.total_batch_size == yaml.SOLVER.IMS_PER_BATCH
    for loader, is_train in ((ours.train, True), (ours.test, False)):
        mapper, expected = instantiate(loader.mapper), DatasetMapper(yaml, is_train)
        assert mapper.image_format == expected.image_format
        if is_train:
            assert mapper.use_instance_mask == expected.use_instance_mask
        assert described(mapper.augmentations) == described(expected.augmentations)


def described(augmentations):
    """Kinds and attributes; omegaconf's lists, and tuples, are lists."""
    return [
        (
            type(a),
            {k: v if isinstance(v, (int, float, str)) else list(v) for k, v in vars(a).items()},
        )
        for a in augmentations.augs
    ]


def test_weights_must_be_given():
    cfg = load(FASTER)
    with pytest.raises(MissingMandatoryValue, match="train.init_checkpoint"):
        cfg.train.init_checkpoint


@pytest.fixture
def dataset(tmp_path):
    json_file = write_tiny_coco(tmp_path / "data", images=4)
    data = json.loads(json_file.read_text())
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    json_file.write_text(json.dumps(data))
    name = f"lazy_{tmp_path.name}"
    register_coco_instances(name, {}, str(json_file), str(tmp_path / "data" / "images"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@ALL_CONFIGS
def test_training(name, dataset, tmp_path):
    """As Detectron2's tools/lazyconfig_train_net.py does it."""
    cfg = load(name)
    assert cfg.model == lazy_model("CR-ResNet50", DETECTORS[name])
    cfg.model = make_thin(DETECTORS[name], num_classes=2)
    backbone = CRResNet(
        *(cfg.model.backbone.bottom_up[key] for key in ("stage_code", "operation_code")),
        **THIN_BODY,
    )
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    cfg = LazyConfig.apply_overrides(
        cfg,
        [
            f"dataloader.train.dataset.names={dataset}",
            f"dataloader.test.dataset.names={dataset}",
            "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
            "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
            "dataloader.test.mapper.augmentations.0.short_edge_length=64",
            f"model.{'roi_heads.box_predictor.' * ('rcnn' in name)}test_score_thresh=0.0",
            f"train.init_checkpoint='{tmp_path}/backbone.pth?matching_heuristics=True'",
            f"train.output_dir={tmp_path}/output",
            "train.max_iter=3",
            "train.device=cpu",
        ],
    )
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert LazyConfig.load(str(tmp_path / "config.yaml")).train.max_iter == 3

    torch.manual_seed(0)
    model = instantiate(cfg.model).to(cfg.train.device)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(model, **cfg.train.ddp)
    trainer = SimpleTrainer(model, loader, optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    os.makedirs(cfg.train.output_dir)
    evaluations = []

    def evaluate():
        arguments = [instantiate(cfg.dataloader[key]) for key in ("test", "evaluator")]
        evaluations.append(inference_on_dataset(model, *arguments))

    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            hooks.EvalHook(cfg.train.eval_period, evaluate),
        ]
    )
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=False)
    loaded = model.backbone.bottom_up.state_dict()
    for key, tensor in backbone.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(loaded[key], tensor), key
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    trainer.train(0, cfg.train.max_iter)

    losses = [key for key in trainer.storage.latest() if key.startswith("loss_")]
    assert len(losses) == {FASTER: 4, MASK: 5, RETINANET: 2, FCOS_ONLY_LAZY: 3}[name]
    assert ("loss_mask" in losses) == (name == MASK)
    for key, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[key])
        if parameter.requires_grad and parameter.dim() == 1:
            moved = parameter.grad.any()  # a step may be too small to be seen in a 1.0
        assert moved == parameter.requires_grad, key
    (evaluation,) = evaluations
    assert list(evaluation) == ["bbox", "segm"][: 1 + (name == MASK)]
    assert not math.isnan(evaluation["bbox"]["AP"])
    saved = torch.load(f"{cfg.train.output_dir}/model_final.pth", weights_only=True)
    assert saved["iteration"] == 2
