"""The canonical form of a `.llm` text: one statement a line, four blanks a level, comments kept.

Operands align within a paragraph, which a blank line, a bracket or a comment's own line ends. At most
one blank line is kept between statements; one separates declarations.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from servecast.compiler import fmt_text as text
from servecast.compiler import syntax as s
from servecast.compiler.parse import parse

INDENT = "    "
_COMMENT = re.compile(r'"[^"\n]*"|(#[^\n]*)')


def format_source(source: str, path: str) -> str:
    """A text in canonical form; formatting that again changes nothing.

    Raises:
        SpecError: the text is not in the language.
    """
    file = parse(source, path)
    page = _Page(deque(_comments(source)))
    for declaration in file.declarations:
        page.separate = True
        _declaration(page, declaration)
    page.separate = True
    page.flush(page.last_line + len(source) + 1)
    return "".join(f"{line}\n" for line in page.lines)


@dataclass(frozen=True, slots=True)
class _Comment:
    line: int
    text: str


def _comments(source: str) -> list[_Comment]:
    found = []
    for number, line in enumerate(source.split("\n"), start=1):
        for match in _COMMENT.finditer(line):
            if match.group(1):
                words = match.group(1)[1:].strip()
                found.append(_Comment(number, f"# {words}".rstrip()))
    return found


@dataclass(frozen=True, slots=True)
class _Entry:
    """A statement to set: its place, its keyword and the rest; or a head with bodies in brackets."""

    at: s.Span
    keyword: str
    rest: str = ""
    bodies: tuple[
        tuple[str, tuple[_Entry, ...]], ...
    ] = ()  # (what stands before the bracket, body)
    aligns: bool = False


@dataclass(slots=True)
class _Page:
    comments: deque[_Comment]
    lines: list[str] = field(default_factory=list)
    level: int = 0
    last_line: int = 0  # of the source, that has been set
    separate: bool = False  # the next line begins a paragraph
    opened: bool = True  # the last line opened a bracket

    def put(self, words: str, at_line: int) -> None:
        """Sets one line, after a blank one where the source has one or a declaration begins."""
        gap = at_line - self.last_line > 1 or self.separate
        if gap and self.lines and not self.opened:
            self.lines.append("")
        self.lines.append(f"{INDENT * self.level}{words}".rstrip())
        self.last_line = max(self.last_line, at_line)
        self.separate = self.opened = False

    def flush(self, before_line: int) -> None:
        """Sets the comments that stand before a line of the source, each on its own line."""
        while self.comments and self.comments[0].line < before_line:
            comment = self.comments.popleft()
            self.put(comment.text, comment.line)

    def trail(self, line: int) -> None:
        """Hangs the comments up to a line of the source on the line just set."""
        while self.comments and self.comments[0].line <= line:
            self.lines[-1] += f"  {self.comments.popleft().text}"
        self.last_line = max(self.last_line, line)


def _declaration(page: _Page, declaration: s.Declaration) -> None:
    match declaration:
        case s.Model():
            like = "" if declaration.like is None else f' like "{declaration.like}"'
            head = f'model "{declaration.name}"{like}'
            entries = [*_settings(declaration.settings), *map(_statement, declaration.body)]
        case s.SkuDeclaration():
            head, entries = f'sku "{declaration.name}"', _sku_lines(declaration.items)
        case s.ServiceDeclaration():
            head, entries = f'service "{declaration.name}"', _service_lines(declaration.items)
    entry = _Entry(declaration.at, head, bodies=(("", tuple(entries)),))
    _set(page, entry, 0, declaration.at.end_line + 1)


def _settings(settings: Sequence[s.Setting]) -> list[_Entry]:
    """Settings in order; bindings of one line share a `let`."""
    entries = []
    for (is_let, _), group in groupby(settings, _let_line):
        members = list(group)
        if is_let:
            bindings = [
                f"{b.name} = {text.expression_text(b.value)}"
                for b in members
                if isinstance(b, s.Binding)
            ]
            at = s.Span(members[0].at.line, 1, 2, max(_end(member) for member in members))
            entries.append(_Entry(at, "let", ", ".join(bindings)))
        else:
            entries += map(_setting, members)
    return entries


def _let_line(setting: s.Setting) -> tuple[bool, int]:
    is_let = isinstance(setting, s.Binding)
    return is_let, setting.at.line if is_let else 0


def _end(setting: s.Setting) -> int:
    last = setting.value.at if isinstance(setting, s.Binding) else setting.at
    return last.end_line


def _setting(setting: s.Setting) -> _Entry:
    match setting:
        case s.Source():
            return _Entry(setting.at, "source", f'"{setting.text}"', aligns=True)
        case s.Context():
            return _Entry(setting.at, "context", text.expression_text(setting.tokens), aligns=True)
        case s.FormatSetting():
            rest = text.format_text(setting.format)
            return _Entry(setting.at, setting.role, rest, aligns=True)
        case s.Block():
            return _Entry(setting.at, f"block {setting.name}", bodies=(_body(setting.body),))
        case s.Binding():
            raise AssertionError("bindings are set by their line")


def _body(body: s.Body, before: str = "") -> tuple[str, tuple[_Entry, ...]]:
    return before, tuple(_statement(statement) for statement in body)


def _statement(statement: s.Statement) -> _Entry:
    match statement:
        case s.Operation():
            keyword, rest = text.operation_words(statement)
            return _Entry(statement.at, keyword, rest, aligns=True)
        case s.BlockCall():
            return _Entry(statement.at, statement.name)
        case s.Residual():
            return _Entry(statement.at, "residual", bodies=(_body(statement.body),))
        case s.Parallel():
            bodies = tuple(_body(body) for body in statement.bodies)
            return _Entry(statement.at, "parallel", bodies=bodies)
        case s.Repeat():
            head = f"repeat {text.expression_text(statement.count)}"
            bodies = () if statement.body is None else (_body(statement.body),)
            return _Entry(statement.at, head, bodies=bodies)
        case s.ExpertsOperation():
            count, choose = map(text.expression_text, (statement.count, statement.choose))
            head = f"experts {count} choose {choose}{text.options_text(statement.options)}"
            always = (_body(statement.always, "always"),) if statement.always else ()
            return _Entry(statement.at, head, bodies=(_body(statement.body), *always))


def _sku_lines(items: Sequence[s.SkuItem]) -> list[_Entry]:
    """Items that share a line in the source go on sharing it."""
    lines = [list(group) for _, group in groupby(items, lambda item: item.at.line)]
    return [
        _Entry(
            s.Span(line[0].at.line, 1, 2, max(item.at.end_line for item in line)),
            "  ".join(text.sku_item_text(item) for item in line),
        )
        for line in lines
    ]


def _service_lines(items: Sequence[s.SloTarget | s.SearchAxis]) -> list[_Entry]:
    targets = [item for item in items if isinstance(item, s.SloTarget)]
    width = max((len(target.metric) for target in targets), default=0)
    entries = []
    for (_, _), group in groupby(items, lambda item: (isinstance(item, s.SloTarget), item.at.line)):
        for entry in _service_group(list(group), width):
            entries.append(entry)
    return entries


def _service_group(items: list[s.SloTarget | s.SearchAxis], width: int) -> Iterable[_Entry]:
    axes = [item for item in items if isinstance(item, s.SearchAxis)]
    if axes:
        at = s.Span(axes[0].at.line, 1, 2, axes[-1].at.end_line)
        yield _Entry(at, "search", "  ".join(text.axis_text(axis) for axis in axes))
    for item in items:
        if isinstance(item, s.SloTarget):
            limit = text.quantity_text(item.limit)
            yield _Entry(item.at, "slo", f"{item.metric.ljust(width)} {item.statistic} < {limit}")


def _set(page: _Page, entry: _Entry, width: int, next_line: int) -> None:
    """Sets a statement. ``next_line`` is where what follows begins, be it a closing bracket."""
    page.flush(entry.at.line)
    words = f"{entry.keyword.ljust(width)} {entry.rest}" if entry.rest else entry.keyword
    if entry.bodies:
        _set_bodies(page, entry, words)
    else:
        page.put(words, entry.at.line)
    # A comment at the end of a shared line belongs to what stands last on it.
    shared = next_line <= entry.at.end_line
    page.trail(entry.at.end_line - 1 if shared else entry.at.end_line)


def _set_bodies(page: _Page, entry: _Entry, words: str) -> None:
    last = len(entry.bodies) - 1
    for i, (before, body) in enumerate(entry.bodies):
        opener = f"{before} {{" if before else "{"
        if i == 0:
            page.put(f"{words} {opener}", entry.at.line)
            if (body[0].at.line if body else entry.at.end_line) > entry.at.line:
                page.trail(entry.at.line)
        elif before:
            page.lines.append(f"{INDENT * page.level}{opener}")
        else:
            page.lines[-1] += f" {opener}"
        following = entry.bodies[i + 1][1] if i < last else ()
        next_line = following[0].at.line if following else entry.at.end_line
        _set_body(page, body, next_line)
        if i == last:
            page.level += 1
            page.flush(entry.at.end_line)
            page.level -= 1
        page.lines.append(f"{INDENT * page.level}}}")
    page.opened = False


def _set_body(page: _Page, body: Sequence[_Entry], end_line: int) -> None:
    page.level += 1
    page.opened = True
    following = [*(entry.at.line for entry in body[1:]), end_line]
    number = 0
    for paragraph in _paragraphs(body):
        width = max((len(entry.keyword) for entry in paragraph if entry.aligns), default=0)
        for entry in paragraph:
            _set(page, entry, width if entry.aligns else 0, following[number])
            number += 1
    page.level -= 1


def _paragraphs(body: Sequence[_Entry]) -> list[list[_Entry]]:
    """Statements that align with each other."""
    paragraphs: list[list[_Entry]] = []
    for entry in body:
        last = paragraphs[-1][-1] if paragraphs else None
        follows = last is not None and last.aligns and entry.aligns
        if last is not None and follows and entry.at.line - last.at.end_line <= 1:
            paragraphs[-1].append(entry)
        else:
            paragraphs.append([entry])
    return paragraphs
