"""Settings of the data: files of cells and gene sets, obs columns, splits, names of labels, augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cell2sen.data.names.perturbations import CONTROL, control_names, name_of_controls
from cell2sen.data.scale.units import ScaleName, check_scale_name


@dataclass(frozen=True, kw_only=True)
class LabelColumn:
    """obs column of the labels."""

    column: str
    names: Mapping[str, str] = field(default_factory=dict)
    """Label in the file → label to learn, or ``null`` to leave its cells out; labels that are not named are kept. Text
    that means a missing value (``NA``, ``None``, …) is a label only if it is named here."""

    where: Mapping[str, str] = field(default_factory=dict)
    """Values in obs of the cells whose labels are learned; other tasks use all cells."""


@dataclass(frozen=True, kw_only=True)
class PerturbationColumn:
    """obs column of the perturbations, and how perturbed cells are paired with controls."""

    column: str
    control: tuple[str, ...] | str | None = (CONTROL,)
    """Values of control cells, which are one in the training (NT-1, NT-2, …); ``null`` or "": cells without a value."""

    context: tuple[str, ...] = ()
    """obs columns whose values a perturbed cell and its control must share (cell type, donor, batch)."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Perturbation in the file → name in prompts; ``"*"``: all others, ``{}`` is the value (``"{} knock-out"``)."""

    no_perturbation: str | None = None
    """Name of no perturbation in prompts. If given, controls are also paired with other controls of their context, as
    the model's own expected responses need (``tl.perturb(measured=False)``)."""

    model_share: float = 0.0
    """Share, 0 to 1, of what the model predicts beyond the responses of similar training cells. It cannot be fitted on
    contexts that the model was trained on: measure it with trainings that leave contexts out."""

    def __post_init__(self) -> None:
        if not 0 <= self.model_share <= 1:
            raise ValueError(f"perturbation.model_share must be between 0 and 1, found {self.model_share}")


@dataclass(frozen=True, kw_only=True)
class SpaceSettings:
    """Coordinates of the cells, and which of them are neighbours, for the tasks and splits of space."""

    coordinates: str = "spatial"
    """Key of the coordinates in ``obsm``, and of a stored graph in ``obsp`` as squidpy names it."""

    radius: float | None = None
    """Neighbours are all cells within this distance, in units of the coordinates."""

    k: int | None = None
    """Neighbours are the k nearest cells. With neither `radius` nor `k`: the stored graph."""

    section: str | None = None
    """obs column of the section (slide) of each cell."""

    n_cells: int = 5
    """Largest number of cells in a prompt; each draw has a random one up to it."""

    interactions: str | None = None
    """Table of ligands and receptors (.csv, .tsv) for the task ``receptors``, in which a draw is of each ligand."""


#: Value of ``split.by`` for blocks of space.
BY_SPACE = "space"


