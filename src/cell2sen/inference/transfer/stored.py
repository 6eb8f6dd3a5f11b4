"""Stored embeddings of a reference: files beside it, named by a hash of its cells, the genes and the model."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cell2sen.data.output import complete_file
from cell2sen.inference.session import Session

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One file of embeddings."""

    file: Path
    n_cells: int

    def read(self) -> NDArray[np.float32] | None:
        """Embeddings of the file, float32 (n, hidden); ``None`` if there is none, or it is damaged."""
        try:
            with self.file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                vectors = np.asarray(arrays["vectors"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logger.warning("%s cannot be read (%s): the reference is embedded again", self.file, error)
            return None
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != self.n_cells:
            logger.warning("%s holds no embeddings of %d cells: they are computed again", self.file, self.n_cells)
            return None
        return vectors

    def write(self, vectors: NDArray[np.float32]) -> None:
        """Store embeddings, complete or not at all; a folder that cannot be written to gives a warning."""
        try:
            with complete_file(self.file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, vectors=vectors)
        except OSError as error:
            logger.warning("the embeddings of the reference were not stored (%s)", error)


def stored_embeddings(session: Session, folder: str | Path, name: str, *, hidden_layer: int = -1) -> Stored:
    """File of the embeddings of a session's cells: ``<name>.<hash>.npz`` in `folder`.

    The hash covers all that changes the embeddings: the cells with their genes in order, the model with its weights,
    number format and prompts, the layer, and the context. The names of the cells and other columns of obs do not.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} to store embeddings in; create it first")
    sentences = session.sentences
    settings: dict[str, Any] = {
        "model": session.backend.provenance(),
        "backend": type(session.backend).__name__,
        "hidden_layer": hidden_layer,
        "recipe": sentences.recipe.provenance(),
        "template": session.task.template_hash,
        "length": session.length,
        "context": [session.context.names, list(session.context.values)],
        "organism": sentences.organism,
    }
    digest = hashlib.blake2b(digest_size=12)
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update("\n".join(sentences.symbols).encode())
    digest.update(np.asarray(sentences.n_genes, dtype=np.int64).tobytes())
    digest.update(np.asarray(sentences.genes.flatten().to_numpy(), dtype=np.int32).tobytes())
    return Stored(file=folder / f"{name}.{digest.hexdigest()}.npz", n_cells=len(sentences))
