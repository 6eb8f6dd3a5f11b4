"""Configuration of the documentation site: ``make docs`` builds it, Read the Docs by .readthedocs.yaml."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "extensions"))

import cell2sen  # noqa: E402

# -- project

project = "cell2sen"
author = "cell2sen contributors"
copyright = author
version = release = cell2sen.__version__

# -- pages

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "commands",
    "llms",
    "outside",
]
exclude_patterns = ["_build", "extensions", "images/draw.py", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
root_doc = "index"
nitpicky = True
default_role = "code"
pygments_style = "tango"

# -- Markdown and notebooks: notebooks are committed with their results, so that a build needs no model and no data

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = True
suppress_warnings = ["ref.python"]  # fields of the same name in several classes
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# -- the reference, from docstrings

autosummary_generate = True
autosummary_imported_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = False
napoleon_use_param = True
napoleon_use_rtype = False

#: Inventories of other sites are read where there is a network: on Read the Docs, or with C2S_INTERSPHINX=1.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
    }
    if os.environ.get("READTHEDOCS") or os.environ.get("C2S_INTERSPHINX")
    else {}
)
#: Packages whose names behind the public ones have no page.
INNER = "answer|atlas|backend|checkpoints|data|evaluation|inference|model|prompt|sentences|task|tasks"
#: Names of other packages and of the standard library, and names behind the public ones, whose source is linked.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!cell2sen).*"),
    (r"py:.*", rf"cell2sen\.({INNER})\..*"),
    (r"py:.*", r"cell2sen\.training\.(config|rewards).*"),
]

# -- HTML

html_theme = "sphinx_book_theme"
html_title = "cell2sen"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options: dict[str, Any] = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search field is in the sidebar
}
html_show_sphinx = False
html_copy_source = True  # llms.txt names the sources
html_show_sourcelink = False
