"""What names that mean nothing change in a model's prediction, and how far a response stands out of that.

Small models change the most frequent genes after any name, more so after longer ones. The response to a name is
therefore compared with those to made-up names of its own form. Their directions are taken out; what is left of the
response to a name that the model was not trained on is shrunken by what is left of a made-up name when the directions
of the others are taken out, so that a name within the spread of made-up names has no response.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

#: Names that mean nothing, of one and of two words like those that models are trained on.
MADE_UP_NAMES = ("qwerty", "made-up compound")

#: Made-up names beside each name that the model was not trained on.
N_LIKE = 4

_VOWELS, _CONSONANTS, _DIGITS = "aeiouy", "bcdfghjklmnpqrstvwxz", "0123456789"


def made_up_like(name: str, n: int = N_LIKE, *, known: Collection[str] = ()) -> list[str]:
    """Made-up names of the same form: each vowel, consonant and digit is another one, the same in each run.

    Parameters
    ----------
    known
        Names that mean something, in any case of letters; none of them is returned.
    """
    taken = {other.lower() for other in (*known, name)}
    names: list[str] = []
    generator = np.random.default_rng(list(name.encode()))
    attempts = 0
    while len(names) < n:
        made_up = "".join(_another(character, generator) for character in name)
        attempts += 1
        if made_up.lower() not in taken:
            names.append(made_up)
            taken.add(made_up.lower())
        elif attempts > 100 * n:  # "?" or "β": no letters to exchange
            name, attempts = name + "ba", 0
    return names


def _another(character: str, generator: np.random.Generator) -> str:
    """A random letter of the same kind and case, or a digit; other characters as they are."""
    for kind in (_VOWELS, _CONSONANTS, _DIGITS):
        if character.lower() in kind:
            drawn = kind[generator.integers(len(kind))]
            return drawn.upper() if character.isupper() else drawn
    return character


def standing_out(changes: NDArray[np.float64], made_up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Changes beyond those of made-up names, row by row: r · max(0, 1 − maxⱼ ‖rⱼ‖² / ‖r‖²).

    r is the change without the directions of all made-up names, rⱼ that of made-up name j without those of the others:
    the positive-part estimate of James and Stein (1961), with the largest of a few made-up names as the noise.

    Parameters
    ----------
    changes
        float64 (rows, genes).
    made_up
        Changes after at least two made-up names, float64 (rows, genes, names).
    """
    n_names = made_up.shape[2]
    noise = np.zeros(len(changes))
    for number in range(n_names):
        others = np.delete(made_up, number, axis=2)
        noise = np.maximum(noise, (without_directions(made_up[:, :, number], others) ** 2).sum(axis=1))
    remaining = without_directions(changes, made_up)
    size = (remaining**2).sum(axis=1)
    share = np.divide(size - noise, size, out=np.zeros_like(size), where=size > noise)
    return np.asarray(remaining * share[:, None])


def without_directions(changes: NDArray[np.float64], directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Changes without their parts along given directions, row by row: x − Q Qᵀ x, Q an orthonormal basis.

    Parameters
    ----------
    changes
        float64 (rows, genes).
    directions
        float64 (rows, genes, directions); those of length 0 have no effect.
    """
    remaining = changes.copy()
    basis, triangle = np.linalg.qr(directions)
    scale = np.abs(np.diagonal(triangle, axis1=1, axis2=2))
    basis = basis * (scale > 1e-9 * np.maximum(scale.max(axis=1, keepdims=True), 1e-30))[:, None, :]
    remaining -= np.einsum("ngd,nd->ng", basis, np.einsum("ngd,ng->nd", basis, changes))
    return np.asarray(remaining)
