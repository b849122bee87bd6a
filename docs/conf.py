"""The documentation site: `sphinx-build -W -b html docs docs/_build`.

Nothing is fetched from the network, neither by the build nor by the pages.
"""

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the API is imported, nothing is computed
_DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(_DOCS))
import reference_tables  # noqa: E402

import ddarts_jax  # noqa: E402

project = "ddarts_jax"
author = copyright = "The ddarts_jax authors"
release = version = ddarts_jax.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
nb_execution_mode = "off"  # notebooks are kept with what they show; a test runs them
myst_heading_anchors = 3  # other pages link to headings
exclude_patterns = ["_build"]
smartquotes_action = "D"  # dashes; quotes are often those of values

autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
napoleon_use_ivar = True  # attributes in one list, as arguments are
default_role = "code"  # docstrings have names in single backticks

html_theme = "sphinx_book_theme"
html_title = f"ddarts_jax {release}"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "navbar_persistent": []}
html_copy_source = False
html_math_renderer = "mathml"  # which browsers draw by themselves

# Files of the repository that are pages of the site, to which links to them lead. Other files are copied.
_PAGES = {
    "benchmarks/RESULTS.md": "measurements.md",
    "benchmarks/paper/README.md": "experiments.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


class Generated(SphinxDirective):
    """`{generated} NAME`: the Markdown that `reference_tables.NAME()` returns."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns the nodes of the text."""
        text = getattr(reference_tables, self.arguments[0])()
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def _lead_links(text: str, folder: Path) -> str:
    """Returns a page with the links that lead out of docs/, or come from there, led to their targets.

    Args:
        text: Markdown.
        folder: of the file, from which its links lead.
    """

    def led(link: re.Match) -> str:
        target = Path(os.path.normpath(folder / link[1]))
        if not target.is_file():
            return link[0]
        inside = _PAGES.get(os.path.relpath(target, _DOCS.parent), os.path.relpath(target, _DOCS))
        return f"](path:/{inside}" if inside.startswith("..") else f"](/{inside}"

    return re.sub(r"\]\(([^)#:]+)", led, text)


def _write_math(translator, node: nodes.math | nodes.math_block) -> None:
    """Writes a formula as MathML, with space around one that stands by itself."""
    block = isinstance(node, nodes.math_block)
    tag = translator.starttag(node, "div" if block else "span", "", style="margin-block: 1em")
    formula = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f"{tag}{formula}</{'div' if block else 'span'}>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Adds the directive and the formulas, and leads links."""

    def read(app, page, source):
        source[0] = _lead_links(source[0], (_DOCS / page).parent)

    def included(app, path, page, content):
        content[0] = _lead_links(content[0], (_DOCS / path).parent)

    app.add_directive("generated", Generated)
    app.add_html_math_renderer("mathml", (_write_math, None), (_write_math, None))
    app.connect("source-read", read)
    app.connect("include-read", included)
