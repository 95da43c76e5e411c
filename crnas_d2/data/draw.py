"""The random split of archval from a training set, a pure function of the data and the settings.

It only uses integers and SHA-256, so a split is the same on any machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .sizes import Sizes, nearest_size
from .stratification import stratify
from .trained_objects import trained_objects


@dataclass(frozen=True)
class DrawSettings:
    """The settings of a split.

    Attributes:
        size: number of images in archval.
        seed: seed of the split.
        group_key: key of the images in the json. Images with the same value stay together. Empty =
            each image on its own.
    """

    size: int
    seed: int
    group_key: str = ""


@dataclass(frozen=True)
class Draw:
    """A split.

    Attributes:
        archval: ids of the images in archval.
        stratified: whether it is stratified by class, because the plain split leaves a class out of
            a part.
    """

    archval: frozenset[Hashable]
    stratified: bool = False


@dataclass(frozen=True)
class Group:
    """Images that belong to the same part, mostly a single one.

    Attributes:
        images: their ids.
        rank: key by which the groups are sorted: SHA-256 of the seed and of the id or the group
            key.
        classes: for each class, the number of images with objects of it.
    """

    images: tuple[Hashable, ...]
    rank: bytes
    classes: Mapping[int, int]

    @cached_property
    def size(self) -> int:
        """The number of its images."""
        return len(self.images)


def draw_archval(
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    settings: DrawSettings,
) -> Draw:
    """Draw archval without replacement.

    The plain split takes the images with the smallest SHA-256 of the text "seed:id". It is uniform,
    and independent of the order of the entries, of any library's random numbers, and of Python's
    version. A smaller split is part of a larger one, and images that are added to a dataset later
    replace few of those drawn. If it leaves a class with objects in several groups out of archtrain
    or archval, the split is stratified by class instead, see :func:`stratify`.

    Images of one group are in one part, as are those with the same ``file_name``. archval has
    ``settings.size`` images, or the nearest number that whole groups can have.

    Args:
        images, annotations: content of a COCO json.
        settings: the settings.

    Raises:
        ValueError: an image lacks the group key, or there are too few images or groups.
    """
    if settings.size >= len(images):
        plural = "" if len(images) == 1 else "s"
        raise ValueError(
            f"it has {len(images)} image{plural}; expected more than DATASETS.ARCHVAL.SIZE, which is "
            f"{settings.size}"
        )
    groups = _groups(images, annotations, settings)
    size = nearest_size([group.size for group in groups], settings.size)
    chosen = _first_by_rank(groups, size)
    stratified = _leaves_out(groups, chosen)
    if stratified:
        chosen = stratify(groups, size)
    return Draw(
        frozenset(image_id for index in chosen for image_id in groups[index].images), stratified
    )


def _groups(
    images: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    settings: DrawSettings,
) -> list[Group]:
    """Get the groups in the order of their ranks."""
    classes: dict[Hashable, set] = {image["id"]: set() for image in images}
    for annotation in trained_objects(images, annotations):
        classes[annotation["image_id"]].add(annotation["category_id"])
    indices = {label: i for i, label in enumerate(sorted(set().union(*classes.values()), key=str))}
    groups = []
    names = {image["id"]: str(image.get(settings.group_key or "id")) for image in images}
    for ids in _joined(images, settings.group_key):
        name = min(names[image_id] for image_id in ids)
        rank = hashlib.sha256(f"{settings.seed}:{name}".encode()).digest()
        counts = Counter(indices[label] for image_id in ids for label in classes[image_id])
        groups.append(Group(tuple(ids), rank, counts))
    return sorted(groups, key=lambda group: group.rank)


def _joined(images: Sequence[Mapping[str, Any]], key: str) -> list[list[Hashable]]:
    """Get the ids of each group."""
    owners: dict[Any, int] = {}  # group of each file name or value of the key
    groups: list[list[Hashable]] = []
    for image in images:
        names = [os.path.normpath(image["file_name"])]
        if key:
            if image.get(key) is None:
                raise ValueError(
                    f"image {image['id']!r} has no {key!r}; expected it in every image, as "
                    f"DATASETS.ARCHVAL.GROUP_KEY is {key!r}"
                )
            names.append((json.dumps(image[key], sort_keys=True),))
        known = sorted({owners[name] for name in names if name in owners})
        target = known[0] if known else len(groups)
        if not known:
            groups.append([])
        groups[target].append(image["id"])
        for other in known[1:]:  # an image joins two groups
            groups[target] += groups[other]
            groups[other] = []
            owners.update({name: target for name, owner in owners.items() if owner == other})
        owners.update(dict.fromkeys(names, target))
    return [ids for ids in groups if ids]


def _first_by_rank(groups: Sequence[Group], size: int) -> set[int]:
    """Choose the first groups, skipping those with which archval could no longer reach its size."""
    sizes = Sizes([group.size for group in groups], size)
    chosen = set()
    for index, group in enumerate(groups):
        _, fits_archval = sizes.fits(group.size)
        sizes.assign(group.size, fits_archval)
        if fits_archval:
            chosen.add(index)
    return chosen


def _leaves_out(groups: Sequence[Group], chosen: set[int]) -> bool:
    """Whether a class that several groups have is in only one part."""
    all_groups = Counter(label for group in groups for label in group.classes)
    in_archval = Counter(label for index in chosen for label in groups[index].classes)
    return any(n > 1 and in_archval[label] in (0, n) for label, n in all_groups.items())
