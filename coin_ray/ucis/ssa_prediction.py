"""SSA: coarse masks from a trained attention network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from coin_ray.imaging.instances import binary_opening
from coin_ray.imaging.tiles import squares
from coin_ray.labels import BoolArray
from coin_ray.training.layout import placed
from coin_ray.ucis import ssa_data
from coin_ray.ucis.settings import Ssa
from coin_ray.ucis.ssa_losses import TRANSFORMS, half
from coin_ray.ucis.ssa_network import REACH, AttentionNetwork, network_input
from coin_ray.weights.modules import load_arrays

OPENING, CLOSING = 2, 1  # px, radii of the post-processing
TILE = 1024  # px, side of the squares that a large image is predicted in
HALO = 2 * REACH + 2  # px around them: what a halved image reaches, and even


@torch.inference_mode()
def ssa_mask(
    weights: Mapping[str, NDArray[Any]],
    image: NDArray[np.uint8],
    ssa: Ssa,
    *,
    scale: float = 1.0,
    device: str = "cpu",
) -> BoolArray:
    """Nuclei by the attention of a network that was trained with ``ssa``.

    (H, W, 3) uint8 -> (H, W) bool, empty without tissue. The image is brought to 40x by ``scale``
    = 0.25 / mpp. The attention is the mean over the identity, six flips and turns and, with
    ``scale_equivariance``, the halved image; what exceeds 0.5 is opened by a disk of 2 px and
    closed by one of 1 px.
    """
    (fine,) = ssa_data.at_reference([image], [scale])
    if not ssa_data.has_tissue(fine):
        return np.zeros(image.shape[:2], dtype=bool)
    fine = ssa_data.match_stain(fine, weights["target"])
    network = AttentionNetwork(ssa.width, ssa.sparsity)
    load_arrays(network, weights)
    placed(network, device).eval()
    x = network_input(fine[None], device)
    mask = np.zeros(fine.shape[:2], dtype=bool)
    for seen, core, within in squares(mask.shape, TILE, HALO):
        attended = _mean_attention(network, x[(..., *seen)], ssa.scale_equivariance)
        mask[core] = (attended[0, 0][within] > 0.5).cpu().numpy()
    mask = ~binary_opening(~binary_opening(mask, OPENING), CLOSING)
    return mask if scale == 1 else _shrink(mask, (image.shape[0], image.shape[1]))


def _mean_attention(network: nn.Module, x: Tensor, scale_equivariance: bool) -> Tensor:
    """Attention (1, 1, H, W) averaged over the test-time transforms of (1, 3, H, W)."""
    maps = [network(x), *(inverse(network(apply(x))) for apply, inverse in TRANSFORMS)]
    if scale_equivariance and min(x.shape[-2:]) > 1:
        small = network(half(x))
        maps.append(F.interpolate(small, x.shape[-2:], mode="bilinear", align_corners=False))
    return torch.stack(maps).mean(dim=0)


def _shrink(mask: BoolArray, shape: tuple[int, int]) -> BoolArray:
    """The mask in another shape (H, W): at least half of a pixel's area is foreground."""
    pixels = torch.from_numpy(mask)[None, None].float()
    small = F.interpolate(pixels, shape, mode="bilinear", antialias=True, align_corners=False)
    return (small[0, 0] >= 0.5).numpy()
