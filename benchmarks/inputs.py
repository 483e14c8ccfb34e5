"""What the stages are given: one generated tile and the intermediate results on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.confidence.prompts import Prompts
from coin_ray.confidence.settings import Sam, Select
from coin_ray.errors import UserError
from coin_ray.imaging.settings import Instances
from coin_ray.labels import InstanceMasks
from coin_ray.propagation.settings import Uss

SEED = 2  # about 480 nuclei on 1000 x 1000, as many as a MoNuSeg test image has on average
# As the mini profile.
MINI = Uss(size="mini", zoom=2.0, window=256, hflip=False)


@dataclass(frozen=True)
class Inputs:
    """``image`` and ``truth`` of the tile; ``coarse`` mask, two-channel ``similarity``,
    ``label_map``, ``masks``, ``scores`` and ``accepted`` of the mini configuration on it."""

    image: NDArray[np.uint8]
    truth: NDArray[np.int32]
    coarse: NDArray[np.bool_]
    similarity: NDArray[np.float32]
    label_map: NDArray[np.int32]
    masks: InstanceMasks
    scores: NDArray[np.float32]
    accepted: NDArray[np.bool_]

    @property
    def size(self) -> int:
        return len(self.image)


def prepare(size: int, seed: int = SEED) -> Inputs:
    """Everything before the measurement, by the package's own functions."""
    from coin_ray.confidence.prompts import prompt_points
    from coin_ray.confidence.scoring import agreement
    from coin_ray.confidence.selection import accept
    from coin_ray.data.synthetic import generate_tile
    from coin_ray.imaging.instances import split_instances
    from coin_ray.propagation.centroids import centroids, class_sums
    from coin_ray.propagation.features import extract_features
    from coin_ray.propagation.similarity import similarity_map, stretched
    from coin_ray.ucis.settings import Ucis
    from coin_ray.ucis.stain import stain_mask

    image, truth = generate_tile(seed, size)
    coarse = stain_mask(image, Ucis())
    features = extract_features(image, mini_backbone(), MINI, zoom=MINI.zoom[0], batch=MINI.batch)
    pair = (features, centroids(class_sums(features, coarse)))
    similarity = stretched(similarity_map([pair], relu=False), MINI)
    label_map = split_instances(coarse, Instances())
    segmenter = mini_segmenter()
    points = prompt_points(label_map, "centroid")
    masks = segmenter.decode(segmenter.encode(image), Prompts(points), (size, size))
    scores = agreement(label_map, masks)
    accepted = accept(scores, Select(rule="top_fraction", value=0.5))
    return Inputs(image, truth, coarse, similarity, label_map, masks, scores, accepted)


def mini_backbone() -> Any:
    """The packaged small backbone; random weights where it does not ship (same speed)."""
    from coin_ray.propagation.backbones import load_backbone

    try:
        return load_backbone("mae_mini", layer=MINI.layer)
    except UserError:
        from coin_ray.weights.registry import entry

        build = entry("mae_mini").build
        return random_backbone(build["model"], build["overrides"])


def random_backbone(model: str, overrides: dict[str, Any]) -> Any:
    """A timm transformer with random weights behind the package's interface."""
    import torch

    from coin_ray.propagation.backbones import Backbone, build_vit

    torch.manual_seed(0)
    built, cfg = build_vit(model, overrides)
    built.eval().requires_grad_(False)
    patch = int(built.patch_embed.patch_size[0])

    @torch.inference_mode()
    def tokens(batch: torch.Tensor) -> torch.Tensor:
        out = built.forward_features(batch)[:, built.num_prefix_tokens :]
        sides = [side // patch for side in batch.shape[-2:]]
        return out.transpose(1, 2).unflatten(2, sides)

    mean, std = tuple(cfg["mean"]), tuple(cfg["std"])
    return Backbone(patch, int(built.embed_dim), mean, std, torch.device("cpu"), tokens)


def mini_segmenter() -> Any:
    """The packaged small promptable model; random weights where it does not ship."""
    from coin_ray.confidence.segmenter import load_segmenter

    try:
        return load_segmenter("mini", batch=Sam().batch)
    except UserError:
        import torch

        from coin_ray.confidence.small import SmallSegmenter
        from coin_ray.confidence.small_model import SmallSam

        torch.manual_seed(0)
        return SmallSegmenter(SmallSam(), batch=Sam().batch)


def random_sam() -> Any:
    """segment-anything's prompt encoder and mask decoder, alike in all its sizes, behind a tiny
    image encoder; random weights."""
    import torch

    from coin_ray.compat import ensure_torchvision

    ensure_torchvision()
    from segment_anything.build_sam import _build_sam

    torch.manual_seed(0)
    sam = _build_sam(16, 1, 1, encoder_global_attn_indexes=[0])
    return sam.eval().requires_grad_(False)
