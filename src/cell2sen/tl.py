"""Tools for AnnData: embed, annotate, perturb, generate. Results in obs, obsm and uns, or a new AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd

from cell2sen.answer import ParsedSentence
from cell2sen.backend import Pooling, Sampling
from cell2sen.inference.annotate import check_labels, choose
from cell2sen.inference.embed import attention_key, embed_cells
from cell2sen.inference.generate import check_cell_types, generate_cells, generation_session
from cell2sen.inference.perturb import Readout, perturbation_per_cell, predict_response
from cell2sen.inference.session import Options, check_options, start
from cell2sen.task import Task

if TYPE_CHECKING:
    from anndata import AnnData

UNS = "cell2sen"

#: Label of cells whose best label is less probable than the threshold, and of cells without genes.
UNKNOWN = "unknown"

#: Unit of predicted expression.
UNIT = "ln(1 + CP10k)"

#: A cell sentence ends before the first of these strings.
SENTENCE_END = (".\n", "\n")


def embed(
    adata: AnnData,
    *,
    pooling: Pooling = "mean",
    hidden_layer: int = -1,
    attention_for: Sequence[str | int] = (),
    attention_layer: int = -1,
    key_added: str = "X_cell2sen",
    copy: bool = False,
    **options: Unpack[Options],
) -> AnnData | None:
    """Embed every cell.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed.
    pooling
        ``"mean"`` over all tokens of the prompt, ``"genes"`` over gene tokens only, or the ``"last"`` token.
    hidden_layer
        ``-1``: after the last layer and its norm. ``k >= 0``: after `k` layers, before any final norm.
    attention_for
        Cells, by name or number, whose gene-level attention is wanted.
    attention_layer
        0-based layer of the attention maps, negative from the end.
    key_added
        Key of the result in ``obsm``.
    copy
        Return a changed copy instead of writing into `adata`.
    **options
        Model, matrix, genes, wording and speed: see :class:`cell2sen.inference.session.Options`.

    Returns
    -------
    ``None``, or the copy. Sets ``adata.obsm[key_added]`` (float32 (n, hidden), NaN for cells without genes),
    ``adata.uns["cell2sen"]["embed"]`` (provenance) and, for the cells in `attention_for`,
    ``adata.uns["cell2sen"]["attention"][cell]`` with ``genes`` and ``map`` (heads × genes × genes, rows sum to at most
    1); characters of a name that files do not allow in keys are percent-encoded there, such as ``%2F`` for ``/``.

    Raises
    ------
    ValueError
        Matrix that cannot be ranked, unknown pooling or layer, names of attention cells that are not unique.
    KeyError
        Unknown cell, layer or column; lists those there are.
    """
    _refuse_other_input(adata, copy=copy)
    rows = _cells(adata, attention_for)
    session = start(adata, "embed", options)
    found = embed_cells(
        session, pooling=pooling, hidden_layer=hidden_layer, attention_for=rows, attention_layer=attention_layer
    )
    adata = _copy(adata) if copy else adata
    adata.obsm[key_added] = found.vectors
    settings = {"pooling": pooling, "hidden_layer": hidden_layer, "key": key_added}
    if found.attention is not None:
        settings["attention_layer"] = attention_layer
    _record(adata, "embed", session.provenance(**settings))
    adata.uns[UNS].pop("attention", None)  # maps of an earlier run may be another model's
    if found.attention is not None:
        maps = [(str(adata.obs_names[row]), found.attention[row]) for row in rows]
        adata.uns[UNS]["attention"] = {
            attention_key(name): {"genes": np.array(one.genes, dtype=object), "map": one.array}
            for name, one in maps
            if one is not None
        }
    return adata if copy else None


def annotate(
    adata: AnnData,
    labels: Sequence[str] | None = None,
    *,
    task: str | Task = "annotate",
    threshold: float = 0.0,
    key_added: str | None = None,
    copy: bool = False,
    **options: Unpack[Options],
) -> AnnData | None:
    """Choose a cell type for every cell out of a closed set.

    Parameters
    ----------
    labels
        The cell types to choose from. By default those that the model was trained on; never free text.
    task
        What is asked; ``"identify"`` asks for the perturbation of the cell, and `labels` are perturbations then.
    threshold
        Cells whose best label is less probable are ``"unknown"``; 0.5 leaves out what is more likely wrong than right.
    key_added
        Where the results go; by default ``"cell2sen_cell_type"``, or what else the task asks for.

    Returns
    -------
    ``None``, or the copy. Sets ``obs[key_added]`` (categorical), ``obs[key_added + "_score"]`` (probability of the best
    label, also where it is below the threshold), ``obsm[key_added + "_probabilities"]`` (columns in the order of
    ``uns["cell2sen"]["annotate"]["labels"]``) and the provenance. Probabilities are calibrated where the model says so
    (``uns["cell2sen"]["annotate"]["calibrated"]``), on the cells that it was calibrated on.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be a probability between 0 and 1, found {threshold}")
    if labels is not None:
        labels = check_labels(labels)
    _refuse_other_input(adata, copy=copy)
    session = start(adata, task, options)
    key_added = key_added or f"cell2sen_{session.task.target}"
    choices = choose(session, labels)
    picked, scores = choices.pick(threshold, UNKNOWN)
    adata = _copy(adata) if copy else adata
    used = set(picked)
    categories = [label for label in dict.fromkeys((*choices.labels, UNKNOWN)) if label in used]
    adata.obs[key_added] = pd.Categorical(picked, categories=categories)
    adata.obs[f"{key_added}_score"] = scores
    adata.obsm[f"{key_added}_probabilities"] = choices.probabilities
    _record(
        adata, "annotate",
        session.provenance(
            labels=np.array(choices.labels, dtype=object), threshold=threshold, temperature=choices.temperature,
            calibrated=choices.calibrated, key=key_added,
        ),
    )  # fmt: skip
    return adata if copy else None


