"""Texts about cells: captions of clusters, summaries of samples, answers to questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cell2sen.backend import Sampling
from cell2sen.data.names.text import as_text, is_list, list_of_names
from cell2sen.data.obs import cell_names, text_column
from cell2sen.inference.options import Options, check_options
from cell2sen.inference.session import model_of, start
from cell2sen.inference.text.answers import (
    TEMPERATURE,
    TOP_K,
    TOP_P,
    Answer,
    chat_of,
    refuse_without_text,
    sampling_of,
    text_samples,
    write_texts,
)
from cell2sen.inference.text.grounding import states
from cell2sen.tl.results import check_input, record, sample_names, sampling_record

if TYPE_CHECKING:
    from anndata import AnnData

#: Cells that a question is about: names or numbers, a mask, or values of obs columns.
Cells = str | Sequence[str | int] | Sequence[bool] | Mapping[str, Any] | None

#: Columns of the table of texts, besides those of groups.
_COLUMNS = ("text", "complete", "present", "absent", "unmeasured", "n_cells", "cells")


def caption(
    adata: AnnData,
    cluster: str | Sequence[str],
    *,
    n_samples: int = 1,
    temperature: float = TEMPERATURE,
    top_k: int | None = TOP_K,
    top_p: float | None = TOP_P,
    seed: int = 0,
    max_new_tokens: int = 128,
    key_added: str = "cell2sen_caption",
    **options: Unpack[Options],
) -> pd.DataFrame:
    """A sentence on each cluster, from two of its cells.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed.
    cluster
        obs column (or columns) of the clusters; cells without a value are in none.
    n_samples
        Captions of each cluster, each of other cells.
    temperature, top_k, top_p, seed
        Sampling, by default as the authors of C2S-Scale publish it; temperature 0 is greedy. The seed also draws the
        cells. A text depends on the seed and its cells alone.
    max_new_tokens
        Maximum length of a text, in tokens.
    key_added
        Key of the results.
    **options
        Model, matrix, genes, templates and speed: see :class:`cell2sen.inference.options.Options`.

    Returns
    -------
    A table with a row per sample, named after its first cell; see :func:`ask`, which also describes what is stored in
    `adata`.

    Raises
    ------
    Unsupported
        The model was not trained to write text, such as the embedded one.
    ValueError
        No cluster has two cells with genes, or names of cells are not unique.
    KeyError
        Unknown ``layer`` or column; lists the available ones.
    TypeError
        `adata` is no AnnData object, or an option does not exist.
    """
    return _write(
        adata,
        "caption",
        {},
        by=[cluster] if isinstance(cluster, str) else list(cluster),
        n_cells=2,
        n_samples=n_samples,
        sampling=Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        key=key_added,
        options=options,
    )


def interpret(
    adata: AnnData,
    sample_by: str | Sequence[str],
    *,
    n_cells: int = 10,
    n_samples: int = 1,
    temperature: float = TEMPERATURE,
    top_k: int | None = TOP_K,
    top_p: float | None = TOP_P,
    seed: int = 0,
    max_new_tokens: int = 512,
    key_added: str = "cell2sen_summary",
    **options: Unpack[Options],
) -> pd.DataFrame:
    """A summary of each sample, like the abstract of a study, from 5 to 20 of its cells.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed.
    sample_by
        obs columns whose values all cells of a sample share, such as donor and tissue.
    n_cells
        Cells of a sample, 5 to 20; groups with fewer than 5 have no summary.
    n_samples
        Summaries of each group, each of other cells.
    temperature, top_k, top_p, seed, max_new_tokens, key_added, **options
        As for :func:`caption`.

    Returns
    -------
    As for :func:`ask`.

    Raises
    ------
    Unsupported, ValueError, KeyError, TypeError
        As for :func:`caption`.
    """
    return _write(
        adata,
        "interpret",
        {},
        by=[sample_by] if isinstance(sample_by, str) else list(sample_by),
        n_cells=n_cells,
        n_samples=n_samples,
        sampling=Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        key=key_added,
        options=options,
    )


def ask(
    adata: AnnData,
    question: str,
    *,
    cells: Cells = None,
    sample_by: str | Sequence[str] = (),
    n_cells: int = 10,
    n_samples: int = 1,
    temperature: float = TEMPERATURE,
    top_k: int | None = TOP_K,
    top_p: float | None = TOP_P,
    seed: int = 0,
    max_new_tokens: int = 256,
    key_added: str = "cell2sen_answer",
    **options: Unpack[Options],
) -> pd.DataFrame:
    """Answer to a question on cells.

    Parameters
    ----------
    adata
        Cells, as counts or log-normalised values; in memory or backed.
    question
        Any text; line breaks in it become spaces.
    cells
        Cells that the question is about: ``{column: value}`` or ``{column: [value, …]}`` of obs (``None``: cells
        without a value), names, row numbers, or a mask with an entry per cell. Default: all.
    sample_by
        obs columns: the question is answered for each of their groups.
    n_cells
        Number of these cells that the model reads, 1 to 20, drawn at random by the seed; fewer if there are fewer.
    n_samples
        Answers for each group, each from other cells.
    temperature, top_k, top_p, seed, max_new_tokens, key_added, **options
        As for :func:`caption`.

    Returns
    -------
    A table with a row per sample of cells, named after its first cell:

    ``text``
        The text in one line.
    ``complete``
        False where the text was cut at `max_new_tokens`.
    ``present``, ``absent``, ``unmeasured``
        Genes that the text names (:func:`cell2sen.inference.text.grounding.ground`), separated by spaces: expressed by
        at least one of the cells, by none, not in the data.
    ``n_cells``
        Cells that were read.
    ``cells``
        Their names, separated by tabs.
    and the columns of `sample_by`, and ``question``.

    The same table is in ``uns["cell2sen"]["ask"]["texts"]``, with the provenance beside it. ``obs[key_added]`` has the
    text of each cell that was read, and ``obs[key_added + "_sample"]`` its sample; both are missing for other cells.

    Raises
    ------
    Unsupported
        The model was not trained to write text, such as the embedded one.
    ValueError
        No question, no such cells, no group with enough cells, or names of cells that are not unique.
    KeyError
        Unknown ``layer`` or column; lists the available ones.
    TypeError
        `question` is no text, `adata` is no AnnData object, or an option does not exist.
    """
    if not isinstance(question, str):
        raise TypeError(f"question must be a text, found {question!r}")
    text = " ".join(question.split())
    if not text:
        raise ValueError("question must be a text, found none")
    return _write(
        adata,
        "ask",
        {"question": text},
        by=[sample_by] if isinstance(sample_by, str) else list(sample_by),
        n_cells=n_cells,
        n_samples=n_samples,
        sampling=Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        key=key_added,
        options=options,
        cells=cells,
    )


def _write(
    adata: AnnData,
    task: str,
    slots: Mapping[str, str],
    *,
    by: list[str],
    n_cells: int,
    n_samples: int,
    sampling: Sampling,
    key: str,
    options: Options,
    cells: Cells = None,
) -> pd.DataFrame:
    """Texts on samples of cells, in a table and in `adata`."""
    check_input(adata, copy=False)
    check_options(options)
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, found {n_samples}")
    refuse_without_text(model_of(options), task)  # before weights are loaded
    if taken := sorted({*by} & {*_COLUMNS, *slots}):
        raise ValueError(f"obs[{taken[0]!r}] has the name of a column of the result: rename it to group cells by it")
    mask = None if cells is None else chosen_cells(adata, cells)
    with start(adata, task, options, obs_columns=by) as session:
        samples = text_samples(session, by, n_cells=n_cells, n_samples=n_samples, seed=sampling.seed, cells=mask)
        answers = write_texts(session, samples, [slots] * len(samples), sampling_of(session.task, sampling))
        chat = chat_of(session)
        provenance = session.provenance(
            key=key,
            sample_by=np.array(by, dtype=object),
            n_cells=n_cells,
            n_samples=n_samples,
            max_new_tokens=sampling.max_new_tokens,
            **sampling_record(sampling),
            **slots,
            **({"chat": np.array(chat, dtype=object)} if chat else {}),
        )
    table = _table(adata, answers, by)
    texts = np.full(adata.n_obs, None, dtype=object)
    for answer in answers:
        texts[answer.rows] = answer.text
    adata.obs[key] = pd.Categorical(texts)
    adata.obs[f"{key}_sample"] = sample_names(adata, samples)
    record(adata, task, {**provenance, "texts": table})
    return table


def _table(adata: AnnData, answers: Sequence[Answer], by: Sequence[str]) -> pd.DataFrame:
    """Table of texts as :func:`ask` describes it; all columns can be stored in a file."""
    names = cell_names(adata.obs)
    columns = {name: text_column(adata.obs, name) for name in by}
    rows = []
    for answer in answers:
        genes = {state: " ".join(found) for state, found in states(answer.genes).items()}
        group: dict[str, Any] = {name: str(values[answer.rows[0]]) for name, values in columns.items()}
        rows.append(
            group
            | dict(answer.slots)
            | {"text": answer.text, "complete": answer.complete}
            | genes
            | {"n_cells": len(answer.rows), "cells": "\t".join(map(str, names[answer.rows]))}
        )
    index = pd.Index([str(names[answer.rows[0]]) for answer in answers], dtype=object)
    # A column of the same name would keep the table from being stored.
    return pd.DataFrame(rows, index=index.rename(None if "sample" in columns else "sample"))


def chosen_cells(adata: AnnData, cells: Cells) -> NDArray[np.bool_]:
    """Cells by values of obs columns, names, row numbers or a mask, bool (n,).

    Raises
    ------
    ValueError
        There are none, or a mask or row number does not fit.
    KeyError
        Unknown names or column.
    """
    chosen = np.zeros(adata.n_obs, dtype=bool)
    if isinstance(cells, Mapping):
        chosen[:] = True
        for column, value in cells.items():
            values = text_column(adata.obs, column)
            wanted = [as_text(one) for one in (list_of_names(value) if is_list(value) else [value])]
            for name in wanted:
                if name not in set(values):
                    found = sorted({str(name) for name in values if name is not None})
                    raise ValueError(f"no cell has {column} = {name!r}; there are {found[:20]}")
            chosen &= np.array([name in wanted for name in values], dtype=bool)
        if not chosen.any():
            raise ValueError(f"no cell has all of {dict(cells)}")
        return chosen
    given = np.asarray([cells] if isinstance(cells, str) else list(() if cells is None else cells))
    if given.dtype == bool:
        if given.shape != chosen.shape:
            raise ValueError(
                f"a mask of cells needs one entry per cell: {adata.n_obs} cells, found {len(given)} entries"
            )
        chosen |= given
    elif np.issubdtype(given.dtype, np.integer):
        if len(given) and not (-adata.n_obs <= given.min() and given.max() < adata.n_obs):
            raise ValueError(f"row numbers of cells are from 0 to {adata.n_obs - 1}, found {given.tolist()[:10]}")
        chosen[given] = True
    else:
        rows = pd.Index(cell_names(adata.obs)).get_indexer_for(given.astype(str))
        if (rows < 0).any() and len(given):
            raise KeyError(f"there are no cells {given[rows < 0].tolist()[:5]}; names are like {adata.obs_names[0]!r}")
        chosen[rows] = True
    if not chosen.any():
        raise ValueError("cells chooses none")
    return chosen
