"""The code in README and docs is run as a reader would paste it: a file a page, in order."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.processes import Processes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)

# What a reader does next with the README's application: opens the page and waits for it.
VISIT_THE_REPORT = """
import time
client = app.test_client()
deadline = time.monotonic() + 20
assert client.get("/report/2026").status_code == 202
while (page := client.get("/report/2026")).status_code == 202 and time.monotonic() < deadline:
    time.sleep(0.02)
assert page.text == "2026 was a good year.", page.text
"""


def code_of(page: Path) -> str:
    return "\n".join(FENCE.findall(page.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if code_of(page)], ids=lambda page: page.name
)
def test_the_code_on_a_page_runs_as_it_stands(
    page: Path, tmp_path: Path, process: Processes
) -> None:
    code = code_of(page)
    if page.name == "README.md":
        code += VISIT_THE_REPORT
    (tmp_path / "pasted.py").write_text(code, encoding="utf-8")
    pasted = process([sys.executable, "pasted.py"], cwd=tmp_path)
    assert pasted.wait(timeout_seconds=60) == 0, pasted.output


def test_the_readme_shows_working_code_by_its_25th_line() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    shown = "\n".join(lines[:25])
    assert shown.count("```python") == 1
    assert "    return flows.respond(" in shown


def test_every_link_between_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
