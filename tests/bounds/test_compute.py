"""The ladder on shapes with known numbers and on real adapters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import compute_bound, load_adapter
from asym_analysis.adapters import Adapter, LowRankUpdate, ModuleSource, TensorSource
from asym_analysis.bounds.ladder import bits_of_dtype

HEAD = 1024**2 + 1024 + 2 * 1024 + 2


def unread() -> None:
    raise AssertionError("the parameter count is in the header: nothing has to be read")


def zeros() -> LowRankUpdate:
    return LowRankUpdate(torch.zeros(1, 1), torch.zeros(1, 1))


def roberta_large(rank: int, head: bool = True) -> Adapter:
    """Query and value of RoBERTa-large's 24 layers, known from the header alone."""
    modules = {
        f"roberta.encoder.layer.{layer}.attention.self.{name}": ModuleSource(1024, 1024, rank, "float32", zeros)
        for layer in range(24)
        for name in ("query", "value")
    }
    extras = {"classifier": TensorSource((HEAD,), "float32", unread)} if head else {}
    return Adapter(modules, name="roberta-large", extras=extras)


def gaps(adapter: Adapter, **options: object) -> dict[tuple[str, bool], float]:
    frame = compute_bound(adapter, 2490, rungs=("parameter count",), **options).frame
    return {(row.tuned, row.head): row.gap for row in frame.itertuples()}


def test_lemma_of_the_paper_on_rte() -> None:
    """docs/theory.md, section 8, T11."""
    found = gaps(roberta_large(8))
    assert found["B", False] == pytest.approx(41.85, abs=0.005)
    assert found["A", False] == pytest.approx(41.85, abs=0.005)
    assert found["both", False] == pytest.approx(59.18, abs=0.005)
    assert found["both", False] / found["B", False] == pytest.approx(math.sqrt(2), rel=1e-12)
    assert found["both", True] / found["B", True] == pytest.approx(1.128, abs=5e-4)
    assert gaps(roberta_large(16))["B", False] == found["both", False]


@pytest.mark.parametrize(
    ("n", "bits", "expected"),
    [(8551, 32, (22.6, 31.9)), (67349, 16, (5.69, 8.05)), (392_702, 8, (1.67, 2.36)), (392_702, 1, (0.59, 0.83))],
)
def test_worked_numbers(n: int, bits: float, expected: tuple[float, float]) -> None:
    frame = compute_bound(roberta_large(8, head=False), n, bits=float(bits), rungs=("parameter count",)).frame
    for tuned, value in zip(("B", "both"), expected, strict=True):
        assert frame.loc[frame.tuned == tuned, "gap"].item() == pytest.approx(value, rel=6e-3)
    assert list(frame["vacuous"]) == [gap >= 1 for gap in frame["gap"]]


def test_degrees_of_freedom_leave_the_gauge_out() -> None:
    frame = compute_bound(roberta_large(8, head=False), 2490, rungs=("degrees of freedom",)).frame
    assert frame["parameters"].item() == 48 * 8 * (1024 + 1024 - 8)
    assert frame["kind"].item() == "diagnostic"


def test_individual_information_is_never_worse() -> None:
    adapter = roberta_large(8)
    each = [0.0, 1.0] * 50
    report = compute_bound(adapter, 100, mutual_information=each, rungs=("mutual information",))
    whole = compute_bound(adapter, 100, mutual_information=50.0, rungs=("mutual information",))
    assert report.frame["nats"].item() == whole.frame["nats"].item() == 50
    assert report.frame["gap"].item() < whole.frame["gap"].item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="one for each"):
        compute_bound(adapter, 99, mutual_information=each, rungs=("mutual information",))


def test_an_estimate_is_never_a_certificate() -> None:
    report = compute_bound(
        roberta_large(8), 100, mutual_information={"B": 1.0, "both": 2.0}, rungs=("mutual information",)
    )
    assert set(report.frame["kind"]) == {"diagnostic"}
    assert report.best() is None


def small(seed: int = 0, *, start: bool = False, frozen: str | None = None) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    A0, B = torch.randn(4, 30, generator=generator), torch.randn(20, 4, generator=generator)
    A = A0 if frozen == "A" else A0 + 0.1 * torch.randn(4, 30, generator=generator)
    initial = Adapter.from_factors({"q": (A0, torch.zeros(20, 4))}, scaling=2.0) if start else None
    made = Adapter.from_factors({"q": (A, B)}, scaling=2.0, initial=initial)
    weight = torch.randn(2, 20, generator=generator)
    extras = {"head": TensorSource((2, 20), "float32", lambda: weight)}
    return Adapter({"q": made.source("q")}, name="small", extras=extras, initial=initial)


def test_regime_is_read_from_what_moved() -> None:
    assert compute_bound(small(start=True, frozen="A"), 100).settings["tuned"] == "B"
    assert compute_bound(small(start=True), 100).settings["tuned"] == "both"
    assert compute_bound(small(), 100).settings["tuned_known_from"] == "not recorded: both are charged"
    assert compute_bound(small(), 100, tuned="A").settings["tuned"] == "A"


