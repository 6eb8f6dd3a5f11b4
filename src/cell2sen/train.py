"""Fine-tuning and training from scratch, through trl / peft."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cell2sen import gene_tokenizer, model_directory, tasks
from cell2sen.calibration import calibrate
from cell2sen.gene_vectors import gene_vectors, log_frequency
from cell2sen.model import Model, resolve
from cell2sen.pairs import Augmentation, Cells, exclude_held_out, pairs
from cell2sen.task import Prompt, Task
from cell2sen.tokens import Tokens, load_tokens
from cell2sen.training_file import Lora, Scratch, TrainConfig, configure, from_mapping, plain, read_config
from cell2sen.wording import word

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Lora", "Scratch", "TrainConfig", "configure", "from_mapping", "read_config", "train"]

logger = logging.getLogger(__name__)

#: Genes per sentence, where neither the training file nor the model that is fine-tuned says another number.
LENGTHS = {"annotate": 400, "generate": 200, "perturb": 200}
DEFAULT_LENGTH = 200

SETTINGS_FILE = "settings.json"

#: Spread of the random start of token vectors, which are the output layer, too: first logits must be small.
EMBEDDING_SCALE = 0.02

#: Five times that, so that the first norm lets it through.
GENE_VECTOR_SCALE = 0.1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and advice of transformers, and the warnings that trl and peft earn with deprecated names."""
    from transformers.utils import logging

    hf_logging: Any = logging  # typed in parts only
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprecated", FutureWarning)
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


@_quiet()
def train(
    config: TrainConfig, out: str | Path, *, base: str | Path = ".", resume: bool = False, progress: bool = True
) -> Model:
    """Train, and write a directory that :func:`cell2sen.model.resolve` takes like any other model.

    Parameters
    ----------
    out
        Directory to be written. It appears under this name only when it is complete; checkpoints of a running training
        lie in ``<out>.training``.
    base
        Folder that the files in `config.data` are relative to.
    resume
        Go on from the last checkpoint in ``<out>.training``: the result is that of an uninterrupted training.
    progress
        Show a progress bar on stderr.

    Returns
    -------
    Model
        The trained model.

    Raises
    ------
    FileExistsError
        `out` exists, or an unfinished training that is not to be resumed.
    FileNotFoundError
        Nothing to resume.
    ValueError
        Data that cannot be learned from, or resumed with other settings.
    """
    import torch
    from transformers import set_seed

    from cell2sen.sft import AnswerTrainer, Progress

    out = Path(out)
    folder = out.with_name(out.name + ".training")
    _check_folders(config, out, folder, resume)
    set_seed(config.seed)
    start = resolve(config.model) if config.model else None
    case = start.recipe.case if start else "upper"
    cells = {data.file: Cells(data, Path(base), case) for data in config.data}
    exclude_held_out(cells)
    worded = _worded(config, start)
    lengths = {name: LENGTHS.get(name, DEFAULT_LENGTH) for name in worded}
    lengths |= {**(start.metadata.get("lengths", {}) if start else {}), **config.lengths}
    genes = start.genes if start else _common_genes(cells, config)
    network, tokenizer, tokens = _load(config, start) if start else _scratch(config, genes, cells, worded)
    for one in cells.values():
        listed = frozenset(genes) if genes else None
        known = tokens.known(one.symbols)
        one.keep_genes(known & np.array([listed is None or symbol in listed for symbol in one.symbols], dtype=bool))
    context = int(network.config.get_text_config().max_position_embeddings)
    train_set, eval_set = (
        _samples(config, cells, worded, lengths, tokens, context, held_out=held_out) for held_out in (False, True)
    )
    logger.info("%d training pairs, %d held-out pairs", len(train_set), len(eval_set))
    if not len(train_set):
        raise ValueError("nothing to learn from: no training cell has the labels, or the controls, that its tasks need")
    trainer = AnswerTrainer(
        model=network, args=_arguments(config, folder, network, bool(len(eval_set))), train_dataset=train_set,
        eval_dataset=eval_set if len(eval_set) else None, processing_class=tokenizer, peft_config=_peft(config),
        prompt_loss=config.prompt_loss, loss_tokens=config.loss_tokens,
        callbacks=[Progress(progress), *_stopping(config)],
    )  # fmt: skip
    _silence(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_FILE).write_text(json.dumps(plain(config)), encoding="utf-8")
    trainer.train(resume_from_checkpoint=resume)
    trained: Any = trainer.model
    trained.config.use_cache = True
    metadata = model_directory.metadata_of(config, cells, worded, lengths, genes, start)
    network = _whole(trainer, config, start, folder).to(getattr(torch, config.save_dtype))
    with model_directory.complete(out) as temporary:
        model_directory.write(temporary, network, tokenizer, metadata, config, cells, trainer.state)
        model_directory.check_tokenizer(temporary, tokens, train_set)
        calibrate(temporary, list(cells.values()), progress=progress)
    shutil.rmtree(folder, ignore_errors=True)
    return resolve(out)


