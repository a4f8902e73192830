"""What the user says about files that record too little, and sets of which some members cannot be read."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from asym_analysis import Adapter, AdapterError, AdapterSet, load_adapter, load_adapters
from asym_analysis.adapters.load import as_adapter, as_adapters
from asym_analysis.errors import NothingReadError


def pair(rank=2, d_in=8, d_out=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "q.lora_A.weight": torch.randn(rank, d_in, generator=generator),
        "q.lora_B.weight": torch.randn(d_out, rank, generator=generator),
    }


@pytest.fixture
def run(tmp_path):
    """Three checkpoints, the last of them cut short."""
    for step in (10, 20, 30):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file(pair(seed=step), folder / "adapter_model.safetensors")
    broken = tmp_path / "run" / "checkpoint-30" / "adapter_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-20])
    return tmp_path / "run"


def test_a_scale_given_is_the_factor_of_every_module():
    state = {**pair(), **{name.replace("q", "v"): tensor for name, tensor in pair(rank=2).items()}}
    adapter = load_adapter(state, scale=0.25, config={"peft_type": "LORA", "r": 2, "lora_alpha": 64})
    assert [adapter[module].scaling for module in adapter] == [0.25, 0.25]
    assert adapter.metadata["scaling"] == "given"
    torch.testing.assert_close(adapter["q"].delta(), 0.25 * state["q.lora_B.weight"] @ state["q.lora_A.weight"])


@pytest.mark.parametrize(("argument", "value"), [("alpha", math.nan), ("scale", math.inf), ("scale", "two")])
@pytest.mark.usefixtures("without_shape_checks")
def test_a_scale_that_is_no_number_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} is .*finite number"):
        load_adapter(pair(), **{argument: value})


@pytest.mark.parametrize("name", ["my settings.json", "lora.yaml", "conf.YML"])
def test_a_config_of_any_name(tmp_path, name):
    save_file(pair(), tmp_path / "weights.safetensors")
    config = tmp_path / name
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 12}
    lines = "\n".join(f"{key}: {value}" for key, value in values.items())
    config.write_text(json.dumps(values) if name.endswith("json") else lines)
    assert load_adapter(tmp_path / "weights.safetensors", config=config)["q"].scaling == 6.0
    assert load_adapters(tmp_path / "weights.safetensors", config=str(config))[0]["q"].scaling == 6.0


@pytest.mark.parametrize(
    ("text", "words"),
    [("a: [", "not valid YAML"), ("- a", "no mapping"), ("a: !!python/object/apply:os.getcwd []", "not valid YAML")],
)
def test_a_yaml_config_that_cannot_be_used(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(AdapterError, match=words):
        load_adapter(pair(), config=tmp_path / "c.yaml")
    with pytest.raises(AdapterError, match="cannot be read"):
        load_adapter(pair(), config=tmp_path / "absent.yaml")


@pytest.mark.usefixtures("without_shape_checks")
def test_a_run_with_one_broken_checkpoint_is_read_without_it(run):
    with pytest.raises(AdapterError, match="checkpoint-30"):
        load_adapters(run)
    steps = load_adapters(run, on_error="collect")
    assert steps.table["step"].tolist() == [10, 20]
    ((source, sentence),) = steps.refused
    assert source == str(run / "checkpoint-30" / "adapter_model.safetensors")
    assert "cut short" in sentence
    assert load_adapters(run.parent / "run" / "checkpoint-10").refused == ()
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        load_adapters(run, on_error="ignore")


def test_sources_that_are_not_there_are_collected_too(run):
    steps = load_adapters([run / "checkpoint-10", "nowhere", 3], on_error="collect")
    assert len(steps) == 1
    assert [source for source, _ in steps.refused] == ["nowhere", "a int"]
    with pytest.raises(NothingReadError, match="none of 2 adapters could be read") as caught:
        load_adapters([run / "checkpoint-30", "nowhere"], on_error="collect")
    assert len(caught.value.refused) == 2


@pytest.mark.usefixtures("without_shape_checks")  # beartype reads a module of every adapter that is returned
def test_nan_in_one_module_costs_that_module_only(tmp_path):
    state = {**pair(), "v.lora_A.weight": torch.full((2, 8), math.nan), "v.lora_B.weight": torch.ones(4, 2)}
    save_file(state, tmp_path / "one.safetensors")
    save_file(pair(), tmp_path / "two.safetensors")
    both = load_adapters(tmp_path, on_error="collect")
    assert [list(adapter) for adapter in both] == [["q"], ["q"]]
    assert not both[0].coverage.complete
    assert "NaN" in both[0].coverage.refused["v.lora_A.weight"]
    ((source, sentence),) = both.refused
    assert source.endswith("one.safetensors")
    assert "module v" in sentence
    # All modules: the adapter is refused.
    save_file(
        {name: torch.full_like(tensor, math.inf) for name, tensor in pair().items()}, tmp_path / "one.safetensors"
    )
    both = load_adapters(tmp_path, on_error="collect")
    assert [adapter.name.split("/")[-1] for adapter in both] == ["two"]
    assert len(both.refused) == 1


def test_a_foreign_file_in_a_folder_is_named_and_left_out(tmp_path):
    save_file(pair(), tmp_path / "lora.safetensors")
    save_file({"xlora_classifier.inner.0.weight": torch.ones(3, 3)}, tmp_path / "xlora_classifier.safetensors")
    with pytest.raises(AdapterError, match="xlora_classifier"):
        load_adapters(tmp_path)
    only = load_adapter(tmp_path)
    assert list(only) == ["q"]
    assert not only.coverage.complete
    assert "xlora_classifier.safetensors" in only.coverage.refused
    found = load_adapters(tmp_path, on_error="collect")
    assert [adapter.name.split("/")[-1] for adapter in found] == ["lora"]
    assert found.refused[0][0].endswith("xlora_classifier.safetensors")
    # A damaged file may be the adapter that is meant.
    (tmp_path / "xlora_classifier.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(AdapterError, match="holds 2 adapters"):
        load_adapter(tmp_path)


def test_anything_that_is_read_becomes_an_adapter(run):
    adapter = as_adapter(run / "checkpoint-10")
    assert isinstance(adapter, Adapter)
    assert as_adapter(adapter) is adapter
    assert as_adapter([adapter]) is adapter
    assert as_adapter(AdapterSet([adapter])) is adapter
    with pytest.raises(AdapterError, match="2 were given"):
        as_adapter(AdapterSet([adapter, adapter]))
    runs = as_adapters([adapter, run / "checkpoint-20", pair()])
    assert len(runs) == 3
    assert as_adapters(runs) is runs
    assert as_adapters(adapter).names == (adapter.name,)
    assert len(as_adapters(f"{run}/checkpoint-[12]0")) == 2


def test_a_state_dict_is_copied_when_it_is_loaded():
    state = pair()
    before = state["q.lora_B.weight"].clone()
    adapter = load_adapter(state)
    state["q.lora_B.weight"].zero_()
    assert adapter["q"].B.equal(before)
    adapter["q"].B.zero_()
    assert adapter["q"].B.equal(before)
    assert adapter.source("q").parts["B"].read().equal(before)


def test_factors_are_copied_when_an_adapter_is_made_of_them():
    A, B = torch.randn(2, 8), torch.randn(4, 2)
    expected = A.clone()
    adapter = Adapter.from_factors({"q": (A, B)})
    A.zero_()
    assert adapter["q"].A.equal(expected)
    adapter["q"].A.mul_(0.5)
    adapter.source("q").parts["A"].read().mul_(0.5)
    assert adapter["q"].A.equal(expected)


def test_a_copy_depends_on_no_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({**pair(), "classifier.weight": torch.ones(3)}, path)
    copied, expected = load_adapter(path).copy(), load_adapter(path)["q"].A.clone()
    path.unlink()
    assert copied["q"].A.equal(expected)
    copied["q"].A.zero_()
    assert copied["q"].A.equal(expected)
    assert copied.source("q").parts["A"].read().equal(expected)
    assert copied.extras["classifier.weight"].read().equal(torch.ones(3))


def test_an_open_model_is_copied_when_it_is_loaded_and_its_scale_is_seen():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0", "1"], init_lora_weights=False, use_rslora=True)
    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4)), config)
    layer = model.base_model.model[0]
    before = load_adapter(model)
    expected = layer.get_delta_weight("default").detach().clone()
    with torch.no_grad():
        layer.lora_B["default"].weight.add_(1.0)
    torch.testing.assert_close(before["0"].delta(), expected)

    layer.scale_layer(0.5)
    after = load_adapter(model)
    torch.testing.assert_close(after["0"].delta(), layer.get_delta_weight("default").detach())
    torch.testing.assert_close(after["1"].delta(), model.base_model.model[1].get_delta_weight("default").detach())
    assert after["1"].scaling == pytest.approx(6 / math.sqrt(2))
    assert after.source("0").read_with({}).scaling == after["0"].scaling == pytest.approx(3 / math.sqrt(2))
    layer.set_scale("default", 3.0)
    torch.testing.assert_close(load_adapter(model)["0"].delta(), layer.get_delta_weight("default").detach())
    assert load_adapter(model, scale=2.0)["0"].scaling == 2.0


@pytest.mark.parametrize("kind", ["AdaLoraConfig", "LoHaConfig", "LoKrConfig"])
def test_the_scale_of_other_tuners_of_an_open_model(kind):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    extra = (
        {"total_step": 10, "init_r": 4, "target_r": 2} if kind == "AdaLoraConfig" else {"r": 2, "init_weights": False}
    )
    alpha = {"lora_alpha": 6} if kind == "AdaLoraConfig" else {"alpha": 6}
    config = getattr(peft, kind)(target_modules=["0"], **extra, **alpha)
    model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 5)), config)
    layer = model.base_model.model[0]
    for name, parameter in layer.named_parameters():
        if "base_layer" not in name and "ranknum" not in name:
            parameter.data = torch.randn_like(parameter)
    for factor in (1.0, 0.5):
        layer.scaling["default"] *= factor
        expected = layer.get_delta_weight("default").detach()
        torch.testing.assert_close(load_adapter(model)["0"].delta(), expected, rtol=1e-4, atol=1e-5)


def test_what_a_config_says_is_escaped_in_html():
    config = {"base_model_name_or_path": "<script>alert(1)</script>"}
    assert "<script>" not in load_adapter(pair(), config=config)._repr_html_()
