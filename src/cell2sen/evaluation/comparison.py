"""Comparison: from two files and the names of their columns to what is scored, and what must be checked first."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.labels import normalise_label
from cell2sen.evaluation import inputs as matching
from cell2sen.evaluation import leakage as leaks
from cell2sen.evaluation.inputs import Cells, align, groups, label, read
from cell2sen.evaluation.leakage import Check
from cell2sen.evaluation.scoring import bootstrap
from cell2sen.evaluation.scoring.arms import Key
from cell2sen.evaluation.scoring.baselines import Arms
from cell2sen.evaluation.scoring.labels import Answers
from cell2sen.evaluation.scoring.pca import Embedding, SentenceFit
from cell2sen.sentences.ranking import RankFit

TASKS = ("perturb", "generate", "annotate")

_VERSIONS = ("cell2sen", "numpy", "scipy", "pandas", "anndata", "scikit-learn", "torchmetrics", "transformers")


@dataclass(kw_only=True)
class Sides:
    """The validated inputs."""

    predicted: Cells
    real: Cells
    train: Cells | None = None
    genes: list[str] = field(default_factory=list)
    account: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def predicted_vocabulary(self) -> Iterable[str]:
        """Genes that the prediction may name."""
        return self.predicted.expression.symbols


def columns(names: str | Sequence[str]) -> list[str]:
    """One or several column names as a list."""
    return [names] if isinstance(names, str) else list(names)


def read_sides(predicted: Any, real: Any, train: Any, asked: Mapping[str, Any]) -> Sides:
    """Read and validate all sides; genes are aligned later, as labels need none."""
    files = {
        name: Path(one).name if isinstance(one, str | Path) else "AnnData in memory"
        for name, one in (("predicted", predicted), ("real", real), ("train", train))
        if one is not None
    }
    first = read(predicted, "predicted", layer=asked["layer"], scale=asked["scale"], symbols=asked["symbols"])
    second = read(real, "real", layer=asked["real_layer"], scale=asked["real_scale"], symbols=asked["symbols"])
    third = (
        None
        if train is None
        else read(train, "train", layer=asked["real_layer"], scale=asked["real_scale"], symbols=asked["symbols"])
    )
    return Sides(predicted=first, real=second, train=third, files=files)


def task_of(predicted: Cells, task: Any, asked: Mapping[str, Any]) -> Any:
    """The task that was asked for, or the one that the prediction says it is."""
    if task is not None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {list(TASKS)}, found {task!r}")
        return task
    found = predicted.verb
    if found is None and (asked["predicted_label"] is not None):
        found = "annotate"
    if found is None and (asked["predicted_perturbation"] or asked["perturbation"]) in predicted.obs:
        found = "perturb"
    if found is None:
        raise ValueError(
            f"the prediction does not say what it is of; pass task= (one of {list(TASKS)}). obs has "
            f"{list(map(str, predicted.obs.columns))}"
        )
    return found


def arms_of(task: Literal["perturb", "generate"], given: Sides, asked: Mapping[str, Any]) -> tuple[Arms, list[str]]:
    """Groups of predicted and real cells with their controls, and what a reader must know about them."""
    others = (given.real,) if given.train is None else (given.real, given.train)
    before = len(given.real.columns)
    given.genes, given.account = align(given.predicted, *others, case=asked["case"])
    notes = []
    rename = dict(asked["rename"] or {})
    if task == "perturb":
        real_groups, controls = _with_controls(given.real, asked["perturbation"], asked)
        own = asked["predicted_perturbation"] or (
            "perturbation" if given.predicted.verb == "perturb" else asked["perturbation"]
        )
        found = groups(given.predicted, [own, *columns(asked["context"])], rename)
        predicted_groups = {key: rows for key, rows in found.items() if key[0] not in columns(asked["control"])}
        train_groups, train_controls = (
            _with_controls(given.train, asked["perturbation"], asked) if given.train else ({}, {})
        )
        split = asked["controls"] == "split"
        if asked["controls"] not in ("split", "shared"):
            raise ValueError(f"controls must be 'split' or 'shared', found {asked['controls']!r}")
        given.account["share_of_true_change"] = _covered(given.real, real_groups, controls, before)
    else:
        named = columns(asked["label"])
        real_groups = groups(given.real, named)
        predicted_groups = groups(given.predicted, [asked["predicted_label"] or named[0], *named[1:]], rename)
        controls = {(): given.real.by_name(np.concatenate(list(real_groups.values())))} if real_groups else {}
        train_groups = groups(given.train, named) if given.train else {}
        train_controls, split = {}, False
    shared = [key for key in predicted_groups if key in real_groups]
    matching.refuse_empty(shared, predicted_groups, real_groups, "perturbation" if task == "perturb" else "label")
    if lost := [label(key) for key in real_groups if key not in predicted_groups]:
        notes.append(
            f"not scored, as they were not predicted: {len(lost)} of {len(real_groups)} real groups ({_some(lost)})"
        )
    if lost := [label(key) for key in predicted_groups if key not in real_groups]:
        n = f"{len(lost)} of {len(predicted_groups)} predicted groups"
        notes.append(f"not scored, as there are no such real cells: {n} ({_some(lost)})")
    share = given.account.get("share_of_true_change")
    if share is not None and share < 0.9:
        rest = "the rest is in genes that the prediction does not have"
        notes.append(f"the compared genes hold {share:.0%} of the squared true change; {rest}")
    few = [f"{label(key)}: {len(real_groups[key])}" for key in shared if len(real_groups[key]) < 2 * asked["min_cells"]]
    if few:
        why = f"fewer than {2 * asked['min_cells']} real cells, two halves of min_cells"
        notes.append(f"without distances between sets of cells, for {why}: {_some(few)}")
    arms = Arms(
        task=task,
        predicted=given.predicted,
        real=given.real,
        train=given.train,
        predicted_groups=predicted_groups,
        real_groups=real_groups,
        controls=controls,
        train_groups=train_groups,
        train_controls=train_controls,
        split_controls=split,
        resamples=asked["resamples"],
        max_cells=asked["max_cells"],
        min_cells=asked["min_cells"],
        seed=asked["seed"],
        sentence_fit=_sentence_fit(given.predicted),
    )
    return arms, notes


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _sentence_fit(predicted: Cells) -> SentenceFit | None:
    """The rank fit of predictions of this package, and the length of their sentences."""
    stored = predicted.provenance.get("fit")
    if not stored or predicted.verb not in ("perturb", "generate"):
        return None
    some = predicted.rows(np.linspace(0, len(predicted) - 1, min(256, len(predicted))).astype(int))
    values = {name: float(stored[name]) for name in ("slope", "intercept", "r_squared")}
    return SentenceFit(fit=RankFit(**values), n_genes=max(1, int(np.median(np.diff(some.indptr)))))


def _with_controls(
    cells: Cells, column: str, asked: Mapping[str, Any]
) -> tuple[dict[Key, NDArray[np.int64]], dict[Key, NDArray[np.int64]]]:
    found = groups(cells, [column, *columns(asked["context"])])
    wanted = columns(asked["control"])
    values = sorted({key[0] for key in found})
    if not set(wanted) & set(values):
        raise ValueError(
            f"no control cells: obs[{column!r}] of the {cells.name} cells never is {wanted}; available: "
            f"{values[:10]}. Name the value "
            "of the controls with control=, and put the control cells into the same file"
        )
    controls: dict[Key, list[NDArray[np.int64]]] = {}
    for key, rows in found.items():
        if key[0] in wanted:
            controls.setdefault(key[1:], []).append(rows)
    perturbed = {key: rows for key, rows in found.items() if key[0] not in wanted}
    if not perturbed:
        raise ValueError(f"no perturbed cells: obs[{column!r}] of the {cells.name} cells always is {wanted}")
    return perturbed, {context: cells.by_name(np.concatenate(rows)) for context, rows in controls.items()}


def _covered(
    real: Cells, perturbed: Mapping[Key, NDArray[Any]], controls: Mapping[Key, NDArray[Any]], n_genes: int
) -> float:
    """Share of the squared true change (all perturbed against all control cells) that lies in the compared genes."""
    compared, real.columns = real.columns, np.arange(n_genes)
    try:
        change = real.mean(np.concatenate(list(perturbed.values()))) - real.mean(
            np.concatenate(list(controls.values()))
        )
    finally:
        real.columns = compared
    total = float(change @ change)
    return float(change[compared] @ change[compared]) / total if total else 1.0


def set_embedding(arms: Arms, asked: Mapping[str, Any], most: int = 5000) -> None:
    """Fit the embedding to real cells of all groups and controls."""
    if asked["embedding"] != "pca" and asked["embedding"] not in arms.predicted.obsm:
        # Said at once, not once a group; the real side is checked below.
        raise KeyError(
            f"obsm of the predicted cells has no {asked['embedding']!r}; available: "
            f"{['pca', *map(str, arms.predicted.obsm)]}"
        )
    rows = arms.real.by_name(np.concatenate([*arms.real_groups.values(), *arms.controls.values()]))
    rng = bootstrap.generator(arms.seed, "embedding")
    some = rng.permutation(rows)[:most]
    if len(some) < 3:
        raise ValueError(f"{len(some)} real cells are too few for an embedding")
    arms.embedding = Embedding.fit(asked["embedding"], arms.real, some, min(asked["components"], len(some) - 1))


def describe_embedding(arms: Arms) -> dict[str, Any]:
    """What sets of cells were compared in."""
    if arms.embedding is None:
        return {}
    one = arms.embedding
    return {
        "key": one.key,
        "components": one.projection.axes.shape[1],
        "explained_variance": round(one.projection.explained, 4),
        "genes": None if one.genes is None else len(one.genes),
    }


def check_populations(arms: Arms, given: Sides, asked: Mapping[str, Any]) -> list[Check]:
    """The leak check for predicted cells."""
    rows = np.concatenate([arms.predicted_groups[key] for key in arms.keys])
    truth = np.unique(np.concatenate([arms.real_groups[key] for key in arms.keys]))
    truth_prints = leaks.prints(arms.real, truth)
    truth_names = set(arms.real.names[truth])
    checks = [leaks.copied_truth(arms.predicted, rows, truth_prints)]
    if arms.task == "perturb":
        control_prints = leaks.prints(arms.real, np.concatenate(list(arms.controls.values())))
        checks = [
            leaks.copied_control(arms.predicted, rows, control_prints),
            leaks.truth_is_control(truth_prints, control_prints),
            leaks.made_from_truth(arms.predicted, rows, truth_names),
            *checks,
        ]
    return [*checks, _trained_on(truth_names, given, asked)]


def check_labels(answers: Answers, given: Sides, asked: Mapping[str, Any]) -> list[Check]:
    """The leak check for labels."""
    return [_trained_on(set(answers.real.names[answers.rows]), given, asked)]


def _trained_on(test: set[str], given: Sides, asked: Mapping[str, Any]) -> Check:
    names = leaks.read_names(
        asked["train_names"] if asked["train_names"] is not None else given.train.names if given.train else None
    )
    return leaks.trained_on(test, names, _split_of(given.predicted, asked["split"]), len(given.real), given.real.names)


def _split_of(predicted: Cells, split: Any) -> Mapping[str, Any] | None:
    """Hashes of held-out cells: as given, or from the record of the prediction."""
    if isinstance(split, str | Path):
        stored = json.loads(Path(split).read_text(encoding="utf-8"))
        found: Mapping[str, Any] = stored.get("split", stored)
        return found
    if split is not None:
        return dict(split.get("split", split))
    record = predicted.provenance
    stored = record.get("split") or dict(record.get("model", {})).get("split")
    if stored:
        return dict(stored)
    return _split_of_known_model(dict(record.get("model", {})))


def _split_of_known_model(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    from cell2sen.model import KNOWN, resolve

    name, weights = record.get("name"), record.get("weights_sha256")
    if name not in KNOWN or not weights:
        return None
    model = resolve(str(name))
    return model.metadata.get("split") if model.metadata.get("weights_sha256") == weights else None


def answers_of(given: Sides, asked: Mapping[str, Any]) -> tuple[Answers, list[str]]:
    """True and predicted labels of the cells that both sides have."""
    predicted, real = given.predicted, given.real
    record = (
        predicted.provenance
        if predicted.verb == "annotate"
        else dict(predicted.uns.get(matching.UNS, {}).get("annotate", {}))
    )
    own = asked["predicted_label"] or record.get("key") or "cell2sen_cell_type"
    answer = predicted.column(str(own))
    named = columns(asked["label"])
    if len(named) != 1:
        raise ValueError(f"label must be one column of the real cells, found {named}")
    truth = real.column(named[0])
    if own == named[0] and predicted.obs is real.obs:
        raise ValueError(
            f"predicted and true labels are the same column {own!r}; name the other one with predicted_label= or label="
        )
    place = {name: at for at, name in enumerate(real.names)}
    shared = [at for at in predicted.by_name(np.arange(len(predicted))) if predicted.names[at] in place]
    pairs = np.array([(at, place[predicted.names[at]]) for at in shared], dtype=np.int64).reshape(-1, 2)
    if not len(pairs):
        raise ValueError(
            f"no cell is in both files: predicted has {list(predicted.names[:3])}, real has {list(real.names[:3])}; "
            "labels are "
            "compared cell by cell, by name"
        )
    notes = []
    if len(pairs) < len(real):
        notes.append(f"{len(real) - len(pairs)} of {len(real)} real cells were not labelled and are not scored")
    labelled = np.array([truth[row] is not None for row in pairs[:, 1]])
    if not labelled.all():
        notes.append(f"{int((~labelled).sum())} cells have no true label and are not scored")
        pairs = pairs[labelled]
    if not len(pairs):
        raise ValueError(f"no cell has a true label in obs[{named[0]!r}]")
    rename = dict(asked["rename"] or {})
    answer = np.array([rename.get(one, one) if one is not None else "" for one in answer[pairs[:, 0]]], dtype=object)
    if (answer == "").any():
        notes.append(f"{int((answer == '').sum())} cells have no predicted label; they count as wrong")
    named_by = sorted({str(one) for one in answer if one})
    real_labels = sorted({str(one) for one in truth[pairs[:, 1]]})
    known = {normalise_label(one, rename) for one in real_labels}
    if strange := [one for one in named_by if normalise_label(one, rename) not in known]:
        notes.append(
            f"{len(strange)} of {len(named_by)} predicted labels ({_some(strange)}) are none of the real cells' labels "
            f"({_some(real_labels, 12)}); they count as wrong. rename= tells that two names mean one type"
        )
    confidence, why = _confidence(predicted, str(own), pairs[:, 0])
    units = real.column(columns(asked["context"])[0])[pairs[:, 1]] if columns(asked["context"]) else None
    if given.train is not None:
        given.genes, given.account = align(real, given.train, case=asked["case"])
    found = Answers(
        truth=truth[pairs[:, 1]],
        answer=answer,
        confidence=confidence,
        why_no_confidence=why,
        real=real,
        rows=pairs[:, 1],
        units=units,
        train=given.train,
        train_labels=given.train.column(named[0]) if given.train else None,
        synonyms=rename,
        encoder=asked["encoder"],
        resamples=asked["resamples"],
        seed=asked["seed"],
    )
    return found, notes


def _confidence(predicted: Cells, column: str, rows: NDArray[Any]) -> tuple[NDArray[np.float64] | None, str]:
    name = f"{column}_score"
    if name not in predicted.obs:
        return None, f"obs has no column {name!r} with the probability of the label"
    values = predicted.obs[name].to_numpy(dtype=float)[rows]
    if not np.all((values >= 0) & (values <= 1)):
        return None, f"obs[{name!r}] holds values that are no probabilities between 0 and 1"
    return values, ""


def example_sentences(arms: Arms, given: Sides, most: int = 6, words: int = 60) -> list[dict[str, Any]]:
    """First words of some predicted sentences, with the genes of the cell they should resemble."""
    if "sentence" not in arms.predicted.obs:
        return []
    known, found = frozenset(given.predicted_vocabulary), []
    for key in arms.keys[:most]:
        row = int(arms.predicted_groups[key][0])
        text = str(arms.predicted.obs["sentence"].iloc[row]).split()
        real = arms.real.rows(arms.real_groups[key]).mean(axis=0)
        top = {given.genes[at] for at in np.argsort(-np.asarray(real).ravel(), kind="stable")[:200]}
        seen: set[str] = set()
        marked = []
        for word in text[:words]:
            kind = "unknown" if word not in known else "repeated" if word in seen else "top" if word in top else "gene"
            seen.add(word)
            marked.append((word, kind))
        found.append(
            {"group": label(key), "cell": str(arms.predicted.names[row]), "words": marked, "n_words": len(text)}
        )
    return found


def settings(task: str, given: Sides, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was compared and how, as plain values."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    kept = (
        "perturbation",
        "predicted_perturbation",
        "control",
        "context",
        "label",
        "predicted_label",
        "rename",
        "encoder",
        "case",
        "resamples",
        "max_cells",
        "min_cells",
        "seed",
        "leaks",
    )
    chosen = {
        name: asked[name] if name != "encoder" or isinstance(asked[name], str | None) else "passed as an object"
        for name in kept
    }
    record = given.predicted.provenance
    return {
        "task": task,
        "files": given.files,
        "n_predicted": len(given.predicted),
        "n_real": len(given.real),
        "scale": {"predicted": str(given.predicted.scale), "real": str(given.real.scale)},
        "genes": given.account,
        "model": dict(record.get("model", {})) or "not recorded",
        "arguments": {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.items()},
        "versions": versions,
    }
