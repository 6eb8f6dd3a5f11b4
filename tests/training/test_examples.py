"""Prompt/completion pairs: no leaks, draws, labels, splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import training_cells

from cell2sen import tasks
from cell2sen.task import Task, Template
from cell2sen.training.cells import Augmentation, Cells, Split, TrainingData, barcode, exclude_held_out
from cell2sen.training.examples import pairs

TASKS = {name: tasks.load(name) for name in ("annotate", "generate", "perturb")}
LENGTHS = {"annotate": 30, "generate": 12, "perturb": 15}
PERTURBED: dict[str, Any] = {"cell_type": "cell_type", "perturbation": "condition", "context": ("cell_type", "donor")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pairs")
    training_cells.write(made / "cells.h5ad", 240)
    return made


def cells_of(folder: Path, file: str = "cells.h5ad", **data: Any) -> Cells:
    return Cells(TrainingData(file=file, **data), folder, "upper")


def drawn(cells: Cells, *, draw: int = 0, held_out: bool = False, seed: int = 0, **options: Any) -> list[Any]:
    options = {"lengths": LENGTHS, "augmentation": Augmentation(), "tasks": TASKS} | options
    return list(pairs(cells, draw=draw, held_out=held_out, seed=seed, **options))


def rows_of(cells: Cells) -> dict[str, int]:
    return {name: row for row, name in enumerate(cells.names)}


SPLITS = [
    Split(by="cell", test=0.3),
    Split(by="donor", test=0.25, seed=1),
    Split(by="donor", values=("d2", "d3")),
    Split(by="cell_type", values=("B cell",)),
    Split(by="condition", test=0.5),
    Split(by="cell_type", values=("B cell",), perturbed_only=True),
]


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("held_out", [False, True])
def test_pairs_see_one_side_of_the_split_only(folder: Path, split: Split, held_out: bool) -> None:
    cells = cells_of(folder, tasks=("annotate", "generate", "perturb"), split=split, **PERTURBED)
    sentences = {row: frozenset(s) for row, s in enumerate(cells.sentences(0, Augmentation(), 0))}
    made = drawn(cells, held_out=held_out, lengths=dict.fromkeys(LENGTHS, 1000))
    row_of = rows_of(cells)
    assert {name for name, _, _ in made} == ({"annotate", "generate", "perturb"})
    for name, prompt, completion in made:
        row = row_of[prompt.key]
        assert cells.test[row] == held_out
        if name == "perturb":
            answer = frozenset(completion.strip().removesuffix(".").split())
            assert answer == sentences[row]
            # The control is a cell of the same side and context: one with these genes, in this order.
            sources = [other for other, genes in sentences.items() if genes == frozenset(prompt.genes)]
            assert any(
                cells.is_control(other)
                and cells.test[other] == held_out
                and (cells.obs.iloc[other][["cell_type", "donor"]] == cells.obs.iloc[row][["cell_type", "donor"]]).all()
                for other in sources
            )
            assert prompt.text.count(str(cells.obs["condition"].iloc[row])) == 2
        elif name == "generate":
            assert cells.is_control(row)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_split_is_as_asked(folder: Path, split: Split) -> None:
    cells = cells_of(folder, split=split, **PERTURBED)
    control = np.array([cells.is_control(row) for row in range(len(cells.test))])
    again = cells_of(folder, split=split, **PERTURBED)
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


def test_unknown_group_and_column_give_the_menu(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no \['d9'\] to hold out; available: \['d1', 'd2', 'd3', 'd4'\]"):
        cells_of(folder, split=Split(by="donor", values=("d9",)))
    with pytest.raises(KeyError, match=r"no column 'patient'; available: \['cell_type', 'donor', 'condition'"):
        cells_of(folder, split=Split(by="patient"))
    with pytest.raises(KeyError, match="no column 'label'; available"):
        cells_of(folder, cell_type="label")
    with pytest.raises(ValueError, match=r"no control cells 'ctrl'; available: \['IFN-beta', 'IL-2', 'control'\]"):
        cells_of(folder, perturbation="condition", control="ctrl")
    with pytest.raises(
        ValueError, match=r"need the obs column of 'cell_type' \(cell_type:\); available: \['cell_type'"
    ):
        drawn(cells_of(folder, tasks=("annotate",)))
    with pytest.raises(ValueError, match=r"need the obs column of 'perturbation'"):
        drawn(cells_of(folder, tasks=("perturb",)))
    with pytest.raises(ValueError, match="name it as by:"):
        Split(values=("d1",))
    with pytest.raises(ValueError, match="from 0 to below 1, found 20"):
        Split(test=20)
    with pytest.raises(ValueError, match="no cell of cells"):
        cells_of(folder, where={"donor": "d9"})


def test_cells_held_out_in_one_file_are_held_out_in_the_other(folder: Path, tmp_path: Path) -> None:
    matrix, obs = training_cells.counts(60)
    first = anndata.AnnData(matrix, obs=obs)
    first.var_names = training_cells.SYMBOLS
    second = first[20:].copy()
    second.obs_names = [f"{name}_stim" for name in second.obs_names]
    first.write_h5ad(tmp_path / "first.h5ad")
    second.write_h5ad(tmp_path / "second.h5ad")
    one = cells_of(tmp_path, "first.h5ad", split=Split(test=0.5), cell_type="cell_type")
    other = cells_of(
        tmp_path, "second.h5ad", split=Split(test=0), cell_type="cell_type", exclude_held_out_of=("first.h5ad",)
    )
    assert not other.test.any()
    exclude_held_out({"first.h5ad": one, "second.h5ad": other})
    np.testing.assert_array_equal(other.test, one.test[20:])
    seen = {barcode(prompt.key) for _, prompt, _ in drawn(other)}
    assert seen.isdisjoint({barcode(name) for name, test in zip(one.names, one.test, strict=True) if test})
    with pytest.raises(ValueError, match=r"names 'first.h5ad', which is not among the files \['second.h5ad'\]"):
        exclude_held_out({"second.h5ad": other})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("AAACATACAACCAC-1_ctrl", "AAACATACAACCAC"), ("lane2_AAACATACAACCAC-1", "AAACATACAACCAC"), ("cell_1", "cell_1"),
     ("AAACATACAACCAC", "AAACATACAACCAC"), ("h_1_1_bc0165", "h_1_1_bc0165"), ("CATTAGGACAs", "CATTAGGACAs")],
)  # fmt: skip
def test_barcode(name: str, expected: str) -> None:
    assert barcode(name) == expected


def test_draws_are_deterministic_and_differ(folder: Path) -> None:
    cells = cells_of(folder, cell_type="cell_type")
    for augmentation in (Augmentation(), Augmentation(thin=(0.3, 0.9)), Augmentation(panel=1.0)):
        first = cells.sentences(0, augmentation, 0)
        assert first == cells.sentences(0, augmentation, 0)
        assert first == cells_of(folder, cell_type="cell_type").sentences(0, augmentation, 0)
        for other in (cells.sentences(1, augmentation, 0), cells.sentences(0, augmentation, 1)):
            assert np.mean([a != b for a, b in zip(first, other, strict=True)]) > 0.9


def test_plain_draw_is_the_ranking_up_to_ties(folder: Path) -> None:
    cells = cells_of(folder)
    place = {symbol: number for number, symbol in enumerate(cells.symbols)}
    for row, sentence in enumerate(cells.sentences(3, Augmentation(), 0)):
        values = cells.matrix[row].toarray().ravel()
        read = values[[place[gene] for gene in sentence]]
        assert (np.diff(read) <= 0).all()
        assert len(sentence) == len(set(sentence)) == (values > 0).sum()


def test_thinning_keeps_the_share_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = cells_of(folder)
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


def test_log_values_are_thinned_as_their_counts_are(folder: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    adata.X = adata.X.multiply(1e4 / adata.X.sum(axis=1)).log1p().tocsr().astype(np.float32)
    adata.write_h5ad(tmp_path / "logged.h5ad")
    counts, logged = cells_of(folder), cells_of(tmp_path, "logged.h5ad")
    assert logged.scale.kind == "log"
    thin = Augmentation(thin=(0.1, 0.4))
    once = np.asarray([row[row > 0].min() == 1 for row in counts.matrix.toarray()])
    assert once.mean() > 0.5, "most cells have a gene that was seen once"
    for row in np.flatnonzero(once):
        assert (logged.scale.counts(logged.matrix[[row]]) == counts.matrix[[row]].data).all()
    lengths = [np.array([len(genes) for genes in each.sentences(0, thin, 0)]) for each in (counts, logged)]
    assert (lengths[0] < counts.matrix.getnnz(axis=1)).all()
    assert (lengths[1] <= lengths[0].max()).all()
    assert abs(lengths[1].mean() - lengths[0].mean()) < 0.1 * lengths[0].mean()


def test_panels_lack_the_same_genes_in_all_cells_of_a_draw(folder: Path) -> None:
    cells = cells_of(folder)
    sizes = set()
    for draw in range(8):
        present = {gene for sentence in cells.sentences(draw, Augmentation(panel=1.0), 0) for gene in sentence}
        sizes.add(len(present))
    assert min(sizes) < 0.5 * len(cells.symbols)
    assert len(sizes) > 3


@pytest.mark.parametrize(("draws", "expected"), [(0.25, 0.25), (1, 1), (2.5, 2.5), (3, 3)])
def test_draws_count_pairs(folder: Path, draws: float, expected: float) -> None:
    cells = cells_of(
        folder, tasks=("annotate", "generate"), cell_type="cell_type", draws={"annotate": draws}, split=Split(test=0)
    )
    assert cells.n_draws == int(np.ceil(draws))
    made = [pair for draw in range(cells.n_draws) for pair in drawn(cells, draw=draw)]
    counts = Counter(name for name, _, _ in made)
    assert counts["generate"] == 240
    assert counts["annotate"] == pytest.approx(240 * expected, abs=0 if draws == int(draws) else 25)


def test_labels_are_renamed_and_missing_ones_left_out(folder: Path, tmp_path: Path) -> None:
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    adata.obs.iloc[:40, 0] = None
    adata.obs["source"] = ["author"] * 120 + ["predicted"] * 120
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = cells_of(
        tmp_path, tasks=("annotate",), cell_type="cell_type", labels={"T cell": "T lymphocyte"},
        label_where={"source": "author"}, split=Split(test=0),
    )  # fmt: skip
    row_of = rows_of(cells)
    made = drawn(cells)
    assert {row_of[prompt.key] for _, prompt, _ in made} == set(range(40, 120))
    learned = {"T cell": " T lymphocyte.", "B cell": " B cell.", "monocyte": " monocyte."}
    for _, prompt, completion in made:
        assert completion == learned[adata.obs["cell_type"].iloc[row_of[prompt.key]]]


def test_perturbations_are_renamed(folder: Path) -> None:
    cells = cells_of(
        folder,
        tasks=("perturb",),
        perturbation="condition",
        perturbations={"*": "{} knock-out", "IL-2": "interleukin 2"},
    )
    assert set(cells.perturbation) == {"control", "IFN-beta knock-out", "interleukin 2"}


def test_every_wording_is_used_in_training(folder: Path) -> None:
    task = Task(
        name="annotate", answer="label", target="cell_type",
        templates=(
            Template(prompt="A: {genes}:", answer=" {cell_type}."),
            Template(prompt="B: {genes}:", answer=" is {cell_type}."),
        ),
    )  # fmt: skip
    made = drawn(cells_of(folder, cell_type="cell_type"), tasks={"annotate": task})
    assert {(prompt.text[0], completion[:4] == " is ") for _, prompt, completion in made} == {("A", False), ("B", True)}


def test_a_task_of_ones_own(folder: Path) -> None:
    task = Task(
        name="phase", answer="label", target="phase",
        templates=(Template(prompt="{genes} of {tissue}:", answer=" {phase}."),),
    )  # fmt: skip
    cells = cells_of(folder, tasks=("phase",), columns={"phase": "donor", "tissue": "cell_type"})
    made = drawn(cells, tasks={"phase": task}, lengths={"phase": 5})
    row = rows_of(cells)[made[0][1].key]
    assert made[0][2] == f" {cells.obs['donor'].iloc[row]}."
    assert made[0][1].text.endswith(f" of {cells.obs['cell_type'].iloc[row]}:")
    with pytest.raises(ValueError, match=r"need the obs column of 'tissue' \(columns: \{tissue: …\}\)"):
        drawn(
            cells_of(folder, tasks=("phase",), columns={"phase": "donor"}), tasks={"phase": task}, lengths={"phase": 5}
        )


def test_lengths_and_counts_of_prompts(folder: Path) -> None:
    cells = cells_of(folder, tasks=("annotate", "generate", "perturb"), **PERTURBED)
    for name, prompt, completion in drawn(cells):
        if name != "generate":
            assert len(prompt.genes) <= LENGTHS[name]
            assert f"the {len(prompt.genes)} most" in prompt.text
        if name != "annotate":
            n_answer = len(completion.removesuffix(".").split())
            assert n_answer == prompt.answer_genes <= LENGTHS[name]
            assert name == "perturb" or f"the {n_answer} most" in prompt.text


def test_genes_that_the_model_cannot_write_are_left_out(folder: Path) -> None:
    cells = cells_of(folder)
    totals = cells.totals.copy()
    known = np.arange(len(cells.symbols)) % 2 == 0
    kept = {symbol for symbol, keep in zip(cells.symbols, known, strict=True) if keep}
    cells.keep_genes(known)
    assert {gene for sentence in cells.sentences(0, Augmentation(), 0) for gene in sentence} == kept
    np.testing.assert_array_equal(cells.totals, totals)
    with pytest.raises(ValueError, match=r"can write none of the \d+ genes of cells.h5ad"):
        cells.keep_genes(np.zeros(len(cells.symbols), dtype=bool))


def test_part_of_a_file_is_split_as_the_whole_file_is(folder: Path) -> None:
    split = Split(by="cell", test=0.3)
    whole = cells_of(folder, split=split, **PERTURBED)
    part = cells_of(folder, split=split, where={"condition": "control"}, **PERTURBED)
    assert 0 < len(part.names) < len(whole.names)
    held_out = {name for name, test in zip(whole.names, whole.test, strict=True) if test}
    assert {name for name, test in zip(part.names, part.test, strict=True) if test} == held_out & set(part.names)


def test_controls_are_paired_with_other_controls_where_no_perturbation_has_a_name(folder: Path) -> None:
    options: dict[str, Any] = {"tasks": ("perturb",), "split": Split(test=0), **PERTURBED}
    cells, named = (cells_of(folder, **options, **more) for more in ({}, {"no_perturbation": "nothing"}))
    sentences = {row: s[:15] for row, s in enumerate(named.sentences(0, Augmentation(), 0))}
    rows = rows_of(named)
    found = [(rows[prompt.key], prompt) for _, prompt, _ in drawn(named)]
    controls = [(row, prompt) for row, prompt in found if named.is_control(row)]
    assert len(found) - len(controls) == len(drawn(cells)) > 0
    assert len(controls) > 20
    for row, prompt in controls:
        assert "after nothing:" in prompt.text
        source = [other for other, s in sentences.items() if tuple(s) == prompt.genes]
        assert row not in source
        assert all(named.is_control(other) for other in source)
    assert not any("nothing" in prompt.text for row, prompt in found if not named.is_control(row))


def test_changes_count_the_sentences_of_training_cells(folder: Path) -> None:
    cells = cells_of(
        folder, tasks=("perturb",), split=Split(by="cell", test=0.2), **{**PERTURBED, "context": ["donor"]}
    )
    sentences = cells.sentences(0, Augmentation(), 3)
    found = list(cells.changes(5, 3))
    assert cells.perturbation is not None
    wanted = []
    for donor in sorted(set(cells.obs["donor"])):
        side = {
            name: [
                row for row in np.flatnonzero(~cells.test & (cells.obs["donor"] == donor).to_numpy())
                if cells.perturbation[row] == name
            ]
            for name in sorted(set(cells.perturbation))
        }  # fmt: skip
        control = side.pop("control")
        wanted += [(rows, control) for rows in side.values() if min(len(rows), len(control)) >= 10]
    assert len(found) == len(wanted) > 2
    totals = {(n_treated, n_control): (treated, control) for treated, n_treated, control, n_control, _ in found}
    for rows, control in wanted:
        for counts, side in zip(totals[len(rows), len(control)], (rows, control), strict=True):
            for number in (0, 7, 25):
                gene = cells.symbols[number]
                assert counts[number] == sum(gene in sentences[row][:5] for row in side)
