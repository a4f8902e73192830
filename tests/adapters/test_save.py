"""A written adapter is the same change of the weights to the target's own loader."""

from __future__ import annotations

import copy
import json
import math
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from asym_analysis import Adapter, AdapterError, load_adapter, load_adapters
from asym_analysis.adapters.save import FORMATS
from asym_analysis.errors import NotWritableError

peft = pytest.importorskip("peft")


class Net(nn.Module):
    """One layer of every kind that PEFT's LoRA knows here."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        torch.manual_seed(0)
        self.embed = nn.Embedding(11, 8)
        self.q = nn.Linear(8, 6)
        self.v = nn.Linear(6, 8, bias=False)
        self.conv = nn.Conv2d(8, 4, 3)
        self.c_attn = Conv1D(6, 4)
        self.head = nn.Linear(6, 3)


def trained(model: nn.Module) -> nn.Module:
    """Put numbers into every trained tensor."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


def deltas(model: nn.Module, adapter: str = "default") -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight(adapter).detach()
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


def assert_same_change(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, expected in other.items():
        error = (one[name].double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
        assert error < 1e-6, (name, error.item())


CONFIGS = {
    "every layer": {"target_modules": ["embed", "q", "v", "conv", "c_attn"]},
    "patterns": {"target_modules": ["q", "v"], "rank_pattern": {"q": 3}, "alpha_pattern": {"v": 7}},
    "rslora": {"target_modules": ["q", "v"], "use_rslora": True},
    "dora": {"target_modules": ["q", "conv"], "use_dora": True},
    "head and biases": {"target_modules": ["q", "v"], "modules_to_save": ["head"], "bias": "lora_only"},
    "bias of B": {"target_modules": ["q", "head"], "lora_bias": True},
    "no linear": {"target_modules": ["c_attn"], "fan_in_fan_out": True},
}


@pytest.mark.parametrize("fold_scale", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_peft_reads_what_is_written(tmp_path, name, fold_scale):
    config = peft.LoraConfig(r=2, lora_alpha=5, init_lora_weights=False, **CONFIGS[name])
    model = trained(peft.get_peft_model(Net(), config))
    model.save_pretrained(tmp_path / "theirs")
    adapter = load_adapter(tmp_path / "theirs")
    assert adapter.save(tmp_path / "ours", fold_scale=fold_scale) == tmp_path / "ours"

    loaded = peft.PeftModel.from_pretrained(Net(), tmp_path / "ours")
    assert_same_change(deltas(loaded), deltas(model))
    # Whatever was trained beside the pairs is there too, so that the merged models are the same.
    # PEFT 0.18 loses a bias of its own folder, so that its reading of that is compared with.
    expected = peft.PeftModel.from_pretrained(Net(), tmp_path / "theirs").merge_and_unload().state_dict()
    for key, value in loaded.merge_and_unload().state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-5, msg=key)
    ours = load_adapter(tmp_path / "ours")
    assert list(ours) == list(adapter)
    assert list(ours.extras) == list(adapter.extras)
    assert_same_change({m: ours[m].delta() for m in ours}, {m: adapter[m].delta() for m in adapter})
    if fold_scale:
        assert {ours[module].scaling for module in ours} == {1.0}
        written = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
        assert written["alpha_pattern"] == written["rank_pattern"]


def test_peft_reads_patterns_of_names_that_end_alike(tmp_path):
    """A pattern for "q" also matches "deep.q": the default of that module is written out."""
    net = nn.ModuleDict({"q": nn.Linear(8, 6), "deep": nn.ModuleDict({"q": nn.Linear(8, 6), "v": nn.Linear(8, 6)})})
    factors = {m: (torch.randn(r, 8), torch.randn(6, r)) for m, r in (("q", 3), ("deep.q", 2), ("deep.v", 2))}
    adapter = Adapter.from_factors(factors, scaling=0.7)
    loaded = peft.PeftModel.from_pretrained(net, adapter.save(tmp_path / "ours"))
    assert_same_change(deltas(loaded), {module: adapter[module].delta() for module in adapter})


@pytest.mark.parametrize("fold_scale", [False, True])
@pytest.mark.parametrize("kind", ["plain", "dora", "conv"])
def test_lycoris_reads_what_is_written(tmp_path, kind, fold_scale):
    lycoris = pytest.importorskip("lycoris")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3)) if kind == "conv" else nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    options = {"use_dora": kind == "dora", "rank_pattern": {} if kind == "conv" else {"1": 3}}
    config = peft.LoraConfig(
        r=2, lora_alpha=5, init_lora_weights=False, target_modules=["0", "1"][: len(net)], **options
    )
    model = trained(peft.get_peft_model(copy.deepcopy(net), config))
    merged = copy.deepcopy(model).merge_and_unload()
    file = load_adapter(model).save(tmp_path / "x.safetensors", "kohya", fold_scale=fold_scale)
    network, _ = lycoris.create_lycoris_from_weights(1.0, str(file), net)
    assert len(network.loras) == len(net)
    network.apply_to()
    x = torch.randn(2, 3, 6, 6) if kind == "conv" else torch.randn(7, 8)
    torch.testing.assert_close(net(x), merged(x), rtol=1e-5, atol=1e-5)


