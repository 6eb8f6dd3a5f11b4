"""Workers by the variables of SLURM and torchrun, and the SLURM script."""

from __future__ import annotations

import pytest

from cell2sen.atlas.engines.environment import (
    device_of_worker,
    environment_of_process,
    n_gpus,
    place_of_worker,
    slurm_script,
)


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16", "SLURM_ARRAY_TASK_MIN": "0"}, (3, 16)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "4"}, (3, 4)),
        # One task again after a failure: it begins at 0 of 1 and finishes everything.
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MIN": "7"}, (0, 1)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_STEP": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2",
            },
            (7, 8),
        ),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, (2, 4)),
        ({"RANK": "5", "WORLD_SIZE": "8"}, (5, 8)),
    ],
)  # fmt: skip
def test_place_of_worker(values: dict[str, str], place: tuple[int, int] | None) -> None:
    assert place_of_worker(values) == place


def test_device_under_torchrun() -> None:
    values = {"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert device_of_worker("auto", values) == "cuda:1"
    assert device_of_worker("cpu", values) == "cpu"
    assert device_of_worker("auto", {"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "3"}) == "auto"
    assert n_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0


def test_local_processes_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    values = [environment_of_process(index, 3, "auto") for index in range(3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in values] == ["4", "6", "4"]
    assert "RANK" not in values[0]
    assert int(values[0]["OMP_NUM_THREADS"]) >= 1


def test_slurm_script(tmp_path) -> None:
    text = slurm_script(tmp_path / "a run", tasks=8, gpus=1)
    assert "#SBATCH --array=0-7\n" in text
    assert "#SBATCH --requeue\n" in text
    assert "#SBATCH --gres=gpu:1\n" in text
    assert text.rstrip().endswith(f"-m cell2sen run '{tmp_path}/a run'")
    assert "srun --ntasks=4 --gpus-per-task=1" in slurm_script(tmp_path, gpus=4)
    assert "gres" not in slurm_script(tmp_path, gpus=0)
