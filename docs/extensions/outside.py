"""Pages that stand outside of docs/, and links to files outside of it.

A page such as ``docs/changelog.md`` holds the line ``<!-- page: ../CHANGELOG.md -->``, and is replaced by that file
when the site is built. Links that are right in the repository become links of the site; those to other files of the
repository become downloads, those to folders plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

#: File of the repository → page of the site.
PAGES = {
    "README.md": "docs/index.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "CHANGELOG.md": "docs/changelog.md",
    "src/cell2sen/nano/README.md": "docs/reference/model-card.md",
}
_OUTSIDE = re.compile(r"<!-- page: (\S+) -->")
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def site_links(text: str, source: Path, page: Path, root: Path) -> str:
    """`text` of the file `source` as the page `page`, with the links of the site.

    Parameters
    ----------
    text
        Markdown.
    source, page
        The file that the links start from, and the page where the text stands; both below `root`.
    root
        Folder of the repository.
    """

    def link(match: re.Match[str]) -> str:
        label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return match[0]
        inside = os.path.relpath(os.path.normpath(source.parent / path), root)
        if (root / inside).is_dir():
            return label
        moved = os.path.relpath(root / PAGES.get(inside, inside), page.parent)
        return f"[{label}]({moved}{hash_}{anchor})"

    return _LINK.sub(link, text)


def _read(app: Any, name: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    if page.suffix != ".md":
        return
    root = Path(app.srcdir).parent
    source = page
    if outside := _OUTSIDE.search(content[0]):
        source = Path(os.path.normpath(page.parent / outside[1]))
        app.env.note_dependency(str(source))
        content[0] = source.read_text(encoding="utf-8")
    content[0] = site_links(content[0], source, page, root)


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _read)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
