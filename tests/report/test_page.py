"""The report stands alone, is deterministic, and says what the numbers say."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from scipy import stats

from asym_analysis import Adapter, AdapterSet, compare_subspaces
from asym_analysis.report.families import compare_families, parts_of
from asym_analysis.report.findings import Difference, FactorFinding, difference, find, finding_sentences
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
    page = re.sub(r"<svg.*?</svg>", "", html, flags=re.S)
    assert not re.search(r"(?:src|href)=\"(?!#|data:,)", page)
    assert "x.bin is &lt;empty&gt;" in html
    assert html.count("<svg") == len(written.figures) / 2 >= 6
    assert {path.suffix for path in written.figures} == {".svg", ".png"}
    assert all(path.stat().st_size > 1000 for path in written.figures)


def test_figures_stand_beside_the_page(adapters: AdapterSet, tmp_path: Path) -> None:
    written = write_report(adapters[:2], tmp_path / "there" / "report.html")
    assert {path.parent for path in written.figures} == {tmp_path / "there" / "figures"}


def test_the_same_adapters_give_the_same_bytes(adapters: AdapterSet, tmp_path: Path) -> None:
    first = write_report(adapters, tmp_path / "a.html", tmp_path / "a")
    second = write_report(adapters, tmp_path / "b.html", tmp_path / "b")
    assert first.page.read_bytes() == second.page.read_bytes()
    assert [p.read_bytes() for p in first.figures] == [p.read_bytes() for p in second.figures]


def test_the_page_is_accessible(adapters: AdapterSet, tmp_path: Path) -> None:
    html = write_report(
        adapters, tmp_path / "r.html", made={"command": "asym report", "date": "today"}
    ).page.read_text()
    page = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", _closed(html)))
    ids = [element.get("id") for element in page.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for link in page.iter("a"):
        assert link.get("href", "").removeprefix("#") in ids
    for table in page.iter("table"):
        assert table.find("caption") is not None
        assert all(cell.get("scope") == "col" for cell in table.find("thead").iter("th"))
        assert all(row[0].get("scope") == "row" for row in table.find("tbody"))
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    for picture in pictures:
        assert 'role="img" aria-label="' in picture
        assert "<title>" in picture
        assert "<text" in picture  # text stays text
        for used in re.findall(r'(?:url\(#|href="#)([^")]+)', picture):
            assert f'id="{used}"' in picture
    assert "asym report" in html
    assert "sha256" in html


def _closed(html: str) -> str:
    """The page as XML: void elements closed, the script, the style and the pictures left out."""
    html = re.sub(r"<(script|style|svg).*?</\1>", "", html, flags=re.S)
    html = re.sub(r"<(meta|link)([^>]*)>", r"<\1\2/>", html)
    return re.sub(r"=(n|row)(?=[ >])", r'="\1"', html)


def test_plain_words_follow_the_numbers(adapters: AdapterSet, tmp_path: Path) -> None:
    sentences = write_report(adapters, tmp_path / "r.html").sentences
    seeds, tasks = sentences["seeds"], sentences["tasks"]
    assert seeds[0].startswith("Between these 3 adapters, the output directions that B writes are alike")
    assert "the input directions that A reads are no more alike than random ones" in seeds[0]
    assert seeds[1].startswith("Three adapters give no test of a difference")
    assert tasks[0].startswith(
        "All of these 3 adapters share the initialization of A, and their A is still nearly the same"
    )


def test_pairs_of_one_initialization_are_kept_apart(adapters: AdapterSet, tmp_path: Path) -> None:
    mixed = AdapterSet([*adapters[:3], *adapters[3:]], {"name": list("abcdef"), "family": ["one"] * 6})
    sentences = write_report(mixed, tmp_path / "r.html").sentences["one"]
    assert "no more alike than random ones" in sentences[0]
    assert sentences[-1].startswith("Left out of this: 3 of 15 pairs share an initialization and overlap by 1.000 in A")


def test_one_adapter_alone_has_a_report(adapters: AdapterSet, tmp_path: Path) -> None:
    written = write_report(adapters[0], tmp_path / "r.html", n_samples=1000)
    (sentences,) = written.sentences.values()
    assert "90 % of the update's energy lies in" in sentences[-2]
    assert "add other seeds or tasks" in sentences[-1]
    html = written.page.read_text()
    assert "Generalization bounds" in html
    assert "Similarity of A and of B" not in html


def test_checkpoints_of_one_run_are_a_path_and_no_crowd(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    A, B, move = (torch.randn(*shape, generator=generator) for shape in ((4, 64), (48, 4), (48, 4)))
    saved = [
        Adapter.from_factors(
            {"encoder.layer.0.query": (A, B + 0.2 * step * move)},
            name=f"run/checkpoint-{step}",
            metadata={"source": f"/r/run/checkpoint-{step}/adapter_model.safetensors", "step": step},
        )
        for step in (1, 2, 3)
    ]
    written = write_report(AdapterSet(saved), tmp_path / "r.html")
    html = written.page.read_text()
    assert "Along training" in html
    assert "Similarity of A and of B" not in html
    assert "3 checkpoints of one run" in " ".join(*written.sentences.values())


def test_the_factor_whose_initialization_is_shared_is_named(tmp_path: Path) -> None:
    """Reversed runs: B random and shared, A zero at first."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    B = draw(256, 4)
    config = {"init_lora_weights": True}
    runs = [
        Adapter.from_factors({"m.q": (0.1 * draw(4, 96), B + 0.05 * draw(256, 4))}, name=str(n), metadata=config)
        for n in range(4)
    ]
    (sentences,) = write_report(AdapterSet(runs), tmp_path / "r.html").sentences.values()
    assert "share the initialization of A" not in sentences[0]


