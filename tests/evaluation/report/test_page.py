"""The report: complete, self-contained, without active content, and rendered by a browser."""

from __future__ import annotations

import base64
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hostile_names import EVIL, cells

from cell2sen.evaluation.evaluate import evaluate
from cell2sen.evaluation.report.html_tables import number
from cell2sen.evaluation.result import Evaluation

pytestmark = pytest.mark.slow

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


class Outline(HTMLParser):
    """Tags in order, targets of links and sources, ids, and text without tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        for name, value in attributes:
            if name in ("href", "src"):
                self.links.append(str(value))
            if name == "id":
                self.ids.append(str(value))
            if name == "alt":
                self.alts.append(str(value))
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def test_one_file_that_loads_nothing_and_runs_nothing(page: Path) -> None:
    outline = Outline(page.read_text(encoding="utf-8"))
    assert "script" not in outline.tags
    assert all(link.startswith(("#", "data:image/")) for link in outline.links)
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)
    assert outline.tags.count("img") == len(outline.alts) == 3
    assert page.stat().st_size < 3_000_000


def test_names_from_the_data_are_text_not_markup(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert EVIL not in html
    assert "&lt;script&gt;alert(" in html
    assert EVIL in Outline(html).text


def test_report_shows_each_score_with_baseline_ceiling_and_reason(page: Path, perturbed: Evaluation) -> None:
    text = re.sub(r"\s+", " ", Outline(page.read_text(encoding="utf-8")).text)
    for metric, row in perturbed.table.iterrows():
        assert str(metric) in text
        if math.isfinite(row["prediction"]):
            assert f"{metric} {number(row['prediction'])} " in text
        else:
            assert f"missing: {row['reason']}" in text
    for text_of_page in (
        "Leak check",
        "Methods, ready to paste",
        "By perturbation, averaged over cell_type",
        "T & <NK>",
        "not checked",
        "Generated sentences",
        "NOGENE",
        "no change",
        "nearest training cell",
        "From 0 to ∞; perfect: 0.",
        "numpy",
    ):
        assert text_of_page in text, text_of_page


def test_invalid_and_repeated_words_are_marked(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert '<span class="unknown">NOGENE</span>' in html
    assert html.count('<span class="repeated">GENE0</span>') == 4
    assert re.search(r'<span class="(gene|top)">GENE0</span>', html)


@pytest.mark.slow
def test_a_leak_is_shown_first(tmp_path: Path) -> None:
    real = cells(0, ("control", "alpha"))
    copied = real[real.obs["drug"] == "control"].copy()
    copied.obs["drug"] = "alpha"
    options: dict[str, Any] = {
        "perturbation": "drug",
        "context": "cell_type",
        "resamples": 0,
        "leaks": "report",
        "components": 5,
    }
    evaluation = evaluate(copied, real, **options)
    html = evaluation.report(tmp_path / "leak.html", layout="pca").read_text(encoding="utf-8")
    body = html[html.index("<body>") :]
    assert body.index('role="alert"') < body.index('id="scores"')
    assert "Leak: do not use these scores." in body
    assert "LEAK CHECKS FAILED" in body


def test_labels_have_calibration_and_confusion(labelled: Evaluation, tmp_path: Path) -> None:
    outline = Outline(labelled.report(tmp_path / "labels.html").read_text(encoding="utf-8"))
    assert "calibration" in outline.ids
    assert "Calibration curve and confusion matrix" in outline.alts
    assert "By true label" in outline.text


def test_labels_without_probabilities_have_no_calibration(tmp_path: Path) -> None:
    adata = cells(0, ("control",))
    adata.obs["guess"] = "B"
    evaluation = evaluate(adata, adata, task="annotate", predicted_label="guess", resamples=0)
    outline = Outline(evaluation.report(tmp_path / "labels.html").read_text(encoding="utf-8"))
    assert "Confusion matrix" in outline.alts
    assert "came without probabilities" in outline.text
    assert "Left: of the cells" not in outline.text


def test_figures_are_readable_images(page: Path) -> None:
    from xml.etree import ElementTree

    from PIL import Image

    kinds = []
    for link in Outline(page.read_text(encoding="utf-8")).links:
        if not link.startswith("data:"):
            continue
        kind, data = link.removeprefix("data:").split(";base64,")
        kinds.append(kind)
        path = page.with_name("figure")
        path.write_bytes(base64.b64decode(data))
        if kind == "image/png":
            with Image.open(path) as image:
                assert len(set(image.convert("RGB").resize((64, 64)).get_flattened_data())) > 3
        else:
            assert len(list(ElementTree.parse(path).getroot().iter())) > 50
    assert sorted(kinds) == ["image/png", "image/svg+xml", "image/svg+xml"]


@pytest.mark.slow
def test_umap_is_drawn_where_it_is_installed(
    perturbed: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in: the real one compiles for a minute."""
    options_seen: list[dict[str, Any]] = []

    class UMAP:
        def __init__(self, **options: Any) -> None:
            options_seen.append(options)

        def fit_transform(self, coordinates: np.ndarray) -> np.ndarray:
            return coordinates[:, 1:3]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    html = perturbed.report(tmp_path / "umap.html").read_text(encoding="utf-8")
    assert "UMAP (seed 0) of the principal components" in html
    assert options_seen == [{"n_neighbors": 15, "random_state": 0, "n_jobs": 1}]
    monkeypatch.setitem(sys.modules, "umap", None)
    assert "The first two principal components" in perturbed.report(tmp_path / "pca.html").read_text(encoding="utf-8")
    with pytest.raises(ImportError, match=r"pip install 'cell2sen\[scanpy\]'"):
        perturbed.report(tmp_path / "none.html", layout="umap")


def test_in_a_browser(page: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to open the report in")
    picture = tmp_path / "report.png"
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]
    where = ["--window-size=1100,2400", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = [browser, *quiet, *where, f"--screenshot={picture}", page.as_uri()]
    subprocess.run(shot, check=True, capture_output=True, timeout=300)
    from PIL import Image

    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (2400, 1100, 3)

    def seen(colour: tuple[int, int, int], tolerance: int = 12) -> np.ndarray:
        return (np.abs(pixels - colour).max(axis=2) <= tolerance).nonzero()[0]

    # The prediction's blue, the best baseline's orange and the ceiling's green are drawn, in the upper half of the
    # page.
    for colour in ((0x0B, 0x5F, 0xA5), (0xD9, 0x77, 0x06), (0x1A, 0x7F, 0x37)):
        rows = seen(colour)
        assert len(rows) > 60, colour
        assert rows.min() < 1200
    ink = (pixels.sum(axis=2) < 380).mean(axis=1)
    assert (ink > 0).mean() > 0.3
    # Nothing is cut off at the right edge.
    assert (pixels[:, -8:].min(axis=2) > 230).all()
