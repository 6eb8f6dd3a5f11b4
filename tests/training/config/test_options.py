"""Options of a training as a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import training_cells

from cell2sen.training.config.options import FILE_PLACES, NEEDS, PLACES, configure


class TestAnnDataFiles:
    def test_options_alone(self) -> None:
        config = configure("folder/a.h5ad", {"cell_type": "type", "model": None, "use_raw": False, "test": 0.0})
        assert config.model.start == "nano"
        [file] = config.data.files
        assert (file.file, file.tasks, file.context) == ("a.h5ad", {"annotate": 5}, ())
        assert file.cell_type is not None
        assert (file.cell_type.column, file.split.test, file.perturbation) == ("type", 0.0, None)
        assert config.data.augmentation.thin == (0.3, 1.0)
        assert config.checkpoints.patience == 3

    def test_perturbations_and_settings(self) -> None:
        options = {
            "cell_type": "type", "perturbation": "drug", "epochs": 3.0, "lora": True, "split_by": "donor",
            "hold_out": ["d1"], "model": "x", "layer": "counts", "symbols": "name",
        }  # fmt: skip
        settings = ["optimiser.learning_rate=1e-4", "model.lora.r=4", "data.names.spellings={a: [b]}"]
        config = configure("a.h5ad", options, settings)
        [file] = config.data.files
        assert (file.tasks, file.context) == ({"annotate": 3, "perturb": 3}, ("type",))
        assert (file.split.by, file.split.values) == ("donor", ("d1",))
        assert (file.matrix.layer, file.matrix.symbols) == ("counts", "name")
        assert config.model.lora is not None
        assert (config.model.lora.r, config.optimiser.learning_rate) == (4, 1e-4)
        assert config.data.names.spellings == {"a": ("b",)}
        [file] = configure("a.h5ad", options | {"context": ["donor"], "control": "DMSO"}).data.files
        assert (file.context, file.control) == (("donor",), "DMSO")

    def test_columns_of_slots(self) -> None:
        options = {"task": ["caption", "ask"], "column": ["caption = text", "sample=a=b"], "epochs": 2.0}
        [file] = configure("a.h5ad", options).data.files
        assert (file.tasks, file.columns) == ({"caption": 2, "ask": 2}, {"caption": "text", "sample": "a=b"})
        for wrong in ("caption", "=a", "a="):
            with pytest.raises(ValueError, match=f"column= takes SLOT=COLUMN, found '{wrong}'"):
                configure("a.h5ad", {**options, "column": [wrong]})

    def test_few_cells_are_drawn_more_often(self, tmp_path: Path) -> None:
        for n, draws in ((90, 20), (1250, 8)):
            training_cells.write(tmp_path / f"{n}.h5ad", n)
            [file] = configure(tmp_path / f"{n}.h5ad", {"cell_type": "cell_type"}).data.files
            assert file.tasks == {"annotate": draws}

    def test_mistakes(self) -> None:
        with pytest.raises(ValueError, match="nothing to learn: name the obs column"):
            configure("a.h5ad", {})
        with pytest.raises(ValueError, match="settings are KEY=VALUE, found 'seed'"):
            configure("a.h5ad", {"cell_type": "type"}, ["seed"])
        with pytest.raises(ValueError, match=r"^max_steps is now optimiser\.max_steps$"):
            configure("a.h5ad", {"cell_type": "type"}, ["max_steps=2"])
        for option, needed in (("hidden_size", "from_scratch"), ("gene_set", "reward"), ("control", "perturbation")):
            with pytest.raises(ValueError, match=f"{option}= needs {needed}="):
                configure("a.h5ad", {"cell_type": "type", option: 64})

    def test_one_text_is_a_list_and_unknown_options_are_named(self) -> None:
        one, many = ({"label": label, "epochs": 1.0} for label in ("tissue", ["tissue"]))
        assert configure("a.h5ad", one) == configure("a.h5ad", many)
        with pytest.raises(TypeError, match=r"there is no option 'celltype' of a training; available: \['cell_type'"):
            configure("a.h5ad", {"celltype": "type"})

    def test_new_models(self) -> None:
        options = {"cell_type": "type", "from_scratch": True, "hidden_size": 64, "heads": 2, "layers": None}
        config = configure("a.h5ad", options | {"tokenizer": "bpe"})
        assert config.model.start is None
        shape = config.model.from_scratch
        assert shape is not None
        assert (shape.hidden_size, shape.layers, shape.tokenizer.kind) == (64, 4, "bpe")

    def test_rewards(self) -> None:
        options = {"cell_type": "type", "perturbation": "drug", "reward": ["kendall_tau", "change=0.5"]}
        config = configure("a.h5ad", options | {"gene_sets": "h.gmt", "gene_set": ["A", "B"]})
        assert config.grpo is not None
        assert config.grpo.rewards == {"kendall_tau": 1.0, "change": 0.5}
        assert (config.grpo.genes.gmt, config.grpo.genes.sets) == ("h.gmt", ("A", "B"))
        [file] = config.data.files
        assert (file.tasks, file.context) == ({"perturb": 1}, ("type",))
        [file] = configure("a.h5ad", {"cell_type": "type", "reward": ["overlap"]}).data.files
        assert file.tasks == {"generate": 1}
        with pytest.raises(ValueError, match="reward= must be a number, found 'much'"):
            configure("a.h5ad", {"cell_type": "type", "reward": ["overlap=much"]})

    def test_flags(self) -> None:
        options = {"lora": True, "quantize": "4bit", "packing": True, "gene_tokens": True, "model": "x"}
        config = configure("a.h5ad", {"cell_type": "type"} | options)
        assert config.model.lora is not None
        assert config.model.gene_tokens is not None
        assert (config.model.quantize, config.compute.packing, config.model.lora.merge) == ("4bit", True, True)
        assert config.model.gene_tokens.first == 0.2


class TestTrainingFiles:
    def test_options_change_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_text("model: {from_scratch: {}}\ndata: {files: [{file: a.h5ad}]}\n", encoding="utf-8")
        config = configure(path, {"model": "nano", "epochs": 2, "lora": False}, ["seed=7"])
        assert (config.model.start, config.model.from_scratch) == ("nano", None)
        assert (config.optimiser.epochs, config.seed) == (2, 7)
        with pytest.raises(ValueError, match=r"\['cell_type'\] describe one file: name them under data.files"):
            configure(path, {"cell_type": "type"})

    def test_parts_of_the_file_are_kept(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_text(
            "model: {start: nano, from_scratch: {layers: 7}, lora: {r: 3}}\ndata: {files: [{file: a.h5ad}]}\n"
        )
        config = configure(path, {"from_scratch": True, "heads": 8}, ["model.lora=null"])
        assert config.model.from_scratch is not None
        assert (config.model.start, config.model.from_scratch.layers, config.model.from_scratch.heads) == (None, 7, 8)
        config = configure(path, {"model": "x", "lora": True})
        assert config.model.lora is not None
        assert config.model.lora.r == 3

    def test_former_keys_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        for text, message in (
            ("model: nano\ndata: {files: [{file: a.h5ad}]}\n", r"model is now model\.start"),
            ("model: {start: nano}\ndata: [{file: a.h5ad}]\n", r"data is now data\.files"),
        ):
            path.write_text(text)
            with pytest.raises(ValueError, match=message):
                configure(path, {"model": "x", "epochs": 2})


def test_every_place_exists() -> None:
    """An option that would land in an unknown key is refused by the configuration."""
    assert set(NEEDS) | set(NEEDS.values()) <= set(PLACES) | set(FILE_PLACES)
    values = {
        "cell_type": "a", "perturbation": "b", "control": "c", "context": ["d"], "split_by": "e", "hold_out": ["f"],
        "test": 0.2, "layer": "g", "use_raw": True, "symbols": "h", "organism": "i", "task": ["perturb"],
        "model": "j", "gene_sets": "k", "gene_set": ["l"], "reward": ["overlap"], "epochs": 2, "lora": True,
    }  # fmt: skip
    assert configure("a.h5ad", values).data.files[0].matrix.use_raw
    on_pairs = {name: value for name, value in values.items() if name not in ("reward", "gene_sets", "gene_set")}
    assert configure("a.h5ad", {**on_pairs, "packing": True}).compute.packing


def test_columns_of_labels_numbers_and_contexts(tmp_path: Path) -> None:
    options = {"label": ["tissue", "donor state"], "number": ["age"], "prompt_context": ["donor"], "epochs": 2.0}
    config = configure(tmp_path / "a.h5ad", options)
    assert config.data.files[0].tasks == {"label:tissue": 2, "label:donor state": 2, "number:age": 2}
    assert config.data.context == ("donor",)
    joint = configure(tmp_path / "a.h5ad", {**options, "joint": True})
    assert joint.data.files[0].tasks == {"joint:tissue+donor state+number:age": 2}
    with pytest.raises(ValueError, match=r"joint= answers several columns in one text: .* found \['label:tissue'\]"):
        configure(tmp_path / "a.h5ad", {"label": ["tissue"], "joint": True, "epochs": 1.0})
    both = configure(tmp_path / "a.h5ad", {"label": ["tissue"], "cell_type": "type", "epochs": 1.0})
    assert list(both.data.files[0].tasks) == ["annotate", "label:tissue"]
