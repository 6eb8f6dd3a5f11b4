"""The page as a widget: messages of anywidget, and the joined module in headless Chromium with a fake model."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from browsing import Visit, chromium, slow_fake
from pages import wait

import cell2sen
from cell2sen.app.frames import pack, unpack

pytest.importorskip("anywidget")

#: A page that gives the joined module a model of anywidget, whose messages go to Python as base64.
PAGE = """<!doctype html><html lang="en"><head><title>notebook</title><style>%s</style></head><body>
<script type="module">
const text = (bytes) => btoa(Array.from(new Uint8Array(bytes), (b) => String.fromCharCode(b))
  .join(""));
const codes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const bytes = (text) => new DataView(codes(text).buffer);
const model = {
  on: (name, listener) => { window.listener = listener; },
  send: (content, callbacks, buffers) => window.toPython(JSON.stringify(content), text(buffers[0])),
};
window.fromPython = (content, frame) => window.listener(JSON.parse(content), frame ? [bytes(frame)] : []);
const source = URL.createObjectURL(new Blob([%s], { type: "text/javascript" }));
const { default: widget } = await import(source);
widget.render({ model, el: document.body });
</script></body></html>"""


@pytest.fixture
def widget(adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = cell2sen.view(adata, model=slow_fake())
    sent: list[tuple[dict[str, Any], list[bytes] | None]] = []
    monkeypatch.setattr(made, "send", lambda content, buffers=None: sent.append((content, buffers)))
    made.sent = sent
    yield made
    made.close()


def test_messages_are_answered(widget: Any, adata: anndata.AnnData) -> None:
    def ask(number: int, verb: str, body: dict[str, Any], **arrays: Any) -> dict[str, Any]:
        frame = pack({"verb": verb, "body": body}, {name: np.asarray(a, dtype=np.uint32) for name, a in arrays.items()})
        widget._receive(widget, {"id": number}, [memoryview(frame)])
        answers = [buffers for content, buffers in widget.sent if content.get("id") == number]
        assert len(answers) == 1
        return unpack(answers[0][0])[0]

    assert ask(1, "about", {})["n_cells"] == 60
    assert "no map" in ask(2, "points", {"map": "no"})["error"]
    ask(3, "select", {}, rows=[4, 2])
    assert widget.selection.tolist() == [2, 4]
    job = ask(4, "start", {"work": "annotate"}, rows=[2, 4])["job"]
    wait(widget.page, job)
    states = [content["status"]["state"] for content, _ in widget.sent if "status" in content]
    assert "running" in states
    assert widget.adata.obs["cell2sen_cell_type"].notna().sum() == 2
    assert "cell2sen_cell_type" not in adata.obs
    assert widget._esm == cell2sen.app.assets.joined_module()
    widget._receive(widget, {"other": 1}, [])  # ignored


@pytest.mark.slow
def test_the_joined_module_in_a_browser(widget: Any) -> None:
    with chromium() as browser:
        tab = browser.new_page()
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))

        def receive(content: str, frame: str) -> None:
            widget._receive(widget, json.loads(content), [base64.b64decode(frame)])

        tab.expose_function("toPython", receive)

        def pass_on() -> None:
            while widget.sent:
                content, buffers = widget.sent.pop(0)
                text = base64.b64encode(buffers[0]).decode() if buffers else None
                tab.evaluate("([content, frame]) => window.fromPython(content, frame)", [json.dumps(content), text])

        def until(locator: Any) -> None:
            for _ in range(200):
                pass_on()
                if locator.count():
                    return
                tab.wait_for_timeout(50)
            raise AssertionError(f"{locator} did not appear: {errors}")

        tab.set_content(PAGE % (widget._css, json.dumps(widget._esm).replace("</", "<\\/")))
        until(tab.locator("[data-ready=yes]"))
        Visit(tab).legend("NK").click()
        until(tab.locator(".c2s-sentence"))
        assert len(widget.selection) == 20
        tab.get_by_role("button", name=re.compile("^Annotate")).click()
        until(tab.locator("[data-result=Labels]"))
        assert tab.get_by_role("button", name="Download cells").count() == 0
        assert errors == []


#: A notebook whose second cell tells what was selected on the page of the first one.
CELLS = (
    "import cell2sen as c2s\nfrom browsing import slow_fake\nfrom pages import page_cells\n"
    "page = c2s.view(page_cells(), model=slow_fake())\npage",
    "print('selected', len(page.selection), sorted(set(page.adata.obs['cell_type'].iloc[page.selection])))",
)


@pytest.mark.slow
def test_a_notebook_in_jupyterlab(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab", reason="JupyterLab, which is no dependency, opens the notebook")
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "cells.ipynb")
    helpers = Path(__file__).parents[1] / "helpers"
    path = os.pathsep.join([str(Path(cell2sen.__file__).parents[1]), str(helpers), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--port-retries=0",
    ]
    server = subprocess.Popen(
        [*command, "--IdentityProvider.token=secret", "--LabApp.news_url=None", f"--ServerApp.root_dir={tmp_path}"],
        env={**os.environ, "PYTHONPATH": path, "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with chromium() as browser:
            until = time.monotonic() + 60
            while not (found := list((tmp_path / "runtime").glob("jpserver-*.json"))):
                assert time.monotonic() < until, "the server did not start"
                time.sleep(0.2)
            tab = browser.new_page(viewport={"width": 1400, "height": 1300})
            tab.set_default_timeout(120_000)
            tab.goto(f"{json.loads(found[0].read_text())['url']}lab/tree/cells.ipynb?token=secret")
            first, second = (tab.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(number) for number in (0, 1))
            first.click()
            first.press("Shift+Enter")
            tab.locator("[data-ready=yes]").wait_for()
            Visit(tab).legend("NK").click()
            tab.locator(".c2s-sentence").first.wait_for()
            if "PICTURES" in os.environ:
                tab.screenshot(path=Path(os.environ["PICTURES"]) / "jupyterlab.png")
            second.click()
            second.press("Shift+Enter")
            tab.get_by_text("selected 20 ['NK']").wait_for()
    finally:
        server.terminate()
        server.wait(20)
