"""HTML report of an evaluation: one self-contained page."""

from __future__ import annotations

import base64
import datetime
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cell2sen.data.output import complete_file
from cell2sen.evaluation.report import figures, html_tables
from cell2sen.evaluation.report.methods import UNITS, paragraph, readable, scored_methods
from cell2sen.evaluation.scoring.baselines.cells import SentenceCeiling

if TYPE_CHECKING:
    from cell2sen.evaluation.result import Evaluation

TEMPLATE = Path(__file__).with_name("template.html.j2")

Layout = Literal["auto", "umap", "pca"]

_TITLES = {
    "perturb": "Predicted perturbation response",
    "generate": "Generated cells",
    "annotate": "Predicted cell labels",
    "text": "Texts on cells",
    "integrate": "Profiles among single cells",
    "name_gene_set": "Predicted names of gene sets",
    "list_gene_set": "Predicted genes of gene sets",
    "number": "Predicted numbers of cells",
}

#: Task → what its true values are, where these are no groups.
_UNITS = {"annotate": "true labels", "text": "references"}


def write(evaluation: Evaluation, path: str | Path, *, layout: Layout = "auto") -> Path:
    """Write the report, one HTML file.

    Parameters
    ----------
    evaluation
        From :func:`cell2sen.evaluation.evaluate.evaluate`.
    path
        The HTML file.
    layout
        Layout of the map of cells: ``"umap"`` (needs umap-learn), ``"pca"``, or ``"auto"``: UMAP if it is installed.

    Returns
    -------
    `path`

    Raises
    ------
    ImportError
        matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("reports need matplotlib and jinja2: pip install 'cell2sen[eval]'") from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    drawn, map_text = _figures(evaluation, layout)
    content = _header(evaluation) | _tables(evaluation) | {"figures": drawn, "map_text": map_text, "image": _image}
    with complete_file(path) as temporary:
        temporary.write_text(template.render(**content, sections=_sections(content)), encoding="utf-8")
    return Path(path)


def _header(evaluation: Evaluation) -> dict[str, Any]:
    settings = evaluation.settings
    model = settings["model"].get("name") if isinstance(settings["model"], Mapping) else None
    maker = f"model {model}" if model else "prediction of another tool (no model recorded)"
    files = ", ".join(f"{side}: {file}" for side, file in settings["files"].items())
    return {
        "title": _TITLES[evaluation.task],
        "subtitle": f"{maker} · {files}",
        "task": evaluation.task,
        "checks": evaluation.checks,
        "cards": _cards(evaluation),
        "verdict": _verdict(evaluation),
        "notes": evaluation.notes,
        "created": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": settings["versions"].get("cell2sen", ""),
    }


def _tables(evaluation: Evaluation) -> dict[str, Any]:
    settings, details, methods = evaluation.settings, evaluation.details, scored_methods(evaluation)
    every, reasons = html_tables.all_methods(evaluation)
    return {
        "rows": html_tables.score_rows(evaluation),
        "unit": UNITS.get(settings["unit_of_group_intervals"], "groups"),
        "with_units": bool(evaluation.table["low_groups"].notna().any()),
        "with_sentences": SentenceCeiling.name in settings["methods"],
        "methods": [(readable(method.name), method.summary) for method in methods],
        "ceiling": [method.summary for method in methods if method.role == "ceiling"][-1],
        "every": every,
        "reasons": reasons,
        "by_group": html_tables.by_group(evaluation),
        **html_tables.challenge_rows(evaluation),
        "with_calibration": bool(details.get("calibration")),
        "sentences": details.get("sentences") or [],
        "texts": details.get("texts") or [],
        "parsed": settings["model"] != "not recorded",
        "paragraph": paragraph(evaluation),
        "definitions": html_tables.definitions(evaluation),
        "settings": html_tables.setting_rows(evaluation),
    }


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Anchor and title of each section that the page has."""
    drawn = content["figures"]
    sections = [
        ("scores", "Scores", True),
        ("challenge", "cell-eval2", content["challenge"]),
        ("groups", "Groups", content["by_group"]),
        ("changes", "Top genes", "changes" in drawn),
        ("calibration", "Calibration" if content["with_calibration"] else "Confusion", "calibration" in drawn),
        ("map", "Map", "map" in drawn),
        ("sentences", "Sentences", content["sentences"]),
        ("texts", "Texts", content["texts"]),
        ("leaks", "Leak check", True),
        ("methods", "Methods", True),
        ("definitions", "Definitions", True),
        ("settings", "Settings", True),
    ]
    return [(anchor, title) for anchor, title, shown in sections if shown]


