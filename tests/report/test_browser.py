"""The page as a person uses it, in a real Chromium: sort, filter, hover, select, zoom, dark, phone, print."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from browser import barriers, chromium, downloaded, needs_browser, visit
from playwright.sync_api import Browser, Page, expect

from servecast.simulator.report.render import render

pytestmark = needs_browser
Result = dict[str, Any]
Visit = Callable[..., AbstractContextManager[Page]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Visit:
    """Opens the page of a result."""

    def opened(result: Result, **context: Any) -> AbstractContextManager[Page]:
        path = tmp_path / "page.html"
        path.write_text(render(result), encoding="utf-8")
        return visit(browser, path.as_uri(), **context)

    return opened


@pytest.fixture
def page(opened: Visit, pristine: Result) -> Iterator[Page]:
    with opened(pristine) as found:
        yield found


def shown(page: Page) -> list[str]:
    """GPU and TP of the rows that are not filtered out."""
    rows = page.locator("#ranking tbody tr:visible")
    return [" ".join(row.inner_text().split()[1:3]) for row in rows.all()]


def test_a_click_sorts_the_ranking_and_another_turns_it_round(page: Page) -> None:
    def prices() -> list[float]:
        cells = page.locator("#ranking tbody td:nth-child(12)")
        return [float(str(cell.get_attribute("data-v"))) for cell in cells.all()]

    heading = page.get_by_role("button", name="$/Mtok")
    heading.click()
    up = prices()
    heading.click()
    assert (up, prices(), len(up)) == (sorted(up), up[::-1], 54)


def test_the_filter_hides_rows_and_dims_their_marks(page: Page) -> None:
    page.get_by_label("Filter").fill("H100 tp2")
    assert shown(page) == ["h100-sxm 2"] * 6
    expect(page.locator(".point:not(.dim)")).to_have_count(18)
    expect(page.locator("#count")).to_have_text("6 of 54")


def test_the_mouse_on_a_mark_tells_its_numbers_and_lights_its_row(page: Page) -> None:
    page.locator('#pareto-ttft .point[data-row="0"]').hover()
    expect(page.locator("#tip")).to_have_text(re.compile("^#1 "))
    expect(page.locator("#r0")).to_have_class(re.compile(r"\blit\b"))
    expect(page.locator(".point.lit")).to_have_count(3)
    page.mouse.move(0, 0)
    expect(page.locator("#tip")).to_be_hidden()


def drag_over(page: Page, chart: str, share: float) -> None:
    """Draws a box over the right ``share`` of a chart's width, from top to bottom."""
    page.locator(chart).scroll_into_view_if_needed()
    box = page.locator(f"{chart} .brush .overlay").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + (1 - share) * box["width"], box["y"] + 1)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, box["y"] + box["height"] - 1, steps=4)
    page.mouse.up()


def test_a_box_dragged_over_a_chart_selects_in_the_ranking_until_it_is_cleared(page: Page) -> None:
    drag_over(page, "#pareto-ttft", 0.3)
    expect(page.get_by_role("button", name="Clear selection")).to_be_visible()
    some = len(shown(page))
    assert 0 < some < 54
    assert page.locator("#count").inner_text() == f"{some} of 54"
    page.get_by_role("button", name="Clear selection").click()
    assert len(shown(page)) == 54


def test_a_chart_zooms_to_what_is_selected_and_back(page: Page) -> None:
    def ticks() -> list[str]:
        return page.locator("#pareto-ttft .ticks text.x").all_inner_texts()

    marks = page.locator("#pareto-ttft .point:visible")
    before = ticks()
    drag_over(page, "#pareto-ttft", 0.3)
    page.locator("#pareto-ttft .zoom").click()
    expect(page.locator("#pareto-ttft .whole")).to_be_enabled()
    assert 0 < marks.count() < 54
    assert ticks() != before
    page.locator("#pareto-ttft .whole").click()
    expect(marks).to_have_count(54)


