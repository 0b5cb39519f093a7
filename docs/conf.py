"""Sphinx configuration: `pip install '.[docs]' && sphinx-build -W docs build/docs`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the package as it lies here, not one installed before
sys.path.insert(0, str(HERE / "extensions"))

project = "loratools"
copyright = "the loratools authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml", "plain_docstrings"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns: list[str] = []

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # of two fields with one name, such as U, either may be linked

html_theme = "furo"
html_title = "loratools"
html_static_path = ["_static"]
html_css_files = ["loratools.css"]
html_copy_source = False
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shapes", "params_style")]
default_role = "literal"  # `name` in docstrings is code, as in Markdown
