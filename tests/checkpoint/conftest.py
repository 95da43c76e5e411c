"""Weights of the model zoo, and the log of what is loaded."""

import logging

import pytest
import zoo_files


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
