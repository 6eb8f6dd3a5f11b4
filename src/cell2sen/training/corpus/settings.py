"""Settings of a corpus, and their YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cell2sen.training.config.data import Augmentation, TrainingFile
from cell2sen.training.config.training_file import build, errors_of, read_values


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """All settings of a corpus; the YAML file has the same keys."""

    files: tuple[TrainingFile, ...]
    """Files of cells, as in a training file. The number of draws of a task is its weight: samples per cell."""

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

    augmentation: Augmentation = field(default_factory=Augmentation)
    context: int = 8192
    """Maximum number of tokens of a sample; longer prompts lose genes."""

    part_cells: int = 20_000
    """Cells of a file that are in memory together, and from which samples of several cells are drawn. Files with
    ``space:`` are read by section."""

    deduplicate: bool = True
    """Use cells that are in several files, or twice in one, only once: in a held-out study, or else in the first."""

    seed: int = 0

    def __post_init__(self) -> None:
        names = [file.file for file in self.files]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"files: at least one is needed and each can be named once, found {names}")
        if unknown := sorted(set(self.studies) - set(names)):
            raise ValueError(f"studies: {unknown} are none of the files {names}")
        if unknown := sorted(set(self.held_out) - {self.study(name) for name in names}):
            raise ValueError(f"held_out: no study is called {unknown}; available: {sorted(map(self.study, names))}")
        if self.part_cells < 1 or self.context < 1:
            raise ValueError(f"part_cells and context must be positive, found {self.part_cells} and {self.context}")

    def study(self, file: str) -> str:
        """Name of the study of a file."""
        return self.studies.get(file, Path(file).stem)


def read_corpus_config(path: str | Path) -> CorpusConfig:
    """Settings in a YAML file.

    Raises
    ------
    ValueError
        Unknown keys, no files, or names of files or studies that do not exist.
    """
    with errors_of(path):
        config: CorpusConfig = build(CorpusConfig, read_values(Path(path)))
    return config
