"""Models on a completions server with OpenAI's interface: llama.cpp, vLLM, SGLang, TGI and others."""

from __future__ import annotations

from cell2sen.data.progress import Report
from cell2sen.engine.serving.completions import CompletionsBackend
from cell2sen.engine.serving.http_client import Server
from cell2sen.engine.serving.token_backend import read_checkpoint
from cell2sen.model import Model


def load(
    model: Model,
    *,
    url: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: bool | Report = True,
    offline: bool = True,
    timeout: float = 600.0,
) -> CompletionsBackend:
    """Backend of a model that a server has loaded. Of the checkpoint only ``config.json`` and the tokenizer are read.

    Parameters
    ----------
    url
        Address of the server, with ``#NAME`` if it has several models. Nothing is sent to any other.
    batch_size
        Requests under way at the same time; None: 16.
    offline
        Use the tokenizer on this machine; False downloads a missing one from the hub.
    timeout
        Seconds without an answer after which a request is tried again.

    Raises
    ------
    ValueError
        No address, or the server has no such model.
    ConnectionError
        The server does not answer.
    FileNotFoundError
        The tokenizer is not on this machine.
    """
    if not url:
        raise ValueError("the backend openai needs the address of a server: --url http://localhost:8000 (url=)")
    server = Server(url, timeout=timeout)
    checkpoint = read_checkpoint(model, offline=offline)
    return CompletionsBackend(model, checkpoint, server, batch_size=batch_size, progress=progress)


def check_device(device: str) -> None:
    """Raise a ValueError: the server has chosen its device."""
    raise ValueError(f"device={device!r}, but a server computes where it runs; leave it out")
