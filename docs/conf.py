"""Configuration of the documentation."""

from __future__ import annotations

from importlib.metadata import version as installed

project = "asym_analysis"
author = "The asym_analysis developers"
version = release = installed("asym_analysis")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "numpydoc"]
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False}
html_title = "asym_analysis"
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
nitpicky = False
suppress_warnings = ["myst.header", "myst.xref_missing", "docutils", "ref.footnote", "ref.citation"]
