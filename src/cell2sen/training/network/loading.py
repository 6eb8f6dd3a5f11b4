"""Network of a training run: loading, new tokens, adapters, dropout, merged weights."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cell2sen.engine.tokenization import gene_tokens as gene_tokenizer
from cell2sen.engine.tokenization.tokenizer import Tokens, load_tokens
from cell2sen.model import Model
from cell2sen.training.config.model import ModelConfig
from cell2sen.training.config.settings import TrainConfig
from cell2sen.training.processes import local_rank

logger = logging.getLogger(__name__)

#: Upper limit of the parameters of a small network, which learns more from many small steps than from few large ones.
SMALL_NETWORK = 50e6

#: Default dropout where a small network is fine-tuned on pairs.
SMALL_DROPOUT = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainableModel:
    """Network of a training run, and its tokenizer in two forms: transformers' (`tokenizer`) and ours (`tokens`)."""

    network: Any
    tokenizer: Any
    tokens: Tokens
    start: Model | None = None
    """Model that the network was loaded from; ``None`` from scratch."""

    new_genes: tuple[str, ...] = ()
    """Genes that get a token in this training."""

    new_tokens: tuple[int, ...] = ()
    """Their token ids, ascending."""


def load(config: ModelConfig, start: Model, new_genes: Sequence[str] = (), *, exact: bool = False) -> TrainableModel:
    """Network and tokenizer of the model that is fine-tuned.

    Parameters
    ----------
    new_genes
        Genes that get one token each.
    exact
        Return the weights in float32, quantised ones after their rounding to 4 bits.

    Raises
    ------
    ValueError
        The tokenizer has no end-of-text token.
    """
    from transformers import AutoTokenizer

    tokens = load_tokens(start.path, **load_options(start))
    if not tokens.eos:
        raise ValueError(
            f"the tokenizer of {start.name} has no end-of-text token, which each answer must end with; start from "
            "another model, or add the token to its tokenizer"
        )
    load_tokenizer: Any = AutoTokenizer  # typed in parts only
    tokenizer = load_tokenizer.from_pretrained(start.path, **load_options(start))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    network = _load_network(config, start, exact)
    if not new_genes:
        return TrainableModel(network=network, tokenizer=tokenizer, tokens=tokens, start=start)
    tokenizer, tokens, pieces = _extend_tokenizer(tokenizer, tokens, new_genes)
    add_rows(network, pieces)
    return TrainableModel(
        network=network,
        tokenizer=tokenizer,
        tokens=tokens,
        start=start,
        new_genes=tuple(new_genes),
        new_tokens=tuple(sorted(pieces)),
    )


def load_options(start: Model) -> dict[str, Any]:
    """Options of ``from_pretrained``: local files only, no remote code, the revision of the model."""
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if start.revision and not start.is_local:
        options["revision"] = start.revision
    return options


def _load_network(config: ModelConfig, start: Model, exact: bool) -> Any:
    import torch
    import transformers

    from cell2sen.engine.network import attention, cpu

    # Frozen weights keep their precision. Trained ones need float32: in bfloat16 small steps are rounded to 0.
    dtype = getattr(torch, start.resolved_dtype) if config.lora and not exact else torch.float32
    options = {**load_options(start), "use_safetensors": True}
    hf: Any = transformers  # typed in parts only
    if config.quantize:
        options["quantization_config"] = hf.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
        options["device_map"] = {"": local_rank() if torch.cuda.is_available() else "cpu"}
    network = hf.AutoModelForCausalLM.from_pretrained(
        start.path, dtype=dtype, attn_implementation=attention.register(), **options
    )
    cpu.keep_quantized_layout(network)
    return network.dequantize() if exact else network


# -- tokens for new genes


def _extend_tokenizer(tokenizer: Any, tokens: Tokens, genes: Sequence[str]) -> tuple[Any, Tokens, dict[int, list[int]]]:
    """Both forms of the extended tokenizer, and new token id → ids of the pieces that it replaces."""
    from transformers import PreTrainedTokenizerFast

    extended, pieces = gene_tokenizer.extend(tokens.tokenizer, genes)
    words = [" " + gene for gene in genes]
    before = np.mean(tokens.count(words))
    after = np.mean([len(encoding) for encoding in extended.encode_batch(words, add_special_tokens=False)])
    logger.info("%d new tokens: a gene has %.2f tokens, before %.2f", len(pieces), after, before)
    make: Any = PreTrainedTokenizerFast  # typed in parts only
    fast = make(tokenizer_object=extended, clean_up_tokenization_spaces=False, **tokenizer.special_tokens_map)
    with tempfile.TemporaryDirectory() as folder:  # loaded from disk, as at inference
        fast.save_pretrained(folder)
        return fast, load_tokens(folder, local_files_only=True), pieces


def add_rows(network: Any, pieces: Mapping[int, Sequence[int]]) -> None:
    """Add input and output vectors of new tokens, each the mean of the vectors of its pieces."""
    import torch

    if pieces and max(pieces) >= network.get_input_embeddings().num_embeddings:
        network.resize_token_embeddings(max(pieces) + 1, mean_resizing=False)
    with torch.no_grad():
        for weight in {id(weight): weight for weight in _token_vectors(network).values()}.values():
            for token, old in pieces.items():
                weight[token] = weight[list(old)].float().mean(dim=0).to(weight.dtype)


