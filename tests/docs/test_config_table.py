"""The table of keys in docs/spaces_and_budgets.md against the config."""

import ast
import re
from pathlib import Path

from crnas_d2 import add_crnas_config

from detectron2.config import CfgNode, get_cfg

PAGE = Path(__file__).parents[2] / "docs" / "spaces_and_budgets.md"
ROW = re.compile(r"^\| `(SEARCH\.[\w.]+)` \| (.+?) \|", re.MULTILINE)


def leaves(node, prefix):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_every_key_of_the_search_with_its_default():
    cfg = get_cfg()
    add_crnas_config(cfg)
    table = PAGE.read_text().split("## All keys of SEARCH")[1].split("\n## ")[0]
    documented = {key: ast.literal_eval(default) for key, default in ROW.findall(table)}
    assert documented == dict(leaves(cfg.SEARCH, "SEARCH."))
