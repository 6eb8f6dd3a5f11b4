"""Report: one self-contained HTML page of an evaluation, for a reader who has not seen the code."""

from __future__ import annotations

import base64
import datetime
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cell2sen.data.output import complete
from cell2sen.evaluation.metrics.metrics import METRICS
from cell2sen.evaluation.report import figures
from cell2sen.evaluation.scoring.arms import CEILING, NO_RIVALS, PREDICTION, SENTENCES

if TYPE_CHECKING:
    from cell2sen.evaluation.evaluate import Evaluation

TEMPLATE = Path(__file__).with_name("template.html.j2")

_TITLES = {
    "perturb": "Predicted perturbation response",
    "generate": "Generated cells",
    "annotate": "Predicted cell labels",
}
_UNITS = {"perturbation": "perturbations", "context": "contexts", "label": "labels"}
#: Metrics of the breakdown, in this order, as far as they were computed.
_BREAKDOWN = (
    "pearson_delta",
    "pearson_delta_top50",
    "direction_top50",
    "discrimination",
    "gene_overlap_100",
    "pearson",
    "e_distance",
    "scfid",
    "knn_accuracy_5",
    "validity",
    "accuracy",
    "normalised_accuracy",
)
_MOST_ROWS = 40


def write(evaluation: Evaluation, path: str | Path, *, layout: Literal["auto", "umap", "pca"] = "auto") -> Path:
    """Write the report.

    Parameters
    ----------
    layout
        Of the map of cells: ``"umap"`` (needs umap-learn), ``"pca"``, or UMAP where it is installed.

    Raises
    ------
    ImportError
        matplotlib or jinja2 is missing; says how to install them.
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
    with complete(path) as temporary:
        temporary.write_text(template.render(**_content(evaluation, layout)), encoding="utf-8")
    return Path(path)


def methods(evaluation: Evaluation) -> str:
    """How the scores were computed, as a paragraph to be pasted."""
    s = evaluation.settings
    arguments, versions = s["arguments"], s["versions"]
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    intervals = (
        f"Intervals are 95 % percentile bootstrap intervals over cells ({arguments['resamples']} resamples within "
        "groups, centred on the "
        "point estimate)"
    )
    if evaluation.task == "annotate":
        parts = [
            f"Predicted labels of {s['cells']:,} cells were compared with the labels in column "
            f"{arguments['label']!r}, exactly (up to a "
            "final full stop) and after normalising case, punctuation and plural; macro F1 and calibration (expected "
            "calibration "
            "error with 15 bins of equal width, and the Brier score of the predicted label) use normalised labels.",
            intervals + ".",
            "Baselines are " + _list(s["arms"]) + ".",
            f"The ceiling is {s['arms'][CEILING]} (50 principal components of the 2,000 most variable genes).",
        ]
    else:
        kind = "perturbation" if evaluation.task == "perturb" else "label"
        context = arguments["context"] if isinstance(arguments["context"], str) else ", ".join(arguments["context"])
        groups = f"{len(s['groups'])} groups" + (
            f" ({kind} × {context})" if context and kind == "perturbation" else f" ({kind}s)"
        )
        parts = [
            f"Predicted cells were compared with real cells in {groups} on {s['genes']['compared']:,} shared genes, "
            "as natural logarithms "
            "of 1 + counts per 10,000; scores were computed per group and averaged over groups.",
        ]
        if evaluation.task == "perturb":
            n = sum(s["controls"].values())
            control = (
                arguments["control"] if isinstance(arguments["control"], str) else " or ".join(arguments["control"])
            )
            where = f" of the same {context}" if context else ""
            sides = {
                "shared": "the same cells for truth and prediction",
                "split": "different halves of them for truth and prediction, both ways, averaged",
            }[s["controls_used"]]
            parts.append(
                f"Changes were measured from the control cells ({arguments['perturbation']} = {control}; n = "
                f"{n:,}){where}, {sides}; "
                "predictions that bring the reconstruction of their control cell were measured from that. "
                "Differentially expressed "
                "genes are those with the largest absolute Welch t between real perturbed and control cells."
            )
        if s["embedding"]:
            where = (
                f"{s['embedding']['components']} principal components of the real cells "
                + (
                    f"({s['embedding']['genes']:,} most variable genes, "
                    if s["embedding"]["genes"]
                    else f"(of obsm[{s['embedding']['key']!r}], "
                )
                + f"{s['embedding']['explained_variance']:.0%} of their variance)"
            )
            parts.append(
                f"Distances between sets of cells were computed on {where}, between equal numbers of cells of every "
                "arm (at most "
                f"{arguments['max_cells']}, groups with fewer than {arguments['min_cells']} left out) and one half "
                "of the real cells: "
                "energy distance and MMD as U-statistics, sliced Wasserstein-1 over 50 directions, scFID with "
                "covariances shrunken by "
                "0.1 towards their mean variance."
            )
        unit = _UNITS.get(s["unit_of_group_intervals"], s["unit_of_group_intervals"])
        parts += [
            intervals + f" and over {unit} (2,000 resamples).",
            "Baselines are " + _list(s["arms"]) + f"; those that learn do so from {s['baselines_learn_from']}.",
            f"The ceiling is {s['arms'][CEILING]}, which understates what is reachable, as each half has half of the "
            "cells.",
            *([f"The ceiling of sentences is {s['arms'][SENTENCES]}."] if SENTENCES in s["arms"] else []),
        ]
    failed = [one.name for one in evaluation.checks if one.status == "failed"]
    passed = [one.name for one in evaluation.checks if one.status == "passed"]
    if passed:
        parts.append("Leak checks passed: " + "; ".join(passed) + ".")
    if open_ := [one.name for one in evaluation.checks if one.status in ("warning", "not checked")]:
        parts.append("Not established by the leak check: " + "; ".join(open_) + ".")
    if failed:
        parts.append("LEAK CHECKS FAILED: no longer true is " + "; ".join(failed) + ".")
    model = s["model"]
    if isinstance(model, Mapping) and model.get("name"):
        weights = f", weights {model['weights_sha256']}" if model.get("weights_sha256") else ""
        parts.append(f"Predictions were made by model {model['name']}{weights}.")
    parts.append(f"Seed {arguments['seed']}; {software}.")
    return " ".join(parts)


def _content(evaluation: Evaluation, layout: str) -> dict[str, Any]:
    settings, table = evaluation.settings, evaluation.table
    shown = table.rename(columns=str)
    unit = _UNITS.get(settings["unit_of_group_intervals"], "groups")
    drawn, map_text = _figures(evaluation, layout)
    judged = {str(name): int(n) for name, n in shown["verdict"].value_counts().items()}
    n_groups = len(settings.get("groups", [])) or len(settings.get("true_labels", []))
    cards = [
        (f"{settings['n_predicted']:,}", "predicted cells"),
        (f"{settings['n_real']:,}", "real cells, with controls" if evaluation.task == "perturb" else "real cells"),
        (f"{n_groups}", "groups" if evaluation.task != "annotate" else "true labels"),
    ]
    if settings["genes"]:
        cards.append((f"{settings['genes']['compared']:,}", "genes compared"))
    warnings = [one for one in evaluation.checks if one.status == "warning"]
    breakdown = _breakdown(evaluation)
    sections = [("scores", "Scores")]
    sections += [("groups", "Groups")] if breakdown else []
    sections += [
        (name, text)
        for name, text in (
            ("changes", "Top genes"),
            ("calibration", "Calibration" if evaluation.details.get("calibration") else "Confusion"),
            ("map", "Map"),
        )
        if name in drawn
    ]
    sections += [("sentences", "Sentences")] if evaluation.details.get("sentences") else []
    sections += [
        ("leaks", "Leak check"),
        ("methods", "Methods"),
        ("definitions", "Definitions"),
        ("settings", "Settings"),
    ]
    arms = [PREDICTION, *[name for name in settings["arms"] if name != PREDICTION]]
    every, reasons = _every(evaluation, arms)
    return {
        "title": _TITLES[evaluation.task],
        "subtitle": _subtitle(settings),
        "sections": sections,
        "failed": [one for one in evaluation.checks if one.status == "failed"],
        "warnings": warnings,
        "unchecked": [one for one in evaluation.checks if one.status == "not checked"],
        "is_labels": evaluation.task == "annotate",
        "with_controls": evaluation.task == "perturb",
        "ceiling": settings["arms"][CEILING],
        "cards": cards,
        "verdict": _verdict(judged, len(shown), evaluation),
        "notes": evaluation.notes,
        "unit": unit,
        "figure": _image,
        "with_calibration": bool(evaluation.details.get("calibration")),
        "figures": {name: drawn.get(name) for name in ("scores", "changes", "calibration", "map")},
        "map_text": map_text,
        "rows": [_row(name, row) for name, row in shown.iterrows()],
        "with_units": bool(shown["low_groups"].notna().any()),
        "with_sentences": SENTENCES in settings["arms"],
        "arms": [name.replace("_", " ") for name in arms],
        "every": every,
        "reasons": reasons,
        "breakdown": breakdown,
        "sentences": evaluation.details.get("sentences") or [],
        "parsed_note": _parsed_note(evaluation),
        "checks": evaluation.checks,
        "methods": methods(evaluation),
        "definitions": [
            {"name": name, "summary": METRICS[name].summary, "span": _span(name)}
            for name in shown.index
            if name in METRICS
        ],
        "arm_texts": [(name.replace("_", " "), text) for name, text in settings["arms"].items()],
        "settings": _settings(settings),
        "created": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": settings["versions"].get("cell2sen", ""),
    }


def _figures(evaluation: Evaluation, layout: str) -> tuple[dict[str, tuple[str, str, str]], str]:
    """Figure → (media type, base64, text for those who cannot see it), and what the map shows."""
    details, drawn, text = evaluation.details, {}, ""
    drawn["scores"] = (
        *_encode(figures.scores(evaluation.scores, evaluation.table)),
        "Each metric's prediction, baselines and ceiling; the numbers are in the table below",
    )
    if details.get("changes"):
        drawn["changes"] = (
            *_encode(figures.changes(details["changes"])),
            "Predicted against true change of the top genes, one panel per group",
        )
    if details.get("calibration") or details.get("confusion"):
        drawn["calibration"] = (
            *_encode(figures.calibration(details.get("calibration"), details["confusion"])),
            "Calibration curve and confusion matrix" if details.get("calibration") else "Confusion matrix",
        )
    if len(details.get("map", {}).get("coordinates", ())) > 3:
        figure, text = figures.cell_map(details["map"], layout, evaluation.settings["embedding"]["key"])
        drawn["map"] = (*_encode(figure, "png"), "Map of real, control and predicted cells")
    return drawn, text


def _encode(figure: Any, kind: Literal["svg", "png"] = "svg") -> tuple[str, str]:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"dpi": 150} if kind == "png" else {"metadata": {"Date": None}}
    figure.savefig(buffer, format=kind, bbox_inches="tight", **options)
    return {"svg": "image/svg+xml", "png": "image/png"}[kind], base64.b64encode(buffer.getvalue()).decode()


def _image(figure: tuple[str, str, str]) -> Any:
    from markupsafe import Markup

    kind, data, text = figure
    return Markup('<img src="data:{};base64,{}" alt="{}">').format(kind, data, text)


def _verdict(judged: Mapping[str, int], n: int, evaluation: Evaluation) -> str:
    if evaluation.leaked:
        return (
            "A leak check failed, so the scores below say nothing about how good the prediction is. They are shown to "
            "help find the fault."
        )
    parts = [f"{judged.get('better', 0)} of {n} scores are better than the best baseline"]
    parts += [
        f"{judged[name]} are {text}"
        for name, text in (("worse", "worse"), ("no difference seen", "not told apart from it"))
        if judged.get(name)
    ]
    if judged.get("missing", 0) + judged.get("unknown", 0):
        parts.append(f"{judged.get('missing', 0) + judged.get('unknown', 0)} are missing or have no baseline")
    return "; ".join(parts) + "."


def _subtitle(settings: Mapping[str, Any]) -> str:
    model = settings["model"]
    name = (
        f"model {model['name']}"
        if isinstance(model, Mapping) and model.get("name")
        else "prediction of another tool (no model recorded)"
    )
    files = ", ".join(f"{side}: {file}" for side, file in settings["files"].items())
    return f"{name} · {files}"


def _row(name: Any, row: pd.Series[Any]) -> dict[str, Any]:
    css = {"better": "better", "worse": "worse", "missing": "missing", "unknown": "missing"}.get(
        str(row["verdict"]), ""
    )
    verdict = str(row["verdict"])
    if verdict == "unknown":
        verdict = "not judged" if row["best_baseline"] else "no baseline"
    return {
        "metric": name,
        "prediction": number(row["prediction"]),
        "cells": _interval(row["low"], row["high"]),
        "groups": _interval(row["low_groups"], row["high_groups"]),
        "best_baseline": str(row["best_baseline"]).replace("_", " ") or "–",
        "best_baseline_value": number(row["best_baseline_value"]) if row["best_baseline"] else "",
        "ceiling": number(row["ceiling"]),
        "perfect": f"{row['perfect']:g} {'↑' if row['better'] == 'higher' else '↓'}",
        "sentence_ceiling": number(row.get(SENTENCES, math.nan)),
        "verdict": verdict,
        "css": css,
        "reason": row["reason"],
    }


def _every(evaluation: Evaluation, arms: list[str]) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Values of all arms, and which of them are missing for which reason."""
    overall = evaluation.scores[evaluation.scores["group"] == "all"].set_index(["metric", "arm"])
    rows: list[dict[str, Any]] = []
    why: dict[str, list[str]] = {}
    for name in evaluation.table.index:
        cells = []
        for arm in arms:
            if (name, arm) not in overall.index:
                cells.append({"value": "–", "reason": ""})
                continue
            value, reason = overall.loc[(name, arm), "value"], str(overall.loc[(name, arm), "reason"])
            cells.append({"value": number(value), "reason": reason})
            if reason:
                why.setdefault(reason, []).append(f"{name} of {arm.replace('_', ' ')}")
        rows.append({"metric": name, "cells": cells})
    return rows, [
        (reason, ", ".join(where[:6]) + (f" and {len(where) - 6} more" if len(where) > 6 else ""))
        for reason, where in why.items()
    ]


