"""Genes that support a label: change of its log-odds if one gene is left out of a cell's sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cell2sen.data.progress import Report, counted
from cell2sen.inference.annotate import ClosedSet, probabilities_of
from cell2sen.inference.session import Session
from cell2sen.sentences.sentences import Sentences

#: Prompts that are written at a time.
_PROMPTS = 8192

#: Probabilities closer to 0 and 1 than this have its log-odds.
_MIN_PROBABILITY = 1e-12

COLUMNS = ("group", "label", "gene", "support", "n_with_gene", "n_cells")


@dataclass(frozen=True, kw_only=True, eq=False)
class CellSupport:
    """Support of the highest genes of one cell."""

    genes: tuple[str, ...]
    """Genes that were left out, in descending expression."""

    log_odds: NDArray[np.float64]
    """float64 (1 + genes, labels): log-odds of each label, of the whole cell and without each gene."""

    def support(self, label: int) -> NDArray[np.float64]:
        """Log-odds of a label, minus those without the gene, float64 (genes,), nats."""
        return np.asarray(self.log_odds[0, label] - self.log_odds[1:, label])


def support_of_cells(
    session: Session, chosen: ClosedSet, rows: NDArray[np.int64], n_genes: int, *, progress: bool | Report = False
) -> list[CellSupport]:
    """Support of the `n_genes` highest genes of each cell, for all labels of a closed set.

    Each gene is left out in turn; the next gene of the sentence moves up. Log-odds of calibrated probabilities do not
    saturate, as log-probabilities of certain labels do (weight of evidence, Good 1985).

    Parameters
    ----------
    session
        Cells, with the task of the labels.
    rows
        int64 (m,): cells with genes.
    progress
        Show a progress bar on stderr.
    """
    results = []
    for part in counted(list(_parts(rows, n_genes)), "genes left out", "part", show=progress):
        variants, names = without_each_gene(session.sentences[part], n_genes, session.length)
        owner = np.repeat(part, [len(each) + 1 for each in names])
        values = session.context.values
        context = (
            replace(session.context, values=[values[row] for row in owner.tolist()])
            if session.context
            else session.context
        )
        of_part = replace(session, sentences=variants, context=context)
        found = probabilities_of(of_part, [chosen])[0].probabilities
        ends = np.cumsum([len(each) + 1 for each in names])
        clipped = np.clip(found, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        log_odds = np.log(clipped) - np.log1p(-clipped)
        for each, block in zip(names, np.split(log_odds, ends[:-1]), strict=True):
            results.append(CellSupport(genes=each, log_odds=block))
    return results


def without_each_gene(
    sentences: Sentences, n_genes: int, length: int | None
) -> tuple[Sentences, list[tuple[str, ...]]]:
    """Each cell, followed by the cell without its first, second, … gene, and the names of these genes.

    Parameters
    ----------
    n_genes
        Genes to leave out, in descending expression; at most all but one.
    length
        Genes of a prompt: those behind it are not left out.
    """
    ids, ends = sentences.genes.flatten().to_numpy(), np.cumsum(sentences.n_genes)
    symbols = sentences.symbols
    owner: list[int] = []
    lists: list[NDArray[np.int32]] = []
    names: list[tuple[str, ...]] = []
    for row, (end, number) in enumerate(zip(ends, sentences.n_genes, strict=True)):
        genes = ids[end - number : end]
        n_left_out = max(min(n_genes, len(genes) - 1, length or len(genes)), 0)
        lists += [genes, *(np.delete(genes, place) for place in range(n_left_out))]
        owner += [row] * (n_left_out + 1)
        names.append(tuple(symbols[gene] for gene in genes[:n_left_out]))
    offsets = np.append(0, np.cumsum([len(genes) for genes in lists])).astype(np.int32)
    flat = np.concatenate([*lists, np.zeros(0, dtype=np.int32)]).astype(np.int32)
    return replace(sentences[np.array(owner)], genes=pa.ListArray.from_arrays(offsets, flat)), names


def table_of_support(
    cells: Sequence[CellSupport],
    groups: Mapping[str, Sequence[int]],
    labels: Sequence[str],
    label: str | None = None,
) -> pd.DataFrame:
    """Mean support of each gene in groups of cells, the largest first.

    Parameters
    ----------
    groups
        Name → numbers of `cells`.
    labels
        Labels of the closed set.
    label
        Label whose support is computed. ``None``: of each group, the label with the highest mean log-odds.

    Returns
    -------
    Columns :data:`COLUMNS`: ``support`` is the mean over all cells of the group, 0 where a gene was not among the
    highest of a cell; ``n_with_gene`` counts the cells in which it was.
    """
    tables = []
    for group, members in groups.items():
        odds = np.mean([cells[number].log_odds[0] for number in members], axis=0)
        chosen = int(odds.argmax()) if label is None else list(labels).index(label)
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for number in members:
            for gene, value in zip(cells[number].genes, cells[number].support(chosen), strict=True):
                sums[gene] = sums.get(gene, 0.0) + float(value)
                counts[gene] = counts.get(gene, 0) + 1
        order = sorted(sums, key=lambda gene: (-sums[gene], gene))
        rows = [(group, labels[chosen], gene, sums[gene] / len(members), counts[gene], len(members)) for gene in order]
        tables.append(pd.DataFrame(rows, columns=list(COLUMNS)))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def sample_of(names: Sequence[str], rows: Sequence[int], n: int) -> list[int]:
    """At most `n` of some rows, by a hash of their names, in the order of the rows."""
    digests = {row: hashlib.blake2b(names[row].encode(), digest_size=8).digest() for row in rows}
    return sorted(sorted(rows, key=lambda row: (digests[row], row))[:n])


def _parts(rows: NDArray[np.int64], n_genes: int) -> Iterator[NDArray[np.int64]]:
    size = max(1, _PROMPTS // (n_genes + 1))
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
