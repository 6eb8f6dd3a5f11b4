"""Scales of predicted, real and training cells, and of the layers control and delta of a prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from cell2sen.data.reader import Reader
from cell2sen.data.scale.contradictions import refuse_overflow
from cell2sen.data.scale.noise import without_noise
from cell2sen.data.scale.recognition import recognise
from cell2sen.data.scale.units import COUNTS, LN_CP10K, NAMED, TARGET, Scale, ScaleName, check_scale_name

logger = logging.getLogger(__name__)

#: Verbs of this package that write ln(1 + CP10k).
_WRITES_LN_CP10K = ("perturb", "generate", "samples")

#: ln(1 + CP10k) is at most this large, with rounding.
_MAX_LN_CP10K = np.log1p(TARGET) + 0.05

#: Logarithms that a regression predicts are slightly negative; z-scores are lower, or high on the other side.
_MIN_PREDICTED, _MAX_PREDICTED = -2.0, 20.0

#: Cells that are looked at; and the share of values at which a difference from the layers is no rounding.
_SAMPLE, _DIFFERENT = 512, 0.02


def scale_of_cells(reader: Reader, name: str, given: ScaleName, verbs: Mapping[str, Any]) -> Scale:
    """Scale of the cells of one side; a warning if it is assumed, or if the given one does not fit the values.

    Parameters
    ----------
    name
        ``"predicted"``, ``"real"`` or ``"train"``.
    given
        Name of the scale, or ``"auto"``.
    verbs
        Records that this package has left in ``uns``.

    Raises
    ------
    ValueError
        Values that cannot be ranked, or that cannot be of the given scale.
    """
    argument = "scale" if name == "predicted" else "real_scale"
    check_scale_name(given, argument)
    sample, _ = without_noise(_sample(reader.read, reader.n_obs))
    if given in (None, "auto"):
        if _records_counts(sample, verbs):
            return COUNTS
        scale = _recorded(sample, name) if set(verbs) & set(_WRITES_LN_CP10K) else None
        scale = scale or _recognised(sample, name, reader.hint)
        if not scale.certain:
            _warn(f"the scale of the {name} cells is not certain; they are taken for: {scale}", scale, argument)
        return scale
    scale = NAMED[given]
    refuse_overflow(sample.data, scale)
    try:
        found = _recognised(sample, name, reader.hint)
    except ValueError as error:
        logger.warning("%s=%r was given, but the %s cells are doubtful: %s", argument, given, name, error)
        return scale
    if found.certain and not scale.agrees_with(found):
        _warn(f"{argument}={given!r} was given, but the {name} cells look like {found}", found, argument)
    return scale


def _recorded(sample: sp.csr_matrix, name: str) -> Scale | None:
    """The scale that this package writes; ``None`` if the values cannot have it any more."""
    if not sample.nnz or sample.data.max() <= _MAX_LN_CP10K:
        return LN_CP10K
    logger.warning(
        "uns records ln(1 + CP10k) for the %s cells, but there are values up to %.4g: the scale is recognised anew",
        name,
        sample.data.max(),
    )
    return None


def _records_counts(sample: sp.csr_matrix, verbs: Mapping[str, Any]) -> bool:
    """Whether this package recorded counts, and the values still are: few and small ones look like logarithms."""
    units = [verbs[verb].get("unit") for verb in verbs if verb in _WRITES_LN_CP10K and hasattr(verbs[verb], "get")]
    return COUNTS.kind in map(str, units) and bool((sample.data == np.rint(sample.data)).all())


def _recognised(sample: sp.csr_matrix, name: str, hint: str) -> Scale:
    if not sample.nnz or sample.data.min() >= 0:
        return recognise(sample, hint)
    low, high = float(sample.data.min()), float(sample.data.max())
    if high >= _MAX_PREDICTED or low < _MIN_PREDICTED:
        raise ValueError(
            f"the {name} cells hold values from {low:.3g} to {high:.3g}: they look scaled per gene (z-scores). Pass "
            "counts or log-normalised values, as X, layer= or real_layer= (the name of a layer, or raw)"
        )
    return replace(LN_CP10K, certain=False, evidence=(f"values are slightly negative, down to {low:.3g}",))


def usable_layers(adata: Any, reader: Reader, scale: Scale, verbs: Mapping[str, Any]) -> dict[str, Scale]:
    """Layers ``control`` and ``delta`` of a prediction that can be scored, with their scales.

    Those that this package wrote are ln(1 + CP10k). Of other tools, ``control`` is converted from the scale that is
    recognised, and ``delta`` is used only if it is the difference of X, in ln(1 + CP10k), from possible controls;
    otherwise the change is that from the real controls. A warning names layers that are left out.
    """
    layers = {name: LN_CP10K for name in ("control", "delta") if name in adata.layers}
    if not layers or "perturb" in verbs:
        return layers
    if "control" in layers:
        control = _sample(lambda rows: sp.csr_matrix(adata.layers["control"][rows]), adata.n_obs)
        try:
            layers["control"] = _recognised(without_noise(control)[0], "control", "")
        except ValueError as error:
            del layers["control"]
            logger.warning("layers['control'] of the predicted cells is not used: %s", error)
    if "delta" in layers and not _is_difference(adata, reader, scale, layers.get("control")):
        del layers["delta"]
        logger.warning(
            "layers['delta'] of the predicted cells is not used: it is not the difference of X from a control in "
            "ln(1 + CP10k); the change is that from the real controls"
        )
    return layers


def _is_difference(adata: Any, reader: Reader, scale: Scale, control: Scale | None) -> bool:
    """Whether X without delta is a control, all in ln(1 + CP10k)."""
    if not scale.is_ln_cp10k:
        return False
    predicted = _sample(reader.read, reader.n_obs).toarray()
    delta = _sample(lambda rows: sp.csr_matrix(adata.layers["delta"][rows]), adata.n_obs).toarray()
    before = predicted - delta
    size = max(float(np.abs(predicted).mean()), 1e-9)
    if float(-np.minimum(before, 0).mean()) > _DIFFERENT * size or before.max(initial=0) > _MAX_LN_CP10K:
        return False
    if control is None or not control.is_ln_cp10k:
        return "control" not in adata.layers
    stored = _sample(lambda rows: sp.csr_matrix(adata.layers["control"][rows]), adata.n_obs).toarray()
    return bool(np.abs(before - stored).mean() < _DIFFERENT * size)


def _sample(read: Any, n: int) -> sp.csr_matrix:
    return sp.csr_matrix(read(np.linspace(0, n - 1, min(_SAMPLE, n)).astype(int)))


def _warn(text: str, scale: Scale, argument: str) -> None:
    reason, names = "; ".join(scale.evidence), ", ".join(NAMED)
    logger.warning("%s (%s). If it is another one, pass %s= (%s)", text, reason, argument, names)
