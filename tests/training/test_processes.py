"""Trainings on two processes by torchrun, bit-equal to gradient accumulation in one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import training_cells
from training_runs import config, log_values, run, weights

from cell2sen.training import processes
from cell2sen.training.config.training_file import plain

SCRIPT = """
import json, os, sys
from accelerate import state

begin = state.PartialState.__init__

def as_on_gpus(self, *arguments, **options):  # accelerate shards on GPUs only; here processes without any stand in
    begin(self, *arguments, **options)
    if self.num_processes > 1:
        self.distributed_type = state.DistributedType.MULTI_GPU

if "ACCELERATE_USE_FSDP" in os.environ:
    state.PartialState.__init__ = as_on_gpus
from cell2sen import training
settings = training.from_mapping(json.loads(sys.argv[1]))
training.train(settings, sys.argv[2], base=sys.argv[3], progress=False)
"""

ONE_TASK = {"tasks": ["annotate"], "perturbation": None}


#: What accelerate launch sets for --use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}


def launched(settings: object, out: Path, base: Path, n: int, **variables: str) -> None:
    """A training in processes of its own, also of one: in this process other tests have set threads and kernels."""
    (base / "train_it.py").write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={n}", f"--master_port={port}"]
    launcher = [*launcher, "--master_addr=127.0.0.1"] if n > 1 else []
    command = [sys.executable, *launcher, str(base / "train_it.py"), json.dumps(plain(settings)), str(out), str(base)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_equal_gradient_accumulation(tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad")
    changes = {"model.dropout": 0.0, "optimiser.max_steps": 8, "optimiser.batch_size": 8, "checkpoints.eval_steps": 4}
    launched(config(changes, file=ONE_TASK), tmp_path / "two", tmp_path, 2)
    halves = {**changes, "optimiser.batch_size": 4, "compute.gradient_accumulation": 2}
    launched(config(halves, file=ONE_TASK), tmp_path / "one", tmp_path, 1)
    one = tmp_path / "one"
    for name, weight in weights(one).items():
        assert (weights(tmp_path / "two")[name] == weight).all(), name
    assert log_values(tmp_path / "two") == pytest.approx(log_values(one), rel=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"cells.h5ad", "train_it.py", "one", "two"}


@pytest.mark.slow
def test_rewards_of_two_processes_equal_those_of_one(tmp_path: Path) -> None:
    """As many answers a step, the same ones; their gradients are added in another order, so weights to rounding."""
    training_cells.write(tmp_path / "cells.h5ad")
    file = {"tasks": ["perturb"]}
    start = {"data.lengths": {"perturb": 10}, "optimiser.max_steps": 20, "checkpoints.eval_steps": 20}
    run(tmp_path, tmp_path / "start", config(start, file=file))
    changes = {
        "data.lengths": {},
        "grpo.answers": {"prompts": 4, "per_prompt": 3, "held_out": 6},
        "optimiser.max_steps": 4,
        "checkpoints.eval_steps": 4,
    }
    for name, n, batch_size in (("two", 2, 12), ("one", 1, 6)):
        settings = config({**changes, "optimiser.batch_size": batch_size}, start=tmp_path / "start", file=file)
        launched(settings, tmp_path / name, tmp_path, n)
    two, one = tmp_path / "two", tmp_path / "one"
    begin, found = weights(tmp_path / "start"), weights(two)
    moved = max(float((weight - begin[name]).abs().max()) for name, weight in weights(one).items())
    apart = max(float((weight - found[name]).abs().max()) for name, weight in weights(one).items())
    assert apart < 5e-6 < 1e-4 < moved, (apart, moved)
    assert log_values(two, "eval_reward") == pytest.approx(log_values(one, "eval_reward"), rel=1e-4)
    assert len(log_values(one, "eval_reward")) == 2


@pytest.mark.slow
def test_sharded_weights_equal_those_of_one_process(tmp_path: Path) -> None:
    """FSDP: each of two processes has half of the weights. Adapters, too, whose names the wrapper changes."""
    training_cells.write(tmp_path / "cells.h5ad")
    changes = {"model.dropout": 0.0, "optimiser.max_steps": 4, "optimiser.batch_size": 8, "checkpoints.eval_steps": 2}
    halves = {**changes, "optimiser.batch_size": 4, "compute.gradient_accumulation": 2}
    launched(config(halves, file=ONE_TASK), tmp_path / "one", tmp_path, 1)
    launched(config(changes, file=ONE_TASK), tmp_path / "two", tmp_path, 2, **FSDP)
    for name, weight in weights(tmp_path / "one").items():
        assert (weights(tmp_path / "two")[name] - weight).abs().max() < 1e-4, name
    assert log_values(tmp_path / "two") == pytest.approx(log_values(tmp_path / "one"), rel=1e-3)
    adapted = config({**changes, "model.lora": {"r": 2}}, start=tmp_path / "one", file=ONE_TASK)
    launched(adapted, tmp_path / "adapted", tmp_path, 2, **FSDP)
    assert len(log_values(tmp_path / "adapted")) == 2
    before, after = weights(tmp_path / "one"), weights(tmp_path / "adapted")
    assert before.keys() == after.keys()
    assert max(float((after[name] - weight).abs().max()) for name, weight in before.items()) > 1e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grpo.answers": {"prompts": 4}}, "FSDP does not support rewards"),
        ({"model.lora": {}, "model.quantize": "4bit"}, "FSDP does not support quantised weights"),
        ({"model.lora": {}}, "FSDP does not support its version 1"),
    ],
)
def test_what_cannot_be_sharded_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    start = tiny.save(tmp_path / "start")
    settings = config({"data.lengths": {}, **changes}, start=start, file={"tasks": ["perturb"]})
    with pytest.raises(ValueError, match=message):
        run(tmp_path, tmp_path / "out", settings)


def test_a_batch_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.share_of_batch(7) == 7
    assert processes.is_main()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert processes.share_of_batch(8) == 2
    assert not processes.is_main()
    with pytest.raises(ValueError, match="must be a multiple of the 4 processes, found 6"):
        processes.share_of_batch(6)
