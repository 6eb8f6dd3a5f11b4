"""What a training begins with: new tokens for genes, whose vectors begin as the mean of their pieces."""

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

from cell2sen import backends, training
from cell2sen.backend import Sampling
from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.model import METADATA_FILE, Model, resolve
from cell2sen.training import network as networks
from cell2sen.training.trainers import setup as learner
from cell2sen.training.trainers import sft

pytestmark = pytest.mark.slow

KINDS = [("gemma2", "spm", True), ("gemma2", "spm", False), ("gpt_neox", "bytes", False), ("gpt_neox", "bytes", True)]
DATA = {
    "file": "cells.h5ad", "tasks": ["annotate", "perturb"], "cell_type": "cell_type", "perturbation": "condition",
    "context": ["cell_type"], "split": {"test": 0.2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("networks")
    training_cells.write(made / "cells.h5ad")
    return made


def config(start: Path, **changes: Any) -> training.TrainConfig:
    values = {
        "model": str(start), "data": [DATA], "lengths": {"annotate": 20, "perturb": 10}, "batch_size": 8,
        "max_steps": 4, "eval_steps": 2, "save_dtype": "float32", "bf16": False, "score_cells": 0,
        "gene_tokens": {"min_cells": 3},
    }  # fmt: skip
    return training.from_mapping(values | changes)


def run(folder: Path, out: Path, settings: training.TrainConfig, **options: Any) -> Model:
    return training.train(settings, out, base=folder, progress=False, **options)


def save(path: Path, architecture: str, kind: str, tied: bool, **changes: Any) -> Path:
    made = tiny.save(path, architecture, kind, tie_word_embeddings=tied, **changes)
    (made / METADATA_FILE).write_text('{"dtype": "float32"}', encoding="utf-8")
    return made


def vectors(network: Any) -> list[torch.Tensor]:
    return [network.get_input_embeddings().weight, network.get_output_embeddings().weight]


@pytest.mark.parametrize(("architecture", "kind", "tied"), KINDS)
def test_new_vectors_begin_as_the_mean_of_their_pieces(
    tmp_path: Path, architecture: str, kind: str, tied: bool
) -> None:
    start = resolve(save(tmp_path / "start", architecture, kind, tied))
    genes = training_cells.SYMBOLS
    before, _, old = networks.load(config(Path(start.path)), start)
    network, tokenizer, new = networks.load(config(Path(start.path)), start, genes)
    ids = dict(zip(genes, new.ids([" " + gene for gene in genes]), strict=True))
    pieces = dict(zip(genes, old.ids([" " + gene for gene in genes]), strict=True))
    assert all(len(one) == 1 for one in ids.values())
    assert (
        len(tokenizer) == len(set(network.new_tokens)) + old.tokenizer.get_vocab_size() == vectors(network)[0].shape[0]
    )
    for now, then in zip(vectors(network), vectors(before), strict=True):
        torch.testing.assert_close(now[: len(then)], then, rtol=0, atol=0)
        for gene in genes:
            torch.testing.assert_close(now[ids[gene][0]], then[pieces[gene]].mean(0))
    assert (vectors(network)[0] is vectors(network)[1]) == tied
    prose = f"{tiny.PROSE} CD4+ cells, CD3D-positive.\n"
    assert new.ids([prose]) == old.ids([prose])
    assert (new.bos, new.eos) == (old.bos, old.eos)
    sentence = [" " + " ".join(genes) + "."]
    assert len(new.ids(sentence)[0]) == len(genes) + 1 < len(old.ids(sentence)[0]) / 2.5


def test_spare_rows_of_a_model_are_used_first(tmp_path: Path) -> None:
    vocabulary = tiny.tokens("bytes").tokenizer.get_vocab_size()
    path = tmp_path / "start"
    tiny.save(path, "gpt_neox", "bytes")
    tiny.network("gpt_neox", vocabulary + 100).save_pretrained(path)
    start = resolve(path)
    network, tokenizer, _ = networks.load(config(path), start, training_cells.SYMBOLS)
    assert vectors(network)[0].shape[0] == vocabulary + 100 > len(tokenizer)
    assert network.new_tokens[0] == vocabulary


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["all weights", "lora"])
@pytest.mark.parametrize(("architecture", "kind", "tied"), KINDS)
def test_the_first_stage_trains_new_vectors_alone_and_the_second_them_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, kind: str, tied: bool, lora: Any
) -> None:
    start = save(tmp_path / "start", architecture, kind, tied)
    seen: dict[str, dict[str, torch.Tensor]] = {}
    first_stage = learner.Learner.first_stage

    def spy(one: learner.Learner) -> Any:
        def state() -> dict[str, torch.Tensor]:
            return {name: value.detach().clone() for name, value in one.network.state_dict().items()}

        seen["start"] = state()
        log = first_stage(one)
        seen["first"] = state()
        return log

    monkeypatch.setattr(learner.Learner, "first_stage", spy)
    model = run(
        folder, tmp_path / "out", config(start, lora=lora, learning_rate=1e-2, gene_tokens={"min_cells": 3, "first": 3})
    )
    assert seen["start"].keys() == seen["first"].keys()
    old = tiny.tokens(kind).tokenizer.get_vocab_size()
    moved = {name for name, value in seen["start"].items() if not torch.equal(value, seen["first"][name])}
    ends = {name for name, value in seen["start"].items() if value.shape[0] > old}
    assert moved == ends, "nothing but vectors of tokens, of input and output"
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
    # Like any other model.
    loaded = backends.load(model, progress=False)
    assert loaded.count_tokens([" CD4 CD44 HLA-DRA"]).tolist() == [3]
    prompts = tiny.prompts(2, ask=4)
    assert loaded.embed(prompts).vectors.shape == (2, 32)
    assert len(loaded.generate(prompts, Sampling(), genes=training_cells.SYMBOLS)[0].split()) >= 4
    assert (vectors(network)[0] is vectors(network)[1]) == tied


