"""Files written where a user said: beside the user's own, never over them.

What we write into a folder is noted there, by name and content. A file that exists is replaced only
if it is noted and still as we left it, or if the user says so; an input is never replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from coin_ray.errors import UserError
from coin_ray.files import SCRATCH, scratch, whole

LEDGER = ".written-by-coin-ray.jsonl"
"""A line for each file that we wrote into its folder: ``name`` and ``sha256``."""

Noted = dict[str, set[str]]
"""Name -> the digests of what we wrote under it."""


@dataclass(frozen=True)
class Output:
    """A folder that may be written to; see :func:`claim`."""

    folder: Path
    overwrite: bool = False
    noted: Noted = field(default_factory=dict, repr=False)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A file to write that becomes ``name`` in the folder when the body ends.

        Raises:
            UserError: a file of that name that is not ours has come in meanwhile.
        """
        path = self.folder / name
        with whole(path) as part:
            yield part
            if not self.overwrite:
                _refuse_foreign(self.folder, [name], self.noted)
            # Noted first: stopped in between, the next call still knows the file that is there.
            self._note(name, part)

    @contextmanager
    def tree(self, name: str) -> Iterator[Path]:
        """A folder to make, whose files become those of ``name`` in the folder when the body ends;
        what we wrote there before and is not made again goes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self.folder) as made:
            yield (root := Path(made) / "tree")
            files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
            names = [f"{name}/{file.as_posix()}" for file in files]
            self.drop(f"{name}/", keep=names)
            for file, target in zip(files, names, strict=True):
                with self.file(target) as part:
                    (root / file).replace(part)

    def drop(self, prefix: str, *, keep: Iterable[str]) -> None:
        """Delete what we wrote under names that begin so and are not kept, if nobody changed it."""
        for name in self.noted.keys() - set(keep):
            if name.startswith(prefix) and _is_ours(self.folder / name, self.noted[name]):
                (self.folder / name).unlink()

    def note(self, name: str) -> None:
        """Note a file that something else has written for us."""
        self._note(name, self.folder / name)

    def _note(self, name: str, written: Path) -> None:
        digest = _digest(written)
        if digest in self.noted.setdefault(name, set()):
            return
        with (self.folder / LEDGER).open("a", encoding="utf-8") as ledger:
            # The line end comes first, so that a torn line before it stays alone.
            ledger.write("\n" + json.dumps({"name": name, "sha256": digest}))
        self.noted[name].add(digest)


def claim(
    folder: Path,
    names: Iterable[str],
    *,
    inputs: Iterable[Path] = (),
    sources: Iterable[Path] = (),
    overwrite: bool = False,
) -> Output:
    """The right to write ``names`` (relative, with /) into ``folder``; asked before any work.

    ``inputs`` are files that are read, ``sources`` folders whose every picture is, or would be once
    they are there: nothing is written over the first or into the second, whatever leads there (a
    link, another spelling).

    Raises:
        UserError: a target that is an input, lies among the inputs, or exists and is not ours (this
            one not with ``overwrite``); two names that are one file there; no folder.
    """
    names = list(names)
    check_folder(folder)
    _check_distinct(folder, names)
    read = {_identity(path) for path in inputs if path.exists()}
    full = {_place(path) for path in sources}
    for name in names:
        target = folder / name
        if _place(target.parent) in full:
            raise UserError(
                "the output would lie among the images or label maps that are read",
                where=str(target.parent),
                expected="a folder of its own",
                do="take another --out",
            )
        if target.exists() and _identity(target) in read:
            raise UserError(
                "an output would replace what it is made from",
                where=str(target),
                expected="an output that is no input",
                do="take another --out",
            )
    noted = _noted(folder)
    if not overwrite:
        _refuse_foreign(folder, names, noted)
    return Output(folder, overwrite, noted)


def claim_file(path: Path, *, inputs: Iterable[Path] = (), overwrite: bool = False) -> Output:
    """:func:`claim` of one file in its folder; its ``path.name`` is the name to write."""
    if path.is_dir():
        raise UserError("a folder where a file is to be written", where=str(path), do="name a file")
    return claim(path.parent, [path.name], inputs=inputs, overwrite=overwrite)


def _identity(path: Path) -> tuple[int, int]:
    """The same for every name of a file or folder, through links and on any file system."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _place(path: Path) -> tuple[int, int] | str:
    """The same for every name of a folder; of one that is not there, whatever its letter case."""
    return _identity(path) if path.exists() else os.path.realpath(path).casefold()


def check_folder(folder: Path) -> None:
    """UserError where a file is in the place of a folder to write into."""
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise UserError(
            "a file where a folder is needed",
            where=str(there),
            expected="a folder, new or existing",
            do="take another name",
        )


def _check_distinct(folder: Path, names: list[str]) -> None:
    """Refuse names that the file system takes for one another."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        other = seen.get(folded)
        seen[folded] = name
        if other is not None and (other == name or _folds(folder)):
            raise UserError(
                "two outputs of one name would overwrite each other",
                where=str(folder),
                found=other if other == name else f"{other} and {name}",
                do="rename one of their images, or give their folders one at a time",
            )


def _folds(folder: Path) -> bool:
    """Whether the file system there takes names that differ in case for one."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    probe = scratch(there / "case")
    try:
        probe.touch()
        return probe.with_name(SCRATCH + probe.name.removeprefix(SCRATCH).upper()).exists()
    except OSError:
        return False  # nothing can be written there, which the first file will say
    finally:
        probe.unlink(missing_ok=True)


def _refuse_foreign(folder: Path, names: list[str], noted: Noted) -> None:
    foreign = _foreign(folder, names, noted)
    if foreign:
        noted.update(_noted(folder))  # of another process that writes there
        foreign = _foreign(folder, foreign, noted)
    if foreign:
        rest = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise UserError(
            "not written: it would replace what coin-ray did not write, or what was changed since",
            where=str(folder / foreign[0]),
            expected="new names, or files as coin-ray left them",
            found=", ".join(foreign[:5]) + rest,
            do="take another --out, or say --overwrite",
        )


def _foreign(folder: Path, names: list[str], noted: Noted) -> list[str]:
    there = [name for name in names if os.path.lexists(folder / name)]
    return [name for name in there if not _is_ours(folder / name, noted.get(name, set()))]


def _is_ours(path: Path, digests: set[str]) -> bool:
    return bool(digests) and path.is_file() and not path.is_symlink() and _digest(path) in digests


def _noted(folder: Path) -> Noted:
    found: Noted = {}
    try:
        lines = (folder / LEDGER).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            row = json.loads(line)
            if ".." not in Path(row["name"]).parts and not Path(row["name"]).is_absolute():
                found.setdefault(row["name"], set()).add(row["sha256"])
        except (ValueError, KeyError, TypeError):
            continue  # empty, or torn by a full disk: its file counts as foreign
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
