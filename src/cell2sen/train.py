"""Fine-tuning and training from scratch, through trl / peft."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cell2sen import gene_tokenizer, tasks
from cell2sen.model import METADATA_FILE, Model, resolve
from cell2sen.pairs import Augmentation, Cells, Split, TrainingData, exclude_held_out, pairs, training_ranker
from cell2sen.rank import RankFit, RankFitter, Recipe
from cell2sen.task import Task
from cell2sen.wording import as_mapping, word

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


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
    """Low-rank adapters on all linear layers, merged into the weights at the end unless ``merge`` is false."""

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
    quantize: str | None = None
    lengths: Mapping[str, int] = field(default_factory=lambda: {"annotate": 400, "generate": 200, "perturb": 200})
    """Genes per sentence for each task; prompts that are still too long for the context lose genes, never the answer."""

    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label → other spellings that are learned with it."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    prompt_loss: float = 0.0
    """Weight of the language-model loss on the prompt's tokens; 0 learns from answers only."""

    loss_tokens: int | None = None
    """Tokens of each prompt and of each answer on which the loss is taken in a step, drawn at random; all by default."""

    epochs: float = 1.0
    """Passes over the drawn pairs (each cell is drawn `data.draws` times already)."""

    batch_size: int = 32
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises; it then falls as a cosine."""

    max_steps: int = -1
    eval_steps: int = 500
    eval_pairs: int = 500
    seed: int = 0
    bf16: bool = True
    """Compute in bfloat16 (weights and optimiser stay float32, except for quantised models)."""

    save_dtype: str = "bfloat16"
    card: str = ""
    """Free text for the model card."""


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
    return from_mapping(yaml.safe_load(Path(path).read_text(encoding="utf-8")))


def from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """A configuration from plain values, as in the YAML file."""
    given = dict(values)
    nested = {"from_scratch": Scratch, "lora": Lora, "augmentation": Augmentation}
    for key, kind in nested.items():
        if given.get(key) is not None:
            given[key] = _build(kind, given[key], key)
    if not given.get("data"):
        raise ValueError("the training file names no data: data: [{file: cells.h5ad, tasks: [annotate], cell_type: …}]")
    data = []
    for entry in given["data"]:
        entry = dict(entry)
        if "split" in entry:
            entry["split"] = _build(Split, entry["split"], "split")
        data.append(_build(TrainingData, entry, "data"))
    given["data"] = tuple(data)
    given["labels"] = {label: tuple(spellings) for label, spellings in given.get("labels", {}).items()}
    config: TrainConfig = _build(TrainConfig, given, "the training file")
    if (config.model is None) == (config.from_scratch is None):
        raise ValueError("say either model: (what to fine-tune) or from_scratch: (an architecture)")
    return config


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    names = {one.name for one in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - names):
        raise ValueError(f"{where} has unknown keys {unknown}; available: {sorted(names)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def train(config: TrainConfig, out: str | Path, *, base: str | Path = ".", resume: bool = False, progress: bool = True) -> Model:
    """Train, and write a directory that :func:`cell2sen.model.resolve` takes like any other model.

    Parameters
    ----------
    out
        Directory to be written. It appears under this name only when it is complete; checkpoints of a running training lie
        in ``<out>.training``.
    base
        Folder that the files in `config.data` are relative to.
    resume
        Go on from the last checkpoint in ``<out>.training``.

    Returns
    -------
    Model
        The trained model.
    """
    import torch
    from transformers import set_seed
    from trl import SFTConfig

    from cell2sen.sft import AnswerTrainer

    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already; choose another directory or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    set_seed(config.seed)
    start = resolve(config.model) if config.model else None
    case = start.recipe.case if start else "upper"
    cells = {data.file: Cells(data, Path(base), case) for data in config.data}
    exclude_held_out(cells)
    genes = _genes(cells, config.from_scratch, start)
    worded = {
        name: word(tasks.load(name), start) if start else tasks.load(name)
        for name in sorted({task for data in config.data for task in data.tasks})
    }
    model, tokenizer = _scratch(config, genes, cells, worded) if start is None else _load(config, start)
    train_set = _dataset(config, cells, worded, tokenizer, _context(model), genes, held_out=False)
    eval_set = _dataset(config, cells, worded, tokenizer, _context(model), genes, held_out=True)
    logger.info("%d training pairs, %d held-out pairs", len(train_set), len(eval_set))
    folder = out.with_name(out.name + ".training")
    arguments = SFTConfig(
        output_dir=str(folder), num_train_epochs=config.epochs, max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size, per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation, learning_rate=config.learning_rate,
        weight_decay=config.weight_decay, lr_scheduler_type="cosine",
        warmup_steps=config.warmup, bf16=config.bf16, max_length=None, completion_only_loss=True,
        train_sampling_strategy="group_by_length", eval_strategy="steps" if len(eval_set) else "no",
        eval_steps=config.eval_steps, save_steps=config.eval_steps, save_total_limit=2, logging_steps=50,
        report_to="none", seed=config.seed, data_seed=config.seed, dataloader_num_workers=0, disable_tqdm=not progress,
        use_cpu=not torch.cuda.is_available(), adam_beta2=0.98, max_grad_norm=1.0,
    )  # fmt: skip
    trainer = AnswerTrainer(
        model=model, args=arguments, train_dataset=train_set, eval_dataset=eval_set if len(eval_set) else None,
        processing_class=tokenizer, peft_config=_peft(config), prompt_loss=config.prompt_loss,
        loss_tokens=config.loss_tokens,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume or None)
    metadata = _metadata(config, cells, worded, genes, start)
    _write(trainer, tokenizer, metadata, config, out)
    shutil.rmtree(folder, ignore_errors=True)
    return resolve(out)


def _genes(cells: Mapping[str, Cells], scratch: Scratch | None, start: Model | None) -> tuple[str, ...] | None:
    """Genes that get a token: expressed in enough training cells. ``None`` for models that can write any symbol."""
    if start is not None:
        return start.genes
    assert scratch is not None
    counts: dict[str, int] = {}
    for one in cells.values():
        expressed = np.asarray((one.matrix[~one.test] > 0).sum(axis=0)).ravel()
        for symbol, count in zip(one.symbols, expressed, strict=True):
            counts[symbol] = counts.get(symbol, 0) + int(count)
    kept = sorted(symbol for symbol, count in counts.items() if count >= scratch.min_cells)
    logger.info("%d of %d genes are expressed in at least %d training cells", len(kept), len(counts), scratch.min_cells)
    return tuple(kept)


def _scratch(config: TrainConfig, genes: Any, cells: Mapping[str, Cells], worded: Mapping[str, Task]) -> tuple[Any, Any]:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = config.from_scratch
    assert shape is not None
    texts = [text for task in worded.values() for template in task.templates for text in (template.prompt, template.answer)]
    texts += [f" {label}." for label in _all_labels(config, cells)] * 2
    texts += [f" {name}" for one in cells.values() for name in set(one.organism)]
    texts += [f" {name}" for one in cells.values() if one.perturbation is not None for name in set(one.perturbation) if name]
    texts += [f" {number}" for number in range(1000)]
    tokenizer = gene_tokenizer.build(genes, texts)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer), hidden_size=shape.hidden_size, num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads, intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.context, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, attention_dropout=0.0,
            hidden_dropout=0.0,
        )
    )  # fmt: skip
    return model, tokenizer


def _all_labels(config: TrainConfig, cells: Mapping[str, Cells]) -> list[str]:
    labels = {str(label) for one in cells.values() if one.label is not None for label in one.label if label is not None}
    return sorted(labels | {spelling for spellings in config.labels.values() for spelling in spellings})


def _load(config: TrainConfig, start: Model) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"revision": start.revision, "local_files_only": True}
    if config.quantize:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=config.quantize == "4bit", load_in_8bit=config.quantize == "8bit",
            bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        start.path, dtype=torch.float32, use_safetensors=True, attn_implementation="eager", **options
    )
    tokenizer = AutoTokenizer.from_pretrained(start.path, revision=start.revision, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _peft(config: TrainConfig) -> Any:
    if config.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.r, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip


def _context(model: Any) -> int:
    return int(model.config.max_position_embeddings)


def _dataset(
    config: TrainConfig, cells: Mapping[str, Cells], worded: Mapping[str, Task], tokenizer: Any, context: int,
    genes: Sequence[str] | None, *, held_out: bool,
) -> Dataset:  # fmt: skip
    """Prompt/completion text, all draws of all cells of one side of the split, in a random order."""
    from datasets import Dataset

    known = set(genes) if genes else None
    rows: dict[str, list[str]] = {"prompt": [], "completion": [], "task": []}
    for number, one in enumerate(cells.values()):
        if known is not None:
            keep = np.array([symbol in known for symbol in one.symbols])
            one.matrix, one.symbols = one.matrix[:, keep], tuple(s for s in one.symbols if s in known)
        ranker = training_ranker(one.symbols, config.seed)
        for draw in range(1 if held_out else one.n_draws):
            for name, prompt, completion in pairs(
                one, worded, draw=draw, held_out=held_out, lengths=config.lengths,
                augmentation=Augmentation() if held_out else config.augmentation, ranker=ranker,
                synonyms={} if held_out else config.labels, seed=config.seed + 7919 * number,
            ):  # fmt: skip
                room = context - len(tokenizer(completion)["input_ids"]) - 2
                for _ in range(20):
                    excess = len(tokenizer(prompt.text)["input_ids"]) - room if len(prompt.genes) * 12 > room / 2 else 0
                    if excess <= 0:
                        break
                    # A gene has at least one token, so dropping `excess / 6` of them approaches the limit from above.
                    prompt = prompt.shorten(len(prompt.genes) - max(1, excess // 6))
                rows["prompt"].append(prompt.text)
                rows["completion"].append(completion)
                rows["task"].append(name)
    dataset = Dataset.from_dict(rows).shuffle(seed=config.seed)
    if not held_out:
        return dataset
    # The same number of every task, so that the loss watched during training is not that of the largest file alone.
    each = config.eval_pairs // max(1, len(worded))
    kinds = np.array(dataset["task"])
    return dataset.select(np.concatenate([np.flatnonzero(kinds == name)[:each] for name in worded])) if len(dataset) else dataset


def _metadata(
    config: TrainConfig, cells: Mapping[str, Cells], worded: Mapping[str, Task], genes: Sequence[str] | None, start: Model | None
) -> dict[str, Any]:
    fitter = RankFitter()
    labels: dict[str, int] = {}
    perturbations: dict[str, int] = {}
    for one in cells.values():
        train = ~one.test
        ranker = training_ranker(one.symbols, config.seed)
        rows = np.flatnonzero(train)[:1024]
        indptr, _, values = ranker.rank(one.matrix[rows], one.names[rows])
        sums = np.asarray(one.matrix[rows].sum(axis=1)).ravel()
        fitter.add(indptr, one.scale.log10_cp10k(values, np.repeat(sums, np.diff(indptr))))
        for store, column in ((labels, one.label), (perturbations, one.perturbation)):
            for value in column[train] if column is not None else ():
                if value is not None and not (store is perturbations and value == one.data.control):
                    store[str(value)] = store.get(str(value), 0) + 1
    fit = fitter.fit()
    recipe = start.recipe if start else Recipe(max_genes=config.lengths.get("annotate"), case="upper")
    return {
        "recipe": dataclasses.asdict(recipe),
        "lengths": dict(config.lengths),
        "dtype": "float32" if start is None else start.resolved_dtype,
        "stop": list(start.stop) if start else [],
        "templates": {name: as_mapping(task) for name, task in worded.items()},
        "fit": dataclasses.asdict(fit) if isinstance(fit, RankFit) else None,
        "genes": list(genes) if genes else None,
        "labels": dict(sorted(labels.items())),
        "spellings": {label: list(others) for label, others in config.labels.items()},
        "perturbations": dict(sorted(perturbations.items())),
        "organisms": sorted({name for one in cells.values() for name in one.organism}),
        "training": _plain(dataclasses.asdict(config)),
        "split": {file: _held_out_names(one) for file, one in cells.items()},
        "started_from": start.provenance() if start else None,
    }


def _held_out_names(cells: Cells) -> dict[str, Any]:
    names = [str(name) for name in cells.names[cells.test]]
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    return {"n_train": int(np.sum(~cells.test)), "n_held_out": len(names), "sha256_of_held_out": digest}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _write(trainer: Any, tokenizer: Any, metadata: dict[str, Any], config: TrainConfig, out: Path) -> None:
    """Write everything into a temporary directory, then rename it."""
    import torch

    model = trainer.model
    if config.lora is not None:
        model = model.merge_and_unload()
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        model.to(getattr(torch, config.save_dtype)).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        log = [entry for entry in trainer.state.log_history if any(math.isfinite(v) for v in entry.values() if isinstance(v, float))]
        (temporary / "training_log.json").write_text(json.dumps(log, indent=1), encoding="utf-8")
        held_out = {file: sorted(map(str, one)) for file, one in metadata.pop("held_out_names", {}).items()}
        if held_out:
            (temporary / "held_out.json").write_text(json.dumps(held_out), encoding="utf-8")
        metadata["weights_sha256"] = hash_of_weights(temporary)
        (temporary / METADATA_FILE).write_text(json.dumps(metadata, indent=1, ensure_ascii=False), encoding="utf-8")
        (temporary / "README.md").write_text(_card(metadata, config, trainer), encoding="utf-8")
        os.chmod(temporary, 0o755)
        os.replace(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def hash_of_weights(folder: Path) -> str:
    """SHA-256 over the safetensors files of a model directory, 16 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _card(metadata: Mapping[str, Any], config: TrainConfig, trainer: Any) -> str:
    rows = "\n".join(
        f"| {file} | {split['n_train']} | {split['n_held_out']} |" for file, split in metadata["split"].items()
    )
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    return f"""# Model card

{config.card}

Trained by `cell2sen train`; `{METADATA_FILE}` beside this card holds every setting.

| file | cells trained on | cells held out |
| --- | --- | --- |
{rows}

* Tasks: {", ".join(metadata["templates"])}
* Labels: {", ".join(metadata["labels"]) or "none"}
* Perturbations: {", ".join(metadata["perturbations"]) or "none"}
* Steps: {trainer.state.global_step}; loss on held-out pairs at the end: {f"{losses[-1]:.3f}" if losses else "not measured"}
"""


