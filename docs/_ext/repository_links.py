"""Pages are written to be read in the repository; here their links are made those of the site.

A link to a page of the site stays one, README.md and its like are pages of their own name, and
every other file of the repository is offered as a download.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent

# Files outside of docs/ that the site shows whole, by the names of their pages.
SHOWN = {"readme": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}

_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)#\s]+)(?P<anchor>#[^)]*)?\)")


def _rewrite(app: Sphinx, docname: str, source: list[str]) -> None:
    written = Path(app.env.doc2path(docname))
    if written.suffix != ".md":
        return
    if docname in SHOWN:
        app.env.note_dependency(str(ROOT / SHOWN[docname]))
        written = ROOT / SHOWN[docname]
        source[0] = written.read_text(encoding="utf-8")
    pages = {(ROOT / file).resolve(): DOCS / f"{page}.md" for page, file in SHOWN.items()}
    here = (DOCS / docname).parent

    def replaced(match: re.Match[str]) -> str:
        path, anchor = match["path"], match["anchor"] or ""
        if "://" in path:
            return match[0]
        target = (written.parent / path).resolve()
        target = pages.get(target, target)
        relative = os.path.relpath(target, here)
        if match["image"] or (target.is_relative_to(DOCS) and target.suffix == ".md"):
            return f"{match['image']}[{match['text']}]({relative}{anchor})"
        if not target.is_file():
            return f"{match['text']}"
        return f"{{download}}`{match['text'].replace('`', '')} <{relative}>`"

    source[0] = _LINK.sub(replaced, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register this extension."""
    app.connect("source-read", _rewrite)
    return {"parallel_read_safe": True}
