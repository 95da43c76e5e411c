"""What leaves the checkout (sdist, wheel, their requirements) and the commands that it offers."""

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
NAME = "COCO-Detection/faster_rcnn_CR_R_50_FPN_1x.yaml"


def relative_files(directory, pattern):
    files = {str(path.relative_to(directory)): path for path in directory.rglob(pattern)}
    return {name: path.read_bytes() for name, path in files.items()}


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(file.read(name))


@pytest.mark.parametrize(
    "directory, pattern",
    [("crnas_d2", "*.*"), ("configs", "*.*"), ("tests", "*.py"), ("tools", "*.py")],
)
def test_sdist_is_complete(source, sdist, directory, pattern):
    expected = relative_files(source / directory, pattern)
    assert expected
    assert relative_files(sdist / directory, pattern).items() >= expected.items()


def test_sdist_can_install_and_test_itself(source, sdist):
    files = [
        *source.glob("*.txt"),
        *source.glob("*.toml"),
        *source.glob("*.py"),
        source / "LICENSE",
    ]
    for path in [*files, source / "Makefile", source / ".ci" / "run"]:
        assert (sdist / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_wheel_holds_the_package_and_the_configs_and_nothing_else(source, wheel):
    modules = relative_files(source / "crnas_d2", "*.*")
    configs = relative_files(source / "configs", "*.yaml") | relative_files(
        source / "configs", "*.py"
    )
    expected = {f"crnas_d2/{name}": content for name, content in modules.items()}
    expected["crnas.py"] = (source / "crnas.py").read_bytes()
    expected.update({f"crnas_d2/configs/{name}": content for name, content in configs.items()})
    with zipfile.ZipFile(wheel) as file:
        content = {name: file.read(name) for name in file.namelist() if ".dist-info/" not in name}
    assert content.keys() == expected.keys()
    assert content == expected


def test_installed_wheel_serves_its_own_configs(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    (tmp_path / "own.yaml").write_text(f'_BASE_: "crnas_d2://{NAME}"')
    script = (
        "import crnas_d2, importlib\n"
        "from crnas import COMMANDS\n"
        "cfg = crnas_d2.get_config('own.yaml')\n"
        f"assert cfg == crnas_d2.get_config('{NAME}')\n"
        "for name in COMMANDS: importlib.import_module('crnas_d2.commands.' + name).main\n"
        "print(crnas_d2.__file__, crnas_d2.__version__, list(cfg.MODEL.CR.STAGE_CODE), sep=chr(10))"
    )
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    version = re.fullmatch(r"crnas_d2-(.+?)-py3-none-any\.whl", wheel.name).group(1)
    with zipfile.ZipFile(wheel) as file:
        entry_points = file.read(f"crnas_d2-{version}.dist-info/entry_points.txt").decode()
    assert entry_points.split() == ["[console_scripts]", "crnas", "=", "crnas:main"]
    package = str(tmp_path / "crnas_d2" / "__init__.py")
    assert output.splitlines() == [package, version, "[1, 3, 5, 7]"]


def test_metadata(metadata):
    assert metadata["Name"] == "crnas_d2"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License"] == "Apache-2.0"
    assert sorted(metadata.get_all("Provides-Extra")) == [
        "all",
        "digits",
        "export",
        "fast",
        "predict",
        "slurm",
        "test",
    ]


def pinned():
    """The exact version of every line of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[^*]+", str(r.specifier)) for r in requirements)
    return {r.name: str(r.specifier)[2:] for r in requirements}


def test_lower_bounds_are_those_that_were_tested(metadata):
    lines = (ROOT / "requirements-lowest.txt").read_text().splitlines()
    tested = {Requirement(line).name: line.split("==")[1] for line in lines if "==" in line}
    asked = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    asked = {r.name: r.specifier for r in asked if "test" not in str(r.marker)}
    assert asked.keys() == tested.keys()
    for name, specifier in asked.items():
        (bound,) = (s.version for s in specifier if s.operator == ">=")
        assert Version(bound) == Version(tested[name]), name


def test_metadata_for_an_index(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Project-URL") == ["Paper, https://openreview.net/forum?id=SkxLFaNKwB"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")


def test_pins_satisfy_what_the_package_asks_for(metadata):
    asked = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    versions = pinned()
    assert {r.name for r in asked} <= versions.keys()
    for requirement in asked:
        assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_detectron2_is_pinned_by_its_hash():
    lines = (ROOT / "requirements-detectron2.txt").read_text().splitlines()
    (line,) = (line for line in lines if not line.startswith("#"))
    assert re.fullmatch(r"sal-detectron2==[\d.]+ --hash=sha256:[0-9a-f]{64}", line)


def test_ci_runs_the_test_command_of_the_readme(tmp_path):
    for name in ("make", "chromium"):  # without which it would install the latter
        (tmp_path / name).write_text('#!/bin/sh\necho "$PWD" "$@"\nexit 3\n')
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ci = subprocess.run(
        ["bash", str(ROOT / ".ci" / "run")],
        cwd=tmp_path,
        env=dict(os.environ, PATH=path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ci.stdout == f"{ROOT} lint test\n"
    assert ci.returncode == 3


@pytest.mark.parametrize("target", ["test", "quick", "demo"])
def test_make_installs_first(target):
    dry_run = ["make", "--dry-run", "--no-print-directory", target, "PYTHON=/usr/bin/my-python"]
    lines = subprocess.check_output(dry_run, cwd=ROOT, text=True).splitlines()
    assert lines[0] == "/usr/bin/my-python tools/install.py"
    assert all(line.startswith((".venv/bin/python ", "\t")) for line in lines[1:])
