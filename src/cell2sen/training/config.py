"""What a training file says: data, model, optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cell2sen.training.cells import Augmentation, Split, TrainingData
from cell2sen.training.rewards import REWARDS


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """A model trained from scratch: GPT-NeoX with tied embeddings."""

    tokenizer: str = "genes"
    """``"genes"``: one token per gene, and pieces for other text; ``"bpe"``: pieces for genes too, so that sentences
    are longer and genes can be written that the training cells lack."""

    text_tokens: int = 1500
    """Tokens besides those of whole genes."""

    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 1024
    context: int = 1024
    min_cells: int = 10
    """A gene gets a token (or is learned as pieces) if it is expressed in at least so many training cells."""

    gene_vectors: int = 64
    """Dimensions of a gene's token that start from how genes vary together in the training cells; 0: random start."""

    words: tuple[str, ...] = ()
    """Words of later trainings, such as names of perturbations, that get a token of their own now."""

    initializer_range: float | None = None
    """Standard deviation of the weights at the start; by default ``hidden_size ** -0.5`` with whole-gene tokens, which
    lets a small model learn several times faster than 0.02, the default with pieces, which is made for wide ones."""

    layer_norm_eps: float | None = None
    """What a layer norm adds to the variance. At the usual 1e-5 every gene comes out of the first norm equally loud; at
    0.05, the default with whole-gene tokens, vectors of genes that say little stay small, and a small model learns
    labels several times faster."""

    def __post_init__(self) -> None:
        if self.tokenizer not in ("genes", "bpe"):
            raise ValueError(f"from_scratch: tokenizer must be 'genes' or 'bpe', found {self.tokenizer!r}")
        # Quiet weights would not be heard beside the larger constant: the two go together.
        whole = self.tokenizer == "genes"
        for name, value in {
            "initializer_range": self.hidden_size**-0.5 if whole else 0.02, "layer_norm_eps": 0.05 if whole else 1e-5,
        }.items():  # fmt: skip
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.hidden_size % self.heads:
            raise ValueError(
                f"from_scratch: hidden_size must be a multiple of heads, found {self.hidden_size} and {self.heads}"
            )


@dataclass(frozen=True, kw_only=True)
class GeneTokens:
    """Whole-gene tokens for a model that writes genes in pieces: sentences become several times shorter.

    Each begins as the mean of the pieces that it replaces. First the new vectors are trained alone, then they are
    trained with everything else (or with the adapters).
    """

    min_cells: int = 10
    """A gene gets a token if it is expressed in at least so many training cells."""

    first: float = 0.2
    """Steps of the first stage, in which only the new vectors are trained; below 1 as a share of the steps after it."""

    first_learning_rate: float = 1e-3


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters on all linear layers."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    merge: bool = True
    """Merge them into the weights at the end, and only that; otherwise keep them in a folder ``adapter`` as well."""


