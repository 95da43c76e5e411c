import logging
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from built_package import installed, sdist, source, wheel  # noqa: F401

from crnas_d2.engine.terminal import LOGGERS
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

# Two threads that share their cores with other programs wait for each other most of the time.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_loggers():
    """A job sets the loggers up for its whole process, on the streams and files of that moment."""
    yield
    setup_logger.cache_clear()
    logging.captureWarnings(False)
    for name in LOGGERS:
        log = logging.getLogger(name)
        log.handlers.clear()
        log.setLevel(logging.NOTSET)
        log.propagate = True


@pytest.fixture
def catalogs():
    """Whatever a test registers is gone after it."""
    datasets, metadata = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield
    for catalog, before in ((DatasetCatalog, datasets), (MetadataCatalog, metadata)):
        catalog.data.clear()
        catalog.data.update(before)
