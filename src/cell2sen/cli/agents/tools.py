"""Commands as tools: JSON schema of each, its arguments as a command line, files that it may use; skill file."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

#: Commands that are no tools: they serve, download, or write a demonstration.
NO_TOOLS = ("app", "demo", "fetch", "mcp")

#: Flags that the server sets or withholds: a tool writes JSON, no progress, and never uses the network.
_OWN = ("--json", "--quiet", "--online", "--url")

#: Parameters whose files are written.
_WRITTEN = ("out", "report", "table")

_SKILL = """\
---
name: cell2sen
description: >-
  Single-cell data (.h5ad and others) with language models: check, embed, annotate, transfer labels, integrate, predict
  responses to perturbations, screen, evaluate, train.
---

# cell2sen

Run `cell2sen check FILE` first; it names what would fail, with a remedy. Input files are never changed. `--json` prints
a result that can be parsed, `--quiet` no progress. Score predictions with `cell2sen evaluate` before you report them:
each score stands beside a simple method. The embedded model was trained on human blood. The next step after `embed` is
`scanpy.pp.neighbors(adata, use_rep="X_cell2sen")`. All options of a command: `cell2sen COMMAND --help`.
"""

_TYPES = {bool: "boolean", int: "integer", float: "number"}


def parameters(command: Any) -> Iterator[Any]:
    """Arguments and options of a command that a tool has."""
    for parameter in command.params:
        if not set(parameter.opts) & set(_OWN) and not getattr(parameter, "hidden", False):
            yield parameter


def schema(command: Any) -> dict[str, Any]:
    """JSON schema of the arguments of a command: types, limits, menus, defaults and help."""
    properties, required = {}, []
    for parameter in parameters(command):
        kind = _kind(parameter)
        entry: dict[str, Any] = {"type": _TYPES.get(kind, "string")}
        if typing.get_origin(kind) is Literal:
            entry["enum"] = list(typing.get_args(kind))
        entry |= {key: limit for key, limit in _limits(parameter) if limit is not None}
        if parameter.multiple:
            entry = {"type": "array", "items": entry}
        if isinstance(parameter.default, bool | int | float | str) and parameter.default != "":
            entry["default"] = parameter.default
        entry["description"] = _one_line(parameter.help)
        properties[parameter.name] = entry
        if parameter.required:
            required.append(parameter.name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def command_line(name: str, command: Any, values: Mapping[str, Any], folders: Sequence[Path]) -> list[str]:
    """Words after ``cell2sen`` for a call of a tool.

    Parameters
    ----------
    name, command
        The command.
    values
        Arguments by name, as in :func:`schema`.
    folders
        Folders that files must be in. Files that are written must not exist.

    Raises
    ------
    ValueError
        An argument that does not exist or is missing, or a file that may not be used.
    """
    known = {parameter.name: parameter for parameter in parameters(command)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{name} has no arguments {unknown}; available: {sorted(known)}")
    words: list[str] = []
    positional: list[str] = []
    for key, parameter in known.items():
        value = values.get(key)
        if value is False and parameter.secondary_opts:
            words.append(parameter.secondary_opts[0])
            continue
        if value is None or value is False:
            if parameter.required:
                raise ValueError(f"{name} needs {key}: {_one_line(parameter.help)}")
            continue
        entries = list(value) if isinstance(value, list | tuple) else [value]
        for entry in entries:
            _check_file(key, entry, is_path=_kind(parameter) is Path, folders=folders)
        if parameter.param_type_name == "argument":
            positional += map(str, entries)
        elif value is True:
            words.append(parameter.opts[0])
        else:
            words += [f"{parameter.opts[0]}={entry}" for entry in entries]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    words += [flag for flag in ("--json", "--quiet") if flag in flags]
    return [name, *words, "--", *positional]


def skill(commands: Mapping[str, Any]) -> str:
    """A skill file: when to use which command, with its arguments, from the same help as the tools."""
    lines = [_SKILL]
    for name, command in commands.items():
        if name in NO_TOOLS:
            continue
        words = [parameter.name.upper() for parameter in command.params if parameter.required]
        lines += [f"## `{' '.join(['cell2sen', name, *words])}`", "", _one_line(command.help), ""]
        lines += [
            f"- `{parameter.opts[0]}` {_one_line(parameter.help)}"
            for parameter in parameters(command)
            if parameter.param_type_name == "option" and not parameter.rich_help_panel
        ]
        lines.append("")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _kind(parameter: Any) -> Any:
    """Type of a parameter, of several values that of one."""
    kind = parameter.type_descriptor.annotation
    return typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind


def _limits(parameter: Any) -> tuple[tuple[str, float | None], ...]:
    return ("minimum", getattr(parameter, "min", None)), ("maximum", getattr(parameter, "max", None))


def _one_line(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()


def _check_file(key: str, value: Any, *, is_path: bool, folders: Sequence[Path]) -> None:
    """Raise an error if a value is a file that may not be used."""
    if not isinstance(value, str):
        return
    path = Path(value)
    if not is_path and not path.is_absolute() and ".." not in path.parts and not path.exists():
        return
    full = path.resolve()
    if not any(full.is_relative_to(folder.resolve()) for folder in folders):
        raise ValueError(f"{key}: {value} is in none of the folders of this server: {', '.join(map(str, folders))}")
    if key in _WRITTEN and full.exists():
        raise ValueError(f"{key}: {value} exists, and files are not overwritten; name another one")
