"""Class counts of archtrain, archval and the test set of a config."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from .class_counts import count_classes
from .shared_images import is_made_at_first_use, source_of_drawn
from .split_table import MOST_ROWS, SplitTable
from .splits import PARTS

logger = logging.getLogger(__name__)


def table_of_parts(
    cfg: CfgNode, final_cfg: CfgNode | None, *, makes: bool = True
) -> SplitTable | None:
    """Get the table of a search: archtrain, archval, and the test set of the final detector.

    Args:
        cfg: config of the search, which is that of its supernet.
        final_cfg: config of the final detector, or None.
        makes: whether datasets that are generated on first use may be generated.

    Returns:
        The table. None if a dataset does not exist.

    Raises:
        ValueError: a file is not in COCO format, or archval cannot be split from it.
    """
    names = names_of_parts(cfg, final_cfg)
    if not makes and any(map(is_made_at_first_use, itertools.chain(*names.values()))):
        return None
    return _table(names, cfg)


def names_of_parts(cfg: CfgNode, final_cfg: CfgNode | None) -> dict[str, Sequence[str]]:
    """Get the datasets of each part of a search, see :func:`table_of_parts`."""
    names = {"archtrain": cfg.DATASETS.TRAIN, "archval": cfg.DATASETS.TEST}
    if final_cfg:
        names["test"] = final_cfg.DATASETS.TEST
    return names


def table_of_training(cfg: CfgNode) -> SplitTable | None:
    """Get the table of a training on archtrain, with its archval and the test set.

    It is None for a training on anything else, or as in :func:`table_of_parts`.
    """
    archtrain, archval = PARTS
    stems = [
        name.removesuffix(archtrain) for name in cfg.DATASETS.TRAIN if name.endswith(archtrain)
    ]
    beside = [stem + archval for stem in stems if is_registered(stem + archval)]
    tests = [name for name in cfg.DATASETS.TEST if name not in beside]
    names = {"archtrain": cfg.DATASETS.TRAIN, "archval": beside, "test": tests}
    return _table(names, cfg) if beside else None


def _table(names: Mapping[str, Sequence[str]], cfg: CfgNode) -> SplitTable | None:
    if not all(map(is_registered, itertools.chain(*names.values()))):
        return None
    try:
        return SplitTable.of(names, cfg.DATASETS)
    except OSError as error:
        logger.debug(f"What the parts have of each class was not counted: {error}")
        return None


def tell(table: SplitTable) -> None:
    """Log a table. The terminal shows a selection, the log file all classes."""
    where = " (of all classes in log.txt)" if len(table.classes) > MOST_ROWS else ""
    logger.info(f"What the parts have of each class{where}:\n{table.describe(MOST_ROWS)}")
    if where:
        logger.debug(f"What the parts have of all classes:\n{table.describe()}")
    for sentence in table.warnings():
        logger.warning(sentence)


def describe_parts(table: SplitTable) -> str:
    """Format a table and its warnings, to be appended to other text."""
    return "\n".join(["", table.describe(MOST_ROWS), *table.warnings()])


def count_images(cfg: CfgNode) -> int:
    """Count the present or future images in the archval of a search.

    The result is ``ARCHVAL.SIZE`` if the dataset does not exist yet.

    Args:
        cfg: config, whose ``DATASETS.TEST`` is only archval.

    Raises:
        ValueError: as :func:`table_of_parts`.
    """
    (name,) = cfg.DATASETS.TEST
    if is_registered(name) and not is_made_at_first_use(name):
        try:
            return count_classes(name, cfg.DATASETS).images
        except OSError as error:
            logger.debug(f"The images of {name} were not counted: {error}")
    return cfg.DATASETS.ARCHVAL.SIZE


def is_registered(name: str) -> bool:
    """Whether a name stands for a dataset, or for part of one."""
    return name in DatasetCatalog or source_of_drawn(name) is not None
