"""The blocks of the documentation's pages, and who runs each: the tests of the pages, or what a remark names.

A remark is a comment on the line before a block. ``slow: why`` says why the block takes its time; ``run by
PATH: why`` names the test that runs it, with what it takes from the page by `documented`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
BLOCK = re.compile(
    r"(?:^<!-- ([^\n]*?) -->\n)?^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Snippet:
    remark: str
    language: str
    text: str

    @property
    def is_run(self) -> bool:
        """By the tests of the pages, each time."""
        return self.runner is None

    @property
    def runner(self) -> Path | None:
        """The file whose tests run it in their place."""
        named = re.match(r"run by (\S+): ", self.remark)
        return REPOSITORY / named[1] if named else None


def snippets(page: Path) -> list[Snippet]:
    return [Snippet(*found) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


def script(page: Path, language: str) -> str:
    return "\n".join(s.text for s in snippets(page) if s.language == language and s.is_run)


def documented(page: str, begins: str) -> str:
    """The shell block of a page that has a line beginning so, for the test that runs it."""
    found = [
        snippet.text
        for snippet in snippets(DOCS / page)
        if any(line.startswith(begins) for line in snippet.text.splitlines())
    ]
    assert len(found) == 1, f"{page} has {len(found)} blocks with {begins!r}"
    return found[0]
