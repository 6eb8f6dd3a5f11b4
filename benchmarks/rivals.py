"""scGen and CellFlow on Kang et al., the treated cells of a cell type or a donor left out.

    python benchmarks/rivals.py scgen|cellflow --data-dir FOLDER --leave-out type|donor [--epochs 40] [--steps 1500]

Each runs in an environment of its own, without cell2sen: `pip install scgen` (2.1.0; what scvi-tools 1.x has renamed
is supplied below), `pip install cellflow-tools requests`. The cells, the left-out groups and the scores are those of
`left_out.py` and `donors.py`. Settings are smaller than the published ones, so that a processor suffices: scGen with
its default network, batches of 64; CellFlow on 50 principal components of the training cells, hidden layers of 256.
Both changes are differences between two predictions of the same kind, so that what a method gets wrong about the
controls cancels. Prints one JSON line."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
import types
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc

warnings.filterwarnings("ignore")
TYPES = ("CD14+ Monocytes", "CD4 T cells", "B cells", "NK cells")
DONORS = ("101", "1015", "107")


def scgen(adata: ad.AnnData, control: ad.AnnData, arguments: argparse.Namespace) -> np.ndarray:
    """Mean change of `control` that scGen predicts, trained on `adata`."""
    import scvi.module.base as base
    import torch

    compatible = types.ModuleType("scvi._compat")
    compatible.Literal = __import__("typing").Literal
    sys.modules["scvi._compat"] = compatible
    base.LossRecorder = lambda loss, reconstruction, divergence, *_: base.LossOutput(
        loss=loss, reconstruction_loss=reconstruction, kl_local=divergence
    )
    from scgen import SCGEN
    from scgen._scgenvae import SCGENVAE

    inference = SCGENVAE.inference
    SCGENVAE.inference = lambda self, x: (found := inference(self, x)) | {"qzm": found["qz_m"], "qzv": found["qz_v"]}
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (scGen draws from it)
    SCGEN.setup_anndata(adata, batch_key="condition", labels_key="cell_type")
    model = SCGEN(adata)
    model.train(
        max_epochs=arguments.epochs, batch_size=64, enable_progress_bar=False, accelerator="cpu",
        train_size=1.0, enable_model_summary=False, logger=False,
    )  # fmt: skip
    predicted, _ = model.predict(ctrl_key="control", stim_key="IFN-beta", adata_to_predict=control)
    latent = model.get_latent_representation(control)
    with torch.no_grad():
        same = model.module.generative(torch.Tensor(latent))["px"].cpu().numpy()
    return np.asarray(predicted.X.mean(axis=0)).ravel() - same.mean(axis=0)


def components(adata: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the cells and their 50 principal axes."""
    centre = adata.X.mean(axis=0)
    return centre, np.linalg.svd(adata.X - centre, full_matrices=False)[2][:50]


