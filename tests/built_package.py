"""The package as it leaves the checkout, built once for all tests that look at it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", "build", "dist", "output", "datasets", "*.egg-info", "__pycache__", ".*_cache"
)
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A copy of the checkout without what was built in it."""
    directory = tmp_path_factory.mktemp("source") / "checkout"
    return Path(shutil.copytree(ROOT, directory, ignore=NOT_SOURCE))


@pytest.fixture(scope="session")
def sdist(source, tmp_path_factory):
    """The unpacked sdist."""
    directory = tmp_path_factory.mktemp("sdist")
    build = f"from setuptools.build_meta import build_sdist; build_sdist({str(directory)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True)
    (archive,) = directory.glob("crnas_d2-*.tar.gz")
    shutil.unpack_archive(archive, directory)
    (unpacked,) = (path for path in directory.glob("crnas_d2-*") if path.is_dir())
    return unpacked


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    """The wheel that pip builds from the sdist, without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    pip = [*PIP, "wheel", "--no-cache-dir", "--wheel-dir", str(directory)]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *offline, str(sdist)], check=True)
    (path,) = directory.iterdir()
    return path


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The folder into which pip has installed the wheel, with ``bin/crnas``."""
    directory = tmp_path_factory.mktemp("installed")
    install = [*PIP, "install", "--no-index", "--no-deps", "--target", str(directory), str(wheel)]
    subprocess.run(install, check=True)
    return directory
