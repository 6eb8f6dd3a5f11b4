"""TrainConfig: all settings of one training run, in groups."""

from __future__ import annotations

from dataclasses import dataclass, field

from cell2sen.training.config.data import DataConfig
from cell2sen.training.config.grpo import Grpo
from cell2sen.training.config.model import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """Steps, learning rate and loss."""

    learning_rate: float | None = None
    """Highest learning rate. By default 1e-3 from scratch, 2e-4 for adapters, 1.5e-3 below 50 million parameters, 1e-5
    for other models. With rewards 1e-4 below 50 million parameters, 1e-5 for adapters, 1e-6 for other models."""

    weight_decay: float = 0.01
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises; after them it falls as a cosine."""

    epochs: float = 1.0
    """Passes over all drawn pairs, in which a cell occurs as often as the ``tasks`` of its file set."""

    max_steps: int = -1
    """Number of steps, instead of `epochs`; -1 for as many as the epochs have."""

    batch_size: int | None = None
    """Samples in a batch; a step has ``compute.gradient_accumulation`` batches. By default 32, but 8 on pairs below 50
    million parameters: small models learn more from many steps than from large ones."""

    prompt_loss: float = 0.0
    """Weight of the language-model loss on the prompt's tokens; at 0 only answers are learned."""

    loss_tokens: int | None = None
    """Number of random tokens of each prompt and each answer with a loss in a step; by default all."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Speed and memory.

    `packing` changes the order of the samples and `gradient_accumulation` the size of a step; the other settings change
    results by rounding only.
    """

    packing: bool = False
    """Put several samples in one row, each attending to itself only: less padding, in batches of the same size."""

    packed_tokens: int = 0
    """Tokens of a packed row; by default, and at least, as many as the longest sample of the batch has."""

    bf16: bool | None = None
    """Compute in bfloat16; trained weights and optimiser stay float32, except for quantised models. By default if the
    GPU or the CPU has instructions for it; without them it is several times slower than float32."""

    gradient_checkpointing: bool = False
    """Compute activations twice, which saves memory with large models."""

    gradient_accumulation: int = 1
    """Batches in a step, for trainings on pairs. With rewards a step has ``grpo.answers.prompts`` prompts."""

    def __post_init__(self) -> None:
        if self.packed_tokens and not self.packing:
            raise ValueError("compute.packed_tokens is the length of packed rows: add compute.packing: true")


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """Measurements on held-out pairs, and which weights are saved."""

    eval_steps: float = 0.1
    """Steps between two measurements, each with a checkpoint; below 1 as a share of all steps."""

    eval_pairs: int = 500
    """Held-out pairs at a measurement, equally many of each task."""

    keep_best: bool = False
    """Save the weights with the best held-out value instead of the last ones."""

    patience: int | None = None
    """Stop after this number of measurements without improvement, and save the best weights. Without held-out pairs
    it has no effect. 3 for trainings on a file of cells."""

    save_dtype: str = "bfloat16"
    """dtype of the saved weights, as PyTorch names it."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Model card, and what is published with it."""

    text: str = ""
    """Free text."""

    score_cells: int = 100
    """Maximum number of held-out cells of each file and task that are scored for the card; 0 for none."""

    names: bool = True
    """Store the names of training and held-out cells with the model, not only a SHA-256 of the held-out ones."""

    gene_part: int = 0
    """Dimensions of the gene part of embeddings, a fixed projection of gene ranks that is stored beside the weights and
    appended to the network's vector; 0 for none."""

    def __post_init__(self) -> None:
        if self.gene_part < 0:
            raise ValueError(f"card.gene_part is a number of dimensions, at least 0, found {self.gene_part}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of one training run; the YAML file of ``cell2sen train`` has the same groups and keys."""

    data: DataConfig
    model: ModelConfig
    grpo: Grpo | None = None
    """Learn from rewards of written sentences, instead of from pairs."""

    optimiser: Optimiser = field(default_factory=Optimiser)
    compute: Compute = field(default_factory=Compute)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    card: Card = field(default_factory=Card)
    seed: int = 0
    """Seed of all random numbers, except those of the splits."""

    def __post_init__(self) -> None:
        if self.grpo and self.model.from_scratch:
            raise ValueError("grpo improves a model that can answer: name it as model.start, not model.from_scratch")
        if self.grpo and self.model.quantize:
            raise ValueError("grpo does not work with model.quantize, whose weights are not those that are saved")
        if self.grpo and self.data.corpus:
            raise ValueError("grpo compares with real cells, which a corpus does not have: name data.files")
        if self.data.corpus and self.model.change_vectors:
            raise ValueError("model.change_vectors needs the expression of cells: name data.files, not data.corpus")
        if self.grpo and self.model.gene_tokens:
            raise ValueError("model.gene_tokens needs a training on pairs: run it first, without grpo")
        if self.grpo and self.compute.gradient_accumulation != 1:
            raise ValueError(
                "compute.gradient_accumulation is for trainings on pairs: with grpo, grpo.answers.prompts is the "
                "number of prompts in a step, and optimiser.batch_size that of answers in a backward pass"
            )
        if self.grpo and self.compute.packing:
            raise ValueError("compute.packing is for trainings on pairs: leave it out with grpo")
        if self.grpo and (self.optimiser.prompt_loss or self.optimiser.loss_tokens is not None):
            raise ValueError(
                "optimiser.prompt_loss and loss_tokens are for trainings on pairs: leave them out with grpo"
            )