def test_encoder_decoder_and_cross_attention_are_apart() -> None:
    modules = [
        "model.encoder.layers.0.self_attn.q_proj",
        "model.decoder.layers.0.self_attn.q_proj",
        "model.decoder.layers.0.encoder_attn.q_proj",
    ]
    assert {part: len(members) for part, members in parts_of(modules).items()} == {
        "encoder": 1, "decoder": 1, "cross-attention": 1,
    }  # fmt: skip
    assert list(parts_of(["bert.encoder.layer.0.query", "bert.encoder.layer.1.query"])) == [""]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0.021, 0.5), (0.3, 0.0), "writes are alike, and the input directions that A reads are no more alike than"),
        ((0.021, 0.5), (0.02, 0.5), "are both no more alike than random ones"),
        (
            (0.047, 0.0),
            (0.021, 0.5),
            "writes are no more alike than random ones, and the input directions that A reads",
        ),
        ((0.03, 0.0), (0.3, 0.0), "A reads are barely more alike than random ones"),
        ((0.95, 0.0), (0.1, 0.0), "A reads are nearly the same"),
    ],
)
def test_each_pattern_has_its_words(a: tuple[float, float], b: tuple[float, float], expected: str) -> None:
    findings = {
        factor: FactorFinding(factor, 10, 12, mean, 0.02, 0.0003, p) for factor, (mean, p) in (("A", a), ("B", b))
    }
    assert expected in finding_sentences(findings, 5)[0]


def test_an_overlap_that_equals_a_high_chance_is_not_called_the_same() -> None:
    """Rank 72 in 128 dimensions overlaps by .562 by chance."""
    finding = FactorFinding("B", 6, 4, 0.5626, 0.5625, 0.002, 0.4)
    assert finding.level == "no more alike than random ones"
    full = FactorFinding("B", 6, 4, 1.0, 1.0, 0.0, 1.0)
    assert full.level == "too large to tell from random ones"
    weak = FactorFinding("A", 1, 1, 0.1, 0.0625, 0.15, 0.3)
    assert weak.level == "too large to tell from random ones"


@pytest.mark.parametrize(
    ("adapters", "modules", "rank", "d_in", "d_out"),
    [(2, 1, 1, 16, 16), (2, 2, 4, 64, 48), (3, 2, 36, 96, 64), (4, 1, 20, 40, 32), (5, 2, 2, 32, 32), (4, 1, 8, 8, 8)],
)
def test_random_adapters_are_called_alike_in_less_than_one_case_of_twenty(
    adapters: int, modules: int, rank: int, d_in: int, d_out: int
) -> None:
    generator = torch.Generator().manual_seed(100 * rank + d_in)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    alike = asymmetric = 0
    for _ in range(REPEATS):
        runs = [
            Adapter.from_factors(
                {f"m.{i}.q": (draw(rank, d_in), draw(d_out, rank)) for i in range(modules)}, name=str(n)
            )
            for n in range(adapters)
        ]
        frame = compare_subspaces(runs).frame
        alike += sum(finding.alike for finding in find(frame).values())
        gap = difference(frame)
        assert gap is not None
        assert gap.told == (adapters >= 4)
        asymmetric += gap.told and not gap.low <= 0 <= gap.high
    # At most 5 %: with 40 draws, 6 or more would have a probability below 2 %, and the rule's own level is 1 %.
    assert alike <= 0.05 * 2 * REPEATS
    assert asymmetric <= 5


