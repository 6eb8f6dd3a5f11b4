"""Names, contexts and organisms that a model was trained on, and warnings about others."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence

from cell2sen.data.names.text import some
from cell2sen.data.obs import Context
from cell2sen.model import Model
from cell2sen.prompt import words_of
from cell2sen.sentences.sentences import Sentences
from cell2sen.task import Task

logger = logging.getLogger(__name__)


def trained_names(model: Model, kind: str) -> Mapping[str, int]:
    """Names that a model was trained on, with their numbers of cells; empty if it has no such list.

    Parameters
    ----------
    kind
        Key of the model's metadata: ``"labels"`` (cell types), ``"perturbations"``, the target of another task, or the
        name of a task of an obs column (``"label:tissue"``).
    """
    _, colon, column = kind.partition(":")
    names: Mapping[str, int] | None = (
        model.metadata.get("label_columns", {}).get(column) if colon else model.metadata.get(kind)
    )
    return names or {}


def warn_of_context(model: Model, context: Context, task: Task) -> None:
    """Log a warning about columns that are in the prompt and were not in training, or the other way round."""
    trained = {words_of(name) for name in model.metadata.get("context") or ()}
    unknown = [name for name in context.names if words_of(name) not in trained]
    if unknown and model.wording == "checkpoint":
        logger.warning(
            "%s was not trained with %s in its prompts, %s: whether it uses them is not known",
            model.name,
            some(unknown),
            f"only with {some(sorted(trained))}" if trained else "but with genes alone",
        )
    data = model.training_data
    given = {words_of(name) for name in (*context.names, *task.answer_names)}
    missing = [name for name in data.get("context") or () if words_of(name) not in given]
    learned = task.name in (model.metadata.get("templates") or {})
    if missing and learned and not (data.get("augmentation") or {}).get("context_dropout"):
        advice = "pass them as context=, or train with data.augmentation.context_dropout"
        logger.warning(
            "%s was trained with %s in all prompts, these are without: %s", model.name, some(missing), advice
        )


def warn_unknown(kind: str, names: Sequence[str], model: Model) -> None:
    """Log one warning about names that the model was not trained on.

    Parameters
    ----------
    kind
        As for :func:`trained_names`. Models without such names give no warning.
    """
    if message := _unknown(kind, names, model):
        logger.warning("%s: predictions for them are guesses. %s", *message)


def require_known(kind: str, names: Sequence[str], model: Model, *, force: bool) -> None:
    """Check that the model was trained on these names; with `force` :func:`warn_unknown`.

    Raises
    ------
    ValueError
        It was not trained on one of them. Models without such names raise nothing.
    """
    if force:
        warn_unknown(kind, names, model)
    elif message := _unknown(kind, names, model):
        found, known = message
        raise ValueError(
            f"{found}, so predictions for them mean nothing. {known}. Predict all the same with force=True"
        )


def _unknown(kind: str, names: Sequence[str], model: Model) -> tuple[str, str] | None:
    """Which names are unknown; what is known, with similar names. ``None`` if the model knows all or has no list."""
    trained = trained_names(model, kind)
    labels = _labels_of(model)
    unknown = [name for name in names if name not in trained and not (kind == "labels" and name in labels)]
    if not trained or not unknown:
        return None
    if kind != "labels" and (types := [name for name in unknown if name in labels]):
        logger.warning("%s are cell types, not %s: is this the right column or list?", some(types), kind)
    close = {name: _similar(name, trained) for name in unknown[:20]}
    advice = "; ".join(f"did you mean {known!r} for {name!r}?" for name, known in close.items() if known)
    return (
        f"{model.name} was not trained on the {kind} {some(unknown)}",
        f"It was trained on {some(list(trained))}{'; ' + advice if advice else ''}",
    )


def _similar(name: str, trained: Mapping[str, int]) -> str | None:
    """The trained name that contains all words of `name`, or else one with a similar spelling."""
    words = set(name.lower().split())
    if containing := [known for known in trained if words <= set(known.lower().split())]:
        return min(containing, key=len)
    lower = {known.lower(): known for known in trained}
    match = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[match[0]] if match else None


def _labels_of(model: Model) -> set[str]:
    """Trained labels and their other spellings."""
    spellings: Mapping[str, Sequence[str]] = model.metadata.get("spellings") or {}
    return {*(model.metadata.get("labels") or ()), *(name for others in spellings.values() for name in others)}


def warn_of_organisms(model: Model, sentences: Sentences) -> None:
    """Log a warning about organisms that the model was not trained on."""
    trained = model.metadata.get("organisms") or []
    if trained and (unknown := sorted(set(sentences.organism) - set(trained))):
        logger.warning(
            "%s was not trained on cells of %s, only on %s: predictions for them are guesses. If the organism is "
            "wrong, set it with organism=",
            model.name,
            unknown[:5],
            trained,
        )
