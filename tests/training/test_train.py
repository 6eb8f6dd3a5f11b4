"""Training from scratch and fine-tuning, to the directory that comes out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import training_cells
import transformers
from safetensors.torch import load_file

from cell2sen import backends, tasks, training
from cell2sen.backend import Sampling
from cell2sen.cli import main, training_options
from cell2sen.engine.tokenization.tokenizer import load_tokens
from cell2sen.model import METADATA_FILE, Model, resolve
from cell2sen.training import network as networks
from cell2sen.training.release import directory as model_directory
from cell2sen.training.trainers import sft

pytestmark = pytest.mark.slow

SCRATCH = {
    "hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64, "context": 256, "min_cells": 3,
    "gene_vectors": 8,
}  # fmt: skip
DATA = {
    "file": "cells.h5ad", "tasks": ["annotate", "generate", "perturb"], "cell_type": "cell_type",
    "perturbation": "condition", "context": ["cell_type"], "split": {"test": 0.2},
}  # fmt: skip
LENGTHS = {"annotate": 20, "generate": 10, "perturb": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("train")
    training_cells.write(made / "cells.h5ad")
    return made


def config(data: dict[str, Any] | None = None, **changes: Any) -> training.TrainConfig:
    values: dict[str, Any] = {
        "data": [DATA | (data or {})], "lengths": LENGTHS, "batch_size": 8, "max_steps": 6, "eval_steps": 2,
        "save_dtype": "float32", "bf16": False, "score_cells": 0,
    }  # fmt: skip
    if "model" not in changes:
        values["from_scratch"] = SCRATCH
    return training.from_mapping(values | changes)


def run(folder: Path, out: Path, settings: training.TrainConfig, **options: Any) -> Model:
    return training.train(settings, out, base=folder, progress=False, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def evaluations(folder: Path) -> list[float]:
    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))
    return [entry["eval_loss"] for entry in log if "eval_loss" in entry]


def assert_same(one: Any, other: Any, **tolerance: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=name, **{"rtol": 0, "atol": 0} | tolerance)


@pytest.fixture(scope="module")
def trained(folder: Path) -> Model:
    return run(folder, folder / "scratch", config())


class TestFromScratch:
    def test_directory_is_a_model_like_any_other(self, folder: Path, trained: Model) -> None:
        loaded = backends.load(trained, progress=False)
        annotate, generate = tasks.load("annotate"), tasks.load("generate")
        genes = trained.genes[:6]
        prompts = [annotate.prompt(genes=genes, key="a"), annotate.prompt(genes=genes[::-1], key="b")]
        assert loaded.embed(prompts).vectors.shape == (2, 32)
        assert loaded.score(prompts, [" B cell.", " T cell."]).shape == (2, 2)
        [text] = loaded.generate(
            [generate.prompt(cell_type="B cell", key="c", answer_genes=5)], Sampling(), genes=trained.genes
        )
        assert len(set(text.strip(" .").split()) & set(trained.genes)) == 5
        assert loaded.known_genes(["CD4", "NOGENE"]).tolist() == [True, False]
        assert not (folder / "scratch.training").exists()

    def test_metadata(self, trained: Model) -> None:
        said = trained.metadata
        assert list(said["labels"]) == list(training_cells.TYPES)
        assert sum(said["labels"].values()) == said["split"]["cells.h5ad"]["n_train"] == 72
        assert set(said["perturbations"]) == {"IFN-beta", "IL-2"}
        assert said["lengths"] == LENGTHS
        assert set(said["templates"]) == set(LENGTHS)
        assert trained.fit.slope < 0
        assert trained.resolved_dtype == "float32"
        assert said["training"]["data"][0]["file"] == "cells.h5ad"
        assert set(said["genes"]) == set(training_cells.SYMBOLS)
        card = (Path(trained.path) / "README.md").read_text(encoding="utf-8")
        assert "| cells.h5ad | 72 | 18 |" in card
        log = json.loads((Path(trained.path) / "training_log.json").read_text(encoding="utf-8"))
        assert [entry["step"] for entry in log if "eval_loss" in entry] == [2, 4, 6]

    def test_split_is_stored_with_the_model(self, trained: Model) -> None:
        read = {
            name: json.loads((Path(trained.path) / name).read_text(encoding="utf-8"))["cells.h5ad"]
            for name in (model_directory.TRAINED_ON_FILE, model_directory.HELD_OUT_FILE)
        }
        held_out = read[model_directory.HELD_OUT_FILE]
        assert len(held_out) == 18
        assert set(held_out).isdisjoint(read[model_directory.TRAINED_ON_FILE])
        digest = hashlib.sha256("\n".join(sorted(held_out)).encode()).hexdigest()
        assert trained.metadata["split"]["cells.h5ad"]["sha256_of_held_out"] == digest

    def test_weights_on_disk_are_those_in_hand(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Model, capsys: Any
    ) -> None:
        hand: dict[str, torch.Tensor] = {}
        write = model_directory.write

        def spy(where: Path, network: Any, *rest: Any) -> None:
            hand.update({name: value.clone() for name, value in network.state_dict().items()})
            write(where, network, *rest)

        monkeypatch.setattr(model_directory, "write", spy)
        run(folder, tmp_path / "out", config(names=False))
        read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
        assert_same(read, hand)
        assert_same(weights(tmp_path / "out"), weights(Path(trained.path)))  # the same seed, the same model
        assert not (tmp_path / "out" / model_directory.HELD_OUT_FILE).exists()
        assert capsys.readouterr().out == ""

    def test_seeds_differ(self, folder: Path, tmp_path: Path, trained: Model) -> None:
        run(folder, tmp_path / "out", config(seed=1, max_steps=1, eval_steps=1))
        assert resolve(tmp_path / "out").genes == trained.genes
        name = "gpt_neox.layers.0.attention.dense.weight"
        assert not torch.equal(weights(tmp_path / "out")[name], weights(Path(trained.path))[name])

    def test_learns(self, folder: Path, tmp_path: Path) -> None:
        settings = config(
            {"tasks": ["annotate"], "draws": {"annotate": 40}},
            learning_rate=3e-3, max_steps=150, eval_steps=50, batch_size=16, prompt_loss=0.3,
        )  # fmt: skip
        model = run(folder, tmp_path / "out", settings)
        losses = evaluations(tmp_path / "out")
        assert losses[-1] < 1.5 < losses[0]
        assert model.metadata["calibration"]["annotate"]["accuracy"] > 0.8  # chance: a third


def test_half_written_models_do_not_appear(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(model_directory, "_card", full)
    with pytest.raises(OSError, match="disk full"):
        run(folder, tmp_path / "out", config(max_steps=1, eval_steps=1))
    assert [path.name for path in tmp_path.iterdir()] == ["out.training"]
    # What was computed is not lost.
    monkeypatch.undo()
    run(folder, tmp_path / "out", config(max_steps=1, eval_steps=1), resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_existing_directories_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists already"):
        run(tmp_path / "nowhere", tmp_path / "out", config())
    (tmp_path / "new.training" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "new.training" / "checkpoint-2" / "trainer_state.json").touch()
    with pytest.raises(FileExistsError, match="holds an unfinished training: resume it, or remove it"):
        run(tmp_path / "nowhere", tmp_path / "new", config())
    with pytest.raises(FileNotFoundError, match=r"no checkpoint in .* to resume from"):
        run(tmp_path / "nowhere", tmp_path / "other", config(), resume=True)


class Interrupt:
    """Ctrl-C at a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        on_step_end = sft.Progress.on_step_end

        def stop(callback: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step_end(callback, args, state, control, **kwargs)
            if state.global_step == at:
                raise KeyboardInterrupt

        monkeypatch.setattr(sft.Progress, "on_step_end", stop)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> tuple[training.TrainConfig, Path]:
    # 105 pairs: 14 steps an epoch. Drawn tokens and a loss of the prompt, so that every generator counts.
    settings = config(
        {"tasks": ["generate", "perturb"]}, max_steps=-1, epochs=1.5, eval_steps=4, loss_tokens=3, prompt_loss=0.5
    )
    run(folder, folder / "whole", settings)
    return settings, folder / "whole"


@pytest.mark.parametrize("share", [0.4, 0.8], ids=["first epoch", "second epoch"])
def test_resumed_training_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, uninterrupted: Any
) -> None:
    settings, whole = uninterrupted
    steps = json.loads((whole / "training_log.json").read_text(encoding="utf-8"))[-1]["step"]
    assert steps > 12
    with monkeypatch.context() as patch:
        Interrupt(patch, round(share * steps))
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "parts", settings)
    assert not (tmp_path / "parts").exists()
    with pytest.raises(ValueError, match=r"began with other settings \(learning_rate\); resume it with those"):
        run(folder, tmp_path / "parts", dataclasses.replace(settings, learning_rate=1.0), resume=True)
    run(folder, tmp_path / "parts", settings, resume=True)
    assert_same(weights(tmp_path / "parts"), weights(whole))
    assert evaluations(tmp_path / "parts") == evaluations(whole)


