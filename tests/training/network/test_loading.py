"""Network of a training: tokens for new genes, adapters, dropout, interpolated and merged weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import training_cells
import transformers
from training_runs import assert_same, checkpoint, config, run, weights

from cell2sen import backends
from cell2sen.backend import Sampling
from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.model import Model, resolve
from cell2sen.training.config.model import GeneTokens, ModelConfig
from cell2sen.training.network import loading as networks
from cell2sen.training.trainers.setup import TrainingRun

pytestmark = pytest.mark.slow

KINDS = [("gemma2", "spm", True), ("gemma2", "spm", False), ("gpt_neox", "bytes", False), ("gpt_neox", "bytes", True)]
GENE_TOKENS = {"model.gene_tokens": {"min_cells": 3}, "optimiser.max_steps": 4}


def vectors(network: Any) -> list[torch.Tensor]:
    return [network.get_input_embeddings().weight, network.get_output_embeddings().weight]


@pytest.mark.parametrize(("architecture", "kind", "tied"), KINDS)
def test_new_vectors_begin_as_the_mean_of_their_pieces(
    tmp_path: Path, architecture: str, kind: str, tied: bool
) -> None:
    start = resolve(checkpoint(tmp_path / "start", architecture, kind, tied))
    settings = ModelConfig(start=start.path, gene_tokens=GeneTokens())
    genes = training_cells.SYMBOLS
    old, new = networks.load(settings, start), networks.load(settings, start, genes)
    ids = dict(zip(genes, new.tokens.ids([" " + gene for gene in genes]), strict=True))
    pieces = dict(zip(genes, old.tokens.ids([" " + gene for gene in genes]), strict=True))
    assert all(len(gene_ids) == 1 for gene_ids in ids.values())
    n_old = old.tokens.tokenizer.get_vocab_size()
    assert len(new.tokenizer) == len(set(new.new_tokens)) + n_old == vectors(new.network)[0].shape[0]
    for now, then in zip(vectors(new.network), vectors(old.network), strict=True):
        torch.testing.assert_close(now[: len(then)], then, rtol=0, atol=0)
        for gene in genes:
            torch.testing.assert_close(now[ids[gene][0]], then[pieces[gene]].mean(0))
    assert (vectors(new.network)[0] is vectors(new.network)[1]) == tied
    prose = f"{tiny.PROSE} CD4+ cells, CD3D-positive.\n"
    assert new.tokens.ids([prose]) == old.tokens.ids([prose])
    assert (new.tokens.bos, new.tokens.eos) == (old.tokens.bos, old.tokens.eos)
    sentence = [" " + " ".join(genes) + "."]
    assert len(new.tokens.ids(sentence)[0]) == len(genes) + 1 < len(old.tokens.ids(sentence)[0]) / 2.5


def test_spare_rows_of_a_model_are_used_first(tmp_path: Path) -> None:
    vocabulary = tiny.tokens("bytes").tokenizer.get_vocab_size()
    path = tmp_path / "start"
    tiny.save(path, "gpt_neox", "bytes")
    tiny.network("gpt_neox", vocabulary + 100).save_pretrained(path)
    model = networks.load(ModelConfig(start=str(path)), resolve(path), training_cells.SYMBOLS)
    assert vectors(model.network)[0].shape[0] == vocabulary + 100 > len(model.tokenizer)
    assert model.new_tokens[0] == vocabulary


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["all weights", "lora"])
@pytest.mark.parametrize(("architecture", "kind", "tied"), KINDS)
def test_the_first_stage_trains_new_vectors_alone_and_the_second_them_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, kind: str, tied: bool, lora: Any
) -> None:
    start = checkpoint(tmp_path / "start", architecture, kind, tied)
    seen: dict[str, dict[str, torch.Tensor]] = {}
    train_new_tokens = TrainingRun.train_new_tokens

    def spy(training_run: TrainingRun) -> Any:
        def state() -> dict[str, torch.Tensor]:
            return {name: value.detach().clone() for name, value in training_run.model.network.state_dict().items()}

        seen["start"] = state()
        log = train_new_tokens(training_run)
        seen["first"] = state()
        return log

    monkeypatch.setattr(TrainingRun, "train_new_tokens", spy)
    changes = {**GENE_TOKENS, "model.gene_tokens": {"min_cells": 3, "first": 3}, "model.lora": lora}
    model = run(folder, tmp_path / "out", config({**changes, "optimiser.learning_rate": 1e-2}, start=start))
    assert seen["start"].keys() == seen["first"].keys()
    old = tiny.tokens(kind).tokenizer.get_vocab_size()
    moved = {name for name, value in seen["start"].items() if not torch.equal(value, seen["first"][name])}
    ends = {name for name, value in seen["start"].items() if value.shape[0] > old}
    assert moved == ends, "only input and output vectors of tokens"
    for name in moved:
        torch.testing.assert_close(seen["first"][name][:old], seen["start"][name][:old], rtol=0, atol=0)
    network = transformers.AutoModelForCausalLM.from_pretrained(model.path)
    end = network.state_dict()
    assert ends <= set(end)
    for name, value in end.items():
        assert not torch.equal(value, seen["first"][name]) or "norm" in name or "bias" in name
        if name in ends and lora:
            torch.testing.assert_close(value[:old], seen["first"][name][:old], rtol=0, atol=0)
            assert not torch.equal(value[old:], seen["first"][name][old:])
    log = json.loads((Path(model.path) / "training_log.json").read_text(encoding="utf-8"))
    assert [entry["step"] for entry in log if entry.get("stage") == "new tokens" and "eval_loss" in entry] == [2, 3]
    assert (vectors(network)[0] is vectors(network)[1]) == tied
    # Usable like any other model.
    loaded = backends.load(model, progress=False)
    assert loaded.count_tokens([" CD4 CD44 HLA-DRA"]).tolist() == [3]
    prompts = tiny.prompts(2, answer_genes=4)
    assert loaded.embed(prompts).vectors.shape == (2, 32)
    assert len(loaded.generate(prompts, Sampling(), genes=training_cells.SYMBOLS)[0].split()) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("gene_tokens", [None, {"min_cells": 3}], ids=["pieces", "gene tokens"])
@pytest.mark.parametrize("quantize", [None, "4bit"])
def test_adapters_are_merged_to_what_was_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: str | None, gene_tokens: Any
) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    start = checkpoint(tmp_path / "start", "gemma2", "spm", **sizes)
    ids = torch.tensor(
        [[2, 300, 430, 431, 305, 440, 350, 301] if gene_tokens else [2, 300, 310, 320, 305, 299, 350, 301]]
    )
    in_memory: list[torch.Tensor] = []
    merged_network = networks.merged_network

    def spy(trainer: Any, *rest: Any) -> Any:
        with torch.no_grad():
            in_memory.append(trainer.model.eval()(input_ids=ids).logits.float())
        return merged_network(trainer, *rest)

    monkeypatch.setattr(networks, "merged_network", spy)
    changes = {
        "model.lora": {"r": 8, "alpha": 16, "merge": gene_tokens is None},
        "model.quantize": quantize,
        "model.gene_tokens": gene_tokens,
        "optimiser.learning_rate": 2e-2,
        "optimiser.max_steps": 10,
        "checkpoints.eval_steps": 5,
    }
    tuned = run(folder, tmp_path / "tuned", config(changes, start=start))
    assert not (tmp_path / "tuned" / "adapter_config.json").exists()
    assert (tmp_path / "tuned" / "adapter" / "adapter_config.json").is_file() == (gene_tokens is not None)
    assert "quantization_config" not in json.loads((tmp_path / "tuned" / "config.json").read_text(encoding="utf-8"))
    assert all(value.dtype == torch.float32 for value in weights(tuned).values())
    saved = transformers.AutoModelForCausalLM.from_pretrained(tuned.path, attn_implementation="eager")(ids).logits
    difference = (saved - in_memory[0]).abs().mean()
    assert difference < (0.05 if quantize else 1e-4) * in_memory[0].std()
    if gene_tokens is None:
        before = transformers.AutoModelForCausalLM.from_pretrained(start, attn_implementation="eager")(ids).logits
        assert difference < 0.05 * (before - in_memory[0]).abs().mean()
    if quantize is None:
        torch.testing.assert_close(saved, in_memory[0], rtol=1e-3, atol=1e-4)
    backends.load(tuned, progress=False).embed(tiny.prompts(2))


@pytest.mark.parametrize(
    ("changes", "start", "share"),
    [
        ({}, "start", 0.2),
        ({"model.dropout": 0.4}, "start", 0.4),
        ({"model.dropout": 0.0}, "start", 0.0),
        ({}, None, 0.0),
        ({"grpo": {}}, "start", 0.0),
    ],
)
def test_small_models_are_fine_tuned_with_dropout(changes: dict[str, Any], start: str | None, share: float) -> None:
    network = tiny.network("gpt_neox", 50)
    networks.set_dropout(network, config(changes, start=start))
    assert {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)} == {share}


@pytest.mark.slow
def test_dropout_is_for_training_only(folder: Path, tmp_path: Path) -> None:
    with_dropout, without = (
        run(folder, tmp_path / str(share), config({"model.dropout": share})) for share in (0.3, 0.0)
    )
    assert not torch.equal(*(weights(model)["gpt_neox.embed_in.weight"] for model in (with_dropout, without)))
    assert json.loads((Path(with_dropout.path) / "config.json").read_text())["hidden_dropout"] == 0.0


@pytest.mark.slow
def test_saved_weights_are_between_those_before_and_after(trained: Model, folder: Path, tmp_path: Path) -> None:
    whole, part = (
        run(
            folder, tmp_path / str(share),
            config({"model.start_share": share, "optimiser.max_steps": 3}, start=trained),
        )
        for share in (0.0, 0.25)
    )  # fmt: skip
    before, after, between = (weights(model) for model in (trained, whole, part))
    assert max(float((after[name] - before[name]).abs().max()) for name in after) > 1e-4
    assert_same(between, {name: 0.25 * before[name] + 0.75 * after[name] for name in after}, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_all_weights_of_a_checkpoint_are_trained(folder: Path, tmp_path: Path, architecture: str) -> None:
    start = tiny.save(tmp_path / "start", architecture, "spm" if architecture == "gemma2" else "bytes")
    tuned = run(folder, tmp_path / "tuned", config(start=start))
    before, after = weights(start), weights(tuned)
    assert {name: value.shape for name, value in before.items()} == {n: value.shape for n, value in after.items()}
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 10
    old, new = (load_tokens(str(path), local_files_only=True) for path in (start, tuned.path))
    text = "Cell sentence: CD4 MALAT1 RP11-34P13.7. TGFΒ1\n"
    assert old.ids([text]) == new.ids([text])
    assert old.bos == new.bos
    assert np.isfinite(backends.load(tuned, progress=False).embed(tiny.prompts(2)).vectors).all()
