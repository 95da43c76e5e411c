"""The table of keys in docs/spaces_and_budgets.md against the config."""

import ast
import functools
import re
from pathlib import Path

import pytest

from crnas_d2 import add_crnas_config

from detectron2.config import CfgNode, get_cfg

PAGE = Path(__file__).parents[2] / "docs" / "spaces_and_budgets.md"
TABLES = {
    "SEARCH": "## All keys of SEARCH",
    "MODEL.SUPERNET": "## The keys of a supernet",
}


def leaves(node, prefix):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.mark.parametrize("section", TABLES)
def test_every_key_with_its_default(section):
    cfg = get_cfg()
    add_crnas_config(cfg)
    table = PAGE.read_text().split(TABLES[section])[1].split("\n## ")[0]
    row = re.compile(rf"^\| `({re.escape(section)}\.[\w.]+)` \| (.+?) \|", re.MULTILINE)
    documented = {key: ast.literal_eval(default) for key, default in row.findall(table)}
    node = functools.reduce(CfgNode.__getattr__, section.split("."), cfg)
    assert documented == dict(leaves(node, f"{section}."))
