"""The report stands alone, is deterministic, and says what the numbers say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from asym_analysis import Adapter, AdapterSet
from asym_analysis.report.findings import FactorFinding, finding_sentences
from asym_analysis.report.page import write_report


def _family(shared_A: bool, shared_B: bool, family: str, seed: int) -> list[Adapter]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    common = {f"layer.{i}.query": (draw(4, 96), draw(80, 4)) for i in range(3)}
    return [
        Adapter.from_factors(
            {
                name: (A if shared_A else draw(4, 96), B + 0.4 * draw(80, 4) if shared_B else draw(80, 4))
                for name, (A, B) in common.items()
            },
            name=f"{family}{index}",
            metadata={"family": family, "init_lora_weights": True},
        )
        for index in range(3)
    ]


@pytest.fixture(scope="module")
def adapters() -> AdapterSet:
    return AdapterSet(_family(False, True, "seeds", 0) + _family(True, False, "tasks", 1))


def test_report_needs_no_other_file_and_no_network(adapters: AdapterSet, tmp_path: Path) -> None:
    written = write_report(adapters, tmp_path / "report.html", tmp_path / "figures", refusals=["x.bin is <empty>"])
    html = written.page.read_text()
    assert not re.search(r"(?:src|href)=\"(?!#)", re.sub(r"<svg.*?</svg>", "", html, flags=re.S))
    assert "x.bin is &lt;empty&gt;" in html
    assert html.count("<svg") >= 2
    assert {path.suffix for path in written.figures} == {".svg", ".png"}
    assert all(path.stat().st_size > 1000 for path in written.figures)


def test_the_same_adapters_give_the_same_bytes(adapters: AdapterSet, tmp_path: Path) -> None:
    first = write_report(adapters, tmp_path / "a.html", tmp_path / "a")
    second = write_report(adapters, tmp_path / "b.html", tmp_path / "b")
    assert first.page.read_bytes() == second.page.read_bytes()
    assert [p.read_bytes() for p in first.figures] == [p.read_bytes() for p in second.figures]


def test_plain_words_follow_the_numbers(adapters: AdapterSet, tmp_path: Path) -> None:
    sentences = write_report(adapters, tmp_path / "r.html", tmp_path / "f").sentences
    seeds, tasks = " ".join(sentences["seeds"]), " ".join(sentences["tasks"])
    assert "near chance" in seeds
    assert "The runs agree on B and not on A" in seeds
    assert "share the initialization of A and still share A" in tasks


def test_pairs_of_one_start_are_told_apart(adapters: AdapterSet, tmp_path: Path) -> None:
    mixed = AdapterSet([*adapters[:3], *adapters[3:]], {"name": list("abcdef"), "family": ["one"] * 6})
    sentences = write_report(mixed, tmp_path / "r.html", tmp_path / "f").sentences["one"]
    assert sentences[0].startswith("3 of 15 pairs share their initialization")
    assert "near chance" in sentences[1]


@pytest.mark.parametrize(
    ("a", "b", "same_a", "expected"),
    [
        (0.02, 0.3, 0.0, "agree on B and not on A"),
        (0.02, 0.021, 0.0, "share no directions"),
        (0.3, 0.1, 0.0, "do not show the asymmetry"),
        (0.05, 0.3, 0.0, "A is above chance too"),
        (0.9, 0.1, 1.0, "still share A"),
        (0.2, 0.1, 1.0, "20% of the squared cosines is left"),
        (0.02, 0.05, 0.0, "agree on B and not on A"),
    ],
)
def test_each_pattern_has_its_sentence(a: float, b: float, same_a: float, expected: str) -> None:
    findings = {
        "A": FactorFinding("A", 10, 12, a, 0.02, 0.01, same_a),
        "B": FactorFinding("B", 10, 12, b, 0.02, 1.0, 0.0),
    }
    assert expected in finding_sentences(findings)[-1]
