"""Simulated cells and a checkpoint with random weights: no download, the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

#: Gemma-2 with its vocabulary and 160 million parameters.
SMALL = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "vocabulary": 256_000,
}
GEMMA_2_2B = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "vocabulary": 256_000,
}
GEMMA_2_27B = {
    "hidden_size": 4608,
    "intermediate_size": 36864,
    "num_hidden_layers": 46,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "query_pre_attn_scalar": 144,
    "vocabulary": 256_000,
}
TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "vocabulary": 2000,
}

PROSE = (
    "Below are the genes of one Homo sapiens cell in descending expression, strongest first. Cell sentence: The type "
    "of this cell is: T cell, B cell, monocyte, 0 1 2 3 4 5 6 7 8 9."
)
#: Words that every real vocabulary has as one or few pieces.
TYPES = (
    " NK cell, dendritic cell, megakaryocyte, neutrophil, mast cell, fibroblast, epithelial cell, naive, memory, "
    "activated, immature, cycling, of the blood, of the lung, of the liver, of the gut, of the skin, CD4+, CD8+, CD14+."
)


def symbols(n: int, seed: int = 0) -> list[str]:
    """Random names that look like gene symbols: a family of letters, a number, sometimes a letter or a hyphen."""
    random = np.random.default_rng(seed)
    letters = np.array(list("ABCDEFGHIJKLMNOPRSTUVXZ"))
    families = ["".join(letters[random.integers(0, len(letters), random.integers(2, 6))]) for _ in range(n // 6 + 1)]
    names: dict[str, None] = {}
    while len(names) < n:
        name = families[int(random.integers(len(families)))] + str(random.integers(1, 60))
        kind = random.random()
        name += "" if kind < 0.75 else str(letters[random.integers(6)]) if kind < 0.92 else f"-{random.integers(1, 9)}"
        names.setdefault(name)
    return list(names)


def cells(n_cells: int, n_genes: int, per_cell: int, seed: int = 0) -> ad.AnnData:
    """Poisson counts with about `per_cell` expressed genes per cell; most counts are 1 or 2."""
    random = np.random.default_rng(seed)
    share = random.gamma(0.6, size=n_genes)
    share /= share.sum()
    # A gene has count 0 with probability exp(-depth * share): bisection for the depth with `per_cell` expressed genes.
    low, high = 1.0, 1e7
    for _ in range(60):
        depth = (low * high) ** 0.5
        low, high = (depth, high) if np.sum(1 - np.exp(-depth * share)) < per_cell else (low, depth)
    blocks = []
    for first in range(0, n_cells, 1000):
        size = (min(1000, n_cells - first), 1)
        blocks.append(sp.csr_matrix(random.poisson(depth * share * random.gamma(20, 1 / 20, size)).astype(np.float32)))
    matrix = sp.csr_matrix(sp.vstack(blocks))
    return ad.AnnData(
        matrix,
        obs=pd.DataFrame(index=[f"cell{row}" for row in range(n_cells)]),
        var=pd.DataFrame(index=symbols(n_genes)),
    )


def tokenizer(vocabulary: int, genes: list[str], pieces: int = 1500):
    """SentencePiece-style BPE like Gemma's (byte fallback, single digits, BOS), padded to `vocabulary` entries."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trained = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=min(pieces, vocabulary),
        show_progress=False,
        special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)],
    )
    trained.train_from_iterator([PROSE + TYPES] * 20 + [" " + " ".join(genes[:3000])], trainer)
    model = json.loads(trained.to_str())["model"]
    entries = dict(model["vocab"])
    for number in range(len(entries), vocabulary):
        entries[f"<unused{number}>"] = number
    merges = [tuple(merge) for merge in model["merges"]]
    result = Tokenizer(BPE(vocab=entries, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    result.normalizer = normalizers.Replace(" ", "▁")
    result.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    result.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    result.add_special_tokens(special)
    result.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", result.token_to_id("<bos>"))]
    )
    return result


def config(sizes: dict):
    """Configuration of a Gemma-2 of these sizes: both soft-caps, a window of 4,096 in every other layer."""
    import transformers

    options = {name: size for name, size in sizes.items() if name != "vocabulary"}
    return transformers.Gemma2Config(
        vocab_size=sizes["vocabulary"],
        max_position_embeddings=32_768,
        sliding_window=4096,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        **options,
    )


def checkpoint(folder: Path, sizes: dict, genes: list[str], dtype: str = "float32", device: str = "cpu") -> Path:
    """Directory of a checkpoint with random weights; an existing one is kept."""
    import torch
    import transformers

    if (folder / "tokenizer_config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            network = transformers.Gemma2ForCausalLM(config(sizes))
        finally:
            torch.set_default_dtype(torch.float32)
    network.save_pretrained(folder)
    tokenizer(sizes["vocabulary"], genes).save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
