"""A data set of a study: named, and once it is read its images and samples.

Only here do the two meet. What training receives are ``Image``s: they have no ground truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from coin_ray.data.label_files import Binary
from coin_ray.data.sample import Image, Sample
from coin_ray.identity import digest

Kind = Literal["generated", "folder", "dataset"]


@dataclass(frozen=True)
class DataSpec:
    """One data set of a study, named but not read.

    ``kind`` generated: tiles drawn by the project, ``options`` holds ``train``, ``test`` (numbers
    of tiles), ``size`` (px) and ``seed``; ``train: 0`` trains on the test tiles without their
    labels. ``kind`` folder: ``path`` is a folder of images, or one with ``image/`` and perhaps
    ``mask/`` or ``label/``. ``kind`` dataset: ``path`` is the root of a data set with splits and
    ``split`` the evaluated one. ``train_paths`` are other folders to train on; ``mpp`` (um/px) wins
    over metadata; ``binary`` says how nuclei are made of label files that are binary masks, and
    ``labels`` are others than those of ``path``.
    """

    name: str
    kind: Kind
    path: str | None = None
    split: str | None = None
    train_paths: tuple[str, ...] = ()
    mpp: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    binary: Binary | None = None
    labels: str | None = None

    @property
    def setting(self) -> Literal["transductive", "inductive"]:
        """Transductive: the evaluated images are the training images (never with their labels)."""
        others = self.options.get("train", 0) if self.kind == "generated" else 0
        return "inductive" if self.train_paths or others else "transductive"

    @property
    def is_test(self) -> bool:
        """True if the evaluated images are a test split by their name: nothing may be chosen by
        their labels."""
        if self.kind == "generated":
            return True
        names = [self.split or "", *Path(self.path or "").parts[-2:]]
        return "test" in [name.lower() for name in names]


@dataclass(frozen=True)
class DataSet:
    """``train``: images without ground truth; ``samples``: what is predicted and, where labels
    exist, evaluated. ``train_samples``: what is trained on with its labels, for the oracles of
    ``headroom`` alone; empty for all else."""

    train: tuple[Image, ...]
    samples: tuple[Sample, ...]
    train_samples: tuple[Sample, ...] = ()

    @property
    def images(self) -> list[Image]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.train, *(sample.image for sample in self.samples)]))

    @property
    def known(self) -> tuple[Sample, ...]:
        """All that an oracle may know, each image once; what is evaluated as it is evaluated."""
        return tuple(
            {sample.image: sample for sample in (*self.train_samples, *self.samples)}.values()
        )

    def digest(self) -> str:
        """Content digest of the data set, its labels included."""
        truths = [s.truth_digest() if s.has_truth else None for s in self.samples]
        return digest(
            {
                "train": [image.digest() for image in self.train],
                "samples": [s.image.digest() for s in self.samples],
                "truths": truths,
            }
        )
