"""Coarse masks made elsewhere (SSA, PSM, any tool): a folder with one mask file per image."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from coin_ray.errors import UserError

SUFFIXES = (".png", ".tif", ".tiff")


def find_mask(folder: str | Path, name: str) -> Path:
    """The mask of image ``name`` (its stem) in ``folder``: the one file NAME.png, .tif or .tiff.

    Suffixes in any case. UserError if the folder or the mask is missing or two files match.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            "the folder of coarse masks does not exist",
            where=str(folder),
            expected="a folder with one mask per image, named like the image",
            found="a file" if folder.exists() else "nothing",
            do="check ucis.path",
        )
    masks = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    found = [p for p in masks if p.stem == name]
    if len(found) == 1:
        return found[0]
    near = get_close_matches(name, [p.stem for p in masks], n=1)
    closest = f"; the closest is {near[0]}" if near else ""
    raise UserError(
        f"{len(found)} coarse masks" if found else "no coarse mask",
        where=f"image {name}",
        expected=f"one of {name}.png, {name}.tif, {name}.tiff in {folder}",
        found=", ".join(p.name for p in found) or f"{len(masks)} masks of other names{closest}",
        do="keep one of them" if found else "name the masks like the images",
    )
