"""The commands plan, run, status and collect: atlases in shards, which end with the same bytes whatever happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cell2sen.cli.options import (
    CellOptions,
    Many,
    ModelOptions,
    OutputOptions,
    PerturbationColumn,
    Pooling,
    Readout,
    RunOptions,
    arguments,
)

Folder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run.", show_default=False)]


def plan(
    verb: Annotated[
        str, typer.Argument(help="embed, annotate, transfer, perturb, generate or screen.", show_default=False)
    ],
    out: Folder,
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files of cells; .h5ad and .zarr are read in parts.", show_default=False)
    ] = None,
    shard_cells: Annotated[
        int | None, typer.Option(help="Cells of a shard. Default: 8192, and 512 for written cells.", min=1)
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files that cannot be read, instead of refusing the plan.")
    ] = False,
    slurm: Annotated[
        Path | None, typer.Option(help="Write the script of a SLURM array for this plan.", show_default=False)
    ] = None,
    tasks: Annotated[int, typer.Option(help="Tasks of the SLURM array.", min=1)] = 16,
    gpus: Annotated[int, typer.Option(help="GPUs of each SLURM task.", min=0)] = 1,
    pooling: Annotated[Pooling | None, typer.Option(help="embed: over all tokens, gene tokens, or the last.")] = None,
    hidden_layer: Annotated[int | None, typer.Option(help="embed: after this layer.")] = None,
    labels: Annotated[
        Many, typer.Option(help="annotate: labels, separated by semicolons. May be repeated. Default: the model's.")
    ] = None,
    labels_file: Annotated[Path | None, typer.Option(help="annotate: text file with one label per line.")] = None,
    task: Annotated[Many, typer.Option(help="annotate: task, such as label:COLUMN. May be repeated.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="annotate, transfer: less probable labels are 'unknown'.", min=0.0, max=1.0)
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="transfer: file with labelled cells.")] = None,
    label: Annotated[str | None, typer.Option(help="transfer: column of the reference with the labels.")] = None,
    perturbation: Annotated[str | None, typer.Option("--perturbation", "-p", help="perturb: of all controls.")] = None,
    perturbation_column: PerturbationColumn = None,
    control: Annotated[Many, typer.Option(help="perturb: name of the controls. May be repeated.")] = None,
    readout: Annotated[Readout | None, typer.Option(help="perturb: expected expression, or one sentence.")] = None,
    cell_type: Annotated[Many, typer.Option("--cell-type", "-t", help="generate: types. May be repeated.")] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="generate: cells per type.", min=1)] = None,
    genes: Annotated[Path | None, typer.Option(help="generate: file whose genes the cells have.")] = None,
    temperature: Annotated[float | None, typer.Option(help="perturb, generate: of sampling.", min=0.0)] = None,
    seed: Annotated[int | None, typer.Option(help="perturb, generate, screen: of the draws.")] = None,
    settings: Annotated[
        Many,
        typer.Option("--set", help="NAME=VALUE, any other argument of the verb in Python, as JSON. May be repeated."),
    ] = None,
    *,
    cells: CellOptions,
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
) -> None:
    """Plan a run over many files: everything that changes numbers, checked before any work.

    The plan is OUT/plan.json; no weights are loaded. Next: cell2sen run OUT.
    """
    from cell2sen import atlas
    from cell2sen.data.names.text import list_of_names
    from cell2sen.data.names.text_files import read_labels

    if labels and labels_file:
        raise ValueError("pass either --labels or --labels-file, not both")
    menu = read_labels(labels_file) if labels_file else [name for text in labels or () for name in list_of_names(text)]
    types = [name for text in cell_type or () for name in list_of_names(text)]
    given: dict[str, Any] = {
        "pooling": pooling,
        "hidden_layer": hidden_layer,
        "labels": menu or None,
        "task": task or None,
        "threshold": threshold,
        "reference": reference,
        "label": label,
        "perturbation": perturbation,
        "perturbation_column": perturbation_column,
        "control": control or None,
        "readout": readout,
        "cell_type": types or None,
        "n": n,
        "genes": genes,
        "temperature": temperature,
        "seed": seed,
    }
    values = arguments(cells, model, run, output)
    batch = {} if run.batch_size is None else {"batch_size": values.pop("batch_size")}
    if run.device != "auto":
        raise ValueError("a plan is the same for all devices: pass --device to cell2sen run")
    values.pop("device", None)
    made = atlas.plan(
        verb,
        out,
        [str(file) for file in files or ()],
        shard_cells=shard_cells,
        skip_bad=skip_bad,
        **batch,
        **_settings(settings),
        **{name: value for name, value in given.items() if value is not None},
        **{name: value for name, value in values.items() if value is not False or name == "progress"},
    )
    if slurm is not None:
        slurm.write_text(atlas.slurm_script(out, tasks=tasks, gpus=gpus), encoding="utf-8")
    left_out = "".join(f"\nleft out: {name}: {reason}" for name, reason in made.left_out.items())
    begin = f"sbatch {slurm}" if slurm else f"cell2sen run {out}"
    size = f"{len(made.inputs)} files, {made.n_cells:,} cells, {len(made.shards):,} shards"
    output.summarise(
        f"{size} → {out}{left_out}\nnext: {begin}",
        plan=made.id,
        files=len(made.inputs),
        cells=made.n_cells,
        shards=len(made.shards),
        left_out=dict(made.left_out),
    )


def run(
    out: Folder,
    workers: Annotated[
        int,
        typer.Option(help="Processes, each with its GPU or share of the cores; with --ray actors.", min=1),
    ] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or one GPU, such as cuda:1.")] = "auto",
    ray: Annotated[
        str | None, typer.Option(help="Work on a Ray cluster: its address, auto, or local (extra ray).")
    ] = None,
    gpus: Annotated[float, typer.Option(help="With --ray: GPUs of each actor, also a fraction.", min=0.0)] = 0.0,
    index: Annotated[
        int | None, typer.Option(help="Number of this worker: where it begins. Default: of SLURM or torchrun.", min=0)
    ] = None,
    count: Annotated[int | None, typer.Option(help="Number of workers.", min=1)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse other versions of packages than planned.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Download the model if it is not on this machine.")] = False,
    *,
    output: OutputOptions,
) -> None:
    """Work on a plan until nothing is left. The same command again continues, on any number of machines at once."""
    from cell2sen import atlas

    status = atlas.run(
        out, workers=workers, index=index, count=count, device=device, ray=ray, gpus=gpus, strict=strict,
        offline=not online, progress=not output.quiet,
    )  # fmt: skip
    following = f"\nnext: cell2sen collect {out} cells.zarr" if status.finished else f"\nagain: cell2sen run {out}"
    output.summarise(f"{status}{following}", **status.to_dict())
    if not status.finished and index is None:
        raise typer.Exit(1)


def status(
    out: Folder,
    verify: Annotated[bool, typer.Option("--verify", help="Read all shards and compare their checksums.")] = False,
    clean: Annotated[
        bool,
        typer.Option("--clean", help="Remove temporary files older than an hour; with --verify damaged shards, too."),
    ] = False,
    *,
    output: OutputOptions,
) -> None:
    """Show what is done, what failed and why. Exit code 1 if a shard is damaged."""
    from cell2sen import atlas

    found = atlas.status(out, verify=verify, clean=clean)
    output.summarise(str(found), **found.to_dict())
    if found.damaged and not (verify and clean):
        raise typer.Exit(1)


def collect(
    out: Folder,
    target: Annotated[
        Path | None, typer.Argument(help="Results of all cells (.zarr, .h5ad); of a screen .csv, .parquet.")
    ] = None,
    beside: Annotated[
        Path | None, typer.Option(help="Folder for a copy of each input with its results, or its predicted cells.")
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Collect the shards of a finished run into one file, or into copies of the inputs."""
    from cell2sen import atlas

    written = atlas.collect(out, target, beside=beside, progress=not output.quiet)
    output.summarise("\n".join(f"→ {file}" for file in written), files=list(map(str, written)))


def _settings(texts: Many) -> dict[str, Any]:
    """Arguments of ``NAME=VALUE``: JSON, or text where it is none."""
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, found {text!r}")
        try:
            values[name.strip().replace("-", "_")] = json.loads(value)
        except ValueError:
            values[name.strip().replace("-", "_")] = value
    return values
