"""The tables and figures of the paper: which studies they are, and on which data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coin_ray.errors import UserError
from coin_ray.study.command_line import Request
from coin_ray.study.errors import nearest
from coin_ray.study.files import find_study, paper
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.study import resolve

TRAIN, TEST = "train", "test"
FOLDERS = {TRAIN: ("train", "Fold1", "Fold2"), TEST: ("test", "Fold3")}
"""Where COIN's layout has the images of a split."""


@dataclass(frozen=True)
class Asked:
    """A study of the paper on one of the data sets that its published numbers are of; ``request``
    is None where nobody says where that lies, and ``why`` says so."""

    study: ResolvedStudy
    dataset: str
    request: Request | None
    why: str = ""

    def resolve(self) -> ResolvedStudy:
        """The study on this data set."""
        return resolve(self.study.source_files[0], self.request)


def tables_asked(names: Sequence[str], request: Request, root: Path | None = None) -> list[Asked]:
    """The studies of ``names`` (all without any) by data set. A data set (``MoNuSeg-test``) lies
    where ``request.data`` says, or in ``root`` in COIN's layout (``MoNuSeg/test``); one that is
    tested is trained on its training images where these are there too.

    Raises:
        UserError: a name that is no table or figure, data that no table names, a ``root`` with
            none of the data sets.
    """
    known = paper()
    for name in names:
        if name not in known:
            guess = nearest(name, known)
            raise UserError(
                "no such table or figure",
                where=name,
                expected=", ".join(known),
                do=f"did you mean {guess}?" if guess else "take some of these, or none for all",
            )
    given = dict(text.partition("=")[::2] for text in request.data)
    without = replace(request, data=(), train=())
    studies = [
        resolve(str(find_study(n)), replace(without, mpp=None, binary=None)) for n in names or known
    ]
    datasets = {name for study in studies for name in named(study)}
    trained = {name.replace(f"-{TEST}", f"-{TRAIN}") for name in datasets}
    for name in given.keys() - datasets - trained:
        raise UserError(
            "data that no table asked for is about",
            where=f"--data {name}",
            expected=", ".join(f"{one}=PATH" for one in sorted(datasets)),
        )
    found = [place for name in datasets for place in _places({}, root, name).values()]
    if root is not None and not any(found):
        raise UserError(
            "no data set of these tables lies there",
            where=str(root),
            expected=", ".join("/".join(name.rsplit("-", 1)) for name in sorted(datasets)),
            do="name the folder that these lie in, or each by --data NAME=PATH",
        )
    return [
        _asked(study, dataset, without, _places(given, root, dataset))
        for study in studies
        for dataset in named(study)
    ]


def named(study: ResolvedStudy) -> list[str]:
    """The data sets that the published numbers of a study are of."""
    assert study.published is not None
    return list(dict.fromkeys(name for rows in study.published.rows.values() for name in rows))


def _asked(
    study: ResolvedStudy, dataset: str, request: Request, places: Mapping[str, Sequence[str]]
) -> Asked:
    if not places.get(dataset):
        why = f"no data: --data {dataset}=PATH, or --root with {'/'.join(dataset.rsplit('-', 1))}"
        return Asked(study, dataset, None, why)
    name, _, split = dataset.rpartition("-")
    train = places[f"{name}-{TRAIN}"] if split == TEST else ()
    data = tuple(f"{dataset}={path}" for path in places[dataset])
    return Asked(study, dataset, replace(request, data=data, train=tuple(train)))


def _places(given: Mapping[str, str], root: Path | None, dataset: str) -> dict[str, list[str]]:
    """Where the splits of a data set lie; none where they do not."""
    name = dataset.rpartition("-")[0]
    found = {}
    for split, folders in FOLDERS.items():
        key = f"{name}-{split}"
        there = [root / name / folder for folder in folders] if root is not None else []
        found[key] = [str(path) for path in there if path.is_dir()]
        if key in given:
            found[key] = [given[key]]
    return found
