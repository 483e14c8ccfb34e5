"""A user's text made safe for what it is printed into: one function an output.

Names of levels, data sets, images and folders are any text. Each function returns what the output
shows as that text again and takes for nothing else: not for an escape of the terminal, markup, a
formula, a pattern or a query. What cannot be shown (control characters, characters that turn the
writing direction, halves of characters from a file name that is no UTF-8) is spelled out as in a
Python string: ``\\x1b``, ``\\u202e``, ``\\udce9``.
"""

from __future__ import annotations

import glob
import html as _html
import os
import re
import shlex
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_MARKDOWN = re.compile(r"[\\`*_\[\]<>&|~$#]")
_LINE_START = re.compile(r"^ *(?:([+=-])|(\d+)([.)]))?")
_FORMULA = re.compile(r"[=+\-@\t\r\n']")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "–": "--", "—": "---", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$",
    "…": r"\dots{}", "→": r"$\rightarrow$", "≥": r"$\geq$", "≤": r"$\leq$", "µ": r"$\mu$",
    "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    # After a new line of a table or an \item these would begin an argument.
    "[": "{[}", "]": "{]}", "*": "{*}", "\0": "{}",
}  # fmt: skip

# LaTeX has no command for those that look like Latin letters.
_GREEK_AS_LATIN = {
    "Alpha": "A", "Beta": "B", "Epsilon": "E", "Zeta": "Z", "Eta": "H", "Iota": "I", "Kappa": "K",
    "Mu": "M", "Nu": "N", "Omicron": "O", "Rho": "P", "Tau": "T", "Chi": "X", "omicron": "o",
}  # fmt: skip


def printable(text: str) -> str:
    """``text`` with what cannot be shown spelled out; ends of lines and tabs stay."""
    return _UNSEEN.sub(lambda found: _spelled(found[0]), text)


def line(text: str) -> str:
    """As ``printable``, in one line: a name cannot pretend to be the next one."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def is_text(text: str) -> bool:
    """False for what no UTF-8 holds, such as a file name of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode()


def styled(text: str, style: str = "") -> Text:
    """For a rich console: no markup, no emoji code."""
    from rich.text import Text

    return Text(printable(text), style)


def html(text: str) -> str:
    """For an element or a quoted attribute."""
    return _html.escape(printable(text))


def markdown(text: str) -> str:
    """For a part of a line: a heading, a cell, a caption."""
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", line(text))


def markdown_block(text: str) -> str:
    """For a paragraph or an item of a list; its lines stay lines."""
    return "\n".join(
        _LINE_START.sub(_first, markdown(part)) for part in text.expandtabs(1).split("\n")
    )


def _first(found: re.Match[str]) -> str:
    """The beginning of a line that could be a list, a rule or code."""
    sign, number, after = found.groups()
    return f"\\{sign}" if sign else f"{number}\\{after}" if number else ""


def fenced(text: str) -> str:
    """A block of code in Markdown, its fence longer than any inside."""
    shown = printable(text)
    longest = max(map(len, re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{shown}\n{fence}"


def latex(text: str) -> str:
    """For running text, in one line; Greek letters become mathematics, which every engine has."""
    shown = re.sub(r"\s", " ", printable(text))
    apart = re.sub(r"([-,])(?=\1)", "\\1\0", shown)  # two of them would be one sign
    return "".join(_LATEX.get(c) or _greek(c) or c for c in apart)


def _greek(char: str) -> str:
    name = unicodedata.name(char, "")
    if not name.startswith("GREEK") or "LETTER" not in name or " WITH " in name:
        return ""
    word = name.rsplit(" ", 1)[1].lower().replace("lamda", "lambda")
    if "CAPITAL" in name:
        return _GREEK_AS_LATIN.get(word.capitalize(), f"$\\{word.capitalize()}$")
    return _GREEK_AS_LATIN.get(word, f"$\\{word}$")


def figure(text: str) -> str:
    """For a figure, where ``figures.style`` turns mathematics off. A label that begins with an
    underscore is no label to matplotlib: a space without width stands before it."""
    shown = line(text)
    return f"\u200b{shown}" if shown.startswith("_") else shown


def cell(text: str) -> str:
    """For a CSV file: what a spreadsheet would compute gets an apostrophe before it. Numbers do
    not; what begins with an apostrophe does, so that different texts stay different."""
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def shell(*words: str | os.PathLike[str]) -> str:
    """A command line that a shell splits into these words again."""
    return " ".join(_word(os.fspath(word)) for word in words)


def _word(text: str) -> str:
    if not _UNSEEN.search(text) and "\n" not in text:
        return shlex.quote(text)
    return f"$'{''.join(map(_ansi_c, text))}'"


def _ansi_c(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char != "\n" and not _UNSEEN.match(char):
        return char
    errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in char.encode(errors=errors))


def pattern(text: str) -> str:
    """The part of a glob pattern that matches this text alone."""
    return glob.escape(text)


def literal(text: str) -> str:
    """For a filter of MLflow, whose quotes cannot be escaped. ValueError for text that holds both
    kinds."""
    for quote in "'\"":
        if quote not in text:
            return f"{quote}{text}{quote}"
    raise ValueError(f"a filter cannot hold both kinds of quotes: {text}")
