"""What draws nuclei for other people's programs: no study, or an exported student."""

from __future__ import annotations

from pathlib import Path

from coin_ray.slides.method import BUILT_IN, Method
from coin_ray.slides.students import load_student
from coin_ray.study.command_line import Request
from coin_ray.study.study import resolve


def method_of(model: Path | None = None, device: str = "cpu") -> Method:
    """The student of a file of ``coin-ray export``, else what `coin-ray segment` does by default:
    the built-in detector. UserError for another file."""
    if model is not None:
        return load_student(model, device)
    return Method(resolve("baseline", Request(settings=BUILT_IN, own=True)).cells[0].config, device)
