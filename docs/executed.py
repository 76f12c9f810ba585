"""What this site adds to Sphinx: README's parts in a page, tutorials that run, sources as links.

- ``{readme}`` shows a part of README.md, so that no page repeats what stands there.
- The Python blocks of a page in ``tutorials/`` are executed from top to bottom when it is read, a
  warning being an error, and what a block prints is shown below it. An exception ends the build.
- "Theorem 2" or "docs/theory.md, section 5" in a docstring becomes a link to that chapter.
"""

import contextlib
import io
import linecache
import re
import traceback
import warnings
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"


class PageError(SphinxError):
    """Ends the build."""

    category = "A page cannot be built"


def readme_part(
    text: str, heading: str, start: str | None = None, until: str | None = None
) -> str | None:
    """What stands under a heading of the README, from one text on and up to another.

    ``None`` where there is no such heading. Links become absolute within this folder.

    Raises:
        ValueError: If ``start`` or ``until`` is not there.
    """
    found = re.search(rf"^##? {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if found is None:
        return None
    part = found[1]
    for mark in (start, until):
        if mark is not None and mark not in part:
            raise ValueError(f'README.md has no {mark!r} under "{heading}"')
    if start is not None:
        part = part[part.index(start) :]
    if until is not None:
        part = part[: part.index(until)]
    return part.replace("](docs/", "](/").strip()


class Readme(SphinxDirective):
    """Shows what stands under a heading of the README; its own content where there is no such one.

    Options:
        from, until: Texts at which to begin, and before which to stop.
        silent: Run, and not shown.
    """

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec: ClassVar = {
        "from": directives.unchanged,
        "until": directives.unchanged,
        "silent": directives.flag,
    }

    def run(self) -> list[nodes.Node]:
        """Parses the part as if it stood in the page."""
        self.env.note_dependency(README)
        (heading,) = self.arguments
        start, until = self.options.get("from"), self.options.get("until")
        try:
            part = readme_part(README.read_text(encoding="utf-8"), heading, start, until)
        except ValueError as error:
            raise PageError(f"{self.env.docname}: {error}") from error
        if part is None and not self.content:
            raise PageError(f'{self.env.docname}: README.md has no heading "{heading}"')
        shown = self.parse_text_to_nodes("\n".join(self.content) if part is None else part)
        return [nodes.container("", *shown, silent=True)] if "silent" in self.options else shown


class RunTutorial(SphinxTransform):
    """Executes the Python of a tutorial in one namespace, and adds what it prints."""

    default_priority = 400

    def apply(self) -> None:
        """Runs the blocks in the order of the page."""
        page = self.env.docname
        if not page.startswith("tutorials/"):
            return
        namespace: dict[str, object] = {"__name__": "__main__"}
        blocks = self.document.findall(nodes.literal_block)
        python = [block for block in blocks if block.get("language") == "python"]
        for number, block in enumerate(python, start=1):
            printed = run_block(block.astext(), f"<{page}, block {number}>", namespace)
            if printed:
                shown = nodes.literal_block(printed, printed, language="text", classes=["printed"])
                block.parent.insert(block.parent.index(block) + 1, shown)
        for part in list(self.document.findall(nodes.container)):
            if part.get("silent"):
                part.parent.remove(part)


def run_block(code: str, name: str, namespace: dict[str, object]) -> str:
    """Executes code that stands in a page, and gives what it prints."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
    with contextlib.redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            exec(compile(code, name, "exec"), namespace)
        except Exception as error:
            raise PageError(f"{name} does not run:\n{traceback.format_exc()}") from error
    return printed.getvalue()


def link_sources(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Makes links of the theorems and chapters that a docstring names; to autodoc's event."""
    text = "\n".join(lines)
    text = re.sub(r"\bTheorem \d+", lambda found: link(found[0], "theory", found[0]), text)
    text = re.sub(
        r"(?:``)?docs/theory\.md(?:``)?, section (\d+)",
        lambda found: link(f"Theory, section {found[1]}", "theory", found[1]),
        text,
    )
    text = re.sub(
        r'docs/results\.md,\s+"([^"]*)"',
        lambda found: link(f"Results, {' '.join(found[1].split())}", "results", found[1]),
        text,
    )
    lines[:] = text.split("\n")


def link(text: str, chapter: str, place: str) -> str:
    """A link into a chapter, from a page that lies one folder down."""
    anchor = anchors(chapter).get(" ".join(place.split()))
    if anchor is None:
        raise PageError(f'docs/{chapter}.md has no "{place}", which a docstring names')
    return f"`{text} <../{chapter}.html#{anchor}>`__"


def anchors(chapter: str) -> dict[str, str]:
    """Where a chapter's headings are, by text and by number, and the sections of its theorems."""
    found, anchor = {}, ""
    for line in (DOCS / f"{chapter}.md").read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"#+ ((\d*).*)", line):
            # As GitHub and MyST make it.
            anchor = re.sub(r"[^\w -]", "", heading[1].lower()).replace(" ", "-")
            found |= dict.fromkeys(heading.groups(), anchor)
        if theorem := re.match(r"\*\*(Theorem \d+)", line):
            found[theorem[1]] = anchor
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("readme", Readme)
    app.add_transform(RunTutorial)
    app.connect("autodoc-process-docstring", link_sources)
    return {"parallel_read_safe": True}