def test_kohya_names_follow_the_pipeline(tmp_path):
    names = ["unet.mid.attn.to_q", "text_encoder.layers.0.fc1", "text_encoder_2.layers.0.fc1"]
    adapter = Adapter.from_factors({name: (torch.randn(2, 8), torch.randn(4, 2)) for name in names}, scaling=1.5)
    file = adapter.save(tmp_path, "kohya")
    assert file == tmp_path / "lora.safetensors"
    tensors = load_file(file)
    assert {key.split(".")[0] for key in tensors} == {
        "lora_unet_mid_attn_to_q",
        "lora_te1_layers_0_fc1",
        "lora_te2_layers_0_fc1",
    }
    assert tensors["lora_unet_mid_attn_to_q.alpha"].item() == 3.0
    again = load_adapter(file)
    assert again.metadata["dialect"] == "kohya"
    again.save(tmp_path / "again.safetensors", "kohya")
    assert load_file(tmp_path / "again.safetensors").keys() == tensors.keys()
    bare = Adapter.from_factors({"mid.to_q": (torch.ones(1, 2), torch.ones(2, 1))})
    for component, beginning in (("unet", "lora_unet"), (None, "lycoris")):
        keys = load_file(bare.save(tmp_path / "c.safetensors", "kohya", component=component, overwrite=True))
        assert f"{beginning}_mid_to_q.alpha" in keys


def test_diffusers_products_and_header(tmp_path):
    factors = {
        "unet.mid.attn.to_q": (torch.randn(2, 8), torch.randn(4, 2)),
        "unet.mid.attn.to_k": (torch.randn(3, 8), torch.randn(4, 3)),
        "text_encoder.fc1": (torch.randn(2, 8), torch.randn(4, 2)),
    }
    adapter = Adapter.from_factors(factors, scaling=1.5)
    for fold_scale in (False, True):
        file = adapter.save(tmp_path / str(fold_scale), "diffusers", fold_scale=fold_scale)
        assert file.name == "pytorch_lora_weights.safetensors"
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            config = json.loads(opened.metadata()["lora_adapter_metadata"])
        for module in factors:
            component, _, rest = module.partition(".")
            rank = config[f"{component}.rank_pattern"].get(rest, config[f"{component}.r"])
            alpha = config[f"{component}.alpha_pattern"].get(rest, config[f"{component}.lora_alpha"])
            A, B = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
            assert rank == A.shape[0]
            assert alpha / rank == pytest.approx(1.0 if fold_scale else 1.5)
            torch.testing.assert_close(alpha / rank * B @ A, adapter[module].delta())
        again = load_adapter(file)
        assert again.metadata["dialect"] == "diffusers"
        assert_same_change({m: again[m].delta() for m in again}, {m: adapter[m].delta() for m in adapter})


