"""What a user can put right: one sentence each, and the exit code the command line ends with.

Anything that is not a ``UserError`` is a bug and is allowed to crash.
"""

from __future__ import annotations

MAX_MESSAGE = 600  # characters; a longer one quotes a name that nobody typed
MAX_QUOTED_COLUMNS = 120  # of a faulty line; the rest would bury the message


class UserError(Exception):
    """Bad input: usage, a spec, a trace. The message says where, what, the value, and what would be right."""

    exit_code = 2


class SpecError(UserError):
    """A fault in a `.llm` text; the message ends with the line and a caret under the fault."""

    def __init__(self, message: str, path: str, span: tuple[int, int, int], line_text: str) -> None:
        self.message = message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}…"
        self.path = path
        self.line, self.column, end_column = span
        margin = f"{self.line:>5} | "
        shown, column = _shortened(line_text, self.column)
        width = max(1, min(end_column - self.column, len(shown) - column + 1))
        caret = " " * (len(margin) - 2) + "| " + " " * (column - 1) + "^" * width
        super().__init__(
            f"{path}:{self.line}:{self.column}: {self.message}\n{margin}{shown}\n{caret}"
        )


def _shortened(line: str, column: int) -> tuple[str, int]:
    """At most ``MAX_QUOTED_COLUMNS`` of a line around a column, unprintable characters as `?`."""
    start = max(0, column - 1 - MAX_QUOTED_COLUMNS // 2) if len(line) > MAX_QUOTED_COLUMNS else 0
    piece = line[start : start + MAX_QUOTED_COLUMNS]
    piece = "".join(c if c.isprintable() else (" " if c == "\t" else "?") for c in piece)
    return piece, column - start


class ShardError(UserError):
    """A parallelism that does not divide a model. The message lists degrees that do."""


class InfeasibleError(UserError):
    """No configuration meets what was asked."""

    exit_code = 3


class DataMissingError(UserError):
    """The store lacks, or cannot serve, the measurements that were asked for."""

    exit_code = 4


class AgentError(UserError):
    """An agent does not answer, refuses, or failed."""

    exit_code = 5


def is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C, or DuckDB's word for it while it works."""
    return isinstance(error, KeyboardInterrupt) or str(error) == "Query interrupted"
