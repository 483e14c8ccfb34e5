"""What the journals of a workspace say about its studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coin_ray.study.resolved import StudyCell

ENDS = {"CellStarted": "started", "CellFinished": "finished", "CellFailed": "failed"}
ENDS |= {"CellLeftOut": "left out"}


@dataclass
class Told:
    """The last word about a cell: ``state`` is one of ``ENDS``, ``why`` the cause of a failure."""

    state: str
    why: str = ""


@dataclass
class History:
    """One study: ``name`` is that of its folder of runs, ``total`` its cells, ``open`` True between
    its start and its end, ``time`` that of the last line (ms since 1970); ``labels``: level, data
    set and seed -> the cell's name, which changes with its settings."""

    name: str = ""
    total: int = 0
    open: bool = False
    time: int = 0
    cells: dict[str, Told] = field(default_factory=dict)
    labels: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def about(self, cell: StudyCell) -> Told | None:
        """The last word about a cell, under whatever settings it ran."""
        return self.cells.get(self.labels.get((cell.level, cell.data.name, cell.seed), ""))

    def count(self, state: str) -> int:
        return sum(told.state == state for told in self.cells.values())


def histories(workspace: Path) -> dict[str, History]:
    """Name of the folder of runs -> what the youngest journal of that study says."""
    from coin_ray.tracking.lines import read_checked

    paths = (path for path in (workspace / "journal").glob("*.jsonl") if path.is_file())
    found = [history(read_checked(path).rows) for path in paths]
    return {one.name: one for one in sorted(found, key=lambda one: one.time) if one.name}


def history(rows: Iterable[Mapping[str, Any]]) -> History:
    """Fold the lines of one journal."""
    out = History()
    for row in rows:
        kind, out.time = row["event"], row.get("time", out.time)
        if kind == "StudyDescribed":
            names = ("study", "profile", "dataset", "runs")
            tags = {name: str(row["tags"].get(name, "")) for name in names}
            data = tags["dataset"].replace(", ", "+")
            out.name = tags["runs"] or f"{tags['study']}-{tags['profile']}-{data}"
        elif kind in ("StudyStarted", "StudyFinished"):
            out.open = kind == "StudyStarted"
            out.total = row.get("cells") or out.total
        elif kind in ENDS and "cell" in row:
            who = row.get("level"), row.get("data"), row.get("seed")
            if None not in who and out.labels.setdefault(who, row["cell"]) != row["cell"]:
                out.cells.pop(out.labels[who], None)  # the same cell, under other settings
                out.labels[who] = row["cell"]
            out.cells[row["cell"]] = Told(ENDS[kind], row.get("cause") or row.get("reason") or "")
            if row.get("rounds") is not None:
                out.cells[row["cell"]] = Told("left out", f"ended after {row['rounds']} rounds")
    return out
