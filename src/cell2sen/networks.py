"""The network and tokenizer that a training begins with, and the whole network that it ends with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cell2sen import gene_tokenizer
from cell2sen.gene_vectors import gene_vectors
from cell2sen.model import Model
from cell2sen.pairs import Cells
from cell2sen.task import Task
from cell2sen.tokens import Tokens, load_tokens
from cell2sen.training_file import TrainConfig

logger = logging.getLogger(__name__)

#: Five times the spread of the random start (0.02), so that the first norm lets it through.
GENE_VECTOR_SCALE = 0.1


def common_genes(cells: Mapping[str, Cells], config: TrainConfig) -> tuple[str, ...]:
    """Genes that get a token: expressed in enough training cells."""
    assert config.from_scratch is not None
    least = config.from_scratch.min_cells
    counts: dict[str, int] = {}
    for one in cells.values():
        expressed = np.asarray((one.matrix[~one.test] > 0).sum(axis=0)).ravel()
        for symbol, count in zip(one.symbols, expressed, strict=True):
            counts[symbol] = counts.get(symbol, 0) + int(count)
    kept = sorted(symbol for symbol, count in counts.items() if count >= least)
    logger.info("%d of %d genes are expressed in at least %d training cells", len(kept), len(counts), least)
    return tuple(kept)


def from_scratch(
    config: TrainConfig, genes: tuple[str, ...] | None, cells: Mapping[str, Cells], worded: Mapping[str, Task]
) -> tuple[Any, Any, Tokens]:
    """Network, tokenizer and tokens of a new model."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = config.from_scratch
    assert shape is not None
    assert genes is not None
    texts = [text for task in worded.values() for one in task.templates for text in (one.prompt, one.answer)]
    texts += [f" {label}." for label in _all_labels(config, cells)] * 2
    texts += [f" {name}" for one in cells.values() for name in sorted(set(one.organism))]
    texts += [f" {name}" for name in sorted({n for one in cells.values() if one.perturbation is not None
                                             for n in one.perturbation if n})]  # fmt: skip
    texts += [f" {number}" for number in range(1000)]
    tokenizer = gene_tokenizer.build(genes, texts)
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer), hidden_size=shape.hidden_size, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.context, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, attention_dropout=0.0,
            hidden_dropout=0.0,
        )
    )  # fmt: skip
    tokens = Tokens(tokenizer.backend_tokenizer, eos=[tokenizer.eos_token_id])
    if shape.gene_vectors:
        rows = torch.tensor([ids[0] for ids in tokens.ids([" " + gene for gene in genes])])
        vectors = gene_vectors(_log_normalised(cells), genes, shape.gene_vectors, seed=config.seed)
        with torch.no_grad():
            weight: torch.Tensor = network.gpt_neox.embed_in.weight
            weight[rows, : shape.gene_vectors] += GENE_VECTOR_SCALE * torch.from_numpy(vectors)
    return network, tokenizer, tokens


def _log_normalised(cells: Mapping[str, Cells], most: int = 2000) -> Iterator[tuple[Any, Sequence[str]]]:
    """Up to `most` training cells of each file as ln(1 + CP10k)."""
    for one in cells.values():
        rows = np.flatnonzero(~one.test)[:most]
        matrix = one.matrix[rows].copy()
        sums = np.repeat(one.totals[rows], np.diff(matrix.indptr))
        matrix.data = (one.scale.log10_cp10k(matrix.data, sums) * np.log(10)).astype(np.float32)
        yield matrix, one.symbols


def _all_labels(config: TrainConfig, cells: Mapping[str, Cells]) -> list[str]:
    labels = {str(label) for one in cells.values() if one.label is not None for label in one.label if label is not None}
    return sorted(labels | {spelling for spellings in config.labels.values() for spelling in spellings})


def where(start: Model) -> dict[str, Any]:
    """How transformers must read the checkpoint: what is on this machine, no code of others, no pickle."""
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if start.revision and not start.is_local:
        options["revision"] = start.revision
    return options


def load(config: TrainConfig, start: Model) -> tuple[Any, Any, Tokens]:
    """Network, tokenizer and tokens of the model that is fine-tuned."""
    from transformers import AutoTokenizer

    tokens = load_tokens(start.path, **where(start))
    if not tokens.eos:
        raise ValueError(f"the tokenizer of {start.name} has no end-of-text token, which answers must end with")
    load_tokenizer: Any = AutoTokenizer  # typed in parts only
    tokenizer = load_tokenizer.from_pretrained(start.path, **where(start))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return _network(config, start), tokenizer, tokens


def _network(config: TrainConfig, start: Model, exact: bool = False) -> Any:
    import torch
    import transformers

    from cell2sen import attention

    # Frozen weights need no more precision than they have; trained ones take steps that bfloat16 would swallow.
    dtype = getattr(torch, start.resolved_dtype) if config.lora and not exact else torch.float32
    options = {**where(start), "use_safetensors": True}
    hf: Any = transformers  # typed in parts only
    if config.quantize:
        options["quantization_config"] = hf.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )  # fmt: skip
        options["device_map"] = {"": "cuda" if torch.cuda.is_available() else "cpu"}
    network = hf.AutoModelForCausalLM.from_pretrained(
        start.path, dtype=dtype, attn_implementation=attention.register(), **options
    )
    for module in network.modules():
        # On CPUs with AVX-512 bitsandbytes would repack 4-bit weights at the first evaluation, with rounded scales:
        # training would go on with other weights than it began with.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return network


def adapters(config: TrainConfig) -> Any:
    """What peft is told about the adapters, if there are any."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.r, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip


def whole(trainer: Any, config: TrainConfig, start: Model | None, folder: Path) -> Any:
    """The trained network without adapters and quantisation."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora is None:
        return network
    if config.quantize is None:
        return (network.float() if config.save_dtype == "float32" else network).merge_and_unload()
    from peft import PeftModel

    # Merged as they are, the weights would be rounded to 4 bits once more. So the adapters go onto the same rounded
    # weights in full precision: what is saved computes what was trained.
    assert start is not None
    network.save_pretrained(folder / "adapter")
    whole = _network(config, start, exact=True).dequantize()
    return PeftModel.from_pretrained(whole, folder / "adapter").merge_and_unload()
