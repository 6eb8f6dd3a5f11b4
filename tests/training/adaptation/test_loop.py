"""Loop of an adaptation: losses fall, timing leaves no trace, the same steps give the same weights."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import training_cells
from training_runs import assert_same

from cell2sen.model import Model
from cell2sen.training.adaptation import loop as module
from cell2sen.training.adaptation.loop import Loop
from cell2sen.training.adaptation.settings import Adaptation
from cell2sen.training.adaptation.unlabelled_cells import Reader, UnlabelledCells


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> UnlabelledCells:
    path = training_cells.write(tmp_path_factory.mktemp("cells") / "cells.h5ad")
    tokens = tiny.tokens("genes")
    return UnlabelledCells(path, Model(name="tiny", path="tiny", dtype="float32"), tokens.known, {"progress": False})


def loop_of(own: UnlabelledCells, **settings: Any) -> Loop:
    tokens = tiny.tokens("genes")
    network = copy.deepcopy(tiny.network("gpt_neox", tokens.tokenizer.get_vocab_size())).eval()
    return Loop(
        network=network,
        cells=own,
        reader=Reader(model=own.model, tokens=tokens, context_tokens=tiny.CONTEXT, options={}),
        settings=Adaptation(**{"batch_size": 16, **settings}),
        learning_rate=3e-3,
    )


def weights(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in loop.network.named_parameters()}


def test_both_losses_of_held_out_cells_fall(own: UnlabelledCells) -> None:
    done = loop_of(own).run(steps=30, minutes=0)
    assert done.after.next_gene < done.before.next_gene
    assert done.after.two_views < done.before.two_views
    assert (done.steps, done.log[-1]["step"]) == (30, 30)


def test_each_loss_alone(own: UnlabelledCells) -> None:
    genes = loop_of(own, two_views=0).run(steps=30, minutes=0)
    assert genes.after.next_gene < genes.before.next_gene
    views = loop_of(own, next_gene=0).run(steps=30, minutes=0)
    assert views.after.two_views < views.before.two_views
    assert views.after.next_gene > genes.after.next_gene
    assert views.before == genes.before  # both are measured whatever is trained


def test_minutes_become_steps_and_leave_no_trace(own: UnlabelledCells, monkeypatch: pytest.MonkeyPatch) -> None:
    by_steps, by_time = loop_of(own), loop_of(own)
    by_steps.run(steps=6, minutes=0)
    clock = iter(np.arange(10_000) * 0.5)
    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": staticmethod(lambda: next(clock))}))
    assert by_time.run(steps=None, minutes=3 / 60).steps == 6  # half a second each
    assert_same(weights(by_time), weights(by_steps))
    assert time.monotonic() > 0


def test_another_seed_is_another_model(own: UnlabelledCells) -> None:
    one, other = loop_of(own), loop_of(own, seed=1)
    for loop in (one, other):
        loop.run(steps=2, minutes=0)
    assert any(not torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))


def test_learning_rate_rises_and_falls() -> None:
    rates = [module._rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == 1
    assert rates[-1] < 0.01
