"""Base of backends whose engine takes token ids: prompts are cut, tokenized and read back as by this package."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.backend import Backend, Embeddings, Pooling, Sampling, Unsupported, answer_lengths, check_embed
from cell2sen.data.progress import Report
from cell2sen.engine.decoding.answer_guide import AnswerGuide, AnswerRequest
from cell2sen.engine.decoding.loop import FreeText
from cell2sen.engine.decoding.sampling import row_key
from cell2sen.engine.decoding.tries import GeneTries
from cell2sen.engine.tokenization.reserved import for_answers, for_genes
from cell2sen.engine.tokenization.tokenizer import Tokens, fit, known_genes, load_tokens
from cell2sen.model import Model
from cell2sen.prompt import Prompt


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """What an engine reads: a prompt, or a prompt with an answer to score."""

    ids: list[int]
    text: str
    """The same as text, for servers that take no ids."""

    answer: int
    """Index of the first token to score; the number of tokens if there is none."""

    prompt: int
    """Number of characters of the prompt in the text."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Files of a checkpoint other than its weights."""

    config: Any
    """Configuration of the text model."""

    tokens: Tokens
    eos: frozenset[int]
    """Tokens that end a text."""


def read_checkpoint(model: Model, *, offline: bool = True) -> Checkpoint:
    """Configuration and tokenizer of a model, from a directory or the hub's cache. Weights are not needed.

    Raises
    ------
    FileNotFoundError
        The files are not on this machine.
    """
    import transformers

    source: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False}
    if not model.is_local:
        source["revision"] = model.revision
    hf: Any = transformers  # typed in parts only
    try:
        if model.is_local and not (Path(model.path) / "config.json").is_file():
            raise OSError(f"{model.path} has no config.json")
        config = hf.AutoConfig.from_pretrained(model.path, **source)
        tokens = load_tokens(model.path, **source)
    except OSError as error:
        raise FileNotFoundError(
            f"config.json and tokenizer.json of {model.path!r} are not on this machine: a server has the weights, but "
            "prompts are made of the tokens of the checkpoint. Copy both into a directory and pass it as the model, or "
            f"use offline=False (--online). transformers reports: {error}"
        ) from error
    try:
        generation = hf.GenerationConfig.from_pretrained(model.path, **source)
    except OSError:  # not every checkpoint has one
        generation = hf.GenerationConfig()
    config = config.get_text_config()
    eos: set[int] = set(tokens.eos)
    for token in (config.eos_token_id, generation.eos_token_id):
        eos.update([] if token is None else [token] if isinstance(token, int) else token)
    return Checkpoint(config=config, tokens=tokens, eos=frozenset(eos))


