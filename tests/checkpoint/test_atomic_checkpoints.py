"""Whatever happens while checkpoints are written, a resume finds a whole one."""

import io
import itertools
import logging
import multiprocessing
import os
import signal

import pytest
import torch

import crnas_d2
from crnas_d2.checkpoint import CRCheckpointer
from crnas_d2.checkpoint.checkpointer import find_checkpoint
from crnas_d2.checkpoint.weights_file import read_checkpoint

CONFIG = crnas_d2.get_config("COCO-Detection/faster_rcnn_CR_R_18_FPN_1x.yaml")


class TrainingState:
    """As much state as a trainer has to have: where it is."""

    def __init__(self):
        self.iteration = 0

    def state_dict(self):
        return {"iteration": self.iteration, "_trainer": {"optimizer": torch.ones(100)}}

    def load_state_dict(self, state):
        self.iteration = state["iteration"]


def make_checkpointer(folder, size=1000, **solver):
    model = torch.nn.ParameterList([torch.zeros(size) for _ in range(4)])
    cfg = CONFIG.clone()
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return CRCheckpointer(model, str(folder), cfg, trainer=TrainingState())


@pytest.fixture
def warned(monkeypatch):
    """What the checkpointer has warned of, whatever its logger does with it."""
    messages = []
    logger = logging.getLogger("crnas_d2.checkpoint.checkpointer")
    monkeypatch.setattr(logger, "warning", messages.append)
    return messages


def save(checkpointer, iteration, name=None):
    """Save a state in which every number is the iteration."""
    for parameter in checkpointer.model:
        parameter.data.fill_(iteration)
    checkpointer.checkpointables["trainer"].iteration = iteration
    checkpointer.save(name or f"model_{iteration:07d}", iteration=iteration)


def save_some(folder, count=3):
    checkpointer = make_checkpointer(folder)
    for iteration in range(count):
        save(checkpointer, iteration)
        path = folder / f"model_{iteration:07d}.pth"
        os.utime(path, (iteration, iteration))  # no two of the same time
    return checkpointer


def resumed_iteration(folder, **solver):
    """Resume from a folder; check that all of the state belongs to one iteration."""
    checkpointer = make_checkpointer(folder, **solver)
    checkpointer.resume_or_load("", resume=True)
    iteration = checkpointer.checkpointables["trainer"].iteration
    assert all((parameter == iteration).all() for parameter in checkpointer.model)
    return iteration


def cut(length):
    def damage(path):
        os.truncate(path, length if length >= 0 else path.stat().st_size + length)

    return damage


def flip_a_bit(place):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[content.find(torch.tensor([1.0, 1.0]).numpy().tobytes()) + place] ^= 1
        path.write_bytes(content)

    return damage


def write_zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def put_folder_in_its_place(path):
    path.unlink()
    path.mkdir()


def save_weights_alone(path):
    torch.save({"model": torch.load(path, weights_only=True)["model"]}, path)


