"""The vllm backend passes the contract and equals the transformers backend; skipped where vLLM is not installed.

``make vllm-test`` runs it with a build of vLLM for CPUs, in an environment of its own. Engines take minutes to start on
a busy machine, so there is one of each kind for all tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from backend_contract import ANSWERS, Make
from completions_server import FakeServer, serving
from served_contract import ServedContract
from tiny import GENES, prompts

from cell2sen import backends
from cell2sen.backend import Sampling, Unsupported
from cell2sen.backends import vllm
from cell2sen.model import Model

# vLLM leaves it to the garbage collection to close its sockets.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function Context:pytest.PytestUnraisableExceptionWarning"
)

CELLS = prompts(4)
SAMPLINGS = (
    Sampling(max_new_tokens=6),
    Sampling(max_new_tokens=6, temperature=1.0, seed=3),
    Sampling(max_new_tokens=6, temperature=1.3, seed=3, top_k=20, top_p=0.9),
)
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed; `make vllm-test` installs a build for CPUs"
)

#: Arguments of engines in tests, which take little memory.
ENGINE = {"enforce_eager": True, "distributed_executor_backend": "uni", "gpu_memory_utilization": 0.1}

SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}

#: Computes what the transformers backend gives. Importing vLLM changes how transformers runs models, so this is a
#: process of its own.
EXPECTED = """
import json, sys
from cell2sen import backends
from cell2sen.model import Model
from test_vllm import ANSWERS, CELLS, GENES, SAMPLINGS

own = backends.load(Model(name="tiny", path=sys.argv[1], dtype="float32"), progress=False)
texts = [own.generate(CELLS, sampling, genes=genes) for sampling in SAMPLINGS for genes in (None, GENES)]
print(json.dumps([texts, own.score(CELLS, ANSWERS).tolist(), own.embed(CELLS).vectors.tolist()]))
"""


def expected_of(folder: Path) -> tuple[list[list[str]], np.ndarray, np.ndarray]:
    """Texts, scores and vectors of the transformers backend."""
    paths = os.pathsep.join(
        [str(Path(__file__).parent), str(Path(tiny.__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    result = subprocess.run(
        [sys.executable, "-c", EXPECTED, str(folder)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    texts, scores, vectors = json.loads(result.stdout.splitlines()[-1])
    return texts, np.array(scores), np.array(vectors)


def assert_equal(backend: Any, folder: Path, *, embeds: bool = True) -> None:
    texts, scores, vectors = expected_of(folder)
    assert [backend.generate(CELLS, each, genes=genes) for each in SAMPLINGS for genes in (None, GENES)] == texts
    np.testing.assert_allclose(backend.score(CELLS, ANSWERS), scores, atol=1e-4)
    if embeds:
        np.testing.assert_allclose(backend.embed(CELLS).vectors, vectors, rtol=1e-4, atol=1e-5)


def checkpoint(folder: Path, architecture: str) -> Path:
    """A checkpoint with heads of 32 numbers, the fewest that vLLM has on CPUs."""
    if architecture == "gemma2":
        return tiny.save(folder, "gemma2", "spm", head_dim=32)
    return tiny.save(folder, "gpt_neox", "bytes", hidden_size=128)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: checkpoint(tmp_path_factory.mktemp("vllm") / name, name) for name in ("gemma2", "gpt_neox")}


@pytest.fixture(scope="module")
def settings() -> Iterator[None]:
    """Environment of vLLM's processes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        yield


def loaded(folder: Path, **options: Any) -> Any:
    model = Model(name="tiny", path=str(folder), dtype="float32")
    return backends.load(model, "vllm", **{"engine": ENGINE, "progress": False} | options)


class Shared(vllm.VllmBackend):
    """A backend that keeps both engines, each started once."""

    engines: dict[tuple[str, str], Any] = {}  # noqa: RUF012

    def close(self) -> None:
        self._llm, self._runner = None, ""

    def _engine(self, runner: Any) -> Any:
        if (self._folder, runner) not in self.engines:
            self.engines[self._folder, runner] = super()._engine(runner)
        return self.engines[self._folder, runner]


@pytest.fixture(scope="module")
def shared(settings: None) -> Iterator[type[vllm.VllmBackend]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "VllmBackend", Shared)
        yield Shared
    for llm in Shared.engines.values():
        llm.llm_engine.engine_core.shutdown()
    Shared.engines.clear()


@needs_vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
class TestVllm(ServedContract):
    @pytest.fixture
    def make(self, shared: type[vllm.VllmBackend], folders: dict[str, Path]) -> Make:
        for runner in ("generate", "pooling"):  # here, so that vLLM's warnings are not among those of a test
            loaded(folders["gemma2"])._engine(runner)
        return lambda **options: loaded(folders["gemma2"], **options)


@needs_vllm
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_equals_the_transformers_backend(
    shared: type[vllm.VllmBackend], folders: dict[str, Path], architecture: str
) -> None:
    backend = loaded(folders[architecture])
    assert_equal(backend, folders[architecture])
    record = backend.provenance()
    assert record["engine"] == "vllm"
    assert record["dtype"] == "float32"


@needs_vllm
@pytest.mark.slow
def test_a_server_equals_the_transformers_backend(folders: dict[str, Path], vllm_server: str) -> None:
    for name in ("vllm", "openai"):
        model = Model(name="tiny", path=str(folders["gemma2"]), dtype="float32")
        backend = backends.load(model, name, url=vllm_server, progress=False)
        assert_equal(backend, folders["gemma2"], embeds=False)
        assert backend.provenance()["server"] == {"model": "tiny", "guided": "by cell2sen in vLLM"}
        with pytest.raises(Unsupported, match="has no embeddings of 'tiny'"):
            backend.embed(CELLS)


@pytest.fixture(scope="module")
def vllm_server(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a vLLM server with the logits processor."""
    import socket
    import time
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folders["gemma2"])]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--gpu-memory-utilization", "0.1", "--logits-processors", vllm.PROCESSORS[False]]
    log = tmp_path_factory.mktemp("server") / "log"
    with (
        log.open("w") as stream,
        subprocess.Popen(command, env={**os.environ, **SETTINGS}, stdout=stream, stderr=stream) as process,
    ):
        url = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(1)
            yield url
        finally:
            process.terminate()


# -- without vLLM


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'cell2sen\[vllm\]'.*--url"):
        loaded(folders["gemma2"])
    with pytest.raises(ValueError, match="device='cuda', but vLLM computes"):
        loaded(folders["gemma2"], device="cuda")


def test_no_quantisation(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> None:
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: name)
    model = Model(name="tiny", path=str(folders["gemma2"]), quantize="4bit")
    with pytest.raises(ValueError, match="leave out quantize='4bit'"):
        backends.load(model, "vllm")


def test_a_server_without_the_logits_processor(folders: dict[str, Path]) -> None:
    with serving(FakeServer(architecture="gemma2", kind="spm")) as fake:
        backend = loaded(folders["gemma2"], url=fake.url)
        assert backend.generate(CELLS, Sampling(max_new_tokens=1))
        with pytest.raises(Unsupported, match=r"start it with --logits-processors cell2sen.*vllm_v1:GuidedAnswers"):
            backend.generate(CELLS, Sampling(), genes=GENES)
        fake.guide = True
        backend = loaded(folders["gemma2"], url=fake.url)
        assert all(len(text.split()) >= 3 for text in backend.generate(CELLS, Sampling(), genes=GENES))
