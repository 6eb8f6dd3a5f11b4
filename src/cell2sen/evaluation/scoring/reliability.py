"""Scores by how well groups were measured: by the agreement of two halves of their real cells."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cell2sen.evaluation.scoring.baselines.cells import Ceiling, Prediction

#: Lower ends of the classes of reliability.
CLASSES = {"reliable": 0.8, "fair": 0.5, "noisy": -np.inf}


def by_reliability(scores: pd.DataFrame, metric: str, best_baseline: str) -> pd.DataFrame:
    """Mean scores of groups that are measured about equally well.

    Parameters
    ----------
    scores
        :attr:`cell2sen.evaluation.result.Evaluation.scores`.
    metric
        Name of a metric of which 1 is perfect. Its ceiling in a group is the reliability of halves r, from which that
        of all cells follows: 2r / (1 + r) (Spearman 1910, Brown 1910), 0 for negative r.
    best_baseline
        Method that the prediction is compared with; "" for none.

    Returns
    -------
    One row per class (:data:`CLASSES`, by reliability of all cells) with ``n_groups``, ``reliability``, ``prediction``,
    ``best_baseline`` and ``prediction_share``, the prediction divided by the square root of the reliability: what it
    would reach if the truth had no noise (Spearman's correction for attenuation), for correlations only.
    """
    own = scores[(scores["metric"] == metric) & (scores["group"] != "all")]
    wide = own.pivot(index="group", columns="method", values="value")
    half = wide[Ceiling.name].clip(lower=0) if Ceiling.name in wide else pd.Series(np.nan, index=wide.index)
    reliability = 2 * half / (1 + half)
    rows, taken = [], pd.Series(False, index=wide.index)
    for name, least in CLASSES.items():
        chosen = (reliability >= least) & ~taken
        taken |= chosen
        prediction = wide.loc[chosen, Prediction.name]
        rows.append(
            {
                "reliability_class": name,
                "n_groups": int(chosen.sum()),
                "reliability": float(reliability[chosen].mean()),
                "prediction": float(prediction.mean()),
                "best_baseline": float(wide.loc[chosen, best_baseline].mean()) if best_baseline in wide else np.nan,
                "prediction_share": float((prediction / np.sqrt(reliability[chosen].where(reliability > 0))).mean()),
            }
        )
    return pd.DataFrame(rows).set_index("reliability_class")
