"""The evaluator of each test set, and what is refused before a training."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image
from runs import last_metrics, parse, train
from tiny_coco import write_tiny_coco

from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.config import read_config
from crnas_d2.engine import CRTrainer, evaluators, setup
from crnas_d2.engine.evaluators import KINDS, build_evaluator, check_evaluation, list_results

from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluators,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
    inference_on_dataset,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import GeneralizedRCNNWithTTA

# Of Detectron2's tools/train_net.py: the evaluators of a type, and whether they write predictions
OF_DETECTRON2 = {
    "coco": [("COCOEvaluator", True)],
    "coco_panoptic_seg": [
        ("SemSegEvaluator", True),
        ("COCOEvaluator", True),
        ("COCOPanopticEvaluator", True),
    ],
    "sem_seg": [("SemSegEvaluator", True)],
    "cityscapes_instance": [("CityscapesInstanceEvaluator", False)],
    "cityscapes_sem_seg": [("CityscapesSemSegEvaluator", False)],
    "pascal_voc": [("PascalVOCDetectionEvaluator", False)],
    "lvis": [("LVISEvaluator", True)],
}
PACKAGES = {
    "lvis": "lvis",
    "cityscapes_instance": "cityscapesscripts",
    "cityscapes_sem_seg": "cityscapesscripts",
    "coco_panoptic_seg": "panopticapi",
}
GIVES = {
    "sem_seg": "SemanticSegmentor",
    "cityscapes_sem_seg": "SemanticSegmentor",
    "coco_panoptic_seg": "PanopticFPN",
}


def register(kind):
    name = f"evaluators_{kind}"
    MetadataCatalog.get(name).set(evaluator_type=kind)
    return name


@pytest.fixture
def cfg(tiny_config):
    """Of a tiny detector, its datasets registered."""
    return setup(parse(tiny_config)).clone()


def of_kind(cfg, kind):
    cfg.defrost()
    cfg.DATASETS.TEST = (register(kind),)
    cfg.MODEL.META_ARCHITECTURE = GIVES.get(kind, "GeneralizedRCNN")
    cfg.MODEL.MASK_ON = kind == "cityscapes_instance"
    return cfg


@pytest.mark.parametrize("kind", OF_DETECTRON2)
def test_evaluators_are_those_of_detectron2(cfg, monkeypatch, kind):
    for name in {name for names in OF_DETECTRON2.values() for name, _ in names}:
        monkeypatch.setattr(
            evaluators,
            name,
            lambda dataset, folder=None, output_dir=None, made=name, **options: (
                made,
                dataset,
                folder or output_dir,
            ),
        )
    built = build_evaluator(cfg, register(kind), "folder")
    built = built._evaluators if isinstance(built, DatasetEvaluators) else [built]
    assert built == [
        (name, f"evaluators_{kind}", "folder" if writes else None)
        for name, writes in OF_DETECTRON2[kind]
    ]


def test_every_type_is_known(cfg):
    assert KINDS.keys() == {*OF_DETECTRON2, "classification"}
    voc = CRTrainer.build_evaluator(cfg, "voc_2007_test")
    assert isinstance(voc, PascalVOCDetectionEvaluator)
    assert isinstance(CRTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0]), COCOEvaluator)


@pytest.mark.parametrize("kind", OF_DETECTRON2)
def test_missing_packages_are_told(cfg, monkeypatch, kind):
    cfg = of_kind(cfg, kind)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    if kind in PACKAGES:
        message = (
            f"'evaluators_{kind}' has evaluator_type '{kind}', which needs the package "
            f"{PACKAGES[kind]}; it is not installed"
        )
        with pytest.raises(ValueError, match=message):
            check_evaluation(cfg, training=True)
    else:
        check_evaluation(cfg, training=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_evaluation(cfg, training=True)


def test_what_cannot_be_evaluated_is_refused(cfg, monkeypatch):
    def message_of(kind, model=None, masks=None):
        of_kind(cfg, kind)
        cfg.MODEL.META_ARCHITECTURE = model or cfg.MODEL.META_ARCHITECTURE
        cfg.MODEL.MASK_ON = cfg.MODEL.MASK_ON if masks is None else masks
        with pytest.raises(ValueError) as error:
            check_evaluation(cfg, training=False)
        return str(error.value)

    assert "'evaluators_odd' has evaluator_type 'odd' in its metadata" in message_of("odd")
    for kind in ("sem_seg", "cityscapes_sem_seg"):
        assert (
            "which scores sem_seg; MODEL.META_ARCHITECTURE 'GeneralizedRCNN' gives instances"
            in (message_of(kind, "GeneralizedRCNN"))
        )
    assert "scores panoptic_seg" in message_of("coco_panoptic_seg", "RetinaNet")
    assert "gives sem_seg" in message_of("coco", "SemanticSegmentor")
    assert "MODEL.MASK_ON is False" in message_of("cityscapes_instance", masks=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    for kind in ("cityscapes_instance", "cityscapes_sem_seg"):
        assert "works on one machine alone" in message_of(kind)


def test_refused_before_anything_is_written(tiny_config, tmp_path):
    name = register("odd")
    DatasetCatalog.register(name, list)
    try:
        MetadataCatalog.get(name).thing_classes = ["red", "blue"]
        cfg = read_config(str(tiny_config))
        CRCheckpointer(CRTrainer.build_model(cfg), str(tmp_path), cfg).save("model")
        for arguments in ([], ["--eval-only", "MODEL.WEIGHTS", tmp_path / "model.pth"]):
            with pytest.raises(ValueError, match="evaluator_type 'odd'"):
                train(tiny_config, *arguments, "DATASETS.TEST", (name,))
    finally:
        DatasetCatalog.remove(name)
    assert not (tmp_path / "output").exists()


SEGMENTOR = [
    *("MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "2"),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"),
]


def test_semantic_segmentation(tiny_config, tmp_path):
    write_tiny_coco(tmp_path / "scenes", images=3)
    records = []
    for path in sorted((tmp_path / "scenes" / "images").iterdir()):
        mask = tmp_path / f"{path.stem}.png"
        Image.fromarray((np.array(Image.open(path))[..., 0] == 128).astype(np.uint8)).save(mask)
        records.append(
            {
                "file_name": str(path),
                "sem_seg_file_name": str(mask),
                "height": 64,
                "width": 64,
                "image_id": path.stem,
            }
        )
    name = f"scenes_{tmp_path}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(
        evaluator_type="sem_seg", stuff_classes=["object", "ground"], ignore_label=255
    )
    data = ["DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,), "DATASETS.COCO_JSON", "[]"]
    best = ["TEST.BEST_METRIC", "sem_seg/IoU-ground", "TEST.EVAL_PERIOD", 1]
    train(tiny_config, *SEGMENTOR, *data, *best, "SOLVER.MAX_ITER", 2)

    weights = tmp_path / "output" / "model_final.pth"
    cfg = setup(parse(tiny_config, "--eval-only", *SEGMENTOR, *data, "MODEL.WEIGHTS", weights))
    model = CRTrainer.build_model(cfg)
    CRCheckpointer(model, "", cfg).load(str(weights))
    evaluator = SemSegEvaluator(
        name, sem_seg_loading_fn=lambda path, dtype: np.array(Image.open(path)).astype(dtype)
    )
    truth = inference_on_dataset(model, build_detection_test_loader(cfg, name), evaluator)
    metrics = last_metrics(tmp_path / "output")
    for key, value in flatten_results_dict(truth).items():
        assert json.dumps(metrics[key]) == json.dumps(value), key
    assert set(list_results(cfg)) <= metrics.keys()
    assert (tmp_path / "output" / "model_best.pth").is_file()


AUGMENTED = [
    *("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "SOLVER.MAX_ITER", "2"),
]


def test_augmentation_after_the_last_test(tiny_config, tmp_path):
    output = tmp_path / "output"
    train(tiny_config, *AUGMENTED)
    metrics = last_metrics(output)
    weights = ["MODEL.WEIGHTS", output / "model_final.pth"]
    results = train(
        tiny_config, "--eval-only", *AUGMENTED, *weights, "OUTPUT_DIR", tmp_path / "again"
    )
    assert list(results) == ["bbox", "bbox_TTA"]
    for key, value in flatten_results_dict(results).items():
        assert json.dumps(metrics[key]) == json.dumps(value), key

    cfg = setup(parse(tiny_config, "--eval-only", *AUGMENTED, *weights))
    model = CRTrainer.build_model(cfg)
    CRCheckpointer(model, "", cfg).load(cfg.MODEL.WEIGHTS)
    name, folder = cfg.DATASETS.TEST[0], tmp_path / "by_hand"
    truth = inference_on_dataset(
        GeneralizedRCNNWithTTA(cfg, model),
        build_detection_test_loader(cfg, name),
        COCOEvaluator(name, output_dir=str(folder)),
    )
    assert json.dumps(truth["bbox"]) == json.dumps(results["bbox_TTA"])

    def read(folder):
        return json.loads((folder / "coco_instances_results.json").read_text())

    assert read(folder) == read(output / "inference_TTA") == read(tmp_path / "again/inference_TTA")
    assert read(folder) != read(output / "inference")


@pytest.mark.parametrize(
    "key, value, what",
    [
        ("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.META_ARCHITECTURE 'RetinaNet'"),
        ("MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.META_ARCHITECTURE 'PanopticFPN'"),
        ("MODEL.BACKBONE.NAME", "build_stage_supernet_fpn_backbone", "a supernet"),
        ("MODEL.KEYPOINT_ON", True, "MODEL.KEYPOINT_ON"),
        ("MODEL.LOAD_PROPOSALS", True, "MODEL.LOAD_PROPOSALS"),
        ("MODEL.ROI_HEADS.NAME", "RROIHeads", "rotated boxes"),
    ],
)
def test_augmentation_that_is_not_supported_is_refused(cfg, key, value, what):
    cfg.defrost()
    cfg.TEST.AUG.ENABLED = True
    check_evaluation(cfg, training=True)
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=f"TEST.AUG.ENABLED is True; expected False for {what}"):
        check_evaluation(cfg, training=False)


def test_augmentation_of_a_classifier_is_refused(cfg):
    cfg = of_kind(cfg, "classification")
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    check_evaluation(cfg, training=True)
    cfg.TEST.AUG.ENABLED = True
    with pytest.raises(ValueError, match="'ImageClassifier'"):
        check_evaluation(cfg, training=True)


@pytest.mark.parametrize("masks", [False, True])
def test_list_of_results_is_what_detectron2_gives(tiny_config, tmp_path, masks):
    """Detections that are the ground truth, so that none is missing."""
    cfg = setup(parse(tiny_config))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.MASK_ON = masks
    name = cfg.DATASETS.TEST[0]
    evaluator = COCOEvaluator(
        name, tasks=("bbox", "segm") if masks else ("bbox",), distributed=False
    )
    evaluator.reset()
    evaluator._predictions = [
        {
            "image_id": 1,
            "instances": [
                {
                    "image_id": 1,
                    "category_id": 0,
                    "bbox": [0, 0, 9, 9],
                    "score": 0.5,
                    **({"segmentation": {"size": [64, 64], "counts": "PP1"}} if masks else {}),
                }
            ],
        }
    ]
    if masks:
        data = json.loads((tmp_path / "data" / "annotations.json").read_text())
        for entry in data["annotations"]:
            x, y, w, h = entry["bbox"]
            entry["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
        evaluator._coco_api.dataset = data
        evaluator._coco_api.createIndex()
    assert list_results(cfg) == sorted(
        flatten_results_dict(evaluator.evaluate()), key=lambda result: "-" in result
    )
