"""Messages, help texts and summaries use the glossary's words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "asym_analysis"
#: What docs/glossary.md lists under "not", where the word has no other use in these places.
BANNED = re.compile(
    r"\b(began|begun|felt|told|dealt|haar|anew|hath|whereof|thereof|law of|laws of|random level|delta weight|"
    r"(?<!there )is no (?:file|path|setting|matrix|adapter|number)|speaks? of)\b",
    re.IGNORECASE,
)


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every summary, message of an error, and help text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            if not getattr(node, "name", "public").startswith("_"):
                yield getattr(node, "lineno", 1), (ast.get_docstring(node) or "").split("\n\n")[0]
        elif isinstance(node, ast.Raise):
            yield node.lineno, _literals(node)
        elif isinstance(node, ast.keyword) and node.arg == "help":
            yield node.value.lineno, _literals(node.value)


def _literals(node: ast.AST) -> str:
    found = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
    return " ".join(value for value in found if isinstance(value, str))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_words_are_the_glossarys(path: Path) -> None:
    found = [(line, text) for line, text in texts(ast.parse(path.read_text())) if BANNED.search(text)]
    assert found == []


def test_a_banned_word_would_be_noticed() -> None:
    source = 'def f():\n    """What the loss felt."""\n    raise ValueError(f"{f} is no file")\n'
    assert len([text for _, text in texts(ast.parse(source)) if BANNED.search(text)]) == 2
