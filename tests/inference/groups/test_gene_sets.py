"""Names and lists of gene sets: prompts, batches, models that were not trained on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny
from cells import GENES, fake

from cell2sen.backend import Backend, Sampling, Unsupported
from cell2sen.inference.groups.gene_sets import list_sets, name_sets

SETS = {"A_B": GENES[5:0:-1], "C": GENES[:20], "D D": GENES[7:9]}
NAMES = ["T cell", "B cell", "NK cell"]


def name(backend: Any, sets: Any = SETS, **options: Any):
    return name_sets(sets, {"model": backend, "progress": False}, sampling=Sampling(max_new_tokens=4), **options)


def test_prompts_have_the_genes_in_alphabetical_order(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = fake()
    prompts: list[Any] = []
    monkeypatch.setattr(backend, "generate", lambda given, *_, **__: prompts.extend(given) or ["x."] * len(given))
    named = name(backend)
    assert named.names == ["x"] * 3
    assert named.scores is None
    for prompt, genes in zip(prompts, SETS.values(), strict=True):
        assert list(prompt.genes) == sorted(genes)
        assert f"Below are {len(genes)} Homo sapiens genes" in prompt.text
    assert not any(prompt.text.count("A B") + prompt.text.count("D D") for prompt in prompts)
    assert named.n_used == [5, 20, 2]


def test_unknown_genes_are_left_out_and_counted() -> None:
    named = name(fake(genes=GENES), {"A": [*GENES[:3], "no gene", "NOTAGENE"]})
    assert (named.n_used, named.n_unknown) == ([3], [2])
    with pytest.raises(ValueError, match=r"can write none of the 1 genes of 'A' \(such as \['NOTAGENE'\]\)"):
        name(fake(genes=GENES), {"A": ["NOTAGENE"]})


@pytest.mark.slow
def test_a_set_depends_on_no_other(any_backend: Backend) -> None:
    known = {key: [gene for gene in genes if gene in tiny.GENES] for key, genes in SETS.items()}
    options: Any = {"model": any_backend, "progress": False}
    drawn = Sampling(max_new_tokens=4, temperature=1.0, seed=3)
    for names in (None, NAMES):
        together = name_sets(known, options, names=names, sampling=drawn)
        alone = [name_sets({key: genes}, options, names=names, sampling=drawn) for key, genes in known.items()]
        assert together.names == [each.names[0] for each in alone]
        if names:
            assert together.scores is not None
            assert together.scores == pytest.approx([each.scores[0] for each in alone], abs=1e-5)
    together = list_sets(NAMES, options, genes=tiny.GENES[:40], n_genes=5, sampling=drawn)
    backwards = list_sets(NAMES[::-1], options, genes=tiny.GENES[:40], n_genes=5, sampling=drawn)
    assert together.answers == backwards.answers[::-1]
    assert all(len(set(answer.genes)) == 5 for answer in together.answers)


def test_lists_have_the_given_lengths() -> None:
    options: Any = {"model": fake(), "progress": False}
    listed = list_sets(
        NAMES, options, genes=GENES, n_genes={"T cell": 3, "B cell": 5, "NK cell": 1}, sampling=Sampling()
    )
    assert [len(answer.genes) for answer in listed.answers] == [3, 5, 1]
    with pytest.raises(ValueError, match="n_genes=99 is too many"):
        list_sets(NAMES, options, genes=GENES, n_genes=99, sampling=Sampling())
    with pytest.raises(ValueError, match="one or several different ones"):
        list_sets(["a", "a"], options, genes=GENES, sampling=Sampling())


def test_models_of_other_tasks_decline() -> None:
    backend = fake(templates={"annotate": [{"prompt": "{genes}:", "answer": " {cell_type}."}]})
    backend.model = replace(backend.model, wording="checkpoint")  # as metadata on disk make it
    for call in (lambda: name(backend), lambda: list_sets(["a"], {"model": backend}, sampling=Sampling())):
        with pytest.raises(Unsupported, match=r"trained on annotate only and cannot do (name|list)_gene_set"):
            call()


def test_the_menu_of_names() -> None:
    named = name(fake(), names=NAMES)
    assert set(named.names) <= set(NAMES)
    assert named.scores is not None
    assert (named.scores > 1 / 3).all()
    with pytest.raises(ValueError, match="at least two different"):
        name(fake(), names=["a"])
