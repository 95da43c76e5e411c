"""The Python configs: the detectors of the YAML ones, trained by pieces of Detectron2 alone."""

import json
import math
import os

import pytest
import torch
from omegaconf.errors import MissingMandatoryValue
from tiny_coco import write_tiny_coco

import crnas_d2
from crnas_d2 import CRResNet
from crnas_d2.config import configs_dir
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer, create_ddp_model, hooks
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

FASTER = "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x"
MASK = "COCO-InstanceSegmentation/mask_rcnn_CR_R_50_FPN_1x"
CONFIGS = pytest.mark.parametrize("name", [FASTER, MASK])

# The same thin detector in both kinds of config.
THIN = {
    "model.backbone.bottom_up.stem_out_channels": ("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    "model.backbone.bottom_up.res2_out_channels": ("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    "model.backbone.bottom_up.width_per_group": ("MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    "model.backbone.out_channels": ("MODEL.FPN.OUT_CHANNELS", 16),
    "model.roi_heads.box_head.fc_dims": ("MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    "model.roi_heads.mask_head.conv_dims": ("MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
}


def load(name, *overrides):
    cfg = LazyConfig.load(os.path.join(configs_dir(), f"{name}.py"))
    return LazyConfig.apply_overrides(cfg, list(overrides))


def load_thin(name):
    repeats = {"fc_dims": 2, "conv_dims": 5}
    overrides = []
    for key, (_, value) in THIN.items():
        kind = key.rpartition(".")[2]
        if "mask_head" not in key or name == MASK:
            overrides.append(f"{key}={[value] * repeats[kind] if kind in repeats else value}")
    return load(name, *overrides)


def get_yaml(name, thin=False):
    cfg = crnas_d2.get_config(f"{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    if thin:
        cfg.merge_from_list([x for key_and_value in THIN.values() for x in key_and_value])
    return cfg


def shapes_of(model):
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@CONFIGS
def test_same_network_as_in_yaml(name):
    ours = load(name)
    yaml = get_yaml(name)
    yaml.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model, expected = instantiate(ours.model), build_model(yaml)
    assert shapes_of(model) == shapes_of(expected)
    assert model.backbone.bottom_up.architecture == crnas_d2.ARCHITECTURES["CR-ResNet50"]
    trained, expected = (
        [name for name, p in m.named_parameters() if p.requires_grad] for m in (model, expected)
    )
    assert trained == expected
    assert not any("bottom_up.res2" in name for name in trained)


def make_batch():
    """Images of two sizes with boxes and masks."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for height, width in ((96, 128), (128, 96)):
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 10:60, 20:80], masks[1, 40:90, 5:35] = True, True
        truth = Instances((height, width), gt_masks=BitMasks(masks))
        truth.gt_boxes = truth.gt_masks.get_bounding_boxes()
        truth.gt_classes = torch.tensor([3, 50])
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": image, "instances": truth, "height": height, "width": width})
    return batch


@CONFIGS
def test_same_losses_and_detections_as_with_yaml(name):
    batch = make_batch()
    models = [instantiate(load_thin(name).model), build_model(get_yaml(name, thin=True))]
    models[1].load_state_dict(models[0].state_dict())
    results = []
    for model in models:
        torch.manual_seed(0)
        model.roi_heads.box_predictor.test_score_thresh = 0.0
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
        assert len(one) == len(other) == 100
        for field, value in other.get_fields().items():
            tensors = [x.tensor if isinstance(x, Boxes) else x for x in (one.get(field), value)]
            assert torch.equal(*tensors), field


@CONFIGS
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


@CONFIGS
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
def data_set(tmp_path):
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


@CONFIGS
def test_training(name, data_set, tmp_path):
    """As Detectron2's tools/lazyconfig_train_net.py does it."""
    cfg = load_thin(name)
    backbone = CRResNet(
        *(cfg.model.backbone.bottom_up[key] for key in ("stage_code", "operation_code")),
        **{"stem_out_channels": 8, "res2_out_channels": 16, "width_per_group": 4},
    )
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    cfg = LazyConfig.apply_overrides(
        cfg,
        [
            f"dataloader.train.dataset.names={data_set}",
            f"dataloader.test.dataset.names={data_set}",
            "dataloader.train.total_batch_size=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
            "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
            "dataloader.test.mapper.augmentations.0.short_edge_length=64",
            "model.roi_heads.num_classes=2",
            "model.roi_heads.box_predictor.test_score_thresh=0.0",
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
    assert ("loss_mask" in losses) == (name == MASK) and len(losses) == 4 + (name == MASK)
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, before[key]) != parameter.requires_grad, key
    (evaluation,) = evaluations
    assert list(evaluation) == ["bbox", "segm"][: 1 + (name == MASK)]
    assert not math.isnan(evaluation["bbox"]["AP"])
    saved = torch.load(f"{cfg.train.output_dir}/model_final.pth", weights_only=True)
    assert saved["iteration"] == 2
