"""Tools for AnnData: embed, annotate, perturb, generate. Results in obs, obsm and uns, or a new AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import pandas as pd
import pyarrow as pa

from cell2sen import tasks
from cell2sen.answer import parse_sentence
from cell2sen.backend import Pooling, Sampling, Unsupported
from cell2sen.data.genes.organism import scientific_name
from cell2sen.inference import expected_response as response
from cell2sen.inference import pipeline
from cell2sen.inference import templates as wording
from cell2sen.inference.session import DEFAULT_GENES, Options, Session, check_options, load_model, recipe_for, start
from cell2sen.sentences.ranking import RankFit
from cell2sen.sentences.sentences import Sentences
from cell2sen.task import Task

if TYPE_CHECKING:
    from anndata import AnnData

UNS = "cell2sen"

#: Label of cells whose best label is less probable than the threshold, and of cells without genes.
UNKNOWN = "unknown"


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
    found = pipeline.embed(
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
            pipeline.attention_key(name): {"genes": np.array(one.genes, dtype=object), "map": one.array}
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
        labels = pipeline.check_labels(labels)
    _refuse_other_input(adata, copy=copy)
    session = start(adata, task, options)
    key_added = key_added or f"cell2sen_{session.task.target}"
    choices = pipeline.choose(session, labels)
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
    readout: Literal["auto", "expected", "sentence"] = "auto",
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
        perturbation = pipeline.one_per_cell(perturbation, adata.n_obs)
    session = start(adata, "perturb", options, perturbation_column=perturbation_column)
    slots = pipeline.perturbation_slots(session, perturbation)
    fit = _fit(session.sentences.fit, session.model.fit)
    vocabulary = session.sentences.symbols
    if readout not in ("auto", "expected", "sentence"):
        raise ValueError(f"no readout {readout!r}; available: ['auto', 'expected', 'sentence']")
    plain = guided and temperature == 0 and top_k is None and top_p is None
    found: response.Response | pipeline.Predictions | None = None
    if readout == "expected" or (readout == "auto" and plain and response.can_expect(session)):
        try:
            found = response.respond(
                session, adata, slots, fit, options=options, n_genes=n_genes, seed=seed, correction=correction
            )
        except Unsupported:  # genes of several tokens
            if readout == "expected":
                raise
    corrected: tuple[str, ...] = ()
    if isinstance(found, response.Response):
        readout, corrected = "expected", found.corrected
        predicted, control = found.predicted, found.control
        answers = [parse_sentence(" ".join(genes), frozenset(vocabulary)) for genes in found.sentences]
    else:
        readout = "sentence"
        sampling = Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
            stop=(".\n", "\n"),
        )  # fmt: skip
        found = pipeline.predict(session, slots, sampling=sampling, n_genes=n_genes, guided=guided)
        answers = found.answers
        predicted = pipeline.expression([answer.genes for answer in answers], vocabulary, fit)
        control = pipeline.expression(found.given, vocabulary, fit)
    obs = adata.obs.iloc[found.rows].copy()
    if "perturbation" in obs and perturbation_column != "perturbation":
        obs["perturbation_before"] = obs["perturbation"]
    obs["perturbation"] = pd.Categorical([(slots[row] or {})["perturbation"] for row in found.rows])
    _describe(obs, answers)
    result = AnnData(
        X=predicted, obs=obs, var=pd.DataFrame(index=pd.Index(vocabulary, dtype=object)),
        layers={"control": control, "delta": (predicted - control).tocsr()},
    )  # fmt: skip
    _record(
        result, "perturb",
        session.provenance(
            unit="ln(1 + CP10k)", readout=readout, corrected="; ".join(corrected), guided=guided,
            n_genes=n_genes or session.length or 0, temperature=temperature, top_k=top_k or 0, top_p=top_p or 1.0,
            seed=seed,
        ),
    )  # fmt: skip
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
    labels: list[Any] = [cell_type] if isinstance(cell_type, str) else list(cell_type)
    if not labels or not all(isinstance(label, str) and label.strip() for label in labels):
        raise ValueError(f"cell_type must be one name or several, found {cell_type!r}")
    if len(set(labels)) < len(labels):
        raise ValueError(f"cell types must differ, found {labels}; n= says how many cells of each")
    for name, value in (("n", n), ("n_genes", n_genes)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")
    session, fit, organism = _generation_session(genes, options)
    vocabulary = session.sentences.symbols
    length = n_genes or min(session.length or DEFAULT_GENES, len(vocabulary))
    if guided and length > len(vocabulary):
        raise ValueError(f"{length} genes were asked for, but there are only {len(vocabulary)} to choose from")
    pipeline.warn_unknown("labels", labels, session.model, "labels")
    names = [f"{label}-{number}" for label in labels for number in range(n)]
    prompts = [
        session.task.prompt(organism=organism, cell_type=label, key=name, answer_genes=length)
        for label, name in zip(np.repeat(labels, n), names, strict=True)
    ]
    sampling = Sampling(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=(".\n", "\n")
    )
    texts = session.backend.generate(prompts, sampling, genes=vocabulary if guided else None)
    known = frozenset(vocabulary)
    answers = [parse_sentence(text, known) for text in texts]
    obs = pd.DataFrame({"cell_type": pd.Categorical(np.repeat(labels, n))}, index=names)
    _describe(obs, answers)
    result = AnnData(
        X=pipeline.expression([answer.genes for answer in answers], vocabulary, fit), obs=obs,
        var=pd.DataFrame(index=pd.Index(vocabulary, dtype=object)),
    )  # fmt: skip
    _record(
        result, "generate",
        session.provenance(
            unit="ln(1 + CP10k)", guided=guided, n_genes=length, temperature=temperature, top_k=top_k or 0,
            top_p=top_p or 1.0, seed=seed, organism=organism,
        ),
    )  # fmt: skip
    return result


def _generation_session(genes: Any, options: Options) -> tuple[Session, RankFit, str]:
    """Session over the genes that cells may be made of, the rank fit, and the organism of the cells."""
    given = options.get("organism") or None
    if given is not None and not isinstance(given, str):
        raise ValueError(f"organism must be one name for generated cells, found {given!r}")
    if isinstance(genes, str | Path) or hasattr(genes, "var_names"):
        session = start(genes, "generate", options)
        organisms = sorted(set(session.sentences.organism))
        if len(organisms) > 1:
            raise ValueError(f"the cells in genes= are of several organisms, {organisms}: say which one with organism=")
        return session, _fit(session.sentences.fit, session.model.fit), organisms[0]
    backend = load_model(options)
    model = backend.model
    recipe = recipe_for(model, options)
    symbols = list(dict.fromkeys(genes if genes is not None else model.genes or ()))
    if recipe.case == "upper":
        symbols = list(dict.fromkeys(symbol.upper() for symbol in symbols))
    if not symbols:
        raise ValueError(
            f"{model.name} brings no list of genes: pass genes= (symbols, or an AnnData with the genes to use)"
        )
    keep = backend.known_genes(symbols)
    if unknown := [symbol for symbol, known in zip(symbols, keep, strict=True) if not known]:
        raise ValueError(
            f"{len(unknown)} of {len(symbols)} genes are not known to {model.name}, for example {unknown[:5]}"
        )
    no_cells = Sentences(
        genes=pa.array([], type=pa.list_(pa.int32())), vocabulary=pa.array(symbols, type=pa.string()),
        names=np.array([], dtype=object), organism=(), perturbations=(), obs=pd.DataFrame(),
        recipe=recipe, fit=model.fit,
    )  # fmt: skip
    session = Session(
        backend=backend,
        sentences=no_cells,
        task=wording.word(tasks.load("generate"), model, options.get("templates")),
        matrix="",
    )
    return session, _fit(model.fit, None), scientific_name(given or "Homo sapiens")


def _fit(own: RankFit | None, stored: RankFit | None) -> RankFit:
    """The dataset's own rank fit, else the model's."""
    fit = own or stored
    if fit is None:
        raise ValueError(
            "there is no rank fit to turn sentences into expression: pass cells with at least two expressed genes"
        )
    return fit


def _describe(obs: pd.DataFrame, answers: Sequence[Any]) -> None:
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
