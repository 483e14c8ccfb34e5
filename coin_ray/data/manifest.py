"""A data set written down: a digest for every file, to tell later whether it is still the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coin_ray.data.integrity import Problem, Report
from coin_ray.errors import UserError
from coin_ray.files import write_text

VERSION = 1


def manifest(report: Report, root: Path) -> dict[str, Any]:
    """What the check found of each sample, paths relative to ``root``."""
    samples = []
    for row in report.rows:
        paths = {k: _relative(row[k], root) for k in ("image", "label") if k in row}
        samples.append(row | paths)
    return {"version": VERSION, "samples": samples}


def write_manifest(path: Path, report: Report, root: Path) -> None:
    """The :func:`manifest` as JSON."""
    write_text(path, json.dumps(manifest(report, root), indent=1) + "\n")


def compare(path: Path, report: Report, root: Path) -> list[Problem]:
    """What differs from an earlier manifest: images and labels added, missing or changed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        before = {(s["dataset"], s["split"], s["name"]): s for s in content["samples"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "no manifest of `coin-ray data check`", where=str(path), found=str(error)
        ) from error
    now = {(s["dataset"], s["split"], s["name"]): s for s in manifest(report, root)["samples"]}
    out = [
        Problem("error", before[k]["image"], "in the manifest, not here")
        for k in before.keys() - now
    ]
    out += [
        Problem("error", now[k]["image"], "here, not in the manifest") for k in now.keys() - before
    ]
    for key in before.keys() & now.keys():
        for kind in ("image", "label"):
            if before[key].get(f"{kind}_digest") != now[key].get(f"{kind}_digest"):
                where = now[key].get(kind) or before[key].get(kind) or now[key]["image"]
                out.append(Problem("error", where, f"the {kind} is not that of the manifest"))
    return sorted(out, key=lambda p: (p.where, p.what))


def _relative(path: str, root: Path) -> str:
    absolute, base = Path(path).absolute(), root.absolute()
    return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)
