"""Settings of a corpus, and their YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cell2sen.training.config.data import Augmentation, GeneSetFile, TrainingFile
from cell2sen.training.config.training_file import build, errors_of, read_values


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """All settings of a corpus; the YAML file has the same keys."""

    files: tuple[TrainingFile, ...] = ()
    """Files of cells, as in a training file: each task with its number of draws, samples per cell."""

    gene_sets: tuple[GeneSetFile, ...] = ()
    """GMT files, as in a training file."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Task → share of the training samples, in any unit. The task with the fewest samples for its share gives all of
    them, the others a random part: none is repeated. Without weights all drawn samples are in the corpus."""

    studies: Mapping[str, str] = field(default_factory=dict)
    """File → name of its study; by default the file's name without its ending."""

    held_out: tuple[str, ...] = ()
    """Studies of which all cells are held out, besides those that the splits of the files hold out."""

    model: str = "nano"
    """Model whose genes, recipe, templates and tokenizer are used; its weights are not."""

    templates: str | None = None
    """Other templates: ``cell2sen``, ``cell2sentence`` (of the authors' package, if it is installed) or a JSON file."""

    lengths: Mapping[str, int] = field(default_factory=dict)
    """Task → genes per sentence."""

    context: tuple[str, ...] = ()
    """obs columns whose values are in the prompts, as in a training file."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    max_tokens: int | None = None
    """Maximum number of tokens of a sample; longer ones lose genes. By default the model's context, at most 8,192."""

    part_cells: int = 10_000
    """Cells of a file that are in memory together. Cells of a sample are of one part: parts are made of whole samples,
    contexts of perturbations and sections, unless a sample or a context has more cells than this."""

    shard_samples: int = 20_000
    """Samples of a Parquet file, which are in memory together while they are shuffled."""

    deduplicate: bool = True
    """Use cells that are in several files, or twice in one, only once: in a held-out study, or else in the first."""

    seed: int = 0

    def __post_init__(self) -> None:
        names = [file.file for file in self.files] + [file.file for file in self.gene_sets]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"files: at least one is needed and each can be named once, found {names}")
        if unknown := sorted(set(self.studies) - set(names)):
            raise ValueError(f"studies: {unknown} are none of the files {names}")
        of_cells = sorted({self.study(file.file) for file in self.files})
        if unknown := sorted(set(self.held_out) - set(of_cells)):
            raise ValueError(f"held_out: no study of cells is called {unknown}; available: {of_cells}")
        for key in ("part_cells", "max_tokens", "shard_samples"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ValueError(f"{key} must be positive, found {value}")
        if self.weights and (
            set(self.weights) != set(self.tasks) or not all(weight > 0 for weight in self.weights.values())
        ):
            raise ValueError(
                f"weights: each of the tasks {self.tasks} needs a weight above 0, found {dict(self.weights)}; a task "
                "that is not wanted is left out of the files"
            )

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks of all files, sorted."""
        of_cells = {name for file in self.files for name in file.tasks}
        return sorted(of_cells | {name for file in self.gene_sets for name in file.tasks})

    def study(self, file: str) -> str:
        """Name of the study of a file."""
        return self.studies.get(file, Path(file).stem)

    def is_held_out(self, file: TrainingFile) -> bool:
        """Whether all cells of a file are held out."""
        return self.study(file.file) in self.held_out


def read_corpus_config(path: str | Path) -> CorpusConfig:
    """Settings in a YAML file.

    Raises
    ------
    ValueError
        Unknown keys, no files, or names of files, tasks or studies that do not exist.
    """
    with errors_of(path):
        config: CorpusConfig = build(CorpusConfig, read_values(Path(path)))
    return config
