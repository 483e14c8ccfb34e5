"""Manifests: what is written down about an artifact, under a digest, and what damage looks like.

Version 2 begins with a digest of all that follows in the file. Those before had no version, and a
digest of the arrays alone: they are served, their values held against what each stage wrote then.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from coin_ray import bucket
from coin_ray.errors import UserError
from coin_ray.section import Values

VERSION = 2
FILE, DATA = "manifest.json", "data.safetensors"


class CorruptArtifact(RuntimeError):
    """What is on disk is not what was written."""


def seal(manifest: Values) -> bytes:
    """A manifest as it is written: with its version, and first the digest of all that follows."""
    body = json.dumps({"version": VERSION, **manifest}, allow_nan=False).encode()
    return b"".join((_HEAD, _digest(body), _TAIL, body[1:]))


_HEAD, _TAIL, _HEX = b'{"digest": "', b'", ', 64


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_HEX // 2).hexdigest().encode()


def _sealed(raw: bytes) -> bool:
    """True if the bytes are those that ``seal`` wrote."""
    digest, rest = raw[len(_HEAD) :][:_HEX], raw[len(_HEAD) + _HEX :]
    whole = raw.startswith(_HEAD) and rest.startswith(_TAIL)
    return whole and digest == _digest(b"{" + rest[len(_TAIL) :])


def read_manifest(folder: Path) -> Values:
    """The manifest of the artifact in ``folder``, which holds data of the size that it says.

    Raises FileNotFoundError if there is no such artifact, CorruptArtifact if anything about it is
    not as it was written, UserError if a later version wrote it.
    """
    try:
        with open(f"{folder}/{FILE}", "rb") as file:  # for a plan thousands: no Path for each
            raw = file.read()
        size = os.stat(f"{folder}/{DATA}").st_size
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise absent(folder, error) from error
    except OSError as error:
        raise UserError(
            "an artifact cannot be read",
            where=str(folder),
            found=str(error.strerror),
            do="mend its permissions, or remove it: it is then made again",
        ) from error
    return understood(raw, size, folder)


def understood(raw: bytes, size: int, folder: Path) -> Values:
    """What a manifest says of ``size`` bytes of data in ``folder``, or in the object that it stands
    for. Raises as ``read_manifest``."""
    found = manifest_of(raw, folder)
    if size != found["bytes"]:
        raise CorruptArtifact(
            f"its data ({size} of {found['bytes']} bytes) are not what was written"
        )
    return found


def told(folder: Path) -> Values:
    """As ``read_manifest``, of the bucket that the store stands for where the artifact is not here;
    its data are not fetched: they may be gigabytes."""
    try:
        return read_manifest(folder)
    except FileNotFoundError:
        raw = bucket.first_line(folder)
        if raw is None:
            raise
    return manifest_of(raw, folder)


def manifest_of(raw: bytes, folder: Path) -> Values:
    """The manifest that ``raw`` is, of the artifact that is to be in ``folder``. Raises
    CorruptArtifact and UserError as ``read_manifest``."""
    try:
        found = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact("its manifest cannot be read") from error
    fault = _fault(found, _sealed(raw), folder.parent.name)
    if fault:
        raise CorruptArtifact(f"its manifest {fault}")
    if found.get("version", 1) > VERSION:
        raise UserError(
            "an artifact of a later version of coin-ray",
            where=bucket.shown(folder),
            expected=f"a manifest of version {VERSION} or before",
            found=f"version {found['version']}",
            do="update coin-ray, or take another workspace",
        )
    return dict(found)


def absent(folder: Path, error: OSError) -> Exception:
    """What a file that is not there means: no artifact, or one that is not whole."""
    if not os.path.lexists(folder):
        return FileNotFoundError(error.errno, "no such artifact", str(folder))
    try:
        files = {one.name for one in os.scandir(folder) if one.is_file(follow_symlinks=False)}
    except OSError:
        return CorruptArtifact("it is no folder")
    for name in (FILE, DATA):
        if name not in files:
            return CorruptArtifact(f"{name} is missing")
    return FileNotFoundError(error.errno, "not seen here yet", str(folder))


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _fault(found: object, sealed: bool, stage: str) -> str:
    """What is wrong with the content of a manifest; empty if nothing is."""
    if not isinstance(found, dict):
        return "is no JSON object"
    old = "version" not in found and "digest" not in found
    if not old and not (sealed and _whole(found.get("version"))):
        return "is not what was written"
    for name, right in _FIELDS.items():
        if not right(found.get(name)):
            return f"has no proper {name!r}"
    wrong = _wrong_info(found["info"], stage) if old else ""
    return f"has no proper 'info': {wrong}" if wrong else ""


def _text(value: object) -> bool:
    return isinstance(value, str)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -1e308 <= value <= 1e308  # of an int of any length too


def _list_of_numbers(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_number, value))


def _by_name(right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(right, value.values()))


_FIELDS: Mapping[str, Callable[[object], bool]] = {
    "fields": _text,
    "info": lambda value: isinstance(value, dict),
    "data": _text,
    "bytes": _whole,
    "seconds": _number,
    "kind": _text,
    "amount": _number,
    "device": _text,
}

# What version 1 wrote, for ever: a stage that says more today says it in a manifest of version 2.
_METRICS = ("aji", "aji_plus", "pq", "sq", "dq", "dice", "iou", "miou", "fn", "fp", "n_true",
            "n_predicted")  # fmt: skip
_OFFICIAL = tuple(f"official_{m}" for m in ("aji", "pq", "sq", "dq", "dice", "miou", "mfn", "mfp"))
_SPLIT = ("n_adjacent", *(f"{part}_{metric}" for part in ("adj", "nonadj")
                          for metric in ("aji", "iou", "fn", "fp")))  # fmt: skip
_NAMES = [[*_METRICS, *official, *split] for official in ((), _OFFICIAL) for split in ((), _SPLIT)]
_INFO: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "evaluate": {"names": _NAMES.__contains__},
    "score": {"instances": _whole, "agreement_sum": _number},
    "select": {
        **dict.fromkeys(("instances", "accepted", "labelled"), _whole),
        **dict.fromkeys(("threshold", "score_mean", "score_std"), _number),
        **dict.fromkeys(("label_shared", "label_either"), _whole),
    },
    "round": {
        "loss": _number,
        "iterations": _whole,
        "stopped": lambda value: isinstance(value, bool),
        "seconds": _number,
    },
    "ucis_model": {"log": _by_name(_list_of_numbers), "steps": _by_name(_whole)},
}


def _wrong_info(info: Values, stage: str) -> str:
    """The first value that the stage did not write so; empty if there is none."""
    schema = _INFO.get(stage, {})
    unknown = sorted(info.keys() - schema.keys())
    wrong = [name for name, right in schema.items() if not right(info.get(name))]
    return ", ".join([*unknown, *wrong][:1])
