"""Planning: inputs surveyed and everything refused that would fail later, before the first expensive step."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cell2sen.atlas import fingerprints
from cell2sen.atlas.plan_file import PLAN_FILE, Input, Plan
from cell2sen.atlas.verbs import VERBS, Verb
from cell2sen.backend import POOLINGS, Backend
from cell2sen.data.expression import Expression
from cell2sen.data.files.rows import StoredRows, open_rows
from cell2sen.data.genes.organism import KEYS, organism_column
from cell2sen.data.names.text import as_texts, some
from cell2sen.data.obs import context_columns, perturbations_of_cells
from cell2sen.data.progress import Progress, Report
from cell2sen.data.reader import Reader
from cell2sen.data.scale.of_matrix import DEPTH_COLUMNS
from cell2sen.inference.annotate import check_labels, closed_set, default_labels
from cell2sen.inference.answers.columns import tasks_to_annotate
from cell2sen.inference.counts.measured_cells import refuse_without_counts
from cell2sen.inference.generate import check_cell_types
from cell2sen.inference.options import Options, check_options, recipe_for
from cell2sen.inference.responses.control_cells import AUTO, column_with_controls, perturbations_to_predict
from cell2sen.inference.trained import require_known
from cell2sen.model import EMBEDDED, KNOWN, Model, resolve
from cell2sen.tl.results import check_output

logger = logging.getLogger(__name__)

#: Packages whose versions change results.
STACK = ("numpy", "torch", "transformers", "anndata", "pyarrow")

#: Prompts of a batch: part of the plan, since the last bit of a result depends on it.
BATCH_SIZE = 16

#: Option → where it is chosen instead.
_ELSEWHERE = {
    "device": "run chooses the device",
    "progress": "it is an argument of plan and run",
    "whole": "the plan finds it",
    "batch_size": "it is an argument of plan",
    "url": "a server's answers are not the same to the last bit; shards are computed in the processes of run",
}
_FILES = ("gene_table", "aliases", "templates")


def plan(
    verb: str,
    out: str | Path,
    files: str | Path | Sequence[str | Path] = (),
    *,
    shard_cells: int | None = None,
    batch_size: int = BATCH_SIZE,
    skip_bad: bool = False,
    progress: bool | Report = True,
    **settings: Any,
) -> Plan:
    """Plan of a run in shards, written to ``OUT/plan.json``. No weights are loaded.

    Parameters
    ----------
    verb
        ``"embed"``, ``"annotate"``, ``"transfer"``, ``"perturb"``, ``"generate"`` or ``"screen"``.
    out
        Folder of the run; made if it does not exist.
    files
        Files of cells, for all verbs but ``"generate"``. ``.h5ad`` and ``.zarr`` are read in parts.
    shard_cells
        Cells of a shard. Default: 8,192 for vectors and labels, 512 for written cells. A screen has a shard per file.
    batch_size
        Prompts of a batch. Byte-equal results need the same shards and the same batch.
    skip_bad
        Leave out files that cannot be read, and write down why, instead of refusing the plan.
    **settings
        Arguments of the verb, as of :mod:`cell2sen.tl`, and options
        (:class:`cell2sen.inference.options.Options`). Models, tables and references are named by path.

    Returns
    -------
    The plan. The same call again returns the plan that is there.

    Raises
    ------
    ValueError
        No such verb, model or label; files that cannot be read (all are listed); another plan in the folder.
    TypeError
        Arguments that do not exist, or that a run in shards does not take, with the reason.
    FileNotFoundError
        A file or the model is not on this machine.
    """
    chosen = _verb(verb)
    options, arguments = _split(chosen, settings)
    paths = _paths(files)
    _check_numbers(chosen, paths, shard_cells, batch_size)
    model = resolve(
        options.pop("model", EMBEDDED),
        revision=options.pop("revision", None),
        dtype=options.pop("dtype", None),
        quantize=options.pop("quantize", None),
    )
    _check_arguments(chosen, arguments, model)
    named = _named_files(chosen, arguments, options)
    if chosen.name == "generate" and arguments.get("output") == "counts":
        _check_measured(named, options)
    survey = _Survey(chosen, model, options, arguments, named)
    inputs, bad = _surveyed(survey, paths, _names(paths), progress)
    if bad and not (skip_bad and inputs):
        listed = "\n".join(f"  {name}: {reason}" for name, reason in bad.items())
        raise ValueError(f"{len(bad)} of {len(paths)} files cannot be used (skip_bad=True leaves them out):\n{listed}")
    made = Plan(
        verb=verb,
        arguments=_json(arguments, "arguments"),
        options=_json(options, "options"),
        model=_model(model),
        inputs=tuple(inputs),
        shards=_cut(chosen, inputs, arguments, shard_cells or chosen.cells),
        batch_size=batch_size,
        versions={name: importlib.metadata.version(name) for name in STACK} | {"cell2sen": _version()},
        left_out=bad,
        files=named,
    )
    folder = Path(out)
    _make(folder)
    made.write(folder)
    return Plan.read(folder)


def _verb(name: str) -> Verb:
    if name == "corpus":
        raise ValueError("a corpus has a writer of its own, which continues where it was interrupted: cell2sen corpus")
    if name not in VERBS:
        raise ValueError(f"no verb {name!r} for a run in shards; available: {sorted(VERBS)}")
    return VERBS[name]


def _split(verb: Verb, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options, and arguments of the verb."""
    options = {
        name: value for name, value in settings.items() if name in Options.__optional_keys__ and value is not None
    }
    arguments = {name: value for name, value in settings.items() if name not in Options.__optional_keys__}
    for name in settings:
        if name in _ELSEWHERE:
            raise TypeError(f"{name}= is not part of a plan: {_ELSEWHERE[name]}")
        if name in verb.refused:
            raise TypeError(f"a run of {verb.name} in shards does not take {name}=: {verb.refused[name]}")
    if unknown := sorted(set(arguments) - verb.arguments):
        raise TypeError(f"unknown arguments {unknown} of {verb.name}; available: {sorted(verb.arguments)}")
    options.pop("offline", None)
    check_options(options)  # type: ignore[arg-type]
    if isinstance(options.get("model"), Backend):
        raise TypeError("model= must be a name or a path: each worker loads it by itself")
    if not isinstance(options.get("organism", ""), str):
        raise TypeError("organism= must be one name; write that of each cell into a column 'organism' of obs")
    return options, arguments


