"""Which files some names mean, and their pixels."""

import logging

import cv2
import numpy as np
import pytest
from PIL import Image

from crnas_d2.data.images import Source, UnreadableError, find_sources, read_pixels
from crnas_d2.data.video import Video

from detectron2.data.detection_utils import read_image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A tree of files with nothing in them."""
    names = [
        "b.png",
        "a.JPG",
        "notes.txt",
        "c.mp4",
        "deep/a.jpg",
        "deep/deeper/d.tiff",
        "out/a.jpg",
        "deep/[x].png",
    ]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_of(*inputs, leave_out="nowhere"):
    return [source.name for source in find_sources(inputs, leave_out)]


def test_folder_means_its_images_and_videos_at_any_depth(files):
    deep = ["deep/[x].png", "deep/a.jpg", "deep/deeper/d.tiff"]
    assert names_of("in") == ["a.JPG", "b.png", "c.mp4", *deep, "out/a.jpg"]
    assert names_of("in", leave_out="in/out") == ["a.JPG", "b.png", "c.mp4", *deep]
    assert names_of("in/out", leave_out="in/out/") == ["a.jpg"]  # it was asked for
    assert [source.path for source in find_sources(["in"], "")][:1] == ["in/a.JPG"]


def test_files_are_taken_whatever_their_extension_and_once(files):
    assert names_of("in/notes.txt", "in/b.png", "./in/b.png") == ["notes.txt", "b.png"]
    assert names_of("in/deep/[x].png") == ["[x].png"]
    assert names_of("in/deep/a.jpg", "in").count("a.jpg") == 1  # as it was named first


def test_patterns(files):
    assert names_of("in/*.png") == ["b.png"]
    assert names_of("in/**/*.jpg") == ["a.jpg", "a.jpg"]


@pytest.mark.parametrize("name", ["absent.png", "in/*.gif", "in/d*", "in/empty"])
def test_names_that_mean_nothing(files, name):
    (files / "in" / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no such file, or no image"):
        find_sources(["in", name], "")


def test_urls_are_left_to_iopath():
    assert names_of("https://example.org/x/a.jpg") == ["a.jpg"]


def test_what_is_a_video():
    assert [Source(name, name).is_video for name in ("a.MP4", "b.avi", "c.jpg")] == [1, 1, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_detectron2_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / "a.png")
    Image.fromarray(PIXELS).save(path, exif=exif)
    found = read_pixels(path)
    np.testing.assert_array_equal(found, read_image(path, "BGR")[:, :, ::-1])
    assert found.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_all_modes_become_rgb(tmp_path, mode):
    path = str(tmp_path / "a.tiff")
    Image.fromarray(PIXELS).convert(mode).save(path)
    assert (read_pixels(path).shape, read_pixels(path).dtype) == ((24, 32, 3), np.uint8)


def test_damaged_images(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.tile(PIXELS, (9, 9, 1))).save(path)
    content = path.read_bytes()
    for damaged in (b"", b"no image", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UnreadableError, match="a.jpg: [^<]+$"):  # no Python object
            read_pixels(str(path))
    with pytest.raises(UnreadableError, match="absent.jpg"):
        read_pixels(str(tmp_path / "absent.jpg"))


def write_video(path, code, frames):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 12.5, (width, height))
    for frame in frames:
        writer.write(frame[:, :, ::-1].copy())
    writer.release()


FRAMES = [
    np.full((48, 64, 3), color, np.uint8) for color in ([250, 0, 0], [0, 250, 0], [0, 0, 250])
]


@pytest.mark.parametrize("name, code", [("a.avi", "MJPG"), ("b.mp4", "mp4v"), ("c.mkv", "mp4v")])
def test_frames_of_a_video(tmp_path, name, code):
    write_video(tmp_path / name, code, FRAMES * 2)
    video = Video(str(tmp_path / name))
    assert video.frames_per_second == pytest.approx(12.5)
    frames = list(video)
    assert len(frames) == 6
    for frame, expected in zip(frames, FRAMES * 2):
        assert frame.shape == (48, 64, 3)
        assert np.abs(frame.astype(int) - expected).max() < 16


def test_damaged_videos(tmp_path, caplog):
    path = tmp_path / "a.avi"
    for content in (b"", b"no video"):
        path.write_bytes(content)
        with pytest.raises(UnreadableError, match="a.avi"):
            list(Video(str(path)))
    write_video(path, "MJPG", [np.roll(PIXELS, i, axis=1) for i in range(20)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    logging.getLogger("crnas_d2").propagate = True
    count = len(list(Video(str(path))))
    assert 1 <= count < 20
    assert f"a.avi: {count} frames can be read, of the 20 that it tells of" in caplog.text
