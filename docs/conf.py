"""Build the documentation as a site with Sphinx, MyST and furo: `make docs`."""

import re
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

project = "resmeter"
html_title = "resmeter"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
extensions = ["myst_parser"]
root_doc = "index"
myst_heading_anchors = 4

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")


def setup(app: Sphinx) -> None:
    """Register what follows."""
    app.add_lexer("mermaid", TextLexer)  # diagrams are drawn where the repository is hosted
    app.connect("source-read", _read_source)


def _read_source(app: Sphinx, name: str, source: list[str]) -> None:
    page = Path(app.srcdir) / f"{name}.md"

    def without_link(link: re.Match[str]) -> str:
        # The site has only docs/: a file elsewhere in the repository is named, not linked.
        # A test checks that it exists.
        is_ours = (page.parent / link[2]).resolve().is_relative_to(app.srcdir)
        return link[0] if is_ours else link[1]

    text = _LINK.sub(without_link, source[0])
    if page.name == "index.md" or page.with_suffix("").is_dir():
        text += _contents(page, text)
    source[0] = text


def _contents(page: Path, text: str) -> str:
    """Return the table of contents of an index: the pages of its folder that it links to.

    `runbooks.md` is the index of the folder `runbooks`.

    Written here and not in the page, where it would be shown as code by anything but Sphinx.
    """
    pages = dict.fromkeys(
        link[2] for link in _LINK.finditer(text) if _is_below(page, Path(link[2]))
    )
    entries = "\n".join(target.removesuffix(".md") for target in pages if target.endswith(".md"))
    return f"\n```{{toctree}}\n:hidden:\n\n{entries}\n```\n" if entries else ""


def _is_below(index: Path, target: Path) -> bool:
    if index.name != "index.md":
        return target.parent.as_posix() == index.stem
    return ".." not in target.parts and (target.parent == Path() or target.name == "index.md")
