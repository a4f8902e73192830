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


# Pages of the repository that the site shows too, by their place there; whatever links to them leads to the copy.
TABLES = {
    "figures/variants.md": "tables/variants.md",
    "benchmarks/results/README.md": "tables/benchmarks.md",
    "asym_analysis/samples/README.md": "tables/commands.md",
}
LINK = re.compile(r"\]\((?!https?:|/|#)([^)#\s]+)(#[^)]*)?\)")


def setup(app: Sphinx) -> None:
    """Bring notebooks and tables into the site's folder, where Sphinx looks for pages, and let links lead there."""
    here = Path(app.srcdir)
    for made in ("generated", "notebooks", "tables"):
        shutil.rmtree(here / made, ignore_errors=True)  # pages of names that have moved since
    root = here.parent
    shutil.copytree(root / "notebooks", here / "notebooks", ignore=shutil.ignore_patterns("*.py", "*.toml", ".*"))
    for original, copy in TABLES.items():
        (here / copy).parent.mkdir(exist_ok=True)
        text = _linked(root, Path(original), (root / original).read_text(encoding="utf-8"))
        (here / copy).write_text(f"---\norphan: true\n---\n\n{text}", encoding="utf-8")
    app.connect("source-read", _links_of_the_site)


def _links_of_the_site(app: Sphinx, name: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(name)).relative_to(app.srcdir)
    if page.parts[0] != "tables":
        source[0] = _linked(Path(app.srcdir).parent, "docs" / page, source[0])


def _linked(root: Path, page: Path, text: str) -> str:
    """The text of a page of the repository, with its links to other pages as the site has them."""

    def led(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(root / page.parent / link[1])).relative_to(root)
        place = TABLES.get(target.as_posix())
        if place is None and target.parts[0] == "notebooks":
            place = target.as_posix()
        if place is None and target.parts[0] == "docs" and page.parts[0] != "docs":
            place = target.relative_to("docs").as_posix()
        return link[0] if place is None else f"](/{place}{link[2] or ''})"

    return LINK.sub(led, text)