REPEATS = 40


def test_a_difference_is_found_where_there_is_one() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    common = draw(48, 4)
    runs = [Adapter.from_factors({"m.q": (draw(4, 64), common + 0.5 * draw(48, 4))}, name=str(n)) for n in range(6)]
    gap = difference(compare_subspaces(runs).frame)
    assert gap is not None
    assert gap.low > 0
    assert "the asymmetry of the paper" in gap.sentence


def _toy(name: str, modules: list[str], seed: int, task: str | None = None, B: torch.Tensor | None = None) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    factors = {module: (draw(4, 96), draw(64, 4) + (0 if B is None else B)) for module in modules}
    return Adapter.from_factors(factors, name=name, metadata={"init_lora_weights": True, "task": task})


def test_adapters_of_different_models_are_compared_apart() -> None:
    names = {"bert": ["encoder.q", "encoder.v"], "llama": ["layers.q"], "alone": ["other.k"]}
    runs = [
        _toy(f"{model}-seed{seed}", modules, 10 * seed + len(model))
        for model, modules in names.items()
        for seed in range(1 if model == "alone" else 2)
    ]
    families = compare_families(AdapterSet(runs))
    assert {family.title: list(family.comparison.names) for family in families} == {
        "bert": ["bert-seed0", "bert-seed1"],
        "llama": ["llama-seed0", "llama-seed1"],
    }
    chained = [_toy("a", ["x"], 1), _toy("b", ["x", "y"], 2), _toy("c", ["y"], 3)]
    assert [family.title for family in compare_families(AdapterSet(chained))] == ["all adapters"]


def test_the_same_task_is_named_where_it_matters_and_not_where_it_does_not() -> None:
    def said(strength: float) -> str:
        generator = torch.Generator().manual_seed(5)
        tasks = {name: strength * torch.randn(64, 4, generator=generator) for name in ("one", "two", "three")}
        runs = [
            _toy(f"{task}-{seed}", ["layers.0.q", "layers.1.q"], 100 * i + seed, task, B)
            for i, (task, B) in enumerate(tasks.items())
            for seed in range(4)
        ]
        (family,) = compare_families(AdapterSet(runs, {"task": [run.metadata["task"] for run in runs]}))
        return " ".join(family.sentences)

    assert "more alike in B than pairs of different tasks" in said(1.0)
    assert "more alike in A than" not in said(1.0)
    assert "pairs of different tasks" not in said(0.0)


def test_a_difference_below_a_point_is_no_asymmetry() -> None:
    small, large = (Difference(value, value - 0.001, value + 0.001, 40).sentence for value in (0.004, 0.03))
    assert "asymmetry" not in small
    assert "by 0.4 points, which is not chance but too little to matter" in small
    assert "the asymmetry of the paper" in large


def test_the_interval_of_the_difference_leaves_out_each_adapter() -> None:
    runs = AdapterSet([_toy(f"run{seed}", ["layers.0.q"], seed) for seed in range(6)])
    frame = compare_subspaces(runs).frame
    found = difference(frame)
    assert found is not None
    excess = frame.assign(excess=(frame["value"] - frame["null_mean"]) / (1 - frame["null_mean"]))
    table = excess.pivot_table(index=["adapter_i", "adapter_j"], columns="factor", values="excess", observed=True)
    gaps = {tuple(map(str, pair)): gap for pair, gap in (table["B"] - table["A"]).items()}
    left = [np.mean([gap for pair, gap in gaps.items() if name not in pair]) for name in runs.names]
    error = np.sqrt(5 / 6 * np.square(left - np.mean(left)).sum())
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 5) * error, rel=1e-9)
