import contextlib
import gc
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

# Before anything is imported that looks there: what the tests write goes into a folder of their own,
# that of Detectron2's datasets included.
REAL_DATASETS = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))).resolve()
OWN_DATASETS = tempfile.TemporaryDirectory(prefix="crnas_d2_datasets_")
os.environ["DETECTRON2_DATASETS"] = OWN_DATASETS.name
for path in REAL_DATASETS.glob("*"):
    if path.is_dir() and not path.name.startswith("crnas_d2_"):
        Path(OWN_DATASETS.name, path.name).symlink_to(path)

from built_package import installed, sdist, source, wheel  # noqa: F401

# Torch, Detectron2 and this package are imported where a test needs them: the process that hands the
# tests out to others needs none of them, and would keep those waiting for seconds.


# Tests that one process runs, in their order, as they share what is made once for all of them: the pages
# of docs, README, the report, the package. They take minutes, so they begin first. All other files are
# such groups too.
GROUPS = (
    r"tests/docs/test_commands\.py::.*\[docs/",
    r"tests/docs/test_commands\.py::",
    r"tests/report/test_(browser|report)\.py::",
    r"tests/test_(end_to_end|packaging)\.py::",
)

# What takes more than 2.5 seconds of a core: it begins first, and --quick leaves it out.
SLOW = """
    analysis/test_erf.py analysis/test_flops.py analysis/test_flops_of_detectors.py
    analysis/test_latency.py analysis/test_paper_convention.py analysis/test_sketch.py
    checkpoint/test_atomic_checkpoints.py checkpoint/test_convert.py checkpoint/test_inherit.py
    checkpoint/test_match_features.py checkpoint/test_remap.py checkpoint/test_save.py
    checkpoint/test_seed_network.py checkpoint/test_settings.py checkpoint/test_start*.py
    checkpoint/test_supernet_weights.py checkpoint/test_weights_file.py
    checkpoint/test_zoo_detections.py
    commands/test_analyze_command.py commands/test_command_line.py commands/test_convert_command.py
    commands/test_export_command.py commands/test_remap_command.py commands/test_submit_command.py
    data/test_*_check*.py data/test_digits.py data/test_near_copies.py
    docs/test_commands.py docs/test_taken*.py
    engine/test_averaging.py engine/test_best_checkpoint.py engine/test_class_order.py
    engine/test_distributed.py engine/test_evaluators.py engine/test_faults.py engine/test_hooks.py
    engine/test_predicting.py engine/test_resume.py engine/test_shared_faults.py
    engine/test_terminal.py engine/test_train_net.py engine/test_unreadable_images.py
    engine/test_zoo*.py
    evaluation/test_bootstrap.py evaluation/test_dc5_search.py evaluation/test_evaluator.py
    evaluation/test_masks.py evaluation/test_other_detectors.py evaluation/test_paired_comparison.py
    evaluation/test_scorer.py
    modeling/test_activation_checkpoint.py modeling/test_builders.py modeling/test_cr*.py
    modeling/test_dc5.py modeling/test_export.py modeling/test_nas_fpn*.py
    modeling/test_res5_roi_heads.py modeling/test_supernet*.py modeling/test_works_with.py
    procedure/*.py
    report/test_baseline_found.py report/test_browser.py report/test_budgets.py
    report/test_drawing.py report/test_inspection.py report/test_plots.py report/test_report.py
    search/test_cost.py search/test_latencies.py search/test_operation_search.py
    search/test_stage_search.py
    test_configs.py test_end_to_end.py test_lazyconfig.py test_library_warnings.py test_on_device.py
    test_packaging.py test_transfer_configs.py
""".split()
SLOW_FILES = {path for pattern in SLOW for path in TESTS.glob(pattern)}


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="leave out what takes seconds")


def pytest_ignore_collect(collection_path, config):
    return config.getoption("quick") and collection_path in SLOW_FILES or None


def group_of(nodeid):
    return next((g for g in GROUPS if re.match(g, nodeid)), nodeid.split("::")[0])


def pytest_collection_modifyitems(items):
    """The groups first, then what is slow, so that no long one is the last."""

    def place(item):
        group = group_of(item.nodeid)
        if group in GROUPS:
            return GROUPS.index(group)
        return len(GROUPS) + (item.path not in SLOW_FILES)

    items.sort(key=place)


def pytest_collection_finish():
    """The modules and the tests stay to the end: the collector need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Where several processes run the tests, each takes one group after the other."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group_of(nodeid)

    return GroupScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Two that share their cores with other programs wait for each other most of the time."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_loggers():
    """A job sets the loggers up for its whole process, on the streams and files of that moment."""
    from crnas_d2.engine.terminal import LOGGERS

    from detectron2.utils.logger import setup_logger

    yield
    setup_logger.cache_clear()
    logging.captureWarnings(False)
    for name in LOGGERS:
        log = logging.getLogger(name)
        log.handlers.clear()
        log.setLevel(logging.NOTSET)
        log.propagate = True


@pytest.fixture(scope="module")
def without_report():
    """A search over one supernet makes no page, which takes longer than a tiny search.

    From the first test that uses it, all of its file: pages are those of tests/report.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crnas_d2.report.report_search", lambda *_: None)
        yield


@pytest.fixture
def hold():
    """Starts processes that hold the lock of a folder until they are killed, perhaps with a child as
    a loader has them, which outlives a kill."""
    context = multiprocessing.get_context("fork")
    with contextlib.ExitStack() as stack:

        def start(folder, child=False):
            told, tell = context.Pipe(duplex=False)
            process = context.Process(target=_hold, args=(str(folder), child, tell))
            process.start()
            tell.close()
            stack.callback(process.kill)
            last = told.recv()
            if child:
                stack.callback(os.kill, last, signal.SIGKILL)
            return process

        yield start


def _hold(folder, child, tell):
    from crnas_d2.lock import folder_lock

    with folder_lock(folder):
        if not child or not os.fork():
            tell.send(os.getpid())
        signal.pause()


@pytest.fixture
def catalogs():
    """Whatever a test registers is gone after it."""
    with restored_catalogs():
        yield


@pytest.fixture(scope="module", autouse=True)
def catalogs_of_module():
    """Whatever the tests of a module register is gone after them: which module one process runs
    next is chance."""
    with restored_catalogs():
        yield


@contextlib.contextmanager
def restored_catalogs():
    """Both catalogs are as before, and so is each entry that was there: the mere look at a dataset
    makes one without attributes, which a registration later fills."""
    import crnas_d2  # noqa: F401  # which registers its own

    from detectron2.data import DatasetCatalog, MetadataCatalog

    datasets, metadata = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    attributes = {name: dict(vars(entry)) for name, entry in metadata.items()}
    yield
    for catalog, before in ((DatasetCatalog, datasets), (MetadataCatalog, metadata)):
        catalog.data.clear()
        catalog.data.update(before)
    for name, before in attributes.items():
        vars(metadata[name]).clear()
        vars(metadata[name]).update(before)
