"""Names that outputs have taken for something else, and the ways to read them back."""

from __future__ import annotations

from html.parser import HTMLParser

NAMES = (
    r"$\bm{F}$", "$", "a$b", r"\$", "[/b]", "[bold]x", "QuPath [x=0,y=0,w=256]", "[a-z]*?",
    ":smile:", "<script>alert(1)</script>", "&lt;b&gt;", "a & b", "=1+1", "+1|cmd", "-2+3",
    "@SUM(A1)", "'=1", "-0.5", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b31m", "a\rb",
    "\u202eabc\u202c", "|", "a|b", r"a\|b", "`code`", "```", "**bold**", "_under_", "# head #",
    "1. one", "- item", "+ item", "---", "===", "    code", "![x](y)", "[x](y)", "~~gone~~",
    "it's", 'say "x"', "' OR 1=1 --", "%s %d {0}", "{name}", "$(id)", "!x", "x\\", "\\", "a--b",
    ",,x", "--help", "two\nlines", "a\tb", "a,b;c", "^2", "*", "100 %", "#1", "~", "naïve λ Ω ο",
    "細胞", "😀", "\u200bzero", "a  b", "_", "nan", "<!-- x",
)  # fmt: skip


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def html_text(page: str) -> tuple[str, set[str]]:
    """(text, names of the elements) of a page as a browser would have them."""
    parser = _Words()
    parser.feed(page)
    parser.close()
    return "".join(parser.texts), parser.tags


def markdown_text(source: str) -> tuple[str, set[str]]:
    """As :func:`html_text`, of Markdown with tables."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return html_text(reader.render(source))
