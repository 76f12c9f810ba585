"""The site, which ``make docs`` builds. What is particular to it is in ``executed.py``.

It asks nothing of the network while it is built, hence no links into the sites of torch and PyG.
"""

import sys
from pathlib import Path

import gumbelpool

sys.path.insert(0, str(Path(__file__).parent))

project = "gumbelpool"
author = "The gumbelpool authors"
copyright = author
version = release = gumbelpool.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "myst_parser",
    "executed",
]

html_theme = "furo"
html_title = f"gumbelpool {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
smartquotes_action = "D"  # dashes, no quotes: A' is a matrix

# theory.md and results.md are read on GitHub too, so that headings are what links lead to.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# On a narrow screen a formula is broken into lines.
mathjax4_config = {"output": {"displayOverflow": "linebreak"}}

add_module_names = False
maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = False

# Every name of this package must lead somewhere; those of others are not looked up.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|torch_geometric|collections|types)(\..*)?"),
    ("py:.*", r"(Tensor|Adj|SparseTensor|EdgeIndex|Generator|Callable|Sequence)"),
    ("py:.*", r"(optional|tuple of str|torch\.nn\.Linear)"),
]
