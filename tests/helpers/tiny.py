"""Tiny random models and tokenizers in memory, of the same kinds as the published ones."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, WordLevel

from cell2sen.engine.network import attention
from cell2sen.engine.tokenization.gene_tokens import WORD
from cell2sen.engine.tokenization.tokenizer import Tokens
from cell2sen.model import Model
from cell2sen.prompt import Genes, Prompt

#: Symbols with common beginnings (CD4, CD44), digits, hyphens, dots, mouse case and a Greek letter.
_GENES = (
    "CD4 CD44 CD8A CD8B CD3D CD3E CD79A CD79B MALAT1 B2M TMSB4X TMSB10 RPL3 RPL30 RPL32 RPL34 RPS2 RPS20 RPS27 RPS27A "
    "HLA-A HLA-B HLA-DRA HLA-DRB1 MT-CO1 MT-CO2 MT-ND1 IL7R IL7 IL2RA CCR7 LYZ S100A8 S100A9 S100A4 NKG7 GNLY PF4 "
    "PPBP FCER1A FCGR3A MS4A1 MS4A7 CST3 ACTB ACTG1 FTL FTH1 EEF1A1 RP11-34P13.7 Actb Gapdh 1700001C02Rik TGFΒ1"
)
GENES = _GENES.split()
PROSE = "Below are the genes of a Homo sapiens cell by expression. Cell sentence: The type of this cell is a T B NK ."
WORDS = PROSE.split()

#: The tiny models' context, sliding window (shorter than most prompts) and layers (one with the window, one without).
CONTEXT, WINDOW, LAYERS = 512, 24, 2


def corpus() -> list[str]:
    """Cell sentences in prompts."""
    generator = np.random.default_rng(0)
    return [f"{PROSE} {' '.join(generator.permutation(GENES))}.\n" for _ in range(30)]


def spm_tokenizer() -> tokenizers.Tokenizer:
    """Gemma-like: SentencePiece-style BPE over the whole text with byte fallback, single digits, and a BOS."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trained = tokenizers.Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    # Neither words nor digits are joined, as by SentencePiece's trainer.
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Digits(individual_digits=True)]
    )
    special += [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    trained.train_from_iterator([text.replace("Β", "") for text in corpus()], trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = tokenizers.Tokenizer(
        BPE(
            vocab=model["vocab"],
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(special[:4])
    tokenizer.add_tokens(["<ctrl100>"])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", bos)]
    )
    return tokenizer


def bytes_tokenizer() -> tokenizers.Tokenizer:
    """GPT-NeoX-like: byte-level BPE, no BOS, no pad token."""
    tokenizer = tokenizers.Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens(["<ctrl100>"])
    return tokenizer


def genes_tokenizer(genes: list[str] | None = None) -> tokenizers.Tokenizer:
    """One token per gene: words with their leading space; other text is unknown."""
    genes = GENES if genes is None else genes
    words = sorted({piece for word in WORDS for piece in (word, word.removesuffix("."), word.removesuffix(":"))})
    units = ["<|endoftext|>", "<unk>", ".", ":", *words, *(" " + word for word in words)]
    units += [" " + gene for gene in genes] + [f" {number}" for number in range(100)] + list(genes)
    tokenizer = tokenizers.Tokenizer(
        WordLevel({unit: number for number, unit in enumerate(dict.fromkeys(units))}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(WORD), "isolated")])
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<|endoftext|>", "<unk>"])
    return tokenizer


TOKENIZERS = {"spm": spm_tokenizer, "bytes": bytes_tokenizer, "genes": genes_tokenizer}


def config(architecture: str, vocabulary: int, **changes: Any) -> transformers.PreTrainedConfig:
    """Tiny Gemma-2 (grouped heads, window shorter than the prompts, both soft-caps) or GPT-NeoX."""
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if architecture == "gemma2":
        # Scores and logits are far beyond the caps, so that a dropped cap changes results.
        gemma = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 1}
        gemma |= {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 2.0}
        return transformers.Gemma2Config(**sizes | gemma | changes)
    return transformers.GPTNeoXConfig(**sizes | {"rotary_pct": 0.25} | changes)


def network(
    architecture: str, vocabulary: int, seed: int = 0, implementation: str = attention.NAME, **changes: Any
) -> Any:
    """A random float32 model."""
    model = copy.deepcopy(_network(architecture, vocabulary, seed, tuple(changes.items())))
    attention.register()
    model.set_attn_implementation(implementation)
    return model


@functools.cache
def _network(architecture: str, vocabulary: int, seed: int, changes: tuple[tuple[str, Any], ...]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = {"gemma2": transformers.Gemma2ForCausalLM, "gpt_neox": transformers.GPTNeoXForCausalLM}[architecture](
            config(architecture, vocabulary, **dict(changes))
        )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@functools.cache
def _written(kind: str) -> str:
    return TOKENIZERS[kind]().to_str()


def tokens(kind: str) -> Tokens:
    """A tokenizer in the form that a backend needs."""
    tokenizer = tokenizers.Tokenizer.from_str(_written(kind))
    names = {
        "spm": ("<bos>", "<eos>", "<unk>"),
        "bytes": (None, "<|endoftext|>", None),
        "genes": (None, "<|endoftext|>", "<unk>"),
    }
    bos, eos, unk = (None if name is None else tokenizer.token_to_id(name) for name in names[kind])
    return Tokens(tokenizer, bos=bos, eos=[eos], unk=unk)


def backend(
    architecture: str = "gpt_neox", kind: str = "bytes", *, seed: int = 0, model: Model | None = None, **options: Any
) -> Any:
    """A backend over a tiny random model."""
    from cell2sen.backends.transformers import TransformersBackend

    tokenizer = tokens(kind)
    vocabulary = tokenizer.tokenizer.get_vocab_size()
    model = Model(name="tiny", path="tiny", dtype="float32") if model is None else model
    return TransformersBackend(
        model, network(architecture, vocabulary, seed), tokenizer, **{"progress": False} | options
    )


def save(directory: Path, architecture: str = "gpt_neox", kind: str = "bytes", seed: int = 0, **changes: Any) -> Path:
    """A checkpoint on disk."""
    tokenizer = tokens(kind).tokenizer
    network(architecture, tokenizer.get_vocab_size(), seed, **changes).save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    special = (
        {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
        if kind == "spm"
        else {"eos_token": "<|endoftext|>"}
    )
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special})
    )
    return directory