def _check_folders(config: TrainConfig, out: Path, folder: Path, resume: bool) -> None:
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another directory or remove it")
    checkpoints = any(folder.glob("checkpoint-*"))
    if checkpoints and not resume:
        raise FileExistsError(f"{folder} holds an unfinished training: resume it, or remove it to begin anew")
    if resume and not checkpoints:
        raise FileNotFoundError(f"there is no checkpoint in {folder} to resume from; begin anew without resume")
    settings = plain(config)
    if resume and (stored := json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))) != settings:
        changed = sorted(key for key in settings if settings[key] != stored.get(key))
        raise ValueError(
            f"the training in {folder} began with other settings ({', '.join(changed)}); resume it with those"
        )
    out.parent.mkdir(parents=True, exist_ok=True)


def _arguments(config: TrainConfig, folder: Path, network: Any, evaluate: bool) -> Any:
    import torch
    from trl.trainer.sft_config import SFTConfig

    best = config.keep_best or config.patience is not None
    if best and not evaluate:
        raise ValueError(
            "keep_best and patience need held-out pairs: no cell is held out (split:), or none has an answer"
        )
    rate = config.learning_rate
    if rate is None:
        small = network.num_parameters() < 50e6
        rate = 1e-3 if config.from_scratch else 2e-4 if config.lora else 3e-4 if small else 1e-5
    return SFTConfig(
        output_dir=str(folder), num_train_epochs=config.epochs, max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size, per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation, learning_rate=rate,
        weight_decay=config.weight_decay, lr_scheduler_type="cosine", warmup_steps=config.warmup,
        adam_beta2=0.98,
        max_grad_norm=1.0, bf16=_has_bfloat16() if config.bf16 is None else config.bf16,
        gradient_checkpointing=config.gradient_checkpointing,
        max_length=None,
        eval_strategy="steps" if evaluate else "no", eval_steps=config.eval_steps,
        save_steps=config.eval_steps,
        save_total_limit=2, load_best_model_at_end=best, metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=10, report_to="none", seed=config.seed, data_seed=config.seed, dataloader_num_workers=0,
        disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip


def _has_bfloat16() -> bool:
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _stopping(config: TrainConfig) -> list[Any]:
    from transformers import EarlyStoppingCallback

    return [] if config.patience is None else [EarlyStoppingCallback(early_stopping_patience=config.patience)]


def _silence(trainer: Any) -> None:
    """Standard output belongs to the caller's results."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)


def _worded(config: TrainConfig, start: Model | None) -> dict[str, Task]:
    names = sorted({name for data in config.data for name in data.tasks})
    return {name: word(tasks.load(name), start) if start else tasks.load(name) for name in names}


def _common_genes(cells: Mapping[str, Cells], config: TrainConfig) -> tuple[str, ...]:
    """Genes that get a token: expressed in enough training cells."""
    assert config.from_scratch is not None
    least = config.from_scratch.min_cells
    counts: dict[str, int] = {}
    for one in cells.values():
        expressed = np.asarray((one.matrix[~one.test] > 0).sum(axis=0)).ravel()
        for symbol, count in zip(one.symbols, expressed, strict=True):
            counts[symbol] = counts.get(symbol, 0) + int(count)
    kept = sorted(symbol for symbol, count in counts.items() if count >= least)
    logger.info("%d of %d genes are expressed in at least %d training cells", len(kept), len(counts), least)
    return tuple(kept)


def _scratch(
    config: TrainConfig, genes: tuple[str, ...] | None, cells: Mapping[str, Cells], worded: Mapping[str, Task]
) -> tuple[Any, Any, Tokens]:
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = config.from_scratch
    assert shape is not None
    assert genes is not None
    texts = [text for task in worded.values() for one in task.templates for text in (one.prompt, one.answer)]
    texts += [f" {label}." for label in _all_labels(config, cells)] * 2
    texts += [f" {name}" for one in cells.values() for name in sorted(set(one.organism))]
    texts += [f" {name}" for name in sorted({n for one in cells.values() if one.perturbation is not None
                                             for n in one.perturbation if n})]  # fmt: skip
    texts += [f" {word}" for word in shape.words]
    texts += [f" {number}" for number in range(1000)]
    tokenizer = gene_tokenizer.build(genes, texts)
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer), hidden_size=shape.hidden_size, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.context, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, attention_dropout=0.0,
            hidden_dropout=0.0, initializer_range=shape.initializer_range,
        )
    )  # fmt: skip
    tokens = Tokens(tokenizer.backend_tokenizer, eos=[tokenizer.eos_token_id])
    if shape.gene_vectors:
        rows = torch.tensor([ids[0] for ids in tokens.ids([" " + gene for gene in genes])])
        vectors = gene_vectors(_log_normalised(cells), genes, shape.gene_vectors, seed=config.seed)
        with torch.no_grad():
            weight: torch.Tensor = network.gpt_neox.embed_in.weight
            weight.normal_(std=EMBEDDING_SCALE)
            weight[rows, : shape.gene_vectors] += GENE_VECTOR_SCALE * torch.from_numpy(vectors)
            # The last dimension of the states begins as a constant, that of the genes as their log frequency.
            frequency, spread = log_frequency(_log_normalised(cells), genes)
            weight[:, -1] = 0.0
            weight[rows, -1] = GENE_VECTOR_SCALE * torch.from_numpy(frequency)
            network.gpt_neox.final_layer_norm.weight[-1] = 0.0
            network.gpt_neox.final_layer_norm.bias[-1] = spread / GENE_VECTOR_SCALE
    return network, tokenizer, tokens


def _log_normalised(cells: Mapping[str, Cells], most: int = 2000) -> Iterator[tuple[Any, Sequence[str]]]:
    """Up to `most` training cells of each file as ln(1 + CP10k)."""
    for one in cells.values():
        rows = np.flatnonzero(~one.test)[:most]
        matrix = one.matrix[rows].copy()
        sums = np.repeat(one.totals[rows], np.diff(matrix.indptr))
        matrix.data = (one.scale.log10_cp10k(matrix.data, sums) * np.log(10)).astype(np.float32)
        yield matrix, one.symbols


def _all_labels(config: TrainConfig, cells: Mapping[str, Cells]) -> list[str]:
    labels = {str(label) for one in cells.values() if one.label is not None for label in one.label if label is not None}
    return sorted(labels | {spelling for spellings in config.labels.values() for spelling in spellings})


def _load(config: TrainConfig, start: Model) -> tuple[Any, Any, Tokens]:
    from transformers import AutoTokenizer

    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if start.revision and not start.is_local:
        where["revision"] = start.revision
    tokens = load_tokens(start.path, **where)
    if not tokens.eos:
        raise ValueError(f"the tokenizer of {start.name} has no end-of-text token, which answers must end with")
    load_tokenizer: Any = AutoTokenizer  # typed in parts only
    tokenizer = load_tokenizer.from_pretrained(start.path, **where)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return _network(config, start), tokenizer, tokens


def _network(config: TrainConfig, start: Model, exact: bool = False) -> Any:
    import torch
    import transformers

    from cell2sen import attention

    # Frozen weights need no more precision than they have; trained ones take steps that bfloat16 would swallow.
    dtype = getattr(torch, start.resolved_dtype) if config.lora and not exact else torch.float32
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    if start.revision and not start.is_local:
        options["revision"] = start.revision
    hf: Any = transformers  # typed in parts only
    if config.quantize:
        options["quantization_config"] = hf.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )  # fmt: skip
        options["device_map"] = {"": "cuda" if torch.cuda.is_available() else "cpu"}
    network = hf.AutoModelForCausalLM.from_pretrained(
        start.path, dtype=dtype, attn_implementation=attention.register(), **options
    )
    for module in network.modules():
        # On CPUs with AVX-512 bitsandbytes would repack 4-bit weights at the first evaluation, with rounded scales:
        # training would go on with other weights than it began with.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return network


def _peft(config: TrainConfig) -> Any:
    if config.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.r, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip


def _samples(
    config: TrainConfig, cells: Mapping[str, Cells], worded: Mapping[str, Task], lengths: Mapping[str, int],
    tokens: Tokens, context: int, *, held_out: bool,
) -> Dataset:  # fmt: skip
    """All draws of all cells of one side of the split, of the held-out side at most `config.eval_pairs`."""
    from cell2sen.sft import samples

    rows: list[tuple[str, Prompt, str]] = []
    for number, one in enumerate(cells.values()):
        for draw in range(1 if held_out else one.n_draws):
            rows += pairs(
                one, worded, draw=draw, held_out=held_out, lengths=lengths, seed=config.seed + 7919 * number,
                augmentation=Augmentation() if held_out else config.augmentation,
            )  # fmt: skip
    if held_out:
        # The same number of every task, so that the loss that is watched is not that of the commonest task alone.
        generator = np.random.default_rng(config.seed)
        order = [rows[place] for place in generator.permutation(len(rows))]
        each = config.eval_pairs // max(1, len({row[0] for row in rows}))
        rows = [row for name in worded for row in [row for row in order if row[0] == name][:each]]
    return samples(rows, tokens, context)


def _whole(trainer: Any, config: TrainConfig, start: Model | None, folder: Path) -> Any:
    """The trained network without adapters and quantisation."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora is None:
        return network
    if config.quantize is None:
        return (network.float() if config.save_dtype == "float32" else network).merge_and_unload()
    from peft import PeftModel

    # Merged as they are, the weights would be rounded to 4 bits once more. So the adapters go onto the same rounded
    # weights in full precision: what is saved computes what was trained.
    assert start is not None
    network.save_pretrained(folder / "adapter")
    whole = _network(config, start, exact=True).dequantize()
    return PeftModel.from_pretrained(whole, folder / "adapter").merge_and_unload()
