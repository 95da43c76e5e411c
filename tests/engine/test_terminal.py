"""What is shown on standard output, and what the log file has."""

import io
import itertools
import logging
import math
import subprocess
import sys
import warnings

from hanging import HANGS_S
from runs import train

from crnas_d2.engine import terminal
from crnas_d2.engine.forecast import Forecast
from crnas_d2.engine.log_file import LoggedLines, log_results
from crnas_d2.engine.terminal import Terminal

OWN = logging.getLogger("crnas_d2.somewhere")
OTHER = logging.getLogger("detectron2.somewhere")


class Screen(io.StringIO):
    def isatty(self):
        return True


def attach(stream, monkeypatch, verbose=False):
    """Let this stream be standard output."""
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.open_terminal(verbose)


def messages(text):
    """Lines without the time before them."""
    return [line.partition("] ")[2] for line in text.splitlines()]


def log_some():
    for _ in range(2):
        OWN.debug("a detail")
        OWN.info("news")
        OTHER.info("chatter")
        OTHER.warning("\nthe other warns\n")
        OWN.error("fails", exc_info=ZeroDivisionError("why"))
        warnings.warn("obsolete", FutureWarning, stacklevel=1)


def test_lines_of_a_file(monkeypatch, tmp_path):
    """Each of those that a user looks for once, without colors."""
    file = io.StringIO()
    attach(file, monkeypatch)
    terminal.open_log(str(tmp_path))
    log_some()
    *first, warning, code = messages(file.getvalue())
    assert first == ["news", "WARNING the other warns", "ERROR fails"]
    assert warning.startswith("WARNING") and warning.endswith("FutureWarning: obsolete")
    log = (tmp_path / "log.txt").read_text()
    for text in ("a detail", "news", "chatter", "the other warns", "ZeroDivisionError: why"):
        assert log.count(text) == 2
    assert "obsolete" in log


def test_colors_of_others_are_left_out(monkeypatch, tmp_path):
    """fvcore has some in the list of missing weights."""
    screen = Screen()
    attach(screen, monkeypatch)
    terminal.open_log(str(tmp_path))
    OTHER.warning("not found: \x1b[34mfc1.{bias, weight}\x1b[0m")
    assert messages(screen.getvalue()) == ["WARNING not found: fc1.{bias, weight}"]
    assert (tmp_path / "log.txt").read_text().endswith(" not found: fc1.{bias, weight}\n")


def test_a_long_warning_of_others_is_cut_where_the_log_file_has_it(monkeypatch, tmp_path):
    for number, shown in enumerate(
        ["WARNING not found:\na\nb", "WARNING not found: (2 more lines"]
    ):
        file = io.StringIO()
        attach(file, monkeypatch)
        if number:
            terminal.open_log(str(tmp_path))
        OTHER.warning("not found:\na\nb")
        OWN.warning("own:\na\nb")
        assert shown in file.getvalue() and "own:\na\nb" in file.getvalue()
    assert "not found:\na\nb" in (tmp_path / "log.txt").read_text()


def test_verbose_shows_what_the_log_file_has(monkeypatch):
    file = io.StringIO()
    attach(file, monkeypatch, verbose=True)
    log_some()
    for text in ("a detail", "news", "chatter", "the other warns", "ZeroDivisionError: why"):
        assert file.getvalue().count(text) == 2


def test_a_line_of_an_earlier_step_comes_again(monkeypatch):
    """But none of a step that was there before the steps."""
    file = io.StringIO()
    attach(file, monkeypatch)
    OWN.info("before")
    for number in (1, 2):
        with terminal.step("x", number, 2):
            for text in ("before", "within", "within"):
                OWN.info(text)
    assert messages(file.getvalue()) == ["before", "within", "within"]


def report_a_step():
    with terminal.step("final", 2, 3, later=[terminal.Work(backward=100)]):
        for iteration in range(1, 4):
            terminal.report_images(2, backward=True)
            terminal.report("iteration", iteration, 9, 2, backward=True, detail="loss 0.5")


def test_live_line(monkeypatch):
    """It is gone at the end."""
    screen = Screen()
    attach(screen, monkeypatch)
    monkeypatch.setattr(terminal, "_width", lambda: 200)
    monkeypatch.setattr(terminal._LiveLine, "mininterval", 0, raising=False)
    report_a_step()
    lines = screen.getvalue().split("\r")
    assert "\n" not in screen.getvalue()
    assert lines[1] == "step 2 of 3, final: begins"
    assert lines[-1] == "" and not lines[-2].strip()


