"""Cells of pages: a map, labels, a contrast, a score, on the fake backend."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anndata
import numpy as np
import pytest
from cells import fake
from pages import page_cells, wait

from cell2sen.app.frames import Answer
from cell2sen.app.page import Page
from cell2sen.data.progress import Report


@pytest.fixture
def adata() -> anndata.AnnData:
    return page_cells()


@pytest.fixture
def page(adata: anndata.AnnData) -> Any:
    opened = Page(adata, name="cells.h5ad", model=fake(no_perturbation="no perturbation"))
    yield opened
    opened.close()


@pytest.fixture
def finish() -> Callable[..., Answer]:
    """Start a job of a page, wait for its end, and return its result."""

    def run(page: Page, work: str, rows: Any = range(20), **settings: Any) -> Answer:
        body = {"work": work, "settings": settings, "selection": {"id": 1, "n": len(rows), "text": "test"}}
        number = page.ask("start", body, {"rows": np.asarray(rows, dtype=np.uint32)})[0]["job"]
        wait(page, number)
        status = page.ask("status", {"job": number})[0]
        assert status["state"] == "done", status["message"]
        return page.ask("result", {"job": number})

    return run


@pytest.fixture
def slow_report() -> Callable[[Report], Answer]:
    """Work that reports for ten seconds, a hundred times a second."""

    def work(report: Report) -> Answer:
        for step in range(1000):
            report("slow", step, 1000)
            time.sleep(0.01)
        return {}, {}

    return work
