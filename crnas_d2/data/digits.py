"""The embedded datasets ``digits`` and ``close_digits``: handwritten digits on photographs.

They let every command run on a bare machine. The scans of digits and the two photographs are
scikit-learn's sample data. They are for trying things out, and no evidence for the paper's numbers.
Below Detectron2's folder of datasets, each in a folder of its name::

    digits/manifest.json                            what was generated, hashes of the annotations
    digits/annotations/instances_{train,val}.json   COCO format, with boxes and masks
    digits/{train,val}/00000000.png                 scenes of several digits
    digits/crops/{train,val}/<class>/00000000.png   one digit each, in ImageNet's layout
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from iopath.common.file_io import LazyPath, file_lock
from PIL import Image

from detectron2.data.datasets import register_coco_instances

from ..files import file_sha256, read_json, write_atomically
from ..paths import datasets_root
from .digit_scenes import DigitSources, compose
from .imagenet import register_image_folder

__all__ = [
    "RECIPES",
    "SPLITS",
    "DigitsRecipe",
    "crops_root",
    "digits_root",
    "generate",
    "is_missing",
    "register_digits",
]

SPLITS = ("train", "val")
_CATEGORIES = tuple({"id": digit + 1, "name": str(digit)} for digit in range(10))

# To be increased whenever the same recipe gives other files than before
VERSION = 1


@dataclass(frozen=True)
class DigitsRecipe:
    """Everything that determines the files of the dataset.

    Attributes:
        num_scenes: number of scenes in train and in val.
        num_crops: number of crops of each class, in train and in val.
        scene_size: side of a scene in pixels.
        crop_size: side of a crop in pixels.
        digit_sizes: range in pixels of the longer side of a digit in a scene, which is log-uniform.
        max_digits: maximum number of digits in a scene, which has at least 1.
        max_overlap: maximum share of the smaller of two boxes that they have in common.
        seed: seed of all randomness.

    Raises:
        ValueError: an attribute is out of its range.
    """

    num_scenes: tuple[int, int] = (1500, 300)
    num_crops: tuple[int, int] = (300, 50)
    scene_size: int = 256
    crop_size: int = 64
    # 3.8 octaves. At 256 pixels this gives digits of all three size classes of COCO.
    digit_sizes: tuple[int, int] = (16, 224)
    max_digits: int = 6
    max_overlap: float = 0.2
    seed: int = 0

    def __post_init__(self):
        smallest, largest = self.digit_sizes
        in_range = {
            "num_scenes >= 1": min(self.num_scenes) >= 1,
            "num_crops >= 1": min(self.num_crops) >= 1,
            "crop_size >= 16": self.crop_size >= 16,
            "8 <= digit_sizes[0] <= digit_sizes[1]": 8 <= smallest <= largest,
            "digit_sizes[1] <= scene_size": largest <= self.scene_size,
            "max_digits >= 1": self.max_digits >= 1,
            "0 <= max_overlap < 1": 0 <= self.max_overlap < 1,
        }
        for expectation, holds in in_range.items():
            if not holds:
                raise ValueError(f"expected {expectation} in {self}")


# The datasets by name. A name with "_train" or "_val" stands for its scenes.
RECIPES: dict[str, DigitsRecipe] = {
    "digits": DigitsRecipe(),
    # So small that many networks can be trained: the digits fill much of a scene
    "close_digits": DigitsRecipe(
        num_scenes=(3000, 600), scene_size=64, digit_sizes=(24, 44), max_digits=3
    ),
}


def digits_root(name: str = "digits") -> str:
    """Get the folder of a dataset of ``RECIPES``."""
    return os.path.join(datasets_root(), name)


def is_missing(name: str) -> bool:
    """Return whether the registered dataset of this name will be generated on first use."""
    return any(
        name.startswith(f"{own}_") and not os.path.isdir(digits_root(own)) for own in RECIPES
    )


def register_digits(name: str = "digits") -> None:
    """Register the scenes and the crops of a dataset of ``RECIPES``, generated on first use.

    They are, for example, ``digits_train``, ``digits_val``, ``digits_crops_train`` and
    ``digits_crops_val``.
    """
    root = digits_root(name)
    for split in SPLITS:
        register_coco_instances(
            f"{name}_{split}",
            {
                "thing_classes": [category["name"] for category in _CATEGORIES],
                "thing_dataset_id_to_contiguous_id": {
                    c["id"]: i for i, c in enumerate(_CATEGORIES)
                },
            },
            LazyPath(lambda split=split: _annotation_file(generate(root, RECIPES[name]), split)),
            os.path.join(root, split),
        )
        crops = LazyPath(lambda split=split: crops_root(split, name))
        register_image_folder(f"{name}_crops_{split}", crops)


def crops_root(split: str, name: str = "digits") -> str:
    """Get the folder of the crops of "train" or "val", which are generated if needed."""
    if split not in SPLITS:
        raise ValueError(f"the dataset {name!r} has the splits {SPLITS}, not {split!r}")
    return os.path.join(generate(digits_root(name), RECIPES[name]), "crops", split)


def generate(root: str, recipe: DigitsRecipe = RECIPES["digits"]) -> str:
    """Generate the dataset into the folder ``root``, unless it exists.

    Equal recipes give equal files. The folder appears under its name once it is complete. This is
    safe to call from many processes: one generates the dataset, and the others wait.

    Returns:
        ``root``.

    Raises:
        ImportError: scikit-learn is not installed, and the dataset does not exist.
        ValueError: ``root`` exists, but was generated by another recipe or version, or was
            modified.
    """
    if not os.path.isdir(root):
        with file_lock(os.path.abspath(root)):
            if not os.path.isdir(root):
                logging.getLogger(__name__).info(
                    f"Generating the dataset {os.path.basename(root)!r} in {root}"
                )
                partial = f"{root}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                _write(partial, recipe)
                os.sync()
                os.rename(partial, root)
    _check(root, recipe)
    return root


def _annotation_file(root: str, split: str) -> str:
    return os.path.join(root, "annotations", f"instances_{split}.json")


def _settings(recipe: DigitsRecipe) -> dict[str, Any]:
    """Get the settings as they are when read back from JSON."""
    return json.loads(json.dumps({"version": VERSION, "recipe": asdict(recipe)}))


def _check(root: str, recipe: DigitsRecipe) -> None:
    advice = "Remove the folder to have it generated again, or set DETECTRON2_DATASETS to another."
    try:
        manifest = read_json(os.path.join(root, "manifest.json"))
        hashes = manifest.pop("sha256")
        changed = [f for f, known in hashes.items() if file_sha256(os.path.join(root, f)) != known]
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise ValueError(f"{root} is not a generated dataset: {error}. {advice}") from None
    if manifest != _settings(recipe):
        raise ValueError(f"{root} has {manifest}; expected {_settings(recipe)}. {advice}")
    if changed:
        raise ValueError(f"{root}: {', '.join(changed)} has been changed. {advice}")


def _write(root: str, recipe: DigitsRecipe) -> None:
    os.makedirs(os.path.join(root, "annotations"))
    hashes = {}
    for index, split in enumerate(SPLITS):
        sources = DigitSources(split, recipe.seed)
        scenes = _write_scenes(os.path.join(root, split), index, sources, recipe)
        path, content = _annotation_file(root, split), json.dumps(scenes).encode()
        write_atomically(path, content)
        hashes[os.path.relpath(path, root)] = hashlib.sha256(content).hexdigest()
        _write_crops(os.path.join(root, "crops", split), index, sources, recipe)
    manifest = {**_settings(recipe), "sha256": hashes}
    write_atomically(os.path.join(root, "manifest.json"), json.dumps(manifest, indent=1).encode())


def _write_scenes(
    folder: str, split: int, sources: DigitSources, recipe: DigitsRecipe
) -> dict[str, Any]:
    """Write the scenes of a split and return their annotations in COCO format.

    In addition, each image has its ``photo`` (see :class:`Scene`), and each annotation its
    ``scan``, the index in scikit-learn's ``load_digits``.
    """
    os.makedirs(folder)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in range(recipe.num_scenes[split]):
        rng = np.random.RandomState([recipe.seed, split, 0, image_id])
        digits = rng.randint(len(_CATEGORIES), size=rng.randint(1, recipe.max_digits + 1))
        low, high = np.log(recipe.digit_sizes)
        sides = np.exp(rng.uniform(low, high, len(digits)))
        # The largest come first, so that no digit is under a larger one.
        ordered = sorted(zip(digits, sides), key=lambda digit: -digit[1])
        scene = compose(sources, ordered, recipe.scene_size, recipe.max_overlap, rng)
        file_name = f"{image_id:08d}.png"
        _save(scene.pixels, os.path.join(folder, file_name))
        height, width = scene.pixels.shape[:2]
        images.append(
            {
                "id": image_id,
                "file_name": file_name,
                "height": height,
                "width": width,
                "license": 1,
                "photo": scene.photo,
            }
        )
        for digit in scene.digits:
            rle = mask_util.encode(np.asfortranarray(digit.mask, dtype=np.uint8))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": _CATEGORIES[digit.digit]["id"],
                    "iscrowd": 0,
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "area": int(mask_util.area(rle)),
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                    "scan": digit.scan,
                }
            )
    return {
        "info": {"description": "handwritten digits on photographs", "version": str(VERSION)},
        "licenses": [
            {
                "id": 1,
                "name": "CC BY 2.0, photographs by danielbuechele and vultilion on Flickr",
                "url": "https://creativecommons.org/licenses/by/2.0/",
            }
        ],
        "images": images,
        "annotations": annotations,
        "categories": list(_CATEGORIES),
    }


def _write_crops(folder: str, split: int, sources: DigitSources, recipe: DigitsRecipe) -> None:
    for digit, category in enumerate(_CATEGORIES):
        class_folder = os.path.join(folder, str(category["name"]))
        os.makedirs(class_folder)
        for index in range(recipe.num_crops[split]):
            rng = np.random.RandomState([recipe.seed, split, 1 + digit, index])
            side = recipe.crop_size * rng.uniform(0.4, 0.95)
            scene = compose(sources, [(digit, side)], recipe.crop_size, recipe.max_overlap, rng)
            _save(scene.pixels, os.path.join(class_folder, f"{index:08d}.png"))


def _save(pixels: np.ndarray, path: str) -> None:
    # Three times as fast as the default level, with a tenth more bytes
    Image.fromarray(pixels).save(path, compress_level=1)
