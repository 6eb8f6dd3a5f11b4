"""Response to IFN-beta in Kang et al., cell types or donors left out, judged by `evaluate` beside the simple methods.

    python benchmarks/tables.py --data-dir FOLDER --leave-out type|donor [--out FILE]

Of a left-out type all treated cells are unknown; of a left-out donor all cells, so that a donor stands for a patient
who was not part of the training. Responses are measured in the other cells, as `cell2sen train` does at its end (the
network has no share in them and is not trained here), in each type, and for donors also in each type of each donor.
Beside them: similar_contexts and ridge_on_control, learned from the same contexts; the mean change of the other
types; for donors the mean change of the same type in the training donors; the ceiling, one half of the treated cells
against the other. Groups have at least 10 treated cells and controls. Scores are those of all genes, with the change
measured from all controls. Prints a table and one JSON line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import cell2sen as c2s
from cell2sen.inference.session import load_model
from cell2sen.model import resolve
from cell2sen.training import read_config
from cell2sen.training.config.data import Split
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.fit_responses import fit_responses

HERE = Path(__file__).parent.parent
TYPES = ("CD14+ Monocytes", "CD4 T cells", "B cells", "NK cells")
DONORS = ("101", "1015", "107")
MIN_CELLS = 10


def measured(data_dir: Path, out: Path, split: Split, context: tuple[str, ...]) -> Path:
    """The embedded model with the responses of the cells that are not left out alone, in `out`."""
    shutil.copytree(resolve().path, out)
    files = read_config(HERE / "recipes" / "nano.yaml").data.files
    [kang] = [file for file in files if file.file.startswith("kang_ifnb")]
    assert kang.perturbation is not None
    file = dataclasses.replace(
        kang, tasks={"perturb": 1.0}, split=split, perturbation=dataclasses.replace(kang.perturbation, context=context)
    )
    cells = TrainingCells(file, data_dir, resolve(out).recipe.case)
    cells.keep_genes(load_model({"model": str(out), "progress": False}).known_genes)
    fit_responses(out, [cells])
    return out


def scores(predicted: ad.AnnData, real: ad.AnnData, train: ad.AnnData, context: list[str]) -> pd.DataFrame:
    """pearson_delta of all methods, groups in rows; "METHOD, disjoint" is that with disjoint halves of the controls."""
    found = c2s.evaluate(
        predicted, real, train=train, perturbation="condition", context=context,
        metrics=["pearson_delta", "pearson_delta_disjoint"], resamples=0, leaks="report",
    ).scores  # fmt: skip
    found = found[found["group"] != "all"]
    disjoint = found["metric"] == "pearson_delta_disjoint"
    found = found.assign(method=found["method"].where(~disjoint, found["method"] + ", disjoint"))
    wide = found.pivot(index="group", columns="method", values="value")
    return wide.set_axis([name.split(" | ")[1] for name in wide.index])


def predicted_cells(control: ad.AnnData, model: Path) -> ad.AnnData:
    """Response of the controls."""
    return c2s.tl.perturb(control, "IFN-beta", model=str(model), control=(), readout="expected", progress=False)


def type_rows(adata: ad.AnnData, data_dir: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Scores of each left-out type."""
    rows = {}
    for kind in TYPES:
        own = (adata.obs["cell_type"] == kind).to_numpy()
        split = Split(by="cell_type", values=(kind,), perturbed_only=True, test=0.0)
        model = measured(data_dir, folder / kind, split, ("cell_type",))
        real, train = adata[own].copy(), adata[~own].copy()
        predicted = predicted_cells(real[real.obs["condition"] == "control"].copy(), model)
        found = scores(predicted, real, train, ["cell_type"]).iloc[0]
        names = ["prediction", "similar_contexts", "ridge_on_control", "mean_of_perturbed", "mean_shift", "ceiling"]
        rows[kind] = {name: float(found[name]) for name in (*names, *(f"{name}, disjoint" for name in names))}
    return rows


def _smaller_side(rows: pd.Series, treated: np.ndarray) -> int:
    """Number of treated cells or of controls, whichever are fewer."""
    return int(min((rows & treated).sum(), (rows & ~treated).sum()))


def donor_rows(adata: ad.AnnData, data_dir: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Scores of each left-out donor and type."""
    rows = {}
    treated = (adata.obs["condition"] == "IFN-beta").to_numpy()
    for donor in DONORS:
        own = (adata.obs["donor"].astype(str) == donor).to_numpy()
        kinds = [kind for kind in TYPES if _smaller_side(own & (adata.obs["cell_type"] == kind), treated) >= MIN_CELLS]
        kept = own & adata.obs["cell_type"].isin(kinds).to_numpy()
        real, train = adata[kept].copy(), adata[~own].copy()
        control = real[real.obs["condition"] == "control"].copy()
        split = Split(by="donor", values=(donor,), test=0.0)
        parts = {}
        for name, context in (("by type", ("cell_type",)), ("by type and donor", ("cell_type", "donor"))):
            model = measured(data_dir, folder / f"{donor} {name}", split, context)
            parts[name] = scores(predicted_cells(control, model), real, train, ["cell_type", "donor"])
        of_type = scores(predicted_cells(control, model), real, train, ["cell_type"])
        for kind in kinds:
            both = parts["by type and donor"].loc[kind]
            rows[f"{donor}, {kind}"] = {
                "prediction": float(parts["by type"].loc[kind, "prediction"]),
                "prediction, by type and donor": float(both["prediction"]),
                "similar_contexts": float(both["similar_contexts"]),
                "ridge_on_control": float(both["ridge_on_control"]),
                "mean change of the type": float(of_type.loc[kind, "mean_shift"]),
                "mean_shift": float(both["mean_shift"]),
                "ceiling": float(both["ceiling"]),
            }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--leave-out", choices=["type", "donor"], required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    adata = ad.read_h5ad(arguments.data_dir / "kang_ifnb_2000x9015.h5ad")
    with tempfile.TemporaryDirectory() as folder:
        data_dir = arguments.data_dir
        if arguments.leave_out == "donor":  # cells of an unknown donor may be those of the left-out one
            adata = adata[~adata.obs["donor"].astype(str).isin(["", "nan"]).to_numpy()].copy()
            data_dir = Path(folder) / "data"
            data_dir.mkdir()
            adata.write_h5ad(data_dir / "kang_ifnb_2000x9015.h5ad")
        rows = {"type": type_rows, "donor": donor_rows}[arguments.leave_out](adata, data_dir, Path(folder))
    table = pd.DataFrame(rows).T
    table.loc["mean"] = table.mean()
    print(table.round(3).to_string())
    line = json.dumps(
        {"leave_out": arguments.leave_out, "scores": {key: row.round(4).to_dict() for key, row in table.iterrows()}}
    )
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")
    assert np.isfinite(table.loc["mean", "prediction"])


if __name__ == "__main__":
    main()
