"""A user's names where they become parts of paths, of metrics and of keys: readable, and with a
digest wherever the readable part alone could be another's."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from coin_ray.identity import digest
from coin_ray.store.keys import SHORT

MOST_BYTES = 100
"""Of a data set's name, of a folder and of a part of a metric's name: with a suffix and a counter
they stay within the 255 of a file system."""
_MARKED = re.compile(rf"-[0-9a-f]{{{SHORT}}}$", re.IGNORECASE)


def cell_name(level: str, data: str, seed: int, settings: str) -> str:
    """The name of a cell within its study, for folders, jobs and events; ``settings`` is the digest
    of its configuration. Only the digest at its end tells cells apart."""
    readable = (slug(level, 32), slug(data, 22), f"s{seed}"[:17])
    return f"{'--'.join(filter(None, readable))}-{_short([level, data, seed, settings])}"


def study_name(shown: Iterable[str], identity: object) -> str:
    """The name of a study's folder: ``shown`` to be read, ``identity`` (JSON) to tell it apart."""
    return f"{slug('-'.join(shown), 60)}-{_short(identity)}"


def safe_names(texts: Iterable[str]) -> dict[str, str]:
    """Each text as one part of a metric's name: itself where it is plain and no other of them
    differs in letter case or Unicode form alone, else readable with its digest."""
    known = dict.fromkeys(texts)
    alike = Counter(map(folded, known))
    return {
        text: text if _is_plain(text) and alike[folded(text)] == 1 else marked(text)
        for text in known
    }


def marked(text: str, most: int = 60) -> str:
    """What is readable of a text, in at most ``most`` bytes, and its digest."""
    clean = re.sub(r"[^\w. -]+", "-", unicodedata.normalize("NFC", text)).strip("-. ")
    return f"{_cut(clean, most).rstrip('-. ')}-{_short(text)}".lstrip("-")


def folded(text: str) -> str:
    """What texts have in common that a file system or a database may take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", text).casefold())


def slug(text: str, most: int) -> str:
    """The beginning of a text in letters, digits, ``._-``; perhaps nothing, perhaps another's."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text)[:most].strip("-.")


def file_word(text: str) -> str:
    """A data set's name in the name of a file; lower case, for names differ in more than case."""
    plain = (
        re.fullmatch(r"[a-z0-9][a-z0-9_-]*", text.lower()) is not None and len(text) <= MOST_BYTES
    )
    if plain and not _MARKED.search(text):
        return text.lower()
    return f"{slug(text.lower().replace('.', '-'), 40)}-{_short(text)}".lstrip("-")


def data_name_problem(name: str) -> str:
    """Why a data set cannot be called so, as one phrase; empty if it can."""
    if not name.strip() or name != name.strip():
        return "it is empty, or begins or ends with a blank"
    if any(unicodedata.category(c)[0] == "C" for c in name):
        return "it holds a control character, or one that is no text"
    if "/" in name or "\\" in name or name in (".", ".."):
        return "it reads as a path"
    if len(name.encode()) > MOST_BYTES:
        return f"it is longer than {MOST_BYTES} bytes"
    return ""


def _is_plain(text: str) -> bool:
    return (
        re.fullmatch(r"\w[\w. -]*(?<![. ])", text) is not None
        and text == unicodedata.normalize("NFC", text)
        and len(text.encode()) <= MOST_BYTES
        and not _MARKED.search(folded(text))
    )


def _short(identity: object) -> str:
    return digest(identity)[:SHORT]


def _cut(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore")
