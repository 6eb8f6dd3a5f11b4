"""Choice of the cells whose response is predicted, and of the perturbation of each: controls in a file with others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence

import pandas as pd

from cell2sen.data.names.perturbations import control_names, no_controls, same_combinations, usual_controls
from cell2sen.data.names.text import as_texts, some
from cell2sen.data.obs import clean_perturbations, perturbations_of_cells
from cell2sen.model import Model

logger = logging.getLogger(__name__)

#: Value of `control` for the usual names of controls.
AUTO = "auto"

EITHER = (
    "pass perturbation= (a name or a list), perturbation_column= (an obs column: of each cell), or both: the response "
    "of the column's controls"
)

#: Usual names of controls that are also states of cells, and most names of a column of perturbations.
_STATES, _MAX_NAMES = frozenset({"none", "resting", "wt", "wildtype", "wild type", "wild-type"}), 10_000


def perturbations_to_predict(
    obs: pd.DataFrame,
    perturbation: str | Sequence[str | None] | None,
    column: str | None,
    control: str | Sequence[str | None] | None,
    model: Model,
) -> tuple[str | None, ...]:
    """Perturbation of each cell whose response is predicted; ``None`` for others, controls among them.

    Parameters
    ----------
    obs
        Annotations of the cells.
    perturbation, column, control
        As for :func:`cell2sen.tl.perturb`.

    Raises
    ------
    KeyError
        No such column; lists the available ones.
    ValueError
        Neither `perturbation` nor `column`, both without `control`, not one entry per cell, or no cell to predict.
    """
    if perturbation is None:
        if column is None:
            raise ValueError(EITHER)
        in_column = perturbations_of_cells(obs, column)
        require_perturbation(in_column)
        return without_controls(in_column, model, control)
    given = perturbation_per_cell(perturbation, len(obs))
    if column is None and not isinstance(perturbation, str):
        return without_controls(given, model, control)
    is_control = controls_of_cells(obs, column, control, model.metadata.get("perturbations") or {})
    if is_control is None:
        return without_controls(given, model, control)
    kept = tuple(value if chosen else None for value, chosen in zip(given, is_control, strict=True))
    return without_controls(kept, model)


def controls_of_cells(
    obs: pd.DataFrame,
    column: str | None,
    control: str | Sequence[str | None] | None,
    trained: Collection[str] = (),
) -> list[bool] | None:
    """Which cells are controls, in a file with controls and other cells; ``None`` if all cells are to be predicted.

    Parameters
    ----------
    column
        ``obs`` column with the perturbation of each cell. ``None``: the first with names of controls and others.
    control
        Names of controls; ``"auto"``: the usual ones; ``()``: all cells are to be predicted.
    trained
        Perturbations of the model, which are not among the usual names of controls.

    Raises
    ------
    ValueError
        No cell is a control in `column`, or no column has these names.
    """
    names = None if control == AUTO else control_names(control)
    if names == []:
        return None
    if column is None:
        found = column_with_controls(obs, names, trained)
        if found is None and names is not None:
            raise ValueError(
                f"no column of obs has controls called {some([str(name) for name in names])} beside other cells: name "
                "the column, perturbation_column="
            )
        if found is None:
            return None
        column, names = found
    values = perturbations_of_cells(obs, column)
    names = [name for name in usual_controls(values) if name not in trained] if names is None else names
    is_control = [value in names for value in values]
    if not any(is_control):
        raise ValueError(no_controls(column, "the cells", values, names or ["control"]))
    others = sorted({value for value, chosen in zip(values, is_control, strict=True) if value and not chosen})
    if others:
        logger.info(
            "responses of the %d controls in obs[%r] (%s); not of %s. control=() predicts all cells",
            sum(is_control),
            column,
            some([name or "cells without a value" for name in names]),
            some(others),
        )
    return is_control


def column_with_controls(
    obs: pd.DataFrame, controls: Sequence[str | None] | None, trained: Collection[str]
) -> tuple[str, list[str | None]] | None:
    """First text column with names of controls and others, and these names; ``None`` without one.

    Parameters
    ----------
    controls
        Names to look for. ``None``: the usual ones, except states of cells such as "resting".
    """
    for column in obs.columns:
        values = obs[column]
        if not (isinstance(values.dtype, pd.CategoricalDtype) or values.dtype == object or values.dtype == "string"):
            continue
        if len(different := values.drop_duplicates()) > _MAX_NAMES:
            continue
        names = [name for name in dict.fromkeys(as_texts(different)) if name is not None]
        if controls is None:
            own: list[str | None] = [
                name for name in usual_controls(names) if name.lower() not in _STATES and name not in trained
            ]
        else:
            own = [name for name in controls if name in names]
        if own and set(names) - set(own):
            return str(column), own
    return None


def without_controls(
    values: tuple[str | None, ...], model: Model, control: str | Sequence[str | None] | None = AUTO
) -> tuple[str | None, ...]:
    """The perturbations, with ``None`` for controls, and in the model's order of combinations; a warning counts them.

    Parameters
    ----------
    control
        Names of controls. ``"auto"``: the usual names that the model does not know.

    Raises
    ------
    ValueError
        All are controls.
    """
    trained = model.metadata.get("perturbations") or {}
    untreated = model.metadata.get("no_perturbation")
    if control == AUTO:
        names = [name for name in usual_controls(values) if name not in trained and name != untreated]
    else:
        names = [name for name in control_names(control) if name is not None]
    found = sorted({value for value in values if value in names and value is not None})
    n_controls = sum(value in found for value in values)
    if found:
        kept = tuple(None if value in found else value for value in values)
        if not any(kept):
            raise ValueError(
                f"no cell has a perturbation: {some(found)} are names of controls, which get no response; control=() "
                "takes them for perturbations"
            )
        logger.warning(
            "%d of %d cells are controls (%s) and get no response; control=() takes these names for perturbations",
            n_controls,
            len(values),
            some(found),
        )
        values = kept
    same = same_combinations(Counter(value for value in values if value and value not in trained), trained, names)
    for name, other in same.items():
        logger.warning("%r is %r in another order; the model was trained on that name", name, other)
    return tuple(same.get(value, value) if value else None for value in values)


def perturbation_per_cell(perturbation: str | Sequence[str | None], n: int) -> tuple[str | None, ...]:
    """Perturbation of each of `n` cells; ``None`` for missing values and empty strings.

    Raises
    ------
    ValueError
        Not one entry per cell, or no entry that names a perturbation.
    """
    values = clean_perturbations([perturbation] * n if isinstance(perturbation, str) else list(perturbation), n)
    require_perturbation(values)
    return values


def require_perturbation(perturbations: tuple[str | None, ...]) -> None:
    """Raise a ValueError unless a cell has a perturbation."""
    if not any(perturbations):
        raise ValueError(
            "no cell has a perturbation: pass perturbation= (one name, or a list with one entry per cell), or "
            "perturbation_column= (an obs column in which at least one entry is not missing)"
        )
