"""Sphinx configuration: `pip install sphinx myst-parser && sphinx-build docs build/docs`."""

project = "loratools"
copyright = "the loratools authors"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns: list[str] = []
html_theme = "alabaster"
html_title = "loratools"