def cellflow(adata: ad.AnnData, control: ad.AnnData, arguments: argparse.Namespace) -> np.ndarray:
    """Mean change of `control` that CellFlow predicts, trained on `adata`."""
    import optax
    from cellflow.model import CellFlow

    np.random.seed(0)  # noqa: NPY002 (CellFlow draws from it)
    centre, axes = components(adata)
    for side in (adata, control):
        side.obsm["X_pca"] = ((side.X - centre) @ axes.T).astype(np.float32)
        side.obs["is_control"] = (side.obs["condition"] == "control").to_numpy()
        side.obs["drug"] = pd.Categorical(side.obs["condition"].astype(str))
    both = ad.concat([adata[adata.obs["is_control"]], control])
    with_target = set(
        adata.obs["cell_type"][~adata.obs["is_control"]]
    )  # controls without a target cannot be trained on
    adata = adata[
        adata.obs["cell_type"].isin(with_target & set(adata.obs["cell_type"][adata.obs["is_control"]]))
    ].copy()
    kinds = {
        name: both[both.obs["cell_type"] == name].obsm["X_pca"].mean(axis=0) for name in both.obs["cell_type"].unique()
    }
    drugs = {"control": np.array([1.0, 0.0]), "IFN-beta": np.array([0.0, 1.0])}
    adata.uns.update(kinds=kinds, drugs=drugs)
    model = CellFlow(adata, solver="otfm")
    model.prepare_data(
        sample_rep="X_pca", control_key="is_control", perturbation_covariates={"drug": ("drug",)},
        perturbation_covariate_reps={"drug": "drugs"}, sample_covariates=["cell_type"],
        sample_covariate_reps={"cell_type": "kinds"}, split_covariates=["cell_type"],
    )  # fmt: skip
    model.prepare_model(
        condition_embedding_dim=64, time_encoder_dims=(128, 128), hidden_dims=(256, 256), decoder_dims=(256, 256),
        cond_output_dropout=0.0, time_freqs=128, optimizer=optax.adam(1e-3),
    )  # fmt: skip
    model.train(num_iterations=arguments.steps, batch_size=128, valid_freq=10**9)
    sums, n = np.zeros(50), 0
    control.uns.update(kinds=kinds, drugs=drugs)
    for name in control.obs["cell_type"].unique():
        own = control[control.obs["cell_type"] == name].copy()
        wanted = own.obs.iloc[:1].copy()
        wanted["drug"], wanted["is_control"], wanted["condition"] = "IFN-beta", False, "IFN-beta"
        [moved] = model.predict(adata=own, covariate_data=wanted, sample_rep="X_pca").values()
        sums += np.asarray(moved - own.obsm["X_pca"]).sum(axis=0)
        n += len(own)
    return sums / n @ axes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["scgen", "cellflow"])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--leave-out", choices=["type", "donor"], default="type")
    parser.add_argument("--only", nargs="+", help="some types or donors")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    adata = ad.read_h5ad(arguments.data_dir / "kang_ifnb_2000x9015.h5ad")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()
    adata.obs["condition"] = adata.obs["condition"].astype(str)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    run = {"scgen": scgen, "cellflow": cellflow}[arguments.method]
    if arguments.leave_out == "donor":  # cells of an unknown donor may be those of the left-out one
        adata = adata[~adata.obs["donor"].astype(str).isin(["", "nan"]).to_numpy()].copy()
    treated = (adata.obs["condition"] == "IFN-beta").to_numpy()
    scores, within, started = {}, {}, time.perf_counter()
    groups = arguments.only or (TYPES if arguments.leave_out == "type" else DONORS)
    for name in groups:
        if arguments.leave_out == "type":
            tests = {name: (adata.obs["cell_type"] == name).to_numpy()}
            left_out = tests[name] & treated
        else:
            own = (adata.obs["donor"].astype(str) == name).to_numpy()
            left_out = own  # neither treated nor control cells of the donor
            tests = {f"{name}, {kind}": own & (adata.obs["cell_type"] == kind).to_numpy() for kind in TYPES}
            tests = {
                key: rows for key, rows in tests.items() if min((rows & treated).sum(), (rows & ~treated).sum()) >= 10
            }
        for key, rows in tests.items():
            control = adata[rows & ~treated].copy()
            change = run(adata[~left_out].copy(), control, arguments)
            truth = adata.X[rows & treated].mean(axis=0) - adata.X[rows & ~treated].mean(axis=0)
            scores[key] = round(float(np.corrcoef(change, truth)[0, 1]), 4)
            if arguments.method == "cellflow":  # correlation of the true change with its part in the components
                axes = components(adata[~left_out])[1]
                within[key] = round(float(np.corrcoef(truth @ axes.T @ axes, truth)[0, 1]), 4)
            sys.stderr.write(f"{key}: {scores[key]}, {time.perf_counter() - started:.0f} s\n")
    package = {"scgen": "scgen", "cellflow": "cellflow-tools"}[arguments.method]
    print(
        json.dumps(
            {
                "method": f"{package} {importlib.metadata.version(package)}",
                "scores": scores,
                "within_components": within,
            }
        )
    )


if __name__ == "__main__":
    main()
