"""Results in files, a summary in JSON on stdout, messages on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from cells import LABELS, cells
from command import Run, digest, names

from cell2sen import tl
from cell2sen.cli.predict import _menus

CHOICE = ";".join(LABELS)


def test_embed(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    before = digest(file)
    done = run("embed", file, "out.h5ad", "--model", model, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == {"file": "out.h5ad", "n_cells": 6, "n_dimensions": 32, "key": "X_cell2sen"}
    assert "%|" not in done.err  # no bar in a pipe
    assert digest(file) == before
    written, expected = anndata.read_h5ad(tmp_path / "out.h5ad"), anndata.read_h5ad(file)
    tl.embed(expected, model=model, progress=False)
    np.testing.assert_allclose(written.obsm["X_cell2sen"], expected.obsm["X_cell2sen"], rtol=1e-5, atol=1e-6)
    assert written.uns["cell2sen"]["embed"]["model"]["name"] == "tiny"
    vectors = run("embed", file, "out.npy", "--model", model, "--quiet")
    assert (vectors.code, vectors.out) == (0, "")
    assert vectors.err == ""
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), written.obsm["X_cell2sen"])
    assert names(tmp_path) == {"in.h5ad", "out.h5ad", "out.npy"}


@pytest.mark.slow
def test_everything_else_in_the_file_stays(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    assert run("embed", file, "embedded.h5ad", "-m", model, "-q").code == 0
    assert run("annotate", "embedded.h5ad", "annotated.h5ad", "-m", model, "-q", "--labels", CHOICE).code == 0
    assert run("annotate", "annotated.h5ad", "again.h5ad", "-m", model, "-q", "--labels", "T cell; B cell").code == 0
    before, after = anndata.read_h5ad(file), anndata.read_h5ad(tmp_path / "again.h5ad")
    assert (before.X != after.X).nnz == 0
    assert (before.layers["counts"] != after.layers["counts"]).nnz == 0
    assert (before.raw.X != after.raw.X).nnz == 0
    assert after.uns["kept"]["numbers"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(after.obsm["X_other"], before.obsm["X_other"])
    pd.testing.assert_frame_equal(after.obs[before.obs.columns], before.obs)
    assert set(after.uns["cell2sen"]) == {"embed", "annotate"}
    assert set(after.obs["cell2sen_cell_type"]) <= {"T cell", "B cell"}


def test_what_is_no_part_of_anndata_is_copied(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    with h5py.File(file, "r+") as opened:
        opened["of_another_tool"] = np.arange(4)
        del opened["obsm"]
    assert run("embed", file, "out.h5ad", "-m", model, "-q").code == 0
    with h5py.File(tmp_path / "out.h5ad") as opened:
        assert opened["of_another_tool"][:].tolist() == [0, 1, 2, 3]
        assert opened["obsm/X_cell2sen"].shape == (6, 32)


def test_annotate_to_a_table(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("\n".join([*LABELS, "", ""]))
    done = run(
        "annotate", file, "out.csv", "-m", model, "--labels-file", "labels.txt", "--threshold", "0.5", "--json", "-q"
    )
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "out.csv", index_col="cell")
    assert table.index.tolist() == [f"c{row}" for row in range(6)]
    assert set(table.columns) == {"cell2sen_cell_type", "cell2sen_cell_type_score"}
    assert json.loads(done.out)["counts"] == table["cell2sen_cell_type"].value_counts().to_dict()
    both = run("annotate", file, "out.csv", "-m", model, "--labels-file", "labels.txt", "--labels", CHOICE)
    assert (both.code, "not both" in both.err) == (1, True)


def test_annotate_takes_the_labels_of_the_model(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    assert run("annotate", file, "out.h5ad", "-m", model, "-q").code == 0
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.uns["cell2sen"]["annotate"]["labels"].tolist() == LABELS


def test_annotate_shows_its_labels_and_the_agreement_with_given_ones(run: Run, model: str, tmp_path: Path) -> None:
    adata = cells(12)
    adata.obs["given"] = ["B cells", "NK cell", None, "doublet", "hepatocyte", "CD4 T"] * 2
    adata.write_h5ad(tmp_path / "given.h5ad")
    done = run("annotate", "given.h5ad", "out.csv", "-m", model, "--compare", "given")
    assert done.code == 0, done.err
    assert f"chosen among 3 labels: {', '.join(map(repr, LABELS))}" in done.err
    table = pd.read_csv(tmp_path / "out.csv", index_col="cell")["cell2sen_cell_type"].tolist()
    same = sum(table[row] == name for row, name in ((0, "B cell"), (6, "B cell"), (1, "NK cell"), (7, "NK cell")))
    assert f"{same / 4:.1%} of 4 cells have the label of obs['given']" in done.err
    assert "not among the labels to choose from, and not counted: 'CD4 T', 'hepatocyte'" in done.err
    assert "4 cells without one of the two labels are not counted" in done.err
    counted = json.loads(run("annotate", "given.h5ad", "o.csv", "-m", model, "--compare", "given", "--json", "-q").out)
    assert counted["comparison"]["share"] == same / 4
    assert counted["labels"] == LABELS
    refused = run("annotate", "given.h5ad", "no.csv", "-m", model, "--compare", "x")
    assert (refused.code, "no column 'x' for --compare; available: ['donor', 'given']" in refused.err) == (1, True)
    assert not (tmp_path / "no.csv").exists()


def test_annotate_samples(run: Run, model: str, tmp_path: Path) -> None:
    adata = cells(24)
    adata.write_h5ad(tmp_path / "donors.h5ad")
    options = ["--task", "tissue", "--sample-by", "donor", "--n-cells", 6, "--labels", "blood; lung", "-m", model, "-q"]
    assert run("annotate", "donors.h5ad", "out.csv", *options).code == 0
    table = pd.read_csv(tmp_path / "out.csv", index_col="cell")
    samples = table.groupby("cell2sen_tissue_sample")["cell2sen_tissue"]
    assert samples.size().tolist() == [6] * 4
    assert (samples.nunique() == 1).all()
    assert run("annotate", "donors.h5ad", "out.h5ad", *options).code == 0
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["cell2sen_tissue_sample"].tolist() == table["cell2sen_tissue_sample"].tolist()
    refused = run("annotate", "donors.h5ad", "no.csv", "--task", "tissue", "--labels", "blood; lung", "-m", model)
    assert (refused.code, "that define them (--sample-by), such" in refused.err) == (1, True)


def test_annotate_several_columns_with_context(run: Run, model: str, tmp_path: Path) -> None:
    adata = cells(6)
    adata.write_h5ad(tmp_path / "donors.h5ad")
    menu = ["--labels", "20; 45.5; 70", "--task", "number:age", "-m", model, "-q"]
    assert run("annotate", "donors.h5ad", "out.h5ad", *menu, "--context", "donor").code == 0
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert {"cell2sen_age", "cell2sen_age_low", "cell2sen_age_high"} <= set(written.obs)
    assert written.obsm["cell2sen_age_probabilities"].columns.tolist() == ["20", "45.5", "70"]
    assert written.uns["cell2sen"]["annotate"]["context"]["slots"].tolist() == ["donor"]
    done = run("annotate", "donors.h5ad", "out.csv", *menu, "--context", "tissue=lung", "--json")
    assert set(json.loads(done.out)["counts"]) == {"25%", "50%", "75%"}
    mixed = run("annotate", "donors.h5ad", "no.csv", *menu, "--context", "tissue=lung", "--context", "donor")
    assert (mixed.code, "not both" in mixed.err) == (1, True)
    refused = run("annotate", "donors.h5ad", "no.csv", "--task", "age", "-m", model)
    assert (refused.code, "number:COLUMN" in refused.err) == (1, True)


def test_annotate_labels_of_several_tasks(run: Run, model: str, tmp_path: Path) -> None:
    cells(6).write_h5ad(tmp_path / "donors.h5ad")
    tasks = ["--task", "label:disease", "--task", "number:age", "-m", model, "-q"]
    menus = ["--labels", "disease=flu; none", "--labels", "number:age=20; 70"]
    assert run("annotate", "donors.h5ad", "out.h5ad", *tasks, *menus).code == 0
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obsm["cell2sen_disease_probabilities"].columns.tolist() == ["flu", "none"]
    assert written.obsm["cell2sen_age_probabilities"].columns.tolist() == ["20", "70"]
    refused = run("annotate", "donors.h5ad", "no.csv", *tasks, "--labels", "flu; none")
    assert (refused.code, "--labels takes COLUMN=LABEL; LABEL, found 'flu; none'" in refused.err) == (1, True)


def test_perturb(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    column = ["-m", model, "--perturbation-column", "perturbation", "--n-genes", 5, "--json"]
    unknown = run("perturb", file, "out.h5ad", *column)
    assert unknown.code == 1
    assert "not trained on the perturbations 'IL-6'" in unknown.err
    assert "Predict all the same with --force" in unknown.err
    done = run("perturb", file, "out.h5ad", *column, "--force")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert any("was not trained on the perturbations 'IL-6'" in text for text in summary.pop("warnings"))
    assert (summary["file"], summary["n_cells"]) == ("out.h5ad", 3)
    assert [(of["perturbation"], of["n_cells"]) for of in summary["perturbations"]] == [("IFN-beta", 2), ("IL-6", 1)]
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obs["perturbation"].tolist() == ["IFN-beta", "IFN-beta", "IL-6"]
    assert set(written.layers) == {"control", "delta"}
    for wrong, words in (
        ([], "name the perturbation (--perturbation), or the column"),
        (["-p", "IFN-beta", "--perturbation-column", "perturbation"], "no control cells"),
        (["-p", "IFN-beta", "--control", "ctrl", "--all-cells"], "either --control or --all-cells"),
    ):
        refused = run("perturb", file, "no.h5ad", "-m", model, *wrong)
        assert refused.code == 1
        assert words in refused.err
    menu = run("perturb", file, "no.h5ad", "-m", model, "--perturbation-column", "pert")
    assert "no column 'pert'; available: ['donor', 'perturbation']" in menu.err
    assert names(tmp_path) == {"in.h5ad", "out.h5ad"}


def test_generate(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    done = run("generate", "out.h5ad", "-t", "B cell", "-t", "NK cell", "-n", 2, "--n-genes", 4, "-m", model, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["n_cells"] == 4
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obs["cell_type"].tolist() == ["B cell"] * 2 + ["NK cell"] * 2
    same = run("generate", "two.h5ad", "-t", "B cell", "-n", 1, "--genes", file, "--n-genes", 4, "-m", model, "-q")
    assert same.code == 0, same.err
    assert run("generate", "in.h5ad", "-t", "B cell", "--genes", file, "-m", model).code == 1
    adata = anndata.read_h5ad(file)
    anndata.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.X}).write_h5ad(tmp_path / "no_x.h5ad")
    options = ("-t", "B cell", "-n", 1, "--n-genes", 4, "-m", model, "-q")
    layer = run("generate", "three.h5ad", *options, "--genes", tmp_path / "no_x.h5ad", "--layer", "counts")
    assert layer.code == 0, layer.err
    two, three = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("two", "three"))
    np.testing.assert_array_equal(three.X.toarray(), two.X.toarray())
    assert "describe the file of --genes" in run("generate", "four.h5ad", *options, "--layer", "counts").err


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".txt"])
def test_sentences(run: Run, file: Path, tmp_path: Path, suffix: str) -> None:
    out, columns = (
        f"out{suffix}",
        ["cell_sentence", "fit_parameters", "organism", "perturbations", "cell_name", "donor"],
    )
    options = ["--perturbation-column", "perturbation", "--keep", "donor", "--max-genes", 7]
    done = run("sentences", file, out, *options, "--json", "-q")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary.pop("warnings") == ["obs['perturbation']: 1 cells with '' were read as no perturbation"]
    assert summary == {"file": out, "n_cells": 6, "mean_genes": 7.0}
    assert done.err == ""
    if suffix == ".txt":
        lines = (tmp_path / out).read_text().splitlines()
    else:
        read: dict[str, Callable[[Path], Any]] = {
            ".parquet": pd.read_parquet, ".jsonl": lambda path: pd.read_json(path, lines=True), ".csv": pd.read_csv
        }  # fmt: skip
        table = read[suffix](tmp_path / out)
        assert list(table.columns) == columns
        assert table["perturbations"].isna().tolist() == [False, True, False, True, False, True]
        lines = table["cell_sentence"].tolist()
    assert [len(line.split()) for line in lines] == [7] * 6


@pytest.mark.slow
def test_zarr(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    anndata.read_h5ad(file).write_zarr(tmp_path / "in.zarr")
    assert run("embed", "in.zarr", "zarr.npy", "-m", model, "-q").code == 0
    assert run("embed", file, "h5ad.npy", "-m", model, "-q").code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "zarr.npy"), np.load(tmp_path / "h5ad.npy"))
    assert run("annotate", "in.zarr", "out.h5ad", "-m", model, "-q", "--labels", CHOICE).code == 0
    assert "cell2sen_cell_type" in anndata.read_h5ad(tmp_path / "out.h5ad").obs


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_names_of_files_and_texts(run: Run, file: Path, model: str, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "labels.txt").write_text("B cell\r\n\r\nNK cell\r\n# a comment\r\n", encoding=encoding)
    assert run("annotate", file, "out.h5ad", "-m", model, "-q", "--labels-file", "labels.txt").code == 0
    labels = ["B cell", "NK cell"]
    assert anndata.read_h5ad(tmp_path / "out.h5ad").uns["cell2sen"]["annotate"]["labels"].tolist() == labels
    options = ["-n", 1, "--n-genes", 4, "-m", model, "-q"]
    for given in (["-t", "B cell; NK cell"], ["-t", "B cell", "-t", "NK cell"], ["--cell-types-file", "labels.txt"]):
        assert run("generate", "drawn.h5ad", *given, *options).code == 0
        assert anndata.read_h5ad(tmp_path / "drawn.h5ad").obs["cell_type"].tolist() == labels
    assert "either --cell-type or --cell-types-file" in run("generate", "no.h5ad", *options).err


def test_perturb_the_controls_of_a_mixed_file(run: Run, model: str, tmp_path: Path) -> None:
    adata = cells()
    adata.obs["condition"] = ["ctrl", "IL-6"] * 3
    adata.write_h5ad(tmp_path / "mixed.h5ad")
    options = ["--perturbation-column", "condition", "--n-genes", 5, "-m", model, "-q"]
    assert run("perturb", "mixed.h5ad", "out.h5ad", "-p", "IFN-beta", "--control", "ctrl", *options).code == 0
    assert anndata.read_h5ad(tmp_path / "out.h5ad").obs_names.tolist() == ["c0", "c2", "c4"]
    found = run("perturb", "mixed.h5ad", "found.h5ad", "-p", "IFN-beta", "-m", model)
    assert anndata.read_h5ad(tmp_path / "found.h5ad").obs_names.tolist() == ["c0", "c2", "c4"]
    assert "not of 'IL-6'. --all-cells predicts all cells" in found.err
    assert run("perturb", "mixed.h5ad", "all.h5ad", "-p", "IFN-beta", "--all-cells", "-m", model, "-q").code == 0
    assert anndata.read_h5ad(tmp_path / "all.h5ad").n_obs == 6
    assert run("perturb", "mixed.h5ad", "own.h5ad", *options, "--force").code == 0
    assert anndata.read_h5ad(tmp_path / "own.h5ad").obs["perturbation"].tolist() == ["IL-6"] * 3


def test_a_device_that_is_not_there_is_one_line(run: Run, file: Path, model: str) -> None:
    done = run("embed", file, "no.npy", "-m", model, "--device", "tpu")
    assert (done.code, done.err.strip().count("\n")) == (1, 0)
    assert "no device 'tpu'" in done.err


def test_labels_of_several_columns() -> None:
    joint = ["joint:tissue+age"]
    texts = ["tissue=lung; blood", "age = 20;40", "tissue=skin"]
    assert _menus(texts, joint) == {"tissue": "lung; blood; skin", "age": " 20;40"}
    assert _menus(["sex=f=1; m"], ["label:sex", "label:x"]) == {"sex": "f=1; m"}
    assert _menus(["a=b; c"], ["label:x"]) is None
    assert _menus(None, joint) is None
    with pytest.raises(ValueError, match="takes COLUMN=LABEL; LABEL, found 'lung; blood'"):
        _menus(["lung; blood"], joint)


def test_annotate_a_joint_answer(run: Run, model: str, tmp_path: Path) -> None:
    cells().write_h5ad(tmp_path / "in.h5ad")
    options = ("--labels", "tissue=lung; blood", "--labels", "age=20; 40", "--task", "joint:tissue+number:age")
    done = run("annotate", "in.h5ad", "out.csv", "--model", model, *options, "--json")
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "out.csv", index_col=0)
    keys = ["cell2sen_tissue", "cell2sen_tissue_score", "cell2sen_age", "cell2sen_age_low", "cell2sen_age_high"]
    assert list(table.columns) == keys
    assert set(json.loads(done.out)["results"]) == {"cell2sen_tissue", "cell2sen_age"}
    expected = cells()
    menus = {"tissue": ["lung", "blood"], "age": [20, 40]}
    tl.annotate(expected, menus, task="joint:tissue+number:age", model=model, progress=False)
    np.testing.assert_allclose(table["cell2sen_age"], expected.obs["cell2sen_age"], rtol=1e-4)
