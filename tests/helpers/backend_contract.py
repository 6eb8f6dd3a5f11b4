"""Contract tests of backends. Subclass :class:`BackendContract` with the fixture `make`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tiny import GENES, prompts, samples, with_genes, with_opening

from cell2sen.backend import Backend, Embeddings, Sampling, Unsupported
from cell2sen.prompt import Prompt

Make = Callable[..., Backend]
CELLS = prompts(5)
#: Prompts of one, two and twenty cells.
SAMPLES = samples()
ANSWERS = [" T cell.", " B cell.", " NK", " monocyte of the blood."]
DRAWN = Sampling(temperature=1.0, max_new_tokens=6, seed=3)


def embed(backend: Backend, rows: Sequence[Prompt]) -> list[np.ndarray]:
    return list(backend.embed(rows).vectors)


def generate(backend: Backend, rows: Sequence[Prompt]) -> list[str]:
    return backend.generate(rows, Sampling(max_new_tokens=6))


def draw(backend: Backend, rows: Sequence[Prompt]) -> list[str]:
    return backend.generate(rows, DRAWN)


def guide(backend: Backend, rows: Sequence[Prompt]) -> list[str]:
    return backend.generate(rows, Sampling(), genes=GENES)


def draw_guided(backend: Backend, rows: Sequence[Prompt]) -> list[str]:
    return backend.generate(rows, replace(DRAWN, top_k=20, top_p=0.9), genes=GENES)


def score(backend: Backend, rows: Sequence[Prompt]) -> list[np.ndarray]:
    return list(backend.score(rows, ANSWERS))


def attend(backend: Backend, rows: Sequence[Prompt]) -> list[np.ndarray]:
    result = backend.embed(rows, attention_for=range(len(rows)), attention_layer=1).attention
    return [attention_map.array for attention_map in result or [] if attention_map is not None]


def rank_values_of(prompt: Prompt) -> np.ndarray:
    """Falling values that differ between prompts, so that a mix-up of rows is seen."""
    return np.linspace(3.0, 1.0, 8) + sum(map(ord, prompt.key)) % 7


def expect(backend: Backend, rows: Sequence[Prompt]) -> list[np.ndarray]:
    return list(backend.expect(rows, GENES, [rank_values_of(row) for row in rows], seed=5))


VERBS = {"embed": embed, "generate": generate, "draw": draw, "guide": guide, "draw_guided": draw_guided}
VERBS |= {"score": score, "attend": attend, "expect": expect}


def assert_same(result: Sequence[object], expected: Sequence[object]) -> None:
    assert len(result) == len(expected)
    for row, expected_row in zip(result, expected, strict=True):
        if isinstance(expected_row, str):
            assert row == expected_row
        else:
            np.testing.assert_allclose(np.asarray(row), np.asarray(expected_row), rtol=1e-5, atol=1e-5)


class BackendContract:
    """Tests that every backend passes."""

    #: Verbs that the backend has; the others must raise Unsupported.
    supports = frozenset(VERBS)

    @pytest.fixture
    def make(self) -> Make:
        """Function that loads a float32 backend with options."""
        raise NotImplementedError

    @pytest.fixture(params=sorted(VERBS))
    def verb(self, request: pytest.FixtureRequest, make: Make) -> Callable[[Backend, Sequence[Prompt]], list]:
        if request.param not in self.supports:
            with pytest.raises(Unsupported):
                VERBS[request.param](make(), CELLS[:1])
            pytest.skip(f"{request.param} is not supported, and raises Unsupported")
        if request.param == "expect":  # depends on the tokenizer
            try:
                expect(make(), CELLS[:1])
            except Unsupported:
                pytest.skip("expect is not supported with this tokenizer, and raises Unsupported")
        return VERBS[request.param]

    # -- a row does not depend on its batch

    def test_alone_and_in_every_batch(self, make: Make, verb: Callable) -> None:
        backend = make()
        together = verb(backend, CELLS)
        assert_same([verb(backend, [cell])[0] for cell in CELLS], together)
        assert_same(verb(make(batch_size=2), CELLS), together)
        backend.batch_size = 3
        assert_same(verb(backend, CELLS), together)

    def test_in_any_order_and_beside_other_rows(self, make: Make, verb: Callable) -> None:
        backend = make(batch_size=3)
        expected = verb(backend, CELLS)
        order = [4, 2, 0, 1, 3]
        assert_same(verb(backend, [CELLS[row] for row in order]), [expected[row] for row in order])
        assert_same(verb(backend, [CELLS[2], *prompts(3, seed=9), CELLS[4]])[::4], [expected[2], expected[4]])

    def test_samples_of_cells_alone_in_every_batch_and_order(self, make: Make, verb: Callable) -> None:
        backend = make(batch_size=2)
        expected = [verb(backend, [sample])[0] for sample in SAMPLES]
        assert_same(verb(make(), SAMPLES), expected)
        assert_same(verb(backend, [*SAMPLES, CELLS[0]])[:3], expected)
        assert_same(verb(backend, [SAMPLES[2], CELLS[1], SAMPLES[0], SAMPLES[1]]), [
            expected[2], verb(backend, [CELLS[1]])[0], expected[0], expected[1],
        ])  # fmt: skip

    def test_rows_differ(self, make: Make, verb: Callable) -> None:
        results = verb(make(), CELLS)
        distinct = {row if isinstance(row, str) else np.asarray(row).round(4).tobytes() for row in results}
        assert len(distinct) > 1

    def test_no_prompts(self, make: Make, verb: Callable) -> None:
        assert list(verb(make(), [])) == []

    def test_expected_values_sum_to_the_rank_values(self, make: Make, verb: Callable) -> None:
        if verb is not expect:
            pytest.skip("a test of expect")
        n_genes = [cell.answer_genes or 0 for cell in CELLS]
        for cell, row, number in zip(CELLS, expect(make(), CELLS), n_genes, strict=True):
            assert (row >= 0).all()
            assert row.sum() == pytest.approx(rank_values_of(cell)[:number].sum(), rel=1e-5)

    # -- embed

    def test_embeddings_have_their_shape(self, make: Make) -> None:
        backend = make()
        result = backend.embed(CELLS)
        assert isinstance(result, Embeddings)
        assert result.vectors.dtype == np.float32
        assert result.vectors.shape[0] == len(CELLS)
        assert np.isfinite(result.vectors).all()
        assert result.genes_used.dtype == np.int64
        assert result.genes_used.tolist() == [len(cell.genes) for cell in CELLS]
        assert result.attention is None
        empty = backend.embed([])
        assert empty.vectors.shape == (0, result.vectors.shape[1])
        assert empty.vectors.dtype == np.float32

    def test_poolings_and_layers_differ(self, make: Make) -> None:
        backend = make()
        result = [backend.embed(CELLS[:2], pooling=pooling).vectors for pooling in ("mean", "genes", "last")]
        result += [backend.embed(CELLS[:2], layer=layer).vectors for layer in (0, 1, 2)]
        for first, second in itertools.combinations(result, 2):
            assert not np.allclose(first, second)

    def test_unknown_choices(self, make: Make) -> None:
        backend = make()
        for rows in (CELLS, []):
            with pytest.raises(ValueError, match=r"pooling 'max'.*mean.*genes.*last"):
                backend.embed(rows, pooling="max")  # type: ignore[arg-type]
            for layer in (-2, 3):
                with pytest.raises(ValueError, match=rf"no layer {layer}.*0 .*2"):
                    backend.embed(rows, layer=layer)
            for layer in (-3, 2):
                with pytest.raises(ValueError, match=rf"no layer {layer}.*0 to 1"):
                    backend.embed(rows, attention_layer=layer)
        with pytest.raises(ValueError, match=r"rows \[5\]"):
            backend.embed(CELLS, attention_for=[0, 5])
        with pytest.raises(ValueError, match="'genes' needs at least one"):
            backend.embed([Prompt.of_cell("no genes here")], pooling="genes")

    def test_attention_maps_of_some_rows(self, make: Make) -> None:
        if "attend" not in self.supports:
            pytest.skip("no attention maps")
        backend = make(batch_size=2)
        expected = backend.embed(CELLS)
        result = backend.embed(CELLS, attention_for=[4, 1], attention_layer=0)
        np.testing.assert_allclose(result.vectors, expected.vectors, rtol=1e-5, atol=1e-5)
        assert result.attention is not None
        assert [row for row, attention_map in enumerate(result.attention) if attention_map is not None] == [1, 4]
        for row in (1, 4):
            attention_map = result.attention[row]
            assert attention_map is not None
            n_genes = len(CELLS[row].genes)
            assert attention_map.genes == CELLS[row].genes
            assert attention_map.cells == (f"cell{row}",) * n_genes
            assert attention_map.array.dtype == np.float32
            assert attention_map.array.shape[1:] == (n_genes, n_genes)
            assert (attention_map.array >= 0).all()
            assert attention_map.array.sum() > 0
            assert attention_map.array.sum(axis=2).max() <= 1 + 1e-5
            assert (np.triu(attention_map.array.max(axis=0), 1) == 0).all(), "no gene attends to a later one"
        last = backend.embed(CELLS[:1], attention_for=[0]).attention
        same = backend.embed(CELLS[:1], attention_for=[0], attention_layer=1).attention
        other = backend.embed(CELLS[:1], attention_for=[0], attention_layer=0).attention
        assert last
        assert same
        assert other
        assert last[0]
        assert same[0]
        assert other[0]
        assert (last[0].array == same[0].array).all()
        assert not np.allclose(last[0].array, other[0].array)

    def test_attention_above_the_layer_of_the_embedding(self, make: Make) -> None:
        if "attend" not in self.supports:
            pytest.skip("no attention maps")
        backend = make(batch_size=2)
        result = backend.embed(CELLS, layer=1, attention_for=[3], attention_layer=1)
        np.testing.assert_allclose(result.vectors, backend.embed(CELLS, layer=1).vectors, rtol=1e-5, atol=1e-5)
        expected = backend.embed(CELLS, attention_for=[3], attention_layer=1)
        assert result.attention
        assert expected.attention
        assert result.attention[3]
        assert expected.attention[3]
        np.testing.assert_allclose(result.attention[3].array, expected.attention[3].array, rtol=1e-5, atol=1e-5)

    # -- generate

    def test_answers_are_new_text_only(self, make: Make) -> None:
        backend = make()
        for sampling in (Sampling(max_new_tokens=6), DRAWN):
            for cell, text in zip(CELLS, backend.generate(CELLS, sampling), strict=True):
                assert text == text.strip()
                assert cell.text[-30:] not in text
                assert " ".join(cell.genes[:3]) not in text
                assert len(text.split()) <= sampling.max_new_tokens

    def test_stop_strings_cut(self, make: Make) -> None:
        backend = make()
        texts = backend.generate(CELLS, DRAWN)
        # Two ASCII characters: bytes of incomplete characters change with the bytes after them.
        pairs = [(text[start : start + 2], row) for row, text in enumerate(texts) for start in range(len(text) - 1)]
        stops = {row: stop for stop, row in pairs if stop.isascii()}
        assert stops
        for stop in stops.values():
            result = backend.generate(CELLS, replace(DRAWN, stop=("never written", stop)))
            assert result == [text.partition(stop)[0].strip() for text in texts]

    def test_the_models_own_stop_strings(self, make: Make) -> None:
        backend = make()
        texts = backend.generate(CELLS, DRAWN)
        stop = next(character for character in "".join(texts) if character.isalnum())
        backend.model = replace(backend.model, stop=(stop,))
        assert backend.generate(CELLS, DRAWN) == [text.partition(stop)[0].strip() for text in texts]

    def test_seeds(self, make: Make) -> None:
        backend = make()
        for genes in (None, GENES):
            first = backend.generate(CELLS, DRAWN, genes=genes)
            assert backend.generate(CELLS, DRAWN, genes=genes) == first
            assert make().generate(CELLS, DRAWN, genes=genes) == first
            assert backend.generate(CELLS, replace(DRAWN, seed=4), genes=genes) != first
            twins = [replace(CELLS[0], key=key) for key in ("a", "b", "a")]
            text, another, again = backend.generate(twins, DRAWN, genes=genes)
            assert text == again != another
            greedy = backend.generate(twins, replace(DRAWN, temperature=0.0), genes=genes)
            assert len(set(greedy)) == 1

    @pytest.mark.parametrize("n_genes", [(1, 2, 4), (len(GENES), 9)])
    def test_guided_answers_are_distinct_genes_of_the_requested_number(
        self, make: Make, n_genes: tuple[int, ...]
    ) -> None:
        backend = make()
        cells = [replace(cell, answer_genes=number) for number, cell in zip(n_genes, CELLS, strict=False)]
        samplings = (DRAWN, Sampling(max_new_tokens=1), replace(DRAWN, top_k=5), replace(DRAWN, top_p=0.5))
        for sampling in samplings if max(n_genes) < 9 else samplings[:1]:
            for cell, text in zip(cells, backend.generate(cells, sampling, genes=GENES), strict=True):
                words = text.split(" ")
                assert len(words) == cell.answer_genes == len(set(words))
                assert set(words) <= set(GENES)

    def test_guided_by_a_short_list(self, make: Make) -> None:
        cells = [replace(cell, answer_genes=2) for cell in CELLS]
        for pair in (["CD4", "CD44"], ["CD44", "CD4", "CD44"]):
            for text in make().generate(cells, DRAWN, genes=pair):
                assert sorted(text.split(" ")) == ["CD4", "CD44"]

    def test_guided_answers_with_too_many_genes(self, make: Make) -> None:
        backend = make()
        for number in (None, 0, 3):
            with pytest.raises(ValueError, match=r"1 to 2 genes.*answer_genes="):
                backend.generate([replace(CELLS[0], answer_genes=number)], Sampling(), genes=["CD4", "B2M"])
        assert backend.generate([], Sampling(), genes=[]) == []

    # -- score

    def test_scores_are_log_probabilities(self, make: Make) -> None:
        backend = make()
        result = backend.score(CELLS, ANSWERS)
        assert result.dtype == np.float64
        assert result.shape == (len(CELLS), len(ANSWERS))
        assert (result < 0).all()
        assert np.isfinite(result).all()
        np.testing.assert_allclose(backend.score(CELLS, ANSWERS[::-1]), result[:, ::-1], atol=1e-5)
        np.testing.assert_allclose(backend.score(CELLS, ANSWERS[1:2]), result[:, 1:2], atol=1e-5)
        highest = result.max(axis=1, keepdims=True)
        near = backend.score(CELLS, ANSWERS, margin=1.0)
        assert ((result - 1e-5 <= near) & (near <= np.maximum(result, highest - 1.0) + 1e-5)).all()
        assert backend.score([], ANSWERS).shape == (0, len(ANSWERS))
        assert backend.score(CELLS, []).shape == (len(CELLS), 0)
        assert (backend.score(CELLS, [""]) == 0).all()

    # -- prompts longer than the context

    def test_genes_are_cut_to_the_context(self, make: Make, verb: Callable, caplog: pytest.LogCaptureFixture) -> None:
        backend = make()
        long = with_genes(CELLS[1], itertools.islice(itertools.cycle(GENES), 700), answer_genes=4)
        with caplog.at_level(logging.WARNING):
            [result, _] = verb(backend, [long, CELLS[0]])
        assert len(caplog.records) == 1
        message = caplog.records[0].getMessage()
        assert message.startswith("1 of 2 cell sentences")
        assert str(backend.context) in message
        cut = int(message.split("last ")[1].split()[0])
        caplog.clear()
        # The same as a prompt shortened by hand; one more gene does not fit.
        assert_same(verb(backend, [long.shorten(700 - cut)]), [result])
        assert not caplog.records
        verb(backend, [long.shorten(700 - cut + 1)])
        assert len(caplog.records) == 1
        if verb is embed:
            assert backend.embed([long, CELLS[0]]).genes_used.tolist() == [700 - cut, len(CELLS[0].genes)]

    def test_all_cells_of_a_sample_are_cut_to_the_same_length(
        self, make: Make, verb: Callable, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = make()
        [sample] = samples((3,), n_genes=len(GENES))
        repeated = [
            segment if isinstance(segment, str) else replace(segment, symbols=segment.symbols * 30)
            for segment in sample.segments
        ]
        long = replace(sample, segments=tuple(repeated))
        with caplog.at_level(logging.WARNING):
            [result] = verb(backend, [long])
        [record] = caplog.records
        cut = int(record.getMessage().split("last ")[1].split()[0])
        assert cut % 3 == 0
        caplog.clear()
        kept = long.n_genes - cut // 3
        assert_same(verb(backend, [long.shorten(kept)]), [result])
        assert not caplog.records
        verb(backend, [long.shorten(kept + 1)])
        assert len(caplog.records) == 1

    def test_tokens_are_reserved_for_the_answer(self, make: Make) -> None:
        backend = make()
        long = with_genes(CELLS[1], itertools.islice(itertools.cycle(GENES), 700), answer_genes=50)
        [text] = backend.generate([long], Sampling(), genes=GENES)
        assert len(set(text.split())) == 50

    def test_instructions_longer_than_the_context(self, make: Make, verb: Callable) -> None:
        backend = make()
        wordy = with_opening(CELLS[0], "word " * 5000)
        with pytest.raises(
            ValueError, match=rf"'cell0' has \d+ tokens without any genes.*context of {backend.context}"
        ):
            verb(backend, [wordy])

    def test_answers_longer_than_the_context(self, make: Make) -> None:
        backend = make()
        with pytest.raises(ValueError, match="for its answer"):
            backend.generate(CELLS, Sampling(max_new_tokens=backend.context))
        with pytest.raises(ValueError, match="for its answer"):
            backend.score(CELLS, [" word" * backend.context])

    # -- tokenizer

    def test_known_genes(self, make: Make) -> None:
        backend = make()
        assert backend.known_genes(GENES).tolist() == [True] * len(GENES)
        assert backend.known_genes(["CD4", "", "CD 4", " CD4"]).tolist() == [True, False, False, False]
        assert backend.known_genes([]).shape == (0,)
        backend.model = replace(backend.model, metadata={"genes": ["B2M", "CD44"]})
        assert backend.known_genes(["CD4", "CD44", "B2M"]).tolist() == [False, True, True]

    def test_count_tokens(self, make: Make) -> None:
        result = make().count_tokens(["CD4 B2M", "CD4", ""])
        assert result.dtype == np.int64
        assert result[0] > result[1] > result[2] == 0
