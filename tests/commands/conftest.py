import importlib

import pytest


@pytest.fixture(scope="module")
def tool(request):
    """The command that a file of tests is about: test_x_command.py tests crnas_d2/commands/x.py."""
    name = request.module.__name__.removeprefix("test_").removesuffix("_command")
    return importlib.import_module(f"crnas_d2.commands.{name}")
