"""A page in a real browser: a server in a thread, headless Chromium, what it requested and wrote to the console."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cells import METADATA

from cell2sen.app.page import Page
from cell2sen.app.server import listen, serve
from cell2sen.backends.fake import FakeBackend
from cell2sen.model import Model

#: Messages of the software renderer, which are no errors.
HARMLESS = ("GPU stall", "GL Driver Message", "CONTEXT_LOST", "context lost")


class SlowBackend(FakeBackend):
    """A fake that reports its progress and takes `pause` seconds for each prompt of an annotation."""

    pause = 0.0

    def score(self, prompts: Any, answers: Any, *, margin: float | None = None) -> Any:
        for number in range(len(prompts)):
            time.sleep(self.pause)
            if callable(self.progress):
                self.progress("labels", number, len(prompts))
        return super().score(prompts, answers)


def slow_fake() -> SlowBackend:
    metadata = {**METADATA, "no_perturbation": "no perturbation"}
    return SlowBackend(Model(name="fake", path="fake", dtype="float32", metadata=metadata))


@contextlib.contextmanager
def served(page: Page) -> Iterator[str]:
    """The address of a page that is served."""
    opened = listen("127.0.0.1", 0)
    server = serve(page, opened, token="secret")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{opened.getsockname()[1]}/?token=secret"
    finally:
        server.should_exit = True
        thread.join(10)
        opened.close()
        page.close()


@contextlib.contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """Headless Chromium; the test is skipped without one."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium to open the page in")
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=[*quiet, "--disable-dev-shm-usage", *flags])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """One tab, and what went wrong in it."""

    tab: Any
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Wait for the page, and colour it by the given labels, whatever earlier tests annotated."""
        self.tab.locator("[data-ready=yes]").wait_for()
        self.tab.get_by_label("Colour", exact=True).select_option("cell_type")
        self.legend("NK").wait_for()
        self.tab.wait_for_timeout(100)

    def lasso(self, x: float, y: float, radius: float, keys: str = "") -> None:
        """Draw round a place of the map; all in shares of its width and height."""
        box = self.tab.locator(".c2s-map").bounding_box()
        corners = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 24)]
        places = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in corners]
        mouse = self.tab.mouse
        if keys:
            self.tab.keyboard.down(keys)
        mouse.move(*places[0])
        mouse.down()
        for place in places[1:]:
            mouse.move(*place)
        mouse.up()
        if keys:
            self.tab.keyboard.up(keys)

    def legend(self, name: str) -> Any:
        """Button of a label in the legend."""
        label = self.tab.locator(".c2s-name").get_by_text(name, exact=True)
        return self.tab.locator(".c2s-legend li button").filter(has=label)

    def n_selected(self) -> int:
        """Number of selected cells that the page tells."""
        text = self.tab.locator("section[aria-label=Selection] [role=status]").inner_text()
        return int(text.split()[0].replace(",", "")) if text[0].isdigit() else 0

    def shades(self) -> tuple[int, int]:
        """Coloured pixels of the map, and their different colours."""
        script = """() => {
          const canvas = document.querySelector('.c2s-canvas');
          const copy = document.createElement('canvas');
          [copy.width, copy.height] = [canvas.width, canvas.height];
          const context = copy.getContext('2d');
          context.drawImage(canvas, 0, 0);
          const data = new Uint32Array(context.getImageData(0, 0, copy.width, copy.height).data.buffer);
          const seen = new Set(); let n = 0;
          for (const value of data) if (value >>> 24 > 20) { n += 1; seen.add(value); }
          return [n, seen.size];
        }"""
        n, shades = self.tab.evaluate(script)
        return n, shades


@contextlib.contextmanager
def visit(browser: Any, url: str, **settings: Any) -> Iterator[Visit]:
    """A tab with the page, once it is ready."""
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 850}, **settings})
    context.set_default_timeout(20_000)
    found = Visit(context.new_page())
    home = url.partition("/?")[0]

    def write(message: Any) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in HARMLESS):
            found.errors.append(message.text)

    found.tab.on("console", write)
    found.tab.on("pageerror", lambda error: found.errors.append(str(error)))
    found.tab.on("request", lambda r: r.url.startswith((home, "data:", "blob:")) or found.foreign.append(r.url))
    try:
        found.tab.goto(url)
        found.begin()
        yield found
    finally:
        context.close()


def violations(tab: Any) -> list[str]:
    """Violations of accessibility that axe finds."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe checks accessibility")
    found = axe.Axe().run(tab).response["violations"]
    return [f"{rule['id']}: {[node['html'][:200] for node in rule['nodes'][:3]]}" for rule in found]
