from __future__ import annotations

import pytest
from pages import page_cells

import cell2sen
from cell2sen.app.page import Page
from cell2sen.engine import cost


def test_forecast_is_that_of_the_check(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "seconds", lambda config, n_tokens, **_: n_tokens)
    adata = page_cells(40)
    numbers = cell2sen.check(adata, model).numbers
    expected = numbers["expected_seconds_on_cpu"] - numbers["seconds_to_write_sentences"]
    assert expected > 40
    page = Page(adata, model=model)
    try:
        assert 40 * page.ask("forecast")[0]["seconds_per_cell"] == pytest.approx(expected, rel=0.01)
    finally:
        page.close()


def test_no_forecast_where_the_cpu_does_not_read(page: Page, model: str) -> None:
    assert page.ask("forecast")[0]["seconds_per_cell"] is None  # a fake, without a checkpoint
    page.work.options["device"] = "cuda"
    assert page.work.forecast() is None
