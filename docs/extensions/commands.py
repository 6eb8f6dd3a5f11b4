"""Pages of the command line, written from the commands themselves: one in docs/reference/commands/ for each."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any, Literal

FOLDER = "reference/commands"


def _plain(text: str | None) -> str:
    """One line of help, safe in a table of Markdown."""
    words = re.sub(r"\s+", " ", text or "").strip()
    return words.replace("|", r"\|").replace("<", r"\<").replace("*", r"\*")


def _default(option: Any) -> str:
    value = option.default
    if callable(value) or value is None or value is False or value in ((), []) or option.show_default is False:
        return ""
    return f"`{value}`"


def _values(option: Any) -> str:
    kind = option.type_descriptor.annotation
    if typing.get_origin(kind) is list:
        (kind,) = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        text = ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    else:
        text = {Path: "path", int: "whole number", float: "number", bool: "", str: "text"}.get(kind, "")
    limits = [f"{sign} {limit:g}" for sign, limit in (("≥", option.min), ("≤", option.max)) if limit is not None]
    return ", ".join(filter(None, [text, *limits, "may be repeated" if option.multiple else ""]))


def page_of(name: str, command: Any) -> str:
    """Markdown page of a command: usage, help, arguments, and options by group."""
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    options = [parameter for parameter in shown if parameter.param_type_name == "option"]
    words = [word if one.required else f"[{word}]" for one in arguments for word in [(one.metavar or one.name).upper()]]
    parts = [f"# {name}", "```text\n" + " ".join(["cell2sen", name, *words, "[OPTIONS]"]) + "\n```"]
    parts.append((command.help or "").replace("\f", "").strip())
    if arguments:
        rows = [f"| `{(one.metavar or one.name).upper()}` | {_plain(one.help)} |" for one in arguments]
        parts.append("\n".join(["| argument | |", "| --- | --- |", *rows]))
    groups: dict[str, list[str]] = {}
    for option in options:
        flags = ", ".join(f"`{flag}`" for flag in (*option.opts, *option.secondary_opts))
        row = f"| {flags} | {_plain(option.help)} | {_values(option)} | {_default(option)} |"
        groups.setdefault(option.rich_help_panel or "Options", []).append(row)
    for title, rows in groups.items():
        parts += [f"## {title}", "\n".join(["| option | | values | default |", "| --- | --- | --- | --- |", *rows])]
    parts.append(command.epilog or "")
    return "\n\n".join(filter(None, parts)) + "\n"


def _write(app: Any) -> None:
    import typer

    from cell2sen.cli import app as cell2sen_app

    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pages = {f"{name}.md": page_of(name, one) for name, one in typer.main.get_command(cell2sen_app).commands.items()}
    for stray in {path.name for path in folder.glob("*.md")} - set(pages):
        (folder / stray).unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("builder-inited", _write, priority=100)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
