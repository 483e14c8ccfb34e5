"""Self-distillation without labels (DINO, Caron et al., ICCV 2021), with a dense loss: a token
also predicts what the teacher sees at the same place of the other view.

The paper takes the tokens as they come out of the class loss. Half an hour on small tiles leaves
nothing in them that way; with a loss on regions they are what is trained (EsViT, Li et al., ICLR
2022, which looks for the most similar region; here the views' geometry says which it is).
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from coin_ray.pretraining import data
from coin_ray.training.layout import moved
from coin_ray.training.warp import blur, stain_shift

GLOBAL, LOCAL = 128, 48  # px of the views
FIELD = (48, 112)  # px of the image that all views of a crop are cut from
PROTOTYPES = 64
"""A step shows the head 32 class tokens; targets over many more prototypes stay nearly even."""
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04


def centred(logits: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """The teacher's target: logits (..., K) minus the centre, sharpened to a distribution."""
    return ((logits - centre) / TEACHER_TEMPERATURE).softmax(-1)


def distillation_loss(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (...) of the student's logits (..., K) under the target (..., K)."""
    return -(target.detach() * (student / STUDENT_TEMPERATURE).log_softmax(-1)).sum(-1)


class Head(nn.Module):
    """Projection to K prototypes: MLP, L2-normalised bottleneck, unit-norm prototypes."""

    def __init__(self, dim: int, prototypes: int, hidden: int = 384, bottleneck: int = 96) -> None:
        super().__init__()
        widths = (dim, hidden, hidden, bottleneck)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        self.prototypes = nn.Parameter(torch.randn(prototypes, bottleneck))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = functional.normalize(self.mlp(x).float(), dim=-1)
        return z @ functional.normalize(self.prototypes.float(), dim=-1).T


class Dino(nn.Module):
    """Student and averaged teacher on two global and several local views of each crop."""

    default_batch = 16
    locals_ = 4
    backbone: Any  # timm's vision transformers have no types
    teacher: Any
    centres: torch.Tensor

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.backbone = vit
        self.head, self.patch_head = (Head(vit.embed_dim, PROTOTYPES) for _ in range(2))
        self.teacher = copy.deepcopy(vit).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.teacher_patch_head = copy.deepcopy(self.patch_head).requires_grad_(False)
        self.register_buffer("centres", torch.zeros(2, PROTOTYPES))
        self._seen: torch.Tensor | None = None

    def views(
        self, crops: data.Crops, rng: np.random.Generator, fraction: float, count: int
    ) -> data.Views:
        """Two global views (2 * count, 3, 128, 128) in one tensor, then the local ones (4 * count,
        3, 48, 48).

        A field of 48 to 112 px of the image gives all views of a crop (global 0.4 to 1 of its area,
        local 0.05 to 0.4), each with dyes, blur and mirror of its own: magnified 1.1 to 4 times.
        """
        field = crops.draw(rng, fraction, count, 160, *FIELD)
        big, lie = zip(*(_view(field, rng, GLOBAL, 0.4, 1.0) for _ in range(2)), strict=True)
        small = [_view(field, rng, LOCAL, 0.05, 0.4)[0] for _ in range(self.locals_)]
        return data.Views([torch.cat(big), torch.cat(small)], torch.cat(lie))

    def loss(self, views: data.Views, rng: np.random.Generator, fraction: float) -> torch.Tensor:
        """Every student view predicts the teacher's global views, its own excepted; and each token
        of a global view the teacher's tokens at its place in the other one."""
        big, small = views.images
        assert views.lie is not None
        with torch.no_grad():
            seen = self.teacher.forward_features(big)
            extra = self.backbone.num_prefix_tokens
            teacher, dense = self.teacher_head(seen[:, 0]), self.teacher_patch_head(seen[:, extra:])
        ours = self.backbone.forward_features(big)
        local = self.backbone.forward_features(small)[:, 0]
        own = self.head(torch.cat([ours[:, 0], local]))
        self._seen = torch.stack([t.float().flatten(0, -2).mean(0) for t in (teacher, dense)])
        there, inside = elsewhere(centred(dense, self.centres[1]), views.lie)
        found = distillation_loss(self.patch_head(ours[:, extra:]), there)
        alike = (found * inside).sum() / inside.sum().clamp(min=1)
        return class_loss(own, centred(teacher, self.centres[0]), len(big) // 2) + alike

    @torch.no_grad()
    def after_step(self, step: int, fraction: float) -> None:
        """Centres towards the teacher's means (0.9), teacher towards the student (0.99 to 1)."""
        if self._seen is not None:
            self.centres.lerp_(self._seen, 0.1)
        keep = 1 - 0.01 * (1 + np.cos(np.pi * fraction)) / 2
        for teacher, student in self.pairs():
            torch._foreach_lerp_([*teacher.parameters()], [*student.parameters()], 1 - keep)

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each part of the teacher and the student's that it follows."""
        return [
            (self.teacher, self.backbone),
            (self.teacher_head, self.head),
            (self.teacher_patch_head, self.patch_head),
        ]

    def exported(self) -> nn.Module:
        model: nn.Module = self.teacher
        return model


def class_loss(student: torch.Tensor, target: torch.Tensor, count: int) -> torch.Tensor:
    """Mean over the pairs (teacher view, another student view); both (views * count, K)."""
    pairs = [
        distillation_loss(s, t).mean()
        for i, t in enumerate(target.split(count))
        for j, s in enumerate(student.split(count))
        if i != j
    ]
    return torch.stack(pairs).mean()


def elsewhere(targets: torch.Tensor, lie: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets (2 B, L, K) of the tokens of two views a crop, each taken from the other view at the
    place where the token lies (bilinear), and whether it lies there (2 B, L).

    ``lie`` (2 B, 2, 3): a view's place in its crop, mirrored or not, without turns.
    """
    count, length, kinds = targets.shape
    side = round(length**0.5)
    other = torch.cat(lie.split(count // 2)[::-1])
    grid = functional.affine_grid(lie, [count, 1, side, side], align_corners=False)
    scale = torch.stack([other[:, 0, 0], other[:, 1, 1]], -1)
    grid = (grid - other[:, None, None, :, 2]) / scale[:, None, None]
    maps = torch.cat(targets.split(count // 2)[::-1])
    maps = maps.transpose(1, 2).reshape(count, kinds, side, side)
    there = functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    # A token whose middle lies beyond the outermost middles would be another place's.
    inside = (grid.abs() <= 1 - 1 / side).all(-1)
    return there.flatten(2).transpose(1, 2), inside.flatten(1)


def _view(
    field: torch.Tensor, rng: np.random.Generator, out: int, low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random square of each field (area share low to high), mirrored, restained or blurred, and
    where it lies (N, 2, 3)."""
    count = len(field)
    side = np.sqrt(rng.uniform(low, high, count))
    matrix = np.zeros((count, 2, 3))
    matrix[:, 0, 0] = side * rng.choice([-1, 1], count)
    matrix[:, 1, 1] = side * rng.choice([-1, 1], count)
    matrix[:, :, 2] = rng.uniform(-1, 1, (count, 2)) * (1 - side)[:, None]
    placed = moved(matrix.astype(np.float32), field.device)
    grid = functional.affine_grid(placed, [count, 3, out, out], align_corners=False)
    view = functional.grid_sample(field, grid, padding_mode="reflection", align_corners=False)
    view = stain_shift(view, rng, 0.15)
    return (blur(view, float(rng.uniform(0.3, 1.5))) if rng.random() < 0.3 else view), placed
