from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata_objects import assign, with_values
from cells import GENES, cells, checkpoint

import cell2sen as c2s
from cell2sen.inference.check import Check
from cell2sen.model import Model


def line(result: Check, topic: str) -> Any:
    (match,) = (finding for finding in result.findings if finding.topic == topic)
    return match


def test_good_input(model: str) -> None:
    result = c2s.check(cells(), model)
    assert result.ok
    assert {finding.level for finding in result.findings} <= {"ok", "warning"}
    numbers = result.numbers
    assert (numbers["n_cells"], numbers["n_genes"], numbers["matrix"]) == (6, len(GENES), "X")
    assert (numbers["scale"], numbers["identifiers"], numbers["organisms"]) == ("counts", "symbols", ["Homo sapiens"])
    assert numbers["share_of_genes_known"] == 1
    assert numbers["n_empty_cells"] == numbers["n_missing_values"] == numbers["n_duplicate_cell_names"] == 0
    for key in ("genes_per_cell", "tokens_per_cell", "n_cells_cut", "context", "expected_memory_gb"):
        assert key in numbers
    assert numbers["expected_seconds_on_cpu"] >= 0


def test_scale_with_certainty_and_evidence(model: str) -> None:
    counts = cells()
    assert line(c2s.check(counts, model), "scale").text.startswith("counts (certain: ")
    noisy = cells()
    noisy.X = sp.csr_matrix(noisy.X.toarray() * np.random.default_rng(0).uniform(0.5, 1, noisy.shape))
    result = c2s.check(noisy, model)
    assert line(result, "scale").level == "warning"
    assert result.numbers["scale_certain"] is False
    assert result.numbers["scale_evidence"]
    given = c2s.check(noisy, model, scale="counts")
    assert (line(given, "scale").level, given.numbers["scale"]) == ("ok", "counts")
    with pytest.raises(ValueError, match="scale must be one of"):
        c2s.check(counts, model, scale="x")  # type: ignore[arg-type]


def test_rounding_noise_is_a_finding(model: str) -> None:
    noisy = cells()
    noisy.X = noisy.X.toarray().astype(np.float64)
    n = int(np.sum(noisy.X == 0))
    noisy.X[noisy.X == 0] = 1e-17
    result = c2s.check(noisy, model)
    assert result.numbers["scale"] == "counts"
    assert result.numbers["n_noise_values"] == n
    assert line(result, "rounding").level == "warning"


def test_cells_of_several_scales_are_an_error(model: str) -> None:
    mixed = cells()
    mixed.X = mixed.X.toarray()
    mixed.X[4] = np.log1p(mixed.X[4] / mixed.X[4].sum() * 1e4)
    result = c2s.check(mixed, model)
    assert not result.ok
    assert "1 of 6 cells in X are on another scale than the others (counts)" in result.text


def test_text_and_json_have_the_same_findings(model: str) -> None:
    result = c2s.check(cells(), model)
    parsed = json.loads(result.to_json())
    assert parsed["ok"] is True
    assert parsed["n_cells"] == 6
    assert str(result) == result.text
    assert result._repr_html_().count("<tr>") == len(result.findings)
    for finding in parsed["findings"]:
        assert finding["text"] in result.text
    assert result.text.splitlines()[-1].startswith("ready")


def test_a_file_in_eleven_lines(tmp_path: Path) -> None:
    values = np.random.default_rng(0).poisson(2.0, (30, 90)).astype(np.float32)
    adata = anndata.AnnData(sp.csr_matrix(values), var=pd.DataFrame(index=list(c2s.model.resolve("nano").genes)[:90]))
    adata.obs_names = [f"{'ACGT' * 3}{number}" for number in range(30)]
    adata.obs["pert"] = ["control", "IFN-beta", None] * 10
    adata.layers["normalised"] = adata.X
    adata.write_h5ad(tmp_path / "cells.h5ad")
    result = c2s.check(tmp_path / "cells.h5ad", perturbation_column="pert")
    topics = [finding.topic for finding in result.findings]
    compared = ["known genes", "cells like those of the training"]
    assert topics == ["file", "genes", "scale", "organism", *compared, "sentences", "perturbations", "expected"]
    assert len(result.text.splitlines()) == 11
    assert line(result, "file").text == (
        "cells.h5ad: AnnData, 30 cells × 90 features; X is read (there is also layer='normalised')"
    )
    assert "controls may be 'control'" in line(result, "perturbations").text


