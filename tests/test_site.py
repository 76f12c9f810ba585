"""The site's sources, without building it: `make docs` does that, and runs the tutorials."""

import inspect
import re
from pathlib import Path

import pytest

import gumbelpool

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def read(path):
    return path.read_text(encoding="utf-8")


def section(heading):
    """What stands under a heading of the README, or None."""
    found = re.search(
        rf"^##? {re.escape(heading)}\n(.*?)(?=^## |\Z)",
        read(ROOT / "README.md"),
        re.MULTILINE | re.DOTALL,
    )
    return found and found[1]


def test_the_reference_has_every_public_name_once():
    pages = "\n".join(read(page) for page in (DOCS / "api").glob("*.md"))
    listed = re.findall(r"^\.\. auto(?:class|function|exception):: gumbelpool\.(\w+)$", pages, re.M)
    assert sorted(listed) == sorted(gumbelpool.__all__)
    linked = re.findall(r"^\| \{py:\w+\}`~gumbelpool\.(\w+)` \|", pages, re.M)
    assert set(linked) == set(gumbelpool.__all__) - {"Occupancy", "Crispness"}


@pytest.mark.parametrize(
    "name", [n for n in gumbelpool.__all__ if inspect.isfunction(getattr(gumbelpool, n))]
)
def test_every_public_function_tells_its_shapes_and_errors(name):
    if name == "backend":
        return  # takes nothing, raises nothing
    text = getattr(gumbelpool, name).__doc__
    for part in ("Args:", "Returns:", "Raises:", "``["):
        assert part in text, part
    for argument in inspect.signature(getattr(gumbelpool, name)).parameters:
        assert re.search(rf"^        {argument}: ", text, re.M), argument


def test_every_page_is_in_the_contents():
    pages = {p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md")}
    contents = re.findall(r"```\{toctree\}\n(.*?)```", read(DOCS / "index.md"), re.DOTALL)
    listed = [line for part in contents for line in part.splitlines() if line and line[0] != ":"]
    assert sorted(listed) == sorted(pages - {"index"})


def test_the_tutorials_find_their_parts_of_the_readme():
    parts = re.compile(r"^`{3,}\{readme\} (.*)\n((?::.*\n)*)(.*)", re.MULTILINE)
    found = [part for page in DOCS.rglob("*.md") for part in parts.findall(read(page))]
    assert len(found) > 10
    for heading, options, following in found:
        text = section(heading)
        if text is None:
            assert following != "```", f"{heading}: neither in README.md nor written in the page"
            continue
        for mark in re.findall(r'^:(?:from|until): "?(.*?)"?$', options, re.MULTILINE):
            assert text.count(mark) == 1, mark


def test_the_page_of_poolers_has_the_rank_that_was_measured():
    results, page = read(DOCS / "results.md"), read(DOCS / "which.md")
    table = re.search(r"<!-- study: begin -->(.*?)<!-- study: end -->", results, re.DOTALL)
    rows = re.findall(r"^\| (\w+) \|.*\| ([\d.]+)(?: \(\d+\))? \|$", table[1], re.MULTILINE)
    ranks = {name: float(rank) for name, rank in rows}
    assert len(ranks) == 11
    place = sum(rank <= ranks["gumbel"] for rank in ranks.values())
    ordinals = {4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth", 9: "ninth"}
    said = f"{ordinals[place]} of eleven in mean rank ({ranks['gumbel']})"
    assert said in " ".join(page.split())


def test_the_citation_has_the_version_of_the_package():
    assert f"\nversion: {gumbelpool.__version__}\n" in read(ROOT / "CITATION.cff")


def test_ci_runs_the_torch_of_the_constraints():
    pinned = re.search(r"^torch==(.*)$", read(ROOT / "constraints.txt"), re.MULTILINE)[1]
    workflow = read(ROOT / ".github" / "workflows" / "check.yml")
    # A run with another torch has written that into the constraints.
    assert re.search(rf'torch: \[?"{re.escape(pinned)}"', workflow)
    assert "- run: bash .ci/run" in workflow
