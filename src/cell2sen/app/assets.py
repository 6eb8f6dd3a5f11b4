"""Files that the browser loads, and the same joined into one module for notebooks."""

from __future__ import annotations

import re
from pathlib import Path

#: Folder of the files.
STATIC = Path(__file__).parent / "static"

#: JavaScript modules, each behind those that it imports.
MODULES = ("link.js", "parts.js", "map.js", "panels.js", "page.js")

#: What anywidget calls: the page in a cell of a notebook, over messages.
_RENDER = """
export default {
  render({ model, el: cell }) {
    const holder = document.createElement("div");
    cell.append(holder);
    return mount(holder, new WidgetLink(model), { widget: true });
  },
};
"""


def joined_module() -> str:
    """The modules as one, without imports of each other: anywidget takes a single module."""
    parts = []
    for name in MODULES:
        text = (STATIC / name).read_text(encoding="utf-8")
        text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
        parts.append(re.sub(r"^export ", "", text, flags=re.MULTILINE))
    return "\n".join([*parts, _RENDER])


def style() -> str:
    """The style sheet."""
    return (STATIC / "style.css").read_text(encoding="utf-8")
