"""Model: a checkpoint and its recipe; table of known checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cell2sen.sentences.rank_fit import RankFit
from cell2sen.sentences.ranking import Recipe

Dtype = Literal["auto", "bfloat16", "float32", "float16"]
Quantize = Literal["4bit", "8bit"]

#: Metadata that `cell2sen train` writes beside the weights.
METADATA_FILE = "cell2sen.json"

#: Hashes of all files that `cell2sen fetch` writes beside the weights, and the name of the checkpoint.
LOCK_FILE = "cell2sen.lock.json"

#: Hashes of the names of a model's training cells, beside its weights
#: (:func:`cell2sen.data.splits.hashes_of_names`).
TRAINED_ON_HASHES = "trained_on_hashes.npy"

EMBEDDED = "nano"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A checkpoint with the recipe and templates of its sentences. Small and picklable, without weights."""

    name: str
    path: str
    """Local directory or hub id."""

    revision: str | None = None
    dtype: Dtype = "auto"
    """``"auto"`` is bfloat16; float32 for the embedded model, which is small, and on a CPU without bfloat16
    instructions, where bfloat16 products take tens of times as long. The provenance records the dtype used."""

    quantize: Quantize | None = None
    recipe: Recipe = field(default_factory=Recipe)
    stop: tuple[str, ...] = ()
    """Strings that end an answer, besides the end-of-text token."""

    wording: str = "cell2sen"
    """Templates that the checkpoint was trained with: ``"cell2sen"`` (this project's), ``"cell2sentence"`` (from the
    authors' package) or ``"checkpoint"`` (in its metadata)."""

    licence: str = "unknown"
    parameters: str = "unknown"
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Content of ``cell2sen.json`` beside the weights: templates, rank fit, genes, labels, calibration, split."""

    @property
    def is_local(self) -> bool:
        """Whether the path is a directory on this machine."""
        return Path(self.path).is_dir()

    @property
    def fit(self) -> RankFit | None:
        """Rank fit stored with the model, for datasets without one of their own."""
        stored = self.metadata.get("fit")
        return RankFit(**stored) if stored else None

    @property
    def training_data(self) -> Mapping[str, Any]:
        """The key ``data`` of the training that made the model; empty if it is not known, or of another form."""
        data = (self.metadata.get("training") or {}).get("data")
        return data if isinstance(data, Mapping) else {}

    @property
    def genes(self) -> tuple[str, ...] | None:
        """Genes that the model can write; ``None`` if it has no fixed list."""
        stored = self.metadata.get("genes")
        return tuple(stored) if stored else None

    def provenance(self) -> dict[str, Any]:
        """Properties of the model that change results, as plain values for ``adata.uns``."""
        return {
            "name": self.name,
            "path": self.path if not self.is_local else Path(self.path).name,
            "revision": self.revision or "",
            "dtype": self.resolved_dtype,
            "quantize": self.quantize or "",
            "weights_sha256": str(self.metadata.get("weights_sha256", "")),
        }

    @property
    def resolved_dtype(self) -> str:
        """Dtype of the computation, with ``"auto"`` replaced."""
        if self.dtype != "auto":
            return self.dtype
        return str(self.metadata.get("dtype", "bfloat16"))


def _published(
    name: str, path: str, parameters: str, max_genes: int, licence: str, stop: tuple[str, ...] = ()
) -> Model:
    return Model(
        name=name,
        path=f"vandijklab/{path}",
        parameters=parameters,
        licence=licence,
        stop=stop,
        recipe=Recipe(max_genes=max_genes, case="upper"),
        wording="cell2sentence",
    )


_NC = "CC-BY-NC-ND-4.0"
_410M = "C2S-Pythia-410m"
KNOWN = {
    model.name: model
    for model in (
        Model(name=EMBEDDED, path=str(Path(__file__).parent / "nano"), parameters="see card", licence="Apache-2.0"),
        _published("pythia-160m", "pythia-160m-c2s", "162M", 1000, _NC),
        _published("pythia-410m", f"{_410M}-diverse-single-and-multi-cell-tasks", "405M", 1000, _NC),
        _published("pythia-410m-annotate", f"{_410M}-cell-type-prediction", "405M", 200, _NC),
        _published("pythia-410m-generate", f"{_410M}-cell-type-conditioned-cell-generation", "405M", 200, _NC),
        _published("pythia-1b", "C2S-Scale-Pythia-1b-pt", "1.0B", 1000, "CC-BY-4.0"),
        _published("gemma-2-2b", "C2S-Scale-Gemma-2-2B", "2.6B", 1000, "CC-BY-4.0", ("<ctrl100>",)),
        _published("gemma-2-27b", "C2S-Scale-Gemma-2-27B", "27.2B", 1000, "CC-BY-4.0", ("<ctrl100>",)),
    )
}


def resolve(model: str | Path | Model = EMBEDDED, **changes: Any) -> Model:
    """Model from a known name, a local directory, a hub id (``owner/name``) or a :class:`Model`.

    Known checkpoints are also recognised by their hub id and by a local directory of the same name.

    Parameters
    ----------
    **changes
        Other values of the model's fields; ``None`` changes nothing.

    Raises
    ------
    ValueError
        None of these (lists the known names), or a damaged metadata file.
    """
    if not isinstance(model, Model):
        text = str(model)
        by_path = {known.path: known for known in KNOWN.values()}
        by_folder = {known.path.split("/")[-1]: known for known in KNOWN.values() if known.name != EMBEDDED}
        if text in KNOWN:
            model = KNOWN[text]
        elif text in by_path:
            model = by_path[text]
        elif text and Path(text).is_dir():
            name = Path(text).resolve().name
            # A downloaded copy of a published checkpoint needs its recipe, templates and stop strings.
            known = KNOWN.get(_locked_name(Path(text)), by_folder.get(name))
            model = Model(name=name, path=text) if known is None else replace(known, path=text)
        elif text.endswith(".gguf"):
            raise ValueError(
                f"GGUF files are converted once: cell2sen fetch {text} --to DIRECTORY, then --model DIRECTORY"
            )
        elif text.count("/") == 1 and not text.startswith((".", "/")):
            model = Model(name=text, path=text)
        else:
            raise ValueError(
                f"no model {text!r}: it is no directory and no hub id (owner/name); known names: {sorted(KNOWN)}"
            )
    if model.is_local and not model.metadata:
        model = _with_metadata(model)
    return replace(model, **{name: value for name, value in changes.items() if value is not None})


def _locked_name(directory: Path) -> str:
    """Name of the checkpoint in a directory's lock file; empty without one."""
    try:
        return str(json.loads((directory / LOCK_FILE).read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _with_metadata(model: Model) -> Model:
    file = Path(model.path) / METADATA_FILE
    if not file.is_file():
        return model
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
        recipe = Recipe(**metadata["recipe"]) if "recipe" in metadata else model.recipe
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is not metadata that cell2sen can read: {error}") from error
    wording = "checkpoint" if metadata.get("templates") else model.wording
    stop = tuple(metadata.get("stop", model.stop))
    return replace(model, metadata=metadata, recipe=recipe, wording=wording, stop=stop)
