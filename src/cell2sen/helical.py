"""Drop-in Cell2SenConfig / Cell2Sen, with the names of Helical's class."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from cell2sen import pipeline
from cell2sen.backend import AttentionMap, Backend, Sampling
from cell2sen.model import EMBEDDED
from cell2sen.pipeline import Options
from cell2sen.sentences import Sentences, from_anndata

if TYPE_CHECKING:
    from anndata import AnnData
    from datasets import Dataset

logger = logging.getLogger(__name__)

#: ``model_size`` → name of the model.
SIZES = {
    EMBEDDED: EMBEDDED,
    "160M": "pythia-160m",
    "410M": "pythia-410m",
    "1B": "pythia-1b",
    "2B": "gemma-2-2b",
    "27B": "gemma-2-27b",
}

_POOLING: dict[str, Any] = {"mean_pool": "mean", "last_token": "last", "gene_pool": "genes"}


@dataclass
class Cell2SenConfig:
    """Settings of :class:`Cell2Sen`. Every one may also be changed on the object later; it is read at each call."""

    batch_size: int | None = None
    """Prompts in a batch; ``None`` fills a fixed number of tokens. Never changes a result."""

    organism: str | None = None
    """Organism of all cells. ``None``: read from each dataset, cell by cell, and never remembered from the one before."""

    perturbation_column: str | None = None
    """``obs`` column with each cell's perturbation."""

    max_new_tokens: int = 200
    """Length of predicted sentences in tokens. Guided sentences get as many genes as fit at the model's mean tokens per
    gene (whole-gene tokens: 200 genes; Pythia and Gemma: about 50)."""

    max_genes: int | None = None
    """Genes of a sentence at most; ``None`` takes the model's recipe."""

    aggregation_type: Literal["mean_pool", "last_token", "gene_pool"] = "mean_pool"
    """Mean over all tokens, the last token, or the mean over gene tokens only."""

    embedding_prompt_template: str | None = None
    """Wording of the embedding prompt, with ``{cell_sentence}`` and ``{organism}`` if wanted; ``None``: the model's own."""

    return_fit: bool = True
    """Accepted for compatibility: ``fit_parameters`` are always there, they cost nothing."""

    dtype: Literal["auto", "bfloat16", "float32", "float16"] = "auto"
    """``"auto"``: bfloat16; float32 for the embedded model."""

    model_size: str = EMBEDDED
    """``"nano"`` (the embedded model), ``"160M"``, ``"410M"``, ``"1B"``, ``"2B"``, ``"27B"``; or any model name, directory or
    hub id."""

    device: str = "auto"
    """``"auto"`` is the GPU if there is one; ``"cpu"``, ``"cuda"``."""

    use_quantization: bool = False
    """Load the weights in 4 bits (NF4, through bitsandbytes), on CPU or GPU."""

    seed: int = 42
    """Seed of sampling. Greedy answers do not depend on it."""

    use_flash_attn: bool = False
    """Accepted for compatibility: attention is always exact and never builds the whole score matrix."""

    temperature: float = 0.0
    """Sampling temperature of predicted sentences; 0 is greedy."""

    guided: bool = True
    """Predicted sentences hold only genes of the dataset, each at most once."""

    offline: bool = True
    """Use what is on this machine; ``False`` fetches a missing checkpoint from the hub."""

    progress: bool = True
    """Show progress bars on stderr."""


