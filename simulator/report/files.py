"""The report's files: reads a result, writes a page, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from servecast.compiler.errors import UserError
from servecast.simulator.report.render import render


def write_report(results: Path, page: Path) -> Path:
    """Render ``results`` into ``page`` and return it.

    Raises:
        UserError: ``results`` cannot be read, or is no search result, or ``page`` cannot be written.
    """
    html = render(read_result(results), str(results))
    try:
        partial = page.with_name(page.name + ".partial")
        partial.write_text(html, encoding="utf-8")
        partial.replace(page)
    except OSError as error:
        raise UserError(f"{page}: cannot be written: {error.strerror or error}") from error
    return page


def read_result(results: Path) -> Any:
    """Any JSON value: what it must be is ``check``'s to say.

    Raises:
        UserError: ``results`` cannot be read or is not JSON.
    """
    try:
        return json.loads(results.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{results}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{results}: is not JSON: {error}") from error
