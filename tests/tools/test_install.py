"""The installer, with every command that it would run played by a recording stand-in."""

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hanging import HANGS_S

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "install.py"
STEPS = ["venv", "requirements.txt", "requirements-detectron2.txt", "editable", "check"]

# A child process that installs into the checkout argv[1] with Commands(stop_at=argv[2], ...).
CHILD = f"""
import sys
sys.path[:0] = {[str(ROOT / "tests"), str(Path(__file__).parent)]}
from test_install import Commands, installer
from pathlib import Path
installer.find_detectron2 = lambda: None
root = Path(sys.argv[1])
installer.main(root, Commands(root, stop_at=sys.argv[2], how=sys.argv[3]))
"""


def load_installer():
    spec = importlib.util.spec_from_file_location("crnas_d2_installer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


installer = load_installer()


class Commands:
    """Stands in for `subprocess.run`: notes the step, leaves a file there, stops where told."""

    def __init__(self, root, stop_at=None, how=None):
        self.venv = root / ".venv"
        self.stop_at, self.how = stop_at, how
        self.calls, self.steps = [], []

    def __call__(self, command, **kwargs):
        self.calls.append(command)
        step = self.step_of(command)
        self.steps.append(step)
        if step == "venv":
            (self.venv / "bin").mkdir()
            (self.venv / "bin" / "python").symlink_to(sys.executable)
            home = os.path.dirname(sys._base_executable)
            (self.venv / "pyvenv.cfg").write_text(f"home = {home}\n")
            installer.Environment(self.venv.parent).site_packages().mkdir(parents=True)
        (self.venv / f"half-unpacked {step}").touch()
        if step == self.stop_at:
            self.stop(command, kwargs)
        (self.venv / f"half-unpacked {step}").rename(self.venv / step)

    def stop(self, command, kwargs):
        if self.how == "fail":
            raise subprocess.CalledProcessError(1, command)
        if self.how == "interrupt":
            raise KeyboardInterrupt
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "orphan":  # what the killed installer's pip does: it goes on
            pip = subprocess.Popen(["sleep", "60"], pass_fds=kwargs["pass_fds"])
            (self.venv / "pip.pid").write_text(str(pip.pid))
            os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def step_of(command):
        if "pip" not in command:
            return "venv" if "venv" in command else "check"
        if "--editable" in command:
            return "editable"
        return command[command.index("--requirement") + 1]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout to install, seen from a Python without Detectron2."""
    monkeypatch.setattr(installer, "find_detectron2", lambda: None)
    root = tmp_path / "a checkout"
    root.mkdir()
    for name in installer.INPUTS:
        shutil.copy(ROOT / name, root)
    return root


def steps_of_install(root):
    commands = Commands(root)
    installer.main(root, commands)
    return commands.steps


def leftovers(root):
    return [path.name for path in (root / ".venv").glob("half-unpacked*")]


def test_second_run_does_nothing(checkout):
    assert steps_of_install(checkout) == STEPS
    assert steps_of_install(checkout) == []


def test_detectron2_comes_hash_checked_and_without_its_requirements(checkout):
    commands = Commands(checkout)
    installer.main(checkout, commands)
    (command,) = (c for c in commands.calls if "requirements-detectron2.txt" in c)
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(command)
    target = Path(command[command.index("--target") + 1])
    assert target == checkout / ".venv/lib/python{}.{}/site-packages".format(*sys.version_info)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "how, error", [("fail", installer.InstallError), ("interrupt", KeyboardInterrupt)]
)
def test_install_that_was_cut_short_is_built_anew(checkout, step, how, error):
    with pytest.raises(error):
        installer.main(checkout, Commands(checkout, stop_at=step, how=how))
    assert leftovers(checkout)
    assert steps_of_install(checkout) == STEPS
    assert not leftovers(checkout)


@pytest.mark.parametrize("step", STEPS)
def test_killed_install_is_built_anew(checkout, step):
    child = subprocess.run([sys.executable, "-c", CHILD, str(checkout), step, "kill"])
    assert child.returncode == -signal.SIGKILL
    assert leftovers(checkout)
    assert steps_of_install(checkout) == STEPS
    assert not leftovers(checkout)


def test_killed_before_the_first_state_was_complete(checkout):
    environment = installer.Environment(checkout)
    environment.path.mkdir()
    environment.state_draft.write_text('{"interp')
    assert steps_of_install(checkout) == STEPS


def test_failed_command_is_named(checkout):
    commands = Commands(checkout, stop_at="requirements.txt", how="fail")
    with pytest.raises(
        installer.InstallError, match="pip install .*--requirement requirements.txt"
    ):
        installer.main(checkout, commands)


def test_environment_whose_python_is_gone_is_built_anew(checkout):
    steps_of_install(checkout)
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(checkout / "removed" / "python3")
    assert steps_of_install(checkout) == STEPS


@pytest.mark.parametrize("name", installer.INPUTS)
def test_changed_inputs_are_installed_into_the_same_environment(checkout, name):
    steps_of_install(checkout)
    with open(checkout / name, "a") as file:
        file.write("\n# changed\n")
    assert steps_of_install(checkout) == STEPS[1:]
    assert steps_of_install(checkout) == []


def test_update_that_was_cut_short_is_built_anew(checkout):
    steps_of_install(checkout)
    (checkout / "requirements.txt").write_text("torch==2.16.0\n")
    with pytest.raises(installer.InstallError):
        installer.main(checkout, Commands(checkout, stop_at="requirements.txt", how="fail"))
    assert steps_of_install(checkout) == STEPS


def test_other_interpreter_needs_another_environment(checkout, monkeypatch):
    steps_of_install(checkout)
    monkeypatch.setattr(sys, "base_prefix", "/opt/another-python")
    assert steps_of_install(checkout) == STEPS


@pytest.mark.parametrize("content", ["directory", "file", "dangling link"])
def test_environment_of_somebody_else_is_left_alone(checkout, content):
    venv = checkout / ".venv"
    if content == "directory":
        venv.mkdir()
        (venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
    elif content == "file":
        venv.write_text("/home/me/environment")
    else:
        venv.symlink_to(checkout / "unmounted")
    with pytest.raises(installer.InstallError, match="was not made by this installer"):
        steps_of_install(checkout)
    if content == "directory":
        assert [path.name for path in venv.iterdir()] == ["pyvenv.cfg"]


def test_environment_may_lie_on_another_disk(checkout, tmp_path):
    (tmp_path / "big disk").mkdir()
    (checkout / ".venv").symlink_to(tmp_path / "big disk")
    with pytest.raises(installer.InstallError):
        installer.main(checkout, Commands(checkout, stop_at="check", how="fail"))
    assert steps_of_install(checkout) == STEPS
    assert (tmp_path / "big disk" / "install.json").exists()


def test_concurrent_install_waits_and_then_finds_all_done(checkout):
    child = [sys.executable, "-u", "-c", CHILD, str(checkout), "none", "none"]
    with installer.locked(checkout / ".venv.lock"):
        waiting = subprocess.Popen(child, stdout=subprocess.PIPE, text=True)
        assert "waiting for the installation" in waiting.stdout.readline()
        assert not (checkout / ".venv").exists()
        environment = installer.Environment(checkout)
        plan = installer.make_plan(checkout)
        installer.build(environment, plan, Commands(checkout))
        built = environment.state_file.read_bytes()
    assert waiting.wait(HANGS_S) == 0
    assert waiting.stdout.read() == ""
    assert environment.state_file.read_bytes() == built


def test_pip_of_a_killed_installer_is_waited_for(checkout):
    child = [sys.executable, "-c", CHILD, str(checkout), "requirements.txt", "orphan"]
    assert subprocess.run(child).returncode == -signal.SIGKILL
    again = [sys.executable, "-u", "-c", CHILD, str(checkout), "none", "none"]
    waiting = subprocess.Popen(again, stdout=subprocess.PIPE, text=True)
    assert "waiting for the installation" in waiting.stdout.readline()
    assert leftovers(checkout)
    os.kill(int((checkout / ".venv" / "pip.pid").read_text()), signal.SIGKILL)
    assert waiting.wait(HANGS_S) == 0
    assert not leftovers(checkout)


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 14), (3, 14, 0), (4, 0, 0)])
def test_unsupported_python_is_refused(version):
    wanted = r"Python 3\.11 to 3\.13 is needed by .*, but .* is {}\.{}\. Name another"
    wanted = wanted.format(*version) + ".*make PYTHON="
    with pytest.raises(installer.InstallError, match=wanted):
        installer.check_python(version)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 9), (3, 13, 1)])
def test_supported_python(version):
    installer.check_python(version)


def test_old_python_can_read_the_script_that_refuses_it():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


@pytest.fixture
def own_python(tmp_path):
    """The Python of a user's environment with a Detectron2 and an old package in it."""
    environment = tmp_path / "own"
    venv = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(venv, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    source = tmp_path / "detectron2 source" / "detectron2"  # as after pip install -e
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (packages / "detectron2.pth").write_text(str(source.parent) + "\n")
    for name, version in [("torch", "2.5.1+cu124"), ("numpy", "1.26.4"), ("odd", "2004d")]:
        (packages / f"{name}-{version}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (packages / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata)
    return environment / "bin" / "python"


def plan_of(python, root):
    script = (
        f"import json, sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import install; from pathlib import Path\n"
        f"print(json.dumps(install.make_plan(Path({str(root)!r}))))"
    )
    return json.loads(subprocess.check_output([str(python), "-B", "-c", script]))


def test_own_detectron2_is_seen_from_the_new_environment_and_constrains_it(checkout, own_python):
    plan = plan_of(own_python, checkout)
    source = own_python.parents[2] / "detectron2 source" / "detectron2" / "__init__.py"
    assert plan["foundation"]["detectron2"] == str(source)

    before = sorted(own_python.parents[1].rglob("*"))
    environment = installer.Environment(checkout)
    commands = Commands(checkout)
    installer.build(environment, plan, commands)
    assert commands.steps == ["venv", "editable", "check"]
    pip = commands.calls[1]
    assert pip[-1] == ".[digits,test]" and "--target" not in pip and "--upgrade" not in pip
    constraints = Path(pip[pip.index("--constraint") + 1]).read_text().split()
    assert constraints == ["numpy==1.26.4", "torch==2.5.1+cu124"]

    script = "import detectron2; print(detectron2.__file__)"
    output = subprocess.check_output([str(environment.python), "-B", "-c", script], text=True)
    assert output.strip() == str(source)
    assert sorted(own_python.parents[1].rglob("*")) == before


def test_own_detectron2_that_appears_needs_another_environment(checkout, own_python):
    steps_of_install(checkout)
    commands = Commands(checkout)
    installer.build(installer.Environment(checkout), plan_of(own_python, checkout), commands)
    assert commands.steps == ["venv", "editable", "check"]


def test_directory_called_detectron2_is_no_detectron2(tmp_path, monkeypatch):
    finder = load_installer().find_detectron2
    monkeypatch.setitem(sys.modules, "detectron2", None)
    monkeypatch.delitem(sys.modules, "detectron2")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    assert finder() is None
    (tmp_path / "detectron2").mkdir()
    assert finder() is None
    (tmp_path / "detectron2" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert finder() == str(tmp_path / "detectron2" / "__init__.py")


def test_active_environment_is_left_for_the_interpreter_that_made_it(checkout):
    """The recorded interpreter is a program that prints its arguments."""
    (checkout / "tools").mkdir()
    script = Path(shutil.copy(SCRIPT, checkout / "tools"))
    environment = checkout / ".venv"
    venv = [sys._base_executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(venv, check=True)
    state = {"interpreter": shutil.which("echo"), "built": None}
    (environment / "install.json").write_text(json.dumps(state))
    command = [str(environment / "bin" / "python"), str(script)]
    assert subprocess.check_output(command, text=True).strip() == str(script)

    state["interpreter"] = "/nowhere/python3"
    (environment / "install.json").write_text(json.dumps(state))
    refused = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert refused.returncode == 1
    assert refused.stderr.strip() == "install: /nowhere/python3 is gone: deactivate .venv first"
