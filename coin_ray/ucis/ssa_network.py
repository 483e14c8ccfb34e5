"""The networks of SSA: sparse attention at full resolution, and the magnification classifier.

Sahasrabudhe et al., MICCAI 2020 (arXiv 2007.08373): a tile is multiplied by a learnt sparse
attention map, and its magnification is classified from the product. What gives the magnification
away is the size of the nuclei, so the attention ends up on them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.imaging.stain import HED
from coin_ray.training.layout import moved
from coin_ray.ucis import settings
from coin_ray.ucis.encoder import residual_network
from coin_ray.weights.modules import STD, normalise

MAGNIFICATIONS = (40, 20, 10)  # of the classes 0, 1, 2
DILATIONS = (1, 2, 3, 5, 10, 20)
REACH = 1 + 2 * sum(DILATIONS)  # px that an output pixel sees to every side
SLOPE = 20.0  # r of the sigmoid
MOMENTUM = 0.9  # of the running threshold


class SparseSigmoid(nn.Module):
    """Sigmoid around a threshold that about the share ``sparsity`` of the pixels exceeds.

    A = sigmoid(20 (a - t)). ``forward`` takes a (B, 1, H, W); in training, unless ``running``, t is
    the batch mean of each image's value at descending rank floor(sparsity * H * W), without
    gradient, and moves the running threshold: the first batch sets it, later ones enter by 0.1.
    Otherwise t is the running threshold.
    """

    threshold: Tensor
    batches: Tensor

    def __init__(self, sparsity: float) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, a: Tensor, running: bool = False) -> Tensor:
        if running or not self.training:
            return torch.sigmoid(SLOPE * (a - self.threshold))
        values = a.detach().flatten(1)
        count = values.shape[1]
        threshold = values.kthvalue(count - int(self.sparsity * count), dim=1).values.mean()
        with torch.no_grad():
            old = torch.where(self.batches > 0, self.threshold, threshold)
            self.threshold.copy_(MOMENTUM * old + (1 - MOMENTUM) * threshold)
            self.batches += 1
        return torch.sigmoid(SLOPE * (a - threshold))


class _Residual(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.first = _conv(width, width, dilation)
        self.second = _conv(width, width, dilation)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(self.first(x).relu_())).relu_()


def _conv(channels_in: int, channels: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
    )


class AttentionNetwork(nn.Module):
    """Full-resolution network of dilated residual blocks, ``width`` channels everywhere.

    ``forward`` takes (B, 3, H, W) normalised floats of any size and gives the attention (B, 1, H,
    W) in [0, 1]; ``running`` as in :class:`SparseSigmoid`. ``target`` (2, 3) is the mean and
    deviation in CIELAB that images are stain-normalised to: what a prediction needs of the data.
    """

    target: Tensor

    def __init__(self, width: int, sparsity: float) -> None:
        super().__init__()
        self.stem = _conv(3, width)
        self.blocks = nn.Sequential(*(_Residual(width, d) for d in DILATIONS))
        self.head = nn.Conv2d(width, 1, 1)
        self.sparse = SparseSigmoid(sparsity)
        self.register_buffer("target", torch.zeros(2, 3))

    def forward(self, x: Tensor, running: bool = False) -> Tensor:
        features = self.blocks(self.stem(x).relu_())
        return self.sparse(self.head(features), running)

    @torch.no_grad()
    def start_from_stain(self) -> None:
        """Make the untrained output grow with the hematoxylin around a pixel.

        From random weights a short run may settle on the ground between the nuclei, or on nothing:
        it gives the magnification away as well. The first channel takes the hematoxylin density
        (linear in the intensities, mean of 3x3 px), the blocks start as the identity and the head
        reads that channel alone.
        """
        density = np.linalg.inv(HED / np.linalg.norm(HED, axis=1, keepdims=True))[:, 0]
        # The input is an intensity divided by STD, and density falls with intensity.
        weight = torch.from_numpy(-density * STD).float()
        conv = self.stem[0]
        assert isinstance(conv, nn.Conv2d)
        conv.weight[0] = (weight / 9)[:, None, None]
        for block in self.blocks:
            assert isinstance(block, _Residual)
            scale = block.second[1].weight
            assert isinstance(scale, Tensor)
            scale.zero_()
        self.head.weight.zero_()
        self.head.weight[:, 0] = 1


class Ssa(nn.Module):
    """Attention and classifier: (B, 3, H, W) -> attention (B, 1, H, W), logits (B, 3)."""

    def __init__(self, attention: AttentionNetwork, classifier: nn.Module) -> None:
        super().__init__()
        self.attention, self.classifier = attention, classifier

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        attention = self.attention(x)
        return attention, self.classifier(x * attention)


def network_input(images: NDArray[np.uint8], device: str) -> Tensor:
    """(B, H, W, 3) uint8 -> normalised (B, 3, H, W), stored channels-last."""
    return normalise(moved(images, device).permute(0, 3, 1, 2))


def build_attention(ssa: settings.Ssa, target: NDArray[np.float32]) -> AttentionNetwork:
    """The attention as a training starts it; ``target`` (2, 3) of the stain normalisation."""
    attention = AttentionNetwork(ssa.width, ssa.sparsity)
    attention.target.copy_(torch.from_numpy(target))
    if ssa.start == "stain":
        attention.start_from_stain()
    return attention


def build_classifier(ssa: settings.Ssa, weights: str) -> nn.Module:
    """``ssa.encoder``, from ``weights`` ``imagenet`` or ``none``, with a linear layer on its pooled
    features. UserError as of :func:`check_weights`."""
    trunk = residual_network(ssa.encoder, ssa.encoder_width, weights, num_classes=0)
    return nn.Sequential(trunk, nn.Linear(trunk.num_features, len(MAGNIFICATIONS)))
