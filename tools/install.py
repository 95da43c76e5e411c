"""Builds `.venv`, the environment in which `make demo` and `make test` run.

On a bare Python everything comes from PyPI, pinned by requirements.txt and
requirements-detectron2.txt. Where the Python that runs this script can import a Detectron2 already,
`.venv` looks into that Python's site-packages instead and receives only what is missing there;
nothing outside `.venv` is changed.

A complete `.venv` is left alone. One that was cut short, at whatever point, is emptied and built
again. This file uses the standard library only and keeps to Python 3.6's syntax, so that an old
Python is told what is wrong.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 11), (3, 13)
INPUTS = "requirements.txt", "requirements-detectron2.txt", "setup.py", "pyproject.toml"
PEP_440 = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[\w.]+)?")


class InstallError(Exception):
    """Tells the user in one sentence why there is no environment."""


class Environment:
    """The `.venv` of a checkout and the state file inside it.

    The state file is the first file written into `.venv` and distinguishes it from an environment
    that was created otherwise. It holds the interpreter that builds and, once every step is done,
    what was built.
    """

    def __init__(self, root: Path):
        self.path = root / ".venv"
        self.python = self.path / "bin" / "python"
        self.state_file = self.path / "install.json"
        self.state_draft = self.path / "install.json.draft"

    def state(self) -> dict:
        try:
            return json.loads(self.state_file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def set_built(self, built: "dict | None"):
        """Records `built`, or with None that a build is under way, in one atomic step."""
        with open(self.state_draft, "w") as file:
            json.dump({"interpreter": sys.executable, "built": built}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.state_draft, self.state_file)

    def built(self) -> "dict | None":
        """Returns what the complete environment was built from, None if it is not complete."""
        return self.state().get("built") if self.python.exists() else None

    def claim(self):
        """Takes possession of `.venv` and marks it as being built.

        Raises:
            InstallError: there is a `.venv` that was created otherwise.
        """
        if os.path.lexists(self.path) and not self.is_ours():
            raise InstallError(
                f"{self.path} was not made by this installer and is left as it is. Move it away and run the "
                "same make command again."
            )
        self.path.mkdir(exist_ok=True)
        self.set_built(None)

    def is_ours(self) -> bool:
        if not self.path.is_dir():
            return False
        return bool(self.state()) or not set(self.path.iterdir()) - {self.state_draft}

    def empty(self):
        for entry in self.path.iterdir():
            if entry == self.state_file:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def site_packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.path)}))


def check_python(version=sys.version_info):
    """Raises InstallError unless `version` is one that the pinned requirements support."""
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        raise InstallError(
            "Python {}.{} to {}.{} is needed by the versions in requirements.txt, but {} is {}.{}. "
            "Name another one: make PYTHON=/path/to/python3".format(
                *OLDEST, *NEWEST, sys.executable or "this Python", *version[:2]
            )
        )


def find_detectron2() -> "str | None":
    """Returns the file of the Detectron2 that this Python would import."""
    spec = importlib.util.find_spec("detectron2")
    return spec.origin if spec else None


def installed_versions() -> "list[str]":
    """Returns a constraint "name==version" for every distribution that this Python sees.

    setuptools stays free, because building and pkg_resources set bounds of their own.
    """
    from importlib import metadata

    versions = {}
    for distribution in metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name and version and PEP_440.fullmatch(version):
            versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), version)
    free = "crnas-d2", "setuptools"
    return sorted("==".join(item) for item in versions.items() if item[0] not in free)


def make_plan(root: Path) -> dict:
    """Returns everything that determines the content of the environment.

    "foundation" cannot be changed in an existing environment; the rest can.
    """
    detectron2 = find_detectron2()
    directories = site.getsitepackages() + [site.getusersitepackages()]
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((root / name).read_bytes() + b"\0")
    return {
        "foundation": {
            "python": "{}.{}".format(*sys.version_info),
            "prefix": sys.base_prefix,
            "detectron2": detectron2,
            "site_packages": [d for d in directories if detectron2 and d in sys.path],
        },
        "installed": installed_versions() if detectron2 else [],
        "inputs": digest.hexdigest(),
    }


def build(environment: Environment, plan: dict, run):
    """Builds the environment that `plan` describes; `run(command)` raises if a command fails."""
    foundation = plan["foundation"]
    before = environment.built()
    environment.claim()
    if not before or before["foundation"] != foundation:
        say(f"building {environment.path}")
        environment.empty()
        run([sys.executable, "-m", "venv", str(environment.path)])

    pip = [str(environment.python), "-m", "pip", "install", "--disable-pip-version-check"]
    if foundation["detectron2"]:
        say("using {}, installing what is missing beside it".format(foundation["detectron2"]))
        calls = [f"site.addsitedir({d!a})" for d in foundation["site_packages"]]
        link = environment.site_packages() / "existing_detectron2.pth"
        link.write_text("; ".join(["import site"] + calls) + "\n")
        constraints = environment.path / "constraints.txt"
        constraints.write_text("\n".join(plan["installed"]) + "\n")
        run(pip + ["--constraint", str(constraints), "--editable", ".[digits,test]"])
    else:
        say("installing requirements.txt (PyTorch brings several GB; this takes minutes)")
        run(pip + ["--requirement", "requirements.txt"])
        say("installing Detectron2")
        run(
            pip
            + ["--target", str(environment.site_packages()), "--upgrade", "--no-deps"]
            + ["--only-binary=:all:", "--python-version", "3.10"]
            + ["--require-hashes", "--requirement", "requirements-detectron2.txt"]
        )
        run(pip + ["--no-deps", "--no-build-isolation", "--editable", "."])

    say("checking that everything imports")
    imports = "import torchvision, pycocotools.mask, detectron2.engine"
    run([str(environment.python), "-W", "ignore", "-c", imports])
    environment.set_built(plan)
    say("done")


@contextlib.contextmanager
def locked(path: Path):
    """Holds the lock file `path`, waiting for whoever holds it; yields its file descriptor.

    A child that inherits the descriptor keeps the lock, so the pip of a killed installer is waited
    for.
    """
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for the installation that is running in {path.parent}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def say(message: str):
    print("install: " + message, flush=True)


def main(root=ROOT, run=subprocess.run):
    """Makes the environment of the checkout `root` complete.

    Args:
        root: the checkout.
        run: called like `subprocess.run` for every command.

    Raises:
        InstallError: an unsupported Python, a `.venv` that is not ours, or a command that failed.
    """
    check_python()
    environment = Environment(root)
    if Path(sys.prefix).resolve() == environment.path.resolve() and environment.state():
        # `.venv` is active: the interpreter that created it decides, and can create it again.
        interpreter = environment.state()["interpreter"]
        if not Path(interpreter).exists():
            raise InstallError(f"{interpreter} is gone: deactivate .venv first")
        os.execv(interpreter, [interpreter, str(Path(__file__).resolve())])
    plan = make_plan(root)
    if environment.built() == plan:
        return
    with locked(root / ".venv.lock") as lock:
        if environment.built() == plan:
            return
        try:
            build(
                environment,
                plan,
                lambda command: run(command, check=True, cwd=str(root), pass_fds=[lock]),
            )
        except subprocess.CalledProcessError as error:
            raise InstallError(
                "this command failed, for the reason it gives above: {}\nOnce that is mended, run "
                "the same make command again.".format(" ".join(error.cmd))
            ) from error


if __name__ == "__main__":
    try:
        main()
    except InstallError as error:
        sys.exit(f"install: {error}")
    except KeyboardInterrupt:
        sys.exit("install: interrupted; run the same make command again")
