"""What the steps are handed: an ``Image`` to work on, and a ``Sample`` to evaluate on.

Training takes images only, so ground truth cannot reach it: an ``Image`` has no way to its labels.
Both are small and picklable; pixels are read when asked for and not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from coin_ray import safe
from coin_ray.data.digests import content_digest, reader_digest
from coin_ray.data.images import Image8, read_image
from coin_ray.data.label_files import Binary, check_shape, read_label_map
from coin_ray.data.rasters import raster_shape, stated_orientation
from coin_ray.data.resolution import pixel_scale
from coin_ray.errors import NOT_TEXT, RENAME, UserError
from coin_ray.labels import LabelMap

ReadLabels = partial[LabelMap]
"""Takes the image's (H, W), which outlines need to be drawn. A partial can be pickled, and its
arguments say what it depends on."""


class TurnedApart(UserWarning):
    """An image and its label file state different orientations."""


@dataclass(frozen=True)
class Image:
    """One image and where it comes from, without any ground truth.

    ``path`` is the file that holds the pixels and ``index`` the position in it where it holds many;
    ``read`` replaces the reader of picture files and ``size`` tells its (H, W) without the pixels.
    ``mpp`` is um per pixel, None if unknown.
    """

    name: str
    path: Path
    dataset: str = ""
    split: str = ""
    mpp: float | None = None
    organ: str | None = None
    index: int | None = None
    read: partial[Image8] | None = None
    size: partial[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        """Tables, figures and the tracker hold text alone: UserError before anything is computed
        for a name that is none."""
        if not safe.is_text(f"{self.path}{self.name}"):
            raise UserError(NOT_TEXT, where=safe.printable(str(self.path)), do=RENAME)

    def __hash__(self) -> int:
        return hash((self.name, self.index))  # a plan looks millions of them up

    def load(self) -> Image8:
        """(H, W, 3) uint8 RGB."""
        return self.read() if self.read is not None else read_image(self.path)

    def shape(self) -> tuple[int, int]:
        """(H, W), from the header where the file has one."""
        if self.read is None:
            return raster_shape(self.path)
        if self.size is not None:
            return self.size()
        height, width = self.read().shape[:2]
        return height, width

    def digest(self) -> str:
        """Hex SHA-256 of the content: the file's bytes, or the pixels of one item of many."""
        if self.index is not None:  # the file may have gigabytes
            return hashlib.sha256(self.load().tobytes()).hexdigest()
        return content_digest(self.path) if self.read is None else reader_digest(self.read)


@dataclass(frozen=True)
class Sample:
    """An image with its ground truth, where there is one; for evaluation only.

    ``truth_path`` is the file of the label map; ``read_truth`` replaces the reader of label files.
    """

    image: Image
    truth_path: Path | None = None
    read_truth: ReadLabels | None = None

    @property
    def name(self) -> str:
        return self.image.name

    @property
    def dataset(self) -> str:
        return self.image.dataset

    @property
    def split(self) -> str:
        return self.image.split

    @property
    def mpp(self) -> float | None:
        return self.image.mpp

    @property
    def has_truth(self) -> bool:
        return self.truth_path is not None

    def load_image(self) -> Image8:
        """(H, W, 3) uint8 RGB."""
        return self.image.load()

    def load_label_map(self) -> LabelMap:
        """(H, W) int32 ground truth, ids contiguous.

        Raises:
            UserError: no ground truth, another size than the image, an unreadable file.
        """
        if self.truth_path is None:
            raise UserError("no ground truth for this image", where=str(self.image.path))
        shape = self.image.shape()
        if self.read_truth is None:
            return read_label_map(self.truth_path, shape)
        label_map = self.read_truth(shape)
        check_shape(self.truth_path, label_map.shape, shape)
        return label_map

    def turned_apart(self) -> str:
        """As the function of this name; empty also without a truth or a picture file."""
        if self.truth_path is None or self.image.read is not None:
            return ""
        return turned_apart(self.image.path, self.truth_path)

    def truth_digest(self) -> str | None:
        """Hex SHA-256 of the ground truth's content and how it is read; None without one."""
        if self.truth_path is None:
            return None
        if self.image.index is not None:
            return hashlib.sha256(self.load_label_map().tobytes()).hexdigest()
        if self.read_truth is None:
            return content_digest(self.truth_path)
        return reader_digest(self.read_truth)


def read_files(samples: Iterable[Sample]) -> list[Path]:
    """The files that hold the images and label maps of these samples."""
    return [p for s in samples for p in (s.image.path, s.truth_path) if p is not None]


def file_sample(
    name: str,
    image_path: Path,
    mask_path: Path | None = None,
    *,
    dataset: str = "",
    split: str = "",
    mpp: float | None = None,
    organ: str | None = None,
) -> Sample:
    """A sample of an image file and perhaps a label file."""
    image = Image(name, image_path, dataset=dataset, split=split, mpp=mpp, organ=organ)
    return Sample(image, truth_path=mask_path)


def turned_apart(first: Path, second: Path) -> str:
    """What speaks against a pair: its files state different orientations; empty if they do not.

    Either is read upright, so outlines have to be those of the upright image.
    """
    one, other = (stated_orientation(path) for path in (first, second))
    if one == other:
        return ""
    return (
        f"{first.name} says that it is stored {one or 'upright'}, "
        f"{second.name} says {other or 'nothing of the kind'}; each is read upright: make sure "
        "that they show the same"
    )


def binary_truth(path: Path, how: Binary = "components", *, scale: float = 1.0) -> ReadLabels:
    """Reader for ``Sample.read_truth`` of a binary mask; ``scale`` is that of a watershed."""
    if how == "watershed":
        return partial(read_label_map, path, binary=how, scale=scale)
    return partial(read_label_map, path, binary=how)


def with_binary(sample: Sample, how: Binary) -> Sample:
    """The sample with its label file read as a binary mask.

    Raises:
        UserError: its truth is no label file, or its data set has a reader of its own.
    """
    if sample.truth_path is None:
        return sample
    if sample.read_truth is not None and sample.read_truth.func is not read_label_map:
        raise UserError(
            "--binary is for label files, and these are read in the way of their data set",
            where=str(sample.truth_path),
            do="leave it out; `coin-ray data info` says what options the data set has",
        )
    read = binary_truth(sample.truth_path, how, scale=pixel_scale(sample.mpp))
    return replace(sample, read_truth=read)


def unique_names(samples: list[Sample]) -> list[Sample]:
    """Names made unique by split, then by data set; predictions are files of that name."""
    for prefix in (lambda s: s.split, lambda s: s.dataset):
        seen: dict[str, int] = {}
        for sample in samples:
            seen[sample.name] = seen.get(sample.name, 0) + 1
        samples = [
            replace(s, image=replace(s.image, name=f"{prefix(s)}_{s.name}"))
            if seen[s.name] > 1 and prefix(s)
            else s
            for s in samples
        ]
    return samples