def test_nothing_is_changed(model: str) -> None:
    adata = cells()
    before = adata.copy()
    c2s.check(adata, model)
    assert (adata.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert adata.uns == before.uns


def test_file_and_object_agree(model: str, tmp_path: Path) -> None:
    adata = cells()
    adata.write_h5ad(tmp_path / "in.h5ad")
    timing = {"seconds_to_write_sentences", "expected_seconds_on_cpu", "format"}
    numbers = [c2s.check(data, model).numbers for data in (adata, tmp_path / "in.h5ad", str(tmp_path / "in.h5ad"))]
    plain = [{key: value for key, value in part.items() if key not in timing} for part in numbers]
    assert plain[0] == plain[1] == plain[2]


def test_examples_of_unknown_genes(tmp_path: Path) -> None:
    names = [f"GENE{number}" for number in range(3000)]
    adata = anndata.AnnData(sp.csr_matrix(np.resize([1.0, 2.0], (2, 3000))), var=pd.DataFrame(index=names))
    known = Model(name="known", path="nowhere/at-all", metadata={"genes": names[:-1]})
    text = line(c2s.check(adata, known), "known genes").text
    assert text.startswith("100.0% of the expressed counts are of genes of known (2,999 of 3,000 genes)")
    assert text.endswith("it lacks, for example, GENE2999")


def test_the_organism_and_where_it_was_found() -> None:
    names = [f"{'GENE' if number % 2 else 'Gene'}{number}" for number in range(40)]
    adata = anndata.AnnData(sp.csr_matrix(np.resize([1.0, 2.0, 5.0], (4, 40))), var=pd.DataFrame(index=names))
    known = Model(name="known", path="nowhere/at-all", metadata={"genes": names})

    def organism(**options: Any) -> tuple[str, str, str]:
        result = c2s.check(adata, known, **options)
        assert not [
            finding for finding in result.findings if "organism" in finding.text and finding.topic == "doubtful"
        ]
        found = line(result, "organism")
        return found.level, found.text, result.numbers["organism_source"]

    level, text, source = organism()
    assert (level, source) == ("warning", "assumed")
    assert text.startswith("Homo sapiens, assumed: neither obs, uns nor the names of the genes tell it")
    assert organism(organism="mouse") == ("ok", "Mus musculus, from organism=", "organism=")
    adata.uns["species"] = "mouse"
    assert organism()[:2] == ("ok", "Mus musculus, from uns['species']")
    adata.obs["Species"] = ["mouse", "human", "mouse", "mouse"]
    assert organism()[1] == "Homo sapiens (1 cell) and Mus musculus (3 cells), from obs['Species']"
    del adata.obs["Species"], adata.uns["species"]
    adata.var_names = [f"mm10___{name}" for name in names]
    assert organism()[1].startswith("Mus musculus, from the genome of the genes")


def test_genes_that_the_model_lacks_are_listed_once_and_strongest_first() -> None:
    names = [f"Gene{number}" for number in range(3000)]
    values = np.resize([1.0, 2.0, 1.0], (2, 3000))
    values[:, 7], values[:, 3] = 900, 500
    adata = anndata.AnnData(sp.csr_matrix(values), var=pd.DataFrame(index=names))
    lacking = Model(name="lacking", path="nowhere/at-all", metadata={"genes": [*names[:3], *names[9:]]})
    result = c2s.check(adata, lacking)
    found = line(result, "known genes")
    assert found.level == "warning"
    assert "strong genes that it lacks: Gene7 (" in found.text
    assert not [finding for finding in result.findings if "that the model knows" in finding.text]
    unknown = result.numbers["genes"]["unknown_to_model"]
    assert unknown[:2] == ["Gene7", "Gene3"]
    assert sorted(unknown) == names[3:9]


# -- errors


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: with_values(assign(-1)), "must not be negative"),
        (lambda: with_values(assign(np.inf)), "must be finite"),
        (lambda: with_values(assign(0, slice(None), slice(None))), "none of the 6 cells has an expressed gene"),
        (lambda: cells()[:0].copy(), "0 cells"),
        (lambda: cells(genes=[f"xyz{number}" for number in range(40)]), "can write none of the 40 genes"),
        (lambda: "nowhere.h5ad", "there is no file nowhere.h5ad"),
        (lambda: 3, "expected AnnData or the path"),
    ],
)
def test_errors_are_reported_and_not_raised(model: str, make: Any, words: str) -> None:
    result = c2s.check(make(), model)
    assert not result.ok
    assert words in result.text
    assert result.text.endswith("mend the errors above first")
    assert json.loads(result.to_json())["ok"] is False


