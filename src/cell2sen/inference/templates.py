"""Prompt templates of a file, a checkpoint, or the authors' package cell2sentence."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cell2sen.data.names.text_files import read_text
from cell2sen.model import Model
from cell2sen.task import Task, Template

logger = logging.getLogger(__name__)

#: Package of the authors of the published checkpoints.
PACKAGE = "cell2sentence"

#: Task → file in the package's folder ``prompts``; it has none for other tasks. The table in docs/how-to/wording.md.
PACKAGE_FILES: Mapping[str, str] = {
    "annotate": "single_cell_cell_type_prediction_prompts.json",
    "embed": "single_cell_cell_type_prediction_prompts.json",
    "generate": "single_cell_cell_type_conditional_generation_prompts.json",
    "interpret": "multi_cell_natural_lang_interpretation_prompts.json",
    "sample_from_tissue": "multi_cell_tissue_conditional_generation.json",
    "tissue": "multi_cell_tissue_prediction_prompts.json",
}

#: Slot in the package's files → slot of a task, where the names differ. A cell sentence is ``{genes}`` in prompts and
#: ``{sentence}`` in answers.
PACKAGE_SLOTS: Mapping[str, str] = {
    "abstract": "summary",
    "multi_cell_sentences": "cells",
    "num_cells": "n_cells",
    "num_genes": "n_genes",
}

#: Form of a cell in the package's samples, which its files do not have: a numbered line, then the sentence.
_PACKAGE_CELL = "Cell {number}:\n{cell_sentence}.\n"

#: Values of ``templates`` that are no file.
_NAMED = ("cell2sen", PACKAGE)

#: (model or file of templates, task) of the warnings so far.
_warned: set[tuple[str, str]] = set()


def choose_templates(
    task: Task, model: Model, templates: str | Path | Mapping[str, Any] | None = None, *, to_learn: bool = False
) -> Task:
    """The task with the templates that fit the model.

    Parameters
    ----------
    templates
        ``None``: the checkpoint's own templates if it has some, those of the installed package ``cell2sentence`` for a
        published checkpoint, else those of this project. ``"cell2sen"`` and ``"cell2sentence"`` choose one of the last
        two. A path or mapping ``{task: [{"prompt": …, "answer": …}]}`` gives the user's own templates; in place of the
        list it may have one of these names. A task without templates there has those of ``None``, with a warning.
    to_learn
        The task is learned now: no warning that the model was not trained on it.

    Raises
    ------
    ImportError
        ``templates="cell2sentence"`` without that package.
    FileNotFoundError
        A path without a file.
    ValueError
        Templates that do not fit the task, or a file that is not JSON.

    Notes
    -----
    One warning per model and task for a published checkpoint with other templates than it was trained with, and for a
    checkpoint that was not trained on the task.
    """
    if templates is None:
        chosen = _default(task, model)
    elif isinstance(templates, str) and templates in _NAMED:
        chosen = _named(task, model, templates)
    else:
        source = str(templates) if isinstance(templates, str | Path) else "user"
        mapping = _read(templates)
        entry = mapping.get(task.name)
        if isinstance(entry, str) and entry in _NAMED:
            chosen = _named(task, model, entry)
        elif (own := _from_mapping(task, mapping, source)) is not None:
            chosen = own
        else:
            chosen = _default(task, model)
            _warn_once(
                source,
                task.name,
                f"templates= has none for task {task.name!r}, only for {sorted(mapping)}: those of {chosen.source} "
                "are used",
            )
    if model.wording == PACKAGE and chosen.source != PACKAGE:
        _warn_other_templates(task, model)
    if model.wording == "checkpoint" and not to_learn:
        _warn_untrained(task, model)
    return chosen


def package_is_installed() -> bool:
    """Whether ``cell2sentence`` is installed. It is never imported; only its prompt files are read."""
    return importlib.util.find_spec(PACKAGE) is not None


def templates_file(templates: str | None, base: Path) -> str | Path | None:
    """The name of templates as it is, a file in the folder `base`."""
    return templates if templates is None or templates in _NAMED else base / templates


def as_mapping(task: Task) -> list[dict[str, str]]:
    """The task's templates as plain values, stored with a checkpoint."""
    written = (dataclasses.asdict(template) for template in task.templates)
    return [{part: text for part, text in template.items() if text} for template in written]


def _default(task: Task, model: Model) -> Task:
    """The task with the templates that the model was trained with, as far as they are known."""
    if model.wording == "checkpoint":
        return _from_mapping(task, model.metadata["templates"], "checkpoint") or task
    if model.wording == PACKAGE and task.name in PACKAGE_FILES and package_is_installed():
        return _from_package(task)
    return task


