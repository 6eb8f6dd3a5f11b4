"""Pairs, batches and trainers for tests of the supervised loss, and its slow twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import tiny
import torch
import transformers
from trl.trainer.sft_config import SFTConfig

from cell2sen.training.examples.pairs import Pair
from cell2sen.training.trainers.sft import AnswerTrainer
from cell2sen.training.trainers.token_batches import IGNORED


def pairs(n: int = 12, seed: int = 0) -> list[Pair]:
    """Pairs with short answers (labels), long ones (sentences), and texts of any length."""
    generator = np.random.default_rng(seed)
    rows = []
    for number, prompt in enumerate(tiny.prompts(n, seed=seed)):
        genes = generator.permutation(tiny.GENES)[: 20 + number]
        label, sentence = Pair("annotate", prompt, " T."), Pair("perturb", prompt, f" {' '.join(genes)}.")
        text = Pair("ask", prompt, " These are cells." * (1 + number))
        rows.append((label, sentence, text)[number % 3])
    return rows


def trainer_of(folder: Path, network: Any, dataset: datasets.Dataset, batch_size: int = 4, **options: Any) -> Any:
    """A trainer with plain gradient descent; `options` are those of AnswerTrainer, and steps."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokens("bytes").tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    steps = {name: options.pop(name) for name in ("gradient_accumulation_steps", "max_steps") if name in options}
    arguments = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        report_to="none",
        use_cpu=True,
        bf16=False,
        max_length=None,
        gradient_checkpointing=False,
        disable_tqdm=True,
        logging_steps=1000,
        save_strategy="no",
        optim="sgd",
        max_grad_norm=0.0,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        **steps,
    )
    return AnswerTrainer(model=network, args=arguments, train_dataset=dataset, processing_class=tokenizer, **options)


def batch(dataset: Any, side: str = "right") -> dict[str, torch.Tensor]:
    """All samples as one batch, padded on one side."""
    longest = max(dataset["length"])
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for sample in dataset:
        padding = longest - sample["length"]
        for name, values, empty in (
            ("input_ids", sample["input_ids"], 7),
            ("labels", sample["labels"], IGNORED),
            ("attention_mask", [1] * sample["length"], 0),
        ):
            columns[name].append(values + [empty] * padding if side == "right" else [empty] * padding + values)
    return {name: torch.tensor(values) for name, values in columns.items()} | {
        "weight": torch.tensor(dataset["weight"][:])
    }


def slow_loss(network: Any, dataset: Any, prompt_loss: float = 0.0) -> torch.Tensor:
    """Mean loss by definition: one sample at a time, one token at a time."""
    total = torch.zeros(())
    for sample in dataset:
        logits = network(input_ids=torch.tensor([sample["input_ids"]])).logits[0].float()
        losses: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        for position in range(1, sample["length"]):
            answer = sample["labels"][position] != IGNORED
            losses[answer].append(-logits[position - 1].log_softmax(0)[sample["input_ids"][position]])
        # Labels and texts: the sum, or a quarter of it; sentences: the mean.
        share = {"annotate": 1.0, "ask": 0.25, "perturb": 1 / len(losses[True])}[sample["task"]]
        answer_loss = share * sum(losses[True])
        total = total + answer_loss + prompt_loss * sum(losses[False]) / len(losses[False])
    return total / len(dataset)
