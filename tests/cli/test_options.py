"""Groups of options: declared once, with the menus of Python."""

from __future__ import annotations

import inspect
import json
from typing import Annotated, Any, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from cell2sen import backend, model, tl
from cell2sen.cli import COMMANDS, evaluate, options
from cell2sen.evaluation import inputs
from cell2sen.evaluation.evaluate import evaluate as python_evaluate
from cell2sen.inference.session import Options
from cell2sen.sentences import ranking

GROUPS = (options.CellOptions, options.ModelOptions, options.RunOptions, options.OutputOptions)


def example(
    file: str,
    pooling: Annotated[options.Pooling, typer.Option()] = "mean",
    *,
    cells: options.CellOptions,
    run: options.RunOptions,
    output: options.OutputOptions,
) -> None:
    """One command."""
    output.summarise(f"{file} {pooling}", **options.arguments(cells, run, output))


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(options.with_groups(example))
    return CliRunner().invoke(app, arguments)


def test_groups_become_options_and_then_arguments_of_python() -> None:
    done = invoke("a.h5ad", "--raw", "--symbols", "name", "--online", "--quiet", "--json")
    assert done.exit_code == 0, done.output
    expected = {"use_raw": True, "symbols": "name", "device": "auto", "offline": False, "progress": False}
    assert json.loads(done.stdout) == expected
    assert invoke("a.h5ad", "--pooling", "last").stderr == "a.h5ad last\n"


def test_help_lists_groups_under_their_names() -> None:
    text = invoke("--help").output
    places = [text.index(name) for name in ("Options", "Cells and genes", "Prompts and speed", "Messages", "--quiet")]
    assert places == sorted(places)


def test_an_option_of_a_group_is_checked() -> None:
    for arguments in (["--pooling", "x"], ["--batch-size", "0"]):
        done = invoke("a.h5ad", *arguments)
        assert done.exit_code == 2
        assert f"Invalid value for '{arguments[0]}'" in done.output


def menu_of(function: Any, name: str) -> Any:
    """The annotation of one argument; the others may name types that are imported for type checkers only."""
    annotation = inspect.signature(function).parameters[name].annotation
    return eval(annotation, vars(inspect.getmodule(function)))


@pytest.mark.parametrize(
    ("menu", "python"),
    [
        (options.Pooling, backend.Pooling),
        (options.Readout, menu_of(tl.perturb, "readout")),
        (options.Dtype, model.Dtype),
        (options.Quantize, model.Quantize),
        (options.Ties, ranking.Ties),
        (options.Scale, inputs.ScaleName),
        (get_type_hints(evaluate.ValueOptions)["case"], inputs.Case),
        (get_type_hints(evaluate.ComparisonOptions)["controls"], menu_of(python_evaluate, "controls")),
    ],
)
def test_menus_are_those_of_python(menu: Any, python: Any) -> None:
    assert get_args(menu) == get_args(python)


@pytest.mark.parametrize("group", GROUPS)
def test_options_exist_in_python_under_the_same_name(group: type[options.Group]) -> None:
    values = group(**dict.fromkeys(get_type_hints(group), "x")).arguments()  # type: ignore[call-arg]
    assert set(values) <= set(get_type_hints(Options))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__)
def test_every_option_has_a_help_text(command: Any) -> None:
    for name, annotation in get_type_hints(options.with_groups(command), include_extras=True).items():
        if annotation is typer.Context:
            continue
        (option,) = annotation.__metadata__
        assert option.help, name
    assert inspect.getdoc(command)
