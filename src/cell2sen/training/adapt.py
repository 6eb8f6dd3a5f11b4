"""Adaptation of a model to unlabelled cells, from AnnData to a model directory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from cell2sen.backend import Backend
from cell2sen.data.output import complete_folder
from cell2sen.engine.network.cpu import keep_freed_memory
from cell2sen.engine.tokenization.tokenizer import known_genes, load_tokens
from cell2sen.inference.options import Options, check_options
from cell2sen.inference.session import model_of
from cell2sen.model import Model, resolve
from cell2sen.training.adaptation.adapted_model import write_adapted
from cell2sen.training.adaptation.settings import Adaptation
from cell2sen.training.adaptation.unlabelled_cells import Reader, UnlabelledCells
from cell2sen.training.config.model import Lora, ModelConfig
from cell2sen.training.config.training_file import build
from cell2sen.training.network import loading as networks
from cell2sen.training.processes import n_processes

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Minutes of training without another number.
MINUTES = 5.0

#: Upper limit of the parameters of a model that is adapted: larger ones are trained with `cell2sen train`.
MAX_PARAMETERS = 4e9


@networks.quiet()
def adapt(
    cells: AnnData | str | Path,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    settings: Adaptation | Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> Model:
    """Train a model on unlabelled cells for a few minutes, and write its directory, which every ``model=`` takes.

    Two losses: the next gene of the cell's own sentence, and two views of one cell (random depth, panel, ambient
    counts, missing genes) among those of other cells, by the vectors that :func:`cell2sen.tl.embed` returns. The gene
    part of embeddings is fitted to the cells. Labels are those of the starting model, their calibration no longer
    counts. Models from 50 million parameters on are trained by low-rank adapters, which are merged.

    Principal components of the same cells may still be the better embedding: on a lung tumour the ten nearest cells
    name 0.660 of the cells after an adaptation of the embedded model, 0.492 before, and 0.700 by them.

    Parameters
    ----------
    cells
        Cells of the tissue, in memory or a file; not changed. At least 50 with genes that the model can write; of more
        than 20,000 a random part is used.
    out
        Directory to write. It appears when it is complete.
    minutes
        Time of the training, without loading and writing: a few steps are timed, and the number of steps that fit is
        trained and recorded. Default: 5.
    steps
        Number of steps, instead of `minutes`. The same number and seed give the same model again, on the same machine
        and number of threads.
    settings
        :class:`cell2sen.training.Adaptation`, or its keys as a mapping, such as ``{"temperature": 0.2, "seed": 1}``.
    **options
        Model, matrix, genes, context and templates, as for :func:`cell2sen.tl.embed`.

    Returns
    -------
    Model
        The adapted model.

    Raises
    ------
    FileExistsError
        `out` exists.
    ValueError
        Too few cells, no gene that the model knows, a model that cannot be trained here (another backend than
        transformers, quantised weights, more than 4 billion parameters), several processes, wrong settings.
    FileNotFoundError
        The model is not on this machine.
    """
    import torch

    check_options(options)
    if minutes is not None and steps is not None:
        raise ValueError("pass either minutes or steps, not both")
    if (minutes is not None and minutes <= 0) or (steps is not None and steps < 1):
        raise ValueError(f"minutes must be above 0 and steps at least 1, found {minutes if steps is None else steps}")
    chosen = build(Adaptation, settings or {}, "adaptation")
    start = _trainable(options)
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another directory or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    # Errors in the data come before a large model is loaded.
    tokens = load_tokens(start.path, **networks.load_options(start))
    own = UnlabelledCells(cells, start, lambda symbols: known_genes(start, tokens, symbols), options, seed=chosen.seed)
    is_large = _parameters(start) >= networks.SMALL_NETWORK
    config = ModelConfig(start=start.path, lora=Lora() if is_large else None)
    model = networks.load(config, start)
    device = options.get("device", "auto")
    model.network.to(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    before = networks.copied_weights(model.network) if chosen.start_share and not is_large else {}
    given = None if steps is not None else MINUTES if minutes is None else minutes
    with torch.random.fork_rng(devices=[]):  # the random numbers of the calling program go on as before
        torch.manual_seed(chosen.seed)
        network, done = _trained(model, own, chosen, options, given, steps)
    networks.interpolate_weights(network, before, chosen.start_share)
    network = network.to("cpu", torch.bfloat16 if is_large else torch.float32)
    adapted = networks.TrainableModel(network=network, tokenizer=model.tokenizer, tokens=model.tokens, start=start)
    with complete_folder(out) as temporary:
        write_adapted(temporary, adapted, own, chosen, done, given)
    return resolve(out)


def _trained(
    model: networks.TrainableModel,
    cells: UnlabelledCells,
    settings: Adaptation,
    options: Options,
    minutes: float | None,
    steps: int | None,
) -> tuple[Any, Any]:
    """The trained network without adapters, and what was done."""
    from cell2sen.training.adaptation.loop import Loop

    start, is_large = cells.model, not networks.is_small(model.network)
    config = ModelConfig(start=start.path, lora=Lora() if is_large else None)
    network = networks.with_adapters(model.network, networks.lora_config(config, model))
    network.eval()  # the views differ enough without dropout
    size = int(model.network.config.get_text_config().max_position_embeddings)
    loop = Loop(
        network=network,
        cells=cells,
        reader=Reader(model=start, tokens=model.tokens, context_tokens=size, options=options),
        settings=settings,
        learning_rate=settings.learning_rate or (2e-4 if is_large else 1e-3),
        bfloat16=is_large,
    )
    done = loop.run(steps=steps, minutes=minutes or 0.0, progress=options.get("progress", True))
    return (network.merge_and_unload() if is_large else network), done


def _trainable(options: Options) -> Model:
    """The model of `options`, if it can be trained in this process.

    Raises
    ------
    ValueError
        It cannot.
    """
    from cell2sen.backends.transformers import TransformersBackend

    loaded, backend = options.get("model"), options.get("backend", "transformers")
    if isinstance(loaded, Backend) and not isinstance(loaded, TransformersBackend):
        backend = type(loaded).__module__.rpartition(".")[2]
    if backend != "transformers" or options.get("url"):
        raise ValueError(
            f"an adaptation trains weights in this process, which the backend {backend!r} does not: use the backend "
            "transformers, or the model as it is"
        )
    model = model_of(options)
    if model.quantize:
        raise ValueError(f"quantised weights ({model.quantize}) cannot be adapted: leave out quantize")
    if n_processes() > 1:
        raise ValueError("an adaptation runs in one process: start it without torchrun or accelerate")
    if (n := _parameters(model)) > MAX_PARAMETERS:
        raise ValueError(
            f"{model.name} has {n / 1e9:.1f} billion parameters, too many to adapt in minutes (at most "
            f"{MAX_PARAMETERS / 1e9:g} billion): fine-tune it with cell2sen train --lora --quantize 4bit"
        )
    return model


def _parameters(model: Model) -> int:
    """Number of parameters of a checkpoint, from its configuration."""
    import torch
    import transformers

    hf: Any = transformers  # typed in parts only
    try:
        config = hf.AutoConfig.from_pretrained(model.path, **networks.load_options(model))
    except OSError as error:
        raise FileNotFoundError(
            f"the checkpoint {model.path!r} is not on this machine; download it with cell2sen fetch {model.path} and "
            f"pass the directory as the model. transformers reports: {error}"
        ) from error
    with torch.device("meta"):
        return int(hf.AutoModelForCausalLM.from_config(config).num_parameters())
