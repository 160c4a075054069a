"""Sphinx extension of the book: the figures' loader, vendored scripts, and no
script twice.

Jupyter Book loads every script below ``_static`` on every page, so the large
vendored ones live elsewhere, copied from here; plotly is then loaded by the
loader when the first 3D figure comes into view, MathJax on pages with formulas.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

import vlg_lib

HERE = Path(__file__).parent
MODULE_PATH = re.compile(r"~?\b(?:[a-z_]\w*\.)+(?=[A-Za-z])")


def add_folders(app: Sphinx, config: Config) -> None:
    """Copy the library's assets and the vendored scripts into the site's
    ``_static``.
    """
    config.html_static_path += [
        str(Path(vlg_lib.__file__).parent / "assets"),
        str(HERE.parent / "_vendor"),
    ]


def drop_thebe(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: object,
) -> None:
    """Take thebe off each page: the theme adds its script twice, a JavaScript
    error, and nothing here uses it.
    """
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in _text_of(script)
    ]
    context["css_files"] = [
        sheet
        for sheet in context["css_files"]
        if "thebe" not in _text_of(sheet)
    ]


def _text_of(file: Any) -> str:
    attributes = getattr(file, "attributes", {})
    return f"{getattr(file, 'filename', file)} {attributes.get('body', '')}"


def shorten(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    *parts: str | None,
) -> tuple[Any, ...]:
    """Signatures with the bare names of types: ``Float[Tensor, "N 3"]`` without
    the modules in front.
    """
    return tuple(part and MODULE_PATH.sub("", part) for part in parts)


def name_empty_headers(app: Sphinx, doctree: nodes.document) -> None:
    """Give the empty corner of a table a name for screen readers; Markdown
    tables cannot do without a header row.
    """
    for head in doctree.findall(nodes.thead):
        for number, entry in enumerate(head.findall(nodes.entry), 1):
            if not entry.astext().strip():
                name = nodes.inline(
                    "", f"column {number}", classes=["visually-hidden"]
                )
                entry.children = [nodes.paragraph("", "", name)]
                entry.setup_child(entry.children[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("config-inited", add_folders)
    app.connect("html-page-context", drop_thebe, priority=999)
    app.connect("doctree-read", name_empty_headers)
    app.connect("autodoc-process-signature", shorten)
    app.add_css_file("vlg3d.css")
    app.add_js_file("vlg3d.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
