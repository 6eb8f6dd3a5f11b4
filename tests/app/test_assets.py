from __future__ import annotations

import re
from collections import Counter

from cell2sen.app.assets import MODULES, STATIC, joined_module, style


def test_one_module_without_imports_and_names_that_occur_once() -> None:
    text = joined_module()
    assert not re.search(r"^(import|export (?!default))", text, re.MULTILINE)
    assert text.count("export default") == 1
    names = re.findall(r"^(?:async )?(?:function|class|const|let) (\w+)", text, re.MULTILINE)
    assert [name for name, n in Counter(names).items() if n > 1] == []
    assert {"mount", "WidgetLink", "CellMap"} <= set(names)


def test_modules_import_only_those_before_them() -> None:
    for place, name in enumerate(MODULES):
        found = re.findall(r'from "\./([\w.]+)"', (STATIC / name).read_text(encoding="utf-8"))
        assert set(found) <= set(MODULES[:place]), name


def test_styles_stay_inside_of_the_page() -> None:
    text = re.sub(r"/\*.*?\*/", "", style(), flags=re.DOTALL)
    selectors = [part for found in re.findall(r"([^{}]+)\{", text) for part in found.split(",")]
    for selector in map(str.strip, selectors):
        assert selector.startswith((".cell2sen", ".c2s-", "@media")), selector
