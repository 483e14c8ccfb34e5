"""``python -m benchmarks.stages``: every stage on one generated tile, ours and the literal form.

Wall time, CPU time and peak memory of each side in a fresh process on one thread, the ratios, and
whether the results agree. Exit code 1 if they do not.
"""

from __future__ import annotations

import argparse
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.cases import CASES, Case
from benchmarks.measure import THREADS, Measured, measure
from coin_ray.tracking.environment import processor

SMALL = 160  # px, the tile of the warm-up
PACKAGES = ("torch", "timm", "segment-anything", "numpy", "scipy", "scikit-image", "POT")
HEADER = (
    "stage",
    "ours, s wall (CPU)",
    "literal, s wall (CPU)",
    "ratio of wall",
    "ratio of CPU",
    "ours, MB",
    "literal, MB",
    "same result",
)


def main(arguments: list[str]) -> int:
    """Measures, prints the rows as they come, writes the table to ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--size", type=int, default=1000, help="side of the tile, px (1000)")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument(
        "--stage", action="append", choices=[*CASES], help="only this one; repeatable"
    )
    chosen = parser.parse_args(arguments)
    start, load = time.perf_counter(), os.getloadavg()
    rows: list[str] = []
    notes: list[str] = []
    slower: list[str] = []
    ok = True
    print(_row(HEADER), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        instances = _write_inputs(Path(folder), chosen.size)
        for name in chosen.stage or CASES:
            case = CASES[name]
            ours = measure(name, "ours", Path(folder))
            room = case.needs_gb * (chosen.size / 1000) ** 2 <= _free_gb()
            other = measure(name, "literal", Path(folder)) if case.literal and room else None
            agreement = _agreement(case, ours, other)
            ok &= agreement[0]
            if other and _per_run(other) < _per_run(ours):
                slower.append(case.title)
            title = f"{case.title} [{len(notes) + 1}]" if case.note else case.title
            notes += [case.note] if case.note else []
            for cells in _cells(title, case.passes, ours, other, agreement):
                rows.append(_row(cells))
                print(rows[-1], flush=True)
    if chosen.out:
        about = _about(chosen.size, instances, load, time.perf_counter() - start)
        table = [_row(HEADER), _row(["---", *["---:"] * 6, "---"]), *rows]
        words = "Ours takes more CPU time than the literal form in: " + "; ".join(slower) + "."
        if not slower:
            words = "Ours takes more CPU time than the literal form in none."
        numbered = [f"[{i}] {note}." for i, note in enumerate(notes, start=1)]
        text = "\n\n".join(["# Stages, measured", about, "\n".join(table), words, *numbered])
        chosen.out.write_text(text + "\n", encoding="utf-8")
    return 0 if ok else 1


def _write_inputs(folder: Path, size: int) -> int:
    """Both tiles into ``folder``; the number of instances of the full one."""
    import torch

    from benchmarks.inputs import prepare

    torch.set_num_threads(1)
    for name, side in (("small", SMALL), ("full", size)):
        inputs = prepare(side)
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(inputs, protocol=5))
    return int(inputs.label_map.max())


def _agreement(case: Case, ours: Measured, other: Measured | None) -> tuple[bool, str]:
    ok, texts = True, []
    if case.compare and other:
        ok, text = case.compare(ours.result, other.result)
        texts.append(text)
    if case.literal and not other:
        texts.append(f"literal left out: it needs {case.needs_gb} GB")
    if case.limit_mb:
        ok &= ours.peak <= case.limit_mb
        texts.append(f"peak of ours {ours.peak:.0f} MB (allowed {case.limit_mb:.0f})")
    return ok, "; ".join(texts)


def _per_run(found: Measured) -> float:
    """CPU seconds, of one pass where a run makes several."""
    return found.cpu / float(found.result.get("passes", 1))


def _cells(
    title: str, passes: int, ours: Measured, other: Measured | None, agreement: tuple[bool, str]
) -> list[list[str]]:
    word = agreement[1] if agreement[0] else f"**no:** {agreement[1]}"
    share = [m.result.get("passes", 1) if m else 1 for m in (ours, other)]
    out = []
    for label, times in ((title, 1), (f"{passes} passes, **extrapolated**", passes)):
        if not times:
            continue
        seconds = [
            (m.wall * times / s, m.cpu * times / s) if m else None
            for m, s in zip((ours, other), share, strict=True)
        ]
        cells = [label, *(f"{_seconds(t[0])} ({_seconds(t[1])})" if t else "" for t in seconds)]
        if seconds[0] and seconds[1]:
            cells += [_ratio(b / max(a, 1e-9)) for a, b in zip(seconds[0], seconds[1], strict=True)]
        else:
            cells += ["", ""]
        first = times == 1
        cells += [
            f"{ours.peak:.0f}" if first else "",
            f"{other.peak:.0f}" if other and first else "",
        ]
        out.append([*cells, word if first else ""])
    return out


def _seconds(value: float) -> str:
    if value >= 600:
        return f"{value / 60:.0f} min"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.2g}"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _about(size: int, instances: int, load: tuple[float, ...], seconds: float) -> str:
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    if _git("status", "--porcelain", "--", "coin_ray", "benchmarks"):
        commit += " with uncommitted changes"
    installed = [f"Python {platform.python_version()}"]
    for name in (*PACKAGES, "opencv-python-headless"):
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    loads = [", ".join(f"{v:.1f}" for v in values) for values in (load, os.getloadavg())]
    return "\n\n".join(
        [
            f"One generated tile of {size} x {size} px with {instances} instances; one thread; "
            "each side of each stage in a fresh process after a warm-up on a small tile. Times are "
            "wall times (CPU times in brackets), the fastest of the repetitions that fit into a "
            "CPU second, at least one; memory is the peak of resident memory above that at the "
            "start, inputs and models loaded. Ratios are literal over ours, so above 1 ours is "
            "faster; that of CPU times is the fairer one where other work shared the cores.",
            f"Command: `OMP_NUM_THREADS=1 nice -n 10 python -m benchmarks.stages --size {size} "
            f"--out FILE`, commit {commit}, {seconds:.0f} s in all.",
            f"CPU: {processor()}, {os.cpu_count()} cores. Load average (1, 5, 15 min) before "
            f"{loads[0]}; after {loads[1]}.",
            "Versions: " + ", ".join(installed) + f". Weights of the mini models: {_weights()}.",
        ]
    )


def _weights() -> str:
    from coin_ray.weights.registry import entry, path_of

    names = ("mae_mini", "sam_mini")
    random = [name for name in names if not path_of(entry(name)).is_file()]
    return f"random for {', '.join(random)} (no file)" if random else "the packaged ones"


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], capture_output=True, text=True, encoding="utf-8")
    return found.stdout.strip()


def _free_gb() -> float:
    import psutil

    return psutil.virtual_memory().available / 1e9


if __name__ == "__main__":
    os.environ.update(dict.fromkeys(THREADS, "1"))
    sys.exit(main(sys.argv[1:]))
