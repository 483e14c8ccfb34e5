"""The one error type a user is meant to read."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable

NOT_TEXT = "a name that is no UTF-8"
RENAME = "rename it, for example with `convmv -r -f latin1 -t utf8 --notest FOLDER`"
"""What to do about a file name of another encoding."""


def redacted(text: str) -> str:
    """``text`` without the users and passwords that addresses in it may carry."""
    return re.sub(r"://[^/\s]*@", "://", text)


class UserError(ValueError):
    """Bad input, said so that it can be mended without reading the code.

    ``what`` is wrong, ``where`` (file, line, image name), what was ``expected`` against what was
    ``found``, and what to ``do``. The CLI prints it without a traceback and exits with ``code``.
    What addresses carry of users and passwords is left out.
    """

    code = 2

    def __init__(
        self, what: str, *, where: str = "", expected: str = "", found: str = "", do: str = ""
    ) -> None:
        self.what, self.where, self.expected, self.found, self.do = map(
            redacted, (what, where, expected, found, do)
        )
        super().__init__(str(self))

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        rows = [("expected", self.expected), ("found", self.found), ("do", self.do)]
        return "\n".join([head, *(f"  {name}: {text}" for name, text in rows if text)])

    def __reduce__(self) -> tuple[object, ...]:
        # A keyword-only constructor does not survive the default pickling between Ray processes.
        return _rebuild, (self.what, self.where, self.expected, self.found, self.do)


def _rebuild(what: str, where: str, expected: str, found: str, do: str) -> UserError:
    return UserError(what, where=where, expected=expected, found=found, do=do)


def raise_all(problems: Iterable[UserError]) -> None:
    """Raise what is wrong with several files as one error; the same words count once."""
    different = {str(problem): problem for problem in problems}
    if len(different) == 1:
        raise next(iter(different.values()))
    if different:
        raise UserError("\n".join([f"{len(different)} files cannot be used", *different]))


def first_line(error: BaseException) -> str:
    """Of what an error says, 200 characters at most; its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redacted(lines[0] if lines else type(error).__name__)[:200]


_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust say the number of the system's error."""
_AGAIN = "then give the same command again: it goes on where it stopped"
_SYSTEM = {
    errno.ENOSPC: ("the disk is full", f"make room (coin-ray store gc), {_AGAIN}"),
    errno.EDQUOT: ("your share of the disk is used up", f"make room (coin-ray store gc), {_AGAIN}"),
    errno.EFBIG: ("this file may not grow any more", f"raise the limit (ulimit -f), {_AGAIN}"),
    errno.EROFS: ("this file system is read-only", "choose a place that can be written"),
    errno.EACCES: ("permission denied", "choose another place, or ask its owner for access"),
    errno.EPERM: ("permission denied", "choose another place, or ask its owner for access"),
    errno.ENOTDIR: ("there is a file where a folder belongs", "choose another place"),
    errno.EEXIST: ("something else is there already", "choose another place, or move it away"),
    errno.EISDIR: ("there is a folder where a file belongs", "name a file"),
    errno.ENAMETOOLONG: ("the name is too long for this file system", "choose a shorter one"),
    errno.ELOOP: ("links that lead back to themselves", "choose another place"),
    errno.EMFILE: ("too many open files", f"raise the limit (ulimit -n), {_AGAIN}"),
    errno.ENFILE: ("too many open files on this machine", f"wait, {_AGAIN}"),
    errno.ENOMEM: ("the memory does not suffice", "use a machine with more, or a smaller study"),
    errno.EIO: ("the disk does not answer", f"check it, {_AGAIN}"),
    errno.ESTALE: ("the network folder has gone", f"check its server, {_AGAIN}"),
}


def of_system(error: BaseException) -> UserError | None:
    """What the machine, not coin-ray, refused, as a message; None for what has another cause."""
    if isinstance(error, MemoryError):
        what, do = _SYSTEM[errno.ENOMEM]
        return UserError(what, found=str(error), do=do)
    if type(error) is RuntimeError and isinstance(error.__context__, OSError):
        error = error.__context__  # torch puts words of its own over what the disk said
    rust = _OS_ERROR.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(rust[1]) if rust else None
    if number not in _SYSTEM:
        return None
    what, do = _SYSTEM[number]
    where = str(getattr(error, "filename", None) or "")
    return UserError(what, where=where if len(where) < 500 else f"{where[:200]} …", do=do)
