"""The MCP server, used by the SDK's own client."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import training_cells
import typer

from cell2sen.cli import app, main
from cell2sen.cli.agents.server import build

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands


def call(folder: Path, *calls: tuple[str, dict[str, Any]]) -> tuple[list[str], list[Any]]:
    """Names of the tools, and the results of calls."""
    from mcp import Client

    async def session() -> tuple[list[str], list[Any]]:
        async with Client(build(COMMANDS, [folder])) as client:
            tools = await client.list_tools()
            return [tool.name for tool in tools.tools], [await client.call_tool(name, values) for name, values in calls]

    return asyncio.run(session())


def test_tools_and_refusals(tmp_path: Path) -> None:
    names, (outside, unknown) = call(tmp_path, ("check", {"file": "/etc/passwd"}), ("format", {}))
    assert {"check", "embed", "annotate", "perturb", "evaluate"} <= set(names)
    assert not {"mcp", "demo"} & set(names)
    assert outside.is_error
    assert "is in none of the folders" in outside.content[0].text
    assert unknown.is_error


@pytest.mark.slow
def test_jobs_of_the_readme(tmp_path: Path) -> None:
    training_cells.write(tmp_path / "cells.h5ad", n=20)
    cells = str(tmp_path / "cells.h5ad")
    embed = ("embed", {"file": cells, "out": str(tmp_path / "embedded.h5ad")})
    _, (checked, embedded, again) = call(tmp_path, ("check", {"file": cells}), embed, embed)
    assert json.loads(checked.content[0].text)["ok"] is True
    assert json.loads(embedded.content[0].text)["n_cells"] == 20
    assert again.is_error
    assert "not overwritten" in again.content[0].text


def test_skill_file_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cell2sen", "mcp", "--print-skill"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert capsys.readouterr().out.startswith("---\nname: cell2sen\n")


def test_a_server_needs_folders(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["cell2sen", "mcp", "/no/such/folder"])
    with pytest.raises(SystemExit):
        main()
    assert "no such folder: /no/such/folder" in capsys.readouterr().err
