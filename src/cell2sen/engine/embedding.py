"""Cell vectors and gene-level attention maps from the layers of a causal language model, without its head.

Axes in names: B batch, L length, D hidden size.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from cell2sen.backend import AttentionMap, Embeddings, Unsupported
from cell2sen.engine.network import attention
from cell2sen.engine.tokenization.tokenizer import Tokenized, pad
from cell2sen.prompt import Prompt

POOLINGS = ("mean", "genes", "last")

#: Names that architectures give to the norm behind their last layer.
_FINAL_NORMS = ("norm", "final_layer_norm")


def embed(
    base: Any,
    prompts: Sequence[Prompt],
    lengths: NDArray[np.int64],
    *,
    pooling: str,
    layer: int,
    attention_for: Sequence[int],
    attention_layer: int,
    tokenize: Callable[[Sequence[Prompt]], list[Tokenized]],
    run: Callable[[Callable[[list[int]], None], NDArray[np.int64], str], None],
    padding_side: Literal["left", "right"] = "right",
) -> Embeddings:
    """What :meth:`cell2sen.backend.Backend.embed` says, of prompts that fit into the context.

    Parameters
    ----------
    base
        A transformer without its head, whose attention is :mod:`cell2sen.engine.network.attention`.
    lengths
        Tokens of each prompt, int64 (n,).
    attention_layer
        0-based.
    tokenize
        Prompts → tokens.
    run
        Calls its first argument with the rows of each batch (:func:`cell2sen.engine.network.batching.run`), given the
        lengths of all rows and a name for the progress bar.
    padding_side
        Of the batches. Changes nothing in the results.
    """
    inputs = _Inputs(base, tokenize, padding_side)
    wanted = set(attention_for)
    vectors = np.zeros((len(prompts), int(base.config.get_text_config().hidden_size)), dtype=np.float32)
    maps: dict[int, NDArray[np.float32]] = {}
    # Maps are made on the way where the embedding's layer lies above theirs, else in passes of their own.
    on_the_way = layer == -1 or attention_layer < layer

    def vectors_of(batch: list[int]) -> None:
        named, real_BL, gene_BL = inputs.of([prompts[row] for row in batch])
        chosen_BL = chosen(pooling, real_BL, gene_BL)
        with _capture(maps, attention_layer, batch, prompts, gene_BL, wanted if on_the_way else set()):
            hidden_BLD = cut(base, layer)(**named, use_cache=False).last_hidden_state
        vectors[batch] = pool(hidden_BLD, chosen_BL).cpu().numpy()

    run(vectors_of, lengths, "embed")
    rest = [] if on_the_way else sorted(wanted)

    def maps_of(places: list[int]) -> None:
        batch = [rest[place] for place in places]
        named, _, gene_BL = inputs.of([prompts[row] for row in batch])
        with _capture(maps, attention_layer, batch, prompts, gene_BL, wanted):
            cut(base, attention_layer + 1)(**named, use_cache=False)

    run(maps_of, lengths[rest], "attention")
    return Embeddings(
        vectors=vectors,
        genes_used=np.array([len(prompt.genes) for prompt in prompts], dtype=np.int64),
        attention=[
            AttentionMap(genes=tuple(prompt.genes), array=maps[row]) if row in wanted else None
            for row, prompt in enumerate(prompts)
        ]
        if wanted
        else None,
    )


class _Inputs:
    """What the base model reads."""

    def __init__(
        self, base: Any, tokenize: Callable[[Sequence[Prompt]], list[Tokenized]], side: Literal["left", "right"]
    ) -> None:
        self._device = base.get_input_embeddings().weight.device
        self._most = int(base.config.get_text_config().max_position_embeddings)
        self._tokenize = tokenize
        self._side = side

    def of(self, prompts: Sequence[Prompt]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Arguments of the model, which tokens are real, bool (B, L), and their genes, int64 (B, L)."""
        arrays = pad(self._tokenize(prompts), self._side, self._most)
        ids_BL, real_BL, gene_BL = (torch.from_numpy(array).to(self._device) for array in arrays)
        if self._side == "right":  # no mask needed: no real token looks to its right
            return {"input_ids": ids_BL}, real_BL, gene_BL
        position_BL = (real_BL.cumsum(dim=1) - 1).clamp(min=0)
        return {"input_ids": ids_BL, "attention_mask": real_BL, "position_ids": position_BL}, real_BL, gene_BL


@contextlib.contextmanager
def _capture(
    maps: dict[int, NDArray[np.float32]],
    layer: int,
    batch: Sequence[int],
    prompts: Sequence[Prompt],
    gene_BL: torch.Tensor,
    wanted: set[int],
) -> Iterator[None]:
    """Put the maps of the wanted rows of one batch into `maps`."""
    places = {place: row for place, row in enumerate(batch) if row in wanted}
    if not places:
        yield
        return
    n_genes = {place: len(prompts[row].genes) for place, row in places.items()}
    with attention.capture(layer, {place: gene_BL[place] for place in places}, n_genes) as found:
        yield
    maps.update({row: found[place].cpu().numpy() for place, row in places.items()})


def cut(base: Any, layer: int) -> Any:
    """The base model without what lies above `layer`. A view: the model itself stays whole.

    Raises
    ------
    Unsupported
        An architecture whose last norm is not known.
    """
    if layer == -1:
        return base
    norm = next((name for name in _FINAL_NORMS if hasattr(base, name)), None)
    if norm is None or not hasattr(base, "layers"):
        raise Unsupported(f"{type(base).__name__} cannot be cut at a layer; layer=-1 works")
    view = copy.copy(base)
    view._modules = {**base._modules, "layers": base.layers[:layer], norm: torch.nn.Identity()}
    return view


def chosen(pooling: str, real_BL: torch.Tensor, gene_BL: torch.Tensor) -> torch.Tensor:
    """Which tokens a cell's vector is the mean of, bool (B, L).

    Parameters
    ----------
    pooling
        ``"mean"``, ``"genes"`` or ``"last"``, see :meth:`cell2sen.backend.Backend.embed`.
    real_BL
        bool: no padding. Padding may stand on either side.
    gene_BL
        int64: gene of each token, -1 for none.

    Raises
    ------
    ValueError
        No such pooling, or a row of which nothing is chosen.
    """
    if pooling == "mean":
        chosen_BL = real_BL
    elif pooling == "genes":
        chosen_BL = real_BL & (gene_BL >= 0)
    elif pooling == "last":
        places = torch.arange(real_BL.shape[1], device=real_BL.device).expand_as(real_BL)
        last_B = places.masked_fill(~real_BL, -1).amax(dim=1)
        chosen_BL = places == last_B[:, None]
    else:
        raise ValueError(f"no pooling {pooling!r}; available: {list(POOLINGS)}")
    if not bool(chosen_BL.any(dim=1).all()):
        raise ValueError(
            f"pooling {pooling!r} needs at least one {'gene' if pooling == 'genes' else 'token'} in each prompt"
        )
    return chosen_BL


def pool(hidden_BLD: torch.Tensor, chosen_BL: torch.Tensor) -> torch.Tensor:
    """Mean of the chosen tokens, float32 (B, D), summed in float32 whatever the dtype of the hidden states.

    What stands in tokens that are not chosen does not matter, not even NaN.
    """
    kept_BLD = torch.where(chosen_BL[:, :, None], hidden_BLD.float(), 0.0)
    return kept_BLD.sum(dim=1) / chosen_BL.sum(dim=1)[:, None]