@dataclass(frozen=True, kw_only=True)
class Split:
    """Held-out cells: single cells, whole groups (donor, cell type, perturbation), or blocks of space."""

    by: str = "cell"
    """``"cell"``, or the obs column of the groups: all cells of a group are on the same side. ``"space"``: blocks of
    space, with a margin as wide as a neighbourhood that is on neither side (needs ``matrix.space``)."""

    test: float = 0.1
    """Share of cells (or of groups) that is held out."""

    values: tuple[str, ...] = ()
    """Groups to hold out, instead of a random share."""

    perturbed_only: bool = False
    """Hold out only the perturbed cells of the groups ("this cell type was never seen under IFN-beta"), and the share
    `test` of all controls. Always so if the groups are perturbations."""

    exclude_held_out_of: tuple[str, ...] = ()
    """Files whose held-out cells are also held out here; matched by barcode."""

    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.test < 1:
            raise ValueError(f"split: test is the share of cells to hold out, from 0 to below 1, found {self.test}")
        if self.by in ("cell", BY_SPACE) and self.values:
            raise ValueError(f"split: values {list(self.values)} are groups of an obs column; name it as by:")


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Matrix, gene symbols and organism of a file, the cells to use, and where they lie."""

    layer: str | None = None
    use_raw: bool = False
    symbols: str | None = None
    """var column of the gene symbols."""

    organism: str | None = None
    """Organism of all cells; by default it is read from the file."""

    scale: ScaleName | None = None
    """Scale of the values, such as ``counts`` or ``log1p``; by default it is recognised."""

    where: Mapping[str, str] = field(default_factory=dict)
    """Use only cells with these values in obs."""

    space: SpaceSettings | None = None

    def __post_init__(self) -> None:
        check_scale_name(self.scale, "matrix.scale")


@dataclass(frozen=True, kw_only=True)
class TrainingFile:
    """One AnnData file, and the tasks that are learned from it."""

    file: str
    tasks: Mapping[str, float] = field(default_factory=lambda: {"annotate": 1.0})
    """Task → number of draws of each cell, each with new ties and new thinning. A fraction is the share of cells that
    are drawn once more. A list of tasks is short for one draw each."""

    cell_type: LabelColumn | None = None
    """The name of a column is short for ``{column: NAME}``, here and in `perturbation`."""

    perturbation: PerturbationColumn | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    """Slot of a task → obs column (``{tissue: tissue}``). For tasks that read several cells, ``sample`` is the column
    whose values all cells of a sample share (``{tissue: tissue, sample: donor}``), ``<task>_sample`` that of one task
    (``caption_sample: cluster``). A pattern stands for several columns (``{question: question_*, answer: answer_*}``),
    which the draws use in turn, in the order of their names. For ``label:COLUMN`` and ``number:COLUMN``, and for the
    context, it is needed only where a file has another name for the column."""

    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Slot of a task → a text that all cells of the file have, instead of an obs column (``{abstract: study.txt}``).
    What ends in ``.txt`` is a file of one text, or several files with a pattern (``abstracts/*.txt``), which the draws
    use in turn."""

    matrix: Matrix = field(default_factory=Matrix)
    split: Split = field(default_factory=Split)

    def __post_init__(self) -> None:
        if twice := sorted(set(self.texts) & set(self.columns)):
            raise ValueError(f"{self.file}: {twice} must be under columns: or under texts:, found under both")

    @property
    def control(self) -> str:
        """One name of all control cells: the first one, also where they have no value in the file."""
        return CONTROL if self.perturbation is None else name_of_controls(control_names(self.perturbation.control))

    @property
    def context(self) -> tuple[str, ...]:
        """Columns of obs whose values a perturbed cell and its control must share."""
        return self.perturbation.context if self.perturbation else ()

    @property
    def no_perturbation(self) -> str | None:
        """Name of no perturbation in prompts."""
        return self.perturbation.no_perturbation if self.perturbation else None


