"""What a document asks its reader to run: fenced blocks, and the commands in those for bash."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """
    Attributes:
        document: relative to the top of the repository.
        line: of its first line.
        language: after the fence.
        text: between the fences.
    """

    document: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.document}:{self.line}"

    @property
    def file_name(self):
        """Of the YAML file that its first line names, such as ``# my_search.yaml``."""
        match = re.match(r"# (\S+\.yaml)\n", self.text)
        return match and match[1]

    def check_complete(self):
        if "..." in self.text:
            raise ValueError(f"{self}: something is left out by '...'")


@dataclass
class Command:
    """
    Attributes:
        text: as the document has it, on one line, without its comment.
        words: after quoting and variables; empty where it only sets variables.
        environment: what is set before the words, for this command; or for all later ones.
    """

    text: str
    words: list = field(default_factory=list)
    environment: dict = field(default_factory=dict)


def read_blocks(path, root):
    """All fenced blocks of a document that name a language."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(path.relative_to(root).as_posix(), text.count("\n", 0, m.start(2)) + 1, m[1], m[2])
        for m in FENCE.finditer(text)
    ]


def read_commands(block, variables):
    """The commands of a block for bash.

    Args:
        variables: that earlier blocks of the document have set; new ones are added.

    Raises:
        ValueError: it uses more of a shell than variables, quotes and continued lines.
    """
    for line in block.text.replace("\\\n", " ").splitlines():
        text = re.sub(r"(^|\s)#.*", "", line)
        if not text.strip():
            continue
        line = re.sub(r"\$\{?(\w+)\}?", lambda m: _lookup(block, m[1], variables), line)
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()`")
        lexer.whitespace_split = True
        words = list(lexer)
        if unknown := [word for word in words if word and set(word) <= set("|&;<>()`")]:
            raise ValueError(f"{block}: {unknown[0]!r} in {text!r}; write it without")
        exported = words[:1] == ["export"]
        words = words[exported:]
        environment = {}
        while words and ASSIGNMENT.fullmatch(words[0]):
            name, _, value = words.pop(0).partition("=")
            environment[name] = value
        if not words:
            variables.update(environment)
        yield Command(" ".join(text.split()), words, environment)


def _lookup(block, name, variables):
    if name not in variables:
        raise ValueError(f"{block}: the variable {name} is not set before")
    return variables[name]


def documents(root):
    """README, then the pages of docs, in the order in which README names them."""
    readme = Path(root) / "README.md"
    text = readme.read_text(encoding="utf-8")

    def place(path):
        name = f"docs/{path.name}"
        return name not in text, text.find(name), name

    return [readme, *sorted(Path(root).glob("docs/*.md"), key=place)]
