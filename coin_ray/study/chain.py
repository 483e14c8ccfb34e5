"""A study file and all that it extends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from coin_ray.files import exists
from coin_ray.study import files
from coin_ray.study.blocks import read_block
from coin_ray.study.errors import Place, Problems, shown_path, suggestion
from coin_ray.study.grammar import Node, load

T = TypeVar("T")

KEYS: Mapping[str, str] = {
    "study": "name of the study: a-z, 0-9, _ and -, for it names folders",
    "profile": "name of the search space; a file with this key is one, and no study",
    "title": "one line for the report",
    "question": "what the study asks, in a sentence",
    "extends": "file or name whose blocks count where this file has none: a search space, a study",
    "baseline": "settings of every cell",
    "generated": "settings in the place of those of a search space, where no images are brought",
    "without": "extra -> settings in the place of those that need it, where it is not installed",
    "design": "which combinations of levels are run",
    "fraction": "a share of a factorial: no main effect is mixed up with a two-factor interaction",
    "rungs": "rows of a ladder that branches: for each the factors that have left their baseline",
    "factors": "what varies: a level is a label and any number of settings",
    "predictions": "masks made elsewhere, {path, name} or a list of such: levels beside ours",
    "exclude": "combinations of levels that are not run",
    "space": "ranges that a search draws settings from; a list takes those of the search space",
    "trials": "configurations that a search tries",
    "sampler": "what proposes them",
    "repeats": "so many of the best trials are run with all random seeds",
    "stopping": "which cells stop before their last round",
    "screen": "score all levels before the first round, train the best only",
    "data": "images: generated, or name -> folder",
    "seeds": "random seeds: how many, which, or {first, max}",
    "objective": "what ranks cells",
    "report": "metrics of the result table",
    "steps": "steps of its columns, the end always among them; unsaid, all, of the AJI alone",
    "analysis": "intervals and tests",
    "gates": "claims that are registered before anything runs, and the split that stays sealed",
    "published": "numbers of a paper to stand beside ours",
    "budget": "hours beyond which the study does not start",
    "resources": "what a stage or a round may take; changes no result",
    "cluster": "how far the cluster grows, {max_nodes, node: {cpu, gpu, memory}}",
}
"""Every key of a study or search space and what it is for."""

PROFILE_KEYS = (
    "profile",
    "title",
    "extends",
    "baseline",
    "generated",
    "without",
    "space",
    "data",
    "seeds",
    "resources",
    "cluster",
)
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
STUDY_KEYS = tuple(key for key in KEYS if key not in ("profile", "generated", "without"))


@dataclass(frozen=True)
class Document:
    """One YAML file of a chain."""

    path: Path
    root: Node
    is_profile: bool

    @property
    def head(self) -> Place:
        """Its beginning, for what is missing from it."""
        return Place(shown_path(self.path), 1, 1)

    def name(self) -> str:
        node = self.root.value.get("profile" if self.is_profile else "study")
        return node.text if node is not None else self.path.stem


@dataclass(frozen=True)
class Chain:
    """The files of a study, nearest first: what one gives counts instead of what those behind it
    do."""

    files: Sequence[Document]
    problems: Problems

    def name(self) -> str:
        """Of the study: text that may stand in names of folders and jobs, or a problem is noted."""
        head = self.files[0]
        node = head.root.value.get("study")
        if node is None:
            self.problems.add(head.head, "missing key 'study'", f"write study: {head.path.stem}")
            return head.path.stem
        name: str = node.label()
        if not _SLUG.fullmatch(name):
            hint = "use a-z, 0-9, _ and -, 64 at most (it names folders)"
            node.note(f"'{name}' cannot name a study", hint)
        return name

    @property
    def studies(self) -> list[Document]:
        """Its files without the search spaces."""
        return [doc for doc in self.files if not doc.is_profile]

    def all(self, key: str) -> list[Node]:
        """What the files give for a key, the one that counts first."""
        return [doc.root.value[key] for doc in self.files if key in doc.root.value]

    def get(self, key: str) -> Node | None:
        """What counts for a key."""
        return next(iter(self.all(key)), None)

    def block(self, key: str, kind: type[T]) -> T | None:
        """A block as its dataclass; None if there is none, or none that can be used."""
        node = self.get(key)
        return read_block(node, kind, key) if node is not None else None


def read_chain(path: Path, problems: Problems) -> Chain:
    """The file and all that it extends."""
    found: list[Document] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        path = following
        seen.append(path.resolve())
        root = load(path, problems)
        if root is None:
            break
        is_profile = "profile" in root.value
        root.known(
            PROFILE_KEYS if is_profile else STUDY_KEYS,
            "a search space" if is_profile else "a study",
        )
        found.append(Document(path, root, is_profile))
        if not is_profile and len(found) > 1 and found[-2].is_profile:
            found[-2].root.value["extends"].note("a search space cannot extend a study")
        parent = root.value.get("extends")
        following = _parent(parent, path.parent) if parent is not None else None
        if parent is not None and following is not None and following.resolve() in seen:
            parent.note(f"{parent.text} extends itself in the end")
            break
    return Chain(found, problems)


def _parent(node: Node, folder: Path) -> Path | None:
    """``extends`` is a path from the file's own folder, or the name of a search space or study."""
    text = node.label()
    if exists(folder / text) and (folder / text).is_file():
        return folder / text
    for shelf in files.SHELVES:
        path = files.find(text, shelf)
        if path is not None:
            return path
    names = [name for shelf in files.SHELVES for name in files.available(shelf)]
    node.note(f"no such file or name '{text}'", suggestion(text, names, "names"))
    return None
