"""The trainer of all detectors and classifiers of this project."""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections import OrderedDict
from typing import Any

import torch
from fvcore.nn.precise_bn import get_bn_modules
from torch.utils.data import DataLoader, default_collate

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_test_loader
from detectron2.data.build import _train_loader_from_config
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA, RetinaNet
from detectron2.solver.build import (
    _create_gradient_clipper,
    _generate_optimizer_class_with_gradient_clipping,
)
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from detectron2.utils.file_io import PathManager

from ..checkpoint import CRCheckpointer
from ..checkpoint.checkpointer import FINAL, OF_OPTIMIZER
from ..data.classification import ClassificationMapper, build_classification_test_loader
from ..data.imagenet import is_classification
from ..data.naming_mapper import NamingMapper
from ..lock import folder_lock
from ..modeling.supernet import Supernet
from .averaging import WeightAveraging
from .best_checkpoint import BestCheckpointer
from .evaluators import build_evaluator
from .hooks import (
    SAMPLINGS,
    ActiveGradientReduction,
    LossNormalizer,
    ProcessCount,
    Reporting,
    SeededStep,
    StopOnSignal,
    find_supernet,
)
from .loader import ReportedLoader, build_train_loader
from .log_file import LoggedLines, log_results
from .metrics_writer import MetricsWriter
from .shared_statistics import PreciseBN, SharedStatistics
from .step import AMPStep, Step
from .sync_bn import without_needless_sync_bn

logger = logging.getLogger(__name__)

TRAINED_WEIGHTS = "trained_weights"


