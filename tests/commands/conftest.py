import contextlib
import importlib
import re
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def tool(request):
    """The command that a file of tests is about: test_x_command.py tests crnas_d2/commands/x.py."""
    name = request.module.__name__.removeprefix("test_").removesuffix("_command")
    return importlib.import_module(f"crnas_d2.commands.{name}")


@pytest.fixture
def refused(capsys):
    """As pytest.raises, for a command that ends with exit code 1 and a message on stderr.

    Gives what it has said: out and err.
    """

    @contextlib.contextmanager
    def refused(message):
        capsys.readouterr()
        said = SimpleNamespace(out="", err="")
        with pytest.raises(SystemExit) as end:
            yield said
        said.out, said.err = capsys.readouterr()
        assert end.value.code == 1 and "Traceback" not in said.out + said.err
        assert re.search(f"^.*: error: .*{message}", said.err, re.DOTALL), said.err

    return refused
