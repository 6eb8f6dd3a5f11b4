"""Helical's names: the documented snippet, settings, embeddings and perturbations."""

from __future__ import annotations

import ast
import inspect
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from cells import GENES, cells, checkpoint, fake, needs_weights
from datasets import Dataset, concatenate_datasets, load_from_disk

import cell2sen as c2s
from cell2sen import Cell2Sen, Cell2SenConfig
from cell2sen.backend import AttentionMap
from cell2sen.backends.transformers import TransformersBackend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


def make(path: str, **settings: Any) -> Cell2Sen:
    return Cell2Sen(Cell2SenConfig(model_size=path, progress=False, **{"max_new_tokens": 40} | settings))


def perturbed_cells() -> Any:
    adata = cells()
    adata.obs["perturbation"] = ["IFN-beta", None, "IFN-beta", "", float("nan"), "IL-6"]
    return adata


PERTURBATIONS = ["IFN-beta", None, "IFN-beta", None, None, "IL-6"]


# -- the snippet of the documentation


def test_snippet(path: str) -> None:
    adata = perturbed_cells()
    config = Cell2SenConfig(batch_size=16, perturbation_column="perturbation", model_size=path, progress=False)
    cell2sen = Cell2Sen(configurer=config)
    dataset = cell2sen.process_data(adata)
    assert dataset.column_names[:4] == ["cell_sentence", "fit_parameters", "organism", "perturbations"]
    assert dataset["perturbations"][:] == PERTURBATIONS
    embeddings, attention_maps = cell2sen.get_embeddings(dataset, output_attentions=True)
    assert embeddings.shape == (6, 32)
    assert embeddings.dtype == np.float32
    assert len(attention_maps) == 6
    assert isinstance(attention_maps[0], AttentionMap)
    genes = dataset["cell_sentence"][0].split()
    assert list(attention_maps[0].genes) == genes
    assert attention_maps[0].array.shape == (4, len(genes), len(genes))
    perturbed_dataset, perturbed_sentences = cell2sen.get_perturbations(dataset)
    assert [sentence is None for sentence in perturbed_sentences] == [name is None for name in PERTURBATIONS]
    assert perturbed_dataset["perturbed_cell_sentence"][:] == perturbed_sentences
    assert perturbed_dataset.column_names == [*dataset.column_names, "perturbed_cell_sentence"]


@needs_weights
def test_snippet_with_the_embedded_model() -> None:
    adata = perturbed_cells()
    config = Cell2SenConfig(batch_size=16, perturbation_column="perturbation")
    cell2sen = Cell2Sen(configurer=config)
    dataset = cell2sen.process_data(adata)
    embeddings, attention_maps = cell2sen.get_embeddings(dataset, output_attentions=True)
    perturbed_dataset, perturbed_sentences = cell2sen.get_perturbations(dataset)
    assert np.isfinite(embeddings).all()
    assert all(np.all(cell.array.sum(axis=2) <= 1 + 1e-5) for cell in attention_maps if cell is not None)
    assert [sentence is None for sentence in perturbed_sentences] == [name is None for name in PERTURBATIONS]
    assert len(perturbed_dataset) == 6


def test_embedded_model_and_its_settings_are_the_default() -> None:
    config = Cell2SenConfig()
    assert config.model_size == "nano"
    assert Cell2Sen().config == config


def test_loading_waits_for_the_first_use() -> None:
    Cell2Sen(Cell2SenConfig(model_size="27B"))


def test_every_setting_is_documented() -> None:
    (body,) = (
        node for node in ast.parse(inspect.getsource(c2s.helical)).body
        if isinstance(node, ast.ClassDef) and node.name == "Cell2SenConfig"
    )  # fmt: skip
    documented = {
        node.target.id
        for node, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }  # fmt: skip
    assert documented == {field.name for field in fields(Cell2SenConfig)}