def test_what_a_format_cannot_hold_is_named_and_nothing_is_written(tmp_path):
    state = {"layer.0.q.lora_A.weight": torch.ones(2, 8), "layer.0.q.lora_B.weight": torch.ones(4, 2)}
    headed = load_adapter({**state, "classifier.weight": torch.ones(3, 4)})
    flat = Adapter.from_factors({"lora_unet_mid_to_q": (torch.ones(1, 2), torch.ones(2, 1))})
    embedded = {f"base_model.model.embed.lora_embedding_{p}": torch.ones(s) for p, s in (("A", (2, 9)), ("B", (4, 2)))}
    cases = [
        (headed, "kohya", {}, "'classifier.weight' of shape"),
        (headed, "diffusers", {}, "'classifier.weight' of shape"),
        (headed.without_extras(), "diffusers", {}, "names no component"),
        (flat, "peft", {}, "lora_unet_mid_to_q.*base="),
        (flat, "diffusers", {"component": "unet"}, "flattened name"),
        (load_adapter(embedded), "kohya", {}, "embedding"),
        (Adapter.from_factors({"te:0": (torch.ones(1, 2), torch.ones(2, 1))}), "peft", {}, "known by its place"),
        (
            Adapter.from_factors({"h.0.experts.up_proj.3": (torch.ones(1, 2), torch.ones(2, 1))}),
            "peft",
            {},
            "one expert of a fused",
        ),
        (load_adapter(state, config={"peft_type": "LORA", "init_lora_weights": "pissa"}), "peft", {}, "PiSSA"),
    ]
    for adapter, format, options, words in cases:
        with pytest.raises(NotWritableError, match=words) as caught:
            adapter.save(tmp_path / "out", format, **options)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir()), words
    bad = load_adapter({**state, "v.lora_A.weight": torch.full((2, 8), math.nan), "v.lora_B.weight": torch.ones(4, 2)})
    with pytest.raises(AdapterError, match="module v: A holds NaN"):
        bad.save(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_shape_checks")
def test_wrong_arguments(tmp_path):
    adapter = Adapter.from_factors({"q": (torch.ones(1, 2), torch.ones(2, 1))})
    with pytest.raises(ValueError, match=r"format is 'kohia'.*did you mean 'kohya'"):
        adapter.save(tmp_path / "x", "kohia")
    with pytest.raises(ValueError, match="component is 'unett'"):
        adapter.save(tmp_path / "x", "kohya", component="unett")
    with pytest.raises(AdapterError, match="is a folder"):
        adapter.save(tmp_path / "x.safetensors")


def test_flattened_names_become_the_models(tmp_path):
    net = nn.ModuleDict({"mid_block": nn.ModuleDict({"to_q": nn.Linear(8, 6)}), "other": nn.Linear(3, 3)})
    flat = Adapter.from_factors({"lora_unet_mid_block_to_q": (torch.randn(2, 8), torch.randn(6, 2))}, scaling=0.5)
    folder = flat.save(tmp_path / "peft", base=net)
    assert list(load_adapter(folder)) == ["mid_block.to_q"]
    loaded = peft.PeftModel.from_pretrained(net, folder)
    assert_same_change(deltas(loaded), {"mid_block.to_q": flat["lora_unet_mid_block_to_q"].delta()})


def test_an_adapter_that_is_there_is_kept(tmp_path):
    one, two = (Adapter.from_factors({"q": (torch.full((1, 2), v), torch.ones(2, 1))}) for v in (1.0, 2.0))
    for format, path in (("peft", tmp_path / "folder"), ("kohya", tmp_path / "file.safetensors")):
        one.save(path, format)
        with pytest.raises(AdapterError, match="exists already"):
            two.save(path, format)
        module = next(iter(load_adapter(path)))
        assert load_adapter(path)[module].A[0, 0] == 1
        two.save(path, format, overwrite=True)
        assert load_adapter(path)[module].A[0, 0] == 2
    (tmp_path / "folder" / "README.md").write_text("mine")
    one.save(tmp_path / "folder", overwrite=True)
    assert (tmp_path / "folder" / "README.md").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) & 0o500 == 0o500


def test_nothing_is_left_where_writing_fails(tmp_path, monkeypatch):
    adapter = Adapter.from_factors({"q": (torch.ones(1, 2), torch.ones(2, 1))})

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("asym_analysis.adapters.save.save_file", full)
    for format in FORMATS:
        with pytest.raises(AdapterError, match="cannot be written: No space left on device"):
            adapter.save(tmp_path / "out", format, component=None if format == "peft" else "unet")
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_where_it_came_from_goes_along(tmp_path):
    state = {"q.lora_A.weight": torch.ones(2, 8), "q.lora_B.weight": torch.ones(4, 2)}
    save_file(state, tmp_path / "a.safetensors")
    adapter = load_adapter(tmp_path / "a.safetensors", dialect="peft")
    assert [assumption.what for assumption in adapter.assumptions] == ["scale"]
    folder = adapter.save(tmp_path / "copy", fold_scale=True)
    with safe_open(folder / "adapter_model.safetensors", "pt") as opened:
        record = json.loads(opened.metadata()["asym_analysis"])
    assert record["source"] == str(tmp_path / "a.safetensors")
    assert record["sha256"] == adapter.metadata["sha256"]
    assert record["changes"] == ["scale folded into B"]
    assert load_adapter(folder).assumptions == adapter.assumptions  # still assumed, though alpha is written now
    assert load_adapter(folder, scale=2.0).assumptions == ()
    hostile = {"asym_analysis": json.dumps({"assumed": [3, {"what": 1}]})}
    save_file(state, tmp_path / "b.safetensors", metadata=hostile)
    assert len(load_adapter(tmp_path / "b.safetensors", dialect="peft").assumptions) == 1


