"""Progress on stderr and in the log; nothing on standard output."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from cell2sen.training.trainers.progress import Progress


@pytest.mark.parametrize("measure", ["loss", "reward"])
@pytest.mark.parametrize("show", [True, False])
def test_steps_and_values(
    measure: str, show: bool, capsys: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "cell2sen")
    monkeypatch.setattr("cell2sen.data.progress.is_interactive", lambda: True)
    progress, state = Progress(show, measure), SimpleNamespace(max_steps=4, global_step=0)
    progress.on_train_begin(None, state, None)
    for state.global_step in (1, 2):
        progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, logs={measure: 0.25, "other": 1})
    progress.on_log(None, state, None, logs={f"eval_{measure}": 0.125})
    progress.on_log(None, state, None)
    progress.on_train_end(None, state, None)
    output = capsys.readouterr()
    assert output.out == ""
    assert ("2/4 [" in output.err and f"{measure} 0.250" in output.err) == show
    assert f"step 2: {measure} on held-out cells 0.1250" in caplog.text
