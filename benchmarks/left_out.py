"""Response to IFN-beta of a cell type that was not trained on under IFN-beta, each type left out in turn.

    python benchmarks/left_out.py --data-dir FOLDER [--base DIR] [--types "B cells" ...] [--seeds 0 1 2] [--out FILE]

For each left-out type, the responses of all other types are measured and predict it, without a network. With `--base`,
the result of recipes/nano-base.yaml, which was trained without treated cells, each left-out type also has a training of
its own from there, with the settings of recipes/nano.yaml but without dropout, on the treated and untreated cells of
all other types and its own untreated cells; its model alone is scored, too. Scores compare mean ln(1 + CP10k) over all
genes of the file. Beside them: the change of similar types by ten lines of NumPy, the control mean plus the mean change
of the other types, the control unchanged, and the ceiling (one half of the treated cells against the other). Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scanpy as sc
from scipy.stats import kendalltau

import cell2sen as c2s
from cell2sen.inference.session import load_model
from cell2sen.model import resolve
from cell2sen.training import read_config, train
from cell2sen.training.config.data import LabelNames, Split
from cell2sen.training.examples.cells import TrainingCells
from cell2sen.training.release.fit_responses import fit_responses

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent.parent
TYPES = ("CD14+ Monocytes", "CD4 T cells", "B cells", "NK cells")
#: Treated and untreated cells that a type needs to be part of the mean change of the other types.
MIN_CELLS = 10


def trained(base: Path, data_dir: Path, kind: str, seed: int, out: Path, draws: float) -> Path:
    """Train a model without the treated cells of this type into `out`, and return it."""
    recipe = read_config(HERE / "recipes" / "nano.yaml")
    [kang] = [file for file in recipe.data.files if file.file.startswith("kang_ifnb")]
    split = Split(by="cell_type", values=(kind,), perturbed_only=True, test=0.0)
    file = dataclasses.replace(kang, tasks={"perturb": draws}, split=split)
    config = dataclasses.replace(
        recipe,
        seed=seed,
        data=dataclasses.replace(recipe.data, files=(file,), names=LabelNames()),
        model=dataclasses.replace(recipe.model, start=str(base), dropout=0.0),
        optimiser=dataclasses.replace(recipe.optimiser, learning_rate=2e-3),
        compute=dataclasses.replace(recipe.compute, bf16=False),
        checkpoints=dataclasses.replace(recipe.checkpoints, eval_pairs=40),
        card=dataclasses.replace(recipe.card, score_cells=0),
    )
    train(config, out, base=data_dir, progress=sys.stderr.isatty())
    return out


def measured(data_dir: Path, kind: str, out: Path) -> Path:
    """The embedded model with the responses of all other types alone, in `out`."""
    shutil.copytree(resolve().path, out)
    [kang] = [
        file for file in read_config(HERE / "recipes" / "nano.yaml").data.files if file.file.startswith("kang_ifnb")
    ]
    split = Split(by="cell_type", values=(kind,), perturbed_only=True, test=0.0)
    file = dataclasses.replace(kang, tasks={"perturb": 1.0}, split=split)
    cells = TrainingCells(file, data_dir, resolve(out).recipe.case)
    cells.keep_genes(load_model({"model": str(out), "progress": False}).known_genes)
    fit_responses(out, [cells])
    return out


def predicted_change(
    control: ad.AnnData, genes: list[str], model: Path, seed: int, *, measured: bool = True, n_genes: int | None = None
) -> np.ndarray:
    """Predicted change of each control cell, float32 (cells, genes); 0 for genes that the model cannot write."""
    predicted = c2s.tl.perturb(
        control, "IFN-beta", model=str(model), seed=seed, readout="expected", progress=False, measured=measured,
        n_genes=n_genes,
    )  # fmt: skip
    place = {gene.upper(): number for number, gene in enumerate(genes)}
    change = np.zeros((predicted.n_obs, len(genes)), dtype=np.float32)
    change[:, [place[gene.upper()] for gene in predicted.var_names]] = predicted.layers["delta"].toarray()
    return change


def scores(control: np.ndarray, treated: np.ndarray, change: np.ndarray) -> dict[str, float]:
    """Correlations of a mean change with the true one; overlap and Kendall's tau of the 200 highest genes after it."""
    truth = treated - control
    moved, highest = (truth != 0) | (change != 0), sorted(top(treated))
    return {
        "pearson_change": float(np.corrcoef(change, truth)[0, 1]) if change.any() else 0.0,
        "kendall_change": float(kendalltau(change[moved], truth[moved]).statistic) if change.any() else 0.0,
        "overlap_200": len(top(np.maximum(control + change, 0)) & top(treated)) / 200,
        "kendall_top_200": float(kendalltau((control + change)[highest], treated[highest]).statistic),
    }  # fmt: skip


def top(values: np.ndarray, k: int = 200) -> set[int]:
    """Indices of the `k` highest values."""
    return set(np.argsort(-values, kind="stable")[:k].tolist())