@dataclass(frozen=True, kw_only=True)
class Grpo:
    """Reinforcement learning: several answers to each prompt, the better ones made more likely (GRPO).

    Sentence tasks only (``perturb``, ``generate``). `batch_size` is then the number of answers in a backward pass.
    """

    rewards: Mapping[str, float] = field(default_factory=lambda: {"kendall_tau": 1.0})
    """Reward → weight in the sum; the functions of :mod:`cell2sen.training.rewards`."""

    gene_sets: str | None = None
    """GMT file, relative to the folder of the data."""

    gene_set: tuple[str, ...] = ()
    """Names of its sets that the rewards look at, together; all genes by default."""

    genes: tuple[str, ...] = ()
    """Genes that the rewards look at, besides those of `gene_set`."""

    prompts: int = 8
    """Prompts in a step."""

    answers: int = 8
    """Answers to each prompt, which are compared with each other."""

    temperature: float = 1.0
    iterations: int = 1
    """Steps that are taken with the same answers."""

    clip: float = 0.2
    """The ratio of new and old probability beyond which a token is not pushed further."""

    beta: float = 0.0
    """Weight of the divergence from the model before this training; 0 needs no second model in memory."""

    truth: str = "mean"
    """``"mean"`` of the real cells of the same context and perturbation, or one random ``"cell"``."""

    guided: bool = True
    """Answers are genes of the data, each once. Otherwise they are free text."""

    max_new_tokens: int = 1024
    """Of answers that are not guided."""

    held_out: int = 100
    """Held-out questions at most, with one answer each, at a measurement."""

    def __post_init__(self) -> None:
        if self.truth not in ("mean", "cell"):
            raise ValueError(f"grpo: truth must be 'mean' or 'cell', found {self.truth!r}")
        if unknown := sorted(set(self.rewards) - set(REWARDS)) or not self.rewards:
            raise ValueError(f"grpo: unknown rewards {unknown}; available: {list(REWARDS)}")
        if self.answers < 2 or self.prompts < 1:
            raise ValueError("grpo: answers are compared with each other: at least 2, to at least 1 prompt")
        if bool(self.gene_set) != bool(self.gene_sets):
            raise ValueError("grpo: gene_sets is a GMT file, gene_set the names of sets in it: say both or none")
        if self.temperature <= 0:
            raise ValueError(f"grpo: temperature must be above 0, found {self.temperature}")


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
    """``"4bit"``: hold the weights in four bits while adapters are trained (QLoRA). The result is not quantised."""

    gene_tokens: GeneTokens | None = None
    """Give the genes of the training cells tokens of their own."""

    grpo: Grpo | None = None
    """Learn from rewards of written sentences, instead of from pairs."""

    lengths: Mapping[str, int] = field(default_factory=dict)
    """Genes per sentence for each task; prompts that are still too long for the context lose genes, answers never."""

    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label → other spellings that mean it when a user asks with them. Not learned: one name per label is learned
    better."""

    broader: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name → the labels that it covers. Not learned: whoever asks for it gets the sum of their probabilities."""

    change_vectors: int | None = None
    """Dimensions of a gene's token that start from how perturbations change its frequency in the training pairs, for
    models that write a gene as one token; 0: none. What a short training would take longest to find is there at once:
    which genes change together. In which cells and by how much is learned. By default 8 where a model that has learned
    what no perturbation is meets perturbations that are new to it, otherwise 0."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    prompt_loss: float = 0.0
    """Weight of the language-model loss on the prompt's tokens; 0 learns from answers only."""

    packing: bool = False
    """Put samples one behind the other in rows of the model's whole context, each seeing itself only: less padding, the
    same loss. `batch_size` stays the number of samples in a step."""

    loss_tokens: int | None = None
    """Tokens of each prompt and each answer on which the loss is taken in a step, drawn at random; all by default."""

    dropout: float | None = None
    """Share of the numbers that a layer leaves out while it is trained, where the architecture has such layers
    (GPT-NeoX: yes, Gemma-2: no). Helps where cells are few. By default 0.2 where a model below 50 million parameters is
    fine-tuned on pairs, otherwise 0."""

    keep: float = 0.0
    """Share of the weights before the training in those that are saved, which lie between the two: what was learned
    before is forgotten less (Wortsman et al. 2022, robust fine-tuning). For all weights, not for adapters."""

    epochs: float = 1.0
    """Passes over the drawn pairs (each cell is drawn `data.draws` times already)."""

    batch_size: int | None = None
    """Samples in a step. By default 32, but 8 for models below 50 million parameters, which learn more from many steps
    than from large ones."""

    gradient_accumulation: int = 1
    learning_rate: float | None = None
    """By default 1e-3 from scratch, 2e-4 for adapters, 1.5e-3 below 50 million parameters, 1e-5 for other models."""

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
    bf16: bool | None = None
    """Compute in bfloat16 (trained weights and optimiser stay float32, except for quantised models). By default where
    the GPU or the CPU has instructions for it; without them it is several times slower than float32."""

    gradient_checkpointing: bool = False
    """Compute activations twice to save memory, for large models."""

    save_dtype: str = "bfloat16"
    names: bool = True
    """Store the names of the cells on either side of the split with the model, not only their SHA-256."""

    score_cells: int = 100
    """Held-out cells of each file and task that are scored for the model card, at most; 0 for none."""

    card: str = ""
    """Free text for the model card."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.from_scratch is None):
            raise ValueError("say either model: (what to fine-tune) or from_scratch: (an architecture)")
        if self.quantize not in (None, "4bit"):
            raise ValueError(f"quantize: training knows '4bit' (QLoRA) only, found {self.quantize!r}")
        if self.quantize and not self.lora:
            raise ValueError("quantised weights cannot be trained, only adapters to them: add lora: {}")
        if self.lora and self.from_scratch:
            raise ValueError("lora: trains adapters to a model: that excludes from_scratch:")
        if not 0 <= self.keep < 1 or (self.keep and (self.lora or self.from_scratch or self.gene_tokens)):
            raise ValueError(
                "keep: is the share of the weights before the training, from 0 to below 1, where all weights are "
                f"fine-tuned; found {self.keep}, beside lora:, from_scratch: and gene_tokens: it must be 0"
            )
        if self.gene_tokens and (self.from_scratch or self.grpo):
            raise ValueError("gene_tokens: extends the tokenizer of a model: before grpo:, and without from_scratch:")
        if self.grpo and self.from_scratch:
            raise ValueError("grpo: improves a model that answers already: name it as model:")
        if self.grpo and self.quantize:
            raise ValueError("grpo: does not go with quantize:, whose weights do not compute what is saved")
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
    return from_mapping(read_values(Path(path)))


def parse_yaml(text: str) -> Any:
    """Plain values of a YAML text."""
    try:
        import yaml
    except ImportError as error:  # pragma: no cover - yaml comes with transformers
        raise ImportError("training files need PyYAML: pip install 'cell2sen[train]'") from error
    return yaml.safe_load(text)


def read_values(path: Path) -> dict[str, Any]:
    """Keys and values of a training file, unchecked."""
    values = parse_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a training file: it must hold keys and values, found {type(values).__name__}")
    return values


def from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """A configuration from plain values, as in the YAML file.

    Raises
    ------
    ValueError
        An unknown key (lists those there are), no data, neither or both of `model` and `from_scratch`.
    """
    given = dict(values)
    nested = {"from_scratch": Scratch, "lora": Lora, "grpo": Grpo, "gene_tokens": GeneTokens}
    nested["augmentation"] = Augmentation
    for key, kind in nested.items():
        if given.get(key) is not None:
            given[key] = _build(kind, {} if given[key] is True else given[key], key)
    if not given.get("data"):
        raise ValueError("no data: data: [{file: cells.h5ad, tasks: [annotate], cell_type: OBS_COLUMN}]")
    data = []
    for entry in given["data"]:
        entry = dict(entry)
        if "split" in entry:
            entry["split"] = _build(Split, entry["split"], "split")
        data.append(_build(TrainingData, entry, "data"))
    given["data"] = tuple(data)
    for key in ("labels", "broader"):
        given[key] = {name: tuple(others) for name, others in (given.get(key) or {}).items()}
    config: TrainConfig = _build(TrainConfig, given, "the training file")
    return config


def _build(kind: Any, values: Any, where: str) -> Any:
    kinds = {one.name: str(one.type) for one in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must hold keys and values, found {values!r}; available: {sorted(kinds)}")
    if unknown := sorted(set(values) - set(kinds)):
        raise ValueError(f"{where} has unknown keys {unknown}; available: {sorted(kinds)}")
    if missing := [one.name for one in dataclasses.fields(kind) if _is_required(one) and one.name not in values]:
        raise ValueError(f"{where} lacks {missing}")
    return kind(**{key: checked_value(value, kinds[key], f"{key} of {where}") for key, value in values.items()})


def _is_required(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def checked_value(value: Any, kind: str, where: str) -> Any:
    """A value as the type of its key wants it; `where` names it in an error."""
    if kind.startswith("tuple") and isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(value)
    number = kind.split(" |")[0]
    if number in ("int", "float") and value is not None:
        try:
            found = float(value)  # YAML reads 1e-4 as text
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} must be a number, found {value!r}") from error
        if number == "int" and found != int(found):
            raise ValueError(f"{where} must be a whole number, found {value!r}")
        return int(found) if number == "int" else found
    return value


def plain(value: Any) -> Any:
    """A configuration, or a part of one, as lists and dictionaries that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value
