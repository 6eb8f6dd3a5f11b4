"""Completions servers with OpenAI's interface (llama.cpp, vLLM, SGLang, TGI): what each can do is tried once.

| verb | needs | else |
| --- | --- | --- |
| free answers | ``/completions`` | |
| guided answers | this package's logits processor in vLLM, or ``logit_bias`` and prompts of ids | Unsupported |
| scores | ``echo`` with ``logprobs`` | Unsupported |
| embeddings | ``/embeddings`` | Unsupported |

With ``logit_bias`` a guided answer takes one request per token that is not forced. Noise of a draw is part of the bias,
so that the server's greedy choice is the token that this package draws.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.backend import Sampling, Unsupported
from cell2sen.data.progress import Progress, Report
from cell2sen.engine.decoding.answer_guide import ANSWER, AnswerGuide, AnswerRequest
from cell2sen.engine.decoding.sampling import gumbel, row_key
from cell2sen.engine.serving.http_client import Refused, Server
from cell2sen.engine.serving.token_backend import Checkpoint, Row, TokenBackend
from cell2sen.model import Model
from cell2sen.prompt import Prompt

_log = logging.getLogger(__name__)
Result = TypeVar("Result")

#: Requests under way at the same time, unless there is a batch size.
_AT_ONCE = 16

#: Prompt by which a server's abilities are tried.
_PROBE = Prompt.of_cell("Cell sentence: ", genes=("CD4", "CD44", "B2M"), after=".")

#: Added to the logits of allowed tokens, at most as much as servers take: of greedy tokens, and of those with noise.
_BIAS, _NOISY_BIAS = 100.0, 80.0

#: No Gumbel noise is larger (:func:`cell2sen.engine.decoding.sampling.gumbel`).
_MAX_NOISE = 16.7

#: Asks for the log-probabilities of a prompt, which are followed by that of one token.
_ECHO: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}

#: Largest seed that servers take.
_SEEDS = 2**31 - 1

#: Extensions of vLLM, which others ignore or refuse: ids of the answer, and stop strings that are special tokens.
_EXTENSIONS = {"return_token_ids": True, "skip_special_tokens": False}


class CompletionsBackend(TokenBackend):
    """The verbs of the contract on a server.

    Parameters
    ----------
    server
        The server, with the name of one of its models or none.

    Raises
    ------
    ConnectionError
        The server does not answer.
    ValueError
        It has no such model, or several and none is named.
    """

    def __init__(
        self,
        model: Model,
        checkpoint: Checkpoint,
        server: Server,
        *,
        batch_size: int | None = None,
        progress: bool | Report = True,
    ) -> None:
        self.server = server
        self.served, context = _served_model(server, model)
        super().__init__(model, checkpoint, context=context, batch_size=batch_size, progress=progress)
        self._record: dict[str, str] = {}

    def provenance(self) -> dict[str, Any]:
        """Model, the name that it has on the server, and what the server did in its own way so far."""
        unknown = {"dtype": "of the server", "quantize": "of the server", "weights_sha256": ""}
        return super().provenance() | unknown | {"server": {"model": self.served, **self._record}}

    # -- what the server can do

    @cached_property
    def _takes_ids(self) -> bool:
        """Whether prompts may be token ids; else they are text."""
        [row] = self._rows([_PROBE])
        try:
            answer = self._post("completions", self._body(row.ids, max_tokens=1, temperature=0))
        except Refused as error:
            if error.status not in (400, 415, 422):
                raise self._unsupported("completions", error) from error
        else:
            read = (answer.get("usage") or {}).get("prompt_tokens")
            if read in (None, len(row.ids)):
                return True
        try:
            answer = self._post("completions", self._body(row.text, max_tokens=1, temperature=0))
        except Refused as error:
            raise self._unsupported("completions", error) from error
        self._record["prompts"] = "text, tokenized by the server"
        read = (answer.get("usage") or {}).get("prompt_tokens")
        if read not in (None, len(row.ids)):
            _log.warning(
                "the server reads %s tokens where the tokenizer of %s has %d: it serves another model or tokenizer",
                read, self.model.name, len(row.ids),
            )  # fmt: skip
        return False

    @cached_property
    def _extensions(self) -> dict[str, Any]:
        """Extensions of the interface that the server does not refuse."""
        [row] = self._rows([_PROBE])
        prompt = row.ids if self._takes_ids else row.text
        extended = _EXTENSIONS | {"stop_token_ids": sorted(self.eos)}
        try:
            self._post("completions", self._body(prompt, max_tokens=1, temperature=0) | extended)
        except Refused:
            return {}
        return extended

    @cached_property
    def _has_guide(self) -> bool:
        """Whether the server runs this package's logits processor: it refuses an answer that cannot be read."""
        [row] = self._rows([_PROBE])
        body = self._body(row.ids, max_tokens=1, temperature=0, vllm_xargs={ANSWER: "?"})
        try:
            self._post("completions", body)
        except Refused as error:
            return f"{ANSWER} cannot be read" in error.message
        return False

    @cached_property
    def _why_no_bias(self) -> str:
        """Why answers cannot be guided by ``logit_bias``; empty if they can."""
        [row] = self._rows([_PROBE])
        if not self._takes_ids:
            return "it takes text only, no prompts of token ids"
        for token in self.tokens.ids([" CD4"])[0][:1] + self.tokens.ids(["."])[0][:1]:
            try:
                choice = self._choice(row, max_tokens=1, temperature=0, logprobs=1, logit_bias={str(token): 100})
            except Refused as error:
                return f"it refuses logit_bias: {error.message}"
            if self._token(choice, [token]) != token:
                return "it ignores logit_bias"
        return ""

    @cached_property
    def _why_no_scores(self) -> str:
        """Why answers cannot be scored; empty if they can."""
        [row] = self._rows([_PROBE])
        try:
            logprobs = self._choice(row, **_ECHO).get("logprobs") or {}
        except Refused as error:
            return f"it refuses echo with logprobs: {error.message}"
        values = logprobs.get("token_logprobs") or []
        if len(values) < (len(row.ids) if self._takes_ids else 2):
            return "it ignores echo, so it gives no log-probabilities of a prompt"
        if not self._takes_ids and len(logprobs.get("tokens") or []) != len(values):
            return "it takes text only, and does not say which tokens it reads"
        return ""

    # -- verbs

    def _vectors(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        size = int(self.config.hidden_size)
        form = self._embedding_form()

        def vector(row: Row) -> NDArray[np.float32]:
            try:
                answer = self._post(
                    "embeddings", {"model": self.served, "input": form(row), "encoding_format": "float"}
                )
            except Refused as error:
                raise self._unsupported("embeddings", error) from error
            found = np.asarray(answer["data"][0]["embedding"], dtype=np.float32)
            if found.shape != (size,):
                raise ValueError(
                    f"the server's vectors have the shape {found.shape}, those of {self.model.name} {size}"
                )
            return found

        vectors = self._each(vector, rows, "embedding")
        if "vectors" not in self._record:
            is_unit = len(vectors) > 1 and np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)
            self._record["vectors"] = "pooled by the server" + (", of length 1" if is_unit else "")
            _log.warning(
                "vectors are pooled as the server is set up%s: compare them only with vectors of the same server",
                ", and scaled to length 1" if is_unit else "",
            )
        return vectors

    def _embedding_form(self) -> Callable[[Row], Any]:
        """What a row is sent as: ids, or text to servers that refuse ids."""
        [row] = self._rows([_PROBE])
        try:
            self._post("embeddings", {"model": self.served, "input": row.ids, "encoding_format": "float"})
        except Refused as error:
            if error.status not in (400, 415, 422):
                raise self._unsupported("embeddings", error) from error
            self._record["prompts"] = "text, tokenized by the server"
            return lambda row: row.text
        return lambda row: row.ids

    def _write(self, rows: Sequence[Row], requests: Sequence[AnswerRequest], sampling: Sampling) -> list[Any]:
        limits: dict[str, Any] = {"max_tokens": sampling.max_new_tokens}
        if sampling.stop:
            limits["stop"] = list(sampling.stop[:4])  # as many as the interface has; the others cut afterwards
        guided = requests[0].is_drawn and self._takes_ids and self._has_guide
        extensions = self._extensions
        if requests[0].is_drawn and not guided:
            self._record["draws"] = "by the server"

        def write(place: int) -> Any:
            request = requests[place]
            draw = _at_temperature_0(request) if guided or not request.is_drawn else _drawn(request, request.key)
            choice = self._choice(rows[place], **{**extensions, **limits, **draw})
            ids = choice.get("token_ids")
            return str(choice.get("text") or "") if ids is None else ids

        return self._each(write, range(len(rows)), "writing sentences")

    def _write_guided(self, rows: Sequence[Row], requests: Sequence[AnswerRequest]) -> list[list[int]]:
        if self._takes_ids and self._has_guide:
            self._record["guided"] = "by cell2sen in vLLM"
            extensions = self._extensions

            def write(place: int) -> list[int]:
                request, row = requests[place], rows[place]
                n_free = self.context + 1 - len(row.ids)
                limits = {"max_tokens": min(request.max_tokens, n_free)}
                choice = self._choice(row, **{**extensions, **limits, **_at_temperature_0(request)})
                return list(choice["token_ids"])

            return self._each(write, range(len(rows)), "writing sentences")
        if why := self._why_no_bias:
            raise Unsupported(
                f"{self.server.url} cannot guide answers to genes, each once: {why}. Use --unguided (guided=False), "
                "vLLM with this package's logits processor, or the backend transformers"
            )
        self._record["guided"] = "by logit_bias, a request per token"
        if requests[0].is_drawn and not _has_own_draws(requests[0]):
            self._record["draws"] = "by the server"
        extensions = self._extensions

        def write_biased(place: int) -> list[int]:
            return self._biased(rows[place], requests[place], extensions)

        return self._each(write_biased, range(len(rows)), "writing sentences")

    def _biased(self, row: Row, request: AnswerRequest, extensions: dict[str, Any]) -> list[int]:
        """Guided answer, a request per token that is not forced."""
        guide = AnswerGuide(request, self.vocabulary)
        written: list[int] = []
        while not guide.is_done(written) and len(row.ids) + len(written) <= self.context:
            allowed = guide.allowed(written)
            assert allowed is not None
            if len(allowed) == 1:
                written.append(int(allowed[0]))
                continue
            bias = np.full(len(allowed), _BIAS)
            draw: dict[str, Any] = {"temperature": 0}
            if request.is_drawn and _has_own_draws(request):
                key, position = torch.tensor([request.key]), torch.tensor([len(written)])
                noise = gumbel(key, position, torch.from_numpy(allowed))[0].numpy()
                bias = _NOISY_BIAS + request.temperature * noise
            elif request.is_drawn:
                draw = _drawn(request, row_key(len(written), str(request.key)))
            biases = {str(token): float(value) for token, value in zip(allowed, bias, strict=True)}
            asked = Row(ids=row.ids + written, text="", answer=0, prompt=0)
            choice = self._choice(asked, **{**extensions, **draw, "max_tokens": 1, "logprobs": 1, "logit_bias": biases})
            token = self._token(choice, allowed.tolist())
            if token is None or token not in allowed:
                raise ValueError(f"{self.server.url} wrote a token that logit_bias does not allow; use --unguided")
            written.append(token)
        return written

    def _log_probabilities(self, rows: Sequence[Row]) -> list[float]:
        if why := self._why_no_scores:
            raise Unsupported(f"{self.server.url} cannot score labels: {why}. Use vLLM, or the backend transformers")

        def read(row: Row) -> dict[str, list[Any]]:
            logprobs: dict[str, list[Any]] = self._choice(row, **_ECHO)["logprobs"]
            return logprobs

        alone: dict[str, list[Any]] = {}
        if not self._takes_ids:  # where the answer begins among the server's tokens
            texts = list({row.text[: row.prompt] for row in rows})
            prompts = [Row(ids=[], text=text, answer=0, prompt=len(text)) for text in texts]
            found = self._each(lambda row: read(row)["tokens"][:-1], prompts, "reading prompts")
            alone = dict(zip(texts, found, strict=True))

        def score(row: Row) -> float:
            logprobs = read(row)
            values, first, last = logprobs["token_logprobs"], row.answer, len(row.ids)
            if not self._takes_ids:
                pairs = zip(alone[row.text[: row.prompt]], logprobs["tokens"], strict=False)
                first = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
                last = len(values) - 1
            return float(np.sum(np.array(values[first:last], dtype=np.float64)))

        return self._each(score, rows, "scoring labels")

    # -- requests

    def _body(self, prompt: Any, **settings: Any) -> dict[str, Any]:
        return {"model": self.served, "prompt": prompt, **settings}

    def _choice(self, row: Row, **settings: Any) -> dict[str, Any]:
        """The answer to a row."""
        answer = self._post("completions", self._body(row.ids if self._takes_ids else row.text, **settings))
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.server.post(path, body)
        if not isinstance(answer, dict) or not (answer.get("choices") or answer.get("data")):
            raise ConnectionError(
                f"{self.server.url}/{path} answered without a completion or vector: {str(answer)[:200]}"
            )
        return answer

    def _token(self, choice: dict[str, Any], allowed: Sequence[int]) -> int | None:
        """Id of the first token of an answer: as the server gives it, or the only allowed one of its text."""
        logprobs = choice.get("logprobs") or {}
        if ids := choice.get("token_ids"):
            return int(ids[0])
        if (content := logprobs.get("content")) and "id" in content[0]:
            return int(content[0]["id"])
        texts = logprobs.get("tokens") or [choice.get("text") or ""]
        if str(texts[0]).startswith("token_id:"):
            return int(texts[0].removeprefix("token_id:"))
        same = [token for token in allowed if self.tokens.text([token], True) == texts[0]]
        if len(same) > 1:
            raise Unsupported(f"{self.server.url} gives no token ids, and {texts[0]!r} is the text of several tokens")
        if not same and choice.get("finish_reason") == "stop":  # the text of an end token is left out
            same = [token for token in allowed if token in self.eos]
        return same[0] if same else None

    def _each(self, work: Callable[[Any], Result], items: Sequence[Any], name: str) -> list[Result]:
        """Results of requests, several at once, in order."""
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1 or None, found {self.batch_size}")
        at_once = min(self.batch_size or _AT_ONCE, len(items))
        show = self.progress if callable(self.progress) else self.progress and len(items) > 3 * at_once
        with Progress(len(items), name, show=show) as bar, ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(work, item) for item in items]
            results = []
            try:
                for future in futures:
                    results.append(future.result())
                    bar.update(1)
            finally:
                for future in futures:
                    future.cancel()
        return results

    def _unsupported(self, path: str, error: Refused) -> Exception:
        """What a refusal of all forms of a request means."""
        if error.status in (404, 405, 501):
            return Unsupported(f"{self.server.url} has no {path} of {self.served!r}: {error.message}")
        return error