def similar_types(
    means: dict[str, np.ndarray], changes: dict[str, np.ndarray], n: dict[str, int], kind: str
) -> np.ndarray:
    """Changes of the other types, weighted √n · exp(ρ / 0.08) by likeness of the control means; falls as shares."""
    rho = {other: np.corrcoef(means[kind], means[other])[0, 1] for other in changes}
    raw = {other: np.sqrt(n[other]) * np.exp((rho[other] - max(rho.values())) / 0.08) for other in changes}
    total = np.zeros_like(means[kind])
    for other, change in changes.items():
        share = np.divide(change, means[other], out=np.zeros_like(change), where=means[other] > 0)
        total += raw[other] / sum(raw.values()) * np.where(change < 0, share * means[kind], change)
    return total


def measure(adata: ad.AnnData, log: np.ndarray, kind: str, known: Path, models: list[tuple[int, Path]]) -> dict:
    """Scores of one cell type; `log` is ln(1 + CP10k), `models` are (seed, directory)."""
    types = adata.obs["cell_type"].astype(str).to_numpy()
    treated = np.asarray(adata.obs["condition"] == "IFN-beta")
    own, own_control = log[treated & (types == kind)], log[~treated & (types == kind)]
    others = [
        other
        for other in sorted(set(types) - {kind})
        if min((treated & (types == other)).sum(), (~treated & (types == other)).sum()) >= MIN_CELLS
    ]
    means = {other: log[~treated & (types == other)].mean(axis=0) for other in [kind, *others]}
    shifts = {other: log[treated & (types == other)].mean(axis=0) - means[other] for other in others}
    shift = np.mean(list(shifts.values()), axis=0)
    similar = similar_types(means, shifts, {other: int((treated & (types == other)).sum()) for other in others}, kind)
    control = adata[~treated & (types == kind)].copy()
    genes = list(adata.var_names)
    change = predicted_change(control, genes, known, 0)
    alone = [predicted_change(control, genes, path, seed, measured=False) for seed, path in models]
    before, after = own_control.mean(axis=0), own.mean(axis=0)
    order = np.random.default_rng(0).permutation(len(own))
    halves = [own[order[part::2]].mean(axis=0) for part in (0, 1)]
    result = {
        "n_treated": len(own), "n_control": len(own_control),
        "prediction": scores(before, after, change.mean(axis=0)),
        "model_alone": [scores(before, after, of_model.mean(axis=0)) for of_model in alone],
        "similar_types": scores(before, after, similar),
        "mean_change_of_other_types": scores(before, after, shift),
        "no_change": scores(before, after, np.zeros_like(before)),
        "ceiling_half_against_half": scores(before, halves[0], halves[1] - before),
        "rises_most": [adata.var_names[gene] for gene in np.argsort(-change.mean(axis=0))[:8]],
    }  # fmt: skip
    result["interval"] = interval(own, own_control, change, shift)
    return result


def interval(own: np.ndarray, own_control: np.ndarray, change: np.ndarray, shift: np.ndarray, draws: int = 200) -> dict:
    """95 % bootstrap intervals over cells: scores, and their difference from the mean change."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(draws):
        treated = own[generator.integers(0, len(own), len(own))].mean(axis=0)
        picked = generator.integers(0, len(own_control), len(own_control))
        control = own_control[picked].mean(axis=0)
        model, simple = (
            np.array([values["pearson_change"], values["overlap_200"]])
            for values in (scores(control, treated, mean) for mean in (change[picked].mean(axis=0), shift))
        )
        rows.append([*model, *(model - simple)])
    low, high = np.quantile(np.array(rows), [0.025, 0.975], axis=0).round(3)
    names = ("pearson_change", "overlap_200", "pearson_change_less_shift", "overlap_200_less_shift")
    return {name: [float(a), float(b)] for name, a, b in zip(names, low, high, strict=True)}


def rounded(value: object) -> object:
    """Nested values with 4 decimals."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--base", type=Path, help="also train models, from this one")
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--draws", type=float, default=2.0, help="how often each cell is drawn")
    parser.add_argument("--keep", type=Path, help="folder for the trained models; existing ones are used again")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    adata = ad.read_h5ad(arguments.data_dir / "kang_ifnb_2000x9015.h5ad")
    normalised = adata.copy()
    sc.pp.normalize_total(normalised, target_sum=1e4)
    sc.pp.log1p(normalised)
    log = normalised.X.toarray()
    result: dict = {"benchmark": "left_out", "perturbation": "IFN-beta", "seeds": arguments.seeds, "types": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        for kind in arguments.types:
            models, started = [], time.perf_counter()
            known = measured(arguments.data_dir, kind, Path(temporary) / f"known-{kind}")
            for seed in arguments.seeds if arguments.base else ():
                path = folder / f"{kind.replace(' ', '_')}-{seed}"
                if not path.exists():
                    trained(arguments.base, arguments.data_dir, kind, seed, path, arguments.draws)
                models.append((seed, path))
            result["types"][kind] = rounded(measure(adata, log, kind, known, models))
            result["types"][kind]["seconds"] = round(time.perf_counter() - started, 1)
            sys.stderr.write(f"{kind}: {json.dumps(result['types'][kind], indent=1)}\n")
    line = json.dumps(result)
    print(line)
    if arguments.out:
        arguments.out.write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