def _cards(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Numbers at the top of the page, with their text."""
    settings, labels = evaluation.settings, evaluation.task in ("annotate", "text")
    with_controls = evaluation.task == "perturb"
    noun = "gene sets" if evaluation.task in ("name_gene_set", "list_gene_set") else "cells"
    cards = [
        (f"{settings['n_predicted']:,}", f"predicted {noun}"),
        (f"{settings['n_real']:,}", f"real {noun}, with controls" if with_controls else f"real {noun}"),
    ]
    if evaluation.task != "number":
        named = "true_labels" if labels else "groups"
        cards.append((f"{len(settings[named])}", _UNITS.get(evaluation.task, "groups")))
    return cards + ([(f"{settings['genes']['compared']:,}", "genes compared")] if settings["genes"] else [])


def _verdict(evaluation: Evaluation) -> str:
    if evaluation.leaked:
        return (
            "A leak check failed: the scores below do not measure how good the prediction is. They are shown to help "
            "find the fault."
        )
    counts = {str(name): int(n) for name, n in evaluation.table["verdict"].value_counts().items()}
    parts = [f"{counts.get('better', 0)} of {len(evaluation.table)} scores are better than the best baseline"]
    parts += [
        f"{counts[name]} are {text}"
        for name, text in (("worse", "worse"), ("no difference seen", "not distinguishable from it"))
        if counts.get(name)
    ]
    if unjudged := counts.get("missing", 0) + counts.get("unknown", 0):
        parts.append(f"{unjudged} are missing or have no baseline")
    return "; ".join(parts) + "."


class _Figure(NamedTuple):
    kind: str
    """Media type."""

    data: str
    """Base64."""

    text: str
    """Alternative text."""


def _figures(evaluation: Evaluation, layout: Layout) -> tuple[dict[str, _Figure], str]:
    """Figures by name, and the caption of the map."""
    details, text = evaluation.details, ""
    drawn = {
        "scores": _encode(
            figures.scores(evaluation.scores, evaluation.table, scored_methods(evaluation)),
            "Each metric's prediction, baselines and ceiling; the numbers are in the table below",
        )
    }
    if details.get("changes"):
        text_of_changes = "Predicted against true change of the top genes, one panel per group"
        drawn["changes"] = _encode(figures.changes(details["changes"]), text_of_changes)
    if details.get("confusion"):
        figure = figures.calibration(details.get("calibration"), details["confusion"])
        both = "Calibration curve and confusion matrix" if details.get("calibration") else "Confusion matrix"
        drawn["calibration"] = _encode(figure, both)
    if len(details.get("map", {}).get("coordinates", ())) > 3:
        figure, text = figures.cell_map(details["map"], layout, evaluation.settings["embedding"]["key"])
        drawn["map"] = _encode(figure, "Map of real, control and predicted cells", "png")
    return drawn, text


def _encode(figure: Any, text: str, kind: Literal["svg", "png"] = "svg") -> _Figure:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"dpi": 150} if kind == "png" else {"metadata": {"Date": None}}
    figure.savefig(buffer, format=kind, bbox_inches="tight", **options)
    media_type = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return _Figure(media_type, base64.b64encode(buffer.getvalue()).decode(), text)


def _image(figure: _Figure) -> Any:
    from markupsafe import Markup

    return Markup('<img src="data:{};base64,{}" alt="{}">').format(*figure)
