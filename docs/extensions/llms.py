"""llms.txt and llms-full.txt of the site: its pages and public functions as text, for programs that read documentation.

``llms.txt`` lists each page with its first sentence; ``llms-full.txt`` has signature and docstring of every public
name. Both are made from the pages and docstrings that people read.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

#: Folders of pages, in the order of the site.
PARTS = ("start", "tutorials", "how-to", "reference", "explanation", "migration")
MODULES = ("cell2sen", "cell2sen.tl", "cell2sen.pl", "cell2sen.training")


def first_sentence(text: str) -> str:
    """The first sentence of the first paragraph that is prose."""
    text = re.sub(r"^(```|:::+).*?^\1$|<!--.*?-->", "", text, flags=re.M | re.S)
    for paragraph in re.split(r"\n\s*\n", text):
        words = " ".join(paragraph.split())
        if words and not re.match(r"[#|`:<$!>*\-\d{]", words):
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", words)
            return re.split(r"(?<=\.)\s", plain)[0]
    return ""


def list_of_pages(env: Any, sources: Path) -> str:
    """Text of ``llms.txt``."""
    lines = ["# cell2sen", "", "> Language models on single cells: AnnData in, AnnData out, beside scanpy.", ""]
    for part in PARTS:
        lines += [f"## {part}", ""]
        for name in sorted(name for name in env.titles if name.startswith(f"{part}/") and "/api/" not in name):
            page = Path(env.doc2path(name))
            text = page.read_text(encoding="utf-8") if page.suffix == ".md" else ""
            sentence = first_sentence(text)
            copies = [f"{name}{page.suffix}", f"{name}{page.suffix}.txt"]
            source = next((f"_sources/{copy}" for copy in copies if (sources / copy).is_file()), f"{name}.html")
            lines.append(f"- [{env.titles[name].astext()}]({source})" + (f": {sentence}" if sentence else ""))
        lines.append("")
    return "\n".join([*lines, "All functions with their arguments: [llms-full.txt](llms-full.txt)", ""])


def _signature(value: Any) -> str:
    try:
        return str(inspect.signature(value))
    except ValueError:  # exceptions
        return ""


def public_names() -> str:
    """Text of ``llms-full.txt``."""
    parts = []
    for module in MODULES:
        found = importlib.import_module(module)
        for name in found.__all__:
            value = getattr(found, name)
            if callable(value):
                parts.append(f"## {module}.{name}{_signature(value)}\n\n{inspect.getdoc(value) or ''}\n")
    return "# Public functions and classes of cell2sen\n\n" + "\n".join(parts)


def _write(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        out = Path(app.outdir)
        (out / "llms.txt").write_text(list_of_pages(app.env, out / "_sources"), encoding="utf-8")
        (out / "llms-full.txt").write_text(public_names(), encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("build-finished", _write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
