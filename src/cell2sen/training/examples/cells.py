"""TrainingCells: the cells of one file in memory, with their split."""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from cell2sen.data.expression import Expression
from cell2sen.data.names.perturbations import combined_in_file, control_names, no_controls, usual_controls
from cell2sen.data.names.text import as_text, as_texts, some, under_names, written
from cell2sen.data.obs import Context, cell_names, contexts, number_column, obs_column, text_column
from cell2sen.data.space.reading import read_space
from cell2sen.data.space.regions import held_out_regions
from cell2sen.data.splits import held_out_cells
from cell2sen.data.vocabulary import match
from cell2sen.inference.answers.numbers import Bins
from cell2sen.prompt import words_of
from cell2sen.sentences.rank_fit import RankFit, RankFitter
from cell2sen.sentences.ranking import Ranker, Recipe
from cell2sen.sentences.sentences import Sentences
from cell2sen.task import Task
from cell2sen.tasks import written_in_joint
from cell2sen.training.augmentation import augmented
from cell2sen.training.config.data import BY_SPACE, Augmentation, TrainingFile
from cell2sen.training.config.texts import texts_of

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Minimum number of perturbed cells, and of controls, in a group.
MIN_GROUP_CELLS = 10

#: Rows between two cells above which the file is read separately for each: fewer reads are faster than fewer rows.
MAX_GAP = 256

#: Maximum number of training cells of a file in the rank fit.
MAX_FIT_CELLS = 1024


