"""Cell2Sen and Cell2SenConfig: the names and arguments of Helical's class."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from cell2sen.backend import SENTENCE_END, AttentionMap, Backend, Pooling, Sampling
from cell2sen.data.scale.units import ScaleName, check_scale_name
from cell2sen.inference.embed import embed_cells
from cell2sen.inference.options import Options, recipe_for
from cell2sen.inference.responses.control_cells import perturbation_per_cell, without_controls
from cell2sen.inference.responses.perturb import genes_that_fit, perturbation_slots, predict_sentences
from cell2sen.inference.session import Session, load_model, start
from cell2sen.model import EMBEDDED, KNOWN
from cell2sen.sentences.sentences import Sentences
from cell2sen.sentences.writing import from_anndata

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

#: ``aggregation_type`` → pooling.
_POOLING: dict[str, Pooling] = {"mean_pool": "mean", "last_token": "last", "gene_pool": "genes"}

#: Setting → allowed values.
_MENUS = {"aggregation_type": tuple(_POOLING), "dtype": ("auto", "bfloat16", "float32", "float16")}

#: Setting → smallest allowed value.
_MINIMA = {"batch_size": 1, "max_genes": 1, "max_new_tokens": 1, "temperature": 0}


@dataclass
class Cell2SenConfig:
    """Settings of :class:`Cell2Sen`, which copies them. They may be changed there later: ``cell2sen.seed = 1``.

    Raises
    ------
    ValueError
        A value that is not allowed; lists the allowed ones.
    AttributeError
        A setting that does not exist; lists the available ones.
    """

    batch_size: int | None = None
    """Prompts in a batch; ``None``: as many as fit into memory. Changes no result."""

    organism: str | None = None
    """Organism of all cells. ``None``: that of each cell, read from the data."""

    scale: ScaleName | None = None
    """Scale of the values (``"counts"``, ``"log1p"``, …); ``None``: recognised. Helical has no such setting."""

    perturbation_column: str | None = None
    """``obs`` column with each cell's perturbation."""

    max_new_tokens: int = 200
    """Maximum length of predicted sentences in tokens. Guided sentences have as many genes as fit on average: 200 for
    models with one token per gene, about 50 for Pythia and Gemma."""

    max_genes: int | None = None
    """Maximum number of genes of a sentence; ``None``: the model's recipe."""

    aggregation_type: Literal["mean_pool", "last_token", "gene_pool"] = "mean_pool"
    """Mean over all tokens, the last token, or the mean over gene tokens only."""

    embedding_prompt_template: str | None = None
    """Embedding prompt with ``{cell_sentence}`` and optionally ``{organism}``; ``None``: the model's."""

    return_fit: bool = True
    """Accepted for compatibility, without effect: datasets always have ``fit_parameters``."""

    dtype: Literal["auto", "bfloat16", "float32", "float16"] = "auto"
    """``"auto"``: bfloat16; float32 for the embedded model and on a CPU without bfloat16 instructions."""

    model_size: str = EMBEDDED
    """``"nano"`` (the embedded model), ``"160M"``, ``"410M"``, ``"1B"``, ``"2B"``, ``"27B"``; or any model name,
    directory or hub id."""

    device: str = "auto"
    """``"auto"`` (the GPU if there is one), ``"cpu"`` or ``"cuda"``."""

    use_quantization: bool = False
    """Load the weights in 4 bits (NF4, through bitsandbytes), on CPU or GPU."""

    seed: int = 42
    """Seed of sampling; without effect on greedy answers."""

    use_flash_attn: bool = False
    """Accepted for compatibility, without effect: attention is always exact and never stores the whole score matrix."""

    temperature: float = 0.0
    """Sampling temperature of predicted sentences; 0 is greedy."""

    guided: bool = True
    """Predicted sentences have only genes of the dataset, each at most once."""

    offline: bool = True
    """Never download; ``False`` fetches a missing checkpoint from the hub."""

    progress: bool = True
    """Show progress bars on stderr."""

    def __setattr__(self, name: str, value: Any) -> None:
        _check_setting(name, value)
        object.__setattr__(self, name, value)


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
        # Helical's settings are also attributes of the object: `cell2sen.batch_size`.
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
        """The loaded model; loaded again if a setting of the weights or the device has changed."""
        config = self.config
        key = (config.model_size, config.dtype, config.use_quantization, config.device, config.offline)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # two models at once may not fit into memory
            options: Options = {
                "model": SIZES.get(config.model_size, config.model_size),
                "dtype": config.dtype,
                "device": config.device,
                "offline": config.offline,
                "progress": config.progress,
            }
            if config.use_quantization:
                options["quantize"] = "4bit"
            self._loaded = (key, load_model(options))
        backend = self._loaded[1]
        backend.batch_size = config.batch_size
        backend.progress = config.progress
        return backend

    def process_data(self, adata: AnnData | str | Path, max_genes: int | None = None) -> Dataset:
        """Cell sentences of an AnnData object or file, as a Hugging Face dataset.

        Parameters
        ----------
        adata
            AnnData, or the path of an ``.h5ad`` file or ``.zarr`` store. Never changed.
        max_genes
            Maximum number of genes of a sentence, instead of the setting.

        Returns
        -------
        datasets.Dataset
            Columns ``cell_sentence``, ``fit_parameters`` (slope, intercept, r_squared), ``organism``,
            ``perturbations``, ``cell_name``; one row per cell, in order. Its description lists all genes of `adata`
            that the model can write, since predictions may have genes that no control cell expresses.

        Raises
        ------
        KeyError
            No such ``obs`` column; lists the available ones.
        ValueError
            Negative or infinite values, or no gene that the model can write.
        """
        config, backend = self.config, self.backend
        limit = config.max_genes if max_genes is None else max_genes
        options: Options = {} if limit is None else {"max_genes": limit}
        sentences = from_anndata(
            adata,
            recipe_for(backend.model, options),
            organism=config.organism,
            scale=config.scale,
            perturbation_column=config.perturbation_column,
            known=backend.known_genes,
            progress=config.progress,
        )
        dataset = sentences.to_dataset()
        dataset.info.description = json.dumps({"genes": sentences.symbols})
        return dataset

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
        """Embeddings of the cells of a dataset, and their attention maps on request.

        Parameters
        ----------
        dataset
            From :meth:`process_data`, or any dataset with a column ``cell_sentence``.
        output_attentions
            Also return the gene-level attention of each cell, in the last layer before the embedding.
        emb_layer
            Layer of the hidden states, as in transformers: 0 for token embeddings, -1 for the last layer after its
            norm.

        Returns
        -------
        embeddings
            float32 (n, hidden) in the order of the dataset, NaN for empty sentences.
        attention_maps
            With `output_attentions` only: one :class:`AttentionMap` per cell (``.genes``; ``.array``, float32 (heads,
            genes, genes)), ``None`` for empty sentences.

        Raises
        ------
        ValueError
            No such layer, or no gene that the model can write.
        KeyError
            No column ``cell_sentence``.
        """
        session = self._session(dataset, "embed")
        layers = session.backend.n_layers
        if not -layers - 1 <= emb_layer <= layers:
            raise ValueError(f"no layer {emb_layer}; available: -1 (after the final norm), {-layers - 1} to {layers}")
        hidden_layer = emb_layer if emb_layer >= -1 else layers + 1 + emb_layer
        embeddings = embed_cells(
            session,
            pooling=_POOLING[self.config.aggregation_type],
            hidden_layer=hidden_layer,
            attention_for=range(len(session.sentences)) if output_attentions else (),
            attention_layer=layers - 1 if hidden_layer == -1 else max(0, hidden_layer - 1),
        )
        if output_attentions:
            return embeddings.vectors, embeddings.attention or []
        return embeddings.vectors

    def get_perturbations(
        self, dataset: Dataset, perturbations_list: Sequence[str | None] | None = None
    ) -> tuple[Dataset, list[str | None]]:
        """Predicted cell sentences after a perturbation.

        Parameters
        ----------
        dataset
            From :meth:`process_data`.
        perturbations_list
            One perturbation per cell; missing values and controls ("control", "DMSO", …) skip the cell. By default the
            dataset's column ``perturbations``.

        Returns
        -------
        dataset
            With the columns ``perturbations`` (those used) and ``perturbed_cell_sentence``.
        sentences
            Predicted sentences in the order of the dataset; ``None`` for the cells that were skipped.

        Raises
        ------
        ValueError
            Not one perturbation per cell, or no cell with a perturbation and genes.
        """
        import pyarrow as pa

        if hasattr(dataset, "column_names") and not hasattr(dataset, "__len__"):
            raise TypeError(
                "the dataset is streamed, so that its cells are not counted: load it without streaming=True"
            )
        config = self.config
        session = self._session(dataset, "perturb")
        values = session.sentences.perturbations if perturbations_list is None else perturbations_list
        perturbations = without_controls(perturbation_per_cell(values, len(dataset)), session.model)
        slots = perturbation_slots(session, perturbations, force=True)  # as the other package, with a warning
        vocabulary = _vocabulary(dataset, session)
        sampling = Sampling(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed, stop=SENTENCE_END
        )
        written = predict_sentences(
            session,
            slots,
            sampling=sampling,
            guided=config.guided,
            vocabulary=vocabulary,
            n_genes=genes_that_fit(session, vocabulary, config.max_new_tokens),
        )
        predicted: list[str | None] = [None] * len(slots)
        for row, answer, text in zip(written.rows, written.answers, written.texts, strict=True):
            predicted[row] = " ".join(answer.genes) if config.guided else text.strip()
        used = [values["perturbation"] if values else None for values in slots]
        with _bars(config.progress):
            for name, values in (("perturbations", used), ("perturbed_cell_sentence", predicted)):
                order = [*dataset.column_names, *({name} - set(dataset.column_names))]
                dataset = dataset.remove_columns([name] if name in dataset.column_names else [])
                dataset = dataset.add_column(name, pa.array(values, type=pa.string())).select_columns(order)
        return dataset, predicted

    def _session(self, dataset: Dataset, task: str) -> Session:
        backend, config = self.backend, self.config
        options: Options = {"model": backend}
        template = config.embedding_prompt_template
        if task == "embed" and template is not None:
            options["templates"] = {"embed": [{"prompt": template.replace("{cell_sentence}", "{genes}").rstrip()}]}
        recipe = recipe_for(backend.model, {} if config.max_genes is None else {"max_genes": config.max_genes})
        return start(Sentences.from_dataset(dataset, recipe), task, options)


