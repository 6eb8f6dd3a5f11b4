"""GGUF files that the test writes: their weights after conversion are those of the model that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers

from cell2sen.checkpoints import fetch
from cell2sen.checkpoints.gguf import convert
from cell2sen.engine.network.loading import load_checkpoint
from cell2sen.model import resolve

gguf: Any = pytest.importorskip("gguf", reason="pip install 'cell2sen[gguf]'")

HEADS, KEY_HEADS, HIDDEN, INNER = 4, 2, 32, 64
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def network(n_tokens: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=n_tokens, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, max_position_embeddings=128, initializer_range=0.3,
        tie_word_embeddings=False,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of GGUF files of Llama: the two halves of each head take turns."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write(file: Path, original: Any, tokenizer: Any, architecture: str = "llama") -> None:
    writer = gguf.GGUFWriter(file, architecture)
    config = original.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(config.vocab_size)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    merges = tiny.json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    end = tokenizer.token_to_id("<|endoftext|>")
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    for name, weight in original.state_dict().items():
        values = weight.numpy().astype(np.float32)
        if "q_proj" in name or "k_proj" in name:
            values = interleaved(values, HEADS if "q_proj" in name else KEY_HEADS)
        writer.add_tensor(named(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def named(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in outer:
        return f"{outer[stem]}.weight"
    _, _, layer, *rest = stem.split(".")
    return f"blk.{layer}.{NAMES['.'.join(rest)]}.weight"


def test_the_converted_model_is_the_original(tmp_path: Path) -> None:
    tokenizer = tiny.tokens("bytes").tokenizer
    original = network(tokenizer.get_vocab_size())
    write(tmp_path / "model.gguf", original, tokenizer)
    folder = fetch(tmp_path / "model.gguf", tmp_path / "model", progress=False)
    assert "quantization_config" not in (folder / "config.json").read_text(), "it can be fine-tuned"
    loaded, tokens = load_checkpoint(resolve(folder, dtype="float32"), "cpu")
    text = "Cell sentence: CD4 CD44 MALAT1 HLA-A"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokens.tokenizer.encode(text, add_special_tokens=False).ids == ids
    with torch.inference_mode():
        for weight in original.parameters():
            weight.copy_(weight.to(torch.bfloat16))
        expected = original(torch.tensor([ids])).logits
        found = loaded(torch.tensor([ids])).logits
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny.tokens("bytes").tokenizer
    write(tmp_path / "neox.gguf", network(tokenizer.get_vocab_size()), tokenizer, architecture="gptneox")
    with pytest.raises(ValueError, match=r"has the architecture 'gptneox', which transformers .* does not read"):
        fetch(tmp_path / "neox.gguf", tmp_path / "neox", progress=False)
    assert not (tmp_path / "neox").exists()
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ValueError, match=r"damaged\.gguf"):
        convert(tmp_path / "damaged.gguf", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file .*absent\.gguf"):
        fetch(tmp_path / "absent.gguf", progress=False)
    with pytest.raises(ValueError, match=r"GGUF files are converted once: cell2sen fetch model\.gguf"):
        resolve("model.gguf")
