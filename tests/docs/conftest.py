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
    """One reads README; one reads the pages of docs, which go on in the same folder."""
    found = {}

    def get(document):
        name = "docs" if document.startswith("docs/") else document
        if name not in found:
            found[name] = Reader()
        return found[name]

    yield get
    for reader in found.values():
        reader.close()
