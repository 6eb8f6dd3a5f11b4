"""Corpus on disk: its shards, what a model learns from it, and its genes, texts and cells."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.sparse as sp
from numpy.typing import NDArray

#: File with settings, hashes of the input files, and what a model learns.
RECORD = "corpus.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedCells:
    """Names of cells, and which of them are held out."""

    names: list[str]
    test: NDArray[np.bool_]

    @classmethod
    def of(cls, held_out: Mapping[str, bool]) -> NamedCells:
        """Cells with these names, sorted."""
        names = sorted(held_out)
        return cls(names=names, test=np.array([held_out[name] for name in names], dtype=bool))


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """Folder that ``cell2sen corpus`` wrote."""

    folder: Path
    record: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Open a corpus.

        Raises
        ------
        FileNotFoundError
            There is no complete corpus in the folder.
        """
        folder = Path(folder)
        if not (folder / RECORD).is_file():
            raise FileNotFoundError(f"there is no corpus in {folder}, as cell2sen corpus writes it")
        corpus = cls(folder=folder, record=json.loads((folder / RECORD).read_text(encoding="utf-8")))
        if "learned" not in corpus.record or not corpus.shards("train"):
            raise FileNotFoundError(f"the corpus in {folder} is not complete: continue it with cell2sen corpus")
        return corpus

    @property
    def learned(self) -> dict[str, Any]:
        """What a model learns from it, see :func:`cell2sen.training.release.directory.learned`."""
        learned: dict[str, Any] = self.record["learned"]
        return learned

    @property
    def fingerprint(self) -> str:
        """Hash of the settings and input files, 16 hex digits."""
        return hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()[:16]

    def shards(self, side: str) -> list[Path]:
        """Parquet files of ``"train"`` or ``"held_out"``, in order."""
        return sorted(self.folder.glob(f"{side}-*.parquet"))

    def batches(self, side: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Rows of one side in order, a few thousand at a time."""
        for path in self.shards(side):
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=1024, columns=columns)

    def common_genes(self, min_samples: int) -> tuple[str, ...]:
        """Genes that are in at least `min_samples` training samples, sorted."""
        genes = pa.array(self.record["genes"], type=pa.string())
        found = np.zeros(len(genes), dtype=np.int64)
        for batch in self.batches("train", ["prompt", "completion"]):
            texts = pc.binary_join_element_wise(batch["prompt"], batch["completion"], "")
            words = pc.list_flatten(pc.utf8_split_whitespace(texts))
            place = pc.index_in(pc.utf8_rtrim(words, characters="."), genes).drop_null().to_numpy()
            found += np.bincount(place, minlength=len(genes))
        kept = np.flatnonzero(found >= min_samples)
        return tuple(sorted(genes.take(kept).to_pylist()))

    def texts(self, n_samples: int) -> list[str]:
        """Prompts and answers of the first training samples without their genes, for a tokenizer of other text."""
        genes = set(self.record["genes"])
        texts: list[str] = []
        for batch in self.batches("train", ["prompt", "completion"]):
            rows = zip(batch["prompt"].to_pylist(), batch["completion"].to_pylist(), strict=True)
            for prompt, completion in rows:
                if len(texts) == n_samples:
                    return texts
                words = (prompt + completion).split(" ")
                texts.append(" ".join(word for word in words if word.rstrip(".") not in genes))
        return texts

    def cells(self) -> dict[str, NamedCells]:
        """Names of the cells (and gene sets) of each data set, sorted, and which of them are held out."""
        sides: dict[str, dict[str, bool]] = {}
        for side in ("held_out", "train"):  # what both sides have is learned
            for batch in self.batches(side, ["data_set", "cells"]):
                for name, cells in zip(batch["data_set"].to_pylist(), batch["cells"].to_pylist(), strict=True):
                    sides.setdefault(name, {}).update(dict.fromkeys(cells, side == "held_out"))
        return {name: NamedCells.of(cells) for name, cells in sorted(sides.items())}

    def sentences(self, n_cells: int) -> list[tuple[sp.csr_matrix, tuple[str, ...]]]:
        """Cells of training samples of one cell, at most `n_cells` of each data set, as CSR (cells, genes) and genes.

        Values are ln(1 + CP10k) by the rank fit of the corpus; they rise from the last gene of a sentence to the first.
        """
        genes = tuple(self.record["genes"])
        place = {gene: number for number, gene in enumerate(genes)}
        fit = self.learned["fit"] or {"intercept": 1.0, "slope": -0.3}
        rows: dict[str, dict[str, list[int]]] = {}
        for batch in self.batches("train", ["data_set", "cells", "prompt", "completion"]):
            for name, cells, prompt, completion in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                found = rows.setdefault(name, {})
                if len(cells) == 1 and cells[0] not in found and len(found) < n_cells:
                    words = (word.rstrip(".") for word in f"{prompt}{completion}".split())
                    found[cells[0]] = list(dict.fromkeys(place[word] for word in words if word in place))
        matrices = []
        for found in (found for found in rows.values() if found):
            indptr = np.cumsum([0, *map(len, found.values())])
            columns = np.array([gene for row in found.values() for gene in row], dtype=np.int64)
            ranks = np.concatenate([np.arange(len(row)) for row in found.values()])
            values = np.maximum(fit["intercept"] + fit["slope"] * np.log10(1 + ranks), 0.05) * np.log(10)
            matrices.append((sp.csr_matrix((values, columns, indptr), shape=(len(found), len(genes))), genes))
        return matrices

    def names(self) -> list[str]:
        """Names of labels, perturbations and organisms that samples may have, sorted."""
        learned = self.learned
        lists = [*learned["lists"].values(), *learned["columns"]["label_columns"].values()]
        return sorted({*learned["labels"], *learned["perturbations"], *learned["organisms"], *itertools.chain(*lists)})

    def check_genes(self, known: Callable[[Sequence[str]], NDArray[np.bool_]], model: str) -> None:
        """Raise a ValueError unless a model can write all genes of the corpus."""
        genes = self.record["genes"]
        if unknown := [gene for gene, has in zip(genes, known(genes), strict=True) if not has]:
            raise ValueError(
                f"{model} cannot write {len(unknown)} of the {len(genes)} genes of {self.folder} (such as "
                f"{unknown[:5]}): build the corpus with model: {model}"
            )

    def samples_of_tasks(self, side: str) -> Counter[str]:
        """Number of samples of each task."""
        counts: Counter[str] = Counter()
        for batch in self.batches(side, ["task"]):
            counts.update(batch["task"].to_pylist())
        return counts
