"""Small trained model with about four tokens per gene, as published checkpoints have; for the other benchmarks.

    python benchmarks/bytes_model.py OUT --data-dir FOLDER

Byte-level BPE, GPT-NeoX, all weights trained here on the cells of Kang et al. as by ``cell2sen train``. About half an
hour on one CPU core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from cell2sen import tasks
from cell2sen.training import from_mapping, train

KANG = "kang_ifnb_2000x9015.h5ad"
END = "<|endoftext|>"
STEPS = 1200

SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}


def tokenizer(genes: Sequence[str], size: int) -> Tokenizer:
    """Byte-level BPE of the prompts' words and of each symbol once, so that frequent genes are split like rare ones."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=True)
    words = [template.prompt for name in tasks.names() for template in tasks.load(name).templates] * 50
    bpe.train_from_iterator(
        [*words, " ".join(genes)],
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=[END], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )  # fmt: skip
    return bpe


def untrained(out: Path, tokenizer: Tokenizer, context: int, seed: int = 0, **sizes: int) -> Path:
    """A checkpoint with random weights."""
    torch.manual_seed(seed)
    config = transformers.GPTNeoXConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=context,
        rotary_pct=0.25,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=None,
        **{**SIZES, **sizes},
    )
    transformers.GPTNeoXForCausalLM(config).save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "padding_side": "left",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    return out


def make(
    out: Path,
    data_dir: Path,
    *,
    vocabulary: int = 500,
    genes: int = 200,
    steps: int = STEPS,
    context: int = 2048,
    seed: int = 0,
) -> Path:
    """Train the model into `out`, and return it."""
    symbols = ad.read_h5ad(data_dir / KANG, backed="r").var_names.tolist()
    with tempfile.TemporaryDirectory() as scratch:
        start = untrained(Path(scratch) / "start", tokenizer(symbols, vocabulary), context, seed)
        file = {
            "file": KANG,
            "tasks": {"perturb": 4, "generate": 1, "annotate": 1},
            "cell_type": "cell_type",
            "perturbation": {"column": "condition", "control": "control", "context": ["cell_type"]},
            "split": {"by": "cell", "test": 0.2, "seed": seed},
        }
        settings = {
            "model": {"start": str(start)},
            "data": {"files": [file], "lengths": {"perturb": genes, "annotate": genes, "generate": genes}},
            "optimiser": {"learning_rate": 3e-3, "batch_size": 4, "epochs": 50, "max_steps": steps, "prompt_loss": 1.0},
            "compute": {"bf16": False},
            "checkpoints": {"eval_pairs": 20, "eval_steps": 0.5, "save_dtype": "float32"},
            "seed": seed,
        }
        config = from_mapping(settings)
        train(config, out, base=data_dir, progress=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=500)
    parser.add_argument("--genes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.out, ignore_errors=True)
    make(
        arguments.out, arguments.data_dir,
        vocabulary=arguments.vocabulary, genes=arguments.genes, steps=arguments.steps, seed=arguments.seed,
    )  # fmt: skip


if __name__ == "__main__":
    main()
