"""A study file and all that it extends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coin_ray.files import exists
from coin_ray.study import files
from coin_ray.study.blocks import Reader
from coin_ray.study.errors import Problems, suggestion
from coin_ray.study.grammar import Node, label, load

KEYS: Mapping[str, str] = {
    "study": "name of the study: a-z, 0-9, _ and -, for it names folders",
    "profile": "name of the search space; a file with this key is one, and no study",
    "title": "one line for the report",
    "question": "what the study asks, in a sentence",
    "extends": "file or name whose blocks count where this file has none: a search space, a study",
    "baseline": "settings of every cell",
    "design": "which combinations of levels are run",
    "fraction": "a share of a factorial: no main effect is mixed up with a two-factor interaction",
    "factors": "what varies: a level is a label and any number of settings",
    "exclude": "combinations of levels that are not run",
    "space": "ranges that a search draws settings from; a list takes those of the search space",
    "trials": "configurations that a search tries",
    "sampler": "what proposes them",
    "stopping": "which cells stop before their last round",
    "screen": "score all levels before the first round, train the best only",
    "data": "images: generated, or name -> folder",
    "seeds": "random seeds: how many, which, or {first, max}",
    "objective": "what ranks cells",
    "report": "metrics of the result table",
    "analysis": "intervals and tests",
    "published": "numbers of a paper to stand beside ours",
    "budget": "hours beyond which the study does not start",
    "resources": "what a stage or a round may take; changes no result",
}
"""Every key of a study or search space and what it is for."""

PROFILE_KEYS = ("profile", "title", "extends", "baseline", "space", "data", "seeds", "resources")
STUDY_KEYS = tuple(key for key in KEYS if key != "profile")


@dataclass(frozen=True)
class Document:
    """One YAML file of a chain."""

    path: Path
    root: Node
    is_profile: bool

    def name(self) -> str:
        node = self.root.value.get("profile" if self.is_profile else "study")
        return node.text if node is not None else self.path.stem


def read_chain(path: Path, problems: Problems) -> list[Document]:
    """The file and all that it extends, nearest first."""
    found: list[Document] = []
    seen: list[Path] = []
    while True:
        seen.append(path.resolve())
        root = load(path, problems)
        if root is None:
            return found
        is_profile = "profile" in root.value
        known = PROFILE_KEYS if is_profile else STUDY_KEYS
        what = "a search space" if is_profile else "a study"
        Reader(root, problems, what, known)
        found.append(Document(path, root, is_profile))
        if not is_profile and len(found) > 1 and found[-2].is_profile:
            node = found[-2].root.value["extends"]
            problems.add(node.place, "a search space cannot extend a study")
        parent = root.value.get("extends")
        if parent is None:
            return found
        following = _parent(parent, path.parent, problems)
        if following is None:
            return found
        if following.resolve() in seen:
            problems.add(parent.place, f"{parent.text} extends itself in the end")
            return found
        path = following


def _parent(node: Node, folder: Path, problems: Problems) -> Path | None:
    """``extends`` is a path from the file's own folder, or the name of a search space or study."""
    text = label(node, problems)
    if exists(folder / text) and (folder / text).is_file():
        return folder / text
    for shelf in ("search_spaces", "ablations"):
        path = files.find(text, shelf)
        if path is not None:
            return path
    names = [*files.available("search_spaces"), *files.available("ablations")]
    problems.add(node.place, f"no such file or name '{text}'", suggestion(text, names, "names"))
    return None


def first(chain: Sequence[Document], key: str) -> tuple[Node, Document] | None:
    for doc in chain:
        if key in doc.root.value:
            return doc.root.value[key], doc
    return None
