"""A step goes on where only keys are new that an earlier version did not have."""

import json

import pytest

from crnas_d2.config import default_config
from crnas_d2.procedure.identity import identify, refuse_changes

NEW_KEYS = ("DATASETS.ARCHVAL.GROUP_KEY", "DATASETS.LEFT_OUT_CATEGORIES")


@pytest.fixture
def begun(tmp_path):
    """What an earlier version wrote, which did not have some of the keys."""
    identity = identify(default_config(), searches=False)
    for key in NEW_KEYS:
        del identity[key]
    path = tmp_path / "started.json"
    path.write_text(json.dumps(identity))
    return str(path)


def test_a_key_that_is_new_and_not_used_is_no_change(begun):
    refuse_changes(begun, identify(default_config(), searches=False))


def test_a_key_that_is_new_and_used_is_a_change(begun):
    cfg = default_config()
    cfg.DATASETS.ARCHVAL.GROUP_KEY = "patient"
    with pytest.raises(ValueError, match="DATASETS.ARCHVAL.GROUP_KEY: .* there, .*patient.* now"):
        refuse_changes(begun, identify(cfg, searches=False))
