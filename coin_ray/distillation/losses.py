"""Cross entropy plus foreground Dice over the pixels that have a target (COIN Eq. 11)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def segmentation_loss(logits: Tensor, target: Tensor, ignore: Tensor) -> Tensor:
    """Scalar fp32 loss L_CE + L_Dice of two-class logits.

    ``logits`` (B, 2, H, W), ``target`` (B, H, W) int64 in {0, 1}, ``ignore`` (B, H, W) bool. L_CE
    is the mean softmax cross entropy over all valid pixels of the batch; L_Dice is 1 - (2 sum p y +
    1) / (sum p + sum y + 1) of the foreground channel over the valid pixels of each sample,
    averaged over the batch. An ignored pixel has exactly zero gradient, and a batch without a valid
    pixel has loss 0.
    """
    valid = ~ignore
    zero = torch.zeros((), device=logits.device)
    # Cut off before the softmax: an ignored pixel cannot contribute even through an overflow.
    clean = torch.where(valid[:, None], logits.float(), zero)
    per_pixel = torch.where(valid, F.cross_entropy(clean, target, reduction="none"), zero)
    cross_entropy = per_pixel.sum() / valid.sum().clamp(min=1)
    p = torch.where(valid, clean.softmax(dim=1)[:, 1], zero).flatten(1)
    y = (valid & (target == 1)).float().flatten(1)
    dice = 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)
    return cross_entropy + dice.mean()
