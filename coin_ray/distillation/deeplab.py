"""DeepLabv3+ with two independent heads on a dilated ResNet: the student of the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coin_ray.compat import ensure_torchvision
from coin_ray.weights.modules import load_imagenet


def _conv(channels_in: int, channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation if kernel == 3 else 0
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class _Aspp(nn.Module):
    """Atrous spatial pyramid pooling with rates 1, 12, 24, 36 and an image-level branch."""

    def __init__(self, channels_in: int, channels: int = 256) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            _conv(channels_in, channels, 1 if rate == 1 else 3, rate) for rate in (1, 12, 24, 36)
        )
        self.pooling = _conv(channels_in, channels, 1)
        self.fuse = nn.Sequential(_conv(5 * channels, channels, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pooling(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.fuse(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))


class _Head(nn.Module):
    def __init__(self, low_channels: int, high_channels: int) -> None:
        super().__init__()
        self.aspp = _Aspp(high_channels)
        self.low = _conv(low_channels, 48, 1)
        self.classify = nn.Sequential(
            _conv(304, 256, 3),
            nn.Dropout(0.5),
            _conv(256, 256, 3),
            nn.Dropout(0.1),
            nn.Conv2d(256, 2, 1, bias=False),
        )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        high = F.interpolate(
            self.aspp(high), size=low.shape[-2:], mode="bilinear", align_corners=False
        )
        return self.classify(torch.cat([high, self.low(low)], dim=1))


class DeepLabV3Plus(nn.Module):
    """Two DeepLabv3+ heads (segmentation, edge) on one ResNet with output stride 8.

    Stage dilations 1, 1, 2, 4; the first block of a stage keeps dilation 1.  ``forward`` takes
    (B, 3, H, W) normalised floats of any size and returns segmentation logits (B, 2, H, W) and edge
    logits of the same shape, or None without an edge head.  The image-level branch normalises over
    the batch: training needs at least two samples a step.
    """

    def __init__(self, encoder: str, encoder_weights: str, edge: bool) -> None:
        super().__init__()
        self.encoder, low, high = _resnet(encoder, encoder_weights)
        self.segmentation = _Head(low, high)
        self.edge = _Head(low, high) if edge else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        low, high = self.encoder(x)

        def full(logits: Tensor) -> Tensor:
            return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)

        segmentation = full(self.segmentation(low, high))
        return segmentation, None if self.edge is None else full(self.edge(low, high))


def _resnet(name: str, weights: str) -> tuple[nn.Module, int, int]:
    """The encoder and the channels of its two outputs, at strides 4 and 8."""
    ensure_torchvision()
    import timm

    model = timm.create_model(
        name, pretrained=False, features_only=True, output_stride=8, out_indices=(1, 4)
    )
    first = model.layer4[0].conv2  # timm dilates it by the previous stage's rate
    first.dilation, first.padding = (1, 1), (1, 1)
    if weights == "imagenet":
        load_imagenet(model, f"{name}_imagenet")
    low, high = model.feature_info.channels()
    return model, low, high
