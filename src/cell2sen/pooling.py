"""Hidden states → cell vectors; tokens → genes.

Axes in names: B batch, L length, D hidden size.
"""

from __future__ import annotations

import torch

POOLINGS = ("mean", "genes", "last")


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