class CRTrainer(DefaultTrainer):
    """Detectron2's default trainer, which also

    * trains on the CPU in several processes,
    * trains a supernet by single-path sampling, reducing only the gradients of the path,
    * keeps a single network on all ranks, including the running statistics of BN,
    * resumes to the same state as an uninterrupted run, given a ``SEED``,
    * saves and exits on SIGTERM, and stops on all ranks if a loss is not finite,
    * loads and saves with :class:`CRCheckpointer`,
    * trains "SyncBN" as "BN" if there is nothing to synchronize or no GPU to do it on,
    * chooses the mapper and the evaluator by the dataset,
    * optionally tests and saves averaged weights,
    * optionally tests with augmentation at the end, and keeps the best checkpoint.
    """

    def __init__(self, cfg: CfgNode):
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())

        model = self.build_model(cfg)
        decay = cfg.SOLVER.EMA.DECAY
        self._averaging = WeightAveraging(model, decay) if decay > 0 else None
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        supernet = find_supernet(model)
        if supernet is not None and cfg.TEST.PRECISE_BN.ENABLED:
            raise ValueError(
                "TEST.PRECISE_BN.ENABLED is True; it would overwrite the statistics of all paths "
                "of a supernet but the one that runs"
            )
        if supernet is None:
            model = create_ddp_model(
                model,
                broadcast_buffers=False,
                device_ids=None if cfg.MODEL.DEVICE == "cpu" else [comm.get_local_rank()],
            )
        self._trainer = (AMPStep if cfg.SOLVER.AMP.ENABLED else Step)(model, data_loader, optimizer)
        if supernet is not None and comm.get_world_size() > 1:
            self._trainer.register_hooks([ActiveGradientReduction(model)])
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = CRCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            cfg,
            averaged=self._averaging and self._averaging.network,
            trainer=weakref.proxy(self),
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Build the hooks in order.

        Those that a step needs come first, then those that share, save, test and write its results,
        and finally the one that may end the run.
        """
        cfg, best, main = self.cfg, self.cfg.TEST.BEST_METRIC, comm.is_main_process()
        supernet, message = find_supernet(self.model), self._trainer.message
        save_period, test_period = cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD
        return [
            SeededStep(cfg.SEED) if cfg.SEED >= 0 else None,
            Reporting(cfg.SOLVER.IMS_PER_BATCH) if main else None,
            self._build_path_sampling(supernet) if supernet else None,
            *(LossNormalizer(m, message) for m in self.model.modules() if isinstance(m, RetinaNet)),
            ProcessCount(),
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            *self._build_weights_hooks(),
            # Before the test, so that the checkpoint exists if the test fails.
            hooks.PeriodicCheckpointer(self.checkpointer, save_period) if main else None,
            hooks.EvalHook(test_period, self._test),
            hooks.EvalHook(0, self._test_with_tta) if cfg.TEST.AUG.ENABLED else None,
            BestCheckpointer(test_period, self.checkpointer, best) if main and best else None,
            hooks.PeriodicWriter(self.build_writers(), period=20) if main else None,
            StopOnSignal(message),
        ]

    def build_writers(self) -> list[EventWriter]:
        folder = self.cfg.OUTPUT_DIR
        PathManager.mkdirs(folder)
        metrics = MetricsWriter(os.path.join(folder, "metrics.json"))
        return [CommonMetricPrinter(self.max_iter), metrics, TensorboardXWriter(folder)]

    def _build_path_sampling(self, supernet: Supernet) -> HookBase:
        keys = self.cfg.MODEL.SUPERNET
        return SAMPLINGS[keys.SAMPLING](supernet, keys.SEED)

    def _build_weights_hooks(self) -> list[HookBase]:
        """Build the hooks that turn a step's weights and statistics into the tested and saved ones."""
        precise = self.cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model)
        several = comm.get_world_size() > 1
        built: list[HookBase] = [self._build_precise_bn()] if precise else []
        if self._averaging is None:
            return [*built, SharedStatistics(self.model)] if several else built
        if precise and several:
            built.append(SharedStatistics(self._tested))
        shared = [SharedStatistics(self.model)] if several else []
        return [*shared, self._averaging, *built]

    def _build_precise_bn(self) -> HookBase:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.DATALOADER.NUM_WORKERS = 0
        loader = self.build_train_loader(cfg)
        return PreciseBN(cfg.TEST.EVAL_PERIOD, self._tested, loader, cfg.TEST.PRECISE_BN.NUM_ITER)

    @property
    def _tested(self) -> torch.nn.Module:
        """The model with the weights to test, which are the averaged ones if there are any."""
        return self._averaging.network if self._averaging else self.model

    def _test(self) -> dict:
        self._last_eval_results = self.test(self.cfg, self._tested)
        return self._last_eval_results

    def _test_with_tta(self) -> dict:
        results = self.test_with_tta(self.cfg, self._tested)
        self._last_eval_results.update(results)
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume or load as Detectron2 does, with the position in the data, and log the start."""
        super().resume_or_load(resume=resume)
        self.data_loader.batch_sampler.start = self.start_iter
        last = self.checkpointer.get_checkpoint_file() if self.start_iter > 0 else ""
        source = f"checkpoint {last}" if last else f"weights {self.cfg.MODEL.WEIGHTS or '(random)'}"
        logger.info(f"Starting at iteration {self.start_iter} of {self.max_iter} from {source}")
        if self.start_iter >= self.max_iter:
            logger.info("All iterations are done: other values of keys change no weights any more")
        if self.start_iter >= self.max_iter and os.path.basename(last) != f"{FINAL}.pth":
            # The run was killed before it saved the final checkpoint, or that file was removed.
            self.iter = self.start_iter - 1
            self.checkpointer.save(FINAL, iteration=self.iter)

    def train(self) -> OrderedDict | None:
        """Train as Detectron2 does, while holding the lock of ``OUTPUT_DIR``."""
        lock = folder_lock(self.cfg.OUTPUT_DIR) if comm.is_main_process() else None
        with lock or contextlib.nullcontext():
            return super().train()

    def state_dict(self) -> dict[str, Any]:
        """Get Detectron2's state.

        If checkpoints contain averaged weights, the state of the optimizer includes the trained
        ones.
        """
        state = super().state_dict()
        if self._averaging:
            state[OF_OPTIMIZER][TRAINED_WEIGHTS] = self.checkpointer.model.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load Detectron2's state. A final checkpoint has no state of the optimizer."""
        TrainerBase.load_state_dict(self, state_dict)
        if OF_OPTIMIZER in state_dict:
            of_optimizer = state_dict[OF_OPTIMIZER]
            self._trainer.load_state_dict(of_optimizer)
            if TRAINED_WEIGHTS in of_optimizer:
                self.checkpointer.model.load_state_dict(of_optimizer[TRAINED_WEIGHTS])

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        return super().build_model(without_needless_sync_bn(cfg))

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
        """Build Detectron2's optimizer, whose clipping skips parameters without a gradient.

        These are the ones off the path of a supernet.
        """
        clipping = cfg.SOLVER.CLIP_GRADIENTS
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
        optimizer = super().build_optimizer(cfg, model)
        if clipping.ENABLED:
            clip = _create_gradient_clipper(clipping)
            optimizer.__class__ = _generate_optimizer_class_with_gradient_clipping(
                type(optimizer), per_param_clipper=lambda p: p.grad is None or clip(p)
            )
        return optimizer

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        classifies = is_classification(cfg.DATASETS.TRAIN[0])
        mapper = ClassificationMapper(cfg, is_train=True) if classifies else None
        try:
            arguments = _train_loader_from_config(cfg, mapper)
        # raised by Detectron2 for datasets in which it finds nothing
        except AssertionError as error:
            raise ValueError(f"DATASETS.TRAIN is {cfg.DATASETS.TRAIN}: {error}") from error
        if classifies:
            arguments.update(aspect_ratio_grouping=False, collate_fn=default_collate)
        if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
            arguments["sampler"] = TrainingSampler(len(arguments["dataset"]), seed=seed)
        return build_train_loader(**arguments, seed=seed)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> ReportedLoader:
        if is_classification(dataset_name):
            loader = build_classification_test_loader(cfg, dataset_name)
        else:
            mapper = NamingMapper(DatasetMapper(cfg, is_train=False))
            loader = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return ReportedLoader(loader)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators=None) -> dict:
        """Test as Detectron2 does, and a supernet on each of ``MODEL.SUPERNET.TEST_PATHS``.

        Everything that is printed goes to the log.

        Returns:
            The results. For a supernet, the results by path, such as "2-2-2-2".
        """
        supernet = find_supernet(model)
        if supernet is None:
            return cls._test_network(cfg, model, evaluators)
        results = {}
        for path in cfg.MODEL.SUPERNET.TEST_PATHS:
            supernet.set_path(path)
            logger.info(f"Evaluating path {list(path)}")
            results["-".join(map(str, path))] = cls._test_network(cfg, model, evaluators)
        return results

    @classmethod
    def _test_network(cls, cfg: CfgNode, model: torch.nn.Module, evaluators) -> dict:
        with contextlib.redirect_stdout(LoggedLines("pycocotools")):
            results = super().test(cfg, model, evaluators)
        log_results(results, cfg.DATASETS.TEST)
        return results

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: torch.nn.Module) -> dict:
        """Test with augmentation by ``TEST.AUG``, as in Detectron2's tools/train_net.py.

        Returns:
            The results by task, such as "bbox_TTA".
        """
        logger.info("Running inference with test-time augmentation")
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return OrderedDict({f"{name}_TTA": result for name, result in results.items()})

    @classmethod
    def evaluate(cls, cfg: CfgNode, model: torch.nn.Module) -> dict:
        """Run the tests at the end of a training, also with augmentation if that is enabled."""
        results = cls.test(cfg, model)
        if cfg.TEST.AUG.ENABLED:
            results.update(cls.test_with_tta(cfg, model))
        return results

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """See :func:`build_evaluator`. Predictions go to ``OUTPUT_DIR/inference`` by default."""
        output_folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, output_folder)
