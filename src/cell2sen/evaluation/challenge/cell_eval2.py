"""Arc's cell-eval2 on counts of predicted and real cells, beside its official baseline and replicate."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: What a good value of each of the six scored metrics does not show.
DOES_NOT_SHOW = {
    "pds_cosine": "size: only the angle between changes is ranked, among the perturbations of this data set",
    "expr_mse_unbiased_capped_norm": "which genes respond: abundant genes carry most of the error",
    "de_wilcoxon_direction_fidelity_yield_raw": "size of changes, and genes that the prediction leaves unchanged",
    "de_wilcoxon_direction_reach_raw": "size of changes: only signs of ranked genes count",
    "de_wilcoxon_sig_jaccard": "direction and size; it depends on the number and the noise of predicted cells",
    "de_wilcoxon_lfc_nmae": "genes that do not respond in the real cells",
}

#: Scored metrics of which lower values are better.
LOWER_IS_BETTER = ("expr_mse_unbiased_capped_norm", "de_wilcoxon_lfc_nmae")


def cell_eval2(
    predicted: AnnData | str | Path,
    real: AnnData | str | Path,
    *,
    perturbation: str = "perturbation",
    control: str = "control",
    context: str | None = None,
    profile: str = "vcc2026",
    references: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores of cell-eval2, one row per context and metric.

    Parameters
    ----------
    predicted
        Perturbed cells with counts in ``X``, such as those of ``tl.perturb(output="counts")``; controls among them are
        left out. Perturbations that the real cells do not have are left out, too.
    real
        Real perturbed cells and their controls, counts in ``X``.
    perturbation, control, context
        obs column and its value in controls; obs column of contexts that are scored one by one.
    profile
        A preset of cell-eval2.
    references
        Compute the official baseline (mean response) and replicate (real halves) of the scored perturbations, too.
    seed
        Of baseline and replicate.

    Returns
    -------
    DataFrame with ``context``, ``metric``, ``prediction``, ``baseline``, ``replicate``, ``scaled`` = (prediction −
    baseline) / (replicate − baseline), not clipped (missing for unscored metrics, and where the replicate is not better
    than the baseline), and ``does_not_show``. A replicate that cell-eval2 refuses to compute, since the changes of half
    of the cells are within their noise, is missing, with a warning. Both sides have the same real controls, over the
    genes they share. Perturbations that are no gene of the data are declared to have no target gene.

    Raises
    ------
    ImportError
        cell-eval2 is not installed.
    ValueError
        Values that are no counts, no shared gene or perturbation, or no controls.
    """
    try:
        import cell_eval2 as theirs  # type: ignore[import-not-found, unused-ignore]
        from cell_eval2.anchor import compute_replicate_anchor  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError("cell-eval2 is not installed: pip install 'cell2sen[vcc]'") from error
    sides = _read(predicted, "predicted"), _read(real, "real")
    frames = []
    for name in sorted({str(value) for value in sides[0].obs[context]}) if context else ["all"]:
        pair = [side[side.obs[context].astype(str) == name] if context else side for side in sides]
        ours, truth = matched_counts(pair[0], pair[1], perturbation=perturbation, control=control)
        labels = sorted(set(truth.obs["target"]) - {control})
        genes = set(truth.var_names)
        targets = None if genes >= set(labels) else {label: label if label in genes else None for label in labels}
        config = dataclasses.replace(
            theirs.EvalConfig.from_preset(profile), pert_col="target", control=control, target_gene_map=targets
        )
        tidy = theirs.compute_metrics(ours, truth, config=config)
        table = {"prediction": _means(theirs.aggregate_metrics_wide(tidy))}
        if references:
            base = theirs.build_generic_baseline(truth, config=config, seed=seed, allow_degenerate=True)
            table["baseline"] = _means(base.agg)
            table["replicate"] = {}
            try:
                _, anchor = compute_replicate_anchor(truth, config=config, base_seed=seed)
                table["replicate"] = dict(zip(anchor["metric"].to_list(), anchor["replicate"].to_list(), strict=True))
            except ValueError as error:  # halves of few cells, whose noise is larger than their changes
                logger.warning("cell-eval2 has no replicate of these cells (%s): %s", name, error)
        frame = pd.DataFrame(table, dtype=float).rename_axis("metric").reset_index()
        if references:
            span = frame["replicate"] - frame["baseline"]
            lower = frame["metric"].isin(LOWER_IS_BETTER)
            is_scale = frame["metric"].isin(DOES_NOT_SHOW) & (span.where(~lower, -span) > 0)
            frame["scaled"] = ((frame["prediction"] - frame["baseline"]) / span.where(is_scale)).astype(float)
        frame["does_not_show"] = frame["metric"].map(DOES_NOT_SHOW).fillna("")
        frame.insert(0, "context", name)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def matched_counts(predicted: AnnData, real: AnnData, *, perturbation: str, control: str) -> tuple[AnnData, AnnData]:
    """Both sides over shared genes and perturbations (obs column ``target``), each with the real controls.

    Raises
    ------
    ValueError
        No shared gene or perturbation, or no controls.
    """
    shared = set(predicted.var_names)
    genes = [gene for gene in real.var_names if gene in shared]
    found = [side.obs[perturbation].astype(str).to_numpy() for side in (predicted, real)]
    labels = sorted(set(found[0]) & set(found[1]) - {control})
    if not genes or not labels:
        raise ValueError(
            f"the two sides share {len(genes)} genes and {len(labels)} perturbations: predicted are "
            f"{sorted(set(found[0]))[:6]}, real are {sorted(set(found[1]))[:6]}"
        )
    if control not in found[1]:
        raise ValueError(
            f"no real cell is a control ({control!r} in obs[{perturbation!r}]); found {sorted(set(found[1]))[:6]}"
        )
    controls = sp.csr_matrix(real[found[1] == control, genes].X)
    sides = []
    for side, names in zip((predicted, real), found, strict=True):
        kept = np.isin(names, labels)
        matrix = sp.vstack([controls, sp.csr_matrix(side[kept, genes].X)], format="csr")
        sides.append(_anndata(matrix, [control] * controls.shape[0] + list(names[kept]), genes))
    return sides[0], sides[1]


def _anndata(matrix: Any, targets: list[str], genes: list[str]) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame({"target": pd.Categorical(targets)}, index=[f"cell{row}" for row in range(len(targets))])
    return AnnData(matrix.astype(np.float32), obs=obs, var=pd.DataFrame(index=genes))


def _read(data: AnnData | str | Path, name: str) -> AnnData:
    from anndata import read_h5ad

    adata = read_h5ad(data) if isinstance(data, str | Path) else data
    values = sp.csr_matrix(adata.X).data
    if (values < 0).any() or (values != np.rint(values)).any():
        raise ValueError(
            f"cell-eval2 needs counts, but X of the {name} cells has values that are negative or not whole: predict "
            "with output='counts' (--counts), or pass an AnnData with counts in X"
        )
    return adata


def _means(wide: Any) -> dict[str, float]:
    row = wide.filter(wide["statistic"] == "mean").to_dicts()[0]
    return {name: value for name, value in row.items() if name != "statistic"}