class Cell2Sen:
    """Cell embeddings and perturbation responses of a cell-sentence model.

    Parameters
    ----------
    configurer
        Settings; the embedded model by default. The model is loaded at its first use.
    """

    def __init__(self, configurer: Cell2SenConfig | None = None) -> None:
        self.config = dataclasses.replace(configurer) if configurer else Cell2SenConfig()
        self._loaded: tuple[tuple[Any, ...], Backend] | None = None

    def __getattr__(self, name: str) -> Any:
        # Settings read as attributes of the object, as `cell2sen.batch_size`.
        if name in _FIELDS:
            return getattr(self.config, name)
        raise AttributeError(f"Cell2Sen has no attribute {name!r}; settings: {sorted(_FIELDS)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIELDS:
            setattr(self.config, name, value)
        else:
            object.__setattr__(self, name, value)

    @property
    def backend(self) -> Backend:
        """The loaded model; loaded anew when a setting that needs it was changed."""
        config = self.config
        key = (config.model_size, config.dtype, config.use_quantization, config.device, config.offline)
        if self._loaded is None or self._loaded[0] != key:
            options: Options = {
                "model": SIZES.get(config.model_size, config.model_size), "dtype": config.dtype,
                "device": config.device, "offline": config.offline, "progress": config.progress,
            }  # fmt: skip
            if config.use_quantization:
                options["quantize"] = "4bit"
            try:
                self._loaded = (key, pipeline.load_model(options))
            except ValueError as error:
                if (
                    config.model_size not in SIZES
                    and not Path(config.model_size).exists()
                    and "/" not in config.model_size
                ):
                    raise ValueError(
                        f"model_size must be one of {list(SIZES)}, a model name, a directory or a hub id, found "
                        f"{config.model_size!r}"
                    ) from error
                raise
        backend = self._loaded[1]
        # Speed only; backends without batches ignore it.
        backend.batch_size = config.batch_size  # type: ignore[attr-defined]
        return backend

    def process_data(self, adata: AnnData | str | Path, max_genes: int | None = None) -> Dataset:
        """Write the cells as sentences.

        Parameters
        ----------
        adata
            AnnData, or the path of an ``.h5ad`` file. Never changed.
        max_genes
            Genes of a sentence at most, instead of the setting.

        Returns
        -------
        datasets.Dataset
            Columns ``cell_sentence``, ``fit_parameters`` (slope, intercept, r_squared), ``organism``, ``perturbations``,
            ``cell_name``; one row per cell, in order.
        """
        config, backend = self.config, self.backend
        limit = max_genes or config.max_genes
        options: Options = {"max_genes": limit} if limit else {}
        return from_anndata(
            adata, pipeline.recipe_for(backend.model, options), organism=config.organism,
            perturbation_column=config.perturbation_column, known=backend.known_genes, progress=config.progress,
        ).to_dataset()  # fmt: skip

    @overload
    def get_embeddings(
        self, dataset: Dataset, output_attentions: Literal[False] = False, emb_layer: int = -1
    ) -> NDArray[np.float32]: ...

    @overload
    def get_embeddings(
        self, dataset: Dataset, output_attentions: Literal[True], emb_layer: int = -1
    ) -> tuple[NDArray[np.float32], list[AttentionMap | None]]: ...

    def get_embeddings(
        self, dataset: Dataset, output_attentions: bool = False, emb_layer: int = -1
    ) -> NDArray[np.float32] | tuple[NDArray[np.float32], list[AttentionMap | None]]:
        """Embed the cells of a dataset.

        Parameters
        ----------
        dataset
            From :meth:`process_data`, or any with a column ``cell_sentence``.
        output_attentions
            Also return the gene-level attention of each cell, in the last layer that the embedding used.
        emb_layer
            Layer of the hidden states, as in transformers: 0 are the token embeddings, -1 the last layer after its norm.

        Returns
        -------
        float32 (n, hidden) in the order of the dataset, NaN for empty sentences; with `output_attentions` exactly two
        values, the second a list of :class:`AttentionMap` (``.genes``, ``.array`` of shape (heads, genes, genes)).
        """
        session = self._session(dataset, "embed")
        layers = int(getattr(session.backend, "n_layers", 0))
        hidden_layer = emb_layer if emb_layer >= -1 else layers + 1 + emb_layer
        used = layers - 1 if hidden_layer == -1 else max(0, hidden_layer - 1)
        config = self.config
        if config.aggregation_type not in _POOLING:
            raise ValueError(f"aggregation_type must be one of {sorted(_POOLING)}, found {config.aggregation_type!r}")
        found = pipeline.embed(
            session, pooling=_POOLING[config.aggregation_type], hidden_layer=hidden_layer,
            attention_for=range(len(session.sentences)) if output_attentions else (), attention_layer=used,
        )  # fmt: skip
        if output_attentions:
            return found.vectors, found.attention or []
        return found.vectors

    def get_perturbations(
        self, dataset: Dataset, perturbations_list: Sequence[str | None] | None = None
    ) -> tuple[Dataset, list[str | None]]:
        """Predict the cell sentences after a perturbation.

        Parameters
        ----------
        dataset
            From :meth:`process_data`.
        perturbations_list
            One perturbation per cell, ``None`` to skip the cell; by default the dataset's column ``perturbations``.

        Returns
        -------
        The dataset with the columns ``perturbations`` (those used) and ``perturbed_cell_sentence``, and the predicted
        sentences, ``None`` for the cells that were skipped.
        """
        import pyarrow as pa

        config = self.config
        session = self._session(dataset, "perturb")
        slots = pipeline.perturbation_slots(session, perturbations_list)
        found = pipeline.predict(
            session, slots, guided=config.guided, n_genes=self._genes_per_answer(session),
            sampling=Sampling(
                max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed, stop=(".\n", "\n")
            ),
        )  # fmt: skip
        predicted: list[str | None] = [None] * len(slots)
        for row, answer, text in zip(found.rows, found.answers, found.texts, strict=True):
            predicted[row] = " ".join(answer.genes) if config.guided else text.strip()
        columns = [name for name in ("perturbations", "perturbed_cell_sentence") if name in dataset.column_names]
        used = [one["perturbation"] if one else None for one in slots]
        order = [name for name in dataset.column_names if name != "perturbed_cell_sentence"]
        dataset = dataset.remove_columns(columns)
        dataset = dataset.add_column("perturbations", pa.array(used, type=pa.string()))
        dataset = dataset.select_columns(order if "perturbations" in order else [*order, "perturbations"])
        return dataset.add_column("perturbed_cell_sentence", pa.array(predicted, type=pa.string())), predicted

    def _genes_per_answer(self, session: pipeline.Session) -> int:
        symbols = session.sentences.symbols[:500]
        mean = float(np.mean(session.backend.count_tokens([" " + symbol for symbol in symbols]))) if symbols else 1.0
        return min(max(1, math.floor(self.config.max_new_tokens / mean)), session.length or 10**9)

    def _session(self, dataset: Dataset, task: str) -> pipeline.Session:
        backend = self.backend
        options: Options = {"model": backend}
        template = self.config.embedding_prompt_template
        if task == "embed" and template is not None:
            if "{cell_sentence}" not in template:
                raise ValueError("embedding_prompt_template must contain {cell_sentence}")
            options["templates"] = {"embed": [{"prompt": template.replace("{cell_sentence}", "{genes}").rstrip()}]}
        recipe = pipeline.recipe_for(
            backend.model, {"max_genes": self.config.max_genes} if self.config.max_genes else {}
        )
        return pipeline.start(Sentences.from_dataset(dataset, recipe), task, options)


_FIELDS = frozenset(field.name for field in dataclasses.fields(Cell2SenConfig))
