import pytest
from hanging import HANGS_S
from interpreter import Interpreter
from sandbox import environment, make_sandbox, remove_sandbox


class Reader:
    """Someone who works through documents in one folder, from the top.

    Attributes:
        folder: the sandbox.
        variables: of the shell, by document.
        programs: the Python blocks so far, by document; one goes on with the names of the earlier.
    """

    def __init__(self):
        self.folder = make_sandbox()
        self.python = Interpreter(self.folder, environment(), HANGS_S)
        self.variables = {}
        self.programs = {}

    def close(self):
        self.python.close()
        remove_sandbox(self.folder)


@pytest.fixture(scope="session")
def readers():
    """The reader of a block, see :attr:`Block.reader`."""
    found = {}

    def get(block):
        if block.reader not in found:
            found[block.reader] = Reader()
        return found[block.reader]

    yield get
    for reader in found.values():
        reader.close()
