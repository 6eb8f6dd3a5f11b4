"""A completions server in this process around a tiny model, with the habits of several real ones."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import tiny
import torch

from cell2sen.engine.decoding.answer_guide import AnswerGuide, AnswerRequest

#: Fields of the interface; a strict server refuses others.
FIELDS = {
    "model", "prompt", "max_tokens", "temperature", "top_k", "top_p", "seed", "stop", "echo", "logprobs", "logit_bias",
}  # fmt: skip


class Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class FakeServer:
    """Model and habits of a server, and what it was asked."""

    architecture: str = "gpt_neox"
    kind: str = "bytes"
    models: tuple[str, ...] = ("tiny",)
    ids: bool = True
    """Takes prompts of token ids."""
    echo: bool = True
    bias: bool = True
    guide: bool = False
    """Has the logits processor of this package, as vLLM may have."""
    replies: str = "token_ids"
    """How ids of the answer are given: token_ids (vLLM), content (llama.cpp), names or text."""
    strict: bool = False
    embeddings: bool = True
    completions: bool = True
    unit: bool = False
    context: int | None = None
    failures: list[tuple[int, str]] = field(default_factory=list)
    """Status and body of the next answers."""
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self.tokens = tiny.tokens(self.kind)
        self.network = tiny.network(self.architecture, self.tokens.tokenizer.get_vocab_size(), implementation="eager")
        self.lock = threading.Lock()

    def logits(self, ids: list[int]) -> torch.Tensor:
        with self.lock, torch.no_grad():
            return self.network(torch.tensor([ids])).logits[0].float()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/models":
            entries: list[dict[str, Any]] = [{"id": name} for name in self.models]
            if self.context is not None:
                entries = [entry | {"max_model_len": self.context} for entry in entries]
            return {"data": entries}
        if body.get("model") not in self.models:
            raise Refusal(404, f"The model `{body.get('model')}` does not exist.")
        if path == "/v1/completions" and self.completions:
            return self.complete(body)
        if path == "/v1/embeddings" and self.embeddings:
            return self.embed(body["input"])
        raise Refusal(404, "Not Found")

    def read(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            return self.tokens._opened(self.tokens.ids([prompt])[0])
        if not self.ids:
            raise Refusal(422, "prompt: expected a string")
        return list(prompt)

    def embed(self, prompt: Any) -> dict[str, Any]:
        ids = self.read(prompt)
        with self.lock, torch.no_grad():
            states = self.network.base_model(torch.tensor([ids])).last_hidden_state[0]
        vector = states.mean(0)
        if self.unit:
            vector = vector / vector.norm()
        return {"data": [{"embedding": vector.tolist()}]}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.strict and (unknown := set(body) - FIELDS):
            raise Refusal(400, f"Unrecognized request arguments supplied: {sorted(unknown)}")
        ids = self.read(body["prompt"])
        if self.context is not None and len(ids) + body["max_tokens"] > self.context:
            raise Refusal(400, f"This model's maximum context length is {self.context} tokens")
        guide = None
        if self.guide:
            try:
                request = AnswerRequest.read(body.get("vllm_xargs"))
            except ValueError as error:
                raise Refusal(400, str(error)) from error
            guide = request and AnswerGuide(request, self.network.config.vocab_size)
        written: list[int] = []
        reason = "length"
        stops = [*body.get("stop", ())]
        ends = {*self.tokens.eos, *body.get("stop_token_ids", ())}
        while len(written) < body["max_tokens"]:
            logits = self.logits(ids + written)[-1]
            if self.bias:
                for token, value in (body.get("logit_bias") or {}).items():
                    logits[int(token)] += min(100.0, max(-100.0, value))
            written.append(guide.choose(logits, written) if guide else self.sampled(logits, body, len(written)))
            special = body.get("skip_special_tokens") is False
            if written[-1] in ends or any(stop in self.tokens.text(written, special) for stop in stops):
                reason = "stop"
                break
        text = self.tokens.text(written, body.get("skip_special_tokens") is False)
        cut = min((start for stop in stops if (start := text.find(stop)) >= 0), default=len(text))
        choice: dict[str, Any] = {"text": text[:cut], "finish_reason": reason, "logprobs": None}
        if self.replies == "token_ids" and body.get("return_token_ids"):
            choice["token_ids"] = written
        if body.get("logprobs"):
            choice["logprobs"] = self.logprobs(ids, written, bool(body.get("echo")) and self.echo)
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}

    def sampled(self, logits: torch.Tensor, body: dict[str, Any], position: int) -> int:
        if not body.get("temperature"):
            return int(logits.argmax())
        scores = (logits / body["temperature"]).double()
        if body.get("top_k"):
            scores[scores < scores.topk(body["top_k"]).values[-1]] = -torch.inf
        order = scores.argsort(descending=True)
        p = scores.softmax(0)[order].numpy()
        if body.get("top_p"):
            p = np.where(p.cumsum() - p < body["top_p"], p, 0)
        return int(order[np.random.default_rng([body["seed"], position]).choice(len(p), p=p / p.sum())])

    def logprobs(self, ids: list[int], written: list[int], echo: bool) -> dict[str, Any]:
        if self.replies == "content":
            return {"content": [{"id": token, "token": self.tokens.text([token], True)} for token in written]}
        row = ids + written if echo else written
        log_p = self.logits(ids + written).log_softmax(1)
        values = [None] + [float(log_p[place, token]) for place, token in enumerate((ids + written)[1:])]
        texts = [self.tokens.text([token], True) for token in row]
        if self.replies == "names":
            texts = [f"token_id:{token}" for token in row]
        return {"tokens": texts, "token_logprobs": values if echo else values[len(ids) :]}


@contextlib.contextmanager
def serving(fake: FakeServer) -> Iterator[FakeServer]:
    """The server on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            fake.requests.append((self.path, body, dict(self.headers)))
            status, content, headers = 200, b"", {}
            if fake.failures:
                status, text = fake.failures.pop(0)
                if status == 302:
                    headers["Location"] = text
                if status == 0:  # no answer in time
                    threading.Event().wait(float(text))
                    return
                content = text.encode()
            else:
                try:
                    content = json.dumps(fake.answer(self.path, body)).encode()
                except Refusal as error:
                    status, content = error.status, json.dumps({"error": {"message": str(error)}}).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
