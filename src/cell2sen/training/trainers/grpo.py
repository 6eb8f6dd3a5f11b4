"""Reinforcement learning of written sentences: trl's GRPO on guided answers, with the probabilities of guided sampling.

A guided answer is drawn from the model's distribution over the tokens that may come next (a gene that was not named
yet), not from its distribution over all tokens. So the log-probabilities of sampling, of the trained and of the
reference model are all taken over the allowed tokens: with any others the importance ratio would be wrong from the
first step on.

Axes in names: B batch, L length, D hidden size, N tokens of answers, K candidate tokens, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.checkpoint import checkpoint
from trl.trainer.grpo_trainer import GRPOTrainer

from cell2sen.answer import parse_sentence
from cell2sen.backend import Sampling
from cell2sen.backends.transformers import TransformersBackend
from cell2sen.engine.decoding.constraint import Constraint, Plan
from cell2sen.engine.decoding.gene_trie import GeneTrie
from cell2sen.engine.decoding.guide import Guide
from cell2sen.engine.generation import Generator
from cell2sen.engine.network.causal_lm import Head
from cell2sen.engine.network.cpu import is_plain_linear
from cell2sen.prompt import Prompt
from cell2sen.training import rewards
from cell2sen.training.questions import Question
from cell2sen.training.trainers import sft

if TYPE_CHECKING:
    from datasets import Dataset

#: Logits held at a time, in float32 64 MiB.
_LOGITS = 2**24


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """What a guided answer to one prompt may be."""

    trie: GeneTrie
    ask: int
    ends: tuple[int, ...]

    def allowed(self, ids: Sequence[int], vocabulary: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens that may be written at all, and those that were allowed in place of each token of an answer.

        int64 (K,), ascending, and bool (answer, K).
        """
        guide, row = Guide(self.trie, [self.ask], self.ends, vocabulary), np.zeros(1, dtype=np.int64)
        masks = np.zeros((len(ids), len(guide.columns)), dtype=bool)
        for place, token in enumerate(ids):
            masks[place] = guide.allowed(row)[0]
            guide.advance(0, int(token))
        return guide.columns, masks


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """An answer as it was drawn."""

    prompt_ids: list[int]
    ids: list[int]
    text: str = ""
    guidance: Guidance | None = None