def test_what_counts_as_a_certificate() -> None:
    frame = compute_bound(small(start=True, frozen="A"), 10**6, empirical_risk=None).frame.set_index(["tuned", "head"])
    certificates = frame[frame["kind"] == "certificate"]
    # A-only never fits a checkpoint whose B moved; without the head nothing is certified; both is loose but sound.
    assert set(certificates.index) == {("B", True), ("both", True)}
    assert frame.loc[[("A", True)], "assumptions"].str.contains("had only A been trained").all()
    assert frame.loc[[("B", False)], "assumptions"].str.contains("head was fixed beforehand").all()


def test_rows_are_ordered_and_complete() -> None:
    report = compute_bound(small(), 10**6, mutual_information=3.0, empirical_risk=0.1)
    frame = report.frame
    assert frame["rung"].nunique() == 5
    assert (frame["risk"] == 0.1 + frame["gap"]).all()
    assert (frame["bits"] * math.log(2)).to_numpy() == pytest.approx(frame["nats"].to_numpy())
    by_head = (
        frame[frame["rung"] != "mutual information"].groupby(["rung", "tuned", "head"])["nats"].sum().unstack("head")
    )
    assert (by_head[True] > by_head[False]).all()
    count = frame[(frame["rung"] == "parameter count") & ~frame["head"]].set_index("tuned")["nats"]
    described = frame[(frame["rung"] == "description length") & ~frame["head"]].set_index("tuned")["nats"]
    assert (described < count).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuned": "C"}, "not one of auto, B, A, both"),
        ({"rungs": ("magic",)}, "rungs is"),
        ({"confidence": 1.0}, "above 0 and below 1"),
        ({"empirical_risk": 1.5}, "of at most 1"),
    ],
)
def test_wrong_arguments_say_what_to_do(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_bound(small(), 100, **options)  # type: ignore[arg-type]


def test_bits_of_dtypes() -> None:
    assert [bits_of_dtype(d) for d in ("float32", "float16", "bfloat16", "float8_e5m2")] == [32, 16, 16, 8]
    with pytest.raises(ValueError, match="bits="):
        bits_of_dtype("nf4")


def test_same_arguments_same_table(tmp_path: Path) -> None:
    for name in ("one", "two"):
        compute_bound(small(), 1000).to_json(tmp_path / f"{name}.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_real_adapter_with_its_head(shared_adapters: Path) -> None:
    adapter = load_adapter(shared_adapters / "685-bert-base" / "lora_sst2")
    report = compute_bound(adapter, 67_349)
    frame = report.frame
    assert set(frame["rung"]) == {"parameter count", "degrees of freedom", "description length", "Gaussian posterior"}
    assert frame.loc[~frame["head"] & (frame["tuned"] == "B"), "parameters"].iloc[0] == 24 * 8 * 768
    assert len(adapter.extras) > 0
    heads = sum(extra.size for extra in adapter.extras.values())
    counted = frame[frame["rung"] == "parameter count"].set_index(["tuned", "head"])["parameters"]
    assert counted["B", True] - counted["B", False] == heads


def test_command(tmp_path: Path, asym) -> None:
    """T11 from a file, in a shell: 48 modules and the head, in one table and one JSON document."""
    prefix = "base_model.model."
    tensors = {}
    for layer in range(24):
        for name in ("query", "value"):
            stem = f"{prefix}roberta.encoder.layer.{layer}.attention.self.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.full((8, 1024), 0.01)
            tensors[f"{stem}.lora_B.weight"] = torch.full((1024, 8), 0.01)
    tensors[f"{prefix}classifier.dense.weight"] = torch.zeros(1024, 1024)
    tensors[f"{prefix}classifier.dense.bias"] = torch.zeros(1024)
    tensors[f"{prefix}classifier.out_proj.weight"] = torch.zeros(2, 1024)
    tensors[f"{prefix}classifier.out_proj.bias"] = torch.zeros(2)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "task_type": "SEQ_CLS", "r": 8, "lora_alpha": 16, "target_modules": ["query", "value"], '
        '"modules_to_save": ["classifier"], "base_model_name_or_path": "roberta-large"}'
    )
    out = tmp_path / "bounds.json"
    options = ("--n", "2490", "--rungs", "parameter count")
    shown = asym("bound", tmp_path, *options, "--diagnostics", "--out", out)
    assert shown.code == 0, shown.err
    assert "parameter count with the head: training both costs 1.128 times B alone" in shown.err
    assert "41.85" in shown.out
    assert "59.18" in shown.out
    assert out.exists()
    assert {row["rung"] for row in asym("bound", tmp_path, *options, "--json").records("bounds")} == {"parameter count"}
    assert asym("bound", tmp_path, "--n", "2490", "--tuned", "C").code == 1
