"""Names of perturbations: combinations in any order, and the usual names of controls."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from cell2sen.data.names.text import as_text, some

#: Name of control cells where the column has missing values instead.
CONTROL = "control"

#: Usual names of controls, in lower case without other signs and without a number at the end.
_CONTROLS = frozenset(
    {
        "control", "controls", "ctrl", "ctl", "cntrl", "negcontrol", "negativecontrol", "negctrl", "negctl", "dmso",
        "dmsocontrol", "vehicle", "vehiclecontrol", "nontargeting", "nontarget", "nontargetinggrna",
        "nontargetingsgrna", "nontargetingcontrol", "ntc", "nt", "ntctrl", "scramble", "scrambled", "scr",
        "safetargeting", "safeharbor", "unperturbed", "untreated", "nontreated", "notreatment", "unstimulated",
        "unstim", "nostim", "mock", "sham", "pbs", "saline", "noperturbation", "none", "resting", "notarget",
        "notargeting", "notargetcontrol", "noguide", "nosgrna", "nogrna", "emptyvector", "wildtype",
        "uninfected", "noninfected", "mockinfected", "intergenic", "oneintergenicsite", "nosite", "aavs", "aavs1",
        "safeharbour", "nodrug", "unexposed", "nontargetingcontrolguideforhuman", "nontargetingcontrolguideformouse",
        "isotype", "isotypecontrol",
    }
)  # fmt: skip

#: Words that may stand beside a name of controls, and doses: "control siRNA", "DMSO 0.1%", "dmso_0.0".
_BESIDE = frozenset(
    {"sirna", "shrna", "sgrna", "grna", "sg", "guide", "guides", "cell", "cells", "group", "only", "human", "mouse"}
)
_DOSE = re.compile(
    r"\d+(?:[.,]\d+)?\s*(?:%|[nu\u00b5\u03bcm]?m|[nu\u00b5\u03bcm]?g|h|hr|hrs|d)?(?:/m?l)?", re.IGNORECASE
)

#: Kinds of guides in front of a name: sgNTC, siControl, shSCR.
_GUIDE = re.compile(r"^(?:sg|si|sh|g)(?=[A-Z_-])|(?<=^NT)g(?=\d)")

#: Signs between the parts of a combination. Only "+" always is one: the others also occur within names.
_SIGNS = re.compile(r"\s*[+_;&|,/]\s*")


def is_usual_control(name: str) -> bool:
    """Whether a perturbation has a usual name of controls: ctrl, DMSO, non-targeting, NegCtrl0, and so on."""
    parts = [part for part in re.split(r"[+;&|,/]", name) if part.strip()]
    return bool(parts) and all(map(_is_control, parts))


def _is_control(name: str) -> bool:
    """Whether a name is that of controls, or has only words that are, besides doses and kinds of guides."""
    if name.strip() == "WT" or _plain(_GUIDE.sub("", name.strip())) in _CONTROLS:
        return True
    words = [word for word in re.split(r"[\s()_]+", name) if word and not _DOSE.fullmatch(word)]
    words = [word for word in words if word.lower() not in _BESIDE]
    return bool(words) and all(_plain(_GUIDE.sub("", word)) in _CONTROLS for word in words)


def usual_controls(names: Iterable[str | None]) -> list[str]:
    """Those of the names that :func:`is_usual_control`, each once."""
    return [name for name in dict.fromkeys(names) if name and is_usual_control(name)]


def control_names(control: str | Sequence[Any] | None) -> list[str | None]:
    """Names of controls as text; ``None`` stands for cells without a value (``None``, NaN, "", "nan", …)."""
    values = [control] if control is None or isinstance(control, str | bytes | float | int) else list(control)
    return list(dict.fromkeys(map(as_text, values)))


def named_controls(values: Sequence[str | None], controls: Sequence[str | None]) -> list[str | None]:
    """Perturbation of each cell, where missing values become :data:`CONTROL` if `controls` contains ``None``."""
    if None not in controls:
        return list(values)
    name = name_of_controls(controls)
    return [name if value is None else value for value in values]


def name_of_controls(controls: Sequence[str | None]) -> str:
    """One name for all controls: the first one, or :data:`CONTROL` if they are cells without a value only."""
    return next((control for control in controls if control is not None), CONTROL)


def no_controls(column: str, owner: str, values: Sequence[str | None], controls: Sequence[str | None]) -> str:
    """Error text for a column without control cells: what there is, usual names of controls, missing values.

    Parameters
    ----------
    owner
        Name of the cells, such as "the real cells".
    """
    present = sorted({value for value in values if value is not None})
    missing = sum(value is None for value in values)
    wanted, more = [name or "" for name in controls], f" and {len(present) - 10} more" if len(present) > 10 else ""
    text = f"no control cells: obs[{column!r}] of {owner} is never {wanted}; available: {present[:10]}{more}"
    if missing:
        text += (
            f". {missing} of {len(values)} cells have no value (missing, NaN or blank): if these are the controls, "
            "pass control=None (--control '')"
        )
    if usual := usual_controls(present):
        value = repr(usual if len(usual) > 1 else usual[0]) if len(usual) <= 50 else f"[{usual[0]!r}, …]"
        options = " ".join(f"--control {name!r}" for name in usual[:5]) + (" …" if len(usual) > 5 else "")
        text += f". {some(usual)} may be controls: control={value} ({options})"
    return f"{text}. Name the value of the controls with control=, and put the control cells into the same file"


def combination(name: str, alone: Collection[str] = (), controls: Collection[str] = ()) -> tuple[str, ...]:
    """Parts of a combination of perturbations in alphabetical order; one part for single perturbations.

    ``A+B`` is ``B+A``, and ``A+ctrl`` is ``A``. Other signs (``A_B``, ``A;B``, ``A&B``, ``A|B``, ``A,B``, ``A/B``)
    separate parts only where each part is in `alone` or a control, and ``A_ctrl`` is not ``A``: it may be its control.

    Parameters
    ----------
    alone
        Names of single perturbations.
    controls
        Names of controls, besides the usual ones.
    """

    def is_control(part: str) -> bool:
        return part in controls or _plain(part) in _CONTROLS

    name = name.strip()
    parts = [part.strip() for part in name.split("+")]
    if len(parts) == 1:
        parts = _SIGNS.split(name)
        known = all(part in alone or is_control(part) for part in parts)
        return tuple(sorted(parts)) if known and len(parts) > 1 else (name,)
    if not all(parts):
        return (name,)
    perturbed = sorted(part for part in parts if not is_control(part))
    return tuple(perturbed) if perturbed else (name,)


def same_combinations(
    names: Mapping[str, int], others: Iterable[str] = (), controls: Collection[str] = ()
) -> dict[str, str]:
    """Names of combinations that others have in another order: name → the name to use instead.

    That of `others` if there is one, else the most frequent of `names`, else the first in alphabetical order.

    Parameters
    ----------
    names
        Name → number of cells.
    others
        Names that are kept as they are.
    """
    others = list(dict.fromkeys(others))
    alone = {*names, *others}
    for name in [*alone]:  # A also occurs alone where A_ctrl does
        perturbed = [part for part in _SIGNS.split(name) if part not in controls and _plain(part) not in _CONTROLS]
        alone |= set(perturbed) if len(perturbed) == 1 else set()
    key_of = {name: combination(name, alone - {name}, controls) for name in (*names, *others)}
    target: dict[tuple[str, ...], str] = {}
    for name in [*others, *sorted(names, key=lambda name: (-names[name], name))]:
        target.setdefault(key_of[name], name)
    return {name: target[key_of[name]] for name in names if name not in others and target[key_of[name]] != name}


def loosely_equal(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a name and another one that have the same parts, at any sign and in any case: they may be the same."""
    by_parts: dict[tuple[str, ...], str] = {}
    for other in others:
        by_parts.setdefault(_loose(other), other)
    return [(name, by_parts[_loose(name)]) for name in names if _loose(name) in by_parts]


def combined_in_file(values: Sequence[str | None], controls: Collection[str] = ()) -> dict[str, str]:
    """:func:`same_combinations` of the values of one column."""
    return same_combinations(Counter(value for value in values if value is not None), (), controls)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", re.sub(r"[\W_]*\d+$", "", name.strip())).lower() or name


def _loose(name: str) -> tuple[str, ...]:
    parts = [re.sub(r"[\W_]+", "", part).casefold() for part in _SIGNS.split(name)]
    return tuple(sorted(part for part in parts if part and part not in _CONTROLS))