def _paths(files: str | Path | Sequence[str | Path]) -> list[Path]:
    given = [files] if isinstance(files, str | Path) else list(files)
    paths = [Path(file).absolute() for file in given]
    twice = [str(path) for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise ValueError(f"a file is named twice: {some(twice)}")
    return paths


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of the files, with as many of their folders as tell them apart."""
    for depth in range(1, 12):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _check_numbers(verb: Verb, paths: Sequence[Path], shard_cells: int | None, batch_size: int) -> None:
    if shard_cells is not None and (shard_cells < 1 or verb.name == "screen"):
        raise ValueError(f"shard_cells must be at least 1, and a screen has a shard per file, found {shard_cells}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, found {batch_size}")
    if verb.name == "generate" and paths:
        raise ValueError("generate reads no cells; the file whose genes are used is genes=")
    if verb.name != "generate" and not paths:
        raise ValueError(f"{verb.name} needs files of cells, found none")


def _check_arguments(verb: Verb, arguments: dict[str, Any], model: Model) -> None:
    """Raise an error for arguments that would fail in each shard; make them plain."""
    required = {"transfer": ("reference", "label"), "generate": ("cell_type",)}.get(verb.name, ())
    if missing := [name for name in required if name not in arguments]:
        raise TypeError(f"{verb.name} needs {', '.join(f'{name}=' for name in missing)}")
    check_output(arguments.get("output", "expression"))
    if verb.name == "embed" and arguments.get("pooling", "mean") not in POOLINGS:
        raise ValueError(f"no pooling {arguments['pooling']!r}; available: {list(POOLINGS)}")
    if not 0 <= arguments.get("threshold", 0) <= 1:
        raise ValueError(f"threshold must be a probability between 0 and 1, found {arguments['threshold']}")
    if verb.name == "annotate":
        labels = arguments.get("labels")
        tasks = tasks_to_annotate(arguments.get("task"), model)
        if any(task.cells for task in tasks):
            raise ValueError("tasks that read samples of cells are not for runs in shards: cell2sen annotate")
        if labels is not None and not isinstance(labels, Mapping) and tasks[0].answer == "label":
            labels = arguments["labels"] = list(check_labels(labels))
        if len(tasks) == 1 and tasks[0].answer == "label" and not isinstance(labels, Mapping):
            closed_set(tasks[0], model, labels)
    if verb.name == "generate":
        n, n_genes = arguments.setdefault("n", 100), arguments.get("n_genes")
        candidates = arguments.get("candidates", 1)
        arguments["cell_type"] = check_cell_types(arguments["cell_type"], n, n_genes, candidates)
        if candidates > 1:
            default_labels(model)


def _check_measured(named: Mapping[str, Mapping[str, str]], options: Mapping[str, Any]) -> None:
    """Raise a ValueError unless genes= of generated counts is a file with counts."""
    if "genes" not in named:
        raise ValueError("output='counts' of generate needs the file of measured cells, genes=, with their counts")
    layer, use_raw, scale = options.get("layer"), bool(options.get("use_raw")), options.get("scale")
    with Expression.open(named["genes"]["path"], layer=layer, use_raw=use_raw, scale=scale) as measured:
        refuse_without_counts(measured, "measured cells in genes=")


def _named_files(verb: Verb, arguments: dict[str, Any], options: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Files that arguments and options name, with hashes; their names stay, their places move here."""
    named = {}
    for values, names in ((arguments, verb.files), (options, _FILES)):
        for name in names:
            value = values.get(name)
            if not isinstance(value, str | Path):
                if value is not None and hasattr(value, "obs"):
                    raise TypeError(f"{name}= must be the path of a file: each worker reads it by itself")
                continue
            path = Path(value).absolute()
            if not path.exists():
                if name == "templates":  # a name of templates
                    continue
                raise FileNotFoundError(f"there is no file {value} for {name}=")
            named[name] = {"path": str(path), "sha256": fingerprints.of_input(path) if name in verb.files
                           and name != "gmt" else fingerprints.of_path(path, whole=True)}  # fmt: skip
            values[name] = path.name
    return named


@dataclass(frozen=True, kw_only=False)
class _Survey:
    """What each file is looked at for."""

    verb: Verb
    model: Model
    options: Mapping[str, Any]
    arguments: Mapping[str, Any]
    named: Mapping[str, Mapping[str, str]]

    def of(self, path: Path, name: str) -> Input:
        """Survey of one file: its genes, scale, organisms and perturbations. Only samples of its values are read."""
        layer, use_raw = self.options.get("layer"), bool(self.options.get("use_raw"))
        fingerprint = fingerprints.of_input(path, layer=layer, use_raw=use_raw)
        with open_rows(path, layer=layer, use_raw=use_raw) as stored:
            obs = stored.table(self._columns(stored))
            reader = Reader(
                matrix=stored.matrix, obs=obs, var=stored.var, uns=stored.uns, where=_where(layer, use_raw), hint=""
            )
            if not stored.n_obs or not len(stored.var):
                raise ValueError(f"it is empty: {stored.n_obs} cells and {len(stored.var)} genes")
            place = {key: file["path"] for key, file in self.named.items()}
            expression = Expression.of(
                reader,
                symbols=self.options.get("symbols"),
                gene_table=place.get("gene_table", self.options.get("gene_table")),
                aliases=place.get("aliases", self.options.get("aliases")),
                case=recipe_for(self.model, self.options).case,  # type: ignore[arg-type]
                scale=self.options.get("scale"),
            )
            organisms = self._organisms(expression)
            if (genes := self.model.genes) is not None:
                listed = frozenset(genes)
                expression.known_to(lambda symbols: np.array([symbol in listed for symbol in symbols]), None)
            column, perturbations = self._perturbations(obs) if self.verb.name == "perturb" else (None, ())
            if self.arguments.get("output") == "counts":
                refuse_without_counts(expression, "control cells")
            is_recognised = expression.is_recognised
            return Input(
                path=str(path),
                name=name,
                cells=stored.n_obs,
                genes=len(stored.var),
                fingerprint=fingerprint,
                scale=_json(asdict(expression.scale), "scale") if is_recognised else None,
                organisms=organisms,
                column=column,
                perturbations=perturbations,
            )

    def _columns(self, stored: StoredRows) -> list[str]:
        wanted = {*DEPTH_COLUMNS, *context_columns(self.options.get("context"))}
        named = self.arguments.get("perturbation_column")
        for argument, names in (("context", context_columns(self.options.get("context"))),
                                ("perturbation_column", () if named is None else (named,))):  # fmt: skip
            for name in names:
                if name not in stored.names:
                    raise KeyError(f"obs has no column {name!r} for {argument}=; available: {list(stored.names)}")
        if named is not None:
            wanted.add(named)
        elif self.verb.name == "perturb" and self.arguments.get("control", AUTO) not in ((), []):
            wanted.update(stored.texts)  # controls may be named in any
        return [name for name in stored.names if name in wanted or name.lower() in KEYS]

    def _organisms(self, expression: Expression) -> tuple[str, ...]:
        given = self.options.get("organism")
        if given is None:
            for key in KEYS:
                column = organism_column(expression.obs, key)
                values = [] if column is None else as_texts(expression.obs[column])
                if any(value is None for value in values) and any(value is not None for value in values):
                    raise ValueError(f"obs[{column!r}] has no value for some cells: fill it, or pass organism=")
        return tuple(sorted(set(expression.organism(given))))

    def _perturbations(self, obs: Any) -> tuple[str | None, tuple[tuple[str | None, str | None], ...]]:
        arguments = self.arguments
        given, column = arguments.get("perturbation"), arguments.get("perturbation_column")
        control = arguments.get("control", AUTO)
        if given is not None and not isinstance(given, str):
            raise TypeError("perturbation= must be one name; write that of each cell into a column of obs")
        found = perturbations_to_predict(obs, given, column, control, self.model)
        names = sorted({name for name in found if name})
        untreated = self.model.metadata.get("no_perturbation")
        known = [name for name in names if name != untreated]
        require_known("perturbations", known, self.model, force=bool(arguments.get("force")))
        is_drawn = arguments.get("temperature", 0) > 0 or arguments.get("output") == "counts"
        if is_drawn and not obs.index.is_unique:
            raise ValueError("names of cells must be unique where answers are drawn (temperature > 0, or counts)")
        if column is None and control != () and control != []:
            own = self.model.metadata.get("perturbations") or {}
            which = column_with_controls(obs, None if control == AUTO else list(control), own)
            column = None if which is None else which[0]
        if column is None:
            return None, ((None, names[0]),)
        pairs = set(zip(perturbations_of_cells(obs, column), found, strict=True))
        if len(pairs) != len({value for value, _ in pairs}):
            raise ValueError(f"obs[{column!r}] does not tell which cells are predicted: name the column of controls")
        return column, tuple(sorted(pairs, key=lambda pair: (pair[0] or "", pair[0] is None)))


def _surveyed(
    survey: _Survey, paths: Sequence[Path], names: Sequence[str], progress: bool | Report
) -> tuple[list[Input], dict[str, str]]:
    inputs, bad = [], {}
    with Progress(len(paths), "looking at files", "file", show=progress) as bar:
        for path, name in zip(paths, names, strict=True):
            try:
                inputs.append(survey.of(path, name))
            except (TypeError, MemoryError):
                raise
            except (ValueError, KeyError, OSError) as error:
                text = error.args[0] if isinstance(error, KeyError) and error.args else error
                bad[name] = str(text).strip().splitlines()[0] if str(text).strip() else type(error).__name__
            bar.update(1)
    return inputs, bad


def _cut(
    verb: Verb, inputs: Sequence[Input], arguments: Mapping[str, Any], cells: int
) -> tuple[tuple[int, int, int], ...]:
    """Shards: input (or label), first and last cell."""
    if verb.name == "screen":
        return tuple((number, 0, each.cells) for number, each in enumerate(inputs))
    sizes = [arguments["n"]] * len(arguments["cell_type"]) if verb.name == "generate" else [i.cells for i in inputs]
    return tuple(
        (number, first, min(first + cells, size))
        for number, size in enumerate(sizes)
        for first in range(0, size, cells)
    )


def _model(model: Model) -> dict[str, Any]:
    """The model as plain values, with the dtype resolved and the hash of its files."""
    known = model.name in KNOWN and KNOWN[model.name].path == model.path
    return {
        "path": model.name if known else str(Path(model.path).resolve()) if model.is_local else model.path,
        "name": model.name,
        "revision": model.revision,
        "dtype": model.resolved_dtype,
        "quantize": model.quantize,
        "sha256": fingerprints.of_model(model),
    }


def model_of(plan: Plan) -> Model:
    """The model of a plan, without its weights.

    Raises
    ------
    ValueError
        The weights on this machine are not those of the plan.
    """
    found = plan.model
    model = resolve(found["path"], revision=found["revision"], dtype=found["dtype"], quantize=found["quantize"])
    if fingerprints.of_model(model) != found["sha256"]:
        raise ValueError(
            f"the model {found['name']} on this machine is not that of the plan: a file of {model.path} was changed or "
            "is of another revision. Put the planned files back, or make a new plan in another folder"
        )
    return model


def _json(values: Any, what: str) -> Any:
    """Plain values, as JSON reads them back."""
    try:
        return json.loads(json.dumps(values))
    except TypeError as error:
        raise TypeError(f"{what} of a plan must be plain values (text, numbers, lists, mappings): {error}") from error


def _make(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a folder")
    if folder.is_dir() and not (folder / PLAN_FILE).exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and has no plan; choose a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(f"{folder} cannot be made ({error.strerror}); choose another folder") from error


def _where(layer: str | None, use_raw: bool) -> str:
    return "raw.X" if use_raw else f"layers[{layer!r}]" if layer is not None else "X"


def _version() -> str:
    from cell2sen import __version__

    return __version__