def test_the_wheel_zooms_with_ctrl_only(page: Page) -> None:
    page.locator("#pareto-tbt .point.best").hover()
    page.mouse.wheel(0, -100)
    assert page.locator("#pareto-tbt .whole").is_disabled()
    page.locator("#pareto-tbt .point.best").hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    expect(page.locator("#pareto-tbt .whole")).to_be_enabled()


def test_a_table_downloads_as_raw_numbers_that_no_spreadsheet_runs(
    opened: Visit, result: Result
) -> None:
    for row in result["ranked"]:
        row["sku"] = '=1+1,"x"'
    result["ranked"][0]["mfu"] = None
    with opened(result) as page:
        name, lines = downloaded(page, 'button.csv[data-table="ranking"]')
    assert (name, len(lines)) == ("ranking.csv", 55)
    assert lines[0].startswith("#,GPU,TP,PP,seqs,tokens")
    assert lines[1].startswith('1,"\'=1+1,""x""",1,1,256,2048,2,2,5.98,')
    assert lines[1].split(",")[-3] == ""


def test_the_data_behind_every_figure_can_be_downloaded(page: Page) -> None:
    figures = page.locator("figure").all()
    assert len(figures) >= 4
    for figure in figures:
        assert figure.locator("button.csv").is_visible()
    name, lines = downloaded(page, "#pareto-ttft button.csv")
    assert (name, len(lines)) == ("pareto-ttft.csv", 55)
    assert lines[0].startswith("rank,sku,tp,pp,max_num_seqs,max_batched_tokens,requests per second")
    name, lines = downloaded(page, "#latency-figure button.csv")
    assert lines[1] == "ttft,capacity,p50,0.185,,"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barrier_is_found_in_either_theme_nor_once_everything_is_unfolded(
    opened: Visit, full: Result, scheme: str
) -> None:
    with opened(full, color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((each) => each.open = true)")
        assert barriers(page) == []


def test_the_theme_button_switches_the_colours(page: Page) -> None:
    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    before = paper()
    page.get_by_role("button", name="Dark").click()
    assert paper() != before
    page.get_by_role("button", name="Light").click()
    assert paper() == before


def test_nothing_but_scrolling_tables_is_wider_than_a_phone(opened: Visit, full: Result) -> None:
    wide = """() => [...document.querySelectorAll('main *')]
      .filter((each) => !each.closest('.scroll, svg') && each.getBoundingClientRect().right > innerWidth)
      .map((each) => each.outerHTML.slice(0, 80))"""
    phone = {"width": 360, "height": 740}
    with opened(full, viewport=phone, has_touch=True, is_mobile=True) as page:
        assert page.evaluate(wide) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.get_by_role("button", name="Zoom in").first.tap()
        expect(page.locator("#pareto-ttft .whole")).to_be_enabled()


def test_without_scripts_the_page_still_says_and_draws_everything(
    opened: Visit, pristine: Result
) -> None:
    with opened(pristine, java_script_enabled=False) as page:
        assert page.get_by_role("heading", level=1).is_visible()
        assert page.locator("#pareto-ttft .point:visible").count() == 54
        assert page.locator("button:visible").count() == 0


def test_the_page_prints_to_a_few_sheets(opened: Visit, full: Result, tmp_path: Path) -> None:
    with opened(full) as page:
        page.pdf(path=tmp_path / "page.pdf", format="A4")
    sheets = re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())
    assert 3 <= len(sheets) <= 8


def test_the_largest_page_that_is_made_still_sorts_and_zooms(opened: Visit, result: Result) -> None:
    result["ranked"] = [copy.deepcopy(row) for row in result["ranked"] for _ in range(20)]
    with opened(json.loads(json.dumps(result))) as page:
        page.get_by_role("button", name="$/Mtok").click()
        page.locator("#pareto-ttft .zoom").click()
        expect(page.locator("#pareto-ttft .whole")).to_be_enabled()
