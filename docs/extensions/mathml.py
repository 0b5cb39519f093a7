"""A Sphinx extension: formulas as MathML, made while the site is built.

Browsers draw MathML by themselves, so that the pages load no script from elsewhere and can be read offline.
The conversion is docutils' own; what it does not know is a warning, and so an error of the build.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    app.connect("config-inited", lambda _, config: config.__setitem__("html_math_renderer", "mathml"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(writer: Any, node: nodes.Element) -> None:
    writer.body.append(_converted(node, as_block=False))
    raise nodes.SkipNode


def _display(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<div class="math">{_converted(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _converted(node: nodes.Element, *, as_block: bool) -> str:
    try:
        tex = re.sub(r"\\dots(?![a-zA-Z])", r"\\ldots", node.astext())  # the one common command that it lacks
        made = str(tex2mathml(tex, as_block=as_block))
        # The bars of a norm are one size: with an index, the right one would not grow with the left.
        return re.sub(r"<mo[^>]*>‖</mo>", '<mo stretchy="false">‖</mo>', made)
    except MathError as error:
        _log.warning("formula: %s: %s", error, node.astext(), location=node)
        return ""
