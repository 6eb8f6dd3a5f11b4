"""The page in headless Chromium: mouse, keyboard, accessibility, jobs that are cancelled or fail, lost WebGL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from browsing import Visit, chromium, served, slow_fake, violations, visit
from pages import page_cells

from cell2sen.app.page import Page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backend() -> Any:
    return slow_fake()


@pytest.fixture(scope="module")
def url(backend: Any) -> Iterator[str]:
    with served(Page(page_cells(100), name="cells.h5ad", model=backend)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def run(found: Visit, tab: str, name: str) -> None:
    found.tab.get_by_role("tab", name=tab).click()
    found.tab.get_by_role("button", name=re.compile(name)).click()


def result(found: Visit, name: str) -> Any:
    shown = found.tab.locator(f"[data-result={name}]")
    shown.wait_for()
    return shown


def test_the_whole_story_by_mouse(browser: Any, url: str) -> None:
    with visit(browser, url) as found:
        tab = found.tab
        assert "token" not in tab.url
        drawn, shades = found.shades()
        assert drawn > 500
        assert shades >= 3
        found.lasso(0.5, 0.5, 0.2)
        first = found.n_selected()
        assert 0 < first < 100
        found.lasso(0.5, 0.5, 0.35, "Shift")
        more = found.n_selected()
        assert more > first
        found.lasso(0.5, 0.5, 0.2, "Alt")
        assert found.n_selected() == more - first
        tab.get_by_role("button", name="Undo").click()
        assert found.n_selected() == more
        tab.locator(".c2s-sentence").first.wait_for()
        assert tab.locator(".c2s-sentence").count() == 20

        found.legend("NK").click()
        assert found.n_selected() == 33
        run(found, "Annotate", "^Annotate 33 cells")
        labels = result(found, "Labels")
        assert "Of 33 cells · NK" in labels.inner_text()
        assert tab.get_by_label("Colour", exact=True).input_value() == "cell2sen_cell_type"
        tab.get_by_label("Colour", exact=True).select_option("cell_type")

        run(found, "Predict", "^Predict the response of 32 of 33 cells")
        response = result(found, "Response").inner_text()
        assert "Mean change of 16 cells" in response or "Mean change of 17 cells" in response  # the controls
        assert "Measured within the same label only: NK: 17 control, 16 treated" in response
        assert "Fewer than 20 cells" in response
        assert tab.locator("[data-result=Response] svg").count() == 1

        tab.get_by_role("button", name="Keep as A").click()
        found.legend("T").click()
        assert "Not of the cells that are selected now" in labels.inner_text()
        labels.get_by_role("button", name="Select its cells again").click()
        assert found.n_selected() == 33
        tab.get_by_role("button", name="Undo").click()
        tab.get_by_role("button", name="Keep as B").click()
        tab.get_by_role("button", name="Compare A with B").click()
        tab.get_by_text("A: 33 cells; B: 33 cells").wait_for()

        tab.get_by_label("Gene", exact=True).fill("cd3d")
        tab.get_by_label("Gene", exact=True).press("Enter")
        tab.get_by_label("from", exact=True).fill("2")
        tab.get_by_role("button", name="Select these cells").click()
        assert "2 ≤ CD3D" in tab.locator("section[aria-label=Selection]").inner_text()
        with tab.expect_download() as download:
            tab.get_by_role("button", name="Download cells").click()
        assert download.value.suggested_filename == "cells.cell2sen.h5ad"
        with tab.expect_download() as picture:
            tab.get_by_role("button", name="PNG").click()
        assert picture.value.suggested_filename == "map.png"
        assert found.errors == []
        assert found.foreign == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(browser: Any, url: str, scheme: str) -> None:
    with visit(browser, url, color_scheme=scheme, bypass_csp=True) as found:
        assert violations(found.tab) == []
        found.legend("NK").click()
        found.tab.locator(".c2s-sentence").first.wait_for()
        run(found, "Annotate", "^Annotate")
        result(found, "Labels")
        run(found, "Predict", "^Predict the response")
        result(found, "Response")
        found.tab.get_by_label("Perturbation", exact=True).fill("made up")
        run(found, "Predict", "^Predict the response")
        found.tab.locator(".c2s-job, [role=alert]:visible").first.wait_for()
        assert violations(found.tab) == []
        found.tab.set_viewport_size({"width": 420, "height": 800})
        assert found.tab.evaluate("document.documentElement.scrollWidth") <= 420
        found.tab.get_by_role("button", name="Keys").click()
        assert violations(found.tab) == []


def test_by_keyboard_alone(browser: Any, url: str) -> None:
    with visit(browser, url) as found:
        tab = found.tab

        def focus(pattern: str) -> None:
            for _ in range(60):
                tab.keyboard.press("Tab")
                name = tab.evaluate("(document.activeElement.ariaLabel ?? '') + document.activeElement.textContent")
                if re.match(pattern, name):
                    return
            raise AssertionError(f"Tab does not reach {pattern}")

        focus("Map of cells")
        tab.keyboard.press("r")
        assert tab.get_by_role("button", name="Rectangle").get_attribute("aria-pressed") == "true"
        before = found.shades()
        tab.keyboard.press("+")
        tab.keyboard.press("ArrowLeft")
        tab.wait_for_timeout(300)
        assert found.shades() != before
        tab.keyboard.press("0")
        focus("NK")
        tab.keyboard.press("Enter")
        assert found.n_selected() == 33
        focus("Annotate 33")
        tab.keyboard.press("Enter")
        result(found, "Labels")
        tab.keyboard.press("Control+z")
        assert found.n_selected() == 0
        tab.locator(".c2s-map").focus()
        tab.keyboard.press("?")
        assert tab.get_by_role("dialog").is_visible()
        tab.keyboard.press("Escape")
        assert found.errors == []


def test_jobs_that_are_cancelled_or_fail(browser: Any, url: str, backend: Any) -> None:
    with visit(browser, url) as found:
        tab = found.tab
        found.legend("NK").click()
        backend.pause = 0.5
        try:
            run(found, "Annotate", "^Annotate")
            tab.get_by_role("progressbar").wait_for()
            tab.get_by_text(re.compile("labels: [1-9] of 33, about .* left")).wait_for()
            tab.get_by_role("button", name="Cancel").click()
            tab.get_by_text("cancelled").wait_for()
        finally:
            backend.pause = 0.0
        assert tab.locator("[data-result=Labels]").count() == 0
        tab.get_by_label("Labels to choose from").fill("only one")
        run(found, "Annotate", "^Annotate")
        assert "at least two" in tab.locator(".c2s-error[role=alert]:visible").inner_text()
        tab.get_by_role("tab", name="Predict").click()
        tab.get_by_label("Perturbation", exact=True).fill("made up")
        run(found, "Predict", "^Predict the response")
        tab.get_by_text("ticking “names that the model does not know, too”").wait_for()
        assert found.errors == []


def test_without_webgl_and_after_a_lost_context(browser: Any, url: str) -> None:
    with visit(browser, url) as found:
        drawn, shades = found.shades()
        lose = "(() => { const g = document.querySelector('.c2s-canvas').getContext('webgl2'); return g && %s })()"
        if found.tab.evaluate(lose % "true"):
            found.tab.evaluate(lose % "(window.lost = g.getExtension('WEBGL_lose_context')).loseContext()")
            found.tab.wait_for_timeout(200)
            found.tab.evaluate("window.lost.restoreContext()")
            found.tab.wait_for_timeout(500)
            assert found.shades() == (drawn, shades)
            found.tab.evaluate("window.lost.loseContext()")
            found.tab.wait_for_timeout(2500)  # no context comes back: a plain canvas takes over
            assert found.tab.evaluate(lose % "true") is None
            assert found.shades()[0] > 0.5 * drawn
    plain = browser.new_context()
    plain.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext ="
        "function (kind, ...rest) { return kind === 'webgl2' ? null : get.call(this, kind, ...rest); };"
    )
    tab = plain.new_page()
    tab.goto(url)
    found = Visit(tab)
    found.begin()
    tab.wait_for_timeout(300)
    drawn, shades = found.shades()
    assert drawn > 500
    assert shades == 3
    found.lasso(0.5, 0.5, 0.2)
    assert found.n_selected() > 0
    plain.close()


def test_a_server_that_is_gone_and_comes_back(browser: Any, url: str) -> None:
    with visit(browser, url) as found:
        found.tab.route("**/api/*", lambda route: route.abort())
        found.tab.get_by_label("Colour", exact=True).select_option("donor")
        banner = found.tab.locator(".c2s-banner")
        banner.wait_for()
        assert "does not answer" in banner.inner_text()
        found.tab.unroute("**/api/*")
        banner.wait_for(state="hidden")
        found.tab.get_by_label("Colour", exact=True).select_option("condition")
        found.legend("IFN-beta").wait_for()


def test_a_file_without_a_map(browser: Any) -> None:
    adata = page_cells(40)
    del adata.obsm["X_umap"]
    page = Page(adata, model=slow_fake())
    page.work._forecast = (0.5,)
    with served(page) as address, visit(browser, address) as found:
        found.tab.get_by_text("This file has no map").wait_for()
        found.tab.locator(".c2s-empty").get_by_text("about 20 s on the CPU").wait_for()
        found.legend("NK").click()
        found.tab.locator(".c2s-form:visible").get_by_text("about 7 s on the CPU").wait_for()
        found.tab.get_by_role("button", name=re.compile("Principal components")).click()
        found.tab.get_by_text("This file has no map").wait_for(state="hidden")
        found.tab.wait_for_timeout(200)
        assert found.shades()[0] > 200
        assert found.errors == []