@contextlib.contextmanager
def _bars(progress: bool) -> Iterator[None]:
    """Context in which the library datasets shows progress bars only if `progress`."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_shown = not are_progress_bars_disabled()
    if not progress:
        disable_progress_bars()
    try:
        yield
    finally:
        if were_shown:
            enable_progress_bars()


def _vocabulary(dataset: Dataset, session: Session) -> list[str]:
    """Genes that predictions may have: those of the dataset's description, and of its sentences."""
    described = _genes_in_description(dataset)
    if not described:
        logger.warning(
            "the dataset has no list of genes in its description, which process_data writes: predicted sentences have "
            "only genes that a cell of the dataset expresses"
        )
    genes = list(dict.fromkeys([*described, *session.sentences.symbols]))
    return [gene for gene, known in zip(genes, session.backend.known_genes(genes), strict=True) if known]


def _genes_in_description(dataset: Dataset) -> tuple[str, ...]:
    """Genes in the description of a dataset from :meth:`Cell2Sen.process_data`, or of several concatenated ones."""
    genes: list[str] = []
    for line in (dataset.info.description or "").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # blank lines between, and the user's own text
            genes += json.loads(line)["genes"]
    return tuple(dict.fromkeys(genes))


def _check_setting(name: str, value: Any) -> None:
    if name not in _FIELDS:
        raise AttributeError(f"Cell2SenConfig has no setting {name!r}; available: {sorted(_FIELDS)}")
    if name in _MENUS and value not in _MENUS[name]:
        raise ValueError(f"{name} must be one of {', '.join(_MENUS[name])}; found {value!r}")
    if name == "scale":
        check_scale_name(value)
    known_sizes = {*SIZES, *KNOWN}
    if name == "model_size" and not (value in known_sizes or "/" in str(value) or Path(value).is_dir()):
        raise ValueError(
            f"model_size must be one of {', '.join(SIZES)}; or a model name ({', '.join(KNOWN)}), a directory or a "
            f"hub id (owner/name); found {value!r}"
        )
    if name in _MINIMA and value is not None and value < _MINIMA[name]:
        raise ValueError(f"{name} must be at least {_MINIMA[name]}, found {value}")
    if name == "embedding_prompt_template" and value is not None and value.count("{cell_sentence}") != 1:
        raise ValueError(f"embedding_prompt_template must contain {{cell_sentence}} once, found {value!r}")


_FIELDS = frozenset(field.name for field in dataclasses.fields(Cell2SenConfig))
