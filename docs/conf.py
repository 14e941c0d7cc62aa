"""How the pages of docs/ become a site: `make docs` builds it in build/docs, without a network."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import dpslice

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "dpslice"
author = "The dpslice authors"
copyright = author
version = release = dpslice.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "public_names",
    "command_pages",
    "repository_links",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_templates"]
templates_path = ["_templates"]
nitpicky = True  # a name that leads nowhere is an error

# Pages are read on a forge as well: its own fences for mathematics, its own names of headings.
myst_enable_extensions = ["deflist"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings have the types, in words
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

intersphinx_mapping = {
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
}
intersphinx_timeout = 5
# Without a network, names of other libraries stay without links.
nitpick_ignore_regex = [(r"py:.*", r"(numpy|pandas|torch|abc|typing|collections)\..*")]
logging.getLogger("sphinx.sphinx.ext.intersphinx").addFilter(
    lambda record: "failed to reach any of the inventories" not in record.getMessage()
)

html_theme = "furo"
html_title = f"dpslice {version}"
html_copy_source = False
