"""How much of a GPU the training of a student takes, counted before it is taken."""

from __future__ import annotations

from functools import lru_cache

from coin_ray.distillation.settings import Student
from coin_ray.errors import UserError

PIXEL = 6
"""Bytes of a training image's pixel on the device: three colours, foreground, edge, ignored."""


def training_bytes(student: Student, pixels: int, beside: int = 0) -> int:
    """Bytes that the tensors of a training hold at the least: what a step saves for its backward
    pass, weights with gradient, average and moments, images of so many ``pixels``, and what is
    ``beside`` it on the card. Workspaces of the libraries come on top."""
    fields = ("iterations", "lr", "later_iterations", "later_lr", "epochs", "encoder_weights")
    plain = student.model_copy(update={name: _PLAIN[name] for name in fields})
    return _step(plain) + PIXEL * pixels + beside


_PLAIN = Student(encoder_weights="none").model_dump()


@lru_cache(maxsize=64)
def _step(student: Student) -> int:
    """Counted on tensors that hold nothing, in the precision of the training."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from coin_ray.distillation.losses import segmentation_loss
    from coin_ray.distillation.network import build_student
    from coin_ray.precision import autocast

    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    side, batch = student.crop, student.batch
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        model = build_student(student, pretrained=False).train()
        weights = [*model.parameters(), *model.buffers()]
        own = {weight.untyped_storage()._cdata for weight in weights}
        images = torch.zeros(batch, 3, side, side)
        target = torch.zeros(batch, side, side, dtype=torch.int64)
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, autocast("cpu", student.precision):
            outputs = [logits for logits in model(images) if logits is not None]
            for logits in outputs:
                segmentation_loss(logits, target, target > 0)
        held = sum(size for storage, size in saved.items() if storage not in own)
    copies = {"sgd": 4, "adamw": 5}[student.optimiser]  # with gradient, average and moments
    return held + copies * sum(weight.nbytes for weight in weights)


def refuse_large(student: Student, pixels: int, beside: int, room: int) -> None:
    """UserError if a training takes more than the ``room`` of the card, with what would fit."""
    taken = training_bytes(student, pixels, beside)
    if taken <= room:
        return
    fitting = smaller(student, pixels, beside, room)
    raise UserError(
        "the training does not fit the GPU",
        where=f"student: {student.arch}, batch {student.batch}, crop {student.crop}, "
        f"{student.precision}",
        expected=f"at most {room / 1e9:.1f} GB",
        found=f"at least {taken / 1e9:.1f} GB",
        do=("one of " + "; ".join(fitting)) if fitting else "take a larger GPU, or another student",
    )


def smaller(student: Student, pixels: int, beside: int, room: int) -> list[str]:
    """Settings, each by itself, with which a training would fit, and what it would take."""
    tries: list[dict[str, object]] = [{"precision": "bf16"}, {"output_stride": 16}]
    sizes = (student.batch // 2, student.batch // 4, student.batch // 8)
    tries += [{"batch": batch} for batch in sizes if batch >= 2]
    tries += [{"crop": crop} for crop in (student.crop // 2, student.crop // 4) if crop >= 32]
    found = []
    for change in tries:
        other = Student.model_validate(_said(student) | change)
        taken = training_bytes(other, pixels, beside)
        if other != student and taken <= room:
            said = ", ".join(f"student.{name}: {value}" for name, value in change.items())
            found.append(f"{said} ({taken / 1e9:.1f} GB)")
    return found


def _said(student: Student) -> dict[str, object]:
    """Without the older word for a precision."""
    return student.model_dump(exclude={"bf16"})
