"""A study's data sets, found and checked."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.data.dataset import DataSet, DataSpec
from coin_ray.errors import UserError, raise_all
from coin_ray.identity import digest
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.workspace import Workspace

if TYPE_CHECKING:
    from coin_ray.data.label_files import Binary
    from coin_ray.data.sample import Sample


def read_data(study: ResolvedStudy, workspace: Path) -> tuple[ResolvedStudy, dict[str, DataSet]]:
    """A study that knows the contents of its data sets, and these by name; see
    ``resolve_data``."""
    found = {spec.name: resolve_data(spec, workspace) for spec in study.data}
    return with_data(study, found), found


def with_data(study: ResolvedStudy, data: Mapping[str, DataSet]) -> ResolvedStudy:
    """A study that knows the contents of its data sets: they are part of what its folder is
    called."""
    contents = {}
    for spec in study.data:
        content = data[spec.name].digest()
        # The files do not hold a resolution that the user gives, and it scales what is found.
        contents[spec.name] = content if spec.mpp is None else digest([content, spec.mpp])
    return replace(study, contents=contents)


def resolve_data(spec: DataSpec, workspace: Path) -> DataSet:
    """Find the images of a data set; generated tiles are written into the workspace once.

    Raises UserError for a folder that is missing or empty, or two images of one name.
    """
    if spec.kind == "generated":
        samples, others = _generated(spec, workspace)
    else:
        from coin_ray.data.folder import find_samples

        assert spec.path is not None
        path = Path(spec.path) / spec.split if spec.split else Path(spec.path)
        samples = tuple(find_samples(path, mpp=spec.mpp, binary=spec.binary, labels=spec.labels))
        others = _others(spec)
    train = tuple(s.image for s in others) or tuple(s.image for s in samples)
    for images in (train, [s.image for s in samples]):
        _distinct([image.name for image in images], spec.name)
    return DataSet(train, samples)


def with_training_labels(spec: DataSpec, found: DataSet, workspace: Path) -> DataSet:
    """A data set with the labels of what is trained on, for ceilings alone. UserError as of
    ``resolve_data``."""
    others = _others(spec, spec.binary)
    if spec.kind == "generated":
        others = _generated(spec, workspace)[1]
    pairs = zip(found.train, others, strict=True) if others else ()
    # Readers found twice are not equal: the images are those that are trained on.
    return replace(found, train_samples=tuple(replace(one, image=i) for i, one in pairs))


def check_images(data: Mapping[str, DataSet]) -> None:
    """Decode every image and label file once, before hours are spent: can it be evaluated?

    Nothing of a label map is kept. Warns of pairs that state different orientations. Raises one
    UserError that names every bad file.
    """
    from coin_ray.data.sample import TurnedApart

    problems: list[UserError] = []
    for found in data.values():
        for image in found.images:
            try:
                image.load()
            except UserError as problem:
                problems.append(problem)
        for sample in found.known:
            try:
                if sample.has_truth:
                    sample.load_label_map()
                turned = sample.turned_apart()
            except UserError as problem:
                problems.append(problem)
                continue
            if turned:
                warnings.warn(turned, TurnedApart, stacklevel=2)
    raise_all(problems)


def _others(spec: DataSpec, binary: Binary | None = None) -> tuple[Sample, ...]:
    """What is trained on in place of what is evaluated."""
    from coin_ray.data.folder import find_samples

    found = (find_samples(folder, mpp=spec.mpp, binary=binary) for folder in spec.train_paths)
    return tuple(sample for own in found for sample in own)


def _generated(spec: DataSpec, workspace: Path) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """What is evaluated, and what is trained on in its place."""
    from coin_ray.data.synthetic import generated_samples

    options = {"train": 0, "test": 4, "size": 256, "seed": 0} | dict(spec.options)
    folder = Workspace(workspace).data / f"generated-{digest(options)[:12]}"
    size, seed = options["size"], options["seed"]
    test = generated_samples(folder / "test", options["test"], size=size, seed=2 * seed)
    if not options["train"]:
        return tuple(test), ()
    train = generated_samples(folder / "train", options["train"], size=size, seed=2 * seed + 1)
    return tuple(test), tuple(train)


def _distinct(names: list[str], data: str) -> None:
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(
            f"data set {data!r} has images of the same name: {', '.join(twice[:5])}",
            expected="file stems that differ",
            do="rename them, or give the folders as data sets of their own",
        )
