"""What the doctor finds in made adapters, and that it is silent on healthy ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from asym_analysis import Adapter, examine, general_effect, load_adapter
from asym_analysis.errors import AdapterError
from asym_analysis.questions import Examination


def healthy(seed: int, *, rank: int = 8, d_in: int = 96, d_out: int = 64, modules: int = 6) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    pairs = {
        f"layers.{i}.q_proj": (torch.randn(rank, d_in, generator=draw), torch.randn(d_out, rank, generator=draw))
        for i in range(modules)
    }
    return Adapter.from_factors(pairs, name=f"healthy {seed}")


@pytest.mark.parametrize("shape", [(4, 48, 32), (8, 96, 64), (16, 64, 64), (2, 256, 128), (1, 64, 64)])
def test_random_adapters_of_many_shapes_are_healthy(shape: tuple[int, int, int]) -> None:
    rank, d_in, d_out = shape
    runs = [healthy(seed, rank=rank, d_in=d_in, d_out=d_out) for seed in range(8)]
    alarms = 0
    for run in runs:
        base = {f"{m}.weight": torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(99)) * 3 for m in run}
        moments = {m: torch.diag(torch.linspace(2, 0.1, d_in)) for m in run}
        weak = Adapter.from_factors({m: (run[m].A, 0.01 * run[m].B) for m in run}, name=run.name)
        alarms += len(
            examine(weak, base=base, moments=moments, siblings=runs[:2] if run not in runs[:2] else None).frame
        )
    assert alarms == 0


def test_an_assumed_scale_comes_first() -> None:
    run = healthy(0)
    state = {f"{m}.lora_A.weight": run[m].A for m in run} | {f"{m}.lora_B.weight": run[m].B for m in run}
    found = examine(load_adapter(state)).frame
    assert found["severity"].iloc[0] == "wrong"
    assert "scale" in found["finding"].iloc[0]


def test_unspent_rank_and_zero_modules() -> None:
    run = healthy(0)
    pairs = {}
    for index, module in enumerate(run):
        strengths = torch.tensor([1.0, 0.3, *[1e-3] * 6])
        pairs[module] = (run[module].A, 0 * run[module].B if index == 0 else run[module].B * strengths)
    frame = examine(Adapter.from_factors(pairs, name="run")).frame
    assert frame["severity"].tolist() == ["risk", "saving"]
    assert "1 of 6 modules have a zero update" in frame["finding"].iloc[0]
    assert "99 %" in frame["finding"].iloc[1]


def test_a_that_hardly_moved_and_a_shared_initialization() -> None:
    start = healthy(0)
    noise = healthy(1)
    moved = {m: (start[m].A + 0.01 * noise[m].A, noise[m].B) for m in start}
    initial = Adapter.from_factors({m: (start[m].A, 0 * start[m].B) for m in start})
    run = Adapter.from_factors(moved, name="run", initial=initial)
    other = Adapter.from_factors(
        {m: (start[m].A + 0.02 * noise[m].A, healthy(2)[m].B) for m in start}, name="other", initial=initial
    )
    frame = examine(run, siblings=[other]).frame
    assert "shares its initialization with other" in frame["finding"].iloc[0]
    assert "A moved by 1" in frame["finding"].iloc[1]


def test_intruders_and_energy_on_general_inputs() -> None:
    run = healthy(0, rank=1)
    base = {f"{m}.weight": torch.randn(64, 96, generator=torch.Generator().manual_seed(5)) * 0.05 for m in run}
    loud = {m: torch.outer(run[m].A[0], run[m].A[0]) + 1e-3 * torch.eye(96) for m in run}
    findings = " ".join(examine(run, base=base, moments=loud).frame["finding"])
    assert "intruder dimensions hold" in findings
    assert "compute something else on general inputs" in findings


def test_it_comes_back_from_a_file(tmp_path) -> None:
    found = examine(healthy(0))
    found.to_json(tmp_path / "found.json")
    assert Examination.from_json(tmp_path / "found.json").frame.empty


class Stack(torch.nn.Module):
    """Two linear maps that say their hidden states as transformers do."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.first, self.second = torch.nn.Linear(12, 10, bias=False), torch.nn.Linear(10, 8, bias=False)
        for layer in (self.first, self.second):
            layer.weight.data = torch.randn(layer.weight.shape, generator=draw)

    def forward(self, inputs, attention_mask=None, output_hidden_states=False):
        middle = self.first(inputs)
        return SimpleNamespace(hidden_states=(inputs, middle, self.second(middle)))


class Silent(torch.nn.Module):
    """A model that gives only its output."""

    def forward(self, inputs, output_hidden_states=False):
        return SimpleNamespace(logits=inputs)


def small(size: float) -> Adapter:
    draw = torch.Generator().manual_seed(2)
    pairs = {
        "first": (torch.randn(2, 12, generator=draw), size * torch.randn(10, 2, generator=draw)),
        "second": (torch.randn(2, 10, generator=draw), size * torch.randn(8, 2, generator=draw)),
    }
    return Adapter.from_factors(pairs, name="small")


def test_the_effect_on_general_inputs_is_that_of_the_dense_model() -> None:
    model, run = Stack(), small(0.3)
    inputs = torch.randn(5, 7, 12, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(5, 7)
    mask[:, 4:] = 0
    found = general_effect(run, model, [{"inputs": inputs, "attention_mask": mask}])
    W1, W2 = (layer.weight.detach() for layer in (model.first, model.second))
    kept = inputs[:, :4].mean(1)
    before = kept @ W1.mT @ W2.mT
    after = kept @ (W1 + run["first"].delta()).mT @ (W2 + run["second"].delta()).mT
    assert found.moved == pytest.approx(((after - before).norm(dim=1) / before.norm(dim=1)).mean().item(), rel=1e-5)
    torch.testing.assert_close(model.first.weight.detach(), W1)
    # An update as large in random directions moves them about as much: this one has random directions itself.
    assert 0.5 < found.chance / found.moved < 2


def test_what_general_inputs_do_not_feel_is_no_risk() -> None:
    model, inputs = Stack(), [{"inputs": torch.randn(6, 3, 12, generator=torch.Generator().manual_seed(4))}]
    base = {
        f"{name}.weight": weight for name, weight in (("first", model.first.weight), ("second", model.second.weight))
    }
    loud, quiet = (
        examine(run, base=base, effect=general_effect(run, model, inputs)).frame for run in (small(2.0), small(1e-3))
    )
    assert quiet.empty
    assert "last hidden states of general inputs move" in " ".join(loud["finding"])
    with pytest.raises(AdapterError, match="no hidden states"):
        general_effect(small(1.0), Silent(), [{"inputs": torch.ones(1, 2, 12)}])


def test_a_copy_is_named_as_a_copy() -> None:
    run = healthy(0)
    (finding,) = examine(run, siblings=[run.replaced(name="twin"), healthy(1)]).frame["finding"]
    assert finding == "it is a copy of twin: every factor is the same"
