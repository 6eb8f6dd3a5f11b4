"""Fine-tuning and training from scratch, through trl / peft."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cell2sen import gene_tokenizer, tasks
from cell2sen.model import METADATA_FILE, Model, resolve
from cell2sen.pairs import Augmentation, Cells, Split, TrainingData, exclude_held_out, pairs
from cell2sen.rank import RankFitter, Recipe
from cell2sen.task import Task
from cell2sen.tokens import Tokens, load_tokens
from cell2sen.wording import as_mapping, word

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

#: Genes per sentence, where neither the training file nor the model that is fine-tuned says another number.
LENGTHS = {"annotate": 400, "generate": 200, "perturb": 200}
DEFAULT_LENGTH = 200

#: Names of the cells on either side of the split, beside the weights: ``{file: [names]}``.
TRAINED_ON_FILE, HELD_OUT_FILE = "trained_on.json", "held_out.json"

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Architecture of a model trained from scratch: GPT-NeoX with one token per gene and tied embeddings."""

    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 1024
    context: int = 1024
    min_cells: int = 10
    """A gene gets a token if it is expressed in at least so many training cells."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on all linear layers, merged into the weights at the end."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything about one training run; the YAML file of ``cell2sen train`` has these keys."""

    data: tuple[TrainingData, ...]
    model: str | None = None
    """What to fine-tune: a known name, directory or hub id. ``None`` with `from_scratch`."""

    from_scratch: Scratch | None = None
    lora: Lora | None = None
    """Train low-rank adapters instead of all weights."""

    quantize: str | None = None
    """``"4bit"`` or ``"8bit"``: hold the weights so while adapters are trained (QLoRA). The result is not quantised."""

    lengths: Mapping[str, int] = field(default_factory=dict)
    """Genes per sentence for each task; prompts that are still too long for the context lose genes, answers never."""

    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label → other spellings that are learned with it."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    prompt_loss: float = 0.0
    """Weight of the language-model loss on the prompt's tokens; 0 learns from answers only."""

    loss_tokens: int | None = None
    """Tokens of each prompt and each answer on which the loss is taken in a step, drawn at random; all by default."""

    epochs: float = 1.0
    """Passes over the drawn pairs (each cell is drawn `data.draws` times already)."""

    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float | None = None
    """By default 1e-3 from scratch, 2e-4 for adapters, 3e-4 for models below 50 million parameters, 1e-5 for others."""

    weight_decay: float = 0.01
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises; it then falls as a cosine."""

    max_steps: int = -1
    """Steps; -1: as many as the epochs have."""

    eval_steps: float = 0.1
    """Steps between two checkpoints, and measurements on held-out pairs; below 1 as a share of all steps."""

    eval_pairs: int = 500
    """Held-out pairs at most, as many of each task."""

    keep_best: bool = False
    """Keep the weights with the lowest loss on held-out pairs, not the last ones."""

    patience: int | None = None
    """Stop early after so many measurements without improvement; implies `keep_best`."""

    seed: int = 0
    bf16: bool = True
    """Compute in bfloat16 (trained weights and optimiser stay float32, except for quantised models)."""

    gradient_checkpointing: bool = False
    """Compute activations twice to save memory, for large models."""

    save_dtype: str = "bfloat16"
    names: bool = True
    """Store the names of the cells on either side of the split with the model, not only their SHA-256."""

    card: str = ""
    """Free text for the model card."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.from_scratch is None):
            raise ValueError("say either model: (what to fine-tune) or from_scratch: (an architecture)")
        if self.quantize not in (None, "4bit", "8bit"):
            raise ValueError(f"quantize must be '4bit' or '8bit', found {self.quantize!r}")
        if self.quantize and not self.lora:
            raise ValueError("quantised weights cannot be trained, only adapters to them: add lora: {}")
        if self.lora and self.from_scratch:
            raise ValueError("lora: trains adapters to a model: that excludes from_scratch:")
        files = [one.file for one in self.data]
        if len(set(files)) < len(files):
            raise ValueError(f"each file can be named once under data:, found {files}")


