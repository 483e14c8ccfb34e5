"""What the journals of a workspace say about its studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coin_ray.events.state import StudyState
from coin_ray.events.tracked import StudyDescribed

if TYPE_CHECKING:
    from coin_ray.tracking.lines import Line


def histories(workspace: Path) -> dict[str, StudyState]:
    """Name of the folder of runs -> what the youngest journal of that study says."""
    from coin_ray.tracking.lines import read_checked

    paths = (path for path in (workspace / "journal").glob("*.jsonl") if path.is_file())
    found = [history(read_checked(path).good) for path in paths]
    return {name: state for name, state in sorted(found, key=lambda one: one[1].time) if name}


def history(lines: Iterable[Line]) -> tuple[str, StudyState]:
    """The name of a study's folder of runs and its state (times in ms since 1970), from the lines
    of its journal."""
    name, state = "", StudyState()
    for line in lines:
        if line.event is not None:
            state.update(line.event, line.time)
        if isinstance(line.event, StudyDescribed):
            name = _folder(line.event.tags)
    return name, state


def _folder(tags: Mapping[str, Any]) -> str:
    study, profile, data = (str(tags.get(part, "")) for part in ("study", "profile", "dataset"))
    return str(tags.get("runs") or f"{study}-{profile}-{data.replace(', ', '+')}")
