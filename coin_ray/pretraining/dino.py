"""Self-distillation without labels (DINO, Caron et al., ICCV 2021)."""

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
STUDENT_TEMPERATURE = 0.1


def temperature(fraction: float) -> float:
    """Of the teacher: 0.04, rising to 0.07 over the first 30 % of the run."""
    return 0.04 + 0.03 * min(1.0, fraction / 0.3)


def centred(logits: torch.Tensor, centre: torch.Tensor, warmth: float) -> torch.Tensor:
    """The teacher's target: logits (..., K) minus the centre, sharpened to a distribution."""
    return ((logits - centre) / warmth).softmax(-1)


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

    default_batch = 8
    locals_ = 4
    backbone: Any  # timm's vision transformers have no types
    teacher: Any
    centre: torch.Tensor

    def __init__(self, vit: Any, *, prototypes: int = 256) -> None:
        super().__init__()
        self.backbone = vit
        self.head = Head(vit.embed_dim, prototypes)
        self.teacher = copy.deepcopy(vit).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, prototypes))
        self._seen: torch.Tensor | None = None

    def views(
        self, crops: data.Crops, rng: np.random.Generator, fraction: float, count: int
    ) -> list[torch.Tensor]:
        """Two global views (2 * count, 3, 128, 128) in one tensor, then the local ones (4 * count,
        3, 48, 48).

        A field of 64 to 128 px of the image gives all views of a crop (global 0.4 to 1 of its area,
        local 0.05 to 0.4), each with dyes, blur and mirror of its own.
        """
        field = crops.draw(rng, fraction, count, 160, 64, 128)
        big = torch.cat([_view(field, rng, GLOBAL, 0.4, 1.0) for _ in range(2)])
        small = torch.cat([_view(field, rng, LOCAL, 0.05, 0.4) for _ in range(self.locals_)])
        return [big, small]

    def loss(
        self, views: list[torch.Tensor], rng: np.random.Generator, fraction: float
    ) -> torch.Tensor:
        """Every student view predicts the teacher's global views, its own excepted."""
        big, small = views
        with torch.no_grad():
            teacher = self.teacher_head(_class_token(self.teacher, big))
        own = self.head(torch.cat([_class_token(self.backbone, v) for v in (big, small)]))
        self._seen = teacher
        return class_loss(own, centred(teacher, self.centre, temperature(fraction)), len(big) // 2)

    @torch.no_grad()
    def after_step(self, step: int, fraction: float) -> None:
        """Centre towards the teacher's mean (0.9), teacher towards the student (0.99 to 1)."""
        if self._seen is not None:
            self.centre.lerp_(self._seen.float().mean(0, keepdim=True), 0.1)
        keep = 1 - 0.01 * (1 + np.cos(np.pi * fraction)) / 2
        for teacher, student in self.pairs():
            torch._foreach_lerp_([*teacher.parameters()], [*student.parameters()], 1 - keep)

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each part of the teacher and the student's that it follows."""
        return [(self.teacher, self.backbone), (self.teacher_head, self.head)]

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


def _class_token(vit: Any, images: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = vit.forward_features(images)
    return tokens[:, 0]


def _view(
    field: torch.Tensor, rng: np.random.Generator, out: int, low: float, high: float
) -> torch.Tensor:
    """A random square of each field (area share low to high), mirrored, restained or blurred."""
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
    return blur(view, float(rng.uniform(0.3, 1.5))) if rng.random() < 0.3 else view
