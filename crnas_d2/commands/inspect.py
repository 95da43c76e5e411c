"""Show datasets on one page before a training: the findings of the checks, and what is in them.

The page also shows how a detector's input size, levels and anchors fit the datasets.

crnas inspect --config-file Search/digits.yaml
crnas inspect --json cells/train.json --images cells/images --output cells_train.html
crnas inspect --json cells/train.json --images cells/images \\
    --config-file Small-Data/faster_rcnn_R_18_FPN.yaml INPUT.MIN_SIZE_TEST 384

A recipe's page has the training set, its two parts archtrain and archval, and the test set. The
numbers of the page are written beside it, as JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.collect_env import collect_env_info

from .. import __version__
from ..config import read_config
from ..data import setup_datasets
from ..data.class_names import tell_apart
from ..data.examine import examine
from ..data.findings import Findings
from ..data.image_check import look_at_images
from ..data.parts import table_of_parts, table_of_training
from ..data.shared_images import share_by_name
from ..data.sound_part import read_sound_part
from ..files import write_atomically
from ..library_warnings import ignore_missing_cuda
from ..paths import check_not_read, is_remote
from ..procedure.recipe import Recipe, is_recipe
from ..report.inspection import Dataset, Inspection
from ..report.inspection_page import render_inspection
from .command_line import command, command_parser

logger = logging.getLogger(__name__)

DETECTOR = "crnas_d2://Base-RCNN-FPN.yaml"  # for a dataset without a config
PAGE = "index.html"


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = command_parser(__doc__)
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="of a search, a recipe or a detector, whose datasets are shown; with --json, of the "
        f"detector (default: {DETECTOR})",
    )
    parser.add_argument("--json", metavar="JSON", help="annotations of one dataset in COCO format")
    parser.add_argument("--images", metavar="FOLDER", help="its images")
    parser.add_argument(
        "--output",
        metavar="FOLDER_OR_HTML",
        help="folder of index.html, or a name that ends in .html (default: inspection in OUTPUT_DIR)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values")
    args = parser.parse_args(argv)
    if bool(args.json) != bool(args.images):
        parser.error("one of --json and --images is missing; expected both or none of them")
    if not (args.json or args.config_file):
        parser.error("expected --config-file, or --json with --images")

    if args.json:
        check_paths(args)
        cfg = read_config(args.config_file or DETECTOR, args.opts)
        name = os.path.splitext(os.path.basename(args.json))[0]
        cfg.DATASETS.COCO_JSON = [[name, args.json, args.images]]
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
        title, steps = f"Dataset {args.json}", [cfg.clone()]
    else:
        cfg, steps = read_datasets(args.config_file, args.opts)
        title = f"Datasets of {args.config_file}"
    page = args.output or os.path.join(cfg.OUTPUT_DIR, "inspection")
    if not page.lower().endswith(".html"):
        page = os.path.join(page, PAGE)
    numbers = f"{os.path.splitext(page)[0]}.json"
    for output in (page, numbers):
        check_not_read(output, inputs(cfg, args))

    with quiet():
        inspection = inspect(cfg, steps)
    with ignore_missing_cuda():
        versions = f"crnas_d2 {__version__}\n{collect_env_info()}"
    settings = {"Keys": shown_keys(cfg), "Versions": versions}
    os.makedirs(os.path.dirname(os.path.abspath(page)), exist_ok=True)
    write_atomically(page, render_inspection(inspection, title, settings))
    write_atomically(numbers, inspection.as_json(title))
    errors = sum(len(found.errors) for found in inspection.findings)
    kinds = sum(len(found.warnings) for found in inspection.findings)
    print(f"wrote {page} and {numbers}: {_count(errors, 'error')}, {_count(kinds, 'warning')}")


def check_paths(args: argparse.Namespace) -> None:
    """Check that the annotations and images exist.

    Raises:
        FileNotFoundError: they do not.
    """
    for option, is_there, kind in (
        ("json", os.path.isfile, "file"),
        ("images", os.path.isdir, "folder"),
    ):
        path = getattr(args, option)
        if not (is_remote(path) or is_there(path)):
            raise FileNotFoundError(f"--{option} {path}: there is no such {kind}")


def read_datasets(path: str, opts: Sequence[str]) -> tuple[CfgNode, list[CfgNode]]:
    """Read the config of the datasets.

    Returns:
        The config of a detector, with the datasets of all trainings and searches of a recipe, and
        the configs of the single steps.

    Raises:
        OSError, ValueError: the config does not exist, or describes a classifier.
    """
    cfg = read_config(path, opts)
    configs = [cfg]
    if is_recipe(cfg):
        recipe = Recipe(path, opts)
        keys = ("FINAL", "STAGE_SUPERNET", "DILATION_SUPERNET")
        configs = [recipe.config(recipe.names[key]) for key in keys if recipe.names[key]]
        cfg = configs[0].clone()
        cfg.DATASETS.TRAIN = _once(name for c in configs for name in c.DATASETS.TRAIN)
        cfg.DATASETS.TEST = _once(name for c in configs[::-1] for name in c.DATASETS.TEST)
        cfg.OUTPUT_DIR = recipe.cfg.OUTPUT_DIR
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        raise ValueError(
            f"{path}: MODEL.META_ARCHITECTURE is 'ImageClassifier'; expected a detector, whose datasets "
            "have objects"
        )
    return cfg, [c.clone() for c in configs]


def inspect(cfg: CfgNode, steps: Sequence[CfgNode]) -> Inspection:
    """Check the datasets of a config, and read as much of them as possible.

    Args:
        cfg: config of the detector, with all datasets.
        steps: configs that the datasets come from. They are changed.
    """
    findings = check(cfg, steps)
    notes: list[str] = []
    sets: list[Dataset] = []
    for name in _once((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)):
        try:
            data = read_dataset(name, cfg)
            _ = data.objects  # raises an error for images without a size
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            notes.append(f"Nothing of {name} can be shown: {error or type(error).__name__}")
            logger.debug(f"{name} cannot be shown", exc_info=True)
            continue
        # No images of a part if the whole dataset is shown
        data.shown = not any(share_by_name(name, other.name) for other in sets)
        sets.append(data)
    return Inspection(cfg, sets, findings, [*notes, *tell_parts(steps)])


def tell_parts(steps: Sequence[CfgNode]) -> list[str]:
    """List sentences on the classes that archtrain, archval or the test set lack."""
    first, search = steps[0], steps[-1]
    is_final = first.DATASETS.TEST != search.DATASETS.TEST
    try:
        if len(steps) > 1:
            table = table_of_parts(search, first if is_final else None)
        else:
            table = table_of_training(first)
    except ValueError:  # the checks have reported it
        return []
    return [f"{sentence}." for sentence in (*table.notes, *table.warnings())] if table else []


def check(cfg: CfgNode, steps: Sequence[CfgNode]) -> list[Findings]:
    """Run the checks before a training, and get their findings for each file or folder."""
    found = examine(cfg)
    faulty = [findings.path for findings in found if findings.errors]
    of_all = Findings("the datasets together")
    for step in steps:
        try:
            setup_datasets(step)
        except (OSError, ValueError) as error:
            told = any(path in str(error) for path in faulty)
            if not told and str(error) not in of_all.errors:
                of_all.error(str(error))
    there = cfg.clone()
    for key in ("TRAIN", "TEST"):
        there.DATASETS[key] = tuple(
            n for n in cfg.DATASETS[key] if n in DatasetCatalog and not _is_faulty(n, cfg, faulty)
        )
    try:
        found += look_at_images(there)
    except (OSError, ValueError) as error:
        of_all.error(str(error))
    by_path: dict[str, Findings] = {}
    for findings in [*found, of_all]:
        together = by_path.setdefault(findings.path, Findings(findings.path))
        together.errors += [e for e in findings.errors if e not in together.errors]
        together.warnings |= findings.warnings
    return list(by_path.values())


def _is_faulty(name: str, cfg: CfgNode, faulty: Sequence[str]) -> bool:
    entries = (*cfg.DATASETS.COCO_JSON, *cfg.DATASETS.VOC_DIRS)
    return any(entry[0] == name and entry[1] in faulty for entry in entries)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what the checks log within a ``with`` block, as the page shows it."""
    loggers = [logging.getLogger(name) for name in ("crnas_d2.data", "detectron2")]
    levels = [logger.level for logger in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(loggers, levels):
            log.setLevel(level)


def read_dataset(name: str, cfg: CfgNode) -> Dataset:
    """Read a dataset as Detectron2 does, or the valid part of a COCO json that it cannot read.

    Raises:
        OSError, ValueError, KeyError, TypeError, AssertionError: it cannot be read at all.
    """
    entry = next((entry for entry in cfg.DATASETS.COCO_JSON if entry[0] == name), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            images = DatasetCatalog.get(name)
        return Dataset(name, images, _class_names(name, images))
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        if entry is None:
            raise
        logger.debug(f"{name} cannot be read by Detectron2", exc_info=True)
    images, class_names, lost_images, lost_objects = read_sound_part(*entry[1:])
    note = "only what is sound of it is shown, which Detectron2 cannot go on with"
    if lost_images or lost_objects:
        note += f"; {lost_images:,} images and {lost_objects:,} objects are left out"
    return Dataset(name, images, class_names, notes=[f"{note}."])


def _class_names(name: str, images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Get the names of the classes, or numbered ones if the dataset has none."""
    names = MetadataCatalog.get(name).get("thing_classes")
    if names:
        return tell_apart(names)
    indices = (o["category_id"] for image in images for o in image.get("annotations", ()))
    return [f"class {index}" for index in range(max(indices, default=-1) + 1)]


def shown_keys(cfg: CfgNode) -> str:
    """Format the keys of the datasets and of the input."""
    return CfgNode({"DATASETS": cfg.DATASETS, "INPUT": cfg.INPUT}).dump()


def inputs(cfg: CfgNode, args: argparse.Namespace) -> Iterable[str]:
    """List the files that the page must not replace."""
    yield from (entry[1] for entry in cfg.DATASETS.COCO_JSON if len(entry) > 1)
    yield args.config_file or ""


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
