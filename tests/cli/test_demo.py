from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from cells import needs_weights

from cell2sen.cli import demo

pytest.importorskip("scanpy")
pytestmark = pytest.mark.slow


def test_without_its_extra_the_demo_names_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import builtins

    real = builtins.__import__

    def refuse(name: str, *args: Any, **options: Any) -> Any:
        if name == "scanpy":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"cell2sen\[demo\]"):
        demo.run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_both_panels_have_one_colour_per_type() -> None:
    import scanpy as sc

    adata = sc.datasets.pbmc68k_reduced()
    palette = demo._palette(adata)
    for name, labels in demo.SAME.items():
        assert palette[name] == palette[labels[0]]
    types = {demo.SAME.get(name, (name,))[0] for name in adata.obs["bulk_labels"].cat.categories}
    assert len({palette[name] for name in (*types, *demo.LABELS)}) == len({*types, *demo.LABELS})


@needs_weights
def test_demo_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network in this test")

    import scanpy as sc

    part = sc.datasets.pbmc68k_reduced()[::5].copy()  # all 700 take a minute more
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", lambda: part)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    demo.run(tmp_path / "out", progress=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cells.h5ad", "figure.png", "ifn_beta.h5ad"]
    adata, predicted = (anndata.read_h5ad(tmp_path / "out" / name) for name in ("cells.h5ad", "ifn_beta.h5ad"))
    assert adata.n_obs == 140
    assert np.isfinite(adata.obsm["X_cell2sen"]).all()
    assert set(adata.uns["cell2sen"]) == {"embed", "annotate"}
    label, predicted_type = adata.obs["bulk_labels"].astype(str), adata.obs["cell2sen_cell_type"].astype(str)
    sure = (predicted_type != "unknown").to_numpy()
    agree = np.array([name in demo.SAME.get(true, ()) for true, name in zip(label, predicted_type, strict=True)])
    assert agree[sure].mean() > label.value_counts(normalize=True).iloc[0] + 0.2
    assert (predicted.obs["validity"] == 1).all()
    assert (tmp_path / "out" / "figure.png").stat().st_size > 20_000
    text = capsys.readouterr().out
    assert "ready" in text
    assert "largest predicted increase" in text