def test_tensors_that_could_not_be_used_are_told(tmp_path):
    state = {
        "q.lora_A.weight": torch.ones(2, 8),
        "q.lora_B.weight": torch.ones(4, 2),
        "v.lora_A.weight": torch.ones(2, 8),
    }
    with pytest.warns(UserWarning, match=r"1 tensors of .* are not written \(v\.lora_A\.weight"):
        load_adapter(state).save(tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_was_converted_is_the_change_of_the_pretrained_model(tmp_path, start):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6))
    config = peft.LoraConfig(r=2, lora_alpha=5, target_modules=["0"], init_lora_weights=start)
    model = peft.get_peft_model(copy.deepcopy(net), config)
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "adapter_model.safetensors").rename(tmp_path / "initial.safetensors")
    model = trained(model)
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(NotWritableError, match=r"initial\.safetensors"):
        load_adapter(tmp_path / "theirs").save(tmp_path / "ours")
    (tmp_path / "initial.safetensors").rename(tmp_path / "theirs" / "initial.safetensors")
    loaded = peft.PeftModel.from_pretrained(
        copy.deepcopy(net), load_adapter(tmp_path / "theirs").save(tmp_path / "ours")
    )
    expected = copy.deepcopy(model).merge_and_unload()[0].weight
    torch.testing.assert_close(loaded.merge_and_unload()[0].weight, expected, rtol=1e-4, atol=1e-5)


def test_initial_factors_go_along(tmp_path):
    start = Adapter.from_factors({"q": (torch.randn(2, 8), torch.zeros(4, 2))}, scaling=2.0)
    adapter = Adapter.from_factors({"q": (torch.randn(2, 8), torch.randn(4, 2))}, scaling=2.0, initial=start)
    again = load_adapter(adapter.save(tmp_path / "out"))
    assert again.initial is not None
    assert again.initial["q"].A.equal(start["q"].A)


def test_the_dtype_of_the_file_is_kept_where_it_holds_the_numbers(tmp_path):
    A, B = torch.randn(2, 8).bfloat16(), torch.randn(4, 2).half()
    adapter = load_adapter({"q.lora_A.weight": A, "q.lora_B.weight": B}, scale=0.3)
    tensors = load_file(adapter.save(tmp_path / "out") / "adapter_model.safetensors")
    assert tensors["base_model.model.q.lora_A.weight"].equal(A)
    assert tensors["base_model.model.q.lora_B.weight"].equal(B.float())
    folded = load_adapter(adapter.save(tmp_path / "folded", fold_scale=True))
    torch.testing.assert_close(folded["q"].delta(), adapter["q"].delta())


SAVED = {"LoHaConfig": {"alpha": 3}, "LoKrConfig": {"alpha": 3}, "VeraConfig": {}, "AdaLoraConfig": {"total_step": 9}}


@pytest.mark.parametrize("kind", SAVED)
@pytest.mark.filterwarnings("ignore")
def test_other_updates_are_written_as_pairs(tmp_path, kind):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    options = {"init_r": 2, "target_r": 2} if kind == "AdaLoraConfig" else {"r": 2}
    model = peft.get_peft_model(
        copy.deepcopy(net), getattr(peft, kind)(target_modules=["0", "1"], **options, **SAVED[kind])
    )
    model = trained(model)
    loaded = peft.PeftModel.from_pretrained(net, load_adapter(model).save(tmp_path / "out"))
    expected = deltas(model)
    assert len(expected) == 2
    for name, delta in deltas(loaded).items():
        torch.testing.assert_close(delta, expected[name], rtol=1e-4, atol=1e-5)


def test_every_real_file_round_trips(shared_adapters: Path, tmp_path):
    """In PEFT's format, and every third in the others where they can hold it: same modules, same dW within 1e-6."""
    folders = [folder for folder in sorted(shared_adapters.glob("*/*")) if folder.is_dir()]
    adapters = [a for a in load_adapters(folders, on_error="collect") if max(s.d_out for s in map(a.source, a)) < 4000]
    assert len(adapters) > 30
    written = dict.fromkeys(FORMATS, 0)
    for number, adapter in enumerate(adapters):
        for format in FORMATS if number % 3 == 0 else FORMATS[:1]:
            component = None if format == "peft" else "unet"
            try:
                path = adapter.save(tmp_path / f"{number}-{format}", format, component=component)
            except NotWritableError:
                continue
            written[format] += 1
            again = load_adapter(path)
            assert again.coverage.complete
            assert len(again) == len(adapter)
            for ours, theirs in [*zip(again, adapter, strict=True)][:: max(len(adapter) - 1, 1)]:
                one, other = again[ours], adapter[theirs]
                if format == "peft":
                    assert ours == theirs
                difference = one.delta().double() - other.delta().double()
                assert difference.norm() <= 1e-6 * other.delta().double().norm(), (adapter.name, format, ours)
            if format == "peft":
                for name, source in adapter.extras.items():
                    assert again.extras[name].read().equal(source.read())
    assert written["peft"] >= len(adapters) - 2
    assert written["kohya"] > 2
