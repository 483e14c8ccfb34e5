"""PSM's first stage: a network that agrees with itself under rotation, and what it looks at.

Chen et al., Unsupervised Cell Recognition with Prior Self-activation Maps, MICCAI 2023.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

FloatMap = NDArray[np.float32]


def rotation_loss(model: nn.Module, images: Tensor) -> Tensor:
    """Mean over the batch of |f(x) - f(x turned by 180 degrees)|.

    ``images`` (B, 3, H, W) floats in 0..255; both halves in one pass, whose batch statistics a turn
    does not change. A constant f has loss 0: what is used of the network are its gradients alone.
    """
    output, turned = model(torch.cat([images, images.rot90(2, (2, 3))])).chunk(2)
    return F.l1_loss(output, turned)


def self_activation_map(model: Any, image: NDArray[np.uint8]) -> FloatMap:
    """Where the early layers of a trained network respond: Grad-CAM of the blocks of ``layer1``.

    ``image`` (H, W, 3) uint8 -> (H, W) float32 in [0, 1], zeros where nothing varies. Each block's
    channels are summed with the mean gradient of the output as weights, stretched to [0, 1] and
    resized; the mean over the blocks is stretched again. The input is in [0, 1] although the
    network was trained on 0..255, as in the public code. ``model`` in evaluation mode.
    """
    device = next(model.parameters()).device
    x = torch.tensor(image, device=device).permute(2, 0, 1)[None].float() / 255
    activations = []
    with torch.enable_grad():
        x = model.maxpool(model.act1(model.bn1(model.conv1(x)))).requires_grad_()
        for block in model.layer1:
            x = block(x)
            activations.append(x)
        output = model.forward_head(model.layer4(model.layer3(model.layer2(x))))
        gradients = torch.autograd.grad(output.sum(), activations)
    size = image.shape[:2]
    maps = torch.zeros(size, device=device)
    for activation, gradient in zip(activations, gradients, strict=True):
        cam = (gradient.mean(dim=(2, 3), keepdim=True) * activation.detach()).sum(1, keepdim=True)
        maps += F.interpolate(_stretch(cam), size=size, mode="bilinear", align_corners=False)[0, 0]
    found: FloatMap = _stretch(maps).cpu().numpy()
    return found


def _stretch(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