def perturb(
    adata: AnnData,
    perturbation: str | Sequence[str | None] | None = None,
    *,
    perturbation_column: str | None = None,
    n_genes: int | None = None,
    readout: Readout = "auto",
    correction: bool = True,
    guided: bool = True,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 2048,
    **options: Unpack[Options],
) -> AnnData:
    """Predict each cell's expression after a perturbation.

    Parameters
    ----------
    adata
        Control cells. Not changed.
    perturbation
        One name for all cells, or one per cell; ``None``, NaN and "" skip a cell.
    perturbation_column
        ``obs`` column with one perturbation per cell, instead of `perturbation`.
    n_genes
        Genes in the sentences of control and prediction at most; a prediction is as long as its control.
    readout
        What is predicted. ``"sentence"``: the expression of one written sentence, control and prediction through the
        same rank fit, so that reconstruction errors common to both cancel. ``"expected"``: the measured expression of
        the control, plus what the model expects of each gene with the perturbation less what it expects without it
        (:mod:`cell2sen.inference.expected_response`); better by far where means are wanted, possible with models that
        write a gene as one token and have learned what no perturbation is. ``"auto"``: expected where the model can,
        unless `guided`, `temperature`, `top_k` or `top_p` ask for a way of writing.
    correction
        Of expected responses: add what they missed on average in the cells that the model was trained on, where its
        directory says so for this perturbation (:mod:`cell2sen.inference.corrections`); ``False`` for the model's own
        word.
    guided
        Only genes of this dataset, each at most once. ``False`` lets the model write freely (`max_new_tokens` at most).
    temperature, top_k, top_p, seed
        Sampling of a written sentence; 0 is greedy. A cell's draw depends on the seed and its name alone.

    Returns
    -------
    A new AnnData of the cells that have a perturbation and genes. ``X``: predicted expression, ``layers["control"]``:
    the control's, ``layers["delta"]``: the difference; all in ln(1 + CP10k). ``var``: the gene symbols that the model
    can write. ``obs``: the control's columns (an older ``perturbation`` as ``perturbation_before``), ``perturbation``,
    ``sentence`` (predicted: as written, or the highest genes of ``X``), ``validity`` (share of its words that are genes
    not named before), ``n_unknown``, ``n_repeated``.

    Raises
    ------
    Unsupported
        ``readout="expected"`` of a model that cannot.
    """
    from anndata import AnnData

    _refuse_other_input(adata, copy=True)
    if (perturbation is None) == (perturbation_column is None):
        raise ValueError("pass either perturbation= (a name or a list) or perturbation_column= (an obs column)")
    if perturbation is not None:
        perturbation = perturbation_per_cell(perturbation, adata.n_obs)
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=SENTENCE_END
    )
    session = start(adata, "perturb", options, perturbation_column=perturbation_column)
    response = predict_response(
        session, perturbation, sampling=sampling, readout=readout, correction=correction, guided=guided, n_genes=n_genes
    )
    obs = adata.obs.iloc[response.rows].copy()
    if "perturbation" in obs and perturbation_column != "perturbation":
        obs["perturbation_before"] = obs["perturbation"]
    obs["perturbation"] = pd.Categorical(response.perturbations)
    _describe(obs, response.answers)
    result = AnnData(
        X=response.predicted,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(session.sentences.symbols, dtype=object)),
        layers={"control": response.control, "delta": (response.predicted - response.control).tocsr()},
    )
    provenance = session.provenance(
        unit=UNIT,
        readout=response.readout,
        corrected="; ".join(response.corrected),
        guided=guided,
        n_genes=n_genes or session.length or 0,
        **_sampling_record(sampling),
    )
    _record(result, "perturb", provenance)
    return result


