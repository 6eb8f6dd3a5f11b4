"""Reinforcement learning: probabilities of guided sampling against slow twins, and what it learns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import training_cells

from cell2sen import backends, tasks, training
from cell2sen.backend import Sampling
from cell2sen.engine.decoding.guide import Guide
from cell2sen.model import Model
from cell2sen.training.trainers import grpo

pytestmark = pytest.mark.slow

GENES = [gene for gene in tiny.GENES if gene.isascii()]
KINDS = [("gemma2", "spm"), ("gpt_neox", "bytes"), ("gpt_neox", "genes")]


def sampler(architecture: str, kind: str, **options: Any) -> grpo.Sampler:
    tokens = tiny.tokens(kind)
    network = tiny.network(architecture, tokens.tokenizer.get_vocab_size())
    described = Model(name="tiny", path="tiny", dtype="float32")
    return grpo.Sampler(described, network, tokens, **{"progress": False} | options)


def padded(rolled: list[grpo.Rollout]) -> tuple[torch.Tensor, torch.Tensor, int]:
    return grpo.padded([one.prompt_ids for one in rolled], [one.ids for one in rolled])


def slow(network: Any, one: grpo.Rollout, genes: list[str] | None, tokens: Any, temperature: float) -> torch.Tensor:
    """One forward pass a token, all other tokens struck out one by one."""
    found = []
    guide = None
    if one.guidance is not None:
        guide = Guide(one.guidance.trie, [one.guidance.ask], one.guidance.ends, network.config.vocab_size)
    for place, token in enumerate(one.ids):
        logits = network(input_ids=torch.tensor([one.prompt_ids + one.ids[:place]])).logits[0, -1].float()
        allowed = range(len(logits)) if guide is None else guide.allowed(0)
        total = torch.logsumexp(torch.stack([logits[t] / temperature for t in allowed]), 0)
        found.append(logits[token] / temperature - total)
        assert token in allowed
        if guide is not None:
            guide.advance(0, token)
    return torch.stack(found)


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
@pytest.mark.parametrize("guided", [True, False])
def test_probabilities_of_sampling_and_of_training_are_those_of_the_masked_distribution(
    architecture: str, kind: str, guided: bool
) -> None:
    made = sampler(architecture, kind, batch_size=3)
    prompts, genes = tiny.prompts(5), GENES if guided else None
    rolled = made.roll(prompts, Sampling(temperature=0.7, max_new_tokens=6), genes)
    texts = made.generate(prompts, Sampling(temperature=0.7, max_new_tokens=6), genes=genes)
    assert [one.text for one in rolled] == texts, "the answers are those that the backend writes"
    ids, mask, keep = padded(rolled)
    known = {grpo._key(one.prompt_ids): one.guidance for one in rolled} if guided else None
    log_shares, entropy = grpo.answer_log_shares(
        made.network, ids, mask, keep, known, 0.7, contextlib.nullcontext
    )  # fmt: skip
    for row, one in enumerate(rolled):
        expected = slow(made.network, one, GENES, made.tokens, 0.7)
        torch.testing.assert_close(log_shares[row, : len(one.ids)], expected, rtol=1e-4, atol=1e-4)
        assert not log_shares[row, len(one.ids) :].any()
    assert (entropy >= 0).all()
    assert entropy.max() > 0.01
    # Another distribution than that over all tokens, wherever tokens are struck out.
    if guided:
        free, _ = grpo.answer_log_shares(made.network, ids, mask, keep, None, 0.7, contextlib.nullcontext)
        assert (log_shares >= free - 1e-4).all()
        assert (log_shares - free).max() > 0.5


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_answers_are_drawn_with_these_probabilities(architecture: str, kind: str) -> None:
    made = sampler(architecture, kind)
    genes = ["CD4", "CD44", "CD8A", "HLA-A"]
    [prompt] = tiny.prompts(1, ask=1)
    n = 600
    prompts = [dataclasses.replace(prompt, key=str(number)) for number in range(n)]
    rolled = made.roll(prompts, Sampling(temperature=0.5), genes)
    ids, mask, keep = padded(rolled)
    known = {grpo._key(one.prompt_ids): one.guidance for one in rolled}
    log_shares, _ = grpo.answer_log_shares(made.network, ids, mask, keep, known, 0.5, contextlib.nullcontext)
    shares = {tuple(one.ids): log_shares[row].sum().exp().item() for row, one in enumerate(rolled)}
    found = Counter(tuple(one.ids) for one in rolled)
    for one, share in shares.items():
        assert abs(found[one] / n - share) < 4 * np.sqrt(share * (1 - share) / n) + 1e-6
    assert sum(shares.values()) > 0.97, "and there are no others"
    assert len({one.text for one in rolled}) > 1


@pytest.mark.parametrize(("architecture", "kind"), KINDS)
def test_gradients_equal_the_slow_twin(architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo, "_LOGITS", 500)  # several parts
    made = sampler(architecture, kind)
    rolled = made.roll(tiny.prompts(3, ask=2), Sampling(temperature=1.0), GENES)
    ids, mask, keep = padded(rolled)
    known = {grpo._key(one.prompt_ids): one.guidance for one in rolled}
    log_shares, _ = grpo.answer_log_shares(made.network, ids, mask, keep, known, 1.0, contextlib.nullcontext)
    weights = torch.linspace(-1, 1, 3)
    (log_shares.sum(dim=1) * weights).sum().backward()
    fast = [parameter.grad.clone() for parameter in made.network.parameters()]
    made.network.zero_grad()
    sum(
        w * slow(made.network, one, GENES, made.tokens, 1.0).sum() for w, one in zip(weights, rolled, strict=True)
    ).backward()
    for one, parameter in zip(fast, made.network.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-4)


# With these norms a response is learned in few steps, which rewards can build on.
SCRATCH = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64, "context": 256, "min_cells": 3,
           "initializer_range": 0.02, "layer_norm_eps": 1e-5}  # fmt: skip
DATA = {
    "file": "cells.h5ad", "tasks": ["perturb"], "cell_type": "cell_type", "perturbation": "condition",
    "context": ["cell_type"], "split": {"test": 0.2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("grpo")
    training_cells.write(made / "cells.h5ad")
    names = training_cells.SYMBOLS
    (made / "sets.gmt").write_text("IFN\tnone\t" + "\t".join([*names[24:36], "NOGENE"]) + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def start(folder: Path) -> Model:
    settings = training.from_mapping(
        {"from_scratch": SCRATCH, "data": [DATA | {"draws": {"perturb": 20}}], "lengths": {"perturb": 10},
         "max_steps": 80, "eval_steps": 80,
         "batch_size": 16, "learning_rate": 3e-3, "bf16": False, "save_dtype": "float32", "score_cells": 0}
    )  # fmt: skip
    return training.train(settings, folder / "start", base=folder, progress=False)


def config(start: Model, reinforcement: dict[str, Any] | None = None, **changes: Any) -> training.TrainConfig:
    rewarded = {"gene_sets": "sets.gmt", "gene_set": "IFN", "prompts": 4, "answers": 4, "held_out": 12}
    values = {"model": start.path, "data": [DATA], "max_steps": 4, "eval_steps": 2, "batch_size": 16,
              "save_dtype": "float32", "score_cells": 0, "grpo": rewarded | (reinforcement or {})}  # fmt: skip
    return training.from_mapping(values | changes)


def log(folder: Path, key: str) -> list[float]:
    entries = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    return [entry[key] for entry in entries if key in entry]


def run(folder: Path, out: Path, settings: training.TrainConfig, **options: Any) -> Model:
    return training.train(settings, out, base=folder, progress=False, **options)


def test_reward_on_held_out_cells_rises(folder: Path, tmp_path: Path, start: Model) -> None:
    settings = config(start, {"answers": 8, "held_out": 40}, max_steps=40, eval_steps=20, learning_rate=1e-3,
                      batch_size=32)  # fmt: skip
    model = run(folder, tmp_path / "out", settings)
    before, after = (rewards := log(tmp_path / "out", "eval_reward"))[0], rewards[-1]
    assert after > before + 0.1, rewards
    prompt = tasks.load("perturb").prompt(genes=model.genes[:10], perturbation="IFN-beta", key="a", answer_genes=10)
    [text] = backends.load(model, progress=False).generate([prompt], Sampling(), genes=model.genes)
    assert len(set(text.split())) == 10
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"{before:.3f}" in card
    assert f"{after:.3f}" in card


@pytest.mark.parametrize("lora", [None, {"r": 4}])
@pytest.mark.parametrize("iterations", [1, 2])
def test_importance_ratio_is_one_until_a_step_is_taken(
    folder: Path, tmp_path: Path, start: Model, monkeypatch: pytest.MonkeyPatch, lora: Any, iterations: int
) -> None:
    ratios: list[float] = []
    compute = grpo.GuidedTrainer._compute_loss

    def spy(trainer: Any, model: Any, inputs: Any) -> Any:
        if trainer.model.training:
            ids, mask = (
                torch.cat([inputs[f"prompt_{name}"], inputs[f"completion_{name}"]], 1) for name in ("ids", "mask")
            )
            with torch.no_grad():
                now, _, _ = trainer._get_per_token_logps_and_entropies(
                    model, ids, mask, inputs["completion_ids"].shape[1]
                )
            ratio = torch.exp(now - inputs["old_per_token_logps"])[inputs["completion_mask"].bool()]
            ratios.append((ratio - 1).abs().max().item())
        return compute(trainer, model, inputs)

    monkeypatch.setattr(grpo.GuidedTrainer, "_compute_loss", spy)
    settings = config(start, {"iterations": iterations}, lora=lora, batch_size=8, learning_rate=1e-2)
    run(folder, tmp_path / "out", settings)
    fresh = [ratios[place] for place in range(len(ratios)) if place // 2 % iterations == 0]
    assert max(fresh) < 1e-4
    if iterations == 2:
        used = [ratios[place] for place in range(len(ratios)) if place // 2 % 2 == 1]
        assert max(used) > 1e-3, "the second step with the same answers sees that the model has moved"


class Interrupt(Exception):
    pass


def test_resumed_it_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, start: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(start, {"beta": 0.01, "rewards": {"kendall_tau": 1, "change": 0.5}}, max_steps=6, batch_size=8)
    whole = run(folder, tmp_path / "whole", settings)
    on_step_end = grpo.Progress.on_step_end

    def stop(callback: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_step_end(callback, args, state, control, **kwargs)
        if state.global_step == 5:
            raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(grpo.Progress, "on_step_end", stop)
        with pytest.raises(Interrupt):
            run(folder, tmp_path / "parts", settings)
    parts = run(folder, tmp_path / "parts", settings, resume=True)
    assert parts.metadata["weights_sha256"] == whole.metadata["weights_sha256"] != start.metadata["weights_sha256"]
    assert log(tmp_path / "parts", "eval_reward") == log(tmp_path / "whole", "eval_reward")
    assert max(log(tmp_path / "whole", "kl"), default=1) > 0


def test_best_weights_by_reward(folder: Path, tmp_path: Path, start: Model) -> None:
    settings = config(start, keep_best=True, learning_rate=0.3, max_steps=4, eval_steps=1)
    run(folder, tmp_path / "out", settings)
    rewards = log(tmp_path / "out", "eval_reward")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert rewards[-1] < max(rewards), "steps this large make it worse"
    assert "kendall_tau" in card


def test_free_text_and_every_reward_on_a_checkpoint_with_pieces(folder: Path, tmp_path: Path) -> None:
    checkpoint = tiny.save(tmp_path / "start", "gemma2", "spm")
    every = dict.fromkeys(training.REWARDS, 1.0)
    for guided in (True, False):
        settings = config(
            Model(name="x", path=str(checkpoint)), {"guided": guided, "max_new_tokens": 12, "rewards": every},
            lengths={"perturb": 5}, max_steps=1, eval_steps=1, lora={"r": 2},
        )  # fmt: skip
        out = tmp_path / str(guided)
        run(folder, out, settings)
        valid = log(out, "eval_rewards/validity/mean")[0]
        assert valid == 1 if guided else valid < 0.9
        assert np.isfinite(log(out, "eval_reward")).all()


@pytest.mark.parametrize(
    ("reinforcement", "changes", "message"),
    [
        ({"rewards": {"f1": 1}}, {}, r"unknown rewards \['f1'\]; available: \['kendall_tau'"),
        ({"answers": 1}, {}, "at least 2"),
        ({"gene_set": []}, {}, "say both or none"),
        ({"truth": "all"}, {}, "truth must be 'mean' or 'cell'"),
        ({"temperature": 0}, {}, "temperature must be above 0"),
        ({"rewards": {}}, {}, "unknown rewards"),
        ({}, {"model": None, "from_scratch": {}}, "improves a model that answers already"),
        ({}, {"lora": {}, "quantize": "4bit"}, "does not go with quantize"),
    ],
)
def test_mistakes_in_the_settings(reinforcement: Any, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(Model(name="x", path="x"), reinforcement, **changes)


@pytest.mark.parametrize(
    ("reinforcement", "changes", "message"),
    [
        ({"gene_set": "TNF"}, {}, r"has no gene set 'TNF'; available: \['IFN'\]"),
        ({"gene_sets": None, "gene_set": [], "genes": ["NOGENE", "CD4"]}, {}, "have 1 of the genes that rewards look"),
        ({}, {"batch_size": 5}, "batch_size must divide the 16 answers"),
        ({"prompts": 500}, {"batch_size": 4, "max_steps": -1}, "nothing to learn from"),
    ],
)
def test_mistakes_in_the_data(
    folder: Path, tmp_path: Path, start: Model, reinforcement: Any, changes: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, tmp_path / "out", config(start, reinforcement, **changes))