@dataclass(frozen=True, kw_only=True)
class GeneSetFile:
    """One GMT file of gene sets, and the tasks that are learned from it."""

    file: str
    tasks: Mapping[str, float] = field(default_factory=lambda: {"name_gene_set": 1.0, "list_gene_set": 1.0})
    """Task → number of draws of each set. Each draw of a set with more genes than the task's length has another random
    part of them."""

    organism: str = "Homo sapiens"
    test: float = 0.1
    """Share of the sets that is held out."""

    hold_out: tuple[str, ...] = ()
    """Names of sets to hold out, instead of a random share."""

    seed: int = 0
    """Seed of the random share."""

    def __post_init__(self) -> None:
        if not 0 <= self.test < 1:
            raise ValueError(f"{self.file}: test is the share of sets to hold out, 0 to below 1, found {self.test}")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of a cell's sentences from draw to draw, besides the order of ties.

    Counts are changed in sentences that are read. Where the answer is a sentence, its genes, and those of the control
    in the prompt, are what was measured: a model draws cells as they were in training.
    """

    thin: tuple[float, float] = (1.0, 1.0)
    """Limits of the share of counts that is kept, drawn uniformly for each cell. Counts behind normalised values are
    estimated, see :meth:`cell2sen.data.scale.Scale.counts`."""

    panel: float = 0.0
    """Share of cells that are written with a random part of the genes, as of a targeted panel."""

    ambient: float = 0.0
    """Largest share of counts that come from the mean profile of the file's training cells (in a corpus: of the cells
    read together) instead of the cell, drawn uniformly for each cell."""

    gene_factors: float = 0.0
    """Largest standard deviation of the natural logarithm of random factors, one for each gene of each cell, as another
    technology finds some genes better than others (gene length, capture, ends of transcripts). The deviation is drawn
    uniformly for each cell."""

    dropout: float = 0.0
    """Largest share of the expressed genes that are left out, markers among them, drawn uniformly for each cell."""

    context_dropout: float = 0.0
    """Share of the values of ``data.context`` that are left out at random, so that prompts without them are learned,
    too."""

    def __post_init__(self) -> None:
        for name in ("panel", "ambient", "dropout", "context_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation: {name} is a share from 0 to 1, found {getattr(self, name)}")
        if self.gene_factors < 0:
            raise ValueError(f"augmentation: gene_factors must be 0 or more, found {self.gene_factors}")
        if not 0 < self.thin[0] <= self.thin[1] <= 1:
            raise ValueError(f"augmentation: thin must be two shares, 0 < low <= high <= 1, found {list(self.thin)}")

    @property
    def of_answers(self) -> Augmentation:
        """The same for sentences that are to be written: panels and context, no changes of counts."""
        return Augmentation(panel=self.panel, context_dropout=self.context_dropout)

    @property
    def changes_counts(self) -> bool:
        """Whether anything but the order of ties and the context changes."""
        return self.thin[0] < 1 or any((self.panel, self.ambient, self.gene_factors, self.dropout))


@dataclass(frozen=True, kw_only=True)
class LabelNames:
    """Other names of labels, which a user may choose. They are not learned."""

    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Label → other spellings that users may choose. Not learned: a label is learned better under one name."""

    broader: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Broader label → the labels it covers. Not learned: its probability is the sum of theirs."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Files, and settings for all of them."""

    files: tuple[TrainingFile, ...] = ()
    gene_sets: tuple[GeneSetFile, ...] = ()
    """GMT files."""
    corpus: str | None = None
    """Folder that ``cell2sen corpus`` wrote, instead of `files`; it stays on disk."""

    lengths: Mapping[str, int] = field(default_factory=dict)
    """Task → genes per sentence. Prompts that are too long for the context lose more genes, answers never."""

    templates: str | None = None
    """Prompt templates: ``cell2sen``, ``cell2sentence`` (of the authors' package, if installed) or a JSON file; by
    default those of the starting model. Each sample has one of a task's templates at random."""

    names: LabelNames = field(default_factory=LabelNames)
    augmentation: Augmentation = field(default_factory=Augmentation)
    context: tuple[str, ...] = ()
    """obs columns whose values are in the prompts of all tasks (tissue, donor, free text), except that of the answer.
    Missing values, and columns that a file does not have, are written as nothing."""

    def __post_init__(self) -> None:
        names = [data.file for data in self.files] + [data.file for data in self.gene_sets]
        if self.corpus and names:
            raise ValueError("data: name either files or a corpus")
        own = self.lengths or self.templates or self.context or self.augmentation != Augmentation()
        if self.corpus and own:
            raise ValueError(
                "data: lengths, templates, context and augmentation are settings of a corpus when it is built; leave "
                "them out of a training on it"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"data.files: each file can be named once, found {names}")

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks of all files, sorted."""
        of_cells = {name for data in self.files for name in data.tasks}
        return sorted(of_cells | {name for data in self.gene_sets for name in data.tasks})
