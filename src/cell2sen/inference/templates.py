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

#: Task → file in the package's folder ``prompts``.
_PACKAGE_FILES = {
    "annotate": "single_cell_cell_type_prediction_prompts.json",
    "embed": "single_cell_cell_type_prediction_prompts.json",
    "generate": "single_cell_cell_type_conditional_generation_prompts.json",
}

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
        two. A path or mapping ``{task: [{"prompt": …, "answer": …}]}`` gives the user's own templates.
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
    if templates is None and model.wording == "checkpoint":
        chosen = _from_mapping(task, model.metadata["templates"], "checkpoint")
    elif templates is None and model.wording == PACKAGE:
        chosen = _from_package(task) if task.name in _PACKAGE_FILES and package_is_installed() else task
    elif templates in (None, "cell2sen"):
        chosen = task
    elif templates == PACKAGE:
        if not package_is_installed():
            raise ImportError(
                f"templates={PACKAGE!r} reads the templates of that package: pip install --no-deps {PACKAGE}"
            )
        chosen = _from_package(task)
    else:
        assert templates is not None
        source = str(templates) if isinstance(templates, str | Path) else "user"
        mapping = _read(templates)
        chosen = _from_mapping(task, mapping, source)
        if chosen is task and (source, task.name) not in _warned:
            _warned.add((source, task.name))
            logger.warning(
                "templates= has none for task %r, only for %s: the templates of cell2sen are used",
                task.name,
                sorted(mapping),
            )
    if model.wording == PACKAGE and chosen.source != PACKAGE:
        _warn_other_templates(task, model)
    if model.wording == "checkpoint" and not to_learn:
        _warn_untrained(task, model)
    return chosen


def package_is_installed() -> bool:
    """Whether ``cell2sentence`` is installed. It is never imported; only its prompt files are read."""
    return importlib.util.find_spec(PACKAGE) is not None


def as_mapping(task: Task) -> list[dict[str, str]]:
    """The task's templates as plain values, stored with a checkpoint."""
    written = (dataclasses.asdict(template) for template in task.templates)
    return [{part: text for part, text in template.items() if text} for template in written]


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


def _from_mapping(task: Task, mapping: Mapping[str, Any], source: str) -> Task:
    # The embedding prompt is the cell type prompt, unless there is one of its own.
    entries = mapping.get(task.name) or (mapping.get("annotate") if task.name == "embed" else None)
    if not entries:
        return task
    try:
        templates = tuple(Template(**entry) for entry in entries)
    except TypeError as error:
        parts = ", ".join(field.name for field in dataclasses.fields(Template))
        raise ValueError(f"templates of task {task.name!r} must be a list of {{{parts}}}: {error!r}") from error
    if task.answer == "none":
        templates = tuple(dataclasses.replace(template, answer=task.templates[0].answer) for template in templates)
    return task.reworded(templates, source)


def _from_package(task: Task) -> Task:
    if task.name not in _PACKAGE_FILES:
        raise ValueError(f"{PACKAGE} has no templates for task {task.name!r}, only for {sorted(_PACKAGE_FILES)}")
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "prompts" / _PACKAGE_FILES[task.name]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        prompts, response = list(content["model_input"]), str(content["response"][0])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ValueError(
            f"the installed {PACKAGE} stores its templates in another way than version 1.2 ({file.name}: {error!r}); "
            "use templates='cell2sen'"
        ) from error
    sentence_slot = "{sentence}" if task.answer == "sentences" else "{genes}"

    def ours(text: str) -> str:
        return text.replace("{num_genes}", "{n_genes}").replace("{cell_sentence}", sentence_slot)

    answer = " " + ours(response).lstrip()
    templates = tuple(Template(prompt=ours(prompt).rstrip(), answer=answer) for prompt in prompts)
    return task.reworded(templates, PACKAGE)


def _warn_other_templates(task: Task, model: Model) -> None:
    """Warn once about a task whose templates are not those that the checkpoint was trained with."""
    if (model.name, task.name) in _warned:
        return
    _warned.add((model.name, task.name))
    advice = (
        f"pip install --no-deps {PACKAGE} installs the original templates"
        if task.name in _PACKAGE_FILES
        else f"{PACKAGE} has no templates of this task; pass the original ones as templates=FILE if you have them"
    )
    logger.warning(
        "%s was trained with other templates than task %r now uses, which can cost accuracy: %s",
        model.name,
        task.name,
        advice,
    )


def _warn_untrained(task: Task, model: Model) -> None:
    """Warn once about a task that the checkpoint's metadata do not list; embeddings need no training of their own."""
    trained = sorted(model.metadata["templates"])
    if task.answer == "none" or task.name in trained or (model.name, task.name) in _warned:
        return
    _warned.add((model.name, task.name))
    logger.warning(
        "%s was not trained on task %r, only on %s: its answers are guesses", model.name, task.name, ", ".join(trained)
    )
