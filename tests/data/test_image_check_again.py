"""What the check of images remembers, and how processes share it."""

import io
import logging
import os
import signal
import sys
import threading
import time

import pytest
from clean_forks import clean_forks
from hanging import HANGS_S
from listed_images import errors, good, save_jpeg

from crnas_d2.data import image_check, many_files
from crnas_d2.data.image_check import check_images

from detectron2.data.datasets import register_coco_instances

pytestmark = pytest.mark.usefixtures("nothing_is_known")


def test_an_image_is_opened_once(dataset, cfg, opened):
    root = dataset("a.jpg", "b.jpg", "a.jpg")
    for name in ("a.jpg", "b.jpg"):
        save_jpeg(root / name, (24, 16))
    for _ in range(2):
        check_images(cfg)
        image_check._look.cache_clear()  # as in a new process
    assert sorted(opened) == ["a.jpg", "b.jpg"]
    save_jpeg(root / "b.jpg", (24, 17))
    assert [error[:8] for error in errors(cfg)] == ["image 2:"]
    assert sorted(opened) == ["a.jpg", "b.jpg", "b.jpg"]


def test_faults_are_not_remembered(dataset, cfg, opened, monkeypatch):
    """A user's own plugin of Pillow may read the file the next time."""
    root = dataset("a.jpg", good())
    (root / "a.jpg").write_text("<html>")
    assert len(errors(cfg)) == len(errors(cfg)) == 1
    assert sorted(opened) == ["2.png", "a.jpg", "a.jpg"]


def test_links_to_one_file_are_looked_at_once(dataset, cfg, opened):
    root = dataset("a.jpg", "b.jpg")
    save_jpeg(root / "a.jpg", (24, 16))
    (root / "b.jpg").symlink_to(root / "a.jpg")
    check_images(cfg)
    assert opened == ["a.jpg"]


def test_a_folder_that_cannot_be_written(dataset, cfg, tmp_path, opened):
    dataset(good())
    (tmp_path / "file").touch()
    cfg.DATASETS.CACHE_DIR = str(tmp_path / "file" / "cache")
    for _ in range(2):
        check_images(cfg)
        image_check._look.cache_clear()
    assert opened == ["1.png", "1.png"]


def _check(cfg, seconds, looking):
    original = image_check.read_facts

    def read_facts(path, decode):
        looking.put(os.path.basename(path))
        time.sleep(seconds)
        return original(path, decode)

    image_check.read_facts = read_facts
    many_files.SECONDS_BETWEEN_COMMITS = 0.0
    image_check.THREADS = image_check.HEADERS_AT_ONCE = 1
    json_file, root = cfg.DATASETS.COCO_JSON[0][1:]
    register_coco_instances("cells", {}, json_file, root)
    check_images(cfg)


@pytest.fixture
def processes(cfg, tmp_path):
    cfg.DATASETS.COCO_JSON = [
        ["cells", str(tmp_path / "cells.json"), str(tmp_path / "images")],
    ]
    looking = clean_forks.Queue()
    return lambda seconds: clean_forks.Process(target=_check, args=(cfg, seconds, looking)), looking


def test_one_process_looks_and_the_others_wait(dataset, cfg, processes, opened):
    dataset(*[good()] * 4)
    make, looking = processes
    process = make(0.3)
    process.start()
    assert looking.get(timeout=HANGS_S) == "1.png"
    check_images(cfg)
    assert opened == []
    process.join(HANGS_S)
    assert process.exitcode == 0


def test_a_look_that_was_killed_goes_on(dataset, cfg, processes, opened):
    dataset(*[good()] * 6)
    make, looking = processes
    process = make(0.3)
    process.start()
    for _ in range(4):  # three of them were seen
        looking.get(timeout=HANGS_S)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    check_images(cfg)
    assert sorted(opened) in [[f"{i}.png" for i in range(first, 7)] for first in (3, 4)]


def test_no_thread_is_left(dataset, cfg):
    before = threading.active_count()
    dataset(*[good()] * 3)
    check_images(cfg)
    assert threading.active_count() == before


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_bar_is_for_terminals(dataset, cfg, monkeypatch, caplog, is_terminal):
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(many_files, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(many_files, "SECONDS_BEFORE_BAR", 0.0)
    dataset(good())
    with caplog.at_level(logging.INFO):
        check_images(cfg)
    assert ("Looking at images" in stream.getvalue()) == is_terminal
    lines = [record.getMessage() for record in caplog.records]
    assert ("Looking at images: 1 of 1" in lines) == (not is_terminal)
