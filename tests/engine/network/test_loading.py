"""Checkpoints are loaded exactly, and errors name what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tokenizers
import torch
import transformers
from backend_contract import ANSWERS, DRAWN
from tiny import GENES, prompts

from cell2sen import backends
from cell2sen.backend import Sampling
from cell2sen.engine.network import cpu
from cell2sen.model import Model, resolve

pytestmark = pytest.mark.slow

CELLS = prompts(5)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["spm", "bytes"])
def test_load_from_a_directory(tmp_path: Path, architecture: str, kind: str) -> None:
    folder = tiny.save(tmp_path / "checkpoint", architecture, kind)
    model = resolve(folder, dtype="float32")
    backend: Any = backends.load(model, progress=False)
    expected = tiny.backend(architecture, kind)
    assert backend.model is model
    assert backend.context == tiny.CONTEXT
    assert backend.eos == expected.eos
    np.testing.assert_array_equal(backend.embed(CELLS).vectors, expected.embed(CELLS).vectors)
    assert backend.generate(CELLS, DRAWN) == expected.generate(CELLS, DRAWN)
    assert backend.generate(CELLS, DRAWN, genes=GENES) == expected.generate(CELLS, DRAWN, genes=GENES)


def test_metadata_beside_the_weights(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path)
    (folder / "cell2sen.json").write_text(json.dumps({"dtype": "float32", "genes": ["CD4", "B2M"], "stop": ["x"]}))
    backend: Any = backends.load(resolve(folder), progress=False)
    assert next(backend.network.parameters()).dtype == torch.float32
    assert backend.known_genes(["CD4", "CD44"]).tolist() == [True, False]


def test_bfloat16_if_the_cpu_has_it_or_the_user_sets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save(tmp_path, "gemma2", "spm")
    for fast, dtype, computed in (
        (False, None, "float32"), (True, None, "bfloat16"),
        (False, "bfloat16", "bfloat16"), (True, "float32", "float32"),
    ):  # fmt: skip
        monkeypatch.setattr("cell2sen.engine.network.cpu.has_bfloat16", lambda fast=fast: fast)
        backend: Any = backends.load(resolve(folder, dtype=dtype), progress=False, device="cpu")
        assert next(backend.network.parameters()).dtype == getattr(torch, computed)
        assert backend.model.provenance()["dtype"] == computed
    monkeypatch.undo()
    for capabilities, fast in (({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda result=capabilities: result, raising=False)
        assert cpu.has_bfloat16() is fast


def test_bfloat16_is_close(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path, "gemma2", "spm")
    backend: Any = backends.load(resolve(folder, dtype="bfloat16"), progress=False, batch_size=3)
    assert next(backend.network.parameters()).dtype == torch.bfloat16
    exact = tiny.backend("gemma2", "spm")
    for layer in (-1, 1):
        result, expected = backend.embed(CELLS, layer=layer).vectors, exact.embed(CELLS, layer=layer).vectors
        assert result.dtype == np.float32
        cosine = (result * expected).sum(1) / np.linalg.norm(result, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() > 0.99
    alone = np.concatenate([backend.embed([cell]).vectors for cell in CELLS])
    np.testing.assert_allclose(backend.embed(CELLS).vectors, alone, atol=0.1)


@pytest.mark.parametrize("revision", [None, "abc123"])
def test_a_missing_checkpoint_names_the_download_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = Model(name="x", path="nobody/nothing", revision=revision)
    command = "cell2sen fetch nobody/nothing" + (" --revision abc123" if revision else "")
    with pytest.raises(FileNotFoundError, match=command + "\n"):
        backends.load(model)


def test_incomplete_and_pickled_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint.*lacks config.json, tokenizer.json, \*.safetensors"):
        backends.load(Model(name="empty", path=str(tmp_path)))
    folder = tiny.save(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"lacks \*.safetensors$"):
        backends.load(resolve(folder))


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    folder = tiny.save(tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises((ValueError, FileNotFoundError)):
        backends.load(resolve(folder))


def test_a_tokenizer_class_that_rebuilds_the_file(tmp_path: Path) -> None:
    # GemmaTokenizer takes vocabulary and merges and builds its own normaliser, so a normaliser in the file is lost.
    folder = tiny.save(tmp_path, "gemma2", "spm")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Replace("-", ""), tokenizers.normalizers.Replace(" ", "▁")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "GemmaTokenizer"}))
    rebuilt = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Cell sentence: HLA-DRA MT-CO1"
    expected = tokenizer.encode(text, add_special_tokens=False).ids
    assert rebuilt.encode(text, add_special_tokens=False) != expected
    backend: Any = backends.load(resolve(folder, dtype="float32"), progress=False)
    assert backend.tokens.ids([text]) == [expected]
    assert backend.tokens.bos == tokenizer.token_to_id("<bos>")


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
def test_quantised(tmp_path: Path, quantize: str, architecture: str) -> None:
    pytest.importorskip("bitsandbytes")
    # bitsandbytes needs multiples of 32 on some CPUs
    sizes = {"hidden_size": 128, "intermediate_size": 128, "initializer_range": 0.05}
    sizes |= {"head_dim": 32} if architecture == "gemma2" else {}
    folder = tiny.save(tmp_path, architecture, "spm", **sizes)
    exact: Any = backends.load(resolve(folder, dtype="float32"), progress=False)
    backend: Any = backends.load(resolve(folder, quantize=quantize), progress=False)
    kinds = {type(module).__name__ for module in backend.base.modules()}
    assert {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[quantize] in kinds
    result, expected = backend.embed(CELLS).vectors, exact.embed(CELLS).vectors
    cosine = (result * expected).sum(1) / np.linalg.norm(result, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.9
    assert not np.allclose(result, expected, atol=1e-4)
    alone = np.concatenate([backend.embed([cell]).vectors for cell in CELLS])
    np.testing.assert_allclose(result, alone, atol=0.05 if quantize == "4bit" else 0)
    for text in backend.generate(CELLS, Sampling(), genes=GENES):
        assert set(text.split(" ")) <= set(GENES)
    assert np.isfinite(backend.score(CELLS, ANSWERS)).all()


def test_quantisation_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'cell2sen\[quant\]'"):
        backends.load(Model(name="x", path="nobody/nothing", quantize="4bit"))