@pytest.mark.parametrize("quantize", [None, "4bit"])
def test_what_is_saved_is_what_was_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: str | None
) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    start = save(tmp_path / "start", "gemma2", "spm", True, **sizes)
    hand: list[torch.Tensor] = []
    ids = torch.tensor([[2, 300, 430, 431, 305, 440, 350, 301]])
    whole = networks.whole

    def spy(trainer: Any, *rest: Any) -> Any:
        with torch.no_grad():
            hand.append(trainer.model.eval()(input_ids=ids).logits)
        return whole(trainer, *rest)

    monkeypatch.setattr(networks, "whole", spy)
    settings = config(start, lora={"r": 8, "merge": False}, quantize=quantize, learning_rate=2e-2, max_steps=10)
    tuned = run(folder, tmp_path / "tuned", settings)
    read = transformers.AutoModelForCausalLM.from_pretrained(tuned.path, attn_implementation="eager")(ids).logits
    spread = hand[0].float().std()
    assert (read - hand[0].float()).abs().mean() < (0.05 if quantize else 1e-4) * spread
    assert (Path(tuned.path) / "adapter" / "adapter_config.json").is_file()


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["all weights", "lora"])
@pytest.mark.parametrize("stop", [3, 7], ids=["first stage", "second stage"])
def test_resumed_in_either_stage_it_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, lora: Any
) -> None:
    start = save(tmp_path / "start", "gpt_neox", "bytes", False)
    settings = config(start, lora=lora, gene_tokens={"min_cells": 3, "first": 4}, max_steps=5)
    whole = run(folder, tmp_path / "whole", settings)
    on_step_end, steps = sft.Progress.on_step_end, []

    def interrupt(callback: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_step_end(callback, args, state, control, **kwargs)
        steps.append(state.global_step)
        if len(steps) == stop:
            raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(sft.Progress, "on_step_end", interrupt)
        with pytest.raises(Interrupt):
            run(folder, tmp_path / "parts", settings)
    # As if it had been killed while a checkpoint was written.
    last = "first" if stop == 3 else "."
    (tmp_path / "parts.training" / last / "checkpoint-9").mkdir()
    parts = run(folder, tmp_path / "parts", settings, resume=True)
    assert parts.metadata["weights_sha256"] == whole.metadata["weights_sha256"]
    one, other = ((Path(m.path) / "training_log.json").read_text(encoding="utf-8") for m in (parts, whole))
    assert [e["eval_loss"] for e in json.loads(one) if "eval_loss" in e] == [
        e["eval_loss"] for e in json.loads(other) if "eval_loss" in e
    ]


def test_model_with_whole_genes_learns_new_ones(folder: Path, tmp_path: Path) -> None:
    import anndata

    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64, "context": 256, "min_cells": 3}
    first = run(
        folder, tmp_path / "first",
        training.from_mapping({"from_scratch": shape, "data": [DATA], "max_steps": 2, "eval_steps": 2, "bf16": False,
                            "lengths": {"annotate": 20, "perturb": 10}, "save_dtype": "float32"}),
    )  # fmt: skip
    # Genes of small vectors stay quiet behind the first norm; the network that is loaded computes what was trained.
    assert backends.load(first, progress=False).network.config.layer_norm_eps == 0.05
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    adata.var_names = [*adata.var_names[:-3], "NEW1", "NEW2-AS1", "NEW3"]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model = run(tmp_path, tmp_path / "second", config(Path(first.path), lengths={}))
    assert set(model.genes) - set(first.genes) == {"NEW1", "NEW2-AS1", "NEW3"}
    tokens = load_tokens(model.path, local_files_only=True)
    assert tokens.count([" NEW1 NEW2-AS1 CD4 NEW3."]).tolist() == [5]