def prompts(n: int, *, seed: int = 0, genes: tuple[int, int] = (3, 40), answer_genes: int | None = 3) -> list[Prompt]:
    """Cells of different length."""
    generator = np.random.default_rng(seed)
    return [
        Prompt.of_cell(
            "Below are the {n_genes} genes of a Homo sapiens cell by expression. Cell sentence: ",
            genes=tuple(str(gene) for gene in generator.permutation(GENES)[: generator.integers(*genes)]),
            after=". The type of this cell is" if row % 2 else ".",
            key=f"cell{row}",
            answer_genes=None if answer_genes is None else answer_genes + row % 3,
        )
        for row in range(n)
    ]


def with_genes(prompt: Prompt, genes: Iterable[str], **changes: Any) -> Prompt:
    """The prompt of one cell with other genes."""
    before, _, after = prompt.segments
    return replace(prompt, segments=(before, Genes(symbols=tuple(genes), cell=prompt.key), after), **changes)


def with_opening(prompt: Prompt, text: str) -> Prompt:
    """The prompt with another text at its beginning."""
    return replace(prompt, segments=(text, *prompt.segments[1:]))


def samples(n_cells: Sequence[int] = (1, 2, 20), n_genes: int = 3, seed: int = 0) -> list[Prompt]:
    """Prompts of samples, one per number in `n_cells`."""
    generator = np.random.default_rng(seed)
    prompts = []
    for n in n_cells:
        segments: list[str | Genes] = [f"The {{n_genes}} genes of {n} cells:\n"]
        for number in range(n):
            genes = tuple(str(gene) for gene in generator.permutation(GENES)[:n_genes])
            segments += [f"{number + 1}: ", Genes(symbols=genes, cell=f"cell{number}"), ".\n"]
        prompts.append(Prompt(segments=(*segments, "The type is"), key=f"sample{n}", answer_genes=3))
    return prompts