DAMAGES = {
    "empty": cut(0),
    "one byte": cut(1),
    "first half": cut(9000),
    "all but one byte": cut(-1),
    "a bit of the optimizer's state": flip_a_bit(2),
    "zeros": write_zeros,
    "a text": lambda path: path.write_text("a text"),
    "missing": lambda path: path.unlink(),
    "folder": put_folder_in_its_place,
    "weights alone": save_weights_alone,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_resumes_from_the_newest_that_can_be_read(tmp_path, warned, damage):
    save_some(tmp_path)
    assert resumed_iteration(tmp_path) == 2
    assert not warned
    damage(tmp_path / "model_0000002.pth")
    assert resumed_iteration(tmp_path) == 1
    [message] = warned
    assert str(tmp_path / "model_0000002.pth") in message
    damage(tmp_path / "model_0000001.pth")
    assert resumed_iteration(tmp_path) == 0


@pytest.mark.parametrize("tag", [b"", b"\n", b"\0" * 17, b"model_0000009.pth", b"\xff\xfe"])
def test_broken_tag_falls_back_to_the_newest(tmp_path, warned, tag):
    save_some(tmp_path)
    (tmp_path / "last_checkpoint").write_bytes(tag)
    assert resumed_iteration(tmp_path) == 2
    assert len(warned) == 1


def test_tag_goes_before_age(tmp_path):
    save_some(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    assert resumed_iteration(tmp_path) == 1


def test_nothing_to_resume(tmp_path):
    assert find_checkpoint(str(tmp_path)) is None
    assert not make_checkpointer(tmp_path).has_checkpoint()
    torch.save({"model": {}}, tmp_path / "pretrained.pth")
    assert find_checkpoint(str(tmp_path)) is None


def test_one_error_where_all_are_broken(tmp_path):
    save_some(tmp_path)
    for path in tmp_path.glob("*.pth"):
        cut(100)(path)
    with pytest.raises(ValueError) as error:
        find_checkpoint(str(tmp_path))
    title, *lines = str(error.value).splitlines()
    assert title == f"there is no checkpoint in {tmp_path} to go on from:"
    assert sorted(lines) == [
        f"  {path} is cut off: it begins as a zip archive, and has no end"
        for path in sorted(tmp_path.glob("*.pth"))
    ]


def test_empty_folder_with_an_empty_tag(tmp_path):
    (tmp_path / "last_checkpoint").touch()
    with pytest.raises(ValueError, match="to go on from:\n  .*last_checkpoint is empty"):
        find_checkpoint(str(tmp_path))


def test_finds_what_was_saved_in_the_meantime(tmp_path):
    checkpointer = make_checkpointer(tmp_path)
    assert checkpointer.get_checkpoint_file() == ""
    save(checkpointer, 4)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000004.pth")


def crash_after_some_bytes(error):
    def crash(data, file):
        file.write(b"PK\3\4" * 100)
        raise error

    return crash


def crash(*_, **__):
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    "name, replacement",
    [
        ("torch.save", crash_after_some_bytes(OSError("no space left on device"))),
        ("torch.save", crash_after_some_bytes(KeyboardInterrupt())),
        ("torch.save", crash_after_some_bytes(SystemExit())),
        ("os.fsync", crash),
        ("os.replace", crash),
    ],
)
def test_crash_while_saving_leaves_what_was_there(tmp_path, monkeypatch, name, replacement):
    checkpointer = save_some(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for iteration in (2, 3):  # the file is there already, or new
        with monkeypatch.context() as patch:
            patch.setattr(name, replacement)
            with pytest.raises((OSError, KeyboardInterrupt, SystemExit)):
                save(checkpointer, iteration)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert resumed_iteration(tmp_path) == 2
    save(checkpointer, 3)
    assert resumed_iteration(tmp_path) == 3


def test_every_flipped_byte_is_noticed_or_changes_nothing(tmp_path):
    save(make_checkpointer(tmp_path, size=3), 5)
    path = tmp_path / "model_0000005.pth"
    content = path.read_bytes()
    noticed = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        os.utime(path, ns=(place, place))  # as a file that is not changed is not read again
        try:
            read = read_checkpoint(str(path))
        except ValueError as error:
            assert str(path) in str(error)
            noticed += 1
        else:
            assert read["iteration"] == 5 and (read["model"]["0"] == 5).all()
            assert (read["trainer"]["_trainer"]["optimizer"] == 1).all()
    assert noticed > len(content) / 7 / 5  # most of so small a file is padding


def test_a_file_without_checksums_is_taken(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save(make_checkpointer(tmp_path), 1)
    finally:
        torch.serialization.set_crc32_options(True)
    assert resumed_iteration(tmp_path) == 1


def names(folder):
    return sorted(path.name for path in folder.glob("*.pth"))


def test_the_newest_checkpoints_stay(tmp_path):
    checkpointer = make_checkpointer(tmp_path)
    (tmp_path / "pretrained.pth").touch()
    for iteration in range(5):
        save(checkpointer, iteration)
        save(checkpointer, iteration, "model_best")
        kept = [f"model_{i:07d}.pth" for i in range(max(0, iteration - 2), iteration + 1)]
        assert names(tmp_path) == [*kept, "model_best.pth", "pretrained.pth"]
    checkpointer = make_checkpointer(tmp_path)  # another start knows them too
    save(checkpointer, 4, "model_final")
    others = ["model_best.pth", "model_final.pth", "pretrained.pth"]
    assert names(tmp_path) == ["model_0000003.pth", "model_0000004.pth", *others]
    os.utime(tmp_path / "model_0000003.pth", (9, 9))
    save(checkpointer, 2)  # by age, not by number
    assert names(tmp_path) == ["model_0000002.pth", "model_0000004.pth", *others]
    save(make_checkpointer(tmp_path, CHECKPOINTS_TO_KEEP=1), 7)
    assert names(tmp_path) == ["model_0000007.pth", *others]


def test_the_end_of_a_training_is_without_the_state_of_the_optimizer(tmp_path, warned):
    checkpointer = save_some(tmp_path)
    save(checkpointer, 9, "model_best")
    assert not (tmp_path / "model_0000009.pth").exists()
    save(checkpointer, 9, "model_final")
    for name in ("model_final", "model_best"):
        content = torch.load(tmp_path / f"{name}.pth", weights_only=True)
        assert content["iteration"] == 9 and content["trainer"] == {"iteration": 9}
    assert resumed_iteration(tmp_path, MAX_ITER=10) == 9
    assert find_checkpoint(str(tmp_path)) == str(tmp_path / "model_final.pth")
    assert not warned
    checkpointer = make_checkpointer(tmp_path, MAX_ITER=11)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000009.pth")
    assert resumed_iteration(tmp_path, MAX_ITER=11) == 9
    [message, _] = warned
    assert "model_final.pth ends a training of 10 iterations, without the state" in message
    for path in tmp_path.glob("model_0*.pth"):
        path.unlink()
    with pytest.raises(ValueError, match="to go on from:\n  .*model_final.pth ends a training"):
        resumed_iteration(tmp_path, MAX_ITER=11)


def kill_at(event, count):
    """Kill this process where an event of a save happens for the count-th time."""
    happened = itertools.count(1)

    def tick(name):
        if name == event and next(happened) == count:
            os.kill(os.getpid(), signal.SIGKILL)

    class Watched(io.FileIO):
        def write(self, data):
            tick("write")
            return super().write(data)

    def save_watched(data, file):
        watched = Watched(file.fileno(), "wb", closefd=False)
        torch_save(data, watched)

    def watched(name, do):
        def call(*args, **kwargs):
            tick(f"before {name}")
            result = do(*args, **kwargs)
            tick(f"after {name}")
            return result

        return call

    torch_save = torch.save
    torch.save = save_watched
    for name in ("fsync", "replace"):
        setattr(os, name, watched(name, getattr(os, name)))


def save_until_killed(folder, start, event, count):
    checkpointer = make_checkpointer(folder)
    kill_at(event, count)
    for iteration in itertools.count(start):
        save(checkpointer, iteration)


# Each save writes in 20 or more parts, then syncs and renames twice: the checkpoint, and its tag.
MOMENTS = [
    *(("write", count) for count in (1, 2, 3, 7, 19)),
    *(
        (f"{when} {what}", n)
        for what in ("fsync", "replace")
        for when in ("before", "after")
        for n in range(1, 6)
    ),
]


def test_killed_at_any_moment(tmp_path):
    context = multiprocessing.get_context("fork")
    save(make_checkpointer(tmp_path), 0)
    reached, leftovers = [0], 0
    for event, count in MOMENTS:
        arguments = tmp_path, reached[-1] + 1, event, count
        writer = context.Process(target=save_until_killed, args=arguments)
        writer.start()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        leftovers += len(list(tmp_path.glob("*.tmp")))
        reached.append(resumed_iteration(tmp_path))
    assert reached == sorted(reached) and reached[-1] > len(MOMENTS) / 2
    assert leftovers > len(MOMENTS) / 2  # else no kill came while a file was written


def test_diverged_model_is_not_saved(tmp_path):
    checkpointer = save_some(tmp_path)
    for number in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError, match=r"model_0000003.pth is not saved: 4 param"):
            checkpointer.checkpointables["trainer"].iteration = 3
            for parameter in checkpointer.model:
                parameter.data[-1] = number
            checkpointer.save("model_0000003", iteration=3)
        assert resumed_iteration(tmp_path) == 2
