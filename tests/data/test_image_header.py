"""Detectron2's own reading judges what is read from headers, and what is refused."""

import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from crnas_d2.data.image_header import Fault, read_facts

from detectron2.data.detection_utils import read_image

FORMATS = {"jpg": {}, "png": {}, "tif": {}, "webp": {"lossless": True}}


def fault_of(path, decode=False):
    seen = read_facts(path, decode)
    return seen.what if isinstance(seen, Fault) else None


def save_turned(path, orientation, **options):
    """A dark image of 24 x 16 whose left upper quarter is white, with an orientation."""
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :12] = 255
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[274] = orientation
    image.save(path, exif=exif, **options)
    return pixels


def upright(pixels, orientation):
    """As the EXIF standard says: the 0th row and column are at these sides of what is seen."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    return turns[orientation](pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", FORMATS)
def test_the_size_is_that_which_detectron2_reads(tmp_path, extension, orientation):
    path = str(tmp_path / f"a.{extension}")
    stored = save_turned(path, orientation, **FORMATS[extension])
    seen = read_facts(path)
    read = read_image(path, "RGB")
    bright = read[..., 0] > 128
    if extension == "tif" and orientation in (6, 8):
        assert "on its head" in seen.what
        np.testing.assert_array_equal(bright, stored[::-1, ::-1, 0] > 128)
        return
    assert seen.size == read.shape[1::-1]
    assert (seen.width, seen.height) == (24, 16)
    assert seen.orientation == orientation
    shown = stored if extension == "tif" else upright(stored, orientation)
    np.testing.assert_array_equal(bright, shown[..., 0] > 128)


def test_an_orientation_behind_the_pixels_of_a_png(tmp_path):
    path = str(tmp_path / "a.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (24, 16)).save(path)
    with open(path, "r+b") as f:
        f.seek(-12, 2)
        end = f.read()
        f.seek(-12, 2)
        PngImagePlugin.putchunk(f, b"eXIf", exif.tobytes()[6:])
        f.write(end)
    assert read_image(path, "RGB").shape[1::-1] == read_facts(path).size == (16, 24)


def test_the_pixels_of_a_png_are_not_decoded(tmp_path, monkeypatch):
    path = str(tmp_path / "a.png")
    Image.new("RGB", (24, 16)).save(path)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    assert read_facts(path).size == (24, 16)


def test_an_orientation_in_xmp(tmp_path):
    path = str(tmp_path / "a.jpg")
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.new("RGB", (24, 16)).save(path, xmp=xmp)
    assert read_image(path, "RGB").shape[1::-1] == read_facts(path).size


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_mean_nothing(tmp_path, orientation):
    path = str(tmp_path / "a.jpg")
    save_turned(path, orientation)
    assert read_image(path, "RGB").shape[1::-1] == read_facts(path).size == (24, 16)
    assert read_facts(path).orientation == 1


def same_image(mode):
    """A gradient, in a mode, and how it looks in RGB."""
    gray = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1)))
    if mode == "1":
        gray = gray.point(lambda v: 255 * (v > 128))
    return gray.convert("P" if mode == "P" else mode), gray.convert("RGB")


@pytest.mark.parametrize(
    "mode, extension",
    [("1", "png"), ("L", "jpg"), ("P", "png"), ("P", "gif"), ("LA", "png"), ("RGBA", "png")]
    + [("RGB", "bmp"), ("CMYK", "jpg"), ("CMYK", "tif"), ("RGB", "ppm"), ("I;16", "png")],
)
@pytest.mark.parametrize("decode", [False, True])
def test_modes_that_detectron2_reads_right(tmp_path, mode, extension, decode):
    path = str(tmp_path / f"a.{extension}")
    image, seen = same_image(mode)
    image.save(path, **({"quality": 100} if extension == "jpg" else {}))
    facts = read_facts(path, decode)
    assert facts.decoded == decode
    assert facts.mode == Image.open(path).mode
    difference = read_image(path, "RGB").astype(int) - np.asarray(seen)
    assert abs(difference).max() <= 8


def test_the_first_of_several_pages(tmp_path):
    path = str(tmp_path / "a.tif")
    pages = [Image.new("RGB", size, "red") for size in ((24, 16), (9, 9))]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    assert read_facts(path).size == read_image(path, "RGB").shape[1::-1] == (24, 16)


def write_tiff(path, values, big_endian):
    """Pillow writes none of 16 bits with the highest byte first, and none with a sign."""
    order = ">" if big_endian else "<"
    pixels = values.astype(values.dtype.newbyteorder(order))
    height, width = pixels.shape
    sample = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = [(256, width), (257, height), (258, 8 * pixels.itemsize), (259, 1), (262, 1), (273, 8)]
    tags += [(277, 1), (278, height), (279, pixels.nbytes), (339, sample)]
    content = (b"MM\0*" if big_endian else b"II*\0") + struct.pack(order + "I", 8 + pixels.nbytes)
    content += pixels.tobytes() + struct.pack(order + "H", len(tags))
    for tag, value in tags:
        content += struct.pack(order + "HHIHH", tag, 3, 1, value, 0)
    with open(path, "wb") as f:
        f.write(content + bytes(4))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32"])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("highest", [200, 4095])
def test_more_than_8_bits(tmp_path, dtype, big_endian, highest):
    path = str(tmp_path / "a.tif")
    values = np.linspace(0, highest, 24 * 16).round().reshape(16, 24).astype(dtype)
    write_tiff(path, values, big_endian)
    read = read_image(path, "RGB")[..., 0]
    is_right = np.array_equal(read, values)
    assert is_right == (highest == 200)
    fault = fault_of(path)
    assert is_right == (fault is None)
    if not is_right:
        assert f"0 to {highest} (mode {Image.open(path).mode})" in fault


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bits_that_turn_white(tmp_path, extension):
    path = str(tmp_path / f"a.{extension}")
    values = np.full((16, 24), 3000, np.uint16)
    Image.fromarray(values).save(path)
    assert (read_image(path, "RGB") == 255).all()
    assert fault_of(path) == (
        "has values from 3000 to 3000 (mode I;16), of which Detectron2 shows those outside 0 to 255 as "
        "white"
    )


@pytest.mark.parametrize("values", [(0, 0.5, 1), (-1, 0, 1), (0, np.nan, 1)])
def test_floats_that_are_no_pixels(tmp_path, values):
    path = str(tmp_path / "a.tif")
    Image.fromarray(np.tile(np.float32(values), (16, 8))).save(path)
    assert fault_of(path)


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "bmp"])
def test_what_is_cut_off_is_found_by_decoding(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    cut(path, 0.6)
    with pytest.raises(Exception):
        read_image(str(path), "RGB")
    if extension != "tif":  # whose directory may stand behind the pixels
        assert fault_of(str(path)) is None
    assert fault_of(str(path), decode=True).startswith(("cannot be read: ", "is no image"))


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(Exception):
        read_image(str(path), "RGB")
    assert fault_of(str(path))


def test_more_pixels_than_pillow_opens(tmp_path, monkeypatch):
    path = str(tmp_path / "a.png")
    Image.new("L", (24, 16)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        read_image(path, "RGB")
    assert "decompression bomb" in fault_of(path)


def test_what_the_system_does_not_open(tmp_path):
    assert fault_of(str(tmp_path)) == "cannot be read: Is a directory"


def test_an_empty_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.touch()
    assert fault_of(str(path)) == "is empty: it has 0 bytes"
