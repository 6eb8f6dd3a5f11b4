"""The network and tokenizer that a training begins with, and the whole network that it ends with."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cell2sen.engine.tokenization import gene_tokens as gene_tokenizer
from cell2sen.engine.tokenization.tokenizer import Tokens, load_tokens
from cell2sen.model import Model
from cell2sen.task import Task
from cell2sen.training.cells import LEAST_CELLS, Cells
from cell2sen.training.config import TrainConfig
from cell2sen.training.gene_vectors import change_vectors, gene_vectors, log_frequency

logger = logging.getLogger(__name__)

#: Spread of the random start of token vectors, which are the output layer, too: first logits must be small.
EMBEDDING_SCALE = 0.02

#: Words are few, and what they say must be heard beside hundreds of genes.
WORD_SCALE = 0.05

#: Five times the spread of the random start, so that the first norm lets it through.
GENE_VECTOR_SCALE = 0.1


#: Dimensions for the changes of perturbations that are new to a model.
CHANGE_VECTORS = 8

#: A gene that changes three times as much as the typical one gets a logit of about one per unit of the state.
CHANGE_SCALE = 0.3


def common_genes(cells: Mapping[str, Cells], config: TrainConfig) -> tuple[str, ...]:
    """Genes that get a token: expressed in enough training cells."""
    settings = config.from_scratch or config.gene_tokens
    assert settings is not None
    least = settings.min_cells
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
    assert shape.initializer_range is not None  # chosen with the tokenizer
    assert shape.layer_norm_eps is not None
    assert genes is not None
    texts = [text for task in worded.values() for one in task.templates for text in (one.prompt, one.answer)]
    texts += [f" {label}." for label in _all_labels(config, cells)] * 2
    texts += [f" {name}" for one in cells.values() for name in sorted(set(one.organism))]
    texts += [f" {name}" for name in sorted({n for one in cells.values() if one.perturbation is not None
                                             for n in one.perturbation if n})]  # fmt: skip
    texts += [f" {word}" for word in shape.words]
    texts += [f" {number}" for number in range(1000)]
    whole = shape.tokenizer == "genes"
    tokenizer = gene_tokenizer.build(genes, texts, shape.text_tokens, whole)
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer), hidden_size=shape.hidden_size, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.context, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, attention_dropout=0.0,
            hidden_dropout=0.0, initializer_range=shape.initializer_range, layer_norm_eps=shape.layer_norm_eps,
        )
    )  # fmt: skip
    tokens = Tokens(tokenizer.backend_tokenizer, eos=[tokenizer.eos_token_id])
    if whole and shape.gene_vectors:
        rows = torch.tensor([ids[0] for ids in tokens.ids([" " + gene for gene in genes])])
        size = min(shape.gene_vectors, shape.hidden_size - 1)
        vectors = gene_vectors(_log_normalised(cells), genes, size, seed=config.seed)
        with torch.no_grad():
            weight: torch.Tensor = network.gpt_neox.embed_in.weight
            weight.normal_(std=WORD_SCALE)
            weight[rows] *= EMBEDDING_SCALE / WORD_SCALE
            weight[rows, :size] += GENE_VECTOR_SCALE * torch.from_numpy(vectors)
            # The last dimension of the states begins as a constant, that of the genes as their log frequency.
            frequency, spread = log_frequency(_log_normalised(cells), genes)
            weight[:, -1] = 0.0
            weight[rows, -1] = GENE_VECTOR_SCALE * torch.from_numpy(frequency)
            network.gpt_neox.final_layer_norm.weight[-1] = 0.0
            network.gpt_neox.final_layer_norm.bias[-1] = spread / GENE_VECTOR_SCALE
    return network, tokenizer, tokens


def add_changes(network: Any, tokens: Tokens, cells: Mapping[str, Cells], length: int, size: int, seed: int) -> None:
    """Let gene tokens start from how perturbations change them, in the directions that they have used least.

    The names of perturbations start at least as loud as the constant of the norms; quieter ones take a hundred steps
    until they are heard.

    Raises
    ------
    ValueError
        No perturbed cells, or genes of several tokens.
    """
    import torch

    perturbed = [one for one in cells.values() if one.perturbation is not None]
    genes = sorted({symbol for one in perturbed for symbol in one.symbols})
    ids = tokens.ids([" " + gene for gene in genes])
    if not perturbed or any(len(one) != 1 for one in ids):
        raise ValueError(
            "change_vectors: needs perturbed training cells, and a model that writes a gene as one token; found "
            f"{len(perturbed)} files with perturbations, {sum(len(one) != 1 for one in ids)} genes of several tokens"
        )
    groups = [group for one in perturbed for group in one.changes(length, seed)]
    if not groups:
        logger.warning("no group of %d perturbed cells and as many controls of their context: genes begin as they are",
                       LEAST_CELLS)  # fmt: skip
        return
    vectors = torch.from_numpy(change_vectors(groups, genes, size))
    rows = torch.tensor([one[0] for one in ids])
    weight: torch.Tensor = network.get_input_embeddings().weight
    with torch.no_grad():
        used = weight[rows] - weight[rows].mean(dim=0)
        _, directions = torch.linalg.eigh((used.T @ used).double())  # ascending
        weight[rows] += CHANGE_SCALE * vectors @ directions[:, :size].T.float()
        head = network.get_output_embeddings()
        if head is not None and head.weight is not weight:
            head.weight[rows] += CHANGE_SCALE * vectors @ directions[:, :size].T.float()
        words = sorted(_words_of_names(perturbed, tokens) - set(rows.tolist()))
        loudness = weight[words].pow(2).mean(dim=1, keepdim=True).sqrt().clamp(min=1e-9)
        weight[words] *= (float(getattr(network.config, "layer_norm_eps", 0.0)) ** 0.5 / loudness).clamp(min=1)


def _words_of_names(perturbed: Sequence[Cells], tokens: Tokens) -> set[int]:
    """Tokens of the names of perturbations in training cells."""
    names: set[str] = set()
    for one in perturbed:
        assert one.perturbation is not None
        names |= {name for name in one.perturbation[~one.test] if name and name != one.data.control}
    return {token for ids in tokens.ids([f" {name}" for name in sorted(names)]) for token in ids}


def _log_normalised(cells: Mapping[str, Cells], most: int = 2000) -> Iterator[tuple[Any, Sequence[str]]]:
    """Up to `most` training cells of each file as ln(1 + CP10k)."""
    for one in cells.values():
        rows = np.flatnonzero(~one.test)[:most]
        yield one.scale.ln_cp10k(one.matrix[rows], one.totals[rows]).astype(np.float32), one.symbols


def _all_labels(config: TrainConfig, cells: Mapping[str, Cells]) -> list[str]:
    labels = {str(label) for one in cells.values() if one.label is not None for label in one.label if label is not None}
    return sorted(labels | {spelling for spellings in config.labels.values() for spelling in spellings})


def where(start: Model) -> dict[str, Any]:
    """How transformers must read the checkpoint: what is on this machine, no code of others, no pickle."""
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if start.revision and not start.is_local:
        options["revision"] = start.revision
    return options


def load(
    config: TrainConfig, start: Model, new_genes: Sequence[str] = (), *, exact: bool = False
) -> tuple[Any, Any, Tokens]:
    """Network, tokenizer and tokens of the model that is fine-tuned, with a token for each of `new_genes`.

    With `exact` quantised weights are in full precision again.
    """
    from transformers import AutoTokenizer

    tokens = load_tokens(start.path, **where(start))
    if not tokens.eos:
        raise ValueError(f"the tokenizer of {start.name} has no end-of-text token, which answers must end with")
    load_tokenizer: Any = AutoTokenizer  # typed in parts only
    tokenizer = load_tokenizer.from_pretrained(start.path, **where(start))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    network = _network(config, start, exact)
    if new_genes:
        tokenizer, tokens, pieces = _extended(tokenizer, tokens, new_genes)
        add_rows(network, pieces)
        network.new_tokens = sorted(pieces)
    return network, tokenizer, tokens


def _extended(tokenizer: Any, tokens: Tokens, genes: Sequence[str]) -> tuple[Any, Tokens, dict[int, list[int]]]:
    from transformers import PreTrainedTokenizerFast

    made, pieces = gene_tokenizer.extend(tokens.tokenizer, genes)
    words = [" " + gene for gene in genes]
    before = np.mean(tokens.count(words))
    after = np.mean([len(one) for one in made.encode_batch(words, add_special_tokens=False)])
    logger.info("%d new tokens: a gene has %.2f tokens, before %.2f", len(pieces), after, before)
    make: Any = PreTrainedTokenizerFast  # typed in parts only
    extended = make(tokenizer_object=made, clean_up_tokenization_spaces=False, **tokenizer.special_tokens_map)
    with tempfile.TemporaryDirectory() as folder:  # read as it will be read
        extended.save_pretrained(folder)
        return extended, load_tokens(folder, local_files_only=True), pieces


def add_rows(network: Any, pieces: Mapping[int, Sequence[int]]) -> None:
    """Vectors for new tokens, each the mean of those of its pieces: of the input, and of an output of its own."""
    import torch

    if pieces and max(pieces) >= network.get_input_embeddings().num_embeddings:
        network.resize_token_embeddings(max(pieces) + 1, mean_resizing=False)
    with torch.no_grad():
        for weight in {id(one): one for one in _vectors(network).values()}.values():
            for number, old in pieces.items():
                weight[number] = weight[list(old)].float().mean(dim=0).to(weight.dtype)


def _vectors(network: Any) -> dict[str, Any]:
    """Name of the module → its weight, for the vectors of tokens; one where input and output share them."""
    ends = [network.get_input_embeddings(), network.get_output_embeddings()]
    if ends[0].weight is ends[1].weight:
        ends = ends[:1]
    return {name: module.weight for name, module in network.named_modules() if any(module is one for one in ends)}


def with_adapters(network: Any, told: Any) -> Any:
    """The network with what peft is told."""
    if told is None:
        return network
    from peft import get_peft_model

    with warnings.catch_warnings():
        # Of input and output vectors that are one, which the adapter of tokens keeps one.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        return get_peft_model(network, told)


@contextlib.contextmanager
def head_hidden(network: Any) -> Iterator[None]:
    """Hides the head, so that trl does not refuse adapters on it; the loss of ``sft`` sees them."""
    network.get_output_embeddings = lambda: None
    try:
        yield
    finally:
        del network.get_output_embeddings


def first_stage(network: Any) -> Any:
    """What peft is told where only the vectors of new tokens are trained."""
    from peft import TrainableTokensConfig

    return TrainableTokensConfig(
        token_indices=network.new_tokens, target_modules=list(_vectors(network)), task_type="CAUSAL_LM"
    )


def rows_of(network: Any) -> dict[str, Any]:
    """The vectors of new tokens, to be stored."""
    return {name: weight[network.new_tokens].detach().clone().cpu() for name, weight in _vectors(network).items()}


def set_rows(network: Any, rows: Mapping[str, Any]) -> None:
    """Put stored vectors of new tokens in their place."""
    import torch

    with torch.no_grad():
        for name, weight in _vectors(network).items():
            weight[network.new_tokens] = rows[name].to(weight.device, weight.dtype)


def _network(config: TrainConfig, start: Model, exact: bool) -> Any:
    import torch
    import transformers

    from cell2sen.engine.network import attention, cpu

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
    cpu.keep_quantized_layout(network)
    return network.dequantize() if exact else network


def adapters(config: TrainConfig, network: Any) -> Any:
    """What peft is told about the adapters, if there are any. Vectors of new tokens are trained with them."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    new = getattr(network, "new_tokens", None)
    return LoraConfig(
        r=config.lora.r, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout, target_modules="all-linear",
        trainable_token_indices=dict.fromkeys(_vectors(network), new) if new else None, task_type="CAUSAL_LM",
    )  # fmt: skip


