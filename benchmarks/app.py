"""The page with many cells: time until it is ready, of a lasso, of frames, memory; and pictures of it.

``python benchmarks/app.py [--cells 100000 --genes 2000]`` draws cells; ``--file cells.h5ad --picture app.png`` takes
a picture of the page of that file instead. Needs Chromium, playwright, starlette and uvicorn.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from playwright.sync_api import sync_playwright

from cell2sen.app.page import Page
from cell2sen.app.server import listen, serve

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("--cells", type=int, default=100_000)
arguments.add_argument("--genes", type=int, default=2_000)
arguments.add_argument("--file", type=Path)
arguments.add_argument("--select", help="label of the legend to select, for a picture")
arguments.add_argument("--perturbation", help="predict the response of the selected cells, for a picture")
arguments.add_argument("--scheme", choices=["light", "dark"], default="light")
arguments.add_argument("--picture", type=Path)
options = arguments.parse_args()


def synthetic(n_cells: int, n_genes: int) -> anndata.AnnData:
    """Cells of 12 types with Poisson counts, about 5 % of them above 0, and a map of 12 clouds."""
    random = np.random.default_rng(0)
    kind = random.integers(12, size=n_cells)
    rates = random.gamma(0.3, 0.15, size=(12, n_genes)).astype(np.float32)
    blocks = [
        sp.csr_matrix(random.poisson(rates[part]).astype(np.float32))
        for part in np.array_split(kind, max(1, n_cells // 5000))
    ]
    angle = kind / 12 * 2 * math.pi
    centres = np.column_stack([np.cos(angle), np.sin(angle)]) * (6 + kind % 3 * 3)[:, None]
    return anndata.AnnData(
        X=sp.vstack(blocks).tocsr(),
        obs=pd.DataFrame(
            {"cell_type": pd.Categorical([f"type {number}" for number in kind])},
            index=[f"c{number}" for number in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"GENE{number}" for number in range(n_genes)]),
        obsm={"X_umap": centres + random.normal(size=(n_cells, 2))},
        uns={"organism": "Homo sapiens"},
    )  # fmt: skip


#: Median and 95th percentile of times in ms.
SUMMARY = (
    "(times) => [0.5, 0.95].map((p) => Math.round(times.sort((a, b) => a - b)[Math.floor(p * (times.length - 1))]))"
)

#: Times of frames while the map is moved by keys, each with a read-back, which waits for the renderer.
PAN = """async () => {
  const gl = document.querySelector('.c2s-canvas').getContext('webgl2');
  const holder = document.querySelector('.c2s-map'); holder.focus();
  const times = [];
  for (let i = 0; i < 25; i += 1) {
    const started = performance.now();
    holder.dispatchEvent(new KeyboardEvent('keydown', { key: i % 2 ? 'ArrowLeft' : 'ArrowRight' }));
    await new Promise(requestAnimationFrame);
    await new Promise((done) => setTimeout(done, 0));
    gl?.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    times.push(performance.now() - started);
  }
  return (SUMMARY)(times);
}""".replace("SUMMARY", SUMMARY)

#: Times between frames until `stop()`, with read-backs, while a lasso is drawn.
RECORD = """() => {
  const gl = document.querySelector('.c2s-canvas').getContext('webgl2');
  const times = []; let last = performance.now(); let on = true;
  const frame = () => {
    gl?.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    times.push(performance.now() - last); last = performance.now();
    if (on) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  window.stop = () => { on = false; return (SUMMARY)(times); };
}""".replace("SUMMARY", SUMMARY)

started = time.perf_counter()
adata = anndata.read_h5ad(options.file) if options.file else synthetic(options.cells, options.genes)
opened = listen("127.0.0.1", 0)
page = Page(adata, name=options.file.name if options.file else "synthetic.h5ad", source=options.file)
server = serve(page, opened, token="token")
threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True).start()
row: dict[str, Any] = {"cells": adata.n_obs, "genes": adata.n_vars, "start_s": round(time.perf_counter() - started, 2)}
url = f"http://127.0.0.1:{opened.getsockname()[1]}/?token=token"
path = shutil.which("chromium") or shutil.which("google-chrome")
with sync_playwright() as driver:
    browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--enable-precise-memory-info"])
    tab = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme=options.scheme)
    tab.set_default_timeout(300_000)
    started = time.perf_counter()
    tab.goto(url)
    tab.locator("[data-ready=yes]").wait_for()
    row["ready_s"] = round(time.perf_counter() - started, 2)
    if options.file:
        if options.select:
            tab.get_by_role("button", name=options.select).first.click()
            tab.locator(".c2s-sentence").first.wait_for()
        if options.perturbation:
            tab.get_by_role("tab", name="Predict").click()
            tab.get_by_label("Perturbation", exact=True).fill(options.perturbation)
            tab.get_by_role("button", name="Predict the response").click()
            tab.locator("[data-result=Response]").wait_for()
        tab.wait_for_timeout(1000)
    else:
        started = time.perf_counter()
        page.cells.sentences, page.cells.columns  # noqa: B018
        row["sentences_and_columns_s"] = round(time.perf_counter() - started, 2)
        tab.evaluate(
            "() => { window.long = []; new PerformanceObserver((list) => { for (const task of list.getEntries()) "
            "window.long.push(task.duration); }).observe({ entryTypes: ['longtask'] }); }"
        )
        box = tab.locator(".c2s-map").bounding_box() or {}
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        radius = box["height"] / 3.2
        tab.mouse.move(x + radius, y)
        tab.mouse.down()
        tab.evaluate(RECORD)
        for step in range(1, 60):
            angle = 2 * math.pi * step / 59
            tab.mouse.move(x + radius * math.cos(angle), y + radius * math.sin(angle))
        row["lasso_frames_ms"] = tab.evaluate("() => window.stop()")
        started = time.perf_counter()
        tab.mouse.up()
        tab.locator("section[aria-label=Selection] strong").first.wait_for()
        row["lasso_s"] = round(time.perf_counter() - started, 2)
        row["selected"] = tab.locator("section[aria-label=Selection] strong").first.inner_text()
        tab.locator(".c2s-sentence").first.wait_for()
        row["sentences_shown_s"] = round(time.perf_counter() - started, 2)
        started = time.perf_counter()
        tab.get_by_label("Gene", exact=True).fill("GENE1")
        tab.get_by_label("Gene", exact=True).press("Enter")
        tab.get_by_text("GENE1: median").wait_for()
        row["gene_s"] = round(time.perf_counter() - started, 2)
        started = time.perf_counter()
        tab.get_by_label("Colour", exact=True).select_option("cell_type")
        tab.locator(".c2s-legend li button").first.wait_for()
        row["label_s"] = round(time.perf_counter() - started, 2)
        row["pan_ms"] = tab.evaluate(PAN)
        row["longest_task_ms"] = round(max(tab.evaluate("() => window.long"), default=0))
        row["heap_mb"] = round(tab.evaluate("() => performance.memory.usedJSHeapSize") / 1e6)
    if options.picture:
        tab.screenshot(path=options.picture)
    browser.close()
row["server_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
server.should_exit = True
page.close()
print(json.dumps(row))
