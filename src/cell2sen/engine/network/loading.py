"""Checkpoint loading: causal LM with our attention, dtype, quantisation, tokenizer."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from cell2sen.engine.network import attention, cpu
from cell2sen.engine.tokenization.tokenizer import Tokens, load_tokens
from cell2sen.model import Model

_hf: Any = transformers  # typed in parts only


def load_checkpoint(model: Model, device: str, *, offline: bool = True, progress: object = True) -> tuple[Any, Tokens]:
    """Network and tokenizer of a checkpoint, from a local directory or the hub's cache.

    Sets malloc to keep freed memory (:func:`cell2sen.engine.network.cpu.keep_freed_memory`), and the network's linear
    layers to oneDNN (:func:`cell2sen.engine.network.cpu.use_onednn`).

    Parameters
    ----------
    model
        With the dtype for this device (:func:`cell2sen.engine.network.cpu.resolve_dtype`).
    device
        A device of PyTorch.
    offline
        Use the files on this machine; False downloads missing ones from the hub.
    progress
        Show the progress of a download. Weights on this machine are read without a bar.

    Raises
    ------
    FileNotFoundError
        The checkpoint is not on this machine; the message has the command that downloads it.
    ValueError
        Its tokenizer cannot be read exactly, or transformers does not have its architecture.
    ImportError
        `model` is quantised and bitsandbytes is not installed.
    """
    if model.is_local:
        _check_files(model)
    cpu.keep_freed_memory()
    source: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False}
    if not model.is_local:
        source["revision"] = model.revision
    options: dict[str, Any] = {"dtype": getattr(torch, model.resolved_dtype), "use_safetensors": True}
    if model.quantize is not None:
        options |= {"quantization_config": _quantization(model), "device_map": {"": device}}
    try:
        config = _hf.AutoConfig.from_pretrained(model.path, **source)
        tokens = load_tokens(model.path, **source)
        with progress_bars(bool(progress) and not offline):
            network = _hf.AutoModelForCausalLM.from_pretrained(
                model.path, config=config, attn_implementation=attention.register(), **options, **source
            )
    except OSError as error:
        if model.is_local:
            raise
        revision = f" --revision {model.revision}" if model.revision else ""
        raise FileNotFoundError(
            f"the checkpoint {model.path!r} is not, or not completely, on this machine; download it with\n"
            f"    cell2sen fetch {model.path}{revision}\nand pass the directory as the model, or load it with "
            f"offline=False. transformers reports: {error}"
        ) from error
    if model.quantize is None:
        network.to(device)
        cpu.use_onednn(network)
    cpu.keep_quantized_layout(network, only_unsupported=True)
    return network, tokens


def _check_files(model: Model) -> None:
    """Raises FileNotFoundError for missing files. Pickled weights (``*.bin``) are never loaded: they may run code."""
    patterns = ("config.json", "tokenizer.json", "*.safetensors")
    if missing := [pattern for pattern in patterns if not any(Path(model.path).glob(pattern))]:
        raise FileNotFoundError(f"no checkpoint in {model.path!r}: it lacks {', '.join(missing)}")


def _quantization(model: Model) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError(
            f"quantize={model.quantize!r} needs bitsandbytes; install it with: pip install 'cell2sen[quant]'"
        )
    if model.quantize == "8bit":
        return _hf.BitsAndBytesConfig(load_in_8bit=True)
    return _hf.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, model.resolved_dtype)
    )


@contextlib.contextmanager
def progress_bars(show: bool) -> Iterator[None]:
    """Context without transformers' progress bars and reports on weights, unless `show`."""
    logging = _hf.utils.logging
    enabled = logging.is_progress_bar_enabled()
    if not show:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