def is_small(network: Any) -> bool:
    """Whether a network is so small that it learns more from many small and noisy steps than from few large ones."""
    return bool(network.num_parameters() < 50e6)


def set_dropout(network: Any, config: TrainConfig) -> None:
    """Leave out what the settings say, in all layers that leave out something."""
    import torch

    share = config.dropout
    if share is None:
        share = 0.2 if config.model and not config.grpo and is_small(network) else 0.0
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share


def weights_of(network: Any) -> dict[str, Any]:
    """Copies of all weights."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def keep(network: Any, before: Mapping[str, Any], share: float) -> None:
    """Move the weights of `before` by this share of the way back to what they were."""
    import torch

    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name in before:
                weight.lerp_(before[name].to(weight.device, weight.dtype), share)


def whole(
    trainer: Any, config: TrainConfig, start: Model | None, folder: Path, new_genes: Sequence[str] = ()
) -> Any:  # fmt: skip
    """The trained network without adapters and quantisation; adapters that are to be kept are in ``folder/adapter``."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora is None:
        return network
    assert start is not None
    if not config.lora.merge or config.quantize:
        network.save_pretrained(folder / "adapter")
    if config.quantize is None:
        return (network.float() if config.save_dtype == "float32" else network).merge_and_unload()
    from peft import PeftModel

    # Merged as they are, the weights would be rounded to 4 bits once more. So the adapters go onto the same rounded
    # weights in full precision: what is saved computes what was trained.
    exact, _, _ = load(config, start, new_genes, exact=True)
    return PeftModel.from_pretrained(exact, folder / "adapter").merge_and_unload()
