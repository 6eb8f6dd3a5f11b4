"""Steps at the end of a training that fail do not cost the model."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import training_runs
from training_runs import assert_same, card, config, weights

from cell2sen.training.release import attempts, model_card, scorecard
from cell2sen.training.release.attempts import Attempts

module = importlib.import_module("cell2sen.training.train")
STEPS = {
    "calibration": (module, "calibrate"),
    "responses": (module, "fit_responses"),
    "scores": (scorecard, "scores"),
    "card": (model_card, "write_card"),
}


def test_errors_are_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cell2sen.json").write_text('{"labels": {}, "responses": {"x": 1}}', encoding="utf-8")
    (tmp_path / attempts.RESPONSE_FILE).write_bytes(b"half of it")
    steps = Attempts(tmp_path)
    assert steps.run("calibration", lambda: 3) == 3
    assert steps.run("responses", lambda: 1 / 0) is None
    steps.record()
    stored = json.loads((tmp_path / "cell2sen.json").read_text(encoding="utf-8"))
    assert stored == {"labels": {}, "failed": {"responses": "ZeroDivisionError: division by zero"}}
    assert not (tmp_path / attempts.RESPONSE_FILE).exists()
    assert "the model is complete, but without its responses: ZeroDivisionError" in caplog.text


def test_an_interruption_and_a_full_disk_are_raised(tmp_path: Path) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    def full() -> None:
        raise OSError("no space left on device")

    with pytest.raises(KeyboardInterrupt):
        Attempts(tmp_path).run("scores", interrupted)
    with pytest.raises(OSError, match="no space left"):
        Attempts(tmp_path).run("scores", full)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_model_is_written_whatever_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(*STEPS[step], fail)
    settings = config({"optimiser.max_steps": 1, "checkpoints.eval_steps": 1})
    model = training_runs.run(folder, tmp_path / "out", settings)
    trained = weights(model)
    assert model.metadata["failed"] == {step: "RuntimeError: no memory left"}
    assert f"without its {step}: RuntimeError: no memory left" in caplog.text
    assert (tmp_path / "out" / "model.safetensors").is_file()
    if step != "card":
        assert "# Model card" in card(model)
    with pytest.raises(FileExistsError, match="exists already"):
        training_runs.run(folder, tmp_path / "out", settings)
    monkeypatch.undo()
    again = training_runs.run(folder, tmp_path / "out", settings, resume=True)
    assert "failed" not in again.metadata
    assert "# Model card" in card(again)
    assert_same(weights(again), trained)
    assert not (tmp_path / "out.training").exists()
