"""Links between README, docs, START.md and the notebooks lead to files and headings that exist."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GLOSSARY = ROOT / "docs" / "glossary.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md",
         *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("data/*/README.md")), *sorted(ROOT.glob("notebooks/*.md")),
         *sorted(ROOT.glob("notebooks/*.ipynb"))]  # fmt: skip


def text_of(path: Path) -> str:
    """The prose of a page: a Markdown file without its blocks of code, or the Markdown cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors that a code host makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    """The targets of a page's links, without those that lead out of the project."""
    every = re.findall(r"\]\(([^)\s]+)\)", text_of(path))
    return [link for link in every if not re.match(r"[a-z]+:", link) and not link.startswith("attachment")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path):
    broken = []
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_glossary_lists_each_of_its_terms_once():
    listed = re.findall(r"\]\(#([^)]+)\)", text_of(GLOSSARY).split("\n## ")[0])
    terms = re.findall(r"^### (.+)$", text_of(GLOSSARY), re.MULTILINE)
    assert [term.lower().replace(" ", "-").replace(",", "") for term in terms] == listed


def test_each_term_of_the_glossary_is_explained():
    entries = re.split(r"^### ", text_of(GLOSSARY), flags=re.MULTILINE)[1:]
    for entry in entries:
        name, _, explanation = entry.partition("\n")
        assert re.match(r"\(0[1-6]\) \S", explanation), f"{name}: which notebook needs it first?"
        assert 15 <= len(re.sub(r"\n## .*", "", explanation).split()) <= 80, name
