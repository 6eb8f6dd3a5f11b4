"""Arc's cell-eval on the matched pair of predicted and real cells, in one call."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cell2sen.evaluation.inputs import group_name, read_sides, some_of
from cell2sen.evaluation.scoring.groups import Groups, Key, perturbation_groups
from cell2sen.evaluation.settings import Settings

if TYPE_CHECKING:
    from anndata import AnnData

_COLUMN, _CONTROL = "perturbation", "control"


def pairs(predicted: Any, real: Any, *, train: Any = None, **options: Any) -> dict[str, tuple[AnnData, AnnData]]:
    """Pairs of AnnData objects for cell-eval, by context: predicted and real cells, each with the same controls.

    Parameters
    ----------
    predicted, real, train, options
        As in :func:`cell2sen.evaluation.evaluate.evaluate`: `perturbation`, `control`, `context`, `rename`, layers and
        scales. With `train`, genes that the training cells do not have are left out.

    Returns
    -------
    dict
        Name of the context (``"all"`` without one) → (predicted, real). ``X`` is ln(1 + CP10k) over the shared genes,
        float32 CSR; ``obs["perturbation"]`` is ``"control"`` for controls. Contexts without control cells are left out.

    Raises
    ------
    ValueError
        No context of the predicted cells has control cells; lists the contexts.
    """
    settings = Settings.of(**options)
    sides = read_sides(predicted, real, train, settings.values)
    sides.align(settings.values.case)
    groups = perturbation_groups(sides, settings)
    contexts = dict.fromkeys(map(groups.context, groups.keys))
    if not any(context in groups.real.controls for context in contexts):
        raise ValueError(
            "none of the contexts of the scored cells has control cells, which cell-eval needs: scored are "
            f"{some_of([group_name(context) for context in contexts])}, controls are in "
            f"{some_of([group_name(context) for context in groups.real.controls])}. Leave columns out of context=, or "
            "add control cells of these contexts to the real cells"
        )
    return {
        group_name(context) or "all": _pair(groups, context, sides.genes)
        for context in contexts
        if context in groups.real.controls
    }


def cell_eval(predicted: Any, real: Any, *, profile: str = "full", threads: int = 1, **options: Any) -> pd.DataFrame:
    """Scores of cell-eval's metrics, one row per perturbation and context.

    Parameters
    ----------
    predicted, real, options
        As in :func:`pairs`.
    profile
        Set of metrics: ``"full"``, ``"vcc"``, ``"minimal"``, ``"de"`` or ``"anndata"``.
    threads
        Threads for cell-eval's differential expression.

    Raises
    ------
    ImportError
        cell-eval is not installed.
    """
    try:
        from cell_eval import MetricsEvaluator  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError("cell-eval is not installed: pip install cell-eval") from error
    frames = []
    for context, (predicted_cells, real_cells) in pairs(predicted, real, **options).items():
        with tempfile.TemporaryDirectory() as folder:
            evaluator = MetricsEvaluator(
                predicted_cells,
                real_cells,
                control_pert=_CONTROL,
                pert_col=_COLUMN,
                num_threads=threads,
                outdir=folder,
                skip_de=profile == "anndata",
            )
            results, _ = evaluator.compute(profile=profile, write_csv=False)
        frames.append(pd.DataFrame(results.to_dict(as_series=False)).assign(context=context))
    return pd.concat(frames, ignore_index=True)


def _pair(groups: Groups, context: Key, genes: list[str]) -> tuple[AnnData, AnnData]:
    keys = [key for key in groups.keys if groups.context(key) == context]
    control = groups.real.cells.rows(groups.real.controls[context])
    sides = []
    for side in (groups.predicted, groups.real):
        blocks = [control, *(side.cells.rows(side.groups[key]) for key in keys)]
        names = np.repeat([_CONTROL, *(key[0] for key in keys)], [block.shape[0] for block in blocks])
        sides.append(_anndata(sp.vstack(blocks, format="csr"), names, genes))
    return sides[0], sides[1]


def _anndata(matrix: Any, names: Any, genes: list[str]) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame({_COLUMN: pd.Categorical(names)}, index=[f"cell{row}" for row in range(len(names))])
    return AnnData(matrix.astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))