class TokenBackend(Backend):
    """A backend around an engine that reads token ids. Subclasses write, score and embed rows of ids.

    Parameters
    ----------
    context
        Tokens that the engine takes, prompt and answer together; ``None``: as many as the checkpoint.
    """

    def __init__(
        self,
        model: Model,
        checkpoint: Checkpoint,
        *,
        context: int | None = None,
        batch_size: int | None = None,
        progress: bool | Report = True,
    ) -> None:
        self.model, self.tokens, self.eos = model, checkpoint.tokens, checkpoint.eos
        self.config, self.chat = checkpoint.config, checkpoint.tokens.chat
        self.batch_size, self.progress = batch_size, progress
        longest = int(self.config.max_position_embeddings)
        # Engines write a token after every prompt, also after one that is only scored.
        self.context = min(longest, context or longest) - 1
        self.n_layers = int(self.config.num_hidden_layers)
        self.softcap = getattr(self.config, "attn_logit_softcapping", None)
        self.vocabulary = int(self.config.vocab_size)
        self.tries = GeneTries(self.tokens, self.eos)

    def known_genes(self, symbols: Sequence[str]) -> NDArray[np.bool_]:
        """Which symbols are in the model's gene list (if it has one) and encoded without loss, bool (n,)."""
        return known_genes(self.model, self.tokens, symbols)

    def count_tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Number of tokens of each text, int64 (n,)."""
        return self.tokens.count(texts)

    def embed(
        self,
        prompts: Sequence[Prompt],
        *,
        pooling: Pooling = "mean",
        layer: int = -1,
        attention_for: Sequence[int] = (),
        attention_layer: int = -1,
    ) -> Embeddings:
        """Cell vectors: the mean over all tokens, of the last layer. See :meth:`cell2sen.backend.Backend.embed`."""
        check_embed(
            len(prompts),
            self.n_layers,
            pooling=pooling,
            layer=layer,
            attention_for=attention_for,
            attention_layer=attention_layer,
        )
        if pooling != "mean" or layer != -1 or len(attention_for):
            asked = "attention maps" if len(attention_for) else f"pooling {pooling!r} of layer {layer}"
            raise Unsupported(
                f"{type(self).__name__} has vectors of the last layer only, their mean over all tokens, not {asked}; "
                "use the backend transformers"
            )
        fitted, _ = self._fit(prompts, [0] * len(prompts))
        vectors = np.zeros((len(fitted), int(self.config.hidden_size)), dtype=np.float32)
        if fitted:
            vectors = np.stack(self._vectors(self._rows(fitted))).astype(np.float32)
        genes_used = np.array([len(prompt.genes) for prompt in fitted], dtype=np.int64)
        return Embeddings(vectors=vectors, genes_used=genes_used)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, genes: Sequence[str] | None = None
    ) -> list[str]:
        """Answers, new text only. See :meth:`cell2sen.backend.Backend.generate`."""
        sampling = replace(sampling, stop=tuple(dict.fromkeys((*sampling.stop, *self.model.stop))))
        draws: dict[str, Any] = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p")}
        keys = [row_key(sampling.seed, prompt.key) for prompt in prompts]
        if genes is None:
            fitted, _ = self._fit(prompts, [sampling.max_new_tokens] * len(prompts))
            requests = [AnswerRequest(key=key, **draws) for key in keys]
            written = self._write(self._rows(fitted), requests, sampling) if fitted else []
            return [self._text(answer, sampling) for answer in written]
        listed = tuple(dict.fromkeys(genes))
        n_genes = answer_lengths(prompts, listed)
        if not prompts:
            return []
        # An engine ends an answer at the context, where the loop of transformers goes on.
        reserved = for_genes(self.tokens, listed, n_genes, self.known_genes(listed), longest=True)
        fitted, _ = self._fit(prompts, reserved)
        ends = tuple(self.tries.ends(listed[0], sampling.stop))
        draws |= {"ends": ends, "end": min(self.eos, default=None)}
        requests = [
            AnswerRequest(key=key, trie=self.tries.trie(listed, prompt.text), n_genes=number, **draws)
            for key, prompt, number in zip(keys, fitted, n_genes, strict=True)
        ]
        answers = self._write_guided(self._rows(fitted), requests)
        texts = []
        for prompt, request, answer in zip(fitted, requests, answers, strict=True):
            order = AnswerGuide(request, self.vocabulary).genes(answer)
            if len(order) < request.n_genes:
                raise ValueError(
                    f"the answer to {prompt.key!r} ended after {len(order)} of {request.n_genes} genes, at the context "
                    f"of {self.context} tokens; use fewer genes in the prompt (max_genes=) or in the answer"
                )
            texts.append(" ".join(listed[gene] for gene in order))
        return texts

    def score(
        self, prompts: Sequence[Prompt], answers: Sequence[str], *, margin: float | None = None
    ) -> NDArray[np.float64]:
        """Log-probabilities of answers. See :meth:`cell2sen.backend.Backend.score`."""
        scores = np.zeros((len(prompts), len(answers)), dtype=np.float64)
        if not scores.size:
            return scores
        fitted, _ = self._fit(prompts, for_answers(self.tokens, prompts, answers))
        rows: list[Row] = []
        places: list[tuple[int, int]] = []
        for number, (prompt, (prefix, rests)) in enumerate(
            zip(fitted, self.tokens.continued(fitted, answers), strict=True)
        ):
            for column, (answer, (rest, start)) in enumerate(zip(answers, rests, strict=True)):
                ids = [*prefix.tolist(), *rest]
                row = Row(ids=ids, text=prompt.text + answer, answer=len(prefix) + start, prompt=len(prompt.text))
                if row.answer == 0 and ids:
                    raise ValueError(f"the prompt of {prompt.key!r} has no token before the answer; begin it with text")
                if row.answer < len(ids):
                    rows.append(row)
                    places.append((number, column))
        if rows:
            scores[tuple(np.array(places).T)] = self._log_probabilities(rows)
        return scores

    # -- of each engine

    @abc.abstractmethod
    def _vectors(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Mean of the last layer over the tokens of each row, float32 (hidden,)."""

    @abc.abstractmethod
    def _write(self, rows: Sequence[Row], requests: Sequence[AnswerRequest], sampling: Sampling) -> list[Any]:
        """Free answer to each row: token ids, or the text where an engine returns no ids. It may be too long."""

    @abc.abstractmethod
    def _write_guided(self, rows: Sequence[Row], requests: Sequence[AnswerRequest]) -> list[list[int]]:
        """Token ids of the guided answer to each row."""

    @abc.abstractmethod
    def _log_probabilities(self, rows: Sequence[Row]) -> list[float]:
        """Log-probability of the answer of each row."""

    # -- shared

    def _fit(
        self, prompts: Sequence[Prompt], reserved: Sequence[int] | NDArray[np.int64]
    ) -> tuple[list[Prompt], NDArray[np.int64]]:
        return fit(prompts, context=self.context, reserved_tokens=reserved, count=self.tokens.lengths)

    def _rows(self, prompts: Sequence[Prompt]) -> list[Row]:
        rows = []
        for prompt, tokenized in zip(prompts, self.tokens.encode(prompts), strict=True):
            ids = tokenized.ids.tolist()
            if not ids:
                raise ValueError(f"the prompt {prompt.key!r} has no text; give it an instruction or genes")
            rows.append(Row(ids=ids, text=prompt.text, answer=len(ids), prompt=len(prompt.text)))
        return rows

    def _text(self, answer: Sequence[int] | str, sampling: Sampling) -> str:
        """A free answer without what comes after its end."""
        if isinstance(answer, str):
            stops = (start for stop in sampling.stop if (start := answer.find(stop)) >= 0)
            return answer[: min(stops, default=len(answer))].strip()
        text = FreeText(1, self.tokens.text, eos=self.eos, limit=sampling.max_new_tokens, stop=sampling.stop)
        for token in answer:
            if text.done(0):
                break
            text.advance(0, int(token))
        return text.text(0)
