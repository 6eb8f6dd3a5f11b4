"""Commands as tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cell2sen.cli import app
from cell2sen.cli.agents.tools import NO_TOOLS, command_line, parameters, schema, skill

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - set(NO_TOOLS)))
def test_every_tool_describes_its_arguments(name: str) -> None:
    found = schema(COMMANDS[name])
    assert set(found["properties"]) == {parameter.name for parameter in parameters(COMMANDS[name])}
    assert all(entry["description"] for entry in found["properties"].values())
    assert COMMANDS[name].help


def test_types_limits_menus_and_repeated_values() -> None:
    found = schema(COMMANDS["annotate"])
    entries = found["properties"]
    assert found["required"] == ["file", "out"]
    assert entries["threshold"] | {"description": ""} == {
        "type": "number", "minimum": 0.0, "maximum": 1.0, "default": 0.0, "description": "",
    }  # fmt: skip
    assert entries["labels"]["type"] == "array"
    assert entries["majority_voting"]["type"] == "boolean"
    assert "bfloat16" in entries["dtype"]["enum"]
    assert not {"online", "url", "quiet", "json"} & set(entries)


def test_command_line_in_the_order_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").touch()
    values = {
        "out": str(tmp_path / "out.h5ad"), "file": str(tmp_path / "cells.h5ad"), "labels": ["B cell; T cell"],
        "threshold": 0.5, "unseen": True, "distinct": False,
    }  # fmt: skip
    words = command_line("annotate", COMMANDS["annotate"], values, [tmp_path])
    expected = ["annotate", "--labels=B cell; T cell", "--threshold=0.5", "--unseen", "--json", "--quiet", "--"]
    assert words == [*expected, str(tmp_path / "cells.h5ad"), str(tmp_path / "out.h5ad")]


def test_what_is_on_unless_told_otherwise_can_be_turned_off(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("file", "reference", "out")}
    for name in ("file", "reference"):
        (tmp_path / name).touch()
    values = {**files, "label": "cell_type", "cache": False}
    assert schema(COMMANDS["transfer"])["properties"]["cache"]["default"] is True
    words = command_line("transfer", COMMANDS["transfer"], values, [tmp_path])
    assert words[:3] == ["transfer", "--label=cell_type", "--no-cache"]


def test_files_that_may_not_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "cells.h5ad").touch()
    (tmp_path / "secret.h5ad").touch()
    inside, outside = str(folder / "cells.h5ad"), str(tmp_path / "secret.h5ad")

    def call(**values: Any) -> list[str]:
        return command_line("embed", COMMANDS["embed"], values, [folder])

    assert call(file=inside, out=str(folder / "new.h5ad"))
    with pytest.raises(ValueError, match=r"file: .*secret\.h5ad is in none of the folders"):
        call(file=outside, out=str(folder / "new.h5ad"))
    with pytest.raises(ValueError, match=r"out: .* is in none of the folders"):
        call(file=inside, out=str(folder / ".." / "new.h5ad"))
    with pytest.raises(ValueError, match=r"model: .* is in none of the folders"):
        call(file=inside, out=str(folder / "new.h5ad"), model=str(tmp_path))
    with pytest.raises(ValueError, match=r"out: .*cells\.h5ad exists, and files are not overwritten"):
        call(file=inside, out=inside)
    (folder / "link.h5ad").symlink_to(outside)
    with pytest.raises(ValueError, match="is in none of the folders"):
        call(file=str(folder / "link.h5ad"), out=str(folder / "new.h5ad"))


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"embed has no arguments \['online'\]; available: \['adapt', 'aliases'"):
        command_line("embed", COMMANDS["embed"], {"online": True}, [tmp_path])
    with pytest.raises(ValueError, match="embed needs file: File of cells"):
        command_line("embed", COMMANDS["embed"], {}, [tmp_path])


def test_skill_file_names_every_command_with_its_own_options() -> None:
    text = skill(COMMANDS)
    assert yaml.safe_load(text.split("---\n")[1])["name"] == "cell2sen"
    assert {name for name in COMMANDS if f"\n## `cell2sen {name}" in text} == set(COMMANDS) - set(NO_TOOLS)
    assert "- `--threshold` Labels with a lower probability become 'unknown'." in text
    assert "- `--batch-size`" not in text  # shared options stand in --help