class TokenRecorder:
    """A constraint that records the tokens of its rows: forced, drafted and decided ones."""

    def __init__(self, constraint: Constraint, n_rows: int) -> None:
        self.constraint, self.columns = constraint, constraint.columns
        self.ids: list[list[int]] = [[] for _ in range(n_rows)]

    def done(self, row: int) -> bool:
        """Whether a row is complete."""
        return self.constraint.done(row)

    def plan(self, rows: Sequence[int]) -> Plan:
        """Next tokens and decisions of the rows."""
        return self.constraint.plan(rows)

    def accept(
        self, plan: Plan, decided: NDArray[np.int64], logits_NC: torch.Tensor
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Adds the decided tokens."""
        kept, new = self.constraint.accept(plan, decided, logits_NC)
        for row, tokens, n, token in zip(plan.rows.tolist(), plan.tokens, kept, new.tolist(), strict=True):
            self.ids[row] += [*tokens[:n], *([token] if token >= 0 else [])]
        return kept, new


class RecordingGenerator(Generator):
    """A generator that stores the tokens of its answers, by the prompt's key."""

    rolled: dict[str, Rollout]

    def _generate(
        self, prompts: Sequence[Prompt], constraint: Constraint, head: Head, sampling: Sampling, capacity: int
    ) -> None:
        recorder = TokenRecorder(constraint, len(prompts))
        super()._generate(prompts, recorder, head, sampling, capacity)
        for row, (prompt, tokenized) in enumerate(zip(prompts, self._tokenize(prompts), strict=True)):
            guidance = None
            if isinstance(constraint, Guide):
                ends = self._ends_of(constraint, sampling)
                guidance = Guidance(trie=constraint.trie, ask=int(constraint.n_genes[row]), ends=ends)
            self.rolled[prompt.key] = Rollout(
                prompt_ids=tokenized.ids.tolist(), ids=recorder.ids[row], guidance=guidance
            )  # fmt: skip

    def _ends_of(self, guide: Guide, sampling: Sampling) -> tuple[int, ...]:
        return tuple(self.ends(guide.trie.genes[0], sampling))


class Sampler(TransformersBackend):
    """A backend that tells the tokens of what it writes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.generator = RecordingGenerator(
            self.causal, self.tokens, eos=self.eos, tokenize=self._tokenize, run=self._run_generating
        )

    def roll(self, prompts: Sequence[Prompt], sampling: Sampling, genes: Sequence[str] | None) -> list[Rollout]:
        """Answers like those of :meth:`generate`. The prompts' keys must differ."""
        assert isinstance(self.generator, RecordingGenerator)
        self.generator.rolled = {}
        texts = self.generate(prompts, sampling, genes=genes)
        found = self.generator.rolled
        return [dataclasses.replace(found[prompt.key], text=text) for prompt, text in zip(prompts, texts, strict=True)]


class GuidedTrainer(sft.Restoring, GRPOTrainer):
    """GRPO whose answers are drawn by a :class:`Sampler`.

    Parameters
    ----------
    tokens, described
        Tokenizer and :class:`cell2sen.model.Model` of the network that is trained.
    train_questions, eval_questions
        What is asked. Both must be of the files in `vocabularies`.
    vocabularies
        File → genes that answers to its questions may have.
    weights
        Reward → its weight in the sum.
    genes
        The gene set that counts; all if empty.
    guided
        False: answers are free text, of at most `max_new_tokens` tokens.
    embed
        What the reward `embedding` embeds with.
    """

    def __init__(
        self, network: Any, *, args: Any, tokens: Any, described: Any, train_questions: Sequence[Question],
        eval_questions: Sequence[Question], vocabularies: Mapping[str, Sequence[str]], weights: Mapping[str, float],
        genes: Sequence[str], guided: bool, max_new_tokens: int, embed: rewards.Embed | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self._described, self._tokens, self._guided, self._max_new_tokens = described, tokens, guided, max_new_tokens
        self._asked = {one.prompt.text: one for one in (*train_questions, *eval_questions)}
        self._vocabularies = {file: tuple(listed) for file, listed in vocabularies.items()}
        self._known = {file: frozenset(listed) for file, listed in vocabularies.items()}
        self._guidance: dict[bytes, Guidance] = {}
        self._genes, self._embed = tuple(genes), embed
        args.reward_weights = [float(weight) for weight in weights.values()]
        super().__init__(
            model=network, args=args, reward_funcs=[self._reward(name) for name in weights],
            train_dataset=_dataset(train_questions), eval_dataset=_dataset(eval_questions) if eval_questions else None,
            rollout_func=self._roll, **options,
        )  # fmt: skip
        if self.accelerator.num_processes > 1:
            raise NotImplementedError("training runs in one process; start it without torchrun or accelerate launch")
        self._sampler = Sampler(described, _plain(self.accelerator.unwrap_model(self.model)), tokens, progress=False)

    def _reward(self, name: str) -> Any:
        def reward(written: Any, truth: Any, control: Any, n_words: Any, **_: Any) -> list[float]:
            answers = [
                rewards.Answer(written=w, truth=t, control=c, genes=self._genes, n_words=n)
                for w, t, c, n in zip(written, truth, control, n_words, strict=True)
            ]
            found: list[float] = rewards.score([name], answers, self._embed)[:, 0].tolist()
            return found

        reward.__name__ = name
        return reward

    def _roll(self, texts: list[str], _: Any) -> dict[str, list[Any]]:
        """What trl asks for: prompts (each as often as it wants answers) → token ids and their log-probabilities."""
        training = bool(self.model.training)
        step = f"step {self.state.global_step}" if training else "evaluation"
        sampling = Sampling(temperature=self.temperature, seed=self.args.seed, max_new_tokens=self._max_new_tokens)
        asked = [self._asked[text] for text in texts]
        # A draw depends on step, cell and place alone, so that a resumed training draws what it would have drawn.
        prompts = [
            dataclasses.replace(one.prompt, key=f"{one.prompt.key}/{step}/{row}") for row, one in enumerate(asked)
        ]
        found: dict[int, Rollout] = {}
        self._sampler.network.eval()
        try:
            with self.accelerator.autocast():
                for file in dict.fromkeys(one.file for one in asked):
                    rows = [row for row, one in enumerate(asked) if one.file == file]
                    genes = self._vocabularies[file] if self._guided else None
                    rolled = self._sampler.roll([prompts[row] for row in rows], sampling, genes)
                    found.update(zip(rows, rolled, strict=True))
        finally:
            self._sampler.network.train(training)
        done = [found[row] for row in range(len(asked))]
        for one in done:
            if one.guidance is not None:
                self._guidance[_key(one.prompt_ids)] = one.guidance
        parsed = [parse_sentence(one.text, self._known[q.file]) for one, q in zip(done, asked, strict=True)]
        return {
            "prompt_ids": [one.prompt_ids for one in done],
            "completion_ids": [one.ids for one in done],
            "logprobs": self._log_shares(done),
            "written": [list(one.genes) for one in parsed],
            "n_words": [one.n_words for one in parsed],
        }

    @torch.no_grad()
    def _log_shares(self, rolled: Sequence[Rollout]) -> list[list[float]]:
        """Log-probability with which each token of the answers was drawn, nats."""
        found: list[list[float]] = []
        size = int(self.args.per_device_train_batch_size)
        for first in range(0, len(rolled), size):
            part = rolled[first : first + size]
            ids, mask, keep = padded([one.prompt_ids for one in part], [one.ids for one in part])
            device = self.accelerator.device
            shares, _, _ = self._get_per_token_logps_and_entropies(self.model, ids.to(device), mask.to(device), keep)
            found += [line[: len(one.ids)].tolist() for line, one in zip(shares, part, strict=True)]
        return found

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        # What was drawn was drawn with these: no second pass is needed to know them.
        output["old_per_token_logps"] = output.pop("sampling_per_token_logps")
        return output

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int,
        batch_size: int | None = None, compute_entropy: bool = False, **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:  # fmt: skip
        """Log-probabilities of the answers' tokens among the tokens that were allowed, (B, `logits_to_keep`)."""
        causal = _plain(self.accelerator.unwrap_model(model))
        size = batch_size or len(input_ids)
        parts = [
            answer_log_shares(
                causal, input_ids[first : first + size], attention_mask[first : first + size], logits_to_keep,
                self._guidance if self._guided else None, self.temperature, self.accelerator.autocast,
            )
            for first in range(0, len(input_ids), size)
        ]  # fmt: skip
        log_shares, entropies = (torch.cat(column) for column in zip(*parts, strict=True))
        return log_shares, entropies if compute_entropy else None, None

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Checkpoints carry no card; the finished model has one of its own."""


def padded(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids and mask, int64 (B, L), with prompts padded on the left and answers on the right, and the longest answer."""
    before, keep = max(map(len, prompts)), max(map(len, answers))
    ids_BL = torch.zeros((len(prompts), before + keep), dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        there = slice(before - len(prompt), before + len(answer))
        ids_BL[row, there], mask_BL[row, there] = torch.tensor([*prompt, *answer]), 1
    return ids_BL, mask_BL, keep


def answer_log_shares(
    causal: Any, ids_BL: torch.Tensor, mask_BL: torch.Tensor, keep: int, guidance: Mapping[bytes, Guidance] | None,
    temperature: float, autocast: Any,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Log-probability of each of the last `keep` tokens among those that were allowed, and the entropy there.

    Parameters
    ----------
    guidance
        Token ids of a prompt (see :func:`_key`) → what its answers may be; None: all tokens were allowed.

    Returns
    -------
    float32 (B, keep), nats, and its entropy without gradient. 0 in the padding.
    """
    with autocast():
        states = causal.base_model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            position_ids=(mask_BL.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        )
    real_BL = mask_BL[:, -keep:].bool()
    hidden_ND = states.last_hidden_state[:, -keep - 1 : -1][real_BL]
    wanted_N = ids_BL[:, -keep:][real_BL]
    candidates_K, allowed_NK = None, None
    if guidance is not None:
        vocabulary = int(causal.get_output_embeddings().out_features)
        prompts = [ids[mask.bool()].tolist() for ids, mask in zip(ids_BL[:, :-keep], mask_BL[:, :-keep], strict=True)]
        answers = [ids[real].tolist() for ids, real in zip(ids_BL[:, -keep:], real_BL, strict=True)]
        found = [guidance[_key(p)].allowed(answer, vocabulary) for p, answer in zip(prompts, answers, strict=True)]
        # The head is computed for the tokens of genes only: a large vocabulary is mostly others.
        columns = functools.reduce(np.union1d, [tokens for tokens, _ in found])
        allowed = np.zeros((len(wanted_N), len(columns)), dtype=bool)
        first = 0
        for tokens, mask in found:
            allowed[first : first + len(mask), np.searchsorted(columns, tokens)] = mask
            first += len(mask)
        candidates_K = torch.from_numpy(columns).to(ids_BL.device)
        allowed_NK = torch.from_numpy(allowed).to(ids_BL.device)
        wanted_N = torch.searchsorted(candidates_K, wanted_N)
    width = len(candidates_K) if candidates_K is not None else int(causal.get_output_embeddings().out_features)
    step = max(1, _LOGITS // width)
    parts = [
        checkpoint(
            _log_shares, causal, hidden_ND[first : first + step], wanted_N[first : first + step], candidates_K,
            None if allowed_NK is None else allowed_NK[first : first + step], temperature, use_reentrant=False,
        )
        for first in range(0, len(wanted_N), step)
    ]  # fmt: skip
    columns_N = [torch.cat(column) for column in zip(*parts, strict=True)]
    return tuple(  # type: ignore[return-value]
        torch.zeros(real_BL.shape, device=ids_BL.device).masked_scatter(real_BL, column) for column in columns_N
    )


def _log_shares(
    causal: Any, hidden_ND: torch.Tensor, wanted_N: torch.Tensor, candidates_K: torch.Tensor | None,
    allowed_NK: torch.Tensor | None, temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    head = causal.get_output_embeddings()
    hidden_ND = hidden_ND.to(head.weight.dtype)
    if candidates_K is None:
        logits_NK = head(hidden_ND)
    elif is_plain_linear(head) and getattr(head, "bias", None) is None:
        logits_NK = torch.nn.functional.linear(hidden_ND, head.weight[candidates_K])
    else:  # with a bias, or adapters
        logits_NK = head(hidden_ND)[:, candidates_K]
    logits_NK = sft.capped(causal, logits_NK.float()) / temperature
    if allowed_NK is not None:
        logits_NK = logits_NK.masked_fill(~allowed_NK, -math.inf)
    log_share_NK = logits_NK.log_softmax(dim=1)
    share_NK = log_share_NK.detach().exp()
    entropy_N = -(share_NK * log_share_NK.detach().masked_fill(share_NK == 0, 0.0)).sum(dim=1)
    return log_share_NK.gather(1, wanted_N[:, None])[:, 0], entropy_N


def _key(ids: Sequence[int]) -> bytes:
    return np.asarray(ids, dtype=np.int64).tobytes()


def _plain(network: Any) -> Any:
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def _dataset(asked: Sequence[Question]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt": [one.prompt.text for one in asked],
            "truth": [list(one.truth) for one in asked],
            "control": [list(one.control) for one in asked],
        }
    )


class Progress(sft.Progress):
    """The mean reward in the bar, and that of held-out questions in the log."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the reward."""
        if "eval_reward" in (logs or {}):
            sft.logger.info("step %d: mean reward on held-out cells %.4f", state.global_step, logs["eval_reward"])
        elif "reward" in (logs or {}):
            self.bar.set_postfix_str(f"reward {logs['reward']:.3f}")
