"""All datasets of a config are examined, whatever is wrong with the others."""

import os

import pytest
from image_folder import write_image_folder
from on_disk import edit_json
from PIL import Image

from crnas_d2.data import setup_datasets
from crnas_d2.data.examine import examine

pytestmark = pytest.mark.usefixtures("catalogs")


@pytest.fixture
def three(cfg, write_coco, voc_dir, tmp_path):
    """A config with datasets of three kinds, without a fault."""
    files = [["cells", *write_coco("cells")], ["spots", *write_coco("spots")]]
    cfg.DATASETS.COCO_JSON = files
    cfg.DATASETS.VOC_DIRS = [["voc", str(voc_dir), "val", 2007, ["cup", "ball"]]]
    cfg.DATASETS.IMAGE_FOLDERS = [["colors", write_image_folder(tmp_path / "colors")]]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("cells", "spots"), ("voc",)
    return cfg


def found(cfg):
    """What there is to mend, by the file or folder."""
    errors = {}
    for findings in examine(cfg):
        errors.setdefault(findings.path, []).extend(findings.errors)
    return {path: sentences for path, sentences in errors.items() if sentences}


def test_nothing_is_wrong(three):
    assert found(three) == {}


def test_each_fault_is_found_beside_all_others(three, voc_dir, tmp_path):
    cells, spots = three.DATASETS.COCO_JSON

    def change(coco):
        for annotation in coco["annotations"][:2]:
            annotation["category_id"] = 99

    edit_json(cells[1], change)
    os.remove(os.path.join(spots[2], "2.png"))
    Image.new("RGB", (30, 40)).save(os.path.join(spots[2], "1.png"))
    (voc_dir / "Annotations/two.xml").write_text("<annotation>")
    (tmp_path / "colors" / "empty").mkdir()
    errors = found(three)
    assert {path: len(sentences) for path, sentences in errors.items()} == {
        cells[1]: 2,
        spots[1]: 2,
        str(voc_dir): 1,
        str(tmp_path / "colors"): 1,
    }
    with pytest.raises(ValueError) as first:
        setup_datasets(three)
    assert errors[cells[1]][0] in str(first.value)
    assert any("2.png" in sentence for sentence in errors[spots[1]])
    assert any("1.png" in s and "30 x 40" in s for s in errors[spots[1]]), errors[spots[1]]


@pytest.mark.parametrize("key", ["COCO_JSON", "VOC_DIRS", "IMAGE_FOLDERS"])
def test_what_is_not_there_or_no_entry(three, key):
    entry = list(three.DATASETS[key][0])
    three.DATASETS[key] = [[entry[0], entry[1] + "x", *entry[2:]]]
    ((path, sentences),) = found(three).items()
    assert path == entry[1] + "x" and len(sentences) == 1 and path in sentences[0]
    three.DATASETS[key] = [["cells"]]
    ((path, (sentence,)),) = found(three).items()
    assert sentence.startswith(f"DATASETS.{key}[0] is ['cells']; expected ")


def test_a_key_with_a_fault(three):
    three.DATASETS.LEFT_OUT_CATEGORIES = [1.5]
    ((_, (sentence,)),) = found(three).items()
    assert sentence.startswith("DATASETS.LEFT_OUT_CATEGORIES has 1.5")
    three.DATASETS.LEFT_OUT_CATEGORIES = []
    three.DATASETS.CHECK_IMAGES = "some"
    assert {len({*sentences}) for sentences in found(three).values()} == {1}
    assert all("CHECK_IMAGES is 'some'" in s for (s, *_) in found(three).values())
