"""Commands with files of all containers: equal results, and one line for those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import pandas as pd
import pytest
from cells import LABELS, cells
from command import Run
from containers import write_legacy, write_loom, write_mtx, write_mudata, write_tenx, zip_folder


def adata() -> anndata.AnnData:
    """Six cells whose names are barcodes."""
    made = cells()
    made.obs_names = [f"ACGTACGT{base}-1" for base in ("AA", "CC", "GG", "TT", "AC", "GT")]
    made.obs["kind"] = pd.Categorical(["a", "b"] * 3)
    made.obs = made.obs[["kind"]]
    return made


def zipped(path: Path) -> None:
    adata().write_zarr(path.with_name("s"))
    zip_folder(path.with_name("s"), path, "s.zarr")


def genes_in_obs(path: Path) -> None:
    frame = adata().to_df().T
    frame.index.name = "gene"
    frame.to_csv(path, sep="\t")


CONTAINERS: dict[str, Callable[[Path], None]] = {
    "old.h5ad": lambda path: write_legacy(path, adata()),
    "tenx.h5": lambda path: write_tenx(path, adata()),
    "folder": lambda path: write_mtx(path, adata()),
    "x.loom": lambda path: write_loom(path, adata()),
    "x.h5mu": lambda path: write_mudata(path, {"prot": adata()[:, :3].copy(), "rna": adata()}),
    "store": lambda path: adata().write_zarr(path),
    "x.zip": zipped,
    "x.tsv": genes_in_obs,
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_command_reads_each_container(name: str, run: Run, model: str, tmp_path: Path) -> None:
    CONTAINERS[name](tmp_path / name)
    adata().write_h5ad(tmp_path / "plain.h5ad")
    options = ["-m", model, "-q"]
    for verb, out, more in (
        ("sentences", "out.txt", ["-q"]),
        ("annotate", "out.csv", ["--labels", "; ".join(LABELS), *options]),
    ):
        texts = []
        for file in (name, "plain.h5ad"):
            done = run(verb, file, out, *more)
            assert done.code == 0, done.err
            texts.append((tmp_path / out).read_text())
        assert texts[0] == texts[1]
    assert run("check", name, "-m", model).code == 0
    assert run("generate", "cells.h5ad", "-t", "B cell", "-n", 1, "--genes", name, "--n-genes", 4, *options).code == 0
    assert run("embed", name, "out.h5ad", *options).code == 0
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert written.obsm["X_cell2sen"].shape == (6, 32)
    assert (written.X != adata().X).nnz == 0


def test_a_layer_of_a_file_without_X(run: Run, model: str, tmp_path: Path) -> None:
    anndata.AnnData(obs=adata().obs, var=adata().var, layers={"counts": adata().X}).write_h5ad(tmp_path / "x.h5ad")
    adata().write_h5ad(tmp_path / "plain.h5ad")
    options = ["--labels", "; ".join(LABELS), "-m", model, "-q"]
    assert run("annotate", "x.h5ad", "out.csv", "--layer", "counts", *options).code == 0
    assert run("annotate", "plain.h5ad", "plain.csv", *options).code == 0
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "plain.csv").read_text()
    for verb, out in (("embed", "out.npy"), ("sentences", "out.txt")):
        done = run(verb, "x.h5ad", out, *(["-m", model] if verb == "embed" else []))
        assert (done.code, "there is --layer 'counts'" in done.err) == (1, True), done.err


def test_evaluate_reads_the_same_containers(run: Run, model: str, tmp_path: Path) -> None:
    source = cells(24)
    source.obs["cell_type"] = pd.Categorical([LABELS[row % 2] for row in range(24)])
    source.write_h5ad(tmp_path / "x.h5ad")
    source.write_zarr(tmp_path / "store")
    write_mudata(tmp_path / "x.h5mu", {"rna": source, "prot": source[:, :3].copy()})
    assert run("annotate", "x.h5ad", "out.h5ad", "--labels", "; ".join(LABELS), "-m", model, "-q").code == 0
    outputs = [run("evaluate", "out.h5ad", real, "--json", "-q") for real in ("x.h5ad", "store", "x.h5mu/rna")]
    assert [done.code for done in outputs] == [0, 0, 0], outputs[0].err
    lines = [[line for line in done.out.splitlines() if '"file' not in line and "x." not in line] for done in outputs]
    assert lines[0][:5] == lines[1][:5] == lines[2][:5]


UNREADABLE = {
    "empty.h5ad": b"",
    "page.h5ad": b"<!DOCTYPE html><html>",
    "pointer.h5ad": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "cells.rds": b"\x1f\x8b\x08\x00",
    "cells.pkl": b"\x80\x04\x95",
    "half.h5ad": b"\x89HDF\r\n\x1a\n" + bytes(200),
    "binary": bytes(range(256)),
}


@pytest.mark.parametrize("name", [*UNREADABLE, "several.h5mu", "other.h5", "missing.h5ad", "directory"])
@pytest.mark.parametrize(
    "verb", ["check", "sentences", "embed", "annotate", "perturb", "generate", "train", "evaluate"]
)
def test_unreadable_inputs_are_one_clear_line(name: str, verb: str, run: Run, model: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name in UNREADABLE:
        path.write_bytes(UNREADABLE[name])
    elif name == "several.h5mu":
        write_mudata(path, {"a": adata(), "b": adata()})
    elif name == "other.h5":
        with h5py.File(path, "w") as file:
            file["x"] = [1]
    elif name == "directory":
        path.mkdir()
    before = sorted(file.name for file in tmp_path.iterdir())
    arguments = {
        "check": [name],
        "sentences": [name, "out.txt"],
        "embed": [name, "out.h5ad", "-m", model],
        "annotate": [name, "out.csv", "--labels", "; ".join(LABELS), "-m", model],
        "perturb": [name, "out.h5ad", "-p", "IFN-beta", "-m", model],
        "generate": ["out.h5ad", "-t", "B cell", "--genes", name, "-m", model],
        "train": [name, "trained", "--cell-type", "kind"],
        "evaluate": [name, name],
    }[verb]
    done = run(verb, *arguments)
    assert done.code == 1
    assert name in done.out + done.err
    assert "Traceback" not in done.err
    if verb != "check":
        assert len([line for line in done.err.strip().splitlines() if line]) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == before
