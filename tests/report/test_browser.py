"""The page in a real headless Chromium: sorted, filtered, hovered, switched to dark, printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from servecast.simulator.report.render import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed: the report is not tried in a browser"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)
Result = dict[str, Any]


def chromium(tmp_path: Path, html: str, *options: str) -> subprocess.CompletedProcess[str]:
    page = tmp_path / "page.html"
    page.write_text(html, encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *options]
    return subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )


def run_in_page(tmp_path: Path, result: Result, script: str) -> Any:
    """What ``script`` (a function body) returns in the page, with no console error on the way."""
    probe = f"<script>document.title = JSON.stringify((() => {{{script}}})());</script></body>"
    done = chromium(tmp_path, render(result).replace("</body>", probe), "--dump-dom")
    assert "CONSOLE" not in done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    return json.loads(title[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


INTERACTIONS = """
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const seen = {};

  const column = 11, button = all('#ranking thead button')[column];
  const values = () => all('#ranking tbody tr').map((row) => Number(row.cells[column].dataset.v));
  button.click(); seen.up = values();
  button.click(); seen.down = values();

  const filter = one('#filter');
  filter.value = 'H100 tp2'; filter.dispatchEvent(new Event('input'));
  seen.rows = all('#ranking tbody tr').filter((row) => !row.hidden)
    .map((row) => row.cells[1].textContent + row.cells[2].textContent);
  seen.marks = all('.point:not(.dim)').length;
  seen.count = one('#count').textContent;

  one('.point[data-row="4"]').dispatchEvent(new MouseEvent('mouseenter'));
  seen.lit = [one('#r4').className, all('.point.lit').length];
  seen.tip = [one('#tip').hidden, one('#tip').textContent.slice(0, 3)];

  const paper = () => getComputedStyle(document.body).backgroundColor;
  seen.before = paper(); one('#theme').click(); seen.after = paper();
  seen.theme = one('#theme').textContent;
  return seen;
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, pristine: Result) -> Result:
    """What a reader sees who sorts, filters, hovers and switches the theme, in one visit."""
    found = run_in_page(tmp_path_factory.mktemp("visit"), pristine, INTERACTIONS)
    assert isinstance(found, dict)
    return found


def test_a_click_sorts_the_ranking_and_another_turns_it_round(seen: Result) -> None:
    assert seen["up"] == sorted(seen["up"])
    assert seen["down"] == seen["up"][::-1]
    assert len(seen["up"]) == 54


def test_the_filter_hides_rows_and_dims_their_marks(seen: Result) -> None:
    assert seen["rows"] == ["h100-sxm2"] * 6
    assert (seen["marks"], seen["count"]) == (18, "6 of 54")


def test_hovering_a_mark_lights_its_row_and_tells_its_numbers(seen: Result) -> None:
    assert seen["lit"] == ["lit", 3]
    assert seen["tip"] == [False, "#5 "]


def test_the_theme_button_switches_the_colours(seen: Result) -> None:
    assert seen["before"] != seen["after"]
    assert seen["theme"] in ("Light", "Dark")


def test_a_table_downloads_as_raw_numbers_that_no_spreadsheet_runs(
    tmp_path: Path, result: Result
) -> None:
    for row in result["ranked"]:
        row["sku"] = '=1+1,"x"'
    result["ranked"][0]["mfu"] = None
    script = """
      let link; HTMLAnchorElement.prototype.click = function () { link = this; };
      document.querySelector('button.csv[data-table="ranking"]').click();
      return [link.download, decodeURIComponent(link.href.split(',').slice(1).join(','))];
    """
    name, text = run_in_page(tmp_path, result, script)
    lines = text.splitlines()
    assert (name, len(lines)) == ("ranking.csv", 55)
    assert lines[0].startswith("#,GPU,TP,PP,seqs,tokens")
    assert lines[1].startswith('1,"\'=1+1,""x""",1,1,256,2048,2,2,5.98,')
    assert lines[1].split(",")[-3] == ""


def test_nothing_but_scrolling_tables_is_wider_than_a_phone(tmp_path: Path, result: Result) -> None:
    frame = """
      const frame = document.createElement('iframe'); frame.style.cssText = 'width: 360px; border: 0';
      const page = document.documentElement.cloneNode(true);
      page.querySelectorAll('script').forEach((script) => script.remove());
      document.body.append(frame); frame.contentDocument.documentElement.replaceWith(page);
      const wide = [...page.querySelectorAll('main *')].filter((element) => !element.closest('.scroll, pre'))
        .filter((element) => element.getBoundingClientRect().right > 360);
      return wide.map((element) => element.outerHTML.slice(0, 60));
    """
    assert run_in_page(tmp_path, result, frame) == []


def test_the_page_prints_to_a_few_sheets(tmp_path: Path, result: Result) -> None:
    pdf = tmp_path / "page.pdf"
    chromium(tmp_path, render(result), f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    sheets = len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes()))
    assert 2 <= sheets <= 6
