"""An image classifier on top of a backbone, for its pre-training (appendix A.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """Global average pooling and a linear layer on the last feature of a backbone.

    A checkpoint of it can be the ``MODEL.WEIGHTS`` of a detector with the same backbone, see
    :class:`CRCheckpointer`.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        dropout: float = 0.0,
    ):
        """
        Args:
            backbone: any backbone, whose last feature is classified.
            num_classes: number of classes.
            pixel_mean, pixel_std: values for each channel, by which images are normalized.
            dropout: probability that an input of the linear layer is dropped in training.
        """
        super().__init__()
        self.backbone = backbone
        self.feature, shape = list(backbone.output_shape().items())[-1]
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(shape.channels, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        return {
            "backbone": build_backbone(cfg),
            "num_classes": cfg.MODEL.CLASSIFIER.NUM_CLASSES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "dropout": cfg.MODEL.CLASSIFIER.DROPOUT,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor] | torch.Tensor:
        """
        Args:
            batched_inputs: "image" of shape (N, channels, H, W), with values from 0 to 255 in the
                order of ``INPUT.FORMAT``. In training also "label" of shape (N,).

        Returns:
            In training a dict of losses, otherwise the class scores of shape (N, num_classes)
            before softmax.
        """
        images = batched_inputs["image"].to(self.device)
        features = self.backbone((images - self.pixel_mean) / self.pixel_std)
        scores = self.linear(self.dropout(features[self.feature].mean((2, 3))))
        if not self.training:
            return scores
        return {"loss_cls": F.cross_entropy(scores, batched_inputs["label"].to(self.device))}
