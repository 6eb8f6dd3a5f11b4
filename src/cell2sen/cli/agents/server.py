"""MCP server over stdin and stdout, and the command mcp: each command is a tool, run as a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cell2sen import __version__
from cell2sen.cli.agents.tools import NO_TOOLS, command_line, schema, skill

if TYPE_CHECKING:
    from mcp.server.lowlevel.server import Server


def mcp(
    context: typer.Context,
    folders: Annotated[
        list[Path], typer.Argument(help="Folders whose files may be read, and into which results are written.")
    ] = [],  # noqa: B006
    print_skill: Annotated[
        bool, typer.Option("--print-skill", help="Print a skill file (SKILL.md) about all commands, and stop.")
    ] = False,
) -> None:
    """Serve all commands as tools of the Model Context Protocol, over stdin and stdout.

    Files that exist are only read, results are new files, nothing uses the network.
    """
    commands: Mapping[str, Any] = context.find_root().command.commands  # type: ignore[attr-defined]
    if print_skill:
        typer.echo(skill(commands))
        return
    if not folders:
        raise ValueError("name the folders whose files may be used: cell2sen mcp FOLDER …")
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise ValueError(f"no such folder: {', '.join(missing)}")
    asyncio.run(_serve(build(commands, folders)))


def build(commands: Mapping[str, Any], folders: Sequence[Path]) -> Server[Any]:
    """The server, with a tool for each command.

    Parameters
    ----------
    commands
        Commands by name.
    folders
        Folders that all files must be in.

    Raises
    ------
    ImportError
        The SDK is not installed.
    """
    try:
        from mcp import types
        from mcp.server.lowlevel.server import Server
    except ImportError as error:
        raise ImportError("the server needs the MCP SDK: pip install 'cell2sen[mcp]'") from error

    offered = {name: command for name, command in commands.items() if name not in NO_TOOLS}
    tools = [
        types.Tool(name=name, description=" ".join((command.help or "").split()), input_schema=schema(command))
        for name, command in offered.items()
    ]

    def answer(text: str, *, is_error: bool) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=is_error)

    async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            if params.name not in offered:
                raise ValueError(f"no tool {params.name!r}; available: {sorted(offered)}")
            words = command_line(params.name, offered[params.name], params.arguments or {}, folders)
        except ValueError as error:
            return answer(str(error), is_error=True)
        code, text = await _run(words)
        return answer(text, is_error=code != 0)

    return Server(
        "cell2sen",
        version=__version__,
        instructions=f"Files must be in: {', '.join(str(folder.resolve()) for folder in folders)}. Begin with check.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _run(words: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of a command in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cell2sen", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        out, errors = await process.communicate()
    except asyncio.CancelledError:
        process.terminate()  # commands then remove what they have begun to write
        raise
    return process.returncode or 0, (out + errors).decode(errors="replace").strip()


async def _serve(server: Server[Any]) -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