def _breakdown(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Per group; and, where groups are perturbations in contexts, per perturbation and per context."""
    scores = evaluation.scores[evaluation.scores["group"] != "all"]
    names = [
        name
        for name in _BREAKDOWN
        if name in set(scores.loc[scores["arm"].eq(PREDICTION) & scores["value"].notna(), "metric"])
    ][:7]
    if scores.empty or not names:
        return []
    if evaluation.task == "annotate":
        return [_part("By true label", "true label", scores.assign(part=scores["group"]), names)]
    parts = scores["group"].str.split(" | ", n=1, regex=False, expand=True)
    first = "perturbation" if evaluation.task == "perturb" else "label"
    if parts.shape[1] == 1:
        return [_part(f"By {first}", first, scores.assign(part=scores["group"]), names)]
    arguments = evaluation.settings["arguments"]
    context = arguments["context"] if isinstance(arguments["context"], str) else " | ".join(arguments["context"])
    found = []
    if parts[0].nunique() > 1:
        found.append(
            _part(f"By {first}, averaged over {context or 'contexts'}", first, scores.assign(part=parts[0]), names)
        )
    if parts[1].nunique() > 1:
        title = f"By {context or 'context'}" + (f", averaged over {first}s" if parts[0].nunique() > 1 else "")
        found.append(_part(title, context or "context", scores.assign(part=parts[1]), names))
    return found or [_part("By group", "group", scores.assign(part=scores["group"]), names)]


def _part(title: str, column: str, scores: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    means = scores.groupby(["part", "metric", "arm"])["value"].mean()
    sizes = scores[scores["arm"].eq(PREDICTION)].groupby(["part", "group"])["n_real"].max().groupby("part").sum()
    every = sorted(sizes.index, key=lambda part: -sizes[part])
    rows = []
    for part in every[:_MOST_ROWS]:
        cells = []
        for name in names:
            one = METRICS[name]
            value = means.get((part, name, PREDICTION), math.nan)
            rivals = {
                arm: means[part, name, arm]
                for arm in scores["arm"].unique()
                if arm not in NO_RIVALS and math.isfinite(means.get((part, name, arm), math.nan))
            }
            best = (max if one.higher_is_better else min)(rivals, key=lambda arm: rivals[arm]) if rivals else ""
            gain = (
                (value - rivals[best]) * (1 if one.higher_is_better else -1)
                if best and math.isfinite(value)
                else math.nan
            )
            title_text = f"best baseline: {best.replace('_', ' ')} {number(rivals[best])}" if best else "no baseline"
            cells.append({"value": number(value), "colour": _colour(gain), "title": title_text})
        rows.append({"name": part, "n": int(sizes[part]), "cells": cells})
    return {"title": title, "column": column, "metrics": names, "rows": rows, "more": max(0, len(every) - _MOST_ROWS)}


def _colour(gain: float) -> str:
    if not math.isfinite(gain) or abs(gain) < 1e-9:
        return "transparent"
    return "#dcf3e1" if gain > 0 else "#fde3e0"


def _parsed_note(evaluation: Evaluation) -> str:
    if not evaluation.details.get("sentences") or evaluation.settings["model"] == "not recorded":
        return ""
    return (
        "Sentences of this package are stored after parsing: words that are no gene were dropped then, and count in "
        "validity only."
    )


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in settings.items():
        if name in ("arms", "size_of_predicted_change"):
            continue
        if isinstance(value, Mapping):
            text = "; ".join(f"{key}: {one}" for key, one in value.items() if one not in (None, "", [], {}))
        elif isinstance(value, list):
            text = ", ".join(map(str, value[:30])) + (f" and {len(value) - 30} more" if len(value) > 30 else "")
        else:
            text = str(value)
        rows.append((name.replace("_", " "), text or "–"))
    return rows


def _span(name: str) -> str:
    one = METRICS[name]
    low, high = (
        ("−∞" if one.range[0] == -math.inf else f"{one.range[0]:g}"),
        ("∞" if one.range[1] == math.inf else f"{one.range[1]:g}"),
    )
    return f"From {low} to {high}; perfect: {one.perfect:g}."


def _list(arms: Mapping[str, str]) -> str:
    names = [f"{name.replace('_', ' ')} ({text})" for name, text in arms.items() if name not in NO_RIVALS]
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _interval(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}" if math.isfinite(low) and math.isfinite(high) else "–"


def number(value: float) -> str:
    """A number with three digits, a true minus, and a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return "0.000".join(text.split("-0.000")) if text == "-0.000" else text.replace("-", "−")