@pytest.mark.parametrize("options", [{"layer": "x"}, {"use_raw": True}, {"perturbation_column": "x"}, {"symbols": "x"}])
def test_missing_columns_and_layers(model: str, options: dict[str, Any]) -> None:
    result = c2s.check(cells(), model, **options)
    assert not result.ok
    assert not result.text.startswith("ERROR    input        '")  # no repr of a KeyError


def test_input_without_errors_can_be_embedded(model: str) -> None:
    adata = cells()
    assert c2s.check(adata, model).ok
    c2s.tl.embed(adata, model=model, progress=False)


# -- warnings


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_warnings(model: str) -> None:
    def change(dense: Any) -> None:
        dense[2] = 0
        dense[3, 0] = np.nan

    adata = with_values(change)
    adata.obs_names = ["c0", "c0", "c2", "c3", "c4", "c5"]
    adata.uns["organism"] = "mouse"
    result = c2s.check(adata, model)
    assert result.ok
    doubts = {finding.text for finding in result.findings if finding.level == "warning"}
    for words in (
        "1 of 6 cells have no expressed gene that can be written (for example ['c2'])",
        "1 missing values (NaN) in X were read as not expressed",
        f"for example cell 'c3' has NaN for {GENES[0]}",
        "1 cells have the name of an earlier cell, such as 'c0'",
        "tiny was not trained on cells of ['Mus musculus']",
    ):
        assert any(words in doubt for doubt in doubts), (words, doubts)
    assert "look at the" in result.text.splitlines()[-1]


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_warnings_of_a_verb_are_those_of_the_check(model: str, caplog: pytest.LogCaptureFixture) -> None:
    def change(dense: Any) -> None:
        dense[:] = np.log1p(dense * 1.37)
        dense[2] = 0
        dense[3, 0] = np.nan

    adata = with_values(change)
    adata.uns["organism"] = "mouse"
    caplog.set_level("WARNING", logger="cell2sen")
    c2s.tl.embed(adata, model=model, backend="fake", progress=False)
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) >= 3
    caplog.clear()
    result = c2s.check(adata, model)
    assert not caplog.records  # they are findings, and not printed besides
    doubtful = [finding.text for finding in result.findings if finding.topic == "doubtful"]
    assert sorted(doubtful) == sorted(logged)


def test_cells_at_the_limit_of_genes(model: str) -> None:
    adata = cells()
    result = c2s.check(adata, model, max_genes=5)
    assert result.numbers["n_cells_at_limit"] == 6
    assert "6 of 6 cells reach the limit of 5" in line(result, "sentences").text
    generator = np.random.default_rng(0)
    wide = anndata.AnnData(sp.csr_matrix(generator.poisson(5, (3, 50)).astype(np.float32)), var=adata.var)
    tokens = c2s.check(wide, model, max_genes=50).numbers
    assert tokens["context"] == 512
    assert tokens["n_cells_cut"] == 0


def test_cells_longer_than_the_context(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "short")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    result = c2s.check(cells(), str(path))
    assert result.ok
    assert result.numbers["n_cells_cut"] > 0
    assert line(result, "context").level == "warning"
    assert "longer than the context of 64 tokens and lose their weakest genes" in line(result, "context").text


def test_perturbations_are_counted(model: str) -> None:
    adata = cells()
    adata.obs["pert"] = ["IFN-beta", None, "IL-6", "", "IFN-beta", float("nan")]
    result = c2s.check(adata, model, perturbation_column="pert")
    assert "2 different, such as 'IFN-beta', 'IL-6'; 3 cells have none" in line(result, "perturbations").text


def test_checkpoint_that_is_not_on_this_machine() -> None:
    result = c2s.check(cells(), "gemma-2-27b")
    assert not result.ok  # no verb would run
    assert "cell2sen fetch vandijklab/C2S-Scale-Gemma-2-27B" in line(result, "model").text
    assert "estimated" in line(result, "expected").text


def test_no_weights_are_loaded(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("cell2sen.backends.load", refuse)
    assert c2s.check(cells(), model).ok
    with pytest.raises(AssertionError, match="a model was loaded"):
        c2s.tl.embed(cells(), model=model, progress=False)


def test_real_cells(shared_data: Path, model: str) -> None:
    result = c2s.check(shared_data / "pancreas_human_mouse_328x12474.h5ad")
    assert result.ok
    assert result.numbers["organisms"] == ["Homo sapiens", "Mus musculus"]
