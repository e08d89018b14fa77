# SPDX-License-Identifier: MIT OR Apache-2.0
"""Sphinx configuration: ``sphinx-build -W docs docs/_build``."""

project = "trio_uring"
project_copyright = "The trio_uring developers"
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinxcontrib_trio",
]
exclude_patterns = ["_build", "examples"]
default_role = "obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
add_module_names = False
html_theme = "alabaster"
# The inventories are only fetched when a build is told to: a build needs no network.
intersphinx_mapping: dict[str, tuple[str, None]] = {}
