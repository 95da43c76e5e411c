import logging
import sys
from pathlib import Path

import pytest
import torch

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

# Two threads that share their cores with other programs wait for each other most of the time.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_loggers():
    """Detectron2 sets a logger up once in a process, on the streams and files of that moment."""
    yield
    setup_logger.cache_clear()
    for name in ("crnas_d2", "detectron2", "fvcore"):
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def catalogs():
    """Whatever a test registers is gone after it."""
    datasets, metadata = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield
    for catalog, before in ((DatasetCatalog, datasets), (MetadataCatalog, metadata)):
        catalog.data.clear()
        catalog.data.update(before)
