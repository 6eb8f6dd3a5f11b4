"""Samples and the loss in which each answer counts the same, beside slow and obvious twins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny
import torch
import transformers
from trl.trainer.sft_config import SFTConfig

from cell2sen.engine.network import attention
from cell2sen.prompt import Prompt
from cell2sen.training.trainers import sft

pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")


def rows(n: int = 12, seed: int = 0) -> list[tuple[str, Prompt, str]]:
    """Pairs with short answers (labels) and long ones (sentences)."""
    generator = np.random.default_rng(seed)
    made = []
    for number, prompt in enumerate(tiny.prompts(n, seed=seed)):
        genes = generator.permutation(tiny.GENES)[: 20 + number]
        made.append(("annotate", prompt, " T.") if number % 2 else ("perturb", prompt, f" {' '.join(genes)}."))
    return made


class TestSamples:
    @pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
    def test_are_what_a_backend_scores_and_an_end(self, kind: str) -> None:
        tokens, pairs = tiny.tokens(kind), rows()
        made = sft.samples(pairs, tokens, 4096)
        for sample, (task, prompt, completion) in zip(made, pairs, strict=True):
            assert (sample["task"], sample["prompt"], sample["completion"]) == (task, prompt.text, completion)
            [expected] = tokens.encode([prompt], [completion])
            *ids, end = sample["input_ids"]
            assert ids == expected.ids.tolist()
            assert end in tokens.eos
            answer = len(tokens.ids([completion])[0])
            assert sample["labels"] == [sft.IGNORED] * (len(ids) - answer) + sample["input_ids"][-answer - 1 :]
            assert sample["length"] == len(ids) + 1
            if tokens.bos is not None:
                assert sample["input_ids"].count(tokens.bos) == 1 == 1 + sample["input_ids"].index(tokens.bos)

    def test_beginning_of_text_written_out_in_a_template_is_not_doubled(self) -> None:
        tokens = tiny.tokens("spm")
        made = sft.samples([("annotate", Prompt.of_cell("<bos>The type is"), " T.")], tokens, 64)
        assert made[0]["input_ids"].count(tokens.bos) == 1

    @pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
    @pytest.mark.parametrize("context", [170, 230, 300])
    def test_too_long_they_lose_genes_and_nothing_else(self, kind: str, context: int) -> None:
        tokens = tiny.tokens(kind)
        pairs = [(task, prompt, completion) for task, prompt, completion in rows(8, seed=1) if task == "annotate"]
        pairs = [(task, tiny.with_genes(p, tiny.GENES * 3), c) for task, p, c in pairs]
        made = sft.samples(pairs, tokens, context)
        for sample, (_, prompt, completion) in zip(made, pairs, strict=True):
            assert sample["length"] <= context
            kept = [n for n in range(len(prompt.genes) + 1) if prompt.shorten(n).text == sample["prompt"]]
            assert len(kept) == 1
            assert tokens.text(sample["input_ids"]).endswith(str(prompt.segments[-1]).strip() + completion)
            # One gene more would not have fitted, with the token of slack.
            more = len(tokens.encode([prompt.shorten(kept[0] + 1)], [completion])[0]) + 2
            assert kept[0] == len(prompt.genes) or more > context

    def test_answers_that_do_not_fit_are_an_error(self) -> None:
        pair = (
            "perturb",
            Prompt.of_cell("Genes: ", genes=("CD4",), after=".", key="cell7"),
            " " + "CD4 " * 100 + ".",
        )
        with pytest.raises(ValueError, match=r"prompt of 'cell7' has .* together more than the context of 60"):
            sft.samples([pair], tiny.tokens("bytes"), 60)

    def test_none(self) -> None:
        assert len(sft.samples([], tiny.tokens("bytes"), 60)) == 0


class TestGroupedOrder:
    lengths = np.random.default_rng(0).integers(10, 400, 1003).tolist()

    def test_is_a_function_of_seed_and_epoch(self) -> None:
        order = sft.GroupedOrder(self.lengths, 8, seed=3)
        first = list(order)
        assert sorted(first) == list(range(1003))
        assert len(order) == 1003
        assert list(order) == first == list(sft.GroupedOrder(self.lengths, 8, seed=3))
        order.set_epoch(1)
        assert list(order) != first != list(sft.GroupedOrder(self.lengths, 8, seed=4))

    def test_batches_are_of_one_length_and_come_at_random(self) -> None:
        order = list(sft.GroupedOrder(self.lengths, 8, seed=0))
        batches = [[self.lengths[place] for place in order[first : first + 8]] for first in range(0, 1000, 8)]
        assert np.mean([np.ptp(batch) for batch in batches]) < 20
        means = np.array([np.mean(batch) for batch in batches])
        assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


def trainer_of(folder: Path, network: Any, made: datasets.Dataset, batch_size: int = 4, **options: Any) -> Any:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny.tokens("bytes").tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    arguments = SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=batch_size, report_to="none", use_cpu=True, bf16=False,
        max_length=None, gradient_checkpointing=False, disable_tqdm=True, logging_steps=1000, save_strategy="no",
        optim="sgd", max_grad_norm=0.0, learning_rate=0.1, lr_scheduler_type="constant",
        **{name: options.pop(name) for name in ("gradient_accumulation_steps", "max_steps") if name in options},
    )  # fmt: skip
    return sft.AnswerTrainer(model=network, args=arguments, train_dataset=made, processing_class=tokenizer, **options)


def batch(made: Any, side: str = "right") -> dict[str, torch.Tensor]:
    longest = max(made["length"])
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for sample in made:
        fill = longest - sample["length"]
        for name, values, empty in (
            ("input_ids", sample["input_ids"], 7),
            ("labels", sample["labels"], sft.IGNORED),
            ("attention_mask", [1] * sample["length"], 0),
        ):
            columns[name].append(values + [empty] * fill if side == "right" else [empty] * fill + values)
    return {name: torch.tensor(values) for name, values in columns.items()}


def slow_loss(network: Any, made: Any, prompt_loss: float = 0.0) -> torch.Tensor:
    """One sample after the other through the whole model, token after token."""
    total = torch.zeros(())
    for sample in made:
        logits = network(input_ids=torch.tensor([sample["input_ids"]])).logits[0].float()
        losses: dict[bool, list[torch.Tensor]] = {True: [], False: []}
        for place in range(1, sample["length"]):
            answer = sample["labels"][place] != sft.IGNORED
            losses[answer].append(-logits[place - 1].log_softmax(0)[sample["input_ids"][place]])
        whole = sum(losses[True]) if len(losses[True]) <= sft.LABEL_TOKENS else sum(losses[True]) / len(losses[True])
        total = total + whole + prompt_loss * sum(losses[False]) / len(losses[False])
    return total / len(made)


@pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
class TestLoss:
    @pytest.fixture
    def network(self, architecture: str) -> Any:
        return tiny.network(
            architecture, tiny.tokens("bytes").tokenizer.get_vocab_size(), implementation=attention.NAME
        )

    @pytest.fixture
    def made(self) -> Any:
        return sft.samples(rows(6), tiny.tokens("bytes"), 512)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("prompt_loss", [0.0, 0.3])
    def test_equals_the_slow_twin(self, network: Any, made: Any, tmp_path: Path, side: str, prompt_loss: float) -> None:
        trainer = trainer_of(tmp_path, network, made, prompt_loss=prompt_loss)
        network.train()
        loss = trainer.compute_loss(network, batch(made, side))
        expected = slow_loss(network, made, prompt_loss)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        loss.backward()
        fast = [parameter.grad.clone() for parameter in network.parameters()]
        network.zero_grad()
        expected.backward()
        for one, parameter in zip(fast, network.parameters(), strict=True):
            torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=2e-5)

    def test_gradients_of_own_attention_equal_eager(
        self, architecture: str, network: Any, made: Any, tmp_path: Path
    ) -> None:
        eager = tiny.network(architecture, network.config.vocab_size, implementation="eager")
        for one in (network, eager):
            trainer_of(tmp_path, one, made).compute_loss(one, batch(made)).backward()
        for (name, own), other in zip(network.named_parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=2e-5, msg=name)

    def test_cap_of_the_logits_matters_here(self, architecture: str, network: Any, made: Any, tmp_path: Path) -> None:
        before = trainer_of(tmp_path, network, made).compute_loss(network, batch(made)).item()
        if architecture == "gemma2":
            assert network.config.final_logit_softcapping
            network.config.final_logit_softcapping = None
            after = trainer_of(tmp_path, network, made).compute_loss(network, batch(made)).item()
            assert abs(before - after) > 0.1

    def test_drawn_tokens_estimate_it_without_bias(self, network: Any, made: Any, tmp_path: Path) -> None:
        trainer = trainer_of(tmp_path, network, made, prompt_loss=0.5, loss_tokens=5)
        network.train()
        torch.manual_seed(0)
        with torch.no_grad():
            drawn = [trainer.compute_loss(network, batch(made)).item() for _ in range(300)]
            exact = slow_loss(network, made, 0.5).item()
        error = np.std(drawn) / np.sqrt(len(drawn))
        assert error > 0
        assert abs(np.mean(drawn) - exact) < 4 * error
        network.eval()
        exact = trainer.compute_loss(network, batch(made)).item()
        assert exact == pytest.approx(slow_loss(network, made).item(), abs=1e-5), (
            "evaluation takes all tokens, answers only"
        )

    def test_accumulated_batches_are_one_large_batch(
        self, network: Any, made: Any, architecture: str, tmp_path: Path
    ) -> None:
        whole = tiny.network(architecture, network.config.vocab_size)
        trainer_of(tmp_path / "a", network, made, 2, gradient_accumulation_steps=3, max_steps=1).train()
        trainer_of(tmp_path / "b", whole, made, 6, max_steps=1).train()
        for one, other in zip(network.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_draw_takes_as_many_as_there_are_and_no_others() -> None:
    chosen = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    seen = torch.zeros(chosen.shape)
    for _ in range(200):
        drawn = sft.draw_tokens(chosen, 2)
        assert drawn.sum(1).tolist() == [2, 1, 0]
        seen += drawn
    assert not seen[~chosen].any()
    assert (seen[0, :4] > 70).all()
    assert sft.draw_tokens(chosen, None) is chosen


class TestPacking:
    def test_rows_hold_every_sample_once_and_no_more_than_the_longest(self) -> None:
        generator = np.random.default_rng(0)
        for _ in range(20):
            lengths = generator.integers(1, 60, 30).tolist()
            packed = sft.rows_of(lengths)
            assert sorted(sample for row in packed for sample in row) == list(range(30))
            assert all(sum(lengths[sample] for sample in row) <= max(lengths) for row in packed)
            assert len(packed) < 30

    @pytest.mark.parametrize("architecture", ["gemma2", "gpt_neox"])
    @pytest.mark.parametrize("side", ["right", "left"])
    def test_loss_and_gradients_equal_those_of_padded_rows(
        self, architecture: str, side: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = tiny.network(architecture, tiny.tokens("bytes").tokenizer.get_vocab_size())
        made = sft.samples(
            [(task, p.shorten(3 * number), " T.") for number, (task, p, _) in enumerate(rows(8))] + rows(2),
            tiny.tokens("bytes"), 512,
        )  # fmt: skip
        widths: list[torch.Size] = []
        forward = type(network.base_model).forward

        def spy(module: Any, *args: Any, **options: Any) -> Any:
            widths.append(options["input_ids"].shape)
            return forward(module, *args, **options)

        monkeypatch.setattr(type(network.base_model), "forward", spy)
        losses, gradients = [], []
        for packing in (False, True):
            trainer = trainer_of(tmp_path / str(packing), network, made, prompt_loss=0.3, packing=packing)
            network.train()
            network.zero_grad()
            losses.append(trainer.compute_loss(network, batch(made, side)))
            losses[-1].backward()
            gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)
        assert widths[1][0] == len(sft.rows_of(made["length"])) < widths[0][0], "fewer tokens are computed"
        assert widths[1][1] == widths[0][1]

    def test_packed_training_equals_padded_training(self, tmp_path: Path) -> None:
        made = sft.samples(rows(12), tiny.tokens("bytes"), 512)
        found = []
        for packing in (False, True):
            network = tiny.network("gpt_neox", tiny.tokens("bytes").tokenizer.get_vocab_size())
            trainer = trainer_of(tmp_path / str(packing), network, made, 4, max_steps=3, packing=packing)
            trainer._get_train_sampler = lambda *_: sft.GroupedOrder(made["length"], 4, 0)
            trainer.train()
            found.append(list(network.parameters()))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
