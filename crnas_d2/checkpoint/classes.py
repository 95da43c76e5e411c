"""The rows of a head's tensors that belong to single classes, and the names of the classes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.roi_heads import BaseMaskRCNNHead, FastRCNNOutputLayers, ROIHeads

from ..data.class_names import tell_apart
from ..modeling.classifier import ImageClassifier

CLASS_NAMES = "MODEL.CLASS_NAMES"
NUMBERS = ("MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES")
CLASS_KEYS = (*NUMBERS, CLASS_NAMES)  # keys of a detector that depend on its training set
SHOWN = 5  # number of names in a message


@dataclass(frozen=True)
class ClassRows:
    """How the rows of a tensor, that is, its first dimension, are assigned to the classes.

    For each anchor and each class in turn there are ``block`` rows. Those of the background follow
    at the end. Heads of some kinds may have a single ``block`` shared by all classes.
    """

    num_classes: int
    anchors: int = 1
    block: int = 1
    background: int = 0
    may_be_shared: bool = False

    def count(self, num_classes: int) -> int:
        """Get the number of rows of such a tensor for a number of classes."""
        return self.anchors * num_classes * self.block + self.background

    def of(self, classes: Sequence[int], num_classes: int) -> torch.Tensor:
        """Get the indices of the rows of some classes, and of the background, in such a tensor."""
        rows = torch.arange(self.count(num_classes))
        ends = len(rows) - self.background
        of_classes = rows[:ends].view(self.anchors, num_classes, self.block)[:, list(classes)]
        return torch.cat([of_classes.flatten(), rows[ends:]])


def find_class_rows(model: nn.Module) -> dict[str, ClassRows]:
    """Find the tensors of a model that have rows of classes, by their names in its state dict.

    Supported are Detectron2's heads and those derived from them, namely of Fast R-CNN in all
    variants, of masks, and of RetinaNet and FCOS, and the image classifier. The classes of a
    semantic segmentation are of another kind and have no names here.
    """
    found = {}

    def add(layer: str, rows: ClassRows) -> None:
        found.update({f"{layer}.{name}": rows for name in ("weight", "bias")})

    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, FastRCNNOutputLayers):
            classes, box = module.num_classes, len(module.box2box_transform.weights)
            add(f"{prefix}cls_score", ClassRows(classes, background=1))
            if module.bbox_pred.out_features == classes * box:
                add(f"{prefix}bbox_pred", ClassRows(classes, block=box, may_be_shared=True))
        elif isinstance(module, ROIHeads):
            for inner, head in module.named_modules(prefix=name):
                predictor = getattr(head, "predictor", None)
                if isinstance(head, BaseMaskRCNNHead) and isinstance(predictor, nn.Conv2d):
                    if predictor.out_channels == module.num_classes:
                        rows = ClassRows(module.num_classes, may_be_shared=True)
                        add(f"{inner}.predictor", rows)
        elif isinstance(module, DenseDetector) and hasattr(module.head, "cls_score"):
            classes = module.num_classes
            anchors = module.head.cls_score.out_channels // classes
            add(f"{prefix}head.cls_score", ClassRows(classes, anchors))
        elif isinstance(module, ImageClassifier):
            add(f"{prefix}linear", ClassRows(module.linear.out_features))
    return found


@dataclass(frozen=True)
class ClassReport:
    """The classes of a model whose rows come from the weights that it starts from.

    Its string describes them. It is empty if there is nothing to say.

    Attributes:
        saved: names of the classes in the weights. Empty if they are unknown.
        names: names of the model's classes. Empty if they are unknown.
        left_out: tensors of the weights that do not fit although their rows belong to classes.
    """

    saved: tuple[str, ...]
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def kept(self) -> list[str]:
        """The classes whose rows come from the weights."""
        return [name for name in self.names if name in self.saved]

    @property
    def new(self) -> list[str]:
        """The classes of the model that the weights lack."""
        return [name for name in self.names if name not in self.saved]

    @property
    def unused(self) -> list[str]:
        """The classes of the weights that the model lacks."""
        return [name for name in self.saved if name not in self.names]

    def __str__(self) -> str:
        parts = []
        if not self.saved or not self.names:
            if not self.left_out:
                parts.append("names of classes are not known: the rows are taken as they are")
        elif not self.new and not self.unused:
            if self.saved != self.names:
                parts.append(
                    f"the same {len(self.names)} classes in another order: their rows are put into "
                    f"the order of the model ({_shown(self.names)})"
                )
        else:
            parts.append(
                f"{len(self.kept)} of {len(self.names)} classes have rows of a class of the same "
                f"name ({_shown(self.kept)}); new: {_shown(self.new)}; of the weights' "
                f"{len(self.saved)} classes not used: {_shown(self.unused)}"
            )
            parts.extend(_lookalikes(self.unused, self.new))
        if self.left_out:
            parts.append(
                f"{len(self.left_out)} tensor(s) of another number of classes, or of another kind "
                f"of head, are left out: {', '.join(self.left_out)}"
            )
        return "; ".join(parts)


def match_class_rows(
    tensors: Mapping[str, torch.Tensor],
    saved_names: Sequence[str],
    model: nn.Module,
    names: Sequence[str],
) -> tuple[dict[str, torch.Tensor], ClassReport]:
    """Move the rows of classes in weights to where the model has the classes of these names.

    Rows of classes that the weights lack keep the fresh values of the model. If several classes
    have the same name, the first is matched to the first, and so on. The rows of the background are
    kept. If names are unknown, tensors with the model's shape are used unchanged, as in Detectron2.
    A box regression or a mask that is shared by all classes has no such rows.

    Args:
        tensors: tensors by their names in the model's state dict. Some may be missing.
        saved_names: names of the classes in the weights, in order. Empty if they are unknown.
        model: the model with its initial weights.
        names: names of its classes, in order. Empty if they are unknown.

    Returns:
        The tensors, without those that have rows of classes and cannot fit, and a report.

    Raises:
        ValueError: the model's number of classes differs from the number of names; or the names
            differ and it has an unsupported kind of head.
    """
    saved_names, names = tuple(tell_apart(saved_names)), tuple(tell_apart(names))
    tensors = dict(tensors)
    all_rows = find_class_rows(model)
    found = {name: rows for name, rows in all_rows.items() if name in tensors}
    is_known = bool(saved_names and names)
    if is_known and saved_names != names:
        _check_heads(model, all_rows, tensors, len(names))
    if not found or (is_known and saved_names == names):
        return tensors, ClassReport(names, names)
    places = [i for i, name in enumerate(names) if name in saved_names]
    sources = [saved_names.index(names[i]) for i in places]
    fresh = model.state_dict()
    left_out = []
    for name, rows in found.items():
        tensor, own = tensors[name], fresh[name]
        is_shared = rows.may_be_shared and len(tensor) == rows.block
        if tensor.shape == own.shape and (is_shared or not is_known):
            continue
        if is_known and tensor.shape == (rows.count(len(saved_names)), *own.shape[1:]):
            taken = tensor[rows.of(sources, len(saved_names))]
            tensors[name] = own.clone()
            tensors[name][rows.of(places, len(names))] = taken.to(own)
        else:
            del tensors[name]
            left_out.append(name)
    return tensors, ClassReport(saved_names, names, tuple(left_out))


def read_class_names(config: Mapping[str, str]) -> tuple[str, ...]:
    """Read the names of the classes from the config values in a checkpoint. Empty if it has none."""
    return tuple(ast.literal_eval(config.get(CLASS_NAMES, "[]")))


def as_config(names: Sequence[str]) -> dict[str, str]:
    """Get the config values that describe the classes of a detector. Empty if there are no names."""
    if not names:
        return {}
    return {**dict.fromkeys(NUMBERS, str(len(names))), CLASS_NAMES: str(list(names))}


def describe_difference(saved: Sequence[str], names: Sequence[str]) -> str:
    """Describe how the classes of a checkpoint differ from those of the data.

    The result is empty if they are the same, in any order, or if one of them is unknown.
    """
    saved, names = tell_apart(saved), tell_apart(names)
    lacking = [name for name in saved if name not in names]
    added = [name for name in names if name not in saved]
    if not saved or not names or sorted(saved) == sorted(names):
        return ""
    parts = [f"{len(saved)} in the checkpoint, {len(names)} in the data"]
    if lacking:
        parts.append(f"in the checkpoint alone: {_shown(lacking)}")
    if added:
        parts.append(f"in the data alone: {_shown(added)}")
    return "; ".join([*parts, *_lookalikes(lacking, added)])


def _check_heads(
    model: nn.Module,
    all_rows: Mapping[str, ClassRows],
    tensors: Iterable[str],
    num_classes: int,
) -> None:
    """Refuse heads for which the rows of their classes are unknown."""
    of_heads = [key for key in tensors if not key.startswith("backbone.")]
    for name in all_rows.keys() & of_heads:
        if all_rows[name].num_classes != num_classes:
            raise ValueError(
                f"{CLASS_NAMES} has {num_classes} names, and {name} of the model is for "
                f"{all_rows[name].num_classes} classes; expected as many"
            )
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        is_known = any(key.startswith(prefix) for key in all_rows)
        if (
            hasattr(module, "num_classes")
            and not is_known
            and any(key.startswith(prefix) for key in of_heads)
        ):
            raise ValueError(
                f"the weights have other classes than the model, or another order, and {name or 'it'}"
                f" is a {type(module).__name__}, of which it is not known which rows belong to a "
                "class; expected the same classes in the same order"
            )


def _lookalikes(saved: Sequence[str], names: Sequence[str]) -> list[str]:
    """List sentences about different names that a reader may take for the same."""

    def normal(name: str) -> str:
        return re.sub(r"[\s_-]", "", name.casefold()).removesuffix("s")

    by_form = {normal(name): name for name in saved}
    pairs = [(by_form[normal(name)], name) for name in names if normal(name) in by_form]
    shown = ", ".join(f"{one!r} and {other!r}" for one, other in pairs[:SHOWN])
    return [f"taken as different: {shown}"] if pairs else []


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more or "none"
