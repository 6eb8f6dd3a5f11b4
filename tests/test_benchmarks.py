"""The benchmarks run at a tiny size and without peers, and the compared results are equal."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def lines(script: str, *options: str) -> list[dict]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), "--tiny", "--runs", "1", *options],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_speed() -> None:
    only = ("sentences_top", "sentences_normalised", "prompts")
    rows = lines("speed.py", "--burners", "1", "--only", *only, "embedding", "annotation", "annotation_bf16")
    assert [line["row"] for line in rows] == [
        "machine", "sentences as text, top 10", "sentences as gene ids, all genes, of logarithms",
        "prompts to ids", "embedding, about 30 genes",
        "annotation with 5 labels", "annotation with 5 labels in bfloat16",
    ]  # fmt: skip
    assert {line["burners"] for line in rows[1:] if "cell2sen" in line} == {1}
    assert rows[3]["tokenizers"]["ids_equal"] is True
    assert "cell2sen" in rows[-1] or "no bfloat16" in rows[-1]["not_measured"]
    for line in [line for line in rows[1:] if "cell2sen" in line]:
        assert line["cell2sen"]["seconds"] > 0
        assert line["cell2sen"]["peak_mb"] > 10


def test_gpu_script_on_cpu() -> None:
    quantised = ["large"] if _has("bitsandbytes") else []
    rows = {
        line["row"]: line
        for line in lines("gpu.py", "--only", "matrix", "parity", "embedding", "generation", *quantised)
    }
    assert rows["attention against eager"]["largest_difference"] < 1e-4
    for length in (64, 128):
        line = rows[f"embedding, {length} tokens"]
        assert line["helical_way"]["smallest_cosine"] > 0.99999
        assert line["cell2sen"]["share_of_ceiling"] > 0
    line = rows["guided generation, 5 genes"]
    assert line["genes"] == 2 * 5
    assert line["passes_per_gene"] > 0
    if quantised:
        assert rows["27B, 4bit"]["finite"]


def test_gpu_script_without_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no GPU" in done.stderr


def test_imported_names_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """No type checker reads these scripts, and most of them do not run in the tests."""
    scripts = sorted((ROOT / "benchmarks").glob("*.py"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    own = {"cell2sen", *(script.stem for script in scripts)}
    for script in scripts:
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in own:
                exec(compile(ast.Module(body=[node], type_ignores=[]), script.name, "exec"), {})


def _has(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def test_corpus(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "corpus.py"), "--cells", "300", "--folder", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--builds", "mixture"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    samples = done.stdout.splitlines()[-1].split(" | ")[2]
    assert int(samples.replace(",", "")) > 450  # one of annotate and half of one of generate for each cell
