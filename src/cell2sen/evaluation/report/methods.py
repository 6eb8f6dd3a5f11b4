"""Methods paragraph of a report: how the scores were computed, ready to paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cell2sen.data.names.perturbations import control_names
from cell2sen.evaluation.scoring.baselines.method import Method, methods
from cell2sen.evaluation.settings import as_list

if TYPE_CHECKING:
    from cell2sen.evaluation.result import Evaluation

#: Unit of the intervals over groups → its plural.
UNITS = {"perturbation": "perturbations", "context": "contexts", "label": "labels", "profile": "profiles"}

_CONTROLS = {
    "shared": "the same cells for truth and prediction",
    "split": "different halves of them for truth and prediction, both ways, averaged",
}


def scored_methods(evaluation: Evaluation) -> list[Method]:
    """The methods of an evaluation, in the order of its tables."""
    return [method for method in methods(evaluation.task) if method.name in evaluation.settings["methods"]]


def readable(name: str) -> str:
    """A name without underscores."""
    return name.replace("_", " ")


def paragraph(evaluation: Evaluation) -> str:
    """Text on cells, genes, baselines, ceiling, intervals, leak check, model and versions."""
    settings = evaluation.settings
    sentences = _TEXTS.get(evaluation.task, _on_cells)(evaluation)
    versions = ", ".join(f"{name} {version}" for name, version in settings["versions"].items())
    sentences += [
        *_on_checks(evaluation),
        *_on_model(settings["model"]),
        f"Seed {settings['arguments']['seed']}; {versions}.",
    ]
    return " ".join(sentences)


def _on_labels(evaluation: Evaluation) -> list[str]:
    settings = evaluation.settings
    return [
        f"Predicted labels of {settings['cells']:,} cells were compared with the labels in column "
        f"{settings['arguments']['label']!r}, exactly (up to a final full stop) and after normalising case, "
        "punctuation and plural; macro F1 and calibration (expected calibration error with 15 bins of equal width, and "
        "the Brier score of the predicted label) use normalised labels.",
        f"{_intervals(settings)}.",
        f"Baselines are {_baselines(evaluation)}.",
        f"The ceiling is {_ceiling(evaluation)} (50 principal components of the 2,000 most variable genes).",
    ]


def _on_texts(evaluation: Evaluation) -> list[str]:
    settings = evaluation.settings
    return [
        f"Predicted texts on {settings['cells']:,} samples of cells were compared with the reference texts in "
        f"{', '.join(as_list(settings['arguments']['label']))}, each with the nearest of its references. A gene that a "
        "text names is grounded if at least one of the sample's cells expresses it.",
        f"{_intervals(settings).replace('over cells', 'over samples')}.",
        f"Baselines are {_baselines(evaluation)}.",
        f"The ceiling is {_ceiling(evaluation)} (50 principal components of the 2,000 most variable genes).",
    ]


def _on_sets(evaluation: Evaluation) -> list[str]:
    what = "names" if evaluation.task == "name_gene_set" else "genes"
    return [
        f"Predicted {what} of {evaluation.settings['n_predicted']:,} gene sets were compared with the true ones; "
        "scores are means over sets.",
        f"Intervals are 95 % percentile bootstrap intervals over sets ({evaluation.settings['arguments']['resamples']} "
        "resamples).",
        f"Baselines are {_baselines(evaluation)}.",
        f"The ceiling is {_ceiling(evaluation)}.",
    ]


def _on_profiles(evaluation: Evaluation) -> list[str]:
    settings = evaluation.settings
    return [
        f"{len(settings['groups'])} profiles were compared with single cells of the same "
        f"{', '.join(as_list(settings['arguments']['context']))}, {settings['cells_per_profile']} random cells of "
        f"each, by the cosine of the vectors in obsm[{settings['embedding']['key']!r}]: fraction of samples closer "
        "than the true match, over profiles for each cell and over cells of other profiles for each profile, averaged.",
        f"Intervals are 95 % intervals over {settings['arguments']['resamples']} draws of the cells, and bootstrap "
        "intervals over profiles (2,000 resamples).",
        f"Baselines are {_baselines(evaluation)}.",
        f"The ceiling is {_ceiling(evaluation)}.",
    ]


def _on_numbers(evaluation: Evaluation) -> list[str]:
    settings = evaluation.settings
    return [
        f"Predicted numbers of {settings['cells']:,} cells were compared with those in column "
        f"{settings['arguments']['label']!r}.",
        f"{_intervals(settings)}.",
        f"Baselines are {_baselines(evaluation)}.",
        f"The ceiling is {_ceiling(evaluation)} (50 principal components of the 2,000 most variable genes).",
    ]


def _on_cells(evaluation: Evaluation) -> list[str]:
    settings = evaluation.settings
    context = ", ".join(as_list(settings["arguments"]["context"]))
    perturbed = evaluation.task == "perturb"
    kind = f"perturbation × {context}" if perturbed and context else "perturbations" if perturbed else "labels"
    unit, source = settings["unit_of_group_intervals"], settings["baselines_learn_from"]
    learned_from = "the training cells" if source == "train" else source
    return [
        f"Predicted cells were compared with real cells in {len(settings['groups'])} groups ({kind}) on "
        f"{settings['genes']['compared']:,} shared genes, as natural logarithms of 1 + counts per 10,000; scores were "
        "computed per group and averaged over groups.",
        *([_on_controls(settings, context)] if perturbed else []),
        *([_on_distances(settings)] if settings["embedding"] else []),
        f"{_intervals(settings)} and over {UNITS.get(unit, unit)} (2,000 resamples).",
        f"Baselines are {_baselines(evaluation)}; those that learn do so from {learned_from}.",
        f"The ceiling is {_ceiling(evaluation)}, which understates the best possible score, as each half has half of "
        "the cells.",
    ]


def _on_controls(settings: Mapping[str, Any], context: str) -> str:
    arguments = settings["arguments"]
    same = f" of the same {context}" if context else ""
    controls = " or ".join(name or "no value" for name in control_names(arguments["control"]))
    return (
        f"Changes were measured from the control cells ({arguments['perturbation']} = "
        f"{controls}; n = {sum(settings['controls'].values()):,}){same}, "
        f"{_CONTROLS[settings['controls_used']]}; predictions with a reconstruction of their control cell were "
        "measured from that. Differentially expressed genes are those with the largest absolute Welch t between real "
        "perturbed and control cells."
    )


def _on_distances(settings: Mapping[str, Any]) -> str:
    embedding, arguments = settings["embedding"], settings["arguments"]
    source = f"{embedding['genes']:,} most variable genes" if embedding["genes"] else f"of obsm[{embedding['key']!r}]"
    return (
        f"Distances between sets of cells were computed on {embedding['components']} principal components of the real "
        f"cells ({source}, {embedding['explained_variance']:.0%} of their variance), between equal numbers of cells of "
        f"every method (at most {arguments['max_cells']}, groups with fewer than {arguments['min_cells']} left out) "
        "and one half of the real cells: energy distance and MMD as U-statistics, sliced Wasserstein-1 over 50 "
        "directions, scFID with covariances shrunken by 0.1 towards their mean variance."
    )


def _intervals(settings: Mapping[str, Any]) -> str:
    return (
        f"Intervals are 95 % percentile bootstrap intervals over cells ({settings['arguments']['resamples']} resamples "
        "within groups, centred on the point estimate)"
    )


def _baselines(evaluation: Evaluation) -> str:
    texts = [
        f"{readable(method.name)} ({method.summary})"
        for method in scored_methods(evaluation)
        if method.role == "baseline"
    ]
    return _listed(texts)


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:-1]) + " and " + texts[-1] if len(texts) > 1 else "".join(texts)


def _ceiling(evaluation: Evaluation) -> str:
    """Summary of the last ceiling: that of the cells, not of sentences."""
    return [method.summary for method in scored_methods(evaluation) if method.role == "ceiling"][-1]


def _on_checks(evaluation: Evaluation) -> list[str]:
    outcomes = [
        ("Leak checks passed", ("passed",)),
        ("Not established by the leak check", ("warning", "not checked")),
        ("LEAK CHECKS FAILED; the following is not true", ("failed",)),
    ]
    names = {
        text: [check.name for check in evaluation.checks if check.status in statuses] for text, statuses in outcomes
    }
    return [f"{text}: {'; '.join(checks)}." for text, checks in names.items() if checks]


def _on_model(model: Any) -> list[str]:
    if not (isinstance(model, Mapping) and model.get("name")):
        return []
    weights = f", weights {model['weights_sha256']}" if model.get("weights_sha256") else ""
    return [f"Predictions were made by model {model['name']}{weights}."]


#: Task → sentences on what was compared; other tasks compare cells.
_TEXTS = {
    "text": _on_texts,
    "number": _on_numbers,
    "annotate": _on_labels,
    "integrate": _on_profiles,
    "name_gene_set": _on_sets,
    "list_gene_set": _on_sets,
}
