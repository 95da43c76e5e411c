"""What a dry run of a recipe loads and reads, which is no more than it needs."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hanging import HANGS_S
from tiny_search import write_recipe

from crnas_d2.procedure import Recipe, recipe
from crnas_d2.procedure.dry_run import examine_recipe

ROOT = Path(__file__).resolve().parents[2]
DRY_RUN = """
import runpy, sys
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*sys.modules)
"""


def test_a_dry_run_loads_no_library_that_only_a_run_needs(tmp_path):
    command = ["search_net.py", "--config-file", str(write_recipe(tmp_path)), "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-c", DRY_RUN, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert "Ready: all checks" in done.stdout, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "torch" in loaded
    assert loaded.isdisjoint(
        "jinja2 matplotlib onnx onnxruntime pandas sklearn submitit tensorboard".split()
    )


@pytest.mark.usefixtures("catalogs")
def test_each_config_of_a_recipe_is_read_once(tmp_path, monkeypatch):
    read, original = Counter(), recipe.read_config

    def read_config(path, *args):
        read[path] += 1
        return original(path, *args)

    monkeypatch.setattr(recipe, "read_config", read_config)
    whole = Recipe(str(write_recipe(tmp_path)))
    _, found = examine_recipe(whole)
    assert found.is_ready, found.describe()
    assert len(set(whole.names.values())) > 2
    assert read == dict.fromkeys([whole.path, *filter(None, whole.names.values())], 1)
