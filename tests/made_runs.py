"""Folders as trainings and searches leave them, with made results."""

import json
import os

import yaml

from crnas_d2.architecture import format_code
from crnas_d2.config import configs_dir

R_18 = "COCO-Detection/faster_rcnn_R_18_FPN_1x.yaml"
R_18_CLASSIFIER = "ImageNet/R_18.yaml"


def make_run(folder, lines, base=R_18, seed=1, test=None, code=None, operations=(), **keys):
    """OUTPUT_DIR of a training: ``lines`` are those of metrics.json, as dicts or as they stand."""
    folder.mkdir(parents=True)
    cfg = {"_BASE_": os.path.abspath(os.path.join(configs_dir(), base))}
    cfg |= {"OUTPUT_DIR": str(folder), "SEED": seed, **keys}
    if code is not None:
        codes = {"STAGE_CODE": list(code), "OPERATION_CODE": list(operations)}
        cfg["MODEL"] = {"CR": codes}
    if test is not None:
        cfg["DATASETS"] = {"TEST": list(test)}
    (folder / "config.yaml").write_text(yaml.safe_dump(cfg))
    lines = [line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines]
    (folder / "metrics.json").write_text("".join(lines))
    return str(folder)


def make_detector(folder, ap, **options):
    return make_run(folder, [{"iteration": 90000, "bbox/AP": ap, "bbox/AP50": ap + 20}], **options)


def make_classifier(folder, top1, **options):
    line = {"iteration": 9, "classification/top1": top1, "classification/top5": 99.0}
    return make_run(folder, [line], base=R_18_CLASSIFIER, **options)


def make_search(folder, scores, step="stage", metric="bbox/AP"):
    """OUTPUT_DIR of a search that ranked ``scores`` by code, best first."""
    make_run(folder, [], base="Supernet/stage_supernet_R_18_FPN.yaml", test=["own_archval"])
    ranking = [[format_code(code), score] for code, score in scores.items()]
    result = {"step": step, "metric": metric, "rankings": {"8": {"ranking": ranking}}}
    (folder / "result.json").write_text(json.dumps(result))
    return str(folder)