def read_config(path: str | Path) -> TrainConfig:
    """Read a training file (YAML).

    Raises
    ------
    ValueError
        An unknown key; lists those there are.
    """
    try:
        import yaml
    except ImportError as error:  # pragma: no cover - yaml comes with transformers
        raise ImportError("training files need PyYAML: pip install 'cell2sen[train]'") from error
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a training file: it must hold keys and values, found {type(values).__name__}")
    return from_mapping(values)


def from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """A configuration from plain values, as in the YAML file.

    Raises
    ------
    ValueError
        An unknown key (lists those there are), no data, neither or both of `model` and `from_scratch`.
    """
    given = dict(values)
    nested = {"from_scratch": Scratch, "lora": Lora, "augmentation": Augmentation}
    for key, kind in nested.items():
        if given.get(key) is not None:
            given[key] = _build(kind, given[key], key)
    if not given.get("data"):
        raise ValueError("no data: data: [{file: cells.h5ad, tasks: [annotate], cell_type: OBS_COLUMN}]")
    data = []
    for entry in given["data"]:
        entry = dict(entry)
        if "split" in entry:
            entry["split"] = _build(Split, entry["split"], "split")
        data.append(_build(TrainingData, entry, "data"))
    given["data"] = tuple(data)
    given["labels"] = {label: tuple(spellings) for label, spellings in (given.get("labels") or {}).items()}
    config: TrainConfig = _build(TrainConfig, given, "the training file")
    return config


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    names = {one.name for one in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{where} has unknown keys {unknown}; available: {sorted(names)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


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
        prompt_loss=config.prompt_loss, loss_tokens=config.loss_tokens, callbacks=[Progress(progress), *_stopping(config)],
    )  # fmt: skip
    _silence(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_FILE).write_text(json.dumps(_plain(dataclasses.asdict(config))), encoding="utf-8")
    trainer.train(resume_from_checkpoint=resume)
    metadata = _metadata(config, cells, worded, lengths, genes, start)
    with _complete_directory(out) as temporary:
        _write(_whole(trainer, config, start, folder), tokenizer, metadata, config, cells, trainer.state, temporary)
        _check_tokenizer(temporary, tokens, train_set)
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
    settings = _plain(dataclasses.asdict(config))
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
        weight_decay=config.weight_decay, lr_scheduler_type="cosine", warmup_steps=config.warmup, adam_beta2=0.98,
        max_grad_norm=1.0, bf16=config.bf16, gradient_checkpointing=config.gradient_checkpointing, max_length=None,
        eval_strategy="steps" if evaluate else "no", eval_steps=config.eval_steps, save_steps=config.eval_steps,
        save_total_limit=2, load_best_model_at_end=best, metric_for_best_model="eval_loss", greater_is_better=False,
        logging_steps=10, report_to="none", seed=config.seed, data_seed=config.seed, dataloader_num_workers=0,
        disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip


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
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = config.from_scratch
    assert shape is not None
    assert genes is not None
    texts = [text for task in worded.values() for one in task.templates for text in (one.prompt, one.answer)]
    texts += [f" {label}." for label in _all_labels(config, cells)] * 2
    texts += [f" {name}" for one in cells.values() for name in sorted(set(one.organism))]
    texts += [f" {name}" for name in sorted({n for one in cells.values() if one.perturbation is not None
                                             for n in one.perturbation if n})]  # fmt: skip
    texts += [f" {number}" for number in range(1000)]
    tokenizer = gene_tokenizer.build(genes, texts)
    network = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer), hidden_size=shape.hidden_size, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.context, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, attention_dropout=0.0,
            hidden_dropout=0.0,
        )
    )  # fmt: skip
    return network, tokenizer, Tokens(tokenizer.backend_tokenizer, eos=[tokenizer.eos_token_id])


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


