"""References to the documents resolve, and the documents hold together."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import typer

from asym_analysis.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
THEORY = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
SECTION = r"\d+(?:\.\d+)?(?:\s?\([a-k]\))?"
BETWEEN = r"(?:,?\s+(?:to\s+|and\s+)?)"
REFERENCE = re.compile(rf"docs/theory\.md,\s+sections?\s+({SECTION}(?:{BETWEEN}{SECTION})*)")
LETTERS = re.compile(r"^\*\*\(([a-k])\)\*\*", re.MULTILINE)


def _sources() -> list[Path]:
    folders = (ROOT / name for name in ("asym_analysis", "tests", "figures", "benchmarks", "notebooks", "docs"))
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".md", ".ipynb")]
    return [path for path in (*found, *ROOT.glob("*.md")) if path != Path(__file__).resolve()]


def _text(path: Path) -> str:
    """The file with comment signs at line breaks gone, so that a reference may run over two lines."""
    return re.sub(r"\n\s*#?\s*", " ", path.read_text(encoding="utf-8"))


def _sections() -> set[str]:
    """Numbers of the headings, and the lettered parts below 1.2."""
    numbers = set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?) ", THEORY, re.MULTILINE))
    return numbers | {f"1.2({letter})" for letter in LETTERS.findall(THEORY)}


def _unresolved(text: str) -> list[str]:
    cited = (number for found in REFERENCE.findall(text) for number in re.findall(SECTION, found))
    return [number for number in cited if number.replace(" ", "") not in _sections()]


def test_references_to_the_theory_resolve() -> None:
    counted = 0
    for path in _sources():
        text = _text(path)
        counted += len(REFERENCE.findall(text))
        assert _unresolved(text) == [], path
    assert counted > 60


def test_a_wrong_reference_would_be_noticed() -> None:
    text = "see docs/theory.md, sections 1.2 (h), 6.3 and 9.9, or docs/theory.md, section 1.2(z) or section 4.11"
    assert _unresolved(text) == ["9.9"]
    assert _unresolved("docs/theory.md,\n    section 4.11") == ["4.11"]


def test_nothing_cites_notes_that_nobody_has() -> None:
    assert [path for path in _sources() if re.search(r"theory\s+notes", _text(path), re.IGNORECASE)] == []


def test_every_heading_of_the_theory_has_its_number_as_anchor() -> None:
    headings = re.findall(r'^(?:<a id="([\d.]+)"></a>\n)?#{2,3} (\d+(?:\.\d+)?) ', THEORY, re.MULTILINE)
    assert len(headings) > 30
    assert [anchor for anchor, _ in headings] == [number for _, number in headings]
    assert set(re.findall(r"\]\(#([\d.]+)\)", THEORY)) <= {number for _, number in headings}


def test_the_glossary_is_in_order_and_short() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^### (.+)\n(.+(?:\n.+)*)", text, re.MULTILINE)
    names = [name for name, _ in entries]
    assert len(names) >= 40
    assert names == sorted(set(names), key=str.lower)
    assert [name for name, body in entries if len(body.split()) > 60] == []
    sections = {found for _, body in entries for found in re.findall(r"theory\.md#([\d.]+)", body)}
    assert sections <= _sections()


def test_words_in_code_that_the_glossary_names_exist() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    package = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "asym_analysis").rglob("*.py*"))
    words = {word for found in re.findall(r"`([A-Za-z_]+)`", text) for word in [found]}
    assert len(words) > 40
    assert [word for word in sorted(words) if not re.search(rf"\b{word}\b", package)] == []


LINK = re.compile(r"\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
    named = re.findall(r'<a id="([^"]+)">', text) + re.findall(r"^\(([\w.-]+)\)=$", text, re.MULTILINE)
    return made | set(named)


def test_links_between_files_resolve() -> None:
    counted = 0
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guide").glob("*.md"), *ROOT.glob("*.md")]
    pages += [ROOT / "figures" / "README.md", ROOT / "benchmarks" / "results" / "README.md"]
    for page in [*pages, *(ROOT / "notebooks").glob("*.py")]:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target, _, anchor = link.partition("#")
            if "://" in target or not re.search(r"[./]", target + "." * bool(anchor)):
                continue
            counted += 1
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), f"{page.relative_to(ROOT)}: {link}"
            if anchor and file.suffix == ".md":
                assert anchor in _anchors(file), f"{page.relative_to(ROOT)}: {link}"
    assert counted > 60


def test_pages_that_the_site_links_to_are_pages_of_the_site() -> None:
    """Sphinx leaves a link to a page outside of its folder as plain text, without a warning."""
    shown = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "guide").glob("*.md")]:
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            file = (page.parent / link.partition("#")[0]).resolve()
            if file.suffix != ".md" or "://" in link or file.is_relative_to(ROOT / "docs"):
                continue
            assert f'"{file.relative_to(ROOT).as_posix()}": ' in shown, f"{page.relative_to(ROOT)}: {link}"


def _options() -> dict[str, set[str]]:
    found = {}
    for name in (name for names in COMMANDS.values() for name in names):
        app = typer.Typer(add_completion=False)
        app.command(name)(getattr(import_module(f"asym_analysis.cli.{name}"), name))
        parameters = typer.main.get_command(app).params
        found[name] = {option for each in parameters for option in (*each.opts, *each.secondary_opts)} | {"--help"}
    return found


def test_commands_and_options_that_documents_show_exist() -> None:
    options, counted = _options(), 0
    pages = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "notebooks").glob("*.py")]
    for page in (page for page in pages if "_build" not in page.parts and page.name != "CHANGELOG.md"):
        for name, rest in re.findall(r"\basym ([a-z]+)\b([^`\n]*)", page.read_text(encoding="utf-8")):
            assert name in options, f"{page.relative_to(ROOT)}: asym {name}"
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.partition("#")[0]):
                counted += 1
                assert option in options[name], f"{page.relative_to(ROOT)}: asym {name} {option}"
    assert counted > 40
