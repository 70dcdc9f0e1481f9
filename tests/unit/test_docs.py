"""The documentation names every setting, metric, command and fault, and its links are valid."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry

from pipeline.cli import COMMANDS
from pipeline.config import describe_settings
from pipeline.ledger.findings import FindingKind
from pipeline.metrics import (
    CatalogMetrics,
    ProcessesMetrics,
    RuntimeMetrics,
    SinkMetrics,
    WorkerMetrics,
)
from tests.proof.rows import ROWS
from tests.simulation.bugs import BUGS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
)
README_LINES_MAX, README_COLUMNS_MAX = 120, 100
# The site needs these pages: `docs/conf.py` builds its tables of contents from them.
INDEXES = ["index.md", "guide/index.md", "reference/index.md", "operate/index.md"]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(page: Path) -> Iterator[str]:
    """Yield the lines of a page that are outside of code blocks."""
    fence = ""
    for line in page.read_text().splitlines():
        opened = re.match(r"\s*(```+|~~~+)", line)
        if fence:
            if opened and opened[1].startswith(fence) and line.strip() == opened[1]:
                fence = ""
        elif opened:
            fence = opened[1]
        else:
            yield line


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (path, anchor) of each link to a page of this repository."""
    for line in prose(page):
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
            if not re.match(r"[a-z]+:", target):
                path, _, anchor = target.partition("#")
                yield path, anchor


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, by the rules of GitHub and MyST."""
    slugs: set[str] = set()
    for line in prose(page):
        heading = re.match(r"#{1,6} +(.+?) *#*$", line)
        if heading is None:
            continue
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
        slug = "".join(c for c in text.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
        slug = slug.strip().replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in slugs:
            number += 1
        slugs.add(name)
    return frozenset(slugs)


def rows(page: Path) -> dict[str, list[str]]:
    """Return the cells of each table row that begins with one name in backquotes."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in prose(page)
        if line.startswith("| `")
    ]
    return {row[0].split("`")[1]: row for row in cells}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for path, anchor in links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(path)
        elif anchor and anchor not in anchors(target):
            broken.append(f"{path}#{anchor}")

    assert broken == []


def test_every_page_can_be_reached_from_an_index() -> None:
    seen: set[Path] = set()
    ahead = [ROOT / "docs" / "index.md"]
    while ahead:
        page = ahead.pop()
        if page not in seen and page.suffix == ".md" and page.exists():
            seen.add(page)
            ahead += [(page.parent / path).resolve() for path, _ in links(page) if path]

    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= seen
    assert all((ROOT / "docs" / name).exists() for name in INDEXES)


def test_every_setting_is_in_the_reference_with_its_default() -> None:
    documented = {name: row[1].strip("`") for name, row in rows(REFERENCE / "settings.md").items()}

    assert documented == {name: default for name, default, _ in describe_settings()}


def test_every_metric_is_in_the_reference_with_its_labels() -> None:
    registry = CollectorRegistry()
    ProcessesMetrics(registry)
    RuntimeMetrics(registry, "worker")
    WorkerMetrics(registry)
    CatalogMetrics(registry)
    SinkMetrics(registry)
    defined = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
    }
    table = rows(REFERENCE / "metrics.md")
    documented = {name: row for name, row in table.items() if name.startswith("resmeter_")}
    used = {
        (sample.name, label)
        for family in registry.collect()
        for sample in family.samples
        for label in sample.labels
        if label != "le" and not sample.name.endswith("_created")
    }

    assert set(documented) == defined
    assert all(row[1] and row[2] for row in documented.values())
    assert [
        (name, label)
        for name, label in sorted(used)
        if f"`{label}`"
        not in documented[name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")][
            0
        ]
    ] == []


def test_every_command_is_in_the_reference() -> None:
    named = set(re.findall(r"`resmeter ([a-z]+)", (REFERENCE / "cli.md").read_text()))

    assert named == set(COMMANDS)


def test_the_readme_stays_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()

    assert len(lines) <= README_LINES_MAX
    assert [line for line in lines if len(line) > README_COLUMNS_MAX] == []


def test_the_table_of_the_reliability_page_has_the_rows_of_the_matrix_in_their_order() -> None:
    lines = list(prose(ROOT / "docs" / "internals" / "reliability.md"))
    table = lines[lines.index("<!-- matrix -->") : lines.index("<!-- /matrix -->")]
    documented = [line.split(" | ")[:2] for line in table if line.startswith("| `")]

    assert documented == [[f"| `{row.name}`", row.about] for row in ROWS]


def test_the_reliability_page_names_every_planted_bug_once() -> None:
    page = (ROOT / "docs" / "internals" / "reliability.md").read_text()
    first_cells = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines()]

    for bug in BUGS:
        assert first_cells.count(bug.name) == 1, bug.name


def test_every_error_in_the_log_has_a_runbook() -> None:
    """A log event at level `error` means that somebody must act. The runbook says how."""
    sources = [path.read_text() for path in (ROOT / "pipeline").rglob("*.py")]
    events = {
        event
        for text in sources
        for event in re.findall(r"(?:\.error|\bdie|\b_end)\(\s*f?\"([a-z_]+)[\"{]", text)
    }
    operate = ROOT / "docs" / "operate"
    pages = [operate / "runbooks.md", *(operate / "runbooks").glob("*.md")]
    runbooks = "".join(page.read_text() for page in pages)

    assert events
    # A name that ends in an underscore is the start of an f-string, such as `delivery_{result}`.
    assert {event for event in events if f"`{event}" not in runbooks} == set()


def test_the_runbooks_list_every_finding_of_the_audit() -> None:
    page = (ROOT / "docs" / "operate" / "runbooks.md").read_text()
    _, _, section = page.partition("## The audit finds a difference")

    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(get_args(FindingKind))
