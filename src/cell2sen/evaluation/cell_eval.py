"""Handover: the matched pair of predicted and real cells given to Arc's cell-eval, in one call."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen.evaluation import comparison
from cell2sen.evaluation.evaluate import evaluate
from cell2sen.evaluation.inputs import label
from cell2sen.evaluation.scoring.baselines import Arms

if TYPE_CHECKING:
    from anndata import AnnData

_COLUMN, _CONTROL = "perturbation", "control"


def pairs(predicted: Any, real: Any, **options: Any) -> dict[str, tuple[AnnData, AnnData]]:
    """The AnnData pair that cell-eval takes, for each context: predicted and real cells, each with the same controls.

    Parameters
    ----------
    options
        As in :func:`cell2sen.evaluation.evaluate.evaluate`: `perturbation`, `control`, `context`, `rename` and where
        values are.

    Returns
    -------
    dict
        Name of the context (``"all"`` without one) → (predicted, real). ``X`` is ln(1 + CP10k) over the shared genes,
        float32 CSR; ``obs["perturbation"]`` is ``"control"`` for controls.
    """
    from inspect import signature

    asked = {name: one.default for name, one in signature(evaluate).parameters.items()} | options
    given = comparison.read_sides(predicted, real, asked["train"], asked)
    arms, _ = comparison.arms_of("perturb", given, asked)
    contexts = dict.fromkeys(arms.context(key) for key in arms.keys if arms.context(key) in arms.controls)
    return {label(context) or "all": _pair(arms, context, given.genes) for context in contexts}


def cell_eval(predicted: Any, real: Any, *, profile: str = "full", threads: int = 1, **options: Any) -> pd.DataFrame:
    """All metrics of cell-eval, one row per perturbation and context.

    Parameters
    ----------
    profile
        Which metrics: ``"full"``, ``"vcc"``, ``"minimal"``, ``"de"`` or ``"anndata"``.
    threads
        Of its differential expression.
    options
        As in :func:`pairs`.

    Raises
    ------
    ImportError
        cell-eval is not installed.
    """
    try:
        from cell_eval import MetricsEvaluator  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError("this hands over to another package: pip install cell-eval") from error
    frames = []
    for context, (one, other) in pairs(predicted, real, **options).items():
        with tempfile.TemporaryDirectory() as folder:
            judge = MetricsEvaluator(
                one,
                other,
                control_pert=_CONTROL,
                pert_col=_COLUMN,
                num_threads=threads,
                outdir=folder,
                skip_de=profile == "anndata",
            )
            results, _ = judge.compute(profile=profile, write_csv=False)
        frames.append(pd.DataFrame(results.to_dict(as_series=False)).assign(context=context))
    return pd.concat(frames, ignore_index=True)


def _pair(arms: Arms, context: tuple[str, ...], genes: list[str]) -> tuple[AnnData, AnnData]:
    keys = [key for key in arms.keys if arms.context(key) == context]
    control = arms.real.rows(arms.controls[context])
    made = []
    for side, table in ((arms.predicted, arms.predicted_groups), (arms.real, arms.real_groups)):
        blocks = [control, *(side.rows(table[key]) for key in keys)]
        names = np.repeat([_CONTROL, *(key[0] for key in keys)], [block.shape[0] for block in blocks])
        made.append(_anndata(sp.vstack(blocks, format="csr"), names, genes))
    return made[0], made[1]


def _anndata(matrix: Any, names: Any, genes: list[str]) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame({_COLUMN: pd.Categorical(names)}, index=[f"cell{row}" for row in range(len(names))])
    return AnnData(matrix.astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))
