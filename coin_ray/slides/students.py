"""A trained student as one file: its weights, the settings that it works with, and a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray import __version__
from coin_ray.errors import UserError, first_line
from coin_ray.pipeline.settings import Cell
from coin_ray.slides.method import Method

FORMAT = "coin-ray student 1"


def export_student(
    path: Path, weights: Mapping[str, NDArray[Any]], config: Cell, origin: Mapping[str, str]
) -> None:
    """Write a safetensors file; ``origin`` says where the student comes from (study, level, seed).

    Its metadata has the ``format``, the complete ``settings`` and the ``card``, as text."""
    from safetensors.numpy import save_file

    metadata = {
        "format": FORMAT,
        "version": __version__,
        "settings": config.model_dump_json(by_alias=True),
        "origin": json.dumps(dict(origin)),
        "card": _card(config, origin),
    }
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, path, metadata)


def load_student(path: Path, device: str = "cpu") -> Method:
    """The method of a file of :func:`export_student`. UserError for any other file."""
    from pydantic import ValidationError
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise _refused(path, "a folder")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise _refused(path, f"format {metadata.get('format', 'not stated')}")
            config = Cell.model_validate_json(metadata["settings"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), do="check the path") from error
    except (SafetensorError, ValidationError, KeyError) as error:
        raise _refused(path, first_line(error)) from error
    return Method(config, device, weights)


def _refused(path: Path, found: str) -> UserError:
    return UserError(
        "not a student that coin-ray exported",
        where=str(path),
        expected="a file of `coin-ray export`",
        found=found,
        do="export it again: `coin-ray export STUDY:LEVEL --out FILE`",
    )


def _card(config: Cell, origin: Mapping[str, str]) -> str:
    student = config.student
    network = f"U-Net, first width {student.width}"
    if student.arch != "unet":
        network = f"DeepLabv3+ on {student.encoder}"
    lines = [
        "# A student of COIN (annotation-free cell instance segmentation)",
        "",
        *(f"- {name}: {value}" for name, value in origin.items()),
        f"- network: {network}{', edge head' if student.edge else ''}",
        f"- trained: {config.rounds.count} rounds on images without any label",
        "- input: H&E, 8-bit RGB; pixel constants are stated at 0.25 um/px",
        f"- use: coin-ray segment SLIDE --model FILE --out DIR (written by coin-ray {__version__})",
        "- not a medical device; look at the results before you count on them",
    ]
    return "\n".join(lines) + "\n"
