"""Near-copies of images: hashes, their comparison, and the second look."""

import imagehash
import numpy as np
import pytest
from made_copies import COPIES, make_image
from PIL import Image, ImageOps

from crnas_d2.data import near_copies
from crnas_d2.data.alignment import likeness
from crnas_d2.data.fingerprints import BOXES, Fingerprints, fingerprint, fingerprint_of
from crnas_d2.data.near_copies import LEAST_LIKENESS, candidates, find_near_copies

COUNT = 40
WHOLE = np.array([[1.0, 0.0, 1.0, 0.0]])


def fingerprints(images):
    return Fingerprints.from_bytes([fingerprint_of(image.convert("L")) for image in images])


@pytest.fixture(scope="module")
def images():
    return [make_image(seed) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def originals(images):
    return fingerprints(images)


def as_text(image_hash):
    return f"{int.from_bytes(image_hash.tobytes(), 'big'):016x}"


def test_hash_of_the_whole_is_the_librarys(images, originals):
    for image, hashes in zip(images, originals.hashes):
        for whole, mirrored in ((image, 0), (ImageOps.mirror(image), 1)):
            expected = imagehash.phash(
                whole.convert("L").resize((64, 64), Image.Resampling.LANCZOS)
            )
            assert imagehash.hex_to_hash(as_text(hashes[mirrored, 0])) - expected <= 6


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(kind, images, originals):
    found = find_near_copies(originals, fingerprints(map(COPIES[kind], images)))
    assert found.first.tolist() == found.second.tolist() == list(range(COUNT))
    assert found.mirrored.all() == found.mirrored.any() == (kind == "mirrored")
    assert (found.likeness >= LEAST_LIKENESS).all() and (found.distance <= 14).all()


def test_sides_may_be_exchanged(images, originals):
    copies = fingerprints(COPIES["cropped"](image) for image in images)
    found = find_near_copies(copies, originals)
    assert found.first.tolist() == found.second.tolist() == list(range(COUNT))


def test_no_image_is_a_copy_of_another(originals):
    found = candidates(originals, originals)
    others = found.first != found.second
    assert np.count_nonzero(~others) == COUNT
    assert found.likeness[~others].min() > 0.999
    assert others.any()
    assert found.likeness[others].max() < LEAST_LIKENESS / 2


def test_pairs_are_those_of_a_plain_loop(originals, monkeypatch):
    def bits(image_hash):
        return imagehash.hex_to_hash(as_text(image_hash))

    first, second = originals.hashes[:7], originals.hashes[7:16]
    expected = {}
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            expected[i, j] = min(
                min(
                    bits(one[0, 0]) - bits(other[mirrored, box]),
                    bits(one[0, box]) - bits(other[mirrored, 0]),
                )
                for mirrored in (0, 1)
                for box in range(len(BOXES))
            )
    monkeypatch.setattr(near_copies, "MOST_DISTANT", 22)
    monkeypatch.setattr(near_copies, "ROWS", 3)
    monkeypatch.setattr(near_copies, "COLUMNS", 4)
    monkeypatch.setattr(near_copies, "PAIRS", 4)
    parts = (Fingerprints(hashes, originals.small[: len(hashes)]) for hashes in (first, second))
    found = candidates(*parts)
    pairs = dict(zip(zip(found.first.tolist(), found.second.tolist()), found.distance.tolist()))
    assert 0 < len(pairs) < len(expected)
    assert pairs == {pair: distance for pair, distance in expected.items() if distance <= 22}


def test_nearest_candidates_of_each_image_are_kept(originals, monkeypatch):
    monkeypatch.setattr(near_copies, "MOST_DISTANT", 64)
    monkeypatch.setattr(near_copies, "MOST_CANDIDATES", 3)
    monkeypatch.setattr(near_copies, "ROWS", 7)
    found = candidates(originals, originals)
    assert np.bincount(found.second).tolist() == [3] * COUNT
    assert set(zip(found.first.tolist(), found.second.tolist())) >= {(i, i) for i in range(COUNT)}


def test_blocks_change_nothing(images, originals, monkeypatch):
    copies = fingerprints(COPIES["centre"](image) for image in images)
    expected = find_near_copies(originals, copies)
    monkeypatch.setattr(near_copies, "ROWS", 7)
    monkeypatch.setattr(near_copies, "COLUMNS", 11)
    monkeypatch.setattr(near_copies, "PAIRS", 3)
    found = find_near_copies(originals, copies)
    for name, values in vars(expected).items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-4)


@pytest.mark.parametrize("empty", ["first", "second", "both"])
def test_parts_without_images(empty, originals):
    none = fingerprints([])
    assert none.hashes.shape == (0, 2, len(BOXES))
    first = none if empty != "second" else originals
    assert not len(find_near_copies(first, none if empty != "first" else originals))


def small(image, box=None):
    return np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX, box=box))


def test_images_are_laid_upon_each_other():
    image = make_image(0)
    box = (24, 9, 144, 105)  # 15 % from the left, 7.5 % from the top, four fifths of the sides
    fixed = np.stack([small(image, box)] * 2)
    moving = np.stack([small(image)] * 2)
    exact = (0.8, 2 * 0.15 + 0.8 - 1, 0.8, 2 * 0.075 + 0.8 - 1)
    start = np.array([exact, np.add(exact, 0.06)])
    alike = likeness(moving, fixed, start)
    assert alike[0] == pytest.approx(alike[1], abs=0.02)
    assert alike.min() > 0.9


def test_gain_and_offset_do_not_count():
    image = small(make_image(1)).astype(np.float32)
    assert likeness(image[None] * 0.3 + 90, image[None], WHOLE) == pytest.approx([1])
    assert likeness(255 - image[None], image[None], WHOLE) <= 0


def test_flat_images_are_like_nothing():
    flat = np.full((1, 32, 32), 128, np.uint8)
    image = small(make_image(2))[None]
    for moving, fixed in ((flat, flat), (flat, image), (image, flat)):
        assert likeness(moving, fixed, WHOLE).tolist() == [0]


def test_fingerprint_of_a_file_is_that_of_what_it_shows(tmp_path):
    image = make_image(3).resize((640, 480))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    image.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image.save(tmp_path / "plain.png")
    image.quantize(64).save(tmp_path / "palette.gif")
    files = [fingerprint(str(tmp_path / n)) for n in ("turned.jpg", "plain.png", "palette.gif")]
    turned, plain, palette = Fingerprints.from_bytes(files).small.astype(int)
    assert abs(turned - plain).mean() < 3
    assert abs(palette - plain).mean() < 6


def test_file_that_is_no_image(tmp_path):
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(OSError):
        fingerprint(str(tmp_path / "text.jpg"))
