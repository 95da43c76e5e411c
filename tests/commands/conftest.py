import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def tool(request):
    """The script that a file of tests is about, as a module: test_x.py tests tools/x.py."""
    name = request.module.__name__.removeprefix("test_")
    path = Path(__file__).parents[2] / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
