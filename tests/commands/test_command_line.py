"""What all commands have in common: their help, and how they end where they cannot go on."""

import os
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hanging import HANGS_S
from warm_python import warm_python

from crnas import COMMANDS
from crnas import main as crnas
from crnas_d2 import __version__, configs_dir

ROOT = Path(__file__).resolve().parents[2]
MISSING = {
    "search": "--config-file no.yaml",
    "train": "--config-file no.yaml",
    "inspect": "--config-file no.yaml",
    "predict": "--model no.yaml --input no.jpg --output out",
    "analyze": "--config-file no.yaml",
    "latency": "--config-file no.yaml",
    "convert": "no.pth out.safetensors",
    "remap": "no.pth out.safetensors --stage-code 1 1 1 1",
    "export": "--config-file no.yaml --output out",
    "sketch": "no.yaml --output out.svg",
    "erf": "--config-file no.yaml --output out.svg",
    "plot": "flops no --output out.svg",
    "compare": "no.json no.json --annotations no.json",
    "visualize": "--config-file no.yaml --input no.json --output out.png",
    "submit": "--gpus-per-node 1 --timeout-min 1 -- train --config-file no.yaml",
}
SCRIPTS = [ROOT / "train_net.py", ROOT / "search_net.py", *sorted((ROOT / "tools").glob("*.py"))]


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["crnas"])
    return tmp_path


def run(*command, warnings=False):
    interpreter = [sys.executable] if warnings else [sys.executable, "-W", "ignore"]
    return subprocess.run(
        [*interpreter, *map(str, command)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )


def test_all_commands_are_there():
    modules = {path.stem for path in (ROOT / "crnas_d2" / "commands").glob("*.py")}
    assert modules - {"__init__", "command_line"} == COMMANDS.keys() == MISSING.keys()


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        crnas(["--help"])
    printed = capsys.readouterr().out
    for name, line in COMMANDS.items():
        assert f"  {name:<11}{line}\n" in printed


def test_the_help_waits_for_no_library():
    """What it imports is the standard library: the package, and so torch, comes with a command."""
    show = "import sys, crnas\ntry: crnas.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = run("-c", show)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "argparse" in loaded and loaded.isdisjoint({"crnas_d2", "detectron2", "numpy", "torch"})


def test_the_import_takes_no_library_that_one_command_alone_needs():
    done = run("-c", "import sys, crnas_d2; print(*sys.modules)")
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "crnas_d2" in loaded
    assert loaded.isdisjoint(
        "hotcoco imagehash jinja2 matplotlib onnx pandas scipy sklearn submitit tensorboard".split()
    )


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        crnas(["--version"])
    assert capsys.readouterr().out == f"crnas {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_examples(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        crnas([name, "--help"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: crnas {name} ") and "--traceback" in printed
    examples = printed.partition("\nexamples:\n")[2].splitlines()
    assert examples and examples[0].startswith(f"  crnas {name} ")
    assert all(line.startswith("  ") for line in examples) and ".py " not in " ".join(examples)
    for name in re.findall(r"\S+\.yaml", " ".join(examples)):
        in_output = name.startswith(("output/", "baseline/", "final/", "final.yaml"))
        assert in_output or os.path.isfile(os.path.join(configs_dir(), name))


@pytest.mark.parametrize(
    "script", [s for s in SCRIPTS if s.stem != "install"], ids=lambda s: s.stem
)
def test_scripts_speak_of_themselves(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {script.name} ")
    assert f"examples:\n  {script.name} " in printed


@pytest.mark.parametrize("argv", [[], ["no"], ["--no"], *([name, "--no"] for name in COMMANDS)])
def test_usage_errors(argv, capsys, folder):
    with pytest.raises(SystemExit, match="2"):
        crnas(argv)
    assert ": error: " in capsys.readouterr().err
    assert not any(folder.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_missing_input_is_told_in_one_line(name, capsys, folder):
    with pytest.raises(SystemExit, match="1"):
        crnas([name, *MISSING[name].split()])
    said = capsys.readouterr().err
    assert said.startswith(f"crnas {name}: error: ") and said.count("\n") == 1
    assert "no." in said or "'no'" in said or "no/" in said
    assert not any(folder.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_traceback_where_it_is_asked_for(name, capsys, folder):
    with pytest.raises(SystemExit, match="1"):
        crnas([name, "--traceback", *MISSING[name].split()])
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last)")
    assert f"\ncrnas {name}: error: " in said
    assert not any(folder.iterdir())


@pytest.mark.parametrize(
    "launcher", [["-m", "crnas_d2", "train"], [ROOT / "train_net.py"]], ids=["module", "script"]
)
def test_of_a_process(launcher):
    done = warm_python().run([*launcher, "--config-file", "no.yaml"])
    assert (done.returncode, done.stdout) == (1, "")
    program = "crnas train" if launcher[0] == "-m" else "train_net.py"
    assert done.stderr == (
        f"{program}: error: config file 'no.yaml': no such file, and none of that name comes with "
        "crnas_d2\n"
    )


def test_of_two_processes():
    """Nothing is said but the sentence, by none of them."""
    done = run(
        "-m", "crnas_d2", "train", "--config-file", "no.yaml", "--num-gpus", 2, warnings=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "crnas train: error: config file 'no.yaml': no such file, and none of that name comes with "
        "crnas_d2"
    ]


def test_of_an_unexpected_fault(monkeypatch, capsys):
    def fail(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(import_module("crnas_d2.commands.analyze"), "analyze_detector", fail)
    with pytest.raises(SystemExit, match="1"):
        crnas(["analyze", "--config-file", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"])
    assert capsys.readouterr().err.endswith("\nKeyError: 'a bug'\n")


def test_of_ctrl_c(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt  # as SIGINT is ignored in a job that a shell runs in the background

    monkeypatch.setattr(import_module("crnas_d2.commands.analyze"), "analyze_detector", interrupt)
    with pytest.raises(SystemExit, match="130"):
        crnas(["analyze", "--config-file", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"])
    assert capsys.readouterr().err == ""
