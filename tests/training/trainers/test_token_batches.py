"""Tokenised samples, as a backend scores them; batches of similar length, in random order."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from sft_trainers import pairs

from cell2sen.prompt import Prompt
from cell2sen.training.examples.pair import Pair, PairOfCells
from cell2sen.training.trainers.token_batches import IGNORED, GroupedOrder, samples


class TestSamples:
    @pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
    def test_are_what_a_backend_scores_and_an_end(self, kind: str) -> None:
        tokens = tiny.tokens(kind)
        for sample, (task, prompt, completion) in zip(samples(pairs(), tokens, 4096), pairs(), strict=True):
            assert (sample["task"], sample["prompt"], sample["completion"]) == (task, prompt.text, completion)
            [expected] = tokens.encode([prompt], [completion])
            *ids, end = sample["input_ids"]
            assert ids == expected.ids.tolist()
            assert end in tokens.eos
            answer = len(tokens.ids([completion])[0])
            assert sample["labels"] == [IGNORED] * (len(ids) - answer) + sample["input_ids"][-answer - 1 :]
            assert sample["length"] == len(ids) + 1
            if tokens.bos is not None:
                assert sample["input_ids"].count(tokens.bos) == 1 == 1 + sample["input_ids"].index(tokens.bos)

    def test_beginning_of_text_written_out_in_a_template_is_not_doubled(self) -> None:
        tokens = tiny.tokens("spm")
        pair = Pair("annotate", Prompt.of_cell("<bos>The type is"), " T.")
        assert samples([pair], tokens, 64)[0]["input_ids"].count(tokens.bos) == 1

    @pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
    @pytest.mark.parametrize("context", [170, 230, 300])
    def test_too_long_they_lose_genes_and_nothing_else(self, kind: str, context: int) -> None:
        tokens = tiny.tokens(kind)
        labels = [pair for pair in pairs(8, seed=1) if pair.task == "annotate"]
        long = [Pair(pair.task, tiny.with_genes(pair.prompt, tiny.GENES * 3), pair.completion) for pair in labels]
        for sample, (_, prompt, completion) in zip(samples(long, tokens, context), long, strict=True):
            assert sample["length"] <= context
            kept = [n for n in range(len(prompt.genes) + 1) if prompt.shorten(n).text == sample["prompt"]]
            assert len(kept) == 1
            assert tokens.text(sample["input_ids"]).endswith(str(prompt.segments[-1]).strip() + completion)
            # One gene more would not have fitted, with the token of slack.
            more = len(tokens.encode([prompt.shorten(kept[0] + 1)], [completion])[0]) + 2
            assert kept[0] == len(prompt.genes) or more > context

    def test_answers_that_do_not_fit_are_an_error(self) -> None:
        prompt = Prompt.of_cell("Genes: ", ("CD4",), ".", key="cell7")
        with pytest.raises(ValueError, match=r"prompt of 'cell7' has .* together more than the context of 60"):
            samples([Pair("perturb", prompt, " " + "CD4 " * 100 + ".")], tiny.tokens("bytes"), 60)

    def test_none(self) -> None:
        assert len(samples([], tiny.tokens("bytes"), 60)) == 0


class TestGroupedOrder:
    lengths = np.random.default_rng(0).integers(10, 400, 1003).tolist()

    def test_is_a_function_of_seed_and_epoch(self) -> None:
        order = GroupedOrder(self.lengths, 8, seed=3)
        first = list(order)
        assert sorted(first) == list(range(1003))
        assert len(order) == 1003
        assert list(order) == first == list(GroupedOrder(self.lengths, 8, seed=3))
        order.set_epoch(1)
        assert list(order) != first != list(GroupedOrder(self.lengths, 8, seed=4))

    def test_batches_have_similar_lengths_and_a_random_order(self) -> None:
        order = list(GroupedOrder(self.lengths, 8, seed=0))
        batches = [[self.lengths[place] for place in order[first : first + 8]] for first in range(0, 1000, 8)]
        assert np.mean([np.ptp(batch) for batch in batches]) < 20
        means = np.array([np.mean(batch) for batch in batches])
        assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


@pytest.mark.parametrize("kind", ["spm", "bytes", "genes"])
@pytest.mark.parametrize("context", [60, 100, 400])
def test_answers_of_several_cells_have_as_many_genes_as_fit(kind: str, context: int) -> None:
    tokens = tiny.tokens(kind)

    def shorter(n_genes: int) -> tuple[Prompt, str]:
        text = "".join(f" Cell {cell}: {' '.join(tiny.GENES[:n_genes])}." for cell in (1, 2))
        return Prompt.of_cell("Cell sentence:", answer_genes=n_genes), text

    [sample] = samples([PairOfCells.of("t", shorter, 40)], tokens, context)
    lengths = [len(tokens.ids([shorter(n)[0].text + shorter(n)[1]])[0]) for n in range(41)]
    kept = next(n for n in range(41) if shorter(n)[1] == sample["completion"])
    assert sample["length"] <= context
    room = 4  # end of text, beginning of text, and tokens that joined texts need more or less
    assert kept == 40 or lengths[kept + 1] + room > context
