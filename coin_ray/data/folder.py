"""Any folder of images, alone or with label maps beside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from coin_ray.data.label_files import LABEL_SUFFIXES, Binary
from coin_ray.data.pairs import LABEL_WORDS, Unpaired, core, cores, pair
from coin_ray.data.rasters import SUFFIXES
from coin_ray.data.resolution import file_mpp, with_mpp
from coin_ray.data.sample import Image, Sample, binary_truth, with_binary
from coin_ray.errors import UserError

IMAGE_FOLDERS = ("image", "images")
LABEL_FOLDERS = (
    "label", "labels", "mask", "masks", "gt", "ground_truth", "groundtruth", "ground truth",
)  # fmt: skip
"""In this order and in any letter case."""
NOTES = ("readme", "license", "licence")
SPLITS = ("train", "val", "test")


def find_samples(
    path: str | Path,
    mpp: float | None = None,
    *,
    dataset: str | None = None,
    binary: Binary | None = None,
    labels: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Sample]:
    """The images below ``path``, sorted by name, with their label maps where there are any.

    ``path`` is one image, a folder of images, a folder with ``image/``, either perhaps with
    ``label/`` or ``mask/`` (label maps named as ``data.pairs`` says), or one of the known data sets
    as its owners ship it; ``dataset`` says which one where the files do not show it, and
    ``options`` are its own. ``mpp`` wins over what the files or the data set state. ``binary``: the
    label files are binary masks, and how nuclei are made of them. ``labels``: a file or a folder of
    other label files, which replace these. Nothing is decoded here.

    Raises:
        UserError: no such path, no image in it, two images or two label maps of one name,
            label maps of which none fits, a link to nowhere, ``binary`` for a data set whose truth
            is no label files.
    """
    from coin_ray.data.catalogue import detect, find_with, get

    path = Path(path)
    if not path.exists():
        raise UserError("no such file or folder", where=str(path), do="check the path")
    known = get(dataset) if dataset else detect(path)
    if known is None:
        if options:
            raise UserError(
                "options are those of a known data set",
                where=str(path),
                found=", ".join(options),
                do="name it with --dataset",
            )
        return _as_asked(folder_samples(path), mpp, binary, labels)
    samples = find_with(known, path, options or {})
    if not samples:
        raise UserError(
            f"nothing of {known.CARD.name} here",
            where=str(path),
            expected=known.CARD.layout,
            found=_contents(path),
        )
    _check_copies(samples)
    return _as_asked(samples, mpp, binary, labels)


def _as_asked(
    samples: list[Sample], mpp: float | None, binary: Binary | None, labels: str | Path | None
) -> list[Sample]:
    samples = with_mpp(samples, mpp)
    if labels is not None:
        samples = _relabelled(samples, Path(labels))
    return samples if binary is None else [with_binary(sample, binary) for sample in samples]


def _relabelled(samples: list[Sample], labels: Path) -> list[Sample]:
    """The samples with the truth of other files: of one image a file, else those of a folder."""
    if labels.is_dir():
        files = by_stem(labels, LABEL_SUFFIXES)
        truths = pair({s.name: s.image.path for s in samples}, files, labels)
        if truths:
            return [replace(s, truth_path=truths.get(s.name), read_truth=None) for s in samples]
    elif labels.exists() and len(samples) == 1:
        return [replace(samples[0], truth_path=labels, read_truth=None)]
    raise UserError(
        "no label file for these images",
        where=str(labels),
        expected=f"a folder of files named as the {len(samples)} images, or a file for one image",
        do="check the path",
    )


def _check_copies(samples: list[Sample]) -> None:
    """Refuse two images of one name in one split, as of a set with a backup of itself inside."""
    seen: dict[tuple[str, str, str], Sample] = {}
    for sample in samples:
        other = seen.setdefault((sample.dataset, sample.split, sample.name), sample)
        if other is not sample:
            raise UserError(
                "two images of one name",
                where=str(sample.image.path),
                expected="one image for each name",
                found=f"also {other.image.path}",
                do="move the copy away, or point to one of the folders",
            )


def folder_samples(
    path: Path,
    *,
    dataset: str | None = None,
    split: str | None = None,
    mpp: float | None = None,
    labels: str | None = None,
    binary: Binary | None = None,
) -> list[Sample]:
    """As :func:`find_samples`, for a plain folder; ``labels`` names the folder of label maps.

    ``mpp`` is what is known of the data set; without it the files are asked.
    """
    if path.is_file():
        files, truths = {path.stem: path}, {}
    else:
        images = subfolder(path, IMAGE_FOLDERS) or path
        truth_folder = subfolder(path, LABEL_FOLDERS if labels is None else (labels,))
        files = by_stem(images)
        if truth_folder is not None:
            truths = _paired(files, truth_folder)
        else:
            files, truths = _apart(files, images)
        if labels is None:
            _warn_of_others(path, files, truth_folder)
        if not files:
            raise UserError(
                "no image in this folder",
                where=str(images),
                expected=f"files that end in {', '.join(SUFFIXES)}, or a folder image/ of them",
                found=_contents(path),
                do="give the folder that holds the images",
            )
    is_split = path.name.lower() in SPLITS
    split = split if split is not None else (path.name if is_split else "")
    dataset = dataset or (path.absolute().parent.name if is_split else path.absolute().name)
    return [
        Sample(
            Image(
                name=stem,
                path=file,
                dataset=dataset,
                split=split,
                mpp=mpp if mpp is not None else file_mpp(file),
            ),
            truth_path=truths.get(stem),
            read_truth=binary_truth(truths[stem], binary) if binary and stem in truths else None,
        )
        for stem, file in files.items()
    ]


def read_folders(samples: Iterable[Sample]) -> set[Path]:
    """The folders whose files are read with these samples, and those that would be, as label maps
    of theirs, once there were any: no place for predictions."""
    found, images = set(), set()
    for sample in samples:
        found |= {path.parent for path in (sample.image.path, sample.truth_path) if path}
        images.add(sample.image.path.parent)
    tops = images | {f.parent for f in images if f.name.casefold() in IMAGE_FOLDERS}
    return found | {top / name for top in tops for name in LABEL_FOLDERS}


def subfolder(path: Path, names: tuple[str, ...]) -> Path | None:
    """The folder in ``path`` that has the first of these names, in any letter case.

    Raises:
        UserError: two of one name, a link to nowhere.
    """
    found = sorted(p for p in path.iterdir() if p.name.casefold() in names and visible(p))
    for link in found:
        _check_link(link)
    for name in names:
        ours = [p for p in found if p.name.casefold() == name and p.is_dir()]
        if len(ours) > 1:
            raise UserError(
                "two folders whose names differ in letter case only",
                where=str(path),
                found=" and ".join(p.name for p in ours),
                do="keep one of them",
            )
        if ours:
            return ours[0]
    return None


def _paired(images: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The label map of each image; UserError where other files stand in their place."""
    truths = by_stem(folder, LABEL_SUFFIXES)
    others = [
        p for p in sorted(folder.iterdir())
        if p.is_file() and visible(p) and not p.name.lower().endswith(LABEL_SUFFIXES)
        and p.stem.casefold() not in NOTES
    ]  # fmt: skip
    pairs = pair(images, truths, folder) if truths else {}
    alone = cores(name for name in images if name not in pairs)
    others = [p for p in others if not truths or _base(p.stem) in alone]
    if others:
        raise UserError(
            "files that are no label maps stand in their place",
            where=str(folder),
            expected=f"label maps that end in {', '.join(LABEL_SUFFIXES)}",
            found=", ".join(p.name for p in others[:5]),
            do="convert them to label maps; without labels, move this folder away",
        )
    return pairs