def test_pieces_from_scratch(folder: Path, tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64, "context": 512, "min_cells": 3,
             "tokenizer": "bpe", "text_tokens": 400}  # fmt: skip
    settings = training.from_mapping(
        {"from_scratch": shape, "data": [DATA], "max_steps": 2, "eval_steps": 2, "bf16": False,
         "lengths": {"annotate": 20, "perturb": 10}}
    )  # fmt: skip
    model = run(folder, tmp_path / "out", settings)
    assert model.genes is None
    loaded = backends.load(model, progress=False)
    assert loaded.known_genes(["CD4", "NEVERSEEN"]).all()
    assert loaded.count_tokens([" CD4 CD44 HLA-DRA RPS27A"])[0] > 5
    assert loaded.network.config.vocab_size <= 400
    assert loaded.network.config.layer_norm_eps == 1e-5
    [text] = loaded.generate([tiny.prompts(1, ask=4)[0]], Sampling(), genes=["NEVERSEEN", *training_cells.SYMBOLS])
    assert len(text.split()) >= 4
    assert np.isfinite(loaded.embed(tiny.prompts(2)).vectors).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"from_scratch": {"tokenizer": "words"}, "model": None}, "tokenizer must be 'genes' or 'bpe'"),
        ({"from_scratch": {"heads": 3}, "model": None}, "hidden_size must be a multiple of heads"),
        ({"from_scratch": {}, "model": None}, "without from_scratch"),
        ({"grpo": {}}, "before grpo"),
    ],
)
def test_mistakes_in_the_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(Path("x"), **values)


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 0.2),
        ({"dropout": 0.4}, 0.4),
        ({"dropout": 0.0}, 0.0),
        ({"model": None, "from_scratch": {}, "gene_tokens": None}, 0.0),
        ({"gene_tokens": None, "grpo": {}}, 0.0),
    ],
)
def test_small_models_are_fine_tuned_with_dropout(changes: dict[str, Any], share: float) -> None:
    network = tiny.network("gpt_neox", 50)
    networks.set_dropout(network, config(Path("start"), **changes))
    found = {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {share}