def _network(config: TrainConfig, start: Model) -> Any:
    import torch
    import transformers

    from cell2sen import attention

    # Frozen weights need no more precision than they have; trained ones take steps that bfloat16 would swallow.
    dtype = getattr(torch, start.resolved_dtype) if config.lora else torch.float32
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    if start.revision and not start.is_local:
        options["revision"] = start.revision
    hf: Any = transformers  # typed in parts only
    if config.quantize:
        options["quantization_config"] = hf.BitsAndBytesConfig(
            load_in_4bit=config.quantize == "4bit", load_in_8bit=config.quantize == "8bit", bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
        options["device_map"] = {"": "cuda" if torch.cuda.is_available() else "cpu"}
    implementation = attention.register()
    return hf.AutoModelForCausalLM.from_pretrained(
        start.path, dtype=dtype, attn_implementation=implementation, **options
    )


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

    rows = []
    for number, one in enumerate(cells.values()):
        for draw in range(1 if held_out else one.n_draws):
            rows += pairs(
                one, worded, draw=draw, held_out=held_out, lengths=lengths, seed=config.seed + 7919 * number,
                augmentation=Augmentation() if held_out else config.augmentation,
                synonyms={} if held_out else config.labels,
            )  # fmt: skip
    if held_out:
        # The same number of every task, so that the loss that is watched is not that of the commonest task alone.
        generator = np.random.default_rng(config.seed)
        order = [rows[place] for place in generator.permutation(len(rows))]
        each = config.eval_pairs // max(1, len({row[0] for row in rows}))
        rows = [row for name in worded for row in [row for row in order if row[0] == name][:each]]
    return samples(rows, tokens, context)


def _metadata(
    config: TrainConfig, cells: Mapping[str, Cells], worded: Mapping[str, Task], lengths: Mapping[str, int],
    genes: tuple[str, ...] | None, start: Model | None,
) -> dict[str, Any]:  # fmt: skip
    """What ``cell2sen.json`` says. A fine-tuned model keeps what it knew before, unless this training said otherwise."""
    before: Mapping[str, Any] = start.metadata if start else {}
    fitter = RankFitter()
    counts: dict[str, dict[str, int]] = {"labels": {}, "perturbations": {}}
    for one in cells.values():
        rows = np.flatnonzero(~one.test)[:1024]
        indptr, _, values = one.ranker.rank(one.matrix[rows], [one.names[row] for row in rows])
        fitter.add(indptr, one.scale.log10_cp10k(values, np.repeat(one.totals[rows], np.diff(indptr))))
        for store, column in (("labels", one.label), ("perturbations", one.perturbation)):
            for value in column[~one.test] if column is not None else ():
                if value is not None and (store == "labels" or value != one.data.control):
                    counts[store][str(value)] = counts[store].get(str(value), 0) + 1
    fit = fitter.fit()
    recipe = start.recipe if start else Recipe(max_genes=config.lengths.get("annotate"), case="upper")
    metadata: dict[str, Any] = {
        "recipe": dataclasses.asdict(recipe),
        "lengths": {**before.get("lengths", {}), **lengths},
        "dtype": "float32" if start is None else start.resolved_dtype,
        "stop": list(start.stop) if start else [],
        "templates": {**before.get("templates", {}), **{name: as_mapping(task) for name, task in worded.items()}},
        "fit": dataclasses.asdict(fit) if fit else before.get("fit"),
        "genes": list(genes) if genes else None,
        # A closed set: what was learned last, not mixed with what the model knew before.
        "labels": dict(sorted(counts["labels"].items())) or before.get("labels", {}),
        "spellings": {**before.get("spellings", {}), **{label: list(v) for label, v in config.labels.items()}},
        "perturbations": {**before.get("perturbations", {}), **dict(sorted(counts["perturbations"].items()))},
        "organisms": sorted({*before.get("organisms", []), *(name for one in cells.values() for name in one.organism)}),
        "training": _plain(dataclasses.asdict(config)),
        "split": {file: _split(one) for file, one in cells.items()},
        "started_from": None,
    }
    if start is not None:
        history = {key: before[key] for key in ("labels", "split", "training", "started_from") if before.get(key)}
        metadata["started_from"] = {**start.provenance(), **history}
    return metadata


def _split(cells: Cells) -> dict[str, Any]:
    names = [name for name, test in zip(cells.names, cells.test, strict=True) if test]
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    return {"n_train": int(np.sum(~cells.test)), "n_held_out": len(names), "sha256_of_held_out": digest}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _whole(trainer: Any, config: TrainConfig, start: Model | None, folder: Path) -> Any:
    """The trained network without adapters and quantisation."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora is None:
        return network
    if config.quantize is None:
        return network.merge_and_unload()
    from peft import PeftModel

    # Merged as they are, the weights would be rounded to 4 bits once more. So the adapters go onto the same rounded
    # weights in full precision: what is saved computes what was trained.
    assert start is not None
    network.save_pretrained(folder / "adapter")
    whole = _network(config, start).dequantize()
    return PeftModel.from_pretrained(whole, folder / "adapter").merge_and_unload()


@contextlib.contextmanager
def _complete_directory(out: Path) -> Iterator[Path]:
    """A temporary directory that takes the name `out` if the block ends without an error, and vanishes otherwise."""
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write(
    network: Any, tokenizer: Any, metadata: dict[str, Any], config: TrainConfig, cells: Mapping[str, Cells],
    state: Any, folder: Path,
) -> None:  # fmt: skip
    import torch

    network.to(getattr(torch, config.save_dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def write(name: str, content: Any) -> None:
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")

    finite = [
        {key: v for key, v in entry.items() if not isinstance(v, float) or math.isfinite(v)}
        for entry in state.log_history
    ]
    write("training_log.json", finite)
    if config.names:
        for name, side in ((TRAINED_ON_FILE, False), (HELD_OUT_FILE, True)):
            chosen = {file: np.asarray(one.names, dtype=object)[one.test == side] for file, one in cells.items()}
            write(name, {file: list(names) for file, names in chosen.items()})
    metadata["weights_sha256"] = hash_of_weights(folder)
    write(METADATA_FILE, metadata)
    (folder / "README.md").write_text(_card(metadata, config, state), encoding="utf-8")


def hash_of_weights(folder: Path) -> str:
    """SHA-256 over the safetensors files of a model directory, 16 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            while block := stream.read(2**24):
                digest.update(block)
    return digest.hexdigest()[:16]


def _check_tokenizer(folder: Path, tokens: Tokens, train_set: Any) -> None:
    """The tokenizer that was written must read the training samples as they were trained."""
    written = load_tokens(str(folder), local_files_only=True)
    few = train_set.select(range(min(8, len(train_set))))
    texts = [f"{prompt}{completion}" for prompt, completion in zip(few["prompt"], few["completion"], strict=True)]
    if written.ids(texts) != tokens.ids(texts) or (written.bos, written.eos) != (tokens.bos, tokens.eos):
        raise RuntimeError("the tokenizer that was saved reads text otherwise than the one that was trained with")


def _card(metadata: Mapping[str, Any], config: TrainConfig, state: Any) -> str:
    rows = "\n".join(
        f"| {file} | {split['n_train']} | {split['n_held_out']} |" for file, split in metadata["split"].items()
    )
    losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    measured = f"first {losses[0]:.3f}, lowest {min(losses):.3f}, last {losses[-1]:.3f}" if losses else "not measured"
    kind = "all weights" if config.lora is None else f"adapters of rank {config.lora.r}, merged into the weights"
    origin = metadata["started_from"]
    return f"""# Model card

{config.card}

Trained by `cell2sen train`; `{METADATA_FILE}` beside this card holds every setting.

| file | cells trained on | cells held out |
| --- | --- | --- |
{rows}

* Started from: {origin["name"] if origin else "nothing, trained from scratch"}; {kind} were trained
* Tasks: {", ".join(sorted({name for data in config.data for name in data.tasks}))}
* Labels: {", ".join(metadata["labels"]) or "none"}
* Perturbations: {", ".join(metadata["perturbations"]) or "none"}
* Organisms: {", ".join(metadata["organisms"])}
* Steps: {state.global_step}; seed {config.seed}
* Loss on held-out pairs (nats per token of the answer): {measured}

It answers for cells like those that it was trained on, and for the labels and perturbations above; what it says about
others is a guess. It is no medical device.
"""
