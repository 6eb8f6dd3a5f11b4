"""Cells of a training file: splits, labels, perturbations, sentences drawn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells
from training_runs import cells_of

from cell2sen import tasks
from cell2sen.data.scale.units import NAMED
from cell2sen.data.splits import barcode
from cell2sen.training.config.data import Augmentation, Split
from cell2sen.training.examples.names import exclude_held_out
from cell2sen.training.examples.pairs import pairs

PERTURBED: dict[str, Any] = {
    "cell_type": "cell_type",
    "perturbation": {"column": "condition", "context": ["cell_type", "donor"]},
}
SPLITS = [
    Split(by="cell", test=0.3),
    Split(by="donor", test=0.25, seed=1),
    Split(by="donor", values=("d2", "d3")),
    Split(by="cell_type", values=("B cell",)),
    Split(by="condition", test=0.5),
    Split(by="cell_type", values=("B cell",), perturbed_only=True),
]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_whole_groups_are_held_out(many_cells: Path, split: Split) -> None:
    cells = cells_of(many_cells, split=split, **PERTURBED)
    control = np.array([cells.is_control(row) for row in range(len(cells.test))])
    again = cells_of(many_cells, split=split, **PERTURBED)
    np.testing.assert_array_equal(cells.test, again.test)
    if split.by == "cell":
        assert cells.test.sum() == 72
        return
    groups = cells.obs[split.by].astype(str).to_numpy()
    whole = ~control if split.by == "condition" or split.perturbed_only else np.ones(len(control), dtype=bool)
    sides = {group: set(cells.test[whole & (groups == group)]) for group in set(groups[whole])}
    assert all(len(side) == 1 for side in sides.values())
    held_out = {group for group, side in sides.items() if side == {True}}
    assert held_out == set(split.values) if split.values else len(held_out) == 1
    if not whole.all():
        assert 0 < cells.test[control].mean() < 0.6


def test_errors_list_available_groups_and_columns(many_cells: Path) -> None:
    with pytest.raises(ValueError, match=r"no \['d9'\] to hold out; available: \['d1', 'd2', 'd3', 'd4'\]"):
        cells_of(many_cells, split=Split(by="donor", values=("d9",)))
    with pytest.raises(KeyError, match=r"no column 'patient'; available: \['cell_type', 'donor', 'condition'"):
        cells_of(many_cells, split=Split(by="patient"))
    with pytest.raises(KeyError, match="no column 'label'; available"):
        cells_of(many_cells, cell_type="label")
    with pytest.raises(ValueError, match=r"is never \['ctrl'\]; available: \['IFN-beta', 'IL-2', 'control'\]"):
        cells_of(many_cells, perturbation={"column": "condition", "control": "ctrl"})
    with pytest.raises(ValueError, match=r"no cell of cells.h5ad has .* available: .*d1"):
        cells_of(many_cells, matrix={"where": {"donor": "d9"}})
    with pytest.raises(ValueError, match=r"perturbed_only on cells\.h5ad needs the obs column of the perturbation"):
        cells_of(many_cells, split=Split(by="donor", perturbed_only=True))


def test_slots_need_an_obs_column(many_cells: Path) -> None:
    with pytest.raises(
        ValueError, match=r"need the obs column of 'cell_type' \(cell_type:\); available: \['cell_type'"
    ):
        cells_of(many_cells).values("cell_type")
    with pytest.raises(ValueError, match=r"need the obs column of 'perturbation' \(perturbation:\)"):
        cells_of(many_cells).values("perturbation")
    with pytest.raises(ValueError, match=r"need the obs column of 'tissue' \(columns: \{tissue: …\}\)"):
        cells_of(many_cells).values("tissue")
    assert set(cells_of(many_cells, columns={"tissue": "donor"}).values("tissue")) == {"d1", "d2", "d3", "d4"}


def test_cells_held_out_in_one_file_are_held_out_in_the_other(tmp_path: Path) -> None:
    matrix, obs = training_cells.counts(60)
    first = anndata.AnnData(matrix, obs=obs)
    first.var_names = training_cells.SYMBOLS
    second = first[20:].copy()
    second.obs_names = [f"{name}_stim" for name in second.obs_names]
    first.write_h5ad(tmp_path / "first.h5ad")
    second.write_h5ad(tmp_path / "second.h5ad")
    cells = cells_of(tmp_path, file="first.h5ad", split={"test": 0.5}, cell_type="cell_type")
    split = {"test": 0, "exclude_held_out_of": ["first.h5ad"]}
    other = cells_of(tmp_path, file="second.h5ad", split=split, cell_type="cell_type")
    assert not other.test.any()
    exclude_held_out({"first.h5ad": cells, "second.h5ad": other})
    np.testing.assert_array_equal(other.test, cells.test[20:])
    options: dict[str, Any] = {"lengths": {"annotate": 9}, "augmentation": Augmentation(), "seed": 0}
    learned = pairs(other, {"annotate": tasks.load("annotate")}, draw=0, held_out=False, **options)
    seen = {barcode(pair.prompt.key) for pair in learned}
    assert len(seen) > 5
    assert seen.isdisjoint({barcode(name) for name, test in zip(cells.names, cells.test, strict=True) if test})
    with pytest.raises(ValueError, match=r"names .first.h5ad., which is not among the files \['second.h5ad'\]"):
        exclude_held_out({"second.h5ad": other})


def test_part_of_a_file_is_split_as_the_whole_file_is(many_cells: Path) -> None:
    split = Split(by="cell", test=0.3)
    whole = cells_of(many_cells, split=split, **PERTURBED)
    part = cells_of(many_cells, split=split, matrix={"where": {"condition": "control"}}, **PERTURBED)
    assert 0 < len(part.names) < len(whole.names)
    held_out = {name for name, test in zip(whole.names, whole.test, strict=True) if test}
    assert {name for name, test in zip(part.names, part.test, strict=True) if test} == held_out & set(part.names)


def test_perturbations_are_renamed(many_cells: Path) -> None:
    names = {"*": "{} knock-out", "IL-2": "interleukin 2"}
    cells = cells_of(many_cells, perturbation={"column": "condition", "names": names})
    assert cells.perturbation is not None
    assert set(cells.perturbation) == {"control", "IFN-beta knock-out", "interleukin 2"}


def with_drugs(folder: Path, values: list[Any]) -> Path:
    """A file whose perturbations are these values, again and again."""
    adata = anndata.read_h5ad(training_cells.write(folder / "cells.h5ad", 40))
    adata.obs["drug"] = np.resize(np.array(values, dtype=object), adata.n_obs)
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def test_several_names_of_controls_are_one_control(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = with_drugs(tmp_path, ["NT-1", "TP53", "NT-2", "KRAS", "NT-40"])
    column = {"column": "drug", "control": ["NT-1", "NT-2", "NT-40"], "names": {"*": "{} knock-out"}}
    cells = cells_of(folder, perturbation=column)
    assert cells.data.control == "NT-1"
    assert cells.perturbation[:5].tolist() == ["NT-1", "TP53 knock-out", "NT-1", "KRAS knock-out", "NT-1"]
    assert [cells.is_control(row) for row in range(5)] == [True, False, True, False, True]
    assert not caplog.text
    cells_of(folder, perturbation={"column": "drug", "control": ["NT-1", "NT-3"]})
    assert "no cell has the control 'NT-3'" in caplog.text
    assert "'NT-2', 'NT-40' are learned as perturbations, though these are usual names of controls" in caplog.text
    with pytest.raises(ValueError, match=r"control=\['NT-1', 'NT-2', 'NT-40'\] \(--control 'NT-1' --control 'NT-2'"):
        cells_of(folder, perturbation="drug")


@pytest.mark.parametrize("control", [["DMSO", None], ["DMSO", ""]])
def test_named_controls_and_cells_without_a_value(tmp_path: Path, control: list[Any]) -> None:
    cells = cells_of(with_drugs(tmp_path, ["DMSO", "x", "NA"]), perturbation={"column": "drug", "control": control})
    assert cells.perturbation[:3].tolist() == ["DMSO", "x", "DMSO"]


@pytest.mark.parametrize("held_out", ["A+B", "B+A"])
def test_a_combination_is_held_out_in_any_order(tmp_path: Path, held_out: str) -> None:
    folder = with_drugs(tmp_path, ["A+B", "ctrl", "B+A", "A+ctrl", "ctrl+A", "A+B"])
    column = {"column": "drug", "control": "ctrl", "names": {"*": "knock-out of {}", "B+A": "both"}}
    cells = cells_of(folder, perturbation=column, split=Split(by="drug", values=(held_out,)))
    assert cells.test[[0, 2, 5]].all()
    assert not cells.test[[3, 4]].any()
    expected = ["both", "ctrl", "both", "knock-out of A+ctrl", "knock-out of A+ctrl", "both"]
    assert cells.perturbation[:6].tolist() == expected
    plain = cells_of(folder, perturbation={"column": "drug", "control": "ctrl", "names": {"*": "knock-out of {}"}})
    assert set(plain.perturbation) == {"ctrl", "knock-out of A+B", "knock-out of A+ctrl"}


def test_groups_are_the_cells_of_a_context_and_perturbation(many_cells: Path) -> None:
    cells = cells_of(many_cells, **PERTURBED)
    groups = cells.groups(np.arange(0, 240, 2))
    for (cell_type, donor), sides in groups.items():
        for name, rows in sides.items():
            obs = cells.obs.iloc[rows]
            assert set(zip(obs["cell_type"], obs["donor"], obs["condition"], strict=True)) == {(cell_type, donor, name)}
    rows = [row for sides in groups.values() for part in sides.values() for row in part]
    assert sorted(rows) == list(range(0, 240, 2))
    assert cells_of(many_cells, cell_type="cell_type").groups(np.arange(240)) == {}


def test_genes_that_the_model_cannot_write_are_left_out(many_cells: Path) -> None:
    cells = cells_of(many_cells)
    totals = cells.totals.copy()
    kept = set(cells.symbols[::2])
    cells.keep_genes(lambda symbols: np.isin(symbols, sorted(kept)))
    assert {gene for sentence in cells.sentences(0, Augmentation(), 0).gene_names() for gene in sentence} == kept
    np.testing.assert_array_equal(cells.totals, totals)
    with pytest.raises(ValueError, match=r"can write none of the \d+ genes of cells.h5ad"):
        cells.keep_genes(lambda symbols: np.zeros(len(symbols), dtype=bool))


def test_genes_of_another_year_get_the_names_of_the_model(tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    adata.var_names = ["RACK1", "SEPTIN9", *adata.var_names[2:]]
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = cells_of(tmp_path)
    vocabulary = ["GNB2L1", "SEPT9", *adata.var_names[2:]]
    cells.keep_genes(lambda symbols: np.isin(symbols, vocabulary))
    assert list(cells.symbols) == vocabulary
    np.testing.assert_array_equal(cells.matrix.toarray(), adata.X.toarray())


def test_rows_that_are_no_genes_are_left_out_of_matrix_and_totals(tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad")
    adata.var["feature_types"] = ["Antibody Capture"] * 3 + ["Gene Expression"] * (adata.n_vars - 3)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = cells_of(tmp_path)
    assert cells.symbols == tuple(adata.var_names[3:])
    np.testing.assert_array_equal(cells.totals, np.asarray(adata.X[:, 3:].sum(axis=1)).ravel())


def test_a_given_scale(many_cells: Path) -> None:
    cells = cells_of(many_cells, matrix={"scale": "cp10k"})
    assert cells.scale == NAMED["cp10k"]
    with pytest.raises(ValueError, match=r"matrix.scale must be one of auto, counts, .*; found 'cp1k'"):
        cells_of(many_cells, matrix={"scale": "cp1k"})


class TestSentences:
    def test_are_a_function_of_draw_and_seed(self, many_cells: Path) -> None:
        cells = cells_of(many_cells, cell_type="cell_type")
        for augmentation in (Augmentation(), Augmentation(thin=(0.3, 0.9)), Augmentation(panel=1.0)):
            first = cells.sentences(0, augmentation, 0).gene_names()
            assert first == cells.sentences(0, augmentation, 0).gene_names()
            assert first == cells_of(many_cells, cell_type="cell_type").sentences(0, augmentation, 0).gene_names()
            for other in (cells.sentences(1, augmentation, 0), cells.sentences(0, augmentation, 1)):
                assert np.mean([a != b for a, b in zip(first, other.gene_names(), strict=True)]) > 0.9

    def test_have_names_and_organism_of_the_cells(self, many_cells: Path) -> None:
        cells = cells_of(many_cells)
        sentences = cells.sentences(0, Augmentation(), 0)
        assert sentences.names.tolist() == cells.names
        assert set(sentences.organism) == {"Homo sapiens"}
        assert sentences.symbols == list(cells.symbols)

    def test_plain_draw_is_the_ranking_up_to_ties(self, many_cells: Path) -> None:
        cells = cells_of(many_cells)
        place = {symbol: number for number, symbol in enumerate(cells.symbols)}
        for row, sentence in enumerate(cells.sentences(3, Augmentation(), 0).gene_names()):
            values = cells.matrix[row].toarray().ravel()
            read = values[[place[gene] for gene in sentence]]
            assert (np.diff(read) <= 0).all()
            assert len(sentence) == len(set(sentence)) == (values > 0).sum()

    def test_thinning_keeps_a_share_of_the_counts(self, many_cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cells = cells_of(many_cells)
        seen: list[Any] = []
        rank = type(cells.ranker).rank
        monkeypatch.setattr(
            type(cells.ranker), "rank", lambda self, m, names: seen.append(m.copy()) or rank(self, m, names)
        )
        before = cells.matrix.copy()
        cells.sentences(0, Augmentation(thin=(0.2, 0.6)), 0)
        assert (cells.matrix != before).nnz == 0, "the data were changed"
        assert ((before - seen[0]).data >= 0).all()
        kept = np.asarray(seen[0].sum(axis=1)).ravel() / cells.totals
        assert 0.35 < kept.mean() < 0.45
        assert 0.1 < kept.min() < 0.3 < 0.5 < kept.max() < 0.75

    def test_log_values_are_thinned_as_their_counts_are(self, many_cells: Path, tmp_path: Path) -> None:
        adata = anndata.read_h5ad(many_cells / "cells.h5ad")
        adata.X = adata.X.multiply(1e4 / adata.X.sum(axis=1)).log1p().tocsr().astype(np.float32)
        adata.write_h5ad(tmp_path / "logged.h5ad")
        counts, logged = cells_of(many_cells), cells_of(tmp_path, file="logged.h5ad")
        assert logged.scale.kind == "log"
        thin = Augmentation(thin=(0.1, 0.4))
        once = np.asarray([row[row > 0].min() == 1 for row in counts.matrix.toarray()])
        assert once.mean() > 0.5, "most cells have a gene that was seen once"
        for row in np.flatnonzero(once):
            assert (logged.scale.counts(logged.matrix[[row]]) == counts.matrix[[row]].data).all()
        lengths = [cells.sentences(0, thin, 0).n_genes for cells in (counts, logged)]
        assert (lengths[0] < counts.matrix.getnnz(axis=1)).all()
        assert (lengths[1] <= lengths[0].max()).all()
        assert abs(lengths[1].mean() - lengths[0].mean()) < 0.1 * lengths[0].mean()

    def test_panels_lack_the_same_genes_in_all_cells_of_a_draw(self, many_cells: Path) -> None:
        cells = cells_of(many_cells)
        sizes = set()
        for draw in range(8):
            sentences = cells.sentences(draw, Augmentation(panel=1.0), 0).gene_names()
            sizes.add(len({gene for sentence in sentences for gene in sentence}))
        assert min(sizes) < 0.5 * len(cells.symbols)
        assert len(sizes) > 3
