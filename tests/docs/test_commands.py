"""Every command in README.md and docs/*.md is run, with the reductions of reductions.py alone.

The blocks of a document are run in order, and so are the pages of docs in the order in which README
names them: a block may use what an earlier one has left. A YAML block whose first line is
``# name.yaml`` is written to that file; the others are checked as parts of a config. Python blocks
are executed, each with the names of the earlier ones of its document. docs/results.md is a record
of long runs: its commands are only parsed, by the scripts themselves, and their configs and keys
have to exist.
"""

import json
import os
import pickle
import time

import pytest
import yaml
from blocks import documents, read_blocks, read_commands
from hanging import HANGS_S
from reductions import NOT_RUN, is_submit, job_number, reduce, unfold_make
from sandbox import ROOT

from crnas_d2.config import add_crnas_config, read_config

from detectron2.config import CfgNode, get_cfg

RECORD = "docs/results.md"
BLOCKS = [block for path in documents(ROOT) for block in read_blocks(path, ROOT)]
TO_RUN = [block for block in BLOCKS if block.document != RECORD]
TO_PARSE = [block for block in BLOCKS if block.document == RECORD]
CHECKED = ("bash", "python", "yaml")
NO_COMMANDS = ("text", "bibtex")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_block_is_complete(block):
    assert block.language in CHECKED + NO_COMMANDS
    if block.language in CHECKED:
        block.check_complete()


@pytest.mark.parametrize("block", [b for b in TO_RUN if b.language in CHECKED], ids=str)
def test_block_runs(block, readers):
    reader = readers(block.document)
    {"bash": run_bash, "python": run_python, "yaml": write_yaml}[block.language](block, reader)


@pytest.mark.parametrize("block", [b for b in TO_PARSE if b.language in CHECKED], ids=str)
def test_recorded_block_parses(block, readers):
    assert block.language == "bash"
    reader = readers(block.document)
    for command in commands(block, reader):
        if command.words and command.text not in NOT_RUN:
            program, *arguments = command.words
            assert program == "python", f"{block}: {command.text}"
            printed = run(block, reader, command.text, arguments, command, parse_only=True)
            check_keys(json.loads(printed.splitlines()[-1]))


def test_no_exception_is_left_over():
    texts = {
        c.text for b in BLOCKS if b.language == "bash" for c in read_commands(b, AnyVariable())
    }
    assert NOT_RUN.keys() <= texts


class AnyVariable(dict):
    """All variables are set."""

    def __contains__(self, name):
        return True

    def __missing__(self, name):
        return name


def commands(block, reader):
    return read_commands(
        block, reader.variables.setdefault(block.document, {"PWD": "", "PATH": ""})
    )


def run_bash(block, reader):
    for command in commands(block, reader):
        if command.text in NOT_RUN or not command.words:
            continue
        of_make = command.words[0] == "make"
        for words in unfold_make(command.words[1:], ROOT) if of_make else [command.words]:
            arguments = reduce(words, reader.folder)
            printed = run(block, reader, command.text, arguments, command)
            if is_submit(arguments):
                wait_for_job(block, reader.folder, job_number(printed))


def run(block, reader, text, arguments, command=None, parse_only=False):
    environment = command.environment if command else {}
    code, printed = reader.python.run(arguments, environment, parse_only)
    assert code == 0, (
        f"{block}: exit code {code} of\n  {text}\nrun as\n  python {' '.join(arguments)}\n"
        f"which printed\n{printed[-4000:]}"
    )
    return printed


def wait_for_job(block, folder, number):
    """Until it has ended well."""
    task = folder / f"output/jobs/{number}_0"
    result = task.with_name(f"{task.name}_result.pkl")
    end = time.monotonic() + HANGS_S
    while not result.exists():
        assert time.monotonic() < end, f"{block}: job {number} does not end"
        time.sleep(0.2)
    log = task.with_name(f"{task.name}_log.out").read_text()
    assert pickle.loads(result.read_bytes())[0] == "success", log[-4000:]


def run_python(block, reader):
    programs = reader.programs.setdefault(block.document, [])
    programs.append(block.text)
    script = reader.folder / "block.py"
    script.write_text("\n".join(programs))
    run(block, reader, block.text, [script.name])


def write_yaml(block, reader):
    if block.file_name:
        (reader.folder / block.file_name).write_text(block.text)
        read_config(os.path.join(reader.folder, block.file_name))
    else:
        cfg = get_cfg()
        add_crnas_config(cfg)
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(block.text)))


def check_keys(args):
    """The config of a command that was parsed, and the keys behind it, exist."""
    config = args.get("config_file")
    for path in [config] if isinstance(config, str) else config or []:
        if (ROOT / path).exists() or path.startswith("configs/"):
            read_config(str(ROOT / path), args.get("opts") or [])
