"""The MCP server, used by the SDK's own client."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
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


def arguments(tool: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a tool, found by the first words of their descriptions alone."""
    found: dict[str, Any] = {}
    for words, value in given.items():
        fitting = [
            name for name, entry in tool.input_schema["properties"].items() if entry["description"].startswith(words)
        ]
        assert len(fitting) == 1, (tool.name, words, fitting)
        found[fitting[0]] = value
    assert set(tool.input_schema["required"]) <= set(found)
    return found


@pytest.mark.slow
def test_jobs_from_the_descriptions_of_the_tools_alone(tmp_path: Path) -> None:
    from mcp import Client

    cells = str(training_cells.write(tmp_path / "cells.h5ad", n=20))
    reference = str(training_cells.write(tmp_path / "reference.h5ad", n=60, seed=1))
    cells_of, out = "File of cells", "AnnData with the labels"
    jobs: dict[str, tuple[str, dict[str, Any]]] = {
        "whether it can be read": ("Describe a file", {cells_of: cells}),
        "cell types": (
            "Choose the cell type",
            {cells_of: cells, out: str(tmp_path / "annotated.h5ad"), "Labels or numbers": ["B cell; T cell; monocyte"]},
        ),
        "labels of other cells": (
            "Carry the labels of a reference",
            {
                cells_of: cells,
                "File of labelled cells": reference,
                "obs column of the reference with the labels": "cell_type",
                out: str(tmp_path / "transferred.h5ad"),
                "Label of most cells of each cluster": False,
                "Keep the reference's embeddings beside": False,
            },
        ),
        "a response": (
            "Predict the expression of control cells",
            {cells_of: cells, "The predicted cells": str(tmp_path / "predicted.h5ad"), "One perturbation": "IFN-beta"},
        ),
    }

    async def session() -> dict[str, Any]:
        async with Client(build(COMMANDS, [tmp_path])) as client:
            tools = (await client.list_tools()).tools
            results = {}
            for job, (words, given) in jobs.items():
                (tool,) = [tool for tool in tools if tool.description.startswith(words)]
                results[job] = await client.call_tool(tool.name, arguments(tool, given))
            results["again"] = await client.call_tool(tool.name, arguments(tool, given))
            return results

    results = asyncio.run(session())
    again = results.pop("again")
    assert again.is_error
    assert "not overwritten" in again.content[0].text
    assert not any(result.is_error for result in results.values()), {k: v.content[0].text for k, v in results.items()}
    assert json.loads(results["whether it can be read"].content[0].text)["ok"] is True
    types = {"B cell", "T cell", "monocyte"}
    annotated, transferred, predicted = (
        anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("annotated", "transferred", "predicted")
    )
    assert set(annotated.obs["cell2sen_cell_type"]) <= types
    key = transferred.uns["cell2sen"]["transfer"]["key"]
    assert (transferred.obs[key] == transferred.obs["cell_type"]).mean() > 0.6
    assert not (tmp_path / "reference.h5ad.cell2sen").exists()
    assert predicted.n_obs == (annotated.obs["condition"] == "control").sum()
    assert np.abs(predicted.layers["delta"]).max() > 0


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
