"""Any folder of images, alone or with label maps beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coin_ray.data.label_files import Binary
from coin_ray.data.rasters import SUFFIXES
from coin_ray.data.resolution import file_mpp, with_mpp
from coin_ray.data.sample import Image, Sample, binary_truth, with_binary
from coin_ray.errors import UserError

IMAGE_FOLDERS = ("image", "images")
LABEL_FOLDERS = ("label", "labels", "mask", "masks")
SPLITS = ("train", "val", "test")


def find_samples(
    path: str | Path,
    mpp: float | None = None,
    *,
    dataset: str | None = None,
    binary: Binary | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Sample]:
    """The images below ``path``, sorted by name, with their label maps where there are any.

    ``path`` is one image, a folder of images, a folder with ``image/`` and perhaps ``label/`` or
    ``mask/`` (label maps of the same stem), or one of the known data sets as its owners ship it;
    ``dataset`` says which one where the files do not show it, and ``options`` are its own.
    ``mpp`` wins over what the files or the data set state. ``binary``: the label files are binary
    masks, and how nuclei are made of them. Nothing is decoded here.

    Raises:
        UserError: no such path, no image in it, two images or two label maps of one name,
            ``binary`` for a data set whose truth is no label files.
    """
    from coin_ray.data.catalogue import detect, get
    from coin_ray.data.options import find_with

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
        return _as_asked(folder_samples(path), mpp, binary)
    samples = find_with(known.find, path, options or {})
    if not samples:
        raise UserError(
            f"nothing of {known.CARD.name} here",
            where=str(path),
            expected=known.CARD.layout,
            found=_contents(path),
        )
    return _as_asked(samples, mpp, binary)


def _as_asked(samples: list[Sample], mpp: float | None, binary: Binary | None) -> list[Sample]:
    samples = with_mpp(samples, mpp)
    return samples if binary is None else [with_binary(sample, binary) for sample in samples]


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
        images = next((path / n for n in IMAGE_FOLDERS if (path / n).is_dir()), path)
        names = LABEL_FOLDERS if labels is None else (labels,)
        truth_folder = next((path / n for n in names if (path / n).is_dir()), None)
        files = by_stem(images)
        truths = by_stem(truth_folder) if truth_folder is not None and images != path else {}
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
        if not visible(file) or file.suffix.lower() not in suffixes or not file.is_file():
            continue
        if file.stem in out:
            raise UserError(
                "two files of one name",
                where=str(folder),
                expected="one file for each name",
                found=f"{out[file.stem].name} and {file.name}",
                do="remove or rename one of them",
            )
        out[file.stem] = file
    return out


def _contents(path: Path) -> str:
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir() if visible(p))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or (
        "an empty folder"
    )