def test_best_weights_are_kept_and_training_stops(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []
    on_log = sft.Progress.on_log

    def spy(callback: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            state_dict = {name: value.clone() for name, value in kwargs["model"].state_dict().items()}
            seen.append((logs["eval_loss"], state_dict))
        on_log(callback, args, state, control, logs=logs, **kwargs)

    monkeypatch.setattr(sft.Progress, "on_log", spy)
    # Steps this large make it worse after a while.
    settings = config(learning_rate=0.08, max_steps=60, eval_steps=2, patience=2)
    run(folder, tmp_path / "out", settings)
    losses = [loss for loss, _ in seen]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 30
    read = weights(tmp_path / "out")
    assert_same({name: seen[best][1][name] for name in read}, read)
    assert not torch.equal(seen[-1][1]["gpt_neox.embed_in.weight"], read["gpt_neox.embed_in.weight"])
    with pytest.raises(ValueError, match="keep_best and patience need held-out pairs"):
        run(folder, tmp_path / "none", config({"split": {"test": 0}}, keep_best=True))


def test_pairs_for_evaluation_are_as_many_of_each_task(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    samples = sft.samples

    def spy(rows: Any, *rest: Any) -> Any:
        seen.append([row[0] for row in rows])
        return samples(rows, *rest)

    monkeypatch.setattr(sft, "samples", spy)
    run(folder, tmp_path / "out", config(eval_pairs=9, max_steps=1, eval_steps=1))
    assert sorted(seen[1]) == ["annotate"] * 3 + ["generate"] * 3 + ["perturb"] * 3
    assert len(seen[0]) == 144


class TestFineTuning:
    def test_embedded_kind_learns_new_labels_and_keeps_what_it_knew(
        self, folder: Path, tmp_path: Path, trained: Model
    ) -> None:
        labels = {"B cell": "plasmablast", "T cell": "ζ-cell, activated"}
        settings = config(
            {"tasks": ["annotate"], "labels": labels, "perturbation": None, "context": [], "draws": {"annotate": 5}},
            model=trained.path, lengths={}, max_steps=20, eval_steps=10, learning_rate=3e-3, batch_size=16,
            labels={"plasmablast": ["Plasmablasts"]},
        )  # fmt: skip
        tuned = run(folder, tmp_path / "tuned", settings)
        assert set(tuned.metadata["labels"]) == {"plasmablast", "ζ-cell, activated", "monocyte"}
        assert tuned.metadata["spellings"] == {"plasmablast": ["Plasmablasts"]}
        for key in ("genes", "lengths", "perturbations", "templates", "recipe"):
            assert tuned.metadata[key] == trained.metadata[key], key
        before = tuned.metadata["started_from"]
        assert before["labels"] == trained.metadata["labels"]
        assert before["split"] == trained.metadata["split"]
        assert before["weights_sha256"] == trained.metadata["weights_sha256"] != tuned.metadata["weights_sha256"]
        # The calibration is that of the new weights, not the one that was there.
        assert tuned.metadata["calibration"]["annotate"] != trained.metadata.get("calibration", {}).get("annotate")
        assert evaluations(tmp_path / "tuned")[-1] < evaluations(tmp_path / "tuned")[0] - 1

    def test_genes_without_a_token_of_their_own_are_left_out(self, tmp_path: Path, trained: Model) -> None:
        import anndata

        adata = anndata.read_h5ad(training_cells.write(tmp_path / "cells.h5ad"))
        adata.var_names = [*adata.var_names[:-3], "NEW1", "NEW2", "NEW3"]
        adata.write_h5ad(tmp_path / "cells.h5ad")
        tuned = run(tmp_path, tmp_path / "tuned", config(model=trained.path, max_steps=1, eval_steps=1))
        assert tuned.genes == trained.genes
        adata.var_names = [f"NEW{number}" for number in range(adata.n_vars)]
        adata.write_h5ad(tmp_path / "cells.h5ad")
        with pytest.raises(ValueError, match=r"can write none of the \d+ genes of cells.h5ad"):
            run(tmp_path, tmp_path / "none", config(model=trained.path))

    @pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
    def test_all_weights_of_a_checkpoint(self, folder: Path, tmp_path: Path, architecture: str) -> None:
        start = tiny.save(tmp_path / "start", architecture, "spm" if architecture == "gemma2" else "bytes")
        tuned = run(folder, tmp_path / "tuned", config(model=str(start)))
        assert_same(*(
            {name: value * 0 for name, value in weights(path).items()} for path in (start, Path(tuned.path))
        ))  # fmt: skip
        moved = [
            name for name, value in weights(start).items() if not torch.equal(value, weights(Path(tuned.path))[name])
        ]
        assert len(moved) > 10
        one, other = (load_tokens(str(path), local_files_only=True) for path in (start, tuned.path))
        text = "Cell sentence: CD4 MALAT1 RP11-34P13.7. TGFΒ1\n"
        assert one.ids([text]) == other.ids([text])
        assert one.bos == other.bos
        backends.load(tuned, progress=False).embed(tiny.prompts(2))

    @pytest.mark.parametrize("quantize", [None, "4bit"])
    def test_adapters_are_merged_to_what_was_trained(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantize: str | None
    ) -> None:
        pytest.importorskip("bitsandbytes")
        start = tiny.save(tmp_path / "start", "gemma2", "spm", hidden_size=64, intermediate_size=128, head_dim=16)
        (start / METADATA_FILE).write_text('{"dtype": "float32"}', encoding="utf-8")
        ids = torch.tensor([[2, 300, 310, 320, 305, 299, 350, 301]])
        before = transformers.AutoModelForCausalLM.from_pretrained(start, attn_implementation="eager")(ids).logits
        hand: list[torch.Tensor] = []
        whole = networks.whole

        def spy(trainer: Any, *rest: Any) -> Any:
            with torch.no_grad():
                hand.append(trainer.model.eval()(input_ids=ids).logits)
            return whole(trainer, *rest)

        monkeypatch.setattr(networks, "whole", spy)
        settings = config(
            model=str(start),
            lora={"r": 8, "alpha": 16},
            quantize=quantize,
            learning_rate=2e-2,
            max_steps=10,
            eval_steps=5,
        )
        tuned = run(folder, tmp_path / "tuned", settings)
        assert not (tmp_path / "tuned" / "adapter_config.json").exists()
        assert "quantization_config" not in json.loads((tmp_path / "tuned" / "config.json").read_text(encoding="utf-8"))
        assert all(value.dtype == torch.float32 for value in weights(tmp_path / "tuned").values())
        read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", attn_implementation="eager")
        difference = (read(ids).logits - hand[0].float()).abs().mean()
        assert difference < 0.05 * (before - hand[0].float()).abs().mean()
        if quantize is None:
            torch.testing.assert_close(read(ids).logits, hand[0], rtol=1e-3, atol=1e-4)
        backends.load(tuned, progress=False).embed(tiny.prompts(2))

    def test_quantised_without_adapters_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="only adapters to them: add lora"):
            config(model="nano", quantize="4bit")


class TestSettings:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                {"learning_rte": 1},
                r"the training file has unknown keys \['learning_rte'\]; available: .*'learning_rate'",
            ),
            ({"from_scratch": {"depth": 2}}, r"from_scratch has unknown keys \['depth'\]; available: .*'layers'"),
            (
                {"data": [{"file": "a", "celltype": "x"}]},
                r"data has unknown keys \['celltype'\]; available: .*'cell_type'",
            ),
            (
                {"data": [{"file": "a", "split": {"share": 1}}]},
                r"split has unknown keys \['share'\]; available: .*'test'",
            ),
            ({"data": [{}]}, r"data lacks \['file'\]"),
            ({"data": [{"file": "a"}, {"file": "a"}]}, "each file can be named once"),
            ({"data": []}, "no data: data:"),
            ({"model": "nano"}, "say either model: .* or from_scratch:"),
            ({"from_scratch": None}, "say either model: .* or from_scratch:"),
            ({"lora": True}, "excludes from_scratch"),
            ({"quantize": "2bit"}, "training knows '4bit' .* only, found '2bit'"),
            ({"batch_size": "many"}, "batch_size of the training file must be a number, found 'many'"),
            ({"batch_size": 2.5}, "batch_size of the training file must be a whole number"),
            ({"augmentation": 3}, "augmentation must hold keys and values"),
        ],
    )
    def test_mistakes_give_the_menu(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            training.from_mapping({"from_scratch": {}, "data": [{"file": "a"}]} | values)

    def test_numbers_that_yaml_reads_as_text(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        file.write_text("model: nano\nlearning_rate: 1e-4\nlora:\n  r: 8\ndata: [{file: a.h5ad, tasks: annotate}]\n")
        read = training.read_config(file)
        assert (read.learning_rate, read.lora.r, read.data[0].tasks) == (1e-4, 8, ("annotate",))
        file.write_text("- a\n")
        with pytest.raises(ValueError, match="is not a training file"):
            training.read_config(file)

    def test_few_cells_are_drawn_more_often(self, folder: Path, tmp_path: Path) -> None:
        [data] = training_options.configure(folder / "cells.h5ad", {"cell_type": "cell_type"}).data
        assert data.draws == {"annotate": 20}
        training_cells.write(tmp_path / "more.h5ad", 1250)
        [data] = training_options.configure(tmp_path / "more.h5ad", {"cell_type": "cell_type"}).data
        assert data.draws == {"annotate": 8}

    def test_options_alone(self) -> None:
        made = training_options.configure(
            "folder/a.h5ad", {"cell_type": "type", "model": None, "use_raw": False, "test": 0.0}
        )
        assert made.model == "nano"
        [data] = made.data
        assert (data.file, data.tasks, data.cell_type, data.context) == ("a.h5ad", ("annotate",), "type", ())
        assert (data.draws, data.split.test) == ({"annotate": 5}, 0.0)
        made = training_options.configure(
            "a.h5ad", {"cell_type": "type", "perturbation": "drug", "epochs": 3.0, "lora": True, "split_by": "donor",
                       "hold_out": ["d1"], "model": "x"}, ["learning_rate=1e-4", "lora.r=4", "labels={a: [b]}"],
        )  # fmt: skip
        [data] = made.data
        assert (data.tasks, data.context, made.lora.r) == (("annotate", "perturb"), ("type",), 4)
        assert (data.split.by, data.split.values, data.draws) == ("donor", ("d1",), {"annotate": 3, "perturb": 3})
        assert (made.learning_rate, made.labels) == (1e-4, {"a": ("b",)})
        with pytest.raises(ValueError, match="nothing to learn: name the obs column"):
            training_options.configure("a.h5ad", {})
        with pytest.raises(ValueError, match="settings are KEY=VALUE"):
            training_options.configure("a.h5ad", {"cell_type": "type"}, ["seed"])

    def test_options_beside_a_training_file(self, tmp_path: Path) -> None:
        file = tmp_path / "a.yaml"
        file.write_text("from_scratch: {}\ndata: [{file: a.h5ad}]\n", encoding="utf-8")
        made = training_options.configure(file, {"model": "nano", "epochs": 2, "lora": False}, ["seed=7"])
        assert (made.model, made.from_scratch, made.epochs, made.seed) == ("nano", None, 2, 7)
        with pytest.raises(ValueError, match=r"\['cell_type'\] belong under data: of"):
            training_options.configure(file, {"cell_type": "type"})

    def test_both_stages_of_the_embedded_model_hold_out_the_same_cells(self) -> None:
        recipes = Path(__file__).parents[2] / "recipes"
        base, later = (training.read_config(recipes / f"{name}.yaml") for name in ("nano-base", "nano"))
        assert base.from_scratch is not None
        splits = [{data.file: (data.split, data.exclude_held_out_of) for data in read.data} for read in (base, later)]
        assert splits[0] == splits[1]
        # What benchmarks/left_out.py stands on: no treated cell in the first stage, and what the second one does.
        assert (later.change_vectors, later.keep, later.lengths["perturb"]) == (8, 0, 400)
        [kang] = [data for data in base.data if data.file.startswith("kang_ifnb")]
        assert kang.where == {"condition": kang.control}


class TestFewCells:
    def test_weights_between_before_and_after(self, trained: Model, folder: Path, tmp_path: Path) -> None:
        changes = {"model": trained.path, "from_scratch": None, "max_steps": 3}
        whole, part = (run(folder, tmp_path / str(keep), config(keep=keep, **changes)) for keep in (0.0, 0.25))
        before, after, found = (weights(Path(one.path)) for one in (trained, whole, part))
        assert max(float((after[name] - before[name]).abs().max()) for name in after) > 1e-4
        wanted = {name: 0.25 * before[name] + 0.75 * after[name] for name in after}
        assert_same(found, wanted, atol=1e-6)
        with pytest.raises(ValueError, match="keep: is the share of the weights before the training"):
            config(keep=0.25)
        with pytest.raises(ValueError, match="keep: is the share of the weights before the training"):
            config(keep=1.0, **changes)

    def test_gene_tokens_start_from_changes(self, folder: Path, tmp_path: Path) -> None:
        """Before any step genes of one response lie together, its name is heard, and other words are as they were."""
        plain, changed = (
            run(
                folder,
                tmp_path / str(size),
                config({"context": []}, max_steps=1, learning_rate=1e-12, change_vectors=size),
            )
            for size in (0, 2)
        )
        before, after = (weights(Path(one.path))["gpt_neox.embed_in.weight"] for one in (plain, changed))
        tokens = load_tokens(changed.path)
        rows = [ids[0] for ids in tokens.ids([" " + gene for gene in training_cells.SYMBOLS])]
        moved = (after - before).norm(dim=1)
        names = [token for ids in tokens.ids([" IL-2", " IFN-beta"]) for token in ids]
        others = [row for row in range(len(moved)) if row not in {*rows, *names}]
        assert float(moved[others].max()) < 1e-6
        loudness = [one[names].pow(2).mean(dim=1).sqrt() for one in (before, after)]
        assert float(loudness[0].max()) < 0.2 < 0.22 < float(loudness[1].min()) < 0.23, "the square root of 0.05"
        response = (after - before)[[rows[gene] for gene in range(24, 36)]]
        assert float(response.norm(dim=1).min()) > 3 * float(moved[rows[:24]].mean())
        with pytest.raises(ValueError, match="change_vectors: needs perturbed training cells"):
            run(folder, tmp_path / "no", config({"tasks": ["annotate"], "perturbation": None}, change_vectors=2))

    def test_a_new_perturbation_starts_so_by_itself(
        self, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A model that knows what no perturbation is learns another one with it, and from changes."""
        settings = {"context": [], "tasks": ["perturb"]}
        start = run(folder, tmp_path / "start", config(settings | {"no_perturbation": "nothing"}, max_steps=1))
        moved = {}
        for name, more in {
            "known": {}, "new": {"perturbations": {"IL-2": "interleukin 2"}},
            "few": {"perturbations": {"IL-2": "interleukin 2"}, "where": {"donor": "d1"}, "context": ["cell_type"]},
        }.items():  # fmt: skip
            made = run(
                folder, tmp_path / name,
                config(settings | more, model=start.path, from_scratch=None, max_steps=1, learning_rate=1e-12),
            )  # fmt: skip
            assert made.metadata["training"]["data"][0]["no_perturbation"] == "nothing"
            before, after = (weights(Path(one.path))["gpt_neox.embed_in.weight"] for one in (start, made))
            moved[name] = float((after - before).norm())
        assert moved["new"] > 100 * max(moved["known"], moved["few"])
        assert "genes begin as they are" in caplog.text

    def test_dropout_is_for_training_only(self, folder: Path, tmp_path: Path) -> None:
        with_it, without = (
            run(folder, tmp_path / name, config(dropout=share)) for name, share in (("a", 0.3), ("b", 0.0))
        )
        assert not torch.equal(*(weights(Path(one.path))["gpt_neox.embed_in.weight"] for one in (with_it, without)))
        assert json.loads((Path(with_it.path) / "config.json").read_text())["hidden_dropout"] == 0.0


@pytest.mark.parametrize("lora", [True, False])
def test_command(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, lora: bool) -> None:
    start = tiny.save(tmp_path / "start", "gemma2", "spm")
    capsys.readouterr()
    command = ["cell2sen", "train", str(folder / "cells.h5ad"), str(tmp_path / "out"), "--cell-type", "cell_type"]
    command += ["--model", str(start), "--epochs", "1", "--set", "max_steps=2", "--set", "lengths={annotate: 20}"]
    monkeypatch.setattr(sys, "argv", command + ["--quiet", "--json"] + ["--lora"] * lora)
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    output = capsys.readouterr()
    assert json.loads(output.out) == {"file": str(tmp_path / "out"), "name": "out"}
    assert "it/s" not in output.err
    said = resolve(tmp_path / "out").metadata["training"]
    assert (said["max_steps"], said["lora"] is None) == (2, not lora)


class TestTrainingOptions:
    def test_from_scratch(self, tmp_path: Path) -> None:
        made = training_options.configure(
            "a.h5ad", {"cell_type": "type", "from_scratch": True, "hidden_size": 64, "heads": 2, "layers": None,
                       "tokenizer": "bpe"}
        )  # fmt: skip
        assert made.model is None
        assert (made.from_scratch.hidden_size, made.from_scratch.layers, made.from_scratch.tokenizer) == (64, 4, "bpe")
        file = tmp_path / "a.yaml"
        file.write_text("model: nano\nfrom_scratch: {layers: 7}\ndata: [{file: a.h5ad}]\n", encoding="utf-8")
        made = training_options.configure(file, {"from_scratch": True, "heads": 8})
        assert (made.model, made.from_scratch.layers, made.from_scratch.heads) == (None, 7, 8)
        with pytest.raises(ValueError, match="--hidden-size goes with --from-scratch"):
            training_options.configure("a.h5ad", {"cell_type": "type", "hidden_size": 64})

    def test_rewards(self) -> None:
        options = {"cell_type": "type", "perturbation": "drug", "reward": ["kendall_tau", "change=0.5"]}
        made = training_options.configure("a.h5ad", options | {"gene_sets": "h.gmt", "gene_set": ["A", "B"]})
        assert made.grpo.rewards == {"kendall_tau": 1.0, "change": 0.5}
        assert (made.grpo.gene_sets, made.grpo.gene_set) == ("h.gmt", ("A", "B"))
        [data] = made.data
        assert (data.tasks, data.draws, data.context) == (("perturb",), {"perturb": 1}, ("type",))
        [data] = training_options.configure("a.h5ad", {"cell_type": "type", "reward": ["overlap"]}).data
        assert data.tasks == ("generate",)
        with pytest.raises(ValueError, match="--gene-set goes with --reward"):
            training_options.configure("a.h5ad", {"cell_type": "type", "gene_set": ["A"]})
        with pytest.raises(ValueError, match="--reward must be a number, found 'much'"):
            training_options.configure("a.h5ad", {"cell_type": "type", "reward": ["overlap=much"]})

    def test_others(self) -> None:
        options = {"lora": True, "quantize": "4bit", "packing": True, "gene_tokens": True, "model": "x"}
        made = training_options.configure("a.h5ad", {"cell_type": "type"} | options)
        assert (made.quantize, made.packing, made.lora.merge, made.gene_tokens.first) == ("4bit", True, True, 0.2)


def test_perturbations_are_named_from_cells(folder: Path, tmp_path: Path) -> None:
    import anndata

    import cell2sen as c2s

    settings = config(
        {"tasks": ["identify"], "cell_type": None, "context": [], "draws": {"identify": 40}}, max_steps=150,
        eval_steps=150, learning_rate=3e-3, batch_size=16, prompt_loss=0.3, lengths={"identify": 20},
    )  # fmt: skip
    model = run(folder, tmp_path / "out", settings)
    assert set(model.metadata["perturbations"]) == {"control", "IFN-beta", "IL-2"}
    assert model.metadata["labels"] == {}
    adata = anndata.read_h5ad(training_cells.write(tmp_path / "new.h5ad", seed=1))
    c2s.tl.annotate(adata, task="identify", model=model, progress=False)
    found = adata.obs["cell2sen_perturbation"].astype(str)
    assert np.mean(found == adata.obs["condition"].astype(str)) > 0.7  # chance: a third


def test_labels_stay_where_none_are_learned(folder: Path, tmp_path: Path, trained: Model) -> None:
    tuned = run(folder, tmp_path / "out", config({"tasks": ["perturb"]}, model=trained.path, max_steps=1, eval_steps=1))
    assert tuned.metadata["labels"] == trained.metadata["labels"]
    whole = run(folder, tmp_path / "other", config(packing=True, max_steps=2))
    assert np.isfinite(evaluations(Path(whole.path))).all()