def generate(
    cell_type: str | Sequence[str],
    *,
    n: int = 100,
    genes: AnnData | str | Path | Sequence[str] | None = None,
    n_genes: int | None = None,
    guided: bool = True,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int = 2048,
    **options: Unpack[Options],
) -> AnnData:
    """Draw cells of given types.

    Parameters
    ----------
    cell_type
        One label or several.
    n
        Cells per label.
    genes
        What the cells may be made of: symbols, or an AnnData (or its file) whose genes and rank fit are taken. By
        default the model's own list.
    n_genes
        Genes of each cell; as many as the model was trained with by default.
    **options
        ``organism`` is the organism of the generated cells: that of the AnnData in `genes`, else human, by default. The
        others as everywhere.

    Returns
    -------
    AnnData of ``n`` cells per label: ``X`` in ln(1 + CP10k); ``obs``: ``cell_type``, ``sentence``, ``validity``,
    ``n_unknown``, ``n_repeated``.
    """
    from anndata import AnnData

    check_options(options)
    cell_types = check_cell_types(cell_type, n, n_genes)
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=SENTENCE_END
    )
    session, organism = generation_session(genes, options)
    cells = generate_cells(
        session, cell_types, n=n, organism=organism, sampling=sampling, guided=guided, n_genes=n_genes
    )
    obs = pd.DataFrame({"cell_type": pd.Categorical(cells.cell_types)}, index=cells.names)
    _describe(obs, cells.answers)
    symbols = pd.Index(session.sentences.symbols, dtype=object)
    result = AnnData(X=cells.expression, obs=obs, var=pd.DataFrame(index=symbols))
    provenance = session.provenance(
        unit=UNIT, guided=guided, n_genes=cells.n_genes, organism=organism, **_sampling_record(sampling)
    )
    _record(result, "generate", provenance)
    return result


def _sampling_record(sampling: Sampling) -> dict[str, Any]:
    """Sampling as plain values for ``uns``."""
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k or 0,
        "top_p": sampling.top_p or 1.0,
        "seed": sampling.seed,
    }


def _describe(obs: pd.DataFrame, answers: Sequence[ParsedSentence]) -> None:
    obs["sentence"] = [" ".join(answer.genes) for answer in answers]
    obs["validity"] = np.array([answer.validity for answer in answers], dtype=np.float64)
    obs["n_unknown"] = np.array([answer.n_unknown for answer in answers], dtype=np.int64)
    obs["n_repeated"] = np.array([answer.n_repeated for answer in answers], dtype=np.int64)


def _cells(adata: AnnData, cells: Sequence[str | int]) -> list[int]:
    """Row numbers of cells given by name or number."""
    if isinstance(cells, str):
        raise ValueError(f"attention_for must be a list of cells, found the text {cells!r}: pass [{cells!r}]")
    rows = []
    for cell in cells:
        if isinstance(cell, str):
            if cell not in adata.obs_names:
                raise KeyError(f"there is no cell {cell!r}; the first ones are {list(adata.obs_names[:3])}")
            rows.append(int(np.flatnonzero(adata.obs_names == cell)[0]))
        else:
            if not 0 <= cell < adata.n_obs:
                raise ValueError(f"there is no cell number {cell}; there are {adata.n_obs} cells")
            rows.append(int(cell))
    counts = adata.obs_names.value_counts() if rows else {}
    if repeated := sorted({name for name in adata.obs_names[rows] if counts[name] > 1}):
        raise ValueError(
            f"attention maps are stored by cell name, but {repeated[:3]} name several cells: call "
            "adata.obs_names_make_unique() first"
        )
    return rows


def _refuse_other_input(adata: Any, *, copy: bool) -> None:
    """Before any work: results need an AnnData object, and anndata cannot write into a view of a file."""
    if not hasattr(adata, "obs_names"):
        raise TypeError(
            f"expected an AnnData object, found {type(adata).__name__}: open a file with "
            "anndata.read_h5ad(path, backed='r'), or use the command line, which takes files"
        )
    if adata.isbacked and adata.is_view and not copy:
        raise ValueError(
            "adata is a view of a backed file, which cannot hold results: call .to_memory() on it, or pass copy=True"
        )


def _copy(adata: AnnData) -> AnnData:
    return adata.to_memory() if adata.isbacked else adata.copy()


def _record(adata: AnnData, verb: str, provenance: dict[str, Any]) -> None:
    adata.uns[UNS] = {**adata.uns.get(UNS, {}), verb: provenance}