def _named(task: Task, model: Model, name: str) -> Task:
    """The task with this project's or the package's templates; of a task that it lacks, the default ones."""
    if name != PACKAGE:
        return task
    if not package_is_installed():
        raise ImportError(f"templates={PACKAGE!r} reads the templates of that package: pip install --no-deps {PACKAGE}")
    if task.name in PACKAGE_FILES:
        return _from_package(task)
    chosen = _default(task, model)
    if model.wording != PACKAGE:  # which has a warning of its own
        _warn_once(
            PACKAGE,
            task.name,
            f"{PACKAGE} has no templates of task {task.name!r}, only of {', '.join(sorted(PACKAGE_FILES))}: those of "
            f"{chosen.source} are used; pass others as templates={{{task.name!r}: [{{'prompt': …, 'answer': …}}]}}",
        )
    return chosen


def _read(templates: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(templates, Mapping):
        return templates
    path = Path(templates)
    if not path.is_file():
        raise FileNotFoundError(f"templates must be 'cell2sen', {PACKAGE!r} or a JSON file, found {str(templates)!r}")
    try:
        loaded = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        form = '{"task": [{"prompt": …, "answer": …}]}'
        raise ValueError(f"{path} must hold {form}, found a {type(loaded).__name__}")
    return loaded


def _from_mapping(task: Task, mapping: Mapping[str, Any], source: str) -> Task | None:
    """The task with the templates of a mapping; ``None`` if it has none for the task."""
    # The embedding prompt is the cell type prompt, unless there is one of its own.
    entries = mapping.get(task.name) or (mapping.get("annotate") if task.name == "embed" else None)
    if not entries:
        return None
    try:
        templates = tuple(Template(**entry) for entry in entries)
    except TypeError as error:
        parts = ", ".join(field.name for field in dataclasses.fields(Template))
        raise ValueError(f"templates of task {task.name!r} must be a list of {{{parts}}}: {error!r}") from error
    if task.answer == "none":
        templates = tuple(dataclasses.replace(template, answer=task.templates[0].answer) for template in templates)
    return task.reworded(templates, source)


def _from_package(task: Task) -> Task:
    """The task with the prompts and the response of the package's file, under the names of our slots."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "prompts" / PACKAGE_FILES[task.name]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        prompts, response = list(content["model_input"]), str(content["response"][0])
        written = " " + _our_slots(response, "sentence").lstrip()
        templates = []
        for prompt in (_our_slots(prompt, "genes").rstrip() for prompt in prompts):
            cell = _our_slots(_PACKAGE_CELL, "genes") if "{cells}" in prompt else ""
            answer_cell = _our_slots(_PACKAGE_CELL, "sentence") if "{cells}" in written else ""
            templates.append(Template(prompt=prompt, answer=written, cell=cell, answer_cell=answer_cell))
        return task.reworded(templates, PACKAGE)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"the installed {PACKAGE} stores its templates in another way than version 1.2 ({file.name}: {error!r}); "
            "use templates='cell2sen'"
        ) from error


def _our_slots(text: str, sentence: str) -> str:
    """A text of the package with our slots; its cell sentences have the name `sentence`."""
    for theirs, ours in (*PACKAGE_SLOTS.items(), ("cell_sentence", sentence)):
        text = text.replace(f"{{{theirs}}}", f"{{{ours}}}")
    return text


def _warn_once(of: str, task: str, message: str) -> None:
    if (of, task) not in _warned:
        _warned.add((of, task))
        logger.warning("%s", message)


def _warn_other_templates(task: Task, model: Model) -> None:
    """Warn once about a task whose templates are not those that the checkpoint was trained with."""
    advice = (
        f"pip install --no-deps {PACKAGE} installs the original templates"
        if task.name in PACKAGE_FILES
        else f"{PACKAGE} has no templates of this task; pass the original ones as templates=FILE if you have them"
    )
    _warn_once(
        model.name,
        task.name,
        f"{model.name} was trained with other templates than task {task.name!r} now uses, which can cost accuracy: "
        f"{advice}",
    )


def _warn_untrained(task: Task, model: Model) -> None:
    """Warn once about a task that the checkpoint's metadata do not list; embeddings need no training of their own."""
    trained = sorted(model.metadata["templates"])
    if task.answer != "none" and task.name not in trained:
        _warn_once(
            model.name,
            task.name,
            f"{model.name} was not trained on task {task.name!r}, only on {', '.join(trained)}: its answers are "
            "guesses",
        )
