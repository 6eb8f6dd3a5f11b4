"""Cell vectors and gene-level attention maps from the layers of a causal LM.

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

from cell2sen.backend import POOLINGS, AttentionMap, Embeddings, Unsupported
from cell2sen.engine.network import attention_context
from cell2sen.engine.network.batching import RunBatches
from cell2sen.engine.tokenization.tokenizer import Tokenized, pad
from cell2sen.prompt import Prompt

#: Names of the attribute with the norm after the last layer: Gemma and Llama, GPT-NeoX.
_FINAL_NORMS = ("norm", "final_layer_norm")

Tokenize = Callable[[Sequence[Prompt]], list[Tokenized]]


class Embedder:
    """Cell vectors and attention maps of prompts that fit into the context.

    Parameters
    ----------
    base
        Transformer without its output head, whose attention is :mod:`cell2sen.engine.network.attention`.
    tokenize
        Token ids of prompts.
    run
        Processes all rows in batches.
    padding_side
        Side of the padding in batches. Does not change the results.
    """

    def __init__(
        self, base: Any, *, tokenize: Tokenize, run: RunBatches, padding_side: Literal["left", "right"] = "right"
    ) -> None:
        self._base = base
        self._tokenize, self._run, self._padding_side = tokenize, run, padding_side
        config = base.config.get_text_config()
        self._hidden_size, self._context = int(config.hidden_size), int(config.max_position_embeddings)
        self._device = base.get_input_embeddings().weight.device

    def embed(
        self,
        prompts: Sequence[Prompt],
        lengths: NDArray[np.int64],
        *,
        pooling: str,
        layer: int,
        attention_for: Sequence[int],
        attention_layer: int,
    ) -> Embeddings:
        """Cell vectors and attention maps, as :meth:`cell2sen.backend.Backend.embed` returns them.

        Parameters
        ----------
        lengths
            Tokens of each prompt, int64 (n,).
        attention_layer
            0-based, not negative.
        """
        vectors = np.zeros((len(prompts), self._hidden_size), dtype=np.float32)
        maps: dict[int, NDArray[np.float32]] = {}
        map_rows = set(attention_for)
        # Maps come from the same passes if the embedding's layer is above theirs, else from passes of their own.
        same_passes = layer == -1 or attention_layer < layer

        def embed_batch(batch: list[int]) -> None:
            inputs, real_BL, gene_BL = self._inputs([prompts[row] for row in batch])
            pooled_BL = pooled_tokens(pooling, real_BL, gene_BL)
            with _capture(maps, attention_layer, batch, prompts, gene_BL, map_rows if same_passes else set()):
                hidden_BLD = first_layers(self._base, layer)(**inputs, use_cache=False).last_hidden_state
            vectors[batch] = pool(hidden_BLD, pooled_BL).cpu().numpy()

        self._run(embed_batch, lengths, "embedding")
        rest = [] if same_passes else sorted(map_rows)

        def map_batch(places: list[int]) -> None:
            batch = [rest[place] for place in places]
            inputs, _, gene_BL = self._inputs([prompts[row] for row in batch])
            with _capture(maps, attention_layer, batch, prompts, gene_BL, map_rows):
                first_layers(self._base, attention_layer + 1)(**inputs, use_cache=False)

        self._run(map_batch, lengths[rest], "attention")
        return Embeddings(
            vectors=vectors,
            genes_used=np.array([len(prompt.genes) for prompt in prompts], dtype=np.int64),
            attention=[
                AttentionMap(genes=tuple(prompt.genes), cells=prompt.cells, array=maps[row])
                if row in map_rows
                else None
                for row, prompt in enumerate(prompts)
            ]
            if map_rows
            else None,
        )

    def _inputs(self, prompts: Sequence[Prompt]) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Arguments of the model; mask of real tokens, bool (B, L); gene of each token, int64 (B, L), -1 for none."""
        arrays = pad(self._tokenize(prompts), self._padding_side, self._context)
        ids_BL, real_BL, gene_BL = (torch.from_numpy(array).to(self._device) for array in arrays)
        if self._padding_side == "right":  # no mask needed: padding comes after all real tokens
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
    map_rows: set[int],
) -> Iterator[None]:
    """Context that adds the attention maps of `map_rows` in one batch to `maps`."""
    places = {place: row for place, row in enumerate(batch) if row in map_rows}
    if not places:
        yield
        return
    n_genes = {place: len(prompts[row].genes) for place, row in places.items()}
    genes = {place: gene_BL[place] for place in places}
    with attention_context.capture_maps(layer, genes, n_genes) as captured:
        yield
    maps.update({row: captured[place].cpu().numpy() for place, row in places.items()})


def first_layers(base: Any, layer: int) -> Any:
    """View of the base model with its first `layer` layers and without final norm; for -1 the base model itself.

    Raises
    ------
    Unsupported
        The architecture has its layers or its final norm under other names.
    """
    if layer == -1:
        return base
    norm = next((name for name in _FINAL_NORMS if hasattr(base, name)), None)
    if norm is None or not hasattr(base, "layers"):
        raise Unsupported(f"cannot read single layers of {type(base).__name__}; use layer=-1, the last layer")
    view = copy.copy(base)
    view._modules = {**base._modules, "layers": base.layers[:layer], norm: torch.nn.Identity()}
    return view


def pooled_tokens(pooling: str, real_BL: torch.Tensor, gene_BL: torch.Tensor) -> torch.Tensor:
    """Mask of the tokens whose mean is a cell's vector, bool (B, L).

    Parameters
    ----------
    pooling
        ``"mean"``, ``"genes"`` or ``"last"``, see :meth:`cell2sen.backend.Backend.embed`.
    real_BL
        Mask of tokens that are no padding, bool (B, L). Padding may be on either side.
    gene_BL
        Gene of each token, int64 (B, L), -1 for none.

    Raises
    ------
    ValueError
        No such pooling, or a row without a token of the kind.
    """
    if pooling == "mean":
        pooled_BL = real_BL
    elif pooling == "genes":
        pooled_BL = real_BL & (gene_BL >= 0)
    elif pooling == "last":
        places = torch.arange(real_BL.shape[1], device=real_BL.device).expand_as(real_BL)
        last_B = places.masked_fill(~real_BL, -1).amax(dim=1)
        pooled_BL = places == last_B[:, None]
    else:
        raise ValueError(f"no pooling {pooling!r}; available: {list(POOLINGS)}")
    if not bool(pooled_BL.any(dim=1).all()):
        raise ValueError(
            f"pooling {pooling!r} needs at least one {'gene' if pooling == 'genes' else 'token'} in each prompt"
        )
    return pooled_BL


def pool(hidden_BLD: torch.Tensor, pooled_BL: torch.Tensor) -> torch.Tensor:
    """Mean of the pooled tokens, float32 (B, D), summed in float32 for any dtype of the hidden states.

    Other tokens do not count, even where they are NaN.
    """
    kept_BLD = torch.where(pooled_BL[:, :, None], hidden_BLD.float(), 0.0)
    return kept_BLD.sum(dim=1) / pooled_BL.sum(dim=1)[:, None]