def _served_model(server: Server, model: Model) -> tuple[str, int | None]:
    """Name of a model on the server, and its context if the server tells it."""
    try:
        listed = server.get("models", tries=1)
        entries = {str(entry["id"]): entry for entry in listed["data"]}
    except Refused as error:
        if error.status != 404:
            raise
        entries = {}  # a server of one model that it does not name
    except (KeyError, TypeError):
        raise ConnectionError(f"{server.url}/models has no list of models; is it a server of completions?") from None
    if not entries:
        return server.model or model.name, None
    own = (model.path, model.name, model.path.rstrip("/").split("/")[-1])
    name = server.model or next((name for name in own if name in entries), "")
    if not name and len(entries) == 1:
        [name] = entries
    if name not in entries:
        asked = f"no model {name!r}" if name else f"several models, and none is called {model.name!r}"
        raise ValueError(f"{server.url} has {asked}; available: {sorted(entries)}; name one: --url {server.url}#NAME")
    entry = entries[name]
    context = entry.get("max_model_len") or (entry.get("meta") or {}).get("n_ctx")
    return name, int(context) if context else None


def _drawn(request: AnswerRequest, key: int) -> dict[str, Any]:
    """Settings of a draw by the server, with the seed of the row."""
    settings: dict[str, Any] = {"temperature": request.temperature, "seed": key & _SEEDS}
    if request.top_k is not None:
        settings["top_k"] = request.top_k
    if request.top_p is not None:
        settings["top_p"] = request.top_p
    return settings


def _at_temperature_0(request: AnswerRequest) -> dict[str, Any]:
    """Settings of an answer whose tokens a guide in the server chooses, and of greedy free text, which needs none."""
    needs_guide = request.is_drawn or request.trie is not None
    return {"temperature": 0} | ({"vllm_xargs": request.arguments()} if needs_guide else {})


def _has_own_draws(request: AnswerRequest) -> bool:
    """Whether noise in ``logit_bias`` draws the token: it knows no top_k and top_p, and has a limit."""
    return request.top_k is None and request.top_p is None and _MAX_NOISE * request.temperature <= _BIAS - _NOISY_BIAS
