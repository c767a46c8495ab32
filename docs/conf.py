"""Sphinx configuration. Method pages are generated from the registries, so a new row gets its page."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "engine"), str(HERE.parent / "kernels"), str(HERE)]

from method_pages import write_kernel_pages, write_pages  # noqa: E402 - this folder is on sys.path only now

project = "rflbat"
copyright = "the rflbat authors, Apache-2.0"
version = release = installed("rflbat")
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"rflbat {version}"
html_extra_path: list[str] = []
nitpicky = False
suppress_warnings = ["myst.xref_missing"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_custom_sections = ["Conventions", "Needs", "Fails", ("Source", "returns_style"), "Example"]
myst_heading_anchors = 3

write_pages(HERE / "methods")
write_kernel_pages(HERE / "methods" / "kernels", HERE.parent / "kernels" / "rflbat_kernels")