class TrainingCells:
    """Cells of one file in memory, from which sentences are drawn.

    Parameters
    ----------
    data
        Settings of the file.
    base
        Folder that ``data.file`` is relative to.
    case
        ``"upper"`` or ``"keep"``: spelling of the symbols, as in the model's recipe.
    context
        obs columns whose values are in prompts, where the file has them.
    values
        Read the expression of all cells. Without it there are names, labels, texts and the split alone, and
        :meth:`part` reads the expression of some of the cells.

    Attributes
    ----------
    rows
        Row of each cell in the file, int64 (cells,), ascending.
    matrix
        Values on the scale of the file, float32 CSR (cells, genes).
    symbols
        Symbol of each column.
    totals
        Sum of each cell over all genes of the file, float64 (cells,).
    test
        Held-out cells, bool (cells,).
    space
        Coordinates and neighbourhoods of the cells; ``None`` without settings of space.
    label, perturbation
        Names in prompts and answers, object (cells,), ``None`` where missing; ``None`` without such a column.
    bins
        Column of numbers → its bins.
    """

    def __init__(
        self,
        data: TrainingFile,
        base: Path,
        case: Any,
        context: Sequence[str] = (),
        *,
        values: bool = True,
    ) -> None:
        self.data, self.base, self.case, self.context_names = data, base, case, tuple(context)
        self.owner = f"obs of {data.file}"
        self.texts = {slot: texts_of(data.texts, slot, base) for slot in data.texts}
        self.columns: NDArray[np.int64] | None = None  # of the expression, those of `symbols`; all if None
        self.bins: dict[str, Bins] = {}
        self._same: dict[str, str] = {}  # combinations of the file → the same ones in another order
        with self._opened() as expression:
            self.symbols, self.scale, self.obs = expression.symbols, expression.scale, expression.obs
            self.rows = np.arange(len(self.obs))
            self.label = self._labels()  # errors in names come before the matrix is read
            self.perturbation = self._perturbations()
            self.organism = np.array(expression.organism(data.matrix.organism), dtype=object)
            empty: Any = (len(self.rows), len(self.symbols))
            self.matrix: sp.csr_matrix = sp.csr_matrix(empty, dtype=np.float32)
            self.totals = np.zeros(len(self.rows))
            if values:
                self._read(expression)
        # Split before `where` is applied: trainings on different parts of a file hold out the same cells.
        split = data.split
        space = data.matrix.space
        self.space = (
            None
            if space is None
            else read_space(
                base / data.file, radius=space.radius, k=space.k, section=space.section, coordinates=space.coordinates
            )
        )
        self.margin = np.zeros(len(self.obs), dtype=bool)
        if split.by == BY_SPACE:
            self.test, self.margin = self._regions()
            self._keep_cells()
            return
        self.test = held_out_cells(
            self._groups_of_split(),
            by=split.by,
            share=split.test,
            values=[self._same.get(as_text(value) or "", value) for value in split.values],
            control=self._control_of_split(),
            seed=split.seed,
        )
        self._keep_cells()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Expression]:
        """The file's expression; errors in the block name the file."""
        file, settings = self.base / self.data.file, self.data.matrix
        options: dict[str, Any] = {name: getattr(settings, name) for name in ("layer", "use_raw", "symbols", "scale")}
        with _named(self.data.file), Expression.open(file, case=self.case, **options) as expression:
            yield expression

    def _read(self, expression: Expression) -> None:
        """Read the expression of :attr:`rows`."""
        blocks, totals = [], []
        for span in np.split(self.rows, np.flatnonzero(np.diff(self.rows) > MAX_GAP) + 1):
            for block in expression[span[0] : span[-1] + 1].blocks():
                kept = np.isin(np.arange(block.values.shape[0]) + span[0] + block.first, span)
                totals.append(expression.row_sums(block)[kept])
                values = (block.values if kept.all() else block.values[kept]).astype(np.float32)
                blocks.append(values if self.columns is None else values[:, self.columns])
        self.matrix, self.totals = sp.vstack(blocks, format="csr"), np.concatenate(totals)

    def _regions(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Held-out cells and the margin around them, of a split by space."""
        if self.space is None:
            raise ValueError(
                f"split: by: space on {self.data.file} needs its neighbourhoods, such as "
                "matrix: {space: {radius: 50}}"
            )
        split, space = self.data.split, self.space
        regions = held_out_regions(
            space.coordinates, space.neighbourhoods, share=split.test, sections=space.sections, seed=split.seed
        )
        return regions.held_out, regions.margin

    def _keep_cells(self) -> None:
        wanted = ~self.margin
        for column, value in self.data.matrix.where.items():
            wanted &= self._column(column) == (as_text(value) or "")
        if not wanted.any():
            present = {name: sorted(set(self._column(name)) - {None})[:20] for name in self.data.matrix.where}
            raise ValueError(
                f"no cell of {self.data.file} has the values {dict(self.data.matrix.where)}; available: {present}"
            )
        if not wanted.all():
            self.keep(np.flatnonzero(wanted))

    def keep(self, places: NDArray[np.int64]) -> None:
        """Drop all cells but these, int64 (cells,), ascending."""
        self.rows, self.obs = self.rows[places], self.obs.iloc[places]
        self.matrix, self.totals = self.matrix[places], self.totals[places]
        self.organism, self.test = self.organism[places], self.test[places]
        self.space = None if self.space is None else self.space.within(places)
        self.label = None if self.label is None else self.label[places]
        self.perturbation = None if self.perturbation is None else self.perturbation[places]

    def part(self, places: NDArray[np.int64]) -> TrainingCells:
        """Some of the cells, int64 (cells,), ascending, with their expression read from the file."""
        part = copy.copy(self)
        part.keep(places)
        with self._opened() as expression:
            part._read(expression)
        return part

    @property
    def n_draws(self) -> int:
        """Number of draws: that of the task with the most, rounded up."""
        return max(map(math.ceil, self.data.tasks.values()))

    @property
    def names(self) -> list[str]:
        """Cell names."""
        return list(cell_names(self.obs))

    @property
    def ranker(self) -> Ranker:
        """Ranker with random ties, so that a model does not learn an order that is noise."""
        return Ranker(self.symbols, Recipe(ties="random"))

    def keep_genes(self, known: Callable[[Sequence[str]], NDArray[np.bool_]]) -> None:
        """Drop genes that the model cannot write; the others get its names (:func:`cell2sen.data.vocabulary.match`).

        Parameters
        ----------
        known
            Symbols → bool: can it write them.

        Raises
        ------
        ValueError
            It can write none of them.
        """
        matched = match(self.symbols, known, set(self.organism), upper=self.case == "upper")
        keep = matched.is_known
        if not keep.any():
            raise ValueError(
                f"the model can write none of the {len(keep)} genes of {self.data.file} (for example "
                f"{list(self.symbols[:5])}); matrix.symbols names the var column of the gene symbols"
            )
        self.matrix = self.matrix[:, keep]
        self.columns = np.flatnonzero(keep) if self.columns is None else self.columns[keep]
        self.symbols = tuple(name for name in matched.names if name is not None)

    def rank_fit(self) -> RankFit | None:
        """Rank fit of the training cells; ``None`` if no cell has two expressed genes."""
        fitter = RankFitter()
        self.add_to(fitter)
        return fitter.fit()

    def add_to(self, fitter: RankFitter) -> None:
        """Add the first :data:`MAX_FIT_CELLS` training cells to a rank fit."""
        rows = np.flatnonzero(~self.test)[:MAX_FIT_CELLS]
        names = self.names
        indptr, _, values = self.ranker.rank(self.matrix[rows], [names[row] for row in rows])
        fitter.add(indptr, self.scale.log10_cp10k(values, np.repeat(self.totals[rows], np.diff(indptr))))

    def mean_expression(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean expression of some cells, ln(1 + CP10k), float64 (genes,)."""
        chosen = self.scale.ln_cp10k(sp.csr_matrix(self.matrix[rows]), self.totals[rows])
        return np.asarray(chosen.mean(axis=0), dtype=np.float64).ravel()

    def anndata(self, rows: NDArray[np.int64]) -> AnnData:
        """Some cells as ln(1 + CP10k) over the genes that the model can write; contexts and organism in ``obs``.

        Sums are those over all genes of the file, as in predictions for it; pass ``scale="log1p"`` with the result.
        """
        from anndata import AnnData

        obs = pd.DataFrame(index=np.asarray(self.names, dtype=object)[rows])
        for column in self.data.context:
            obs[column] = pd.Categorical(self._column(column)[rows])
        for column, values in self._context_columns().items():
            obs[column] = pd.Categorical(values[rows])
        obs["organism"] = pd.Categorical(self.organism[rows])
        var = pd.DataFrame(index=pd.Index(self.symbols, dtype=object))
        matrix = self.scale.ln_cp10k(sp.csr_matrix(self.matrix[rows]), self.totals[rows])
        return AnnData(matrix.astype(np.float32), obs=obs, var=var)

    def values(self, slot: str, draw: int = 0) -> NDArray[Any]:
        """Values of a slot of prompts or answers, object (cells,); ``None`` where missing.

        Parameters
        ----------
        draw
            Number of the draw, for slots with several columns (``caption_*``) or texts: draws use them in turn.

        Raises
        ------
        ValueError
            The training file has no obs column and no text for this slot.
        """
        if slot == "cell_type" and self.label is not None:
            return self.label
        if slot == "perturbation" and self.perturbation is not None:
            return self.perturbation
        if slot in self.texts:
            return np.full(len(self.obs), self.texts[slot][draw % len(self.texts[slot])], dtype=object)
        if slot not in self.data.columns:
            named = slot in ("cell_type", "perturbation")
            entry = f"({slot}:)" if named else f"(columns: {{{slot}: …}}) or a text (texts: {{{slot}: …}})"
            raise ValueError(
                f"the tasks {list(self.data.tasks)} on {self.data.file} need the obs column of {slot!r} {entry}; "
                f"available: {list(map(str, self.obs.columns))}"
            )
        names = self.columns_of(slot)
        return self._column(names[draw % len(names)])

    def columns_of(self, slot: str) -> list[str]:
        """Columns of obs of a slot that the training file names: one, or those that match a pattern with ``*``, sorted.

        Raises
        ------
        KeyError
            No column matches the pattern; lists the available ones.
        """
        name = self.data.columns[slot]
        if "*" not in name:
            return [name]
        available = list(map(str, self.obs.columns))
        if not (found := sorted(fnmatch.filter(available, name))):
            raise KeyError(f"{self.owner} has no column {name!r}; available: {available}")
        return found

    def answers(self, task: Task, draw: int = 0) -> NDArray[Any]:
        """Written answer of each cell to a task that is answered from obs, object (cells,); ``None`` where missing."""
        if task.column is None:
            return self.values(str(task.target), draw)
        if task.answer == "number":
            if task.column not in self.bins:
                raise ValueError(f"task {task.name!r} is learned by cell2sen train, which finds its bins in all files")
            return self.bins[task.column].write(self.numbers(task))
        return self._column(self._column_of(task))

    def answers_of_parts(self, task: Task, draw: int = 0) -> list[NDArray[Any]]:
        """Written answers of each cell: of each column of a joint answer, as they are written in it; else of the task.

        Without one of its parts a cell has no joint answer: all are ``None``.
        """
        columns = [self.answers(part, draw) for part in task.answered]
        if not task.parts:
            return columns
        complete = [all(value is not None for value in values) for values in zip(*columns, strict=True)]
        return [
            np.array(
                [written_in_joint(str(value)) if has else None for value, has in zip(column, complete, strict=True)],
                dtype=object,
            )
            for column in columns
        ]

    def numbers(self, task: Task) -> NDArray[np.float64]:
        """Values of the column of a number task, float64 (cells,); NaN where missing."""
        return number_column(self.obs, self._column_of(task), self.owner)

    def _column_of(self, task: Task) -> str:
        return self.data.columns.get(str(task.target), str(task.column))

    @property
    def prompt_context(self) -> Context:
        """What prompts tell of each cell besides its genes."""
        columns = self._context_columns()
        return Context(names=tuple(columns), values=list(zip(*columns.values(), strict=True)))

    def context_of(self, task: Task) -> list[str]:
        """Columns that are in the prompts of a task: not that of its answer."""
        answers = set(map(words_of, task.answer_names))
        return [name for name in self._context_columns() if words_of(name) not in answers]

    def context_values(self, name: str) -> NDArray[Any]:
        """Values of a column of prompts, object (cells,); ``None`` where missing, or in a file without the column."""
        return self._context_columns().get(name, np.full(len(self.names), None, dtype=object))

    def _context_columns(self) -> dict[str, NDArray[Any]]:
        """Columns of prompts that the file has: name → values as text, object (cells,)."""
        columns = {name: self.data.columns.get(name, name) for name in self.context_names}
        return {name: self._column(column) for name, column in columns.items() if column in self.obs}

    def is_control(self, cell: int) -> bool:
        """Whether a cell is unperturbed; true for all cells of a file without perturbations."""
        return self.perturbation is None or self.perturbation[cell] == self.data.control

    def sentences(self, draw: int, augmentation: Augmentation, seed: int) -> Sentences:
        """One sentence of each cell: counts augmented, ties random; reproducible by draw and seed."""
        matrix = self.augmented(draw, augmentation, seed)
        indptr, genes, _ = self.ranker.rank(matrix, [f"{name}/{seed}/{draw}" for name in self.names])
        names = np.asarray(self.names, dtype=object)
        return Sentences(
            genes=pa.ListArray.from_arrays(pa.array(indptr.astype(np.int32)), pa.array(genes)),
            vocabulary=pa.array(self.symbols, type=pa.string()),
            names=names,
            organism=tuple(self.organism),
            perturbations=(None,) * len(names),
            obs=pd.DataFrame(self._context_columns(), index=names),
            recipe=self.ranker.recipe,
            fit=None,
        )

    def augmented(self, draw: int, augmentation: Augmentation, seed: int) -> sp.csr_matrix:
        """Augmented counts of all cells, CSR (cells, genes); values on the scale of the file without augmentation."""
        if not augmentation.changes_counts:
            return self.matrix
        counts = sp.csr_matrix(
            (self.scale.counts(self.matrix), self.matrix.indices, self.matrix.indptr), self.matrix.shape
        )
        profile = None
        if augmentation.ambient:
            known = counts if self.test.all() else counts[~self.test]
            profile = np.asarray(known.sum(axis=0), dtype=np.float64).ravel()
        return augmented(counts, self.names, augmentation, profile=profile, draw=draw, seed=seed)

    def contexts(self) -> list[tuple[str | None, ...]]:
        """Values of each cell in the context columns, which its control must share; ``None`` where missing."""
        return contexts(self.obs, self.data.context)

    def groups(self, rows: NDArray[np.int64]) -> dict[tuple[str, ...], dict[str, list[int]]]:
        """Context → perturbation or control → cells among `rows`; keys in the order of their first cell."""
        groups: dict[tuple[str, ...], dict[str, list[int]]] = {}
        if self.perturbation is None:
            return groups
        context = self.contexts()
        for cell in rows:
            key = [value for value in context[cell] if value is not None]
            if self.perturbation[cell] is not None and len(key) == len(context[cell]):
                groups.setdefault(tuple(key), {}).setdefault(str(self.perturbation[cell]), []).append(int(cell))
        return groups

    def _column(self, name: str) -> NDArray[Any]:
        return text_column(self.obs, name, self.owner)

    def _labels(self) -> NDArray[Any] | None:
        settings = self.data.cell_type
        if settings is None:
            return None
        labels = np.array(under_names(obs_column(self.obs, settings.column, self.owner), settings.names), dtype=object)
        for name, value in settings.where.items():
            labels[self._column(name) != (as_text(value) or "")] = None
        return labels

    def _perturbations(self) -> NDArray[Any] | None:
        settings = self.data.perturbation
        if settings is None:
            return None
        controls, control = control_names(settings.control), self.data.control
        values = as_texts(obs_column(self.obs, settings.column, self.owner))
        if not set(controls) & set(values):
            raise ValueError(no_controls(settings.column, self.data.file, values, controls))
        if absent := [name for name in controls if name not in set(values)]:
            logger.warning("%s: no cell has the control %s", self.owner, some(absent))
        if others := [name for name in usual_controls(values) if name not in controls]:
            logger.warning(
                "%s: %s are learned as perturbations, though these are usual names of controls; perturbation.control "
                "(--control) takes several",
                self.owner,
                some(others),
            )
        same = combined_in_file(values, {name for name in controls if name is not None})
        for name, other in same.items():
            logger.warning("%s: %r is %r in another order; both are learned as %r", self.owner, name, other, other)
        self._same = same
        given = {written(name): str(text) for name, text in settings.names.items()}
        names = {same.get(name, name): text for name, text in given.items()} | given
        pattern = names.get("*", "{}")

        def renamed(value: str | None) -> str | None:
            if value in controls:
                return control
            if value is None:
                return None
            text = same.get(value, value)
            return as_text(names.get(text, pattern).replace("{}", text))

        return np.array(as_texts(values, renamed), dtype=object)

    def _groups_of_split(self) -> pd.DataFrame:
        """obs; A+B and B+A are one group if the groups are perturbations."""
        if self.data.perturbation is None or self.data.split.by != self.data.perturbation.column or not self._same:
            return self.obs
        names = as_texts(obs_column(self.obs, self.data.split.by, self.owner))
        return pd.DataFrame({self.data.split.by: [self._same.get(name or "", name) for name in names]})

    def _control_of_split(self) -> NDArray[np.bool_] | None:
        """Control cells, bool (cells,); ``None`` unless the split applies to perturbed cells only."""
        split, settings = self.data.split, self.data.perturbation
        of_perturbations = settings is not None and split.by == settings.column
        if not split.perturbed_only and not of_perturbations:
            return None
        if self.perturbation is None:
            raise ValueError(
                f"split: perturbed_only on {self.data.file} needs the obs column of the perturbation (perturbation:)"
            )
        return np.asarray(self.perturbation == self.data.control, dtype=bool)


@contextlib.contextmanager
def _named(file: str) -> Iterator[None]:
    """Name the file in errors of the block."""
    try:
        yield
    except (ValueError, KeyError) as error:
        text = str(error.args[0] if error.args else error)
        raise type(error)(text if file in text else f"{file}: {text}") from error
