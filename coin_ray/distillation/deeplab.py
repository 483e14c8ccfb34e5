"""DeepLabv3+ with two independent heads on a dilated ResNet: the student of the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coin_ray.compat import ensure_torchvision
from coin_ray.distillation.settings import Student
from coin_ray.weights.modules import load_imagenet


def _conv(channels_in: int, channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation if kernel == 3 else 0
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class _Aspp(nn.Module):
    """Atrous spatial pyramid pooling with an image-level branch; its rates are those of DeepLabv3+,
    1, 12, 24, 36 at output stride 8 and 1, 6, 12, 18 at 16."""

    def __init__(self, channels_in: int, output_stride: int, channels: int = 256) -> None:
        super().__init__()
        unit = 96 // output_stride
        self.branches = nn.ModuleList(
            _conv(channels_in, channels, 3 if rate else 1, rate * unit or 1) for rate in range(4)
        )
        self.pooling = _conv(channels_in, channels, 1)
        self.fuse = nn.Sequential(_conv(5 * channels, channels, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooling(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.fuse(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))


class _Head(nn.Module):
    """``aspp`` is its own pyramid pooling; None where another head's is handed to it."""

    def __init__(self, low_channels: int, aspp: _Aspp | None) -> None:
        super().__init__()
        self.aspp = aspp
        self.low = _conv(low_channels, 48, 1)
        self.classify = nn.Sequential(
            _conv(304, 256, 3),
            nn.Dropout(0.5),
            _conv(256, 256, 3),
            nn.Dropout(0.1),
            nn.Conv2d(256, 2, 1, bias=False),
        )

    def forward(self, low: Tensor, pooled: Tensor) -> Tensor:
        pooled = F.interpolate(pooled, size=low.shape[-2:], mode="bilinear", align_corners=False)
        return self.classify(torch.cat([pooled, self.low(low)], dim=1))


class DeepLabV3Plus(nn.Module):
    """Two DeepLabv3+ heads (segmentation, edge) on one ResNet with output stride 8 or 16.

    Stage dilations 1, 1, 2, 4 (or 1, 1, 1, 2); the first block of a stage keeps dilation 1.
    ``forward`` takes (B, 3, H, W) normalised floats of any size and returns segmentation logits
    (B, 2, H, W) and edge logits of the same shape, or None without an edge head.  The image-level
    branch normalises over the batch: training needs at least two samples a step.
    """

    def __init__(self, student: Student, encoder_weights: str) -> None:
        super().__init__()
        stride = student.output_stride
        self.encoder, low, high = _resnet(student.encoder, encoder_weights, stride)
        self.segmentation = _Head(low, _Aspp(high, stride))
        self.edge = None
        if student.edge:
            self.edge = _Head(low, None if student.shared_aspp else _Aspp(high, stride))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        low, high = self.encoder(x)

        def full(logits: Tensor) -> Tensor:
            return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)

        assert self.segmentation.aspp is not None
        pooled = self.segmentation.aspp(high)
        segmentation = full(self.segmentation(low, pooled))
        if self.edge is None:
            return segmentation, None
        if self.edge.aspp is not None:
            pooled = self.edge.aspp(high)
        return segmentation, full(self.edge(low, pooled))


def _resnet(name: str, weights: str, output_stride: int) -> tuple[nn.Module, int, int]:
    """The encoder and the channels of its two outputs, at stride 4 and at ``output_stride``."""
    ensure_torchvision()
    import timm

    model = timm.create_model(
        name,
        pretrained=False,
        features_only=True,
        output_stride=output_stride,
        out_indices=(1, 4),
    )
    first = model.layer4[0].conv2  # timm dilates it by the previous stage's rate
    first.dilation, first.padding = (1, 1), (1, 1)
    if weights == "imagenet":
        load_imagenet(model, f"{name}_imagenet")
    low, high = model.feature_info.channels()
    return model, low, high