def test_plain_lines_now_and_then(monkeypatch):
    file = io.StringIO()
    attach(file, monkeypatch)
    report_a_step()
    assert file.getvalue() == ""
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", -1.0)
    report_a_step()
    lines = messages(file.getvalue())
    assert lines[1] == "step 2 of 3, final: iteration 1 of 9, loss 0.5"
    assert lines[-1].startswith("step 2 of 3, final: iteration 3 of 9, 0:00:00 left (all ~0:00:0")
    assert lines[-1].endswith(" images/s, loss 0.5")


def test_parts_of_a_step(monkeypatch):
    """What comes after a part counts too: 6 iterations of 2 images and 40 images at 2 in a second, and
    10 images that pass forward alone in a third of the time."""
    seconds = itertools.count()
    monkeypatch.setattr(terminal, "Forecast", lambda: Forecast(lambda: next(seconds)))
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", -1.0)
    file = io.StringIO()
    attach(file, monkeypatch)
    with terminal.step("stage_shortlist"):
        terminal.begin_part("training 1 of 8", terminal.Work(10, 40))
        for iteration in range(1, 4):
            terminal.report_images(2, backward=True)
            terminal.report("iteration", iteration, 9, 2, backward=True)
    seconds = round((6 * 2 + 40) / 2 + 10 / 6)
    assert messages(file.getvalue())[-1] == (
        f"stage_shortlist: training 1 of 8, iteration 3 of 9, 0:00:{seconds} left, 2 images/s"
    )


def test_nothing_is_shown_without_a_step(monkeypatch):
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", -1.0)
    file = io.StringIO()
    attach(file, monkeypatch)
    terminal.report_images(2)
    terminal.report("test image", 1, 2, 1)
    assert file.getvalue() == ""


def test_other_processes_show_nothing(monkeypatch, capfd):
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)
    terminal.open_terminal()
    log_some()
    report_a_step()
    assert capfd.readouterr() == ("", "")


def test_a_log_file_has_what_came_after_it_was_opened(tmp_path):
    terminal.open_terminal()
    for name in ("one", "two"):
        terminal.open_log(str(tmp_path / name))
        OTHER.info(f"of {name}")
    for name in ("one", "two"):
        (line,) = (tmp_path / name / "log.txt").read_text().splitlines()
        assert line.endswith(f" detectron2.somewhere INFO: of {name}")


def test_what_is_printed_is_logged_line_by_line(caplog):
    caplog.set_level(logging.INFO, "printed")
    print("one\ntwo", end="", file=(file := LoggedLines("printed")))
    print(" and three", file=file)
    assert caplog.messages == ["one", "two and three"]


def test_a_metric_without_objects_has_no_number(caplog):
    caplog.set_level(logging.INFO, "crnas_d2")
    log_results({"bbox": {"AP": 12.5, "APl": math.nan, "AP-red": 3.0}}, ["cells"])
    (message,) = caplog.messages
    assert message.startswith("bbox of cells:")
    head, _, row = (line.strip("|").split("|") for line in message.splitlines()[1:])
    assert dict(zip(map(str.strip, head), map(str.strip, row))) == {"AP": "12.500", "APl": "-"}


def test_a_training(tiny_config, tmp_path, capsys):
    """Shows few lines, and loses none of Detectron2's."""
    train(tiny_config, "SOLVER.MAX_ITER", 2)
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 20 and "\x1b" not in shown
    assert "|  AP   |  AP50  |" in shown and "Average Precision" not in shown
    assert f"log.txt are in {tmp_path / 'output'}" in shown
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "\x1b" not in log
    for text, count in {
        "Running with full config": 1,
        "Contents of args.config_file": 1,
        "Environment info": 1,
        "\nGeneralizedRCNN(": 1,
        "iter: 1  total_loss: ": 1,
        " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]": 1,
        "copypaste: AP,AP50": 1,
    }.items():
        assert log.count(text) == count, text


def test_importing_and_training_warn_of_nothing(tiny_config):
    """Detectron2's calls of what torch has deprecated are not the user's."""
    code = f"""
import sys
sys.path.insert(0, {str(tiny_config.parent)!r})
from crnas_d2.commands.train import main
main(["--config-file", {str(tiny_config)!r}, "SOLVER.MAX_ITER", "1"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS_S
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "Warning" not in done.stdout


def test_a_test_tells_its_images(tiny_config, monkeypatch):
    shown = []
    monkeypatch.setattr(Terminal, "show", lambda self, place, *_: shown.append(place))
    train(tiny_config, "SOLVER.MAX_ITER", 2)
    iterations, tests = shown[:2], shown[2:]
    assert iterations == ["iteration 1 of 2", "iteration 2 of 2"]
    total = len(tests)
    assert tests == [f"test image {n} of {total}" for n in range(1, total + 1)] and total > 1
