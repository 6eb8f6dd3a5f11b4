"""New GPT-NeoX models, and first vectors of their gene tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import svds

from cell2sen.data.genes.gene_sets import name_in_text
from cell2sen.data.genes.symbol_table import approved
from cell2sen.engine.tokenization import gene_tokens as gene_tokenizer
from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.prompt import context_line
from cell2sen.task import Task
from cell2sen.training.config.model import Scratch
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.corpus.reading import Corpus
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.examples.gene_sets import TrainingSets
from cell2sen.training.network.loading import TrainableModel

logger = logging.getLogger(__name__)

#: Standard deviation of random vectors of gene tokens. They are also the output layer, and first logits must be small.
EMBEDDING_SCALE = 0.02

#: The same for tokens of other text: larger, since a prompt has few of them beside hundreds of genes.
WORD_SCALE = 0.05

#: Scale of gene vectors, five times the random part; smaller ones are lost in it after the first layer norm.
GENE_VECTOR_SCALE = 0.1

#: Maximum number of training cells of a file from which gene vectors are computed.
MAX_VECTOR_CELLS = 2000

#: Samples of a corpus whose text, without genes, the tokenizer is trained on.
MAX_CORPUS_TEXTS = 5000

#: Maximum number of cells of a file whose contexts the tokenizer is trained on.
MAX_CONTEXT_LINES = 2000

#: Added to the share of cells that express a gene, before its logarithm is taken.
MIN_EXPRESSED_SHARE = 1e-3

#: Added to a gene's standard deviation, so that rare genes, which are mostly noise, are not scaled up.
DEVIATION_OFFSET = 0.1


def common_genes(
    cells: Mapping[str, TrainingCells], min_cells: int, *, approved_symbols: bool = False
) -> tuple[str, ...]:
    """Genes expressed in at least `min_cells` training cells of all files together, sorted.

    With `approved_symbols` a gene that files name differently is one gene under its approved symbol.
    """
    counts: dict[str, int] = {}
    for file in cells.values():
        matrix: sp.csr_matrix = file.matrix[~file.test]
        expressed = np.bincount(matrix.indices[matrix.data > 0], minlength=len(file.symbols))
        symbols = file.symbols
        if approved_symbols:
            symbols = approved(symbols, set(file.organism), upper=file.case == "upper")
        for symbol, count in zip(symbols, expressed, strict=True):
            counts[symbol] = counts.get(symbol, 0) + int(count)
    kept = sorted(symbol for symbol, count in counts.items() if count >= min_cells)
    logger.info("%d of %d genes are expressed in at least %d training cells", len(kept), len(counts), min_cells)
    return tuple(kept)


def new_model(
    config: TrainConfig,
    genes: tuple[str, ...],
    cells: Mapping[str, TrainingCells],
    tasks: Mapping[str, Task],
    sets: Mapping[str, TrainingSets] | None = None,
    corpus: Corpus | None = None,
) -> TrainableModel:
    """New network and tokenizer; with whole-gene tokens each of `genes` has one token.

    Texts and first vectors are those of the cells and gene sets, or of the corpus.
    """
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = config.model.from_scratch
    assert shape is not None
    assert shape.initial.std is not None  # `Scratch` sets both
    assert shape.initial.layer_norm_eps is not None
    whole = shape.tokenizer.kind == "genes"
    texts = _texts(config, shape, cells, tasks)
    for file in (sets or {}).values():
        texts += [f" {file.organism}", *(f" {name_in_text(name)}." for name in file.names)]
    if corpus is not None:
        texts += [*corpus.texts(MAX_CORPUS_TEXTS), *(f" {name}." for name in corpus.names())]
    tokenizer = gene_tokenizer.build(genes, texts, shape.tokenizer.text_tokens, whole)
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attention_dropout=0.0,
            hidden_dropout=0.0,
            initializer_range=shape.initial.std,
            layer_norm_eps=shape.initial.layer_norm_eps,
        )
    )
    tokens = Tokens(tokenizer.backend_tokenizer, eos=[tokenizer.eos_token_id])
    if whole and shape.initial.gene_vectors:
        matrices = list(_log_normalised(cells)) if corpus is None else corpus.sentences(MAX_VECTOR_CELLS)
        if matrices:
            _set_gene_vectors(network, tokens, genes, matrices, shape, config.seed)
    return TrainableModel(network=network, tokenizer=tokenizer, tokens=tokens)


def _texts(
    config: TrainConfig, shape: Scratch, cells: Mapping[str, TrainingCells], tasks: Mapping[str, Task]
) -> list[str]:
    """Texts that the tokenizer is trained on: templates, labels, organisms, perturbations, words and numbers."""
    parts = ("prompt", "answer", "cell", "answer_cell")
    texts = [getattr(each, part) for task in tasks.values() for each in task.templates for part in parts]
    texts += [f" {word}." for task in tasks.values() if task.answer == "yes_no" for word in ("yes", "no")]
    texts += _texts_of_columns(cells, tasks)
    texts += [f" {label}." for label in _all_labels(config, cells)] * 2
    texts += [f" {answer}." for answer in _column_answers(cells, tasks)] * 2
    texts += sorted({line for file in cells.values() for line in _context_lines(file)})
    texts += [f" {name}" for file in cells.values() for name in sorted(set(file.organism))]
    perturbations = {name for file in cells.values() if file.perturbation is not None for name in file.perturbation}
    texts += [f" {name}" for name in sorted(name for name in perturbations if name)]
    texts += [f" {word}" for word in shape.tokenizer.words]
    return [*texts, *(f" {number}" for number in range(1000))]


def _texts_of_columns(cells: Mapping[str, TrainingCells], tasks: Mapping[str, Task]) -> list[str]:
    """Values of the columns that prompts and answers have, such as tissues, questions and captions, each once."""
    texts: dict[str, None] = {}
    for file in cells.values():
        learned = [tasks[name] for name in file.data.tasks]
        slots = {slot for task in learned for slot in (*task.slots, task.target)}
        for slot in sorted(map(str, slots & set(file.data.columns))):
            for draw in range(len(file.columns_of(slot))):
                texts.update({f" {value}": None for value in file.values(slot, draw) if value is not None})
        texts.update(
            {f" {text}": None for slot in sorted(map(str, slots & set(file.texts))) for text in file.texts[slot]}
        )
    return list(texts)


def _all_labels(config: TrainConfig, cells: Mapping[str, TrainingCells]) -> list[str]:
    labels = {
        str(label) for file in cells.values() if file.label is not None for label in file.label if label is not None
    }
    return sorted(labels | {spelling for spellings in config.data.names.spellings.values() for spelling in spellings})


def _column_answers(cells: Mapping[str, TrainingCells], tasks: Mapping[str, Task]) -> list[str]:
    """Answers of the tasks of obs columns."""
    answers: set[str] = set()
    for file in cells.values():
        for task in (tasks[name] for name in file.data.tasks if tasks[name].is_of_columns):
            answers |= {answer for column in file.answers_of_parts(task) for answer in column if answer is not None}
    return sorted(answers)


def _context_lines(cells: TrainingCells) -> list[str]:
    """Contexts of the first cells."""
    context = cells.prompt_context
    return [context_line(context.shared([row])) for row in range(len(context.values))][:MAX_CONTEXT_LINES]


def _set_gene_vectors(
    network: Any,
    tokens: Tokens,
    genes: Sequence[str],
    matrices: Sequence[tuple[sp.csr_matrix, Sequence[str]]],
    shape: Scratch,
    seed: int,
) -> None:
    import torch

    rows = torch.tensor([ids[0] for ids in tokens.ids([" " + gene for gene in genes])])
    size = min(shape.initial.gene_vectors, shape.hidden_size - 1)
    vectors = gene_vectors(matrices, genes, size, seed=seed)
    with torch.no_grad():
        weight: torch.Tensor = network.gpt_neox.embed_in.weight
        weight.normal_(std=WORD_SCALE)
        weight[rows] *= EMBEDDING_SCALE / WORD_SCALE
        weight[rows, :size] += GENE_VECTOR_SCALE * torch.from_numpy(vectors)
        # The last dimension of the final state is a constant, that of a gene's vector its log frequency: their product
        # is the gene's logit, so that first probabilities are frequencies.
        frequency, spread = log_frequency(matrices, genes)
        weight[:, -1] = 0.0
        weight[rows, -1] = GENE_VECTOR_SCALE * torch.from_numpy(frequency)
        network.gpt_neox.final_layer_norm.weight[-1] = 0.0
        network.gpt_neox.final_layer_norm.bias[-1] = spread / GENE_VECTOR_SCALE


def _log_normalised(cells: Mapping[str, TrainingCells]) -> Iterator[tuple[Any, Sequence[str]]]:
    """ln(1 + CP10k) of the first training cells of each file, and the genes."""
    for file in cells.values():
        rows = np.flatnonzero(~file.test)[:MAX_VECTOR_CELLS]
        yield file.scale.ln_cp10k(file.matrix[rows], file.totals[rows]).astype(np.float32), file.symbols


def gene_vectors(
    matrices: Iterable[tuple[sp.csr_matrix, Sequence[str]]], genes: Sequence[str], size: int, *, seed: int = 0
) -> NDArray[np.float32]:
    """Right singular vectors of scaled expression, float32 (genes, size), each column of unit mean square.

    With them a small model starts with gene programmes in its first layer, which it would otherwise have to learn from
    answers alone.

    Parameters
    ----------
    matrices
        ``(cells × genes, symbols)`` of each data set, ln(1 + CP10k), training cells only.
    genes
        Genes of the result; zero for genes that no matrix has.
    size
        Number of columns; those beyond min(cells, genes) - 1 are zero.
    """
    place = {gene: number for number, gene in enumerate(genes)}
    blocks = []
    for matrix, symbols in matrices:
        columns = np.array([place.get(symbol, -1) for symbol in symbols])
        kept = sp.csr_matrix(matrix)[:, columns >= 0].tocoo()
        shape = (matrix.shape[0], len(genes))
        blocks.append(sp.csr_matrix((kept.data, (kept.row, columns[columns >= 0][kept.col])), shape=shape))
    stacked = sp.vstack(blocks, format="csr").astype(np.float32)
    mean = np.asarray(stacked.mean(axis=0)).ravel()
    deviation = np.sqrt(np.maximum(np.asarray(stacked.multiply(stacked).mean(axis=0)).ravel() - mean**2, 0))
    scaled = stacked @ sp.diags((1 / (deviation + DEVIATION_OFFSET)).astype(np.float32))
    start = np.random.default_rng(seed).standard_normal(min(scaled.shape))
    _, _, vectors = svds(scaled, k=min(size, min(scaled.shape) - 1), v0=start)
    vectors = vectors[::-1].T
    result = np.zeros((len(genes), size), dtype=np.float32)
    result[:, : vectors.shape[1]] = vectors / np.sqrt(np.mean(vectors**2, axis=0, keepdims=True))
    return result


def log_frequency(
    matrices: Iterable[tuple[sp.csr_matrix, Sequence[str]]], genes: Sequence[str]
) -> tuple[NDArray[np.float32], float]:
    """Standardised log share of cells that express each gene, float32 (genes,), and its standard deviation in nats.

    The share is the largest of all matrices. It gives the first output probabilities, which otherwise take most of a
    short training to learn.
    """
    place = {gene: number for number, gene in enumerate(genes)}
    share = np.zeros(len(genes))
    for matrix, symbols in matrices:
        expressed = np.asarray((matrix > 0).mean(axis=0)).ravel()
        for symbol, value in zip(symbols, expressed, strict=True):
            if symbol in place:
                share[place[symbol]] = max(share[place[symbol]], value)
    logs = np.log(share + MIN_EXPRESSED_SHARE)
    spread = float(logs.std()) or 1.0
    return ((logs - logs.mean()) / spread).astype(np.float32), spread