def test_arguments_of_helicals_class() -> None:
    Cell2SenConfig(
        batch_size=16, organism=None, perturbation_column=None, max_new_tokens=200, max_genes=None, return_fit=False,
        dtype="bfloat16", model_size="2B", use_quantization=False, seed=42, use_flash_attn=False, device="cpu",
        aggregation_type="mean_pool", embedding_prompt_template=None,
    )  # fmt: skip


@pytest.mark.parametrize("size", ["160M", "410M", "1B", "2B", "27B", "nano", "gemma-2-2b", "owner/name"])
def test_sizes(size: str) -> None:
    assert Cell2Sen(Cell2SenConfig(model_size=size)).model_size == size


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("aggregation_type", "max_pool", "one of mean_pool, last_token, gene_pool; found 'max_pool'"),
        ("dtype", "int8", "one of auto, bfloat16, float32, float16"),
        ("model_size", "3B", "one of nano, 160M, 410M, 1B, 2B, 27B; or a model name.*found '3B'"),
        ("batch_size", 0, "at least 1, found 0"),
        ("max_genes", 0, "at least 1, found 0"),
        ("max_new_tokens", 0, "at least 1, found 0"),
        ("temperature", -1, "at least 0, found -1"),
        ("embedding_prompt_template", "Genes: {genes}", "must contain {cell_sentence} once"),
        ("embedding_prompt_template", "{cell_sentence} {cell_sentence}", "must contain {cell_sentence} once"),
    ],
)
def test_wrong_settings_are_refused(name: str, value: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Cell2SenConfig(**{name: value})
    cell2sen, config = Cell2Sen(), Cell2SenConfig()
    before = getattr(cell2sen, name)
    for settings in (cell2sen, config):
        with pytest.raises(ValueError, match=match):
            setattr(settings, name, value)
    assert getattr(cell2sen, name) == before


def test_settings_that_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no setting 'batchsize'; available"):
        Cell2SenConfig().batchsize = 3  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'batchsize'; settings"):
        Cell2Sen().batchsize  # noqa: B018


# -- settings after construction


def test_settings_are_read_at_call_time(path: str) -> None:
    cell2sen = make(path, batch_size=2)
    dataset = cell2sen.process_data(cells())
    first, loaded = cell2sen.get_embeddings(dataset), cell2sen.backend
    cell2sen.batch_size = 4
    assert cell2sen.config.batch_size == 4
    np.testing.assert_allclose(cell2sen.get_embeddings(dataset), first, rtol=1e-4, atol=1e-5)
    assert cell2sen.backend is loaded
    assert loaded.batch_size == 4  # type: ignore[attr-defined]
    cell2sen.aggregation_type = "gene_pool"
    assert not np.allclose(cell2sen.get_embeddings(dataset), first)
    cell2sen.max_genes = 3
    assert {len(text.split()) for text in cell2sen.process_data(cells())["cell_sentence"]} == {3}
    cell2sen.dtype = "bfloat16"
    assert cell2sen.backend is not loaded
    assert cell2sen.backend.model.resolved_dtype == "bfloat16"


def test_configuration_is_not_shared() -> None:
    config = Cell2SenConfig(batch_size=3)
    first, other = Cell2Sen(config), Cell2Sen(config)
    first.batch_size = 8
    assert (config.batch_size, other.batch_size) == (3, 3)


# -- embeddings


@pytest.mark.parametrize(("name", "pooling"), [("mean_pool", "mean"), ("last_token", "last"), ("gene_pool", "genes")])
def test_embeddings_are_those_of_tl(path: str, name: Any, pooling: Any) -> None:
    adata, cell2sen = cells(), make(path, aggregation_type=name)
    c2s.tl.embed(adata, model=path, pooling=pooling, progress=False)
    embeddings = cell2sen.get_embeddings(cell2sen.process_data(adata))
    np.testing.assert_allclose(embeddings, adata.obsm["X_cell2sen"], rtol=1e-5, atol=1e-6)


def test_embeddings_of_some_cells_in_another_order(path: str) -> None:
    cell2sen = make(path)
    dataset = cell2sen.process_data(cells())
    whole = cell2sen.get_embeddings(dataset)
    for rows in ([4, 0], [3]):
        np.testing.assert_allclose(cell2sen.get_embeddings(dataset.select(rows)), whole[rows], rtol=1e-4, atol=1e-5)


def test_layers_count_as_in_transformers(path: str) -> None:
    cell2sen = make(path)
    dataset = cell2sen.process_data(cells())
    layers = tiny.LAYERS
    for negative in range(-2, -layers - 2, -1):
        np.testing.assert_array_equal(
            cell2sen.get_embeddings(dataset, emb_layer=negative),
            cell2sen.get_embeddings(dataset, emb_layer=layers + 1 + negative),
        )
    assert not np.allclose(
        cell2sen.get_embeddings(dataset, emb_layer=-1), cell2sen.get_embeddings(dataset, emb_layer=layers)
    )
    for beyond in (layers + 1, -layers - 2):
        with pytest.raises(ValueError, match=f"no layer {beyond}"):
            cell2sen.get_embeddings(dataset, emb_layer=beyond)


def test_template_of_the_embedding(path: str) -> None:
    cell2sen = make(path)
    dataset = cell2sen.process_data(cells())
    plain = cell2sen.get_embeddings(dataset)
    cell2sen.embedding_prompt_template = "A {organism} cell: {cell_sentence}."
    assert not np.allclose(cell2sen.get_embeddings(dataset), plain)
    cell2sen.embedding_prompt_template = "{cell_sentence} of the {tissue}"
    with pytest.raises(ValueError, match=r"unknown slots \['tissue'\]"):
        cell2sen.get_embeddings(dataset)


# -- perturbations


def test_predictions_are_those_of_tl(path: str) -> None:
    adata, cell2sen = perturbed_cells(), make(path, perturbation_column="perturbation", max_new_tokens=10_000)
    _, predicted = cell2sen.get_perturbations(cell2sen.process_data(adata))
    expected = c2s.tl.perturb(adata, perturbation_column="perturbation", model=path, progress=False, force=True)
    assert [sentence for sentence in predicted if sentence is not None] == expected.obs["sentence"].tolist()


def test_predictions_of_some_cells_in_another_order(path: str) -> None:
    cell2sen = make(path, perturbation_column="perturbation")
    dataset = cell2sen.process_data(perturbed_cells())
    _, whole = cell2sen.get_perturbations(dataset)
    rows = [5, 1, 0]
    part, predicted = cell2sen.get_perturbations(dataset.select(rows))
    assert predicted == [whole[row] for row in rows] == part["perturbed_cell_sentence"][:]


def test_predictions_may_have_genes_that_no_control_expresses(path: str) -> None:
    adata, cell2sen = cells(), make(path, max_genes=4, max_new_tokens=400)
    dataset = cell2sen.process_data(adata)
    controls = {gene for text in dataset["cell_sentence"] for gene in text.split()}
    cell2sen._loaded = (cell2sen._loaded[0], fake())  # type: ignore[index] # draws evenly from the vocabulary
    _, predicted = cell2sen.get_perturbations(dataset, ["IFN-beta"] * 6)
    words = {gene for sentence in predicted for gene in (sentence or "").split()}
    assert words <= set(GENES)
    assert words - controls


def test_datasets_put_together_keep_all_genes(path: str) -> None:
    cell2sen = make(path)
    half = len(GENES) // 2
    parts = [cell2sen.process_data(cells(genes=genes)) for genes in (GENES[:half], GENES[half:])]
    cell2sen._loaded = (cell2sen._loaded[0], fake())  # type: ignore[index]
    _, predicted = cell2sen.get_perturbations(concatenate_datasets(parts), "IFN-beta")  # type: ignore[arg-type]
    assert {gene for sentence in predicted for gene in (sentence or "").split()} > set(GENES[:half])


def test_lists_of_perturbations(path: str) -> None:
    cell2sen = make(path)
    dataset = cell2sen.process_data(cells())
    names: list[Any] = ["IFN-beta", None, float("nan"), "", "IL-6", None]
    perturbed, predicted = cell2sen.get_perturbations(dataset, names)
    assert [sentence is None for sentence in predicted] == [False, True, True, True, False, True]
    assert perturbed["perturbations"][:] == ["IFN-beta", None, None, None, "IL-6", None]
    again, _ = cell2sen.get_perturbations(perturbed, ["IFN-beta"] * 6)  # a second time: replaced, not doubled
    assert again.column_names == perturbed.column_names
    with pytest.raises(ValueError, match="6 cells, found 2"):
        cell2sen.get_perturbations(dataset, ["IFN-beta", None])
    with pytest.raises(ValueError, match="no cell has a perturbation"):
        cell2sen.get_perturbations(dataset, [None] * 6)
    with pytest.raises(ValueError, match="no cell has a perturbation"):
        cell2sen.get_perturbations(dataset)


def test_perturbations_after_disk(path: str, tmp_path: Path) -> None:
    cell2sen = make(path, perturbation_column="perturbation")
    dataset = cell2sen.process_data(perturbed_cells())
    dataset.save_to_disk(tmp_path / "dataset")
    loaded = load_from_disk(tmp_path / "dataset")
    assert cell2sen.get_perturbations(loaded)[1] == cell2sen.get_perturbations(dataset)[1]
    np.testing.assert_array_equal(cell2sen.get_embeddings(loaded), cell2sen.get_embeddings(dataset))


def test_unknown_column_lists_the_known_ones(path: str) -> None:
    with pytest.raises(KeyError, match=r"no column 'pert'; available: \['donor'\]"):
        make(path, perturbation_column="pert").process_data(cells())


def test_max_new_tokens_bounds_the_answer_in_whole_genes(path: str) -> None:
    cell2sen = make(path, max_new_tokens=20)
    dataset = cell2sen.process_data(cells())
    _, predicted = cell2sen.get_perturbations(dataset, ["IFN-beta"] * 6)
    mean = np.mean(cell2sen.backend.count_tokens([" " + gene for gene in GENES]))
    assert {len((sentence or "").split()) for sentence in predicted} == {int(20 // mean)}


def test_control_genes_do_not_leak_into_free_answers(path: str) -> None:
    cell2sen = make(path, guided=False, max_new_tokens=6)
    dataset = cell2sen.process_data(cells())
    short = dataset.map(
        lambda row, number: {"cell_sentence": " ".join(row["cell_sentence"].split()[: 3 + 5 * number])},
        with_indices=True,
    )
    _, together = cell2sen.get_perturbations(short, ["IFN-beta"] * 6)
    alone = [cell2sen.get_perturbations(short.select([row]), ["IFN-beta"])[1][0] for row in range(6)]
    assert together == alone


def test_drawn_answers_follow_the_seed(path: str) -> None:
    cell2sen = make(path, temperature=1.0)
    dataset = cell2sen.process_data(cells())
    perturbations = ["IFN-beta"] * 6
    first = cell2sen.get_perturbations(dataset, perturbations)[1]
    assert cell2sen.get_perturbations(dataset, perturbations)[1] == first
    cell2sen.seed = 7
    assert cell2sen.get_perturbations(dataset, perturbations)[1] != first


# -- other datasets


def test_words_that_are_no_genes_are_left_out_with_a_warning(path: str, caplog: pytest.LogCaptureFixture) -> None:
    cell2sen = make(path)
    cell2sen.process_data(cells())
    cell2sen._loaded = (cell2sen._loaded[0], fake(genes=GENES))  # type: ignore[index]
    clean = Dataset.from_dict({"cell_sentence": [" ".join(GENES[:5]), " ".join(GENES[3:9])]})
    dirty = Dataset.from_dict(
        {"cell_sentence": [" ".join(["nonsense", *GENES[:5]]), " ".join([*GENES[3:9], "x1", "x2"])]}
    )
    expected = cell2sen.get_embeddings(clean)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cell2sen.get_embeddings(dirty), expected)
    assert "3 words of the sentences are not among the genes of fake" in caplog.text
    with pytest.raises(ValueError, match="can write none of the genes"):
        cell2sen.get_embeddings(Dataset.from_dict({"cell_sentence": ["nonsense x1"]}))
    with pytest.raises(KeyError, match=r"no column 'cell_sentence'; available: \['text'\]"):
        cell2sen.get_embeddings(Dataset.from_dict({"text": ["a"]}))


def test_organism_is_read_from_each_dataset(path: str) -> None:
    cell2sen, mouse = make(path), cells()
    mouse.uns["organism"] = "mouse"
    assert set(cell2sen.process_data(mouse)["organism"]) == {"Mus musculus"}
    assert set(cell2sen.process_data(cells())["organism"]) == {"Homo sapiens"}


def test_failure_leaves_the_model_as_it_was(path: str) -> None:
    cell2sen = make(path)
    dataset = cell2sen.process_data(cells())
    before = cell2sen.get_embeddings(dataset)
    backend = cell2sen.backend
    assert isinstance(backend, TransformersBackend)
    with pytest.raises(ValueError, match="6 cells, found 1"):
        cell2sen.get_perturbations(dataset, ["IFN-beta"])
    broken = cell2sen.process_data(cells())
    with pytest.raises(ValueError, match="no layer"):
        cell2sen.get_embeddings(broken, output_attentions=True, emb_layer=99)
    np.testing.assert_array_equal(cell2sen.get_embeddings(dataset), before)


def test_file_gives_what_memory_gives(path: str, tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "in.h5ad")
    cell2sen = make(path)
    for file in (tmp_path / "in.h5ad", str(tmp_path / "in.h5ad")):
        assert cell2sen.process_data(file).to_dict() == cell2sen.process_data(cells()).to_dict()


def test_datasets_put_together_have_the_genes_of_both(path: str, caplog: pytest.LogCaptureFixture) -> None:
    cell2sen = make(path)
    third = len(GENES) // 3
    parts = [cell2sen.process_data(cells(genes=genes)) for genes in (GENES[:third], GENES[third : 2 * third])]
    cell2sen._loaded = (cell2sen._loaded[0], fake())  # type: ignore[index]
    for kept, described in ((parts, True), ([part.map(lambda row: row) for part in parts], True)):
        _, predicted = cell2sen.get_perturbations(concatenate_datasets(kept), ["IFN-beta"] * 12)
        words = {gene for sentence in predicted for gene in (sentence or "").split()}
        assert words <= set(GENES[: 2 * third])
        assert words & set(GENES[third:])
        assert ("no list of genes" not in caplog.text) == described
    for description in ("", "my cells"):
        joined = concatenate_datasets(parts)
        joined.info.description = description
        _, predicted = cell2sen.get_perturbations(joined, ["IFN-beta"] * 12)
        expressed = {gene for text in joined["cell_sentence"] for gene in text.split()}
        assert {gene for sentence in predicted for gene in (sentence or "").split()} <= expressed
        assert "the dataset has no list of genes in its description" in caplog.text


def test_controls_get_no_response(path: str) -> None:
    adata, cell2sen = cells(), make(path, perturbation_column="condition")
    adata.obs["condition"] = ["control", "IFN-beta"] * 3
    dataset = cell2sen.process_data(adata)
    assert dataset["perturbations"][:] == ["control", "IFN-beta"] * 3
    written, predicted = cell2sen.get_perturbations(dataset)
    assert [sentence is None for sentence in predicted] == [True, False] * 3
    assert written["perturbations"][:] == [None, "IFN-beta"] * 3
