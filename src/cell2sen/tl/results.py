"""Results of verbs in AnnData: checks of the input, sentences and samples in obs, records in uns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from cell2sen.answer import ParsedSentence
from cell2sen.backend import Sampling

if TYPE_CHECKING:
    from anndata import AnnData

#: Key of ``uns`` with the records of all verbs.
UNS = "cell2sen"

#: Label of cells whose most probable label is below the threshold, and of cells without genes.
UNKNOWN = "unknown"

#: Unit of predicted expression.
UNIT = "ln(1 + CP10k)"

#: Unit of predicted counts.
COUNTS_UNIT = "counts"

#: What ``X`` of predicted cells has.
Output = Literal["expression", "counts"]


def add_sentences(obs: pd.DataFrame, answers: Sequence[ParsedSentence]) -> None:
    """Add the generated sentences and their quality to `obs`."""
    obs["sentence"] = [" ".join(answer.genes) for answer in answers]
    obs["validity"] = np.array([answer.validity for answer in answers], dtype=np.float64)
    obs["uniqueness"] = np.array([answer.uniqueness for answer in answers], dtype=np.float64)
    obs["n_unknown"] = np.array([answer.n_unknown for answer in answers], dtype=np.int64)
    obs["n_repeated"] = np.array([answer.n_repeated for answer in answers], dtype=np.int64)


def check_input(adata: Any, *, copy: bool) -> None:
    """Raise an error if `adata` is no AnnData, or a view of a file, which anndata cannot write results into."""
    if not hasattr(adata, "obs_names"):
        raise TypeError(
            f"expected an AnnData object, found {type(adata).__name__}: open a file with "
            "anndata.read_h5ad(path, backed='r'), or use the command line, which takes files"
        )
    if adata.isbacked and adata.is_view and not copy:
        raise ValueError(
            "adata is a view of a backed file, which cannot store results: call .to_memory() on it, or pass copy=True"
        )


def sample_names(adata: AnnData, samples: Sequence[Any]) -> Any:
    """Sample of each cell, categorical: the name of the sample's first cell; missing for cells in no sample."""
    names = np.full(adata.n_obs, None, dtype=object)
    for rows in samples:
        names[rows] = adata.obs_names[rows[0]]
    return pd.Categorical(names)


def copied(adata: AnnData) -> AnnData:
    """A copy in memory."""
    return adata.to_memory() if adata.isbacked else adata.copy()


def record(adata: AnnData, verb: str, provenance: dict[str, Any]) -> None:
    """Store the provenance of a verb in ``uns``, beside those of others."""
    adata.uns[UNS] = {**adata.uns.get(UNS, {}), verb: provenance}


def sampling_record(sampling: Sampling) -> dict[str, Any]:
    """Sampling as plain values for ``uns``."""
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or 0,
        "top_p": sampling.top_p or 1.0,
        "seed": sampling.seed,
    }


def check_output(output: str) -> None:
    """Raise a ValueError if `output` is neither ``"expression"`` nor ``"counts"``."""
    if output not in ("expression", "counts"):
        raise ValueError(f"no output {output!r}; available: ['expression', 'counts']")
