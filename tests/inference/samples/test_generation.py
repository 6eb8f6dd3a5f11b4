"""Generated samples: what they are generated from, budget of tokens, invariance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from cells import GENES, cells, fake

import cell2sen as c2s
from cell2sen import tasks
from cell2sen.inference.samples.generation import TASKS, genes_that_fit, origin_of

FIT = {"fit": {"slope": -0.8, "intercept": 2.5, "r_squared": 0.9}}


def model() -> Any:
    from cell2sen.model import Model

    return tiny.backend(model=Model(name="tiny", path="tiny", dtype="float32", metadata=FIT))


@pytest.mark.parametrize(
    ("arguments", "kind", "slots"),
    [
        (("blood; lung", None, None, 3), "tissue", ({"tissue": "blood"}, {"tissue": "lung"})),
        ((None, ["B cell", "B cell"], None, None), "cell_types", ({"cell_type": ["B cell", "B cell"]},)),
        ((None, None, " We studied\n cells. ", 3), "abstract", ({"abstract": "We studied cells."},)),
        ((None, None, None, 3), "nothing", ({},)),
        ((None, None, None, 1), "nothing, one cell", ({},)),
    ],
)
def test_origins(arguments: Any, kind: str, slots: Any) -> None:
    origin = origin_of(*arguments)
    assert (origin.kind, origin.slots) == (kind, slots)
    assert tasks.load(TASKS[kind]).answer == "sentences"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            ("blood", ["B cell"], None, None),
            r"one of tissue, cell_types and abstract, found \['tissue', 'cell_types'\]",
        ),
        ((None, ["B cell"], None, 3), "found 1 types and n_cells=3"),
        (("blood; blood", None, None, None), "tissues must differ"),
        (("", None, None, None), "tissue must be one name or several"),
        ((None, None, "  ", None), "abstract must be a text"),
        ((None, None, None, 0), "n_cells must be at least 1"),
    ],
)
def test_refused(arguments: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        origin_of(*arguments)


def test_types_are_in_the_prompt_and_in_obs() -> None:
    backend, seen = fake(), []
    generate = backend.generate

    def record(prompts: Any, *arguments: Any, **options: Any) -> Any:
        seen.append([prompt.text for prompt in prompts])
        return generate(prompts, *arguments, **options)

    backend.generate = record
    made = c2s.tl.generate_sample(cell_types=["B cell", "NK cell"], n=2, n_genes=4, genes=GENES, model=backend)
    assert made.obs["cell_type"].tolist() == ["B cell", "NK cell"] * 2
    assert made.obs_names.tolist() == ["types-0/1", "types-0/2", "types-1/1", "types-1/2"]
    assert made.obs["number"].tolist() == [1, 2, 1, 2]
    assert "The types of these cells are:\nCell 1: B cell.\nCell 2: NK cell.\nCell sentences:\nCell 1:" in seen[0][0]
    first = made.obs["sentence"].iloc[0]
    assert seen[1][0].endswith(f"\nCell 1: {first}.\nCell 2:")
    assert "the 4 most expressed genes" in seen[1][0]


def test_a_sample_depends_on_its_name_alone() -> None:
    options: Any = {"n_cells": 2, "n_genes": 3, "genes": GENES, "model": model(), "progress": False}
    both = c2s.tl.generate_sample(["blood", "lung"], n=2, **options)
    alone = c2s.tl.generate_sample("lung", n=1, **options)
    assert alone.obs["sentence"].tolist() == both.obs.loc[alone.obs_names, "sentence"].tolist()
    np.testing.assert_array_equal(alone.X.toarray(), both[alone.obs_names].X.toarray())
    assert (both.obs["validity"] == 1).all()
    assert both.obs["sentence"].nunique() > 2
    other = c2s.tl.generate_sample("lung", n=1, seed=1, **options)
    assert other.obs["sentence"].tolist() != alone.obs["sentence"].tolist()


def test_all_cells_fit_into_the_context_together() -> None:
    """The number of genes is the largest with which prompt and answer have at most as many tokens as the context."""
    backend = model()
    task = tasks.load("write_sample")
    prompt = task.prompt(cells={str(cell): () for cell in range(20)}, key="a", answer_genes=1)
    n_genes = genes_that_fit(backend, task, [prompt], GENES, 20, 40)
    gene = sorted(GENES, key=lambda name: backend.count_tokens([f" {name}"])[0])[len(GENES) // 2]
    for number, fits in ((n_genes, True), (2 * n_genes + 1, False)):
        whole = prompt.text + task.complete(n_cells=20, sentence=[" ".join([gene] * number)] * 20)
        assert (backend.count_tokens([whole])[0] <= backend.context) == fits
    made = c2s.tl.generate_sample(n=1, n_cells=20, genes=GENES, model=backend, progress=False)
    assert made.uns["cell2sen"]["generate"]["n_genes"] == n_genes
    assert {len(sentence.split()) for sentence in made.obs["sentence"]} == {n_genes}


def test_free_text_is_read_cell_by_cell() -> None:
    backend = fake()
    backend.generate = lambda prompts, *_, **__: ["\nCell 1: CD4 LYZ nothing.\nCell 2: B2M B2M."] * len(prompts)
    made = c2s.tl.generate_sample(n=1, n_cells=3, genes=GENES, guided=False, model=backend)
    assert made.obs["sentence"].tolist() == ["CD4 LYZ", "B2M", ""]
    assert made.obs["n_unknown"].tolist() == [1, 0, 0]
    assert made.obs["n_repeated"].tolist() == [0, 1, 0]


def test_genes_fit_and_organism_of_data(tmp_path: Any) -> None:
    adata = cells(12)
    made = c2s.tl.generate_sample("blood", n=1, n_cells=2, n_genes=5, genes=adata, model=fake())
    assert made.var_names.tolist() == adata.var_names.tolist()
    made.write_h5ad(tmp_path / "made.h5ad")
    with pytest.raises(ValueError, match="writes 1 to 20 cells, found n_cells=21"):
        c2s.tl.generate_sample("blood", n_cells=21, genes=adata, model=fake())
    with pytest.raises(ValueError, match="n_genes=500 is too many"):
        c2s.tl.generate_sample("blood", n_genes=500, genes=adata, model=fake())