def _apart(files: dict[str, Path], folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and label maps that lie in one folder, as ``a.png`` beside ``a_mask.png``."""
    plain = cores(name for name in files if core(name, ()) == _base(name))
    labels = {
        name: file
        for name, file in files.items()
        if core(name, ()) != _base(name) and _base(name) in plain
    }
    images = {name: file for name, file in files.items() if name not in labels}
    return images, pair(images, labels, folder) if labels else {}


def _base(name: str) -> str:
    return core(name, LABEL_WORDS)


def _warn_of_others(path: Path, images: Mapping[str, Path], read: Path | None) -> None:
    """Say where label maps may lie that are not read: another folder is, or theirs has no name
    that is known."""
    known = cores(images)
    for folder in sorted(p for p in path.iterdir() if p.is_dir() and visible(p)):
        is_labels = folder.name.casefold() in LABEL_FOLDERS
        if folder == read or folder.name.casefold() in IMAGE_FOLDERS or (read and not is_labels):
            continue
        stems = (p.stem for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        if any(_base(stem) in known for stem in stems):
            why = f"{read.name} is" if read else f"no folder is called {', '.join(LABEL_FOLDERS)}"
            warnings.warn(
                f"{folder} holds files named as the images, but is not read as label maps: {why}",
                Unpaired,
                stacklevel=4,
            )


def search(path: Path, pattern: str, *, depth: int = 3) -> list[Path]:
    """Sorted matches of ``pattern`` at most ``depth`` folders below ``path``, without litter.

    Archives unpack into folders of any name, so data sets are looked for by what is inside.
    """
    found = (p for level in range(depth + 1) for p in path.glob("*/" * level + pattern))
    return sorted(p for p in found if all(map(visible, (p, *p.relative_to(path).parents[:-1]))))


def visible(path: Path) -> bool:
    """False for what operating systems leave in folders and archives."""
    return not path.name.startswith(".") and path.name not in ("__MACOSX", "Thumbs.db")


def by_stem(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, Path]:
    """Files of the folder by stem, sorted by name."""
    out: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        suffix = next((s for s in suffixes if file.name.lower().endswith(s)), None)
        if not visible(file) or suffix is None:
            continue
        _check_link(file)
        if not file.is_file():
            continue
        stem = file.name[: -len(suffix)]
        if stem in out:
            raise UserError(
                "two files of one name",
                where=str(folder),
                expected="one file for each name",
                found=f"{out[stem].name} and {file.name}",
                do="remove or rename one of them",
            )
        out[stem] = file
    return out


def labelled(
    images: Path, labels: Path | None, kinds: tuple[str, ...] = SUFFIXES
) -> Iterator[tuple[str, Path, Path | None]]:
    """(stem, image, label file or None) of every image in a folder, by name; label files end in one
    of ``kinds``. UserError as of :func:`coin_ray.data.pairs.pair`."""
    files = by_stem(images)
    truths = pair(files, by_stem(labels, kinds), labels) if labels is not None else {}
    for name, file in files.items():
        yield name, file, truths.get(name)


def _check_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise UserError(
            "a link to what is not there",
            where=str(path),
            found=str(path.readlink()),
            do="bring its target back, or remove the link",
        )


def _contents(path: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir() if visible(p))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or (
        "an empty folder"
    )
