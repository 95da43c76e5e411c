"""The trainer of all detectors and classifiers of this project."""

from __future__ import annotations

import contextlib
import logging
import weakref

import torch
from torch.utils.data import DataLoader, default_collate

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.build import _train_loader_from_config
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.modeling import RetinaNet
from detectron2.utils import comm

from ..checkpoint import CRCheckpointer
from ..data.classification import ClassificationMapper, build_classification_test_loader
from ..data.imagenet import is_classification
from .classification_evaluator import ClassificationEvaluator
from .hooks import (
    ActiveGradientReduction,
    LossNormalizer,
    Reporting,
    SeededStep,
    StopOnSignal,
    UniformPathSampling,
    find_supernet,
)
from .loader import ReportedLoader, build_train_loader
from .step import AMPStep, Step
from .terminal import LoggedLines, log_results

logger = logging.getLogger(__name__)


class CRTrainer(DefaultTrainer):
    """Detectron2's default trainer, which also

    * trains on the CPU in several processes,
    * trains a supernet by single-path uniform sampling, moving the gradients of the path alone,
    * resumes to the state that it would have reached without the interruption, given a ``SEED``,
    * saves and ends on SIGTERM, and stops with all ranks when a loss is not finite,
    * loads and saves through :class:`CRCheckpointer`,
    * trains "SyncBN" as "BN" where there is nothing to synchronize or no GPU to do it on,
    * chooses the mapper and the evaluator by the data set.
    """

    def __init__(self, cfg: CfgNode):
        TrainerBase.__init__(self)
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())

        model = self.build_model(cfg)
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
        self.checkpointer = CRCheckpointer(model, cfg.OUTPUT_DIR, cfg, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Those of Detectron2, between what happens before a step and what may end the run."""
        before = [SeededStep(self.cfg.SEED)] if self.cfg.SEED >= 0 else []
        if comm.is_main_process():
            before.append(Reporting(self.cfg.SOLVER.IMS_PER_BATCH))
        supernet = find_supernet(self.model)
        if supernet is not None:
            before.append(UniformPathSampling(supernet, self.cfg.MODEL.SUPERNET.SEED))
        before += [LossNormalizer(m) for m in self.model.modules() if isinstance(m, RetinaNet)]
        return [*before, *super().build_hooks(), StopOnSignal()]

    def resume_or_load(self, resume: bool = True) -> None:
        """As in Detectron2; also goes on in the data, and prints from where."""
        super().resume_or_load(resume=resume)
        self.data_loader.batch_sampler.start = self.start_iter
        if self.start_iter > 0:
            source = f"checkpoint {self.checkpointer.get_checkpoint_file()}"
        else:
            source = f"weights {self.cfg.MODEL.WEIGHTS or '(random)'}"
        logger.info(f"Starting at iteration {self.start_iter} of {self.max_iter} from {source}")

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        return super().build_model(without_needless_sync_bn(cfg))

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        if is_classification(cfg.DATASETS.TRAIN[0]):
            arguments = _train_loader_from_config(cfg, ClassificationMapper(cfg, is_train=True))
            arguments.update(aspect_ratio_grouping=False, collate_fn=default_collate)
        else:
            arguments = _train_loader_from_config(cfg)
        if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
            arguments["sampler"] = TrainingSampler(len(arguments["dataset"]), seed=seed)
        return build_train_loader(**arguments, seed=seed)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> ReportedLoader:
        if is_classification(dataset_name):
            loader = build_classification_test_loader(cfg, dataset_name)
        else:
            loader = super().build_test_loader(cfg, dataset_name)
        return ReportedLoader(loader)

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators=None) -> dict:
        """As in Detectron2; a supernet is evaluated on each of ``MODEL.SUPERNET.TEST_PATHS``. What
        is printed goes to the log.

        Returns:
            The results; of a supernet, for each path, such as "2-2-2-2".
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
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """The evaluator that belongs to a data set by its metadata.

        Args:
            cfg: the config.
            dataset_name: a registered data set.
            output_folder: where predictions go, by default ``OUTPUT_DIR/inference``.

        Raises:
            ValueError: there is no evaluator for this kind of data set.
        """
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        if kind == "coco":
            return COCOEvaluator(
                dataset_name, output_dir=output_folder or f"{cfg.OUTPUT_DIR}/inference"
            )
        if kind == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        if kind == "classification":
            return ClassificationEvaluator()
        raise ValueError(
            f"data set {dataset_name!r} has evaluator_type {kind!r} in its metadata; "
            "expected 'coco', 'pascal_voc' or 'classification'"
        )


def without_needless_sync_bn(cfg: CfgNode) -> CfgNode:
    """Put "BN" for "SyncBN" where one process trains alone, or several without GPUs.

    Returns:
        The config itself where nothing changes, else a changed copy.
    """
    if cfg.MODEL.DEVICE == "cpu":
        return without_sync_bn(cfg, "torch synchronizes BN on GPUs only")
    if comm.get_world_size() == 1:
        return without_sync_bn(cfg, "there is one process")
    return cfg


def without_sync_bn(cfg: CfgNode, reason: str) -> CfgNode:
    """A copy with "BN" for "SyncBN"; the log says where and gives the reason."""
    cfg = cfg.clone()
    cfg.defrost()
    changed = []
    for name, node in cfg.MODEL.items():
        if isinstance(node, CfgNode) and node.get("NORM") == "SyncBN":
            node.NORM = "BN"
            changed.append(f"MODEL.{name}.NORM")
    if changed:
        logger.info(f"BN instead of SyncBN in {', '.join(changed)}: {reason}")
    return cfg
