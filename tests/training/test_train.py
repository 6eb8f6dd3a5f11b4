"""One training run, to the directory that it writes: from scratch, fine-tuned, interrupted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
import training_cells
import transformers
from training_runs import LENGTHS, Interrupted, assert_same, card, config, interrupt, log_values, run, weights

import cell2sen as c2s
from cell2sen import backends, tasks, training
from cell2sen.backend import Sampling
from cell2sen.data.splits import are_counted, hashes_of_names
from cell2sen.inference.novelty.training_density import load_density
from cell2sen.model import TRAINED_ON_HASHES, Model, resolve
from cell2sen.training.release import directory, model_card
from cell2sen.training.trainers.progress import Progress

LEARN: dict[str, Any] = {
    "optimiser.learning_rate": 3e-3,
    "optimiser.max_steps": 150,
    "optimiser.batch_size": 16,
    "optimiser.prompt_loss": 0.3,
    "checkpoints.eval_steps": 50,
}
ONE_STEP: dict[str, Any] = {"optimiser.max_steps": 1, "checkpoints.eval_steps": 1}


class TestFromScratch:
    def test_directory_is_a_model_like_any_other(self, trained: Model) -> None:
        loaded = backends.load(trained, progress=False)
        annotate, generate = tasks.load("annotate"), tasks.load("generate")
        genes = trained.genes[:6]
        prompts = [annotate.prompt(genes=genes, key="a"), annotate.prompt(genes=genes[::-1], key="b")]
        assert loaded.embed(prompts).vectors.shape == (2, 32)
        assert loaded.score(prompts, [" B cell.", " T cell."]).shape == (2, 2)
        prompt = generate.prompt(cell_type="B cell", key="c", answer_genes=5)
        [text] = loaded.generate([prompt], Sampling(), genes=trained.genes)
        assert len(set(text.strip(" .").split()) & set(trained.genes)) == 5
        assert loaded.known_genes(["CD4", "NOGENE"]).tolist() == [True, False]
        assert not Path(trained.path).with_name("scratch.training").exists()
        assert load_density(trained) is not None

    def test_gene_part_of_embeddings(self, folder: Path, tmp_path: Path) -> None:
        model = run(folder, tmp_path / "out", config({"card.gene_part": 4, **ONE_STEP}))
        assert "failed" not in model.metadata
        adata = anndata.read_h5ad(folder / "cells.h5ad")[:5].copy()
        c2s.tl.embed(adata, model=model, progress=False)
        assert adata.obsm["X_cell2sen"].shape == (5, 32 + 4)

    def test_metadata(self, trained: Model) -> None:
        metadata = trained.metadata
        assert list(metadata["labels"]) == list(training_cells.TYPES)
        assert sum(metadata["labels"].values()) == metadata["split"]["cells.h5ad"]["n_train"] == 72
        assert set(metadata["perturbations"]) == {"IFN-beta", "IL-2"}
        assert metadata["lengths"] == LENGTHS
        assert set(metadata["templates"]) == set(LENGTHS)
        assert trained.fit.slope < 0
        assert trained.resolved_dtype == "float32"
        assert metadata["training"]["data"]["files"][0]["file"] == "cells.h5ad"
        assert set(metadata["genes"]) == set(training_cells.SYMBOLS)
        assert "| cells.h5ad | 72 | 18 |" in card(trained)
        log = json.loads((Path(trained.path) / "training_log.json").read_text(encoding="utf-8"))
        assert [entry["step"] for entry in log if "eval_loss" in entry] == [2, 4, 6]

    @pytest.mark.slow
    def test_weights_on_disk_are_those_in_memory(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Model, capsys: Any
    ) -> None:
        in_memory: dict[str, torch.Tensor] = {}
        write = directory.write

        def spy(path: Path, network: Any, *rest: Any, **options: Any) -> None:
            in_memory.update({name: value.clone() for name, value in network.state_dict().items()})
            write(path, network, *rest, **options)

        monkeypatch.setattr(directory, "write", spy)
        run(folder, tmp_path / "out", config({"card.names": False}))
        read = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
        assert_same(read, in_memory)
        assert_same(weights(tmp_path / "out"), weights(trained))  # the same seed, the same model
        assert not (tmp_path / "out" / directory.HELD_OUT_FILE).exists()
        names = json.loads((Path(trained.path) / directory.TRAINED_ON_FILE).read_text(encoding="utf-8"))["cells.h5ad"]
        hashes = np.load(tmp_path / "out" / TRAINED_ON_HASHES)
        assert (hashes == hashes_of_names([] if are_counted(names) else names)).all()
        assert capsys.readouterr().out == ""

    @pytest.mark.slow
    def test_seeds_differ(self, folder: Path, tmp_path: Path, trained: Model) -> None:
        model = run(folder, tmp_path / "out", config({"seed": 1, **ONE_STEP}))
        assert model.genes == trained.genes
        name = "gpt_neox.layers.0.attention.dense.weight"
        assert not torch.equal(weights(model)[name], weights(trained)[name])

    @pytest.mark.slow
    def test_learns_labels(self, folder: Path, tmp_path: Path) -> None:
        model = run(folder, tmp_path / "out", config(LEARN, file={"tasks": {"annotate": 40}}))
        losses = log_values(model)
        assert losses[-1] < 1.5 < losses[0]
        assert model.metadata["calibration"]["annotate"]["accuracy"] > 0.8  # chance: a third

    @pytest.mark.slow
    def test_learns_perturbations_as_labels(self, folder: Path, tmp_path: Path) -> None:
        file = {"tasks": {"identify": 40}, "cell_type": None, "perturbation": "condition"}
        model = run(folder, tmp_path / "out", config({**LEARN, "data.lengths": {"identify": 20}}, file=file))
        assert set(model.metadata["perturbations"]) == {"control", "IFN-beta", "IL-2"}
        assert model.metadata["labels"] == {}
        adata = anndata.read_h5ad(training_cells.write(tmp_path / "new.h5ad", seed=1))
        c2s.tl.annotate(adata, task="identify", model=model, progress=False)
        predicted = adata.obs["cell2sen_perturbation"].astype(str)
        assert np.mean(predicted == adata.obs["condition"].astype(str)) > 0.7  # chance: a third

    @pytest.mark.slow
    def test_packed(self, folder: Path, tmp_path: Path) -> None:
        model = run(folder, tmp_path / "out", config({"compute.packing": True, "optimiser.max_steps": 2}))
        assert np.isfinite(log_values(model)).all()


class TestFineTuning:
    @pytest.mark.slow
    def test_new_labels_are_learned_and_the_rest_is_kept(self, folder: Path, tmp_path: Path, trained: Model) -> None:
        names = {"B cell": "plasmablast", "T cell": "ζ-cell, activated"}
        labels = {"column": "cell_type", "names": names}
        changes = {
            "data.lengths": {},
            "data.names.spellings": {"plasmablast": ["Plasmablasts"]},
            "optimiser.max_steps": 20,
            "optimiser.learning_rate": 3e-3,
            "optimiser.batch_size": 16,
            "checkpoints.eval_steps": 10,
        }
        file = {"tasks": {"annotate": 5}, "cell_type": labels, "perturbation": None}
        tuned = run(folder, tmp_path / "tuned", config(changes, start=trained, file=file))
        assert set(tuned.metadata["labels"]) == {"plasmablast", "ζ-cell, activated", "monocyte"}
        assert tuned.metadata["spellings"] == {"plasmablast": ["Plasmablasts"]}
        for key in ("genes", "lengths", "perturbations", "templates", "recipe"):
            assert tuned.metadata[key] == trained.metadata[key], key
        before = tuned.metadata["started_from"]
        assert before["labels"] == trained.metadata["labels"]
        assert before["split"] == trained.metadata["split"]
        assert before["weights_sha256"] == trained.metadata["weights_sha256"] != tuned.metadata["weights_sha256"]
        assert tuned.metadata["training"]["model"]["start"] == "scratch", "no local path"
        # The calibration is that of the new weights.
        assert tuned.metadata["calibration"]["annotate"] != trained.metadata.get("calibration", {}).get("annotate")
        assert log_values(tuned)[-1] < log_values(tuned)[0] - 1

    @pytest.mark.slow
    def test_labels_stay_where_none_are_learned(self, folder: Path, tmp_path: Path, trained: Model) -> None:
        tuned = run(folder, tmp_path / "out", config(ONE_STEP, start=trained, file={"tasks": ["perturb"]}))
        assert tuned.metadata["labels"] == trained.metadata["labels"]

    @pytest.mark.slow
    def test_genes_without_a_token_are_left_out(self, tmp_path: Path, trained: Model) -> None:
        adata = anndata.read_h5ad(training_cells.write(tmp_path / "cells.h5ad"))
        adata.var_names = [*adata.var_names[:-3], "NEW1", "NEW2", "NEW3"]
        adata.write_h5ad(tmp_path / "cells.h5ad")
        tuned = run(tmp_path, tmp_path / "tuned", config(ONE_STEP, start=trained))
        assert tuned.genes == trained.genes
        adata.var_names = [f"NEW{number}" for number in range(adata.n_vars)]
        adata.write_h5ad(tmp_path / "cells.h5ad")
        with pytest.raises(ValueError, match=r"can write none of the \d+ genes of cells.h5ad"):
            run(tmp_path, tmp_path / "none", config(start=trained))


class TestFolders:
    @pytest.mark.slow
    def test_half_written_models_do_not_appear(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(model_card, "card", full)
        with pytest.raises(OSError, match="disk full"):
            run(folder, tmp_path / "out", config(ONE_STEP))
        assert [path.name for path in tmp_path.iterdir()] == ["out.training"]
        assert training.can_resume(tmp_path / "out")
        # The training can be resumed.
        monkeypatch.undo()
        run(folder, tmp_path / "out", config(ONE_STEP), resume=True)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert not training.can_resume(tmp_path / "out")

    def test_existing_directories_are_refused_before_any_work(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(FileExistsError, match="out exists already"):
            run(tmp_path / "nowhere", tmp_path / "out", config())
        (tmp_path / "new.training" / "checkpoint-2").mkdir(parents=True)
        (tmp_path / "new.training" / "checkpoint-2" / "trainer_state.json").touch()
        with pytest.raises(FileExistsError, match="holds an unfinished training: resume it, or remove it"):
            run(tmp_path / "nowhere", tmp_path / "new", config())
        with pytest.raises(FileNotFoundError, match=r"no checkpoint in .* to resume from"):
            run(tmp_path / "nowhere", tmp_path / "other", config(), resume=True)


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[training.TrainConfig, Model]:
    # 105 pairs: 14 steps an epoch. Random tokens and the loss of the prompt use every random generator.
    changes = {
        "optimiser.max_steps": -1,
        "optimiser.epochs": 1.5,
        "optimiser.loss_tokens": 3,
        "optimiser.prompt_loss": 0.5,
        "checkpoints.eval_steps": 4,
    }
    settings = config(changes, file={"tasks": ["generate", "perturb"]})
    return settings, run(folder, tmp_path_factory.mktemp("resumed") / "whole", settings)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.4, 0.8], ids=["first epoch", "second epoch"])
def test_resumed_training_equals_an_uninterrupted_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, uninterrupted: Any
) -> None:
    settings, whole = uninterrupted
    log = json.loads((Path(whole.path) / "training_log.json").read_text(encoding="utf-8"))
    steps = log[-1]["step"]
    assert steps > 12
    with monkeypatch.context() as patch:
        interrupt(patch, round(share * steps))
        with pytest.raises(Interrupted):
            run(folder, tmp_path / "parts", settings)
    assert not (tmp_path / "parts").exists()
    other = dataclasses.replace(settings, optimiser=dataclasses.replace(settings.optimiser, learning_rate=1.0))
    with pytest.raises(
        ValueError, match=r"began with other settings \(optimiser.learning_rate\); resume it with those"
    ):
        run(folder, tmp_path / "parts", other, resume=True)
    parts = run(folder, tmp_path / "parts", settings, resume=True)
    assert_same(weights(parts), weights(whole))
    assert log_values(parts) == log_values(whole)


@pytest.mark.slow
def test_best_weights_are_kept_and_training_stops(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="cell2sen")
    seen: list[tuple[float, dict[str, torch.Tensor]]] = []
    on_log = Progress.on_log

    def spy(callback: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            state_dict = {name: value.clone() for name, value in kwargs["model"].state_dict().items()}
            seen.append((logs["eval_loss"], state_dict))
        on_log(callback, args, state, control, logs=logs, **kwargs)

    monkeypatch.setattr(Progress, "on_log", spy)
    # With steps this large the loss rises after a while.
    changes = {"optimiser.learning_rate": 0.08, "optimiser.max_steps": 60, "checkpoints.patience": 2}
    model = run(folder, tmp_path / "out", config(changes))
    losses = [loss for loss, _ in seen]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 30
    assert f"stopped after {2 * len(losses)} of 60 steps: loss on held-out cells no longer improves" in caplog.text
    nothing_to_measure = config({"optimiser.max_steps": 2, "checkpoints.patience": 2}, file={"split": {"test": 0}})
    assert run(folder, tmp_path / "to the end", nothing_to_measure).is_local
    saved = weights(model)
    assert_same({name: seen[best][1][name] for name in saved}, saved)
    assert not torch.equal(seen[-1][1]["gpt_neox.embed_in.weight"], saved["gpt_neox.embed_in.weight"])
    nothing_held_out = config({"checkpoints.keep_best": True}, file={"split": {"test": 0}})
    with pytest.raises(ValueError, match="keep_best needs held-out pairs"):
        run(folder, tmp_path / "none", nothing_held_out)


def test_a_trained_model_is_found_by_its_path(trained: Model) -> None:
    assert resolve(trained.path).metadata["weights_sha256"] == trained.metadata["weights_sha256"]