def new_rows(model: TrainableModel) -> dict[str, Any]:
    """Copies of the vectors of new tokens: name of the module → (tokens, hidden size)."""
    rows = list(model.new_tokens)
    return {name: weight[rows].detach().clone().cpu() for name, weight in _token_vectors(model.network).items()}


def set_new_rows(model: TrainableModel, rows: Mapping[str, Any]) -> None:
    """Write the vectors of :func:`new_rows` into the network."""
    import torch

    with torch.no_grad():
        for name, weight in _token_vectors(model.network).items():
            weight[list(model.new_tokens)] = rows[name].to(weight.device, weight.dtype)


def _token_vectors(network: Any) -> dict[str, Any]:
    """Input and output vectors: name of the module → weight; one entry if they are tied."""
    ends = [network.get_input_embeddings(), network.get_output_embeddings()]
    if ends[0].weight is ends[1].weight:
        ends = ends[:1]
    return {name: module.weight for name, module in network.named_modules() if any(module is end for end in ends)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and advice, and warnings about deprecated names that trl and peft use.

    Also bitsandbytes' advice on 4 bits, which it gives whenever peft imports it.
    """
    from transformers.utils import logging as transformers_logging

    hf_logging: Any = transformers_logging  # typed in parts only
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    bitsandbytes = logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    bitsandbytes.setLevel(logging.ERROR)
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "Setting `save_embedding_layers` to `True`", UserWarning)
            warnings.filterwarnings("ignore", "You are using 'rollout_func', which is an experimental", UserWarning)
            yield
    finally:
        bitsandbytes.setLevel(level)
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


# -- adapters


def lora_config(config: ModelConfig, model: TrainableModel) -> Any:
    """Configuration for peft of low-rank adapters and vectors of new tokens; ``None`` without `lora`."""
    if config.lora is None:
        return None
    from peft import LoraConfig

    new = list(model.new_tokens)
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear",
        trainable_token_indices=dict.fromkeys(_token_vectors(model.network), new) if new else None,
        task_type="CAUSAL_LM",
    )


def new_tokens_config(model: TrainableModel) -> Any:
    """Configuration for peft that trains the vectors of new tokens alone."""
    from peft import TrainableTokensConfig

    return TrainableTokensConfig(
        token_indices=list(model.new_tokens), target_modules=list(_token_vectors(model.network)), task_type="CAUSAL_LM"
    )


def with_adapters(network: Any, peft_config: Any) -> Any:
    """The network with peft's adapters; the network itself without a `peft_config`."""
    if peft_config is None:
        return network
    from peft import get_peft_model

    with warnings.catch_warnings():
        # The warning does not apply: the adapter of tokens keeps input and output vectors tied.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        return get_peft_model(network, peft_config)


def without_adapters(network: Any) -> Any:
    """The network inside peft's adapters; the network itself if it has none."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


@contextlib.contextmanager
def without_head(network: Any) -> Iterator[None]:
    """Hide the LM head from trl, which refuses adapters on it; the loss in :mod:`.trainers.sft` supports them."""
    network.get_output_embeddings = lambda: None
    try:
        yield
    finally:
        del network.get_output_embeddings


def merged_network(trainer: Any, config: TrainConfig, model: TrainableModel, folder: Path) -> Any:
    """The trained network without adapters and quantisation.

    Adapters that are kept, or that were trained on quantised weights, are written to ``folder/adapter``.
    """
    network = trainer.accelerator.unwrap_model(trainer.model)
    settings = config.model
    if settings.lora is None:
        return network
    if not settings.lora.merge or settings.quantize:
        network.save_pretrained(folder / "adapter")
    if settings.quantize is None:
        return (network.float() if config.checkpoints.save_dtype == "float32" else network).merge_and_unload()
    from peft import PeftModel

    # Merged into 4-bit weights, adapters would be rounded again. They are merged into the same rounded weights in full
    # precision instead, so that the saved network is the trained one.
    assert model.start is not None
    exact = load(settings, model.start, model.new_genes, exact=True).network
    return PeftModel.from_pretrained(exact, folder / "adapter").merge_and_unload()


# -- weights


def is_small(network: Any) -> bool:
    """Whether a network has fewer than :data:`SMALL_NETWORK` parameters."""
    return bool(network.num_parameters() < SMALL_NETWORK)


def set_dropout(network: Any, config: TrainConfig) -> None:
    """Set ``model.dropout``, or its default, in all dropout layers."""
    import torch

    share = config.model.dropout
    if share is None:
        share = SMALL_DROPOUT if config.model.start and not config.grpo and is_small(network) else 0.0
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share


def copied_weights(network: Any) -> dict[str, Any]:
    """Copies of all weights, by name."""
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def interpolate_weights(network: Any, before: Mapping[str, Any], share: float) -> None:
    """Interpolate weights: ``share * before + (1 - share) * weights``, in place (Wortsman et al., CVPR 2022)."""
    import torch

    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name in before:
                weight.lerp_(before[name].to(weight.device, weight.dtype), share)
