"""The one error type a user is meant to read."""

from __future__ import annotations

NOT_TEXT = "a name that is no UTF-8"
RENAME = "rename it, for example with `convmv -r -f latin1 -t utf8 --notest FOLDER`"
"""What to do about a file name of another encoding."""


class UserError(ValueError):
    """Bad input, said so that it can be mended without reading the code.

    ``what`` is wrong, ``where`` (file, line, image name), what was ``expected`` against what was
    ``found``, and what to ``do``. The CLI prints it without a traceback and exits with code 2.
    """

    def __init__(
        self, what: str, *, where: str = "", expected: str = "", found: str = "", do: str = ""
    ) -> None:
        self.what, self.where, self.expected, self.found, self.do = what, where, expected, found, do
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
