"""Configuration of the documentation."""

from __future__ import annotations

import os
import re
import shutil
from importlib.metadata import version as installed
from pathlib import Path

from sphinx.application import Sphinx

project = "asym_analysis"
author = "The asym_analysis developers"
version = release = installed("asym_analysis")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
]
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
nb_execution_mode = "off"  # the shown outputs are those of `make notebooks`, and the tests execute every notebook
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_title = "asym_analysis"
# Only the API has sections beside it; elsewhere the column would be empty.
html_sidebars = {"*": [], "guide/*": [], "notebooks/*": [], "api": ["sidebar-nav-bs"]}
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
nitpicky = False
# Links to other projects need their inventories from the network; without it the same pages are built without them.
intersphinx_mapping = (
    {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "numpy": ("https://numpy.org/doc/stable", None),
    }
    if os.environ.get("DOCS_ONLINE")
    else {}
)
suppress_warnings = ["myst.header", "myst.xref_missing", "docutils", "ref.footnote", "ref.citation"]


def setup(app: Sphinx) -> None:
    """Bring the notebooks into the site's folder, where Sphinx looks for pages, and let links to them lead there."""
    here = Path(app.srcdir)
    shutil.rmtree(here / "generated", ignore_errors=True)  # pages of names that have moved since
    copies = here / "notebooks"
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(here.parent / "notebooks", copies, ignore=shutil.ignore_patterns("*.py", "*.toml", ".*"))
    app.connect("source-read", _notebooks_of_the_site)


def _notebooks_of_the_site(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = re.sub(r"\]\((?:\.\./)+notebooks/", "](/notebooks/", source[0])
