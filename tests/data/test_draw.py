"""The draw of archval, against SHA-256 sums and against brute force."""

import itertools
import random
from collections import Counter

import pytest
from plain_draw import plain_draw

from crnas_d2.data.draw import Draw, DrawSettings, draw_archval


def image(image_id, file_name=None, **keys):
    name = file_name or f"{image_id}.jpg"
    return {"id": image_id, "file_name": name, "width": 100, "height": 80, **keys}


def objects_of(classes):
    """Annotations, from the classes of each image by its id."""
    return [
        {"image_id": image_id, "category_id": label, "bbox": [1, 1, 5, 5], "iscrowd": 0}
        for image_id, labels in classes.items()
        for label in labels
    ]


def skewed(seed, images=60, classes=8):
    """Images whose class k is about half as frequent as class k - 1."""
    rng = random.Random(seed)
    labels = {
        image_id: [k for k in range(classes) if rng.random() < 0.9 * 0.55**k]
        for image_id in range(images)
    }
    return [image(image_id, group=rng.randrange(images // 4)) for image_id in labels], objects_of(
        labels
    )


def draw(images, annotations, size, seed=0, group_key=""):
    return draw_archval(images, annotations, DrawSettings(size, seed, group_key))


def in_both(annotations, archval, groups):
    """Of the classes that several groups have, those in archtrain and archval."""
    members = {}
    for a in annotations:
        members.setdefault(a["category_id"], set()).add(groups[a["image_id"]])
    parts = Counter(
        (label, part)
        for part, chosen in ((0, False), (1, True))
        for label in {a["category_id"] for a in annotations if (a["image_id"] in archval) is chosen}
    )
    several = {label for label, ids in members.items() if len(ids) > 1}
    return {label for label in several if parts[label, 0] and parts[label, 1]}, several


def test_the_plain_draw_is_this_one_forever():
    # for i in $(seq 0 999); do echo $(printf 0:$i | sha256sum) $i; done | sort | head -5
    images = [image(image_id) for image_id in range(1000)]
    assert draw(images, [], 5) == Draw(frozenset({87, 392, 404, 923, 942}))
    assert draw(images, [], 5, seed=1) != draw(images, [], 5)


def test_the_plain_draw_ignores_order_and_grows_by_nesting():
    images = [image(7 * i + 3) for i in range(500)]
    ids = [entry["id"] for entry in images]
    drawn = draw(images, [], 60, seed=4).archval
    assert drawn == plain_draw(ids, 60, seed=4)
    assert drawn == draw(random.Random(0).sample(images, 500), [], 60, seed=4).archval
    assert draw(images, [], 20, seed=4).archval < drawn
    # Of 500 images and 5 more, 60 / 505 of the new ones are expected to be drawn.
    more = images + [image(image_id) for image_id in (1, 2, 4, 5, 6)]
    assert len(drawn - draw(more, [], 60, seed=4).archval) <= 3


def test_the_plain_draw_is_uniform():
    images = [image(image_id) for image_id in range(20)]
    counts = Counter(
        image_id for seed in range(4000) for image_id in draw(images, [], 5, seed).archval
    )
    # Binomial(4000, 1/4): mean 1000, standard deviation 27.4
    assert len(counts) == 20 and all(abs(count - 1000) < 4 * 27.4 for count in counts.values())


def test_it_stays_plain_where_that_leaves_no_class_out():
    """But for a class that one image has alone, and objects that no detector is trained on."""
    ids = list(range(40))
    plain = plain_draw(ids, 10)
    inside, outside = sorted(plain), sorted(set(ids) - plain)
    annotations = objects_of({inside[0]: [1], outside[0]: [1], outside[1]: [2]})
    images = [image(image_id) for image_id in ids]
    assert draw(images, annotations, 10) == Draw(frozenset(plain))
    crowd, empty, beside = objects_of({outside[2]: [2], outside[3]: [2], outside[4]: [2]})
    crowd["iscrowd"] = 1
    empty["bbox"] = [5, 5, 0, 7]
    beside["bbox"] = [100, 5, 7, 7]
    assert draw(images, annotations + [crowd, empty, beside], 10) == Draw(frozenset(plain))
    second = objects_of({outside[2]: [2]})
    drawn = draw(images, annotations + second, 10)
    assert drawn.stratified and len(drawn.archval) == 10
    assert len({outside[1], outside[2]} & drawn.archval) == 1


def test_by_class_every_class_is_in_both_parts():
    """Of exact size, deterministic, and with shares nearer to those wanted than the plain draw."""
    nearer = stratified = 0
    for seed in range(40):
        images, annotations = skewed(seed)
        ids = [entry["id"] for entry in images]
        size = 9 + seed % 7
        drawn = draw(images, annotations, size, seed)
        assert len(drawn.archval) == size and drawn.archval < set(ids)
        kept, several = in_both(
            annotations, drawn.archval, {image_id: image_id for image_id in ids}
        )
        assert kept == several
        if not drawn.stratified:
            assert drawn.archval == plain_draw(ids, size, seed)
            continue
        stratified += 1
        plain = plain_draw(ids, size, seed)
        nearer += deviation(annotations, drawn.archval, size / 60) < deviation(
            annotations, plain, size / 60
        )
        rng = random.Random(seed)
        rng.shuffle(images)
        rng.shuffle(annotations)
        assert draw(images, annotations, size, seed) == drawn
    assert stratified >= 20 and nearer >= 0.9 * stratified


def deviation(annotations, archval, share):
    """Mean distance of the share of each class's images that is in archval from the wanted one, of
    the classes of which archval should have a whole image."""
    pairs = {(a["category_id"], a["image_id"]) for a in annotations}
    everywhere = Counter(label for label, _ in pairs)
    inside = Counter(label for label, image_id in pairs if image_id in archval)
    classes = [label for label, n in everywhere.items() if n * share >= 1]
    return sum(abs(inside[k] / everywhere[k] - share) for k in classes) / len(classes)


@pytest.mark.parametrize("group_key", ["", "group"])
def test_what_can_be_in_both_parts_is(group_key):
    """Against all parts that there are."""
    tried = 0
    for seed in range(60):
        images, annotations = skewed(seed, images=9, classes=5)
        groups = {i["id"]: i["group"] if group_key else i["id"] for i in images}
        members = {
            g: [image_id for image_id in groups if groups[image_id] == g] for g in groups.values()
        }
        if len(members) < 2:
            continue
        wanted = 1 + seed % 7
        drawn = draw(images, annotations, wanted, seed, group_key).archval
        possible = [
            {image_id for g in chosen for image_id in members[g]}
            for k in range(1, len(members))
            for chosen in itertools.combinations(members, k)
        ]
        nearest = min(abs(len(ids) - wanted) for ids in possible)
        assert abs(len(drawn) - wanted) == nearest
        assert set(drawn) in possible  # groups stay whole
        best = max(
            len(in_both(annotations, ids, groups)[0]) for ids in possible if len(ids) == len(drawn)
        )
        assert len(in_both(annotations, drawn, groups)[0]) == best
        tried += 1
    assert tried > 30


def test_groups_stay_whole_and_large_ones_are_no_likelier():
    images = [
        image(image_id, video="long" if image_id < 20 else f"short {image_id}")
        for image_id in range(40)
    ]
    counts = Counter()
    for seed in range(400):
        archval = draw(images, [], 20, seed, "video").archval
        assert len(archval) == 20 and len(archval & set(range(20))) in (0, 20)
        counts[0 in archval] += 1
    # The long one is the first of 21, or what is left when a short one is: then all others fit.
    assert counts[True] < 60


def test_one_image_under_two_ids_is_in_one_part():
    images = [image(image_id) for image_id in range(10)] + [
        image(20, "./3.jpg"),
        image(21, "a/../3.jpg"),
    ]
    for seed in range(20):
        archval = draw(images, [], 5, seed).archval
        assert len(archval) == 5 and len(archval & {3, 20, 21}) in (0, 3)
    # It joins the groups that it is in.
    images = [image(image_id, video=image_id // 2) for image_id in range(8)]
    images[2]["file_name"] = images[1]["file_name"]
    for seed in range(20):
        archval = draw(images, [], 4, seed, "video").archval
        assert len(archval & {0, 1, 2, 3}) in (0, 4) and len(archval) == 4


def test_ids_that_are_texts():
    images = [image(f"cell {i}") for i in range(30)]
    ids = [entry["id"] for entry in images]
    assert draw(images, [], 7).archval == plain_draw(ids, 7)
    annotations = objects_of({"cell 1": ["a"], "cell 2": ["a"], "cell 3": ["b"], "cell 5": ["b"]})
    archval = draw(images, annotations, 3).archval
    assert len(archval & {"cell 1", "cell 2"}) == len(archval & {"cell 3", "cell 5"}) == 1


@pytest.mark.parametrize(
    "change, key, size, message",
    [
        (lambda images: images[2].pop("video"), "video", 2, "image 2 has no 'video'; .*GROUP_KEY"),
        (lambda images: images[2].update(video=None), "video", 2, "image 2 has no 'video'"),
        (lambda images: [i.update(video=1) for i in images], "video", 2, "5 images are one group"),
        (lambda images: None, "", 5, "it has 5 images; .*ARCHVAL.SIZE, which is 5"),
    ],
)
def test_what_cannot_be_drawn(change, key, size, message):
    images = [image(image_id, video=image_id) for image_id in range(5)]
    change(images)
    with pytest.raises(ValueError, match=message):
        draw(images, [], size, group_key=key)
