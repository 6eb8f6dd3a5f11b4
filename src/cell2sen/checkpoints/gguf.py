"""GGUF files: conversion into a directory of safetensors and tokenizer.json, through transformers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers

from cell2sen.engine.network.loading import progress_bars

_hf: Any = transformers  # typed in parts only


def convert(file: Path, folder: Path) -> None:
    """Write the weights of a GGUF file, in bfloat16, and its tokenizer into a folder.

    Quantised weights are dequantised, so that they keep the precision that they were cut to.

    Parameters
    ----------
    file
        GGUF file of an architecture that transformers reads (Gemma-2, Llama, …; not GPT-NeoX).
    folder
        An empty folder.

    Raises
    ------
    ValueError
        The file is damaged, or transformers does not read its architecture.
    ImportError
        The package gguf is not installed.
    """
    if missing := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        raise ImportError(f"GGUF files need {' and '.join(missing)}; install with: pip install 'cell2sen[gguf]'")
    architecture = _architecture(file)
    source = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with progress_bars(False):
            loaded = _hf.AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **source)
            tokenizer = _hf.AutoTokenizer.from_pretrained(str(file.parent), **source)
    except (ValueError, KeyError, NotImplementedError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} has the architecture {architecture!r}, which transformers {transformers.__version__} does not "
            f"read from GGUF ({error}); use the checkpoint in safetensors"
        ) from error
    # A model that was read from GGUF does not save itself: its state goes into a fresh one, that is not quantised.
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    fresh = _hf.AutoModelForCausalLM.from_config(type(loaded.config).from_dict(config))
    fresh.load_state_dict(loaded.state_dict())
    with progress_bars(False):
        fresh.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _architecture(file: Path) -> str:
    """Architecture that the header of a GGUF file names."""
    import gguf

    try:
        field = gguf.GGUFReader(file).get_field("general.architecture")
        name = "" if field is None else str(field.contents())
    except (ValueError, IndexError, OSError, KeyError) as error:
        raise ValueError(f"{file} is no GGUF file, or is damaged: {error}") from error
    if not name:
        raise ValueError(f"{file} does not name its architecture")
    return name
