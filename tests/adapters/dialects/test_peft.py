"""Every low-rank tuner that PEFT can make, against PEFT's own `get_delta_weight`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import NotAnAdapterError

LLAMA = LlamaConfig(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=40,
)
GPT2 = GPT2Config(n_embd=12, n_layer=2, n_head=2, vocab_size=30, n_positions=16)
BERT = BertConfig(
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=20,
    vocab_size=30,
    max_position_embeddings=16,
)


class Convolutions(nn.Module):
    """One- and two-dimensional convolutions, with a strided kernel and with groups."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 6, 3, padding=1)
        self.point = nn.Conv2d(6, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.line = nn.Conv1d(8, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.point(self.wide(x)))
        return self.head(self.line(x.flatten(2)).mean(-1))


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    makers: dict[str, Callable[[], nn.Module]] = {
        "llama": lambda: LlamaForCausalLM(LLAMA),
        "gpt2": lambda: GPT2LMHeadModel(GPT2),
        "bert": lambda: BertModel(BERT),
        "conv": Convolutions,
    }
    return makers[kind]()


def deltas(model: nn.Module, adapter: str = "default") -> dict[str, torch.Tensor]:
    """PEFT's own dense update of each adapted module, by the module's name in the base model."""
    found = {}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "get_delta_weight") and adapter in getattr(module, "_available_adapters", [adapter]):
            with torch.no_grad():
                found[name.replace(".base_layer.", ".")] = module.get_delta_weight(adapter)
    return found


def reloaded(kind: str, folder: Path) -> nn.Module:
    """The model as PEFT loads it: it writes its config sorted by key, so overlapping patterns may apply otherwise."""
    return peft.PeftModel.from_pretrained(build(kind), folder)


def assert_same(adapter: Adapter, expected: dict[str, torch.Tensor]) -> None:
    assert set(adapter) == set(expected)
    for module, dense in expected.items():
        update = adapter[module]
        ours = update.delta().reshape(dense.shape)
        assert torch.linalg.norm(ours - dense) <= 1e-6 * torch.linalg.norm(dense), module
        assert dense.abs().max() > 0
        if dense.ndim == 2:
            assert update.delta().shape == dense.shape, "the layout of the model's own weight"
        matrix = (update.scaling * update.B @ update.A).double()
        torch.testing.assert_close(update.frobenius_norm(), matrix.norm().item(), rtol=1e-5, atol=0)
        dense_values = torch.linalg.svdvals(matrix)
        values = update.singular_values().double()
        torch.testing.assert_close(values, dense_values[: len(values)], rtol=1e-4, atol=1e-5 * dense_values[0].item())
        assert (adapter.source(module).d_out, adapter.source(module).d_in) == update.shape
        assert adapter.source(module).rank == update.rank


LORA = {
    "plain": ("llama", {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "rank larger than the input": ("llama", {"r": 32, "target_modules": ["q_proj"]}),
    "rank one": ("llama", {"r": 1, "lora_alpha": 3, "target_modules": "all-linear"}),
    "rank-stabilized": ("llama", {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": ["q_proj"]}),
    "patterns": (
        "llama",
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            "rank_pattern": {"k_proj": 2, r"layers\.1\.self_attn\.o_proj": 3},
            "alpha_pattern": {"v_proj": 1, "layers.0.*": 32},
        },
    ),
    "overlapping alpha patterns": (
        "llama",
        {
            "r": 4,
            "lora_alpha": 8,
            "target_modules": ["q_proj", "v_proj"],
            "alpha_pattern": {"proj": 5, "q_proj": 16, "model.layers.0.self_attn.q_proj": 496, "self_attn.v_proj": 2},
        },
    ),
    "patterns, rank-stabilized": (
        "llama",
        {
            "r": 4,
            "use_rslora": True,
            "target_modules": ["q_proj", "v_proj"],
            "rank_pattern": {"^model.layers.1.self_attn.q_proj": 8},
            "alpha_pattern": {"q_proj": 16},
        },
    ),
    "Conv1D": ("gpt2", {"r": 3, "lora_alpha": 7, "fan_in_fan_out": True, "target_modules": ["c_attn", "c_proj"]}),
    "embedding": ("llama", {"r": 3, "lora_alpha": 5, "target_modules": ["embed_tokens", "q_proj"]}),
    "convolutions": ("conv", {"r": 4, "lora_alpha": 6, "target_modules": ["wide", "point", "line", "head"]}),
    "bias of B": ("llama", {"r": 4, "lora_bias": True, "target_modules": ["q_proj"]}),
    "all biases": ("bert", {"r": 4, "bias": "all", "target_modules": ["query"]}),
    "DoRA": ("llama", {"r": 4, "lora_alpha": 6, "use_dora": True, "target_modules": ["q_proj", "down_proj"]}),
    "DoRA embedding": ("llama", {"r": 4, "use_dora": True, "target_modules": ["embed_tokens"]}),
    "DoRA convolutions": ("conv", {"r": 4, "use_dora": True, "target_modules": ["wide", "line"]}),
    "OLoRA": ("llama", {"r": 4, "init_lora_weights": "olora", "target_modules": ["q_proj"]}),
    "PiSSA": ("llama", {"r": 4, "init_lora_weights": "pissa", "target_modules": ["q_proj"]}),
    "orthogonal": ("llama", {"r": 4, "init_lora_weights": "orthogonal", "target_modules": ["q_proj"]}),
    "one layer": ("llama", {"r": 4, "layers_to_transform": [1], "target_modules": ["q_proj"]}),
    "head saved": ("llama", {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "trainable tokens": (
        "llama",
        {"r": 4, "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2]}},
    ),
    "double precision": ("llama", {"r": 4, "target_modules": ["q_proj"]}),
}


@pytest.mark.parametrize("case", LORA)
def test_lora(case: str, tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Callable[..., None]) -> None:
    kind, options = LORA[case]
    model = peft.get_peft_model(build(kind), peft.LoraConfig(**options))
    if case == "double precision":
        model = model.double()
    randomized(model)
    model.save_pretrained(tmp_path)
    adapter = read_folder(tmp_path)
    assert_same(adapter, deltas(reloaded(kind, tmp_path)))
    assert adapter.metadata["dialect"] == "peft"
    assert adapter.coverage.complete
    assert adapter.metadata["peft_type"] == "LORA"
    assert ("encoder.layer.0.attention.self.query.bias" in adapter.extras) == (case == "all biases")
    for module in adapter:
        assert adapter[module].is_low_rank is not options.get("use_dora", False)
        assert adapter[module].A.dtype == (torch.float64 if case == "double precision" else torch.float32)


OTHER_TUNERS: dict[str, tuple[str, Any]] = {
    "LoHa": ("llama", peft.LoHaConfig(r=3, alpha=7, target_modules=["q_proj", "down_proj"])),
    "LoHa of more rank than size": ("llama", peft.LoHaConfig(r=8, alpha=7, target_modules=["q_proj", "down_proj"])),
    "LoKr of more rank than size": (
        "llama",
        peft.LoKrConfig(r=1, alpha=7, decompose_both=True, decompose_factor=4, target_modules=["q_proj", "up_proj"]),
    ),
    "LoHa with patterns": (
        "llama",
        peft.LoHaConfig(
            r=3, alpha=7, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 2}
        ),
    ),
    "LoHa convolutions": ("conv", peft.LoHaConfig(r=2, alpha=3, target_modules=["wide", "point", "line", "head"])),
    "LoHa Tucker": (
        "conv",
        peft.LoHaConfig(r=2, alpha=3, use_effective_conv2d=True, target_modules=["wide", "point", "line", "grouped"]),
    ),
    "LoKr": ("llama", peft.LoKrConfig(r=2, alpha=7, target_modules=["q_proj", "down_proj"])),
    "LoKr whole": ("llama", peft.LoKrConfig(r=64, alpha=7, target_modules=["q_proj", "down_proj"])),
    "LoKr both": ("llama", peft.LoKrConfig(r=1, alpha=7, decompose_both=True, target_modules=["q_proj", "down_proj"])),
    "LoKr factor": ("llama", peft.LoKrConfig(r=2, alpha=7, decompose_factor=2, target_modules=["up_proj"])),
    "LoKr convolutions": ("conv", peft.LoKrConfig(r=1, alpha=3, target_modules=["wide", "point", "line", "head"])),
    "LoKr whole convolutions": ("conv", peft.LoKrConfig(r=9, alpha=3, target_modules=["wide", "point", "line"])),
    "LoKr Tucker": (
        "conv",
        peft.LoKrConfig(r=1, alpha=3, use_effective_conv2d=True, target_modules=["wide", "point", "grouped"]),
    ),
    "AdaLoRA": (
        "llama",
        peft.AdaLoraConfig(init_r=5, lora_alpha=7, total_step=10, target_modules=["q_proj", "v_proj"]),
    ),
    "AdaLoRA Conv1D": (
        "gpt2",
        peft.AdaLoraConfig(init_r=5, total_step=10, fan_in_fan_out=True, target_modules=["c_attn"]),
    ),
    "AdaLoRA convolution": ("conv", peft.AdaLoraConfig(init_r=3, total_step=10, target_modules=["wide", "head"])),
    "DeLoRA": ("llama", peft.DeloraConfig(r=4, delora_lambda=3, target_modules=["q_proj", "down_proj"])),
    "GraLoRA": ("llama", peft.GraloraConfig(r=4, gralora_k=2, alpha=6, target_modules=["q_proj", "down_proj"])),
    "GraLoRA hybrid": (
        "llama",
        peft.GraloraConfig(r=8, gralora_k=4, hybrid_r=2, alpha=6, target_modules=["q_proj", "up_proj"]),
    ),
    "VB-LoRA": (
        "llama",
        peft.VBLoRAConfig(r=4, topk=2, num_vectors=10, vector_length=8, target_modules=["q_proj", "v_proj"]),
    ),
    "VB-LoRA, top weights": (
        "llama",
        peft.VBLoRAConfig(
            r=4, topk=3, num_vectors=10, vector_length=8, save_only_topk_weights=True, target_modules=["down_proj"]
        ),
    ),
    "VeRA": ("llama", peft.VeraConfig(r=5, target_modules=["q_proj", "v_proj"])),
    "VeRA Conv1D": ("gpt2", peft.VeraConfig(r=5, fan_in_fan_out=True, target_modules=["c_attn"])),
}


@pytest.mark.parametrize("case", OTHER_TUNERS)
def test_other_tuners(
    case: str, tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Callable[..., None]
) -> None:
    kind, config = OTHER_TUNERS[case]
    model = peft.get_peft_model(build(kind), copy.deepcopy(config))
    randomized(model)
    model.save_pretrained(tmp_path)
    adapter = read_folder(tmp_path)
    assert_same(adapter, deltas(reloaded(kind, tmp_path)))
    assert adapter.coverage.complete


def test_adalora_after_pruning(tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any) -> None:
    """Pruned modules have fewer rows, but keep the scale of the rank that training began with."""
    config = peft.AdaLoraConfig(init_r=5, target_r=2, lora_alpha=7, total_step=10, target_modules=["q_proj"])
    model = peft.get_peft_model(build("llama"), config)
    randomized(model)
    pattern = {
        f"model.layers.{layer}.self_attn.q_proj.lora_E.default": [True, False, True, layer == 0, False]
        for layer in range(2)
    }
    model.peft_config["default"].rank_pattern = pattern
    model.save_pretrained(tmp_path)
    adapter = read_folder(tmp_path)
    assert adapter.ranks == (2, 3)
    assert_same(adapter, deltas(reloaded("llama", tmp_path)))


def test_grouped_convolution_as_a_function(read: Callable[..., Adapter], randomized: Any) -> None:
    """PEFT cannot merge a grouped convolution; its forward pass is that of the dense update."""
    model = peft.get_peft_model(build("conv"), peft.LoraConfig(r=4, lora_alpha=6, target_modules=["grouped"]))
    randomized(model)
    tensors = peft.get_peft_model_state_dict(model)
    update = read(tensors, model.peft_config["default"].to_dict())["grouped"]
    layer = model.get_base_model().grouped
    x = torch.randn(2, 8, 5, 5)
    with torch.no_grad():
        expected = layer(x) - layer.base_layer(x)
    ours = nn.functional.conv2d(x, update.delta(), padding=1)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert update.weight_shape == (8, 8, 3, 3)


def test_attention_with_its_own_projections(
    tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any
) -> None:
    """`nn.MultiheadAttention` nests the update of out_proj in its own, with the same rank and alpha."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2)

    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["attend"], alpha_pattern={"attend": 9})
    model = peft.get_peft_model(Attention(), config)
    randomized(model)
    model.save_pretrained(tmp_path)
    adapter = read_folder(tmp_path)
    layer = model.get_base_model().attend
    with torch.no_grad():
        expected = {
            "attend": layer.get_delta_weight("default"),
            "attend.out_proj": layer.base_layer.out_proj.get_delta_weight("default"),
        }
    assert_same(adapter, expected)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_conversion_of_changed_bases(
    init: str, tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any
) -> None:
    """PiSSA and OLoRA saved as plain LoRA: twice the rank, and the update of the weight that the model came with."""
    base = build("llama")
    before = {name: p.clone() for name, p in base.state_dict().items()}
    config = peft.LoraConfig(r=2, lora_alpha=3, init_lora_weights=init, target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(base, config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "initial")
    randomized(model)
    model.peft_config["default"].init_lora_weights = init
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    adapter = read_folder(tmp_path / "converted")
    after = model.merge_and_unload().state_dict()
    assert adapter.ranks == (4,)
    for module in adapter:
        change = after[f"{module}.weight"] - before[f"{module}.weight"]
        torch.testing.assert_close(adapter[module].delta(), change, rtol=1e-4, atol=1e-5)


def test_weight_after_merging(read: Callable[..., Adapter], randomized: Any) -> None:
    base = build("gpt2")
    before = {name: p.clone() for name, p in base.state_dict().items()}
    config = peft.LoraConfig(r=3, use_rslora=True, fan_in_fan_out=True, target_modules=["c_attn", "wte"])
    model = peft.get_peft_model(base, config)
    randomized(model)
    adapter = read(peft.get_peft_model_state_dict(model, save_embedding_layers=False), config.to_dict())
    after = model.merge_and_unload().state_dict()
    assert len(adapter) == 3
    for module in adapter:
        change = after[f"{module}.weight"] - before[f"{module}.weight"]
        torch.testing.assert_close(adapter[module].delta(), change, rtol=1e-5, atol=1e-5)


def test_block_diagonal_lora(tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any) -> None:
    from peft.tuners.lora.config import BdLoraConfig
    from peft.tuners.lora.variants import BdLoraLinearVariant

    blocks = BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2, match_strict=False)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "o_proj"], use_bdlora=blocks)
    model = peft.get_peft_model(build("llama"), config)
    randomized(model)
    model.save_pretrained(tmp_path)
    expected = {}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "get_delta_weight"):
            with torch.no_grad():
                expected[name] = BdLoraLinearVariant._get_bdlora_delta_weight(module, "default")
    assert_same(read_folder(tmp_path), expected)


def test_kasa(tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any) -> None:
    from peft.tuners.lora.config import KasaConfig
    from peft.tuners.lora.variants import KasaLinearVariant

    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], kasa_config=KasaConfig())
    model = peft.get_peft_model(build("llama"), config)
    randomized(model)
    model.save_pretrained(tmp_path)
    expected = {
        name: KasaLinearVariant._get_delta_weight(module, "default").detach()
        for name, module in model.get_base_model().named_modules()
        if hasattr(module, "lora_diag")
    }
    assert_same(read_folder(tmp_path), expected)


def test_mica_trains_one_factor(tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any) -> None:
    model = peft.get_peft_model(
        build("llama"), peft.LoraConfig(r=4, init_lora_weights="mica", target_modules=["q_proj"])
    )
    randomized(model)
    model.save_pretrained(tmp_path)
    adapter = read_folder(tmp_path)
    assert_same(adapter, deltas(model))
    assert {adapter.source(module).trained for module in adapter} == {frozenset("A")}


def test_quantization_aware_pooling(read: Callable[..., Adapter]) -> None:
    """QA-LoRA's forward pass, on a layer that stands in for the quantized one it needs."""
    from types import SimpleNamespace

    from peft.tuners.lora.variants import QALoraLinearVariant

    A, B = nn.Linear(3, 2, bias=False), nn.Linear(2, 5, bias=False)
    layer = SimpleNamespace(
        lora_A={"x": A}, lora_B={"x": B}, lora_dropout={"x": nn.Identity()}, scaling={"x": 1.5},
        qalora_group_size={"x": 4}, in_features=12, training=False,
    )  # fmt: skip
    x = torch.randn(7, 12)
    with torch.no_grad():
        expected = QALoraLinearVariant.forward(layer, "x", x, torch.zeros(7, 5))
    tensors = {
        "base_model.model.q.lora_A.weight": A.weight.detach(),
        "base_model.model.q.lora_B.weight": B.weight.detach(),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "use_qalora": True, "qalora_group_size": 4}
    torch.testing.assert_close(x @ read(tensors, config)["q"].delta().T, expected, rtol=1e-5, atol=1e-5)


class Experts(nn.Module):
    """A stack of experts in two parameters, as fused mixture-of-experts layers keep them."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.is_transposed = transposed
        shapes = ((3, 8, 12), (3, 6, 8)) if transposed else ((3, 12, 8), (3, 8, 6))
        self.gate_up_proj, self.down_proj = (nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class MixtureOfExperts(nn.Module):
    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.mlp = nn.Module()
        self.mlp.experts = Experts(transposed=transposed)
        self.q_proj = nn.Linear(8, 8)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("names", [("gate_up_proj",), ("down_proj", "gate_up_proj")])
def test_target_parameters(
    transposed: bool, names: tuple[str, ...], tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any
) -> None:
    """One module for each expert of each parameter, whose updates are the slices of PEFT's three-dimensional one."""
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["q_proj"], target_parameters=[f"mlp.experts.{name}" for name in names]
    )
    model = peft.get_peft_model(MixtureOfExperts(transposed=transposed), config)
    randomized(model)
    model.save_pretrained(tmp_path)
    adapter = read_folder(tmp_path)
    expected = {"q_proj": model.get_base_model().q_proj.get_delta_weight("default").detach()}
    for module in model.get_base_model().modules():
        if hasattr(module, "parameter_name"):
            with torch.no_grad():
                stack = module.get_delta_weight("default")
            stack = stack.mT if transposed else stack
            for expert in range(3):
                expected[f"mlp.experts.{module.parameter_name}.{expert}"] = stack[expert]
    assert len(expected) == 1 + 3 * len(names)
    assert_same(adapter, expected)
    assert not adapter.assumptions


@pytest.mark.parametrize(
    ("version", "known"),
    [(None, False), ("0.18.0", False), ("0.19.0", False), ("0.19.1.dev0", False), ("0.19.1", True), ("0.20.0", True),
     ("0.19.2.dev0@a0887f672", True), ("1.0.0", True), ("unknown", False)],
)  # fmt: skip
def test_which_version_wrote_experts_decides_whether_their_orientation_is_known(
    version: str | None, known: bool, read: Callable[..., Adapter]
) -> None:
    """Before its commit e84dd8f40, PEFT took the first axis of a three-dimensional weight for the input."""
    stem = "base_model.model.mlp.experts.lora_"
    tensors = {f"{stem}A.weight": torch.randn(6, 8), f"{stem}B.weight": torch.randn(12, 6)}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_parameters": ["mlp.experts.gate_up_proj"]}
    adapter = read(tensors, config if version is None else config | {"peft_version": version})
    assert len(adapter) == 3
    assert ["orientation of experts" in each.what for each in adapter.assumptions] == ([] if known else [True])


def test_vera_without_its_projections(tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any) -> None:
    """Drawn again from the key, if the input sizes are given; otherwise refused with what to give."""
    from asym_analysis.adapters.dialects import PeftDialect
    from asym_analysis.errors import AdapterError

    options = {"r": 5, "projection_prng_key": 3, "target_modules": ["q_proj", "down_proj"]}
    for save in (True, False):
        model = peft.get_peft_model(build("llama"), peft.VeraConfig(save_projection=save, **options))
        randomized(model)
        model.save_pretrained(tmp_path)
        with pytest.raises(AdapterError, match="in_features"):
            read_folder(tmp_path)
        adapter = read_folder(tmp_path, dialect=PeftDialect(in_features={"q_proj": 16, "down_proj": 24}))
        assert_same(adapter, deltas(reloaded("llama", tmp_path)))


def test_state_dict_of_a_wrapped_model(read: Callable[..., Adapter], randomized: Any) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = peft.get_peft_model(build("llama"), config)
    randomized(model)
    adapter = read(model.state_dict(), config.to_dict())
    assert_same(adapter, deltas(model))
    assert list(adapter.extras) == ["lm_head.weight"]
    assert adapter.coverage.complete
    assert len(adapter.coverage.ignored) > 10
    distributed = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    assert list(read(distributed, config.to_dict())) == list(adapter)


def test_several_adapters_in_one_file(read: Callable[..., Adapter], randomized: Any) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"])
    model = peft.get_peft_model(build("llama"), config, adapter_name="first")
    model.add_adapter("second", config)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    randomized(model)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if "lora_" in name}
    adapter = read(tensors, config.to_dict())
    expected = {
        f"{name}/{module}": delta for name in ("first", "second") for module, delta in deltas(model, name).items()
    }
    assert_same(adapter, expected)
    assert adapter.metadata["adapters"] == "first, second"


def test_double_prefix_that_peft_itself_loads_nothing_from(read: Callable[..., Adapter], randomized: Any) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"])
    model = peft.get_peft_model(build("llama"), config)
    randomized(model)
    tensors = {f"base_model.model.{name}": t for name, t in peft.get_peft_model_state_dict(model).items()}
    assert_same(read(tensors, config.to_dict()), deltas(model))


OTHER_KINDS: dict[str, Any] = {
    "IA3": lambda: peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj"]),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=["q_proj"]),
    "FOURIERFT": lambda: peft.FourierFTConfig(n_frequency=10, target_modules=["q_proj"]),
    "C3A": lambda: peft.C3AConfig(block_size=4, target_modules=["q_proj"]),
    "SHIRA": lambda: peft.ShiraConfig(r=2, target_modules=["q_proj"]),
    "layer-norm": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "prompt tuning": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "prefix tuning": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "P-tuning": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "trainable tokens": lambda: peft.TrainableTokensConfig(token_indices=[1, 2], target_modules=["embed_tokens"]),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_are_refused_by_name(kind: str, tmp_path: Path, read_folder: Callable[..., Adapter]) -> None:
    model = peft.get_peft_model(build("llama"), OTHER_KINDS[kind]())
    model.save_pretrained(tmp_path)
    with pytest.raises(NotAnAdapterError, match=kind):
        read_folder(tmp_path)


@pytest.mark.parametrize("kind", ["LORA", "ADALORA", "LOHA", "LOKR", "GRALORA"])
def test_a_config_without_alpha_has_the_default_of_peft(kind: str) -> None:
    from asym_analysis.adapters.dialects.peft.config import PeftConfig

    defaults = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)].__dataclass_fields__
    expected = defaults["lora_alpha" if kind in ("LORA", "ADALORA") else "alpha"].default
    config = PeftConfig({"peft_type": kind, "r": 4})
    assert config.alpha == expected
    assert config.scaling("q", 4) == expected / 4
    assert config.scaling_source == f"PEFT's default, alpha {expected}: the adapter config gives none"
    assert config.records_alpha
    assert PeftConfig({"r": 4}).alpha is None


def test_vera_on_towers_of_two_widths(tmp_path: Path, read_folder: Callable[..., Adapter], randomized: Any) -> None:
    """The text tower of a CLIP is narrower than the vision tower: neither width may be taken for the other's."""
    from asym_analysis import load_adapter
    from asym_analysis.errors import AdapterError

    def tower(width: int) -> nn.Module:
        layer = nn.ModuleDict({"self_attn": nn.ModuleDict({"q_proj": nn.Linear(width, width)})})
        return nn.ModuleDict({"layers": nn.ModuleList([layer])})

    def build_towers(text: int) -> nn.Module:
        torch.manual_seed(0)
        return nn.ModuleDict({"text_model": tower(text), "vision_model": tower(12)})

    for text in (8, 12):
        base = build_towers(text)
        before = {name: value.clone() for name, value in base.state_dict().items()}
        model = peft.get_peft_model(base, peft.VeraConfig(r=3, target_modules=["q_proj"]))
        randomized(model)
        folder = tmp_path / str(text)
        model.save_pretrained(folder)
        expected = deltas(model)
        assert_same(load_adapter(folder, base=before), expected)
        assert_same(load_adapter(folder, in_features={"text_model.*": text, "vision_model.*": 12}), expected)
        assert_same(load_adapter(model), expected)
        if text == 12:
            assert_same(read_folder(folder), expected)
        else:
            with pytest.raises(AdapterError, match="no input size and the modules' may differ"):
                read_folder(folder)


def test_lora_xs(read: Callable[..., Adapter]) -> None:
    """LoRA-XS trains a matrix between frozen factors, which its code adds to PEFT's layers."""
    torch.manual_seed(0)
    A, R, B = torch.randn(3, 8), torch.randn(3, 3), torch.randn(5, 3)
    prefix = "base_model.model.layers.0.q_proj"
    tensors = {
        f"{prefix}.lora_A.weight": A,
        f"{prefix}.lora_B.weight": B,
        f"{prefix}.default_lora_latent_mapping.weight": R,
    }
    adapter = read(tensors, {"peft_type": "LORA", "r": 3, "lora_alpha": 6})
    torch.testing.assert_close(adapter["layers.0.q_proj"].delta(), 2 * B @ R @ A)
    assert list(adapter.source("layers.0.q_proj").trained_parts()) == ["R"]
    assert not adapter.extras


def test_modules_that_adalora_pruned_to_rank_zero(read: Callable[..., Adapter]) -> None:
    from asym_analysis.errors import AdapterError

    def module(name: str, rank: int) -> dict[str, torch.Tensor]:
        prefix = f"base_model.model.{name}.lora_"
        shapes = {"A": (rank, 6), "B": (4, rank), "E": (rank, 1)}
        return {f"{prefix}{part}": torch.ones(shape) for part, shape in shapes.items()}

    config = {"peft_type": "ADALORA", "init_r": 3, "lora_alpha": 3}
    adapter = read({**module("q", 2), **module("v", 0)}, config)
    assert list(adapter) == ["q"]
    assert adapter.coverage.complete
    assert set(adapter.coverage.ignored.values()) == {"AdaLoRA pruned this module to rank 0: its update is zero"}
    with pytest.raises(AdapterError, match="pruned this module to rank 0"):
        read(module("v", 0), config)


def test_a_complex_alpha_is_refused_in_one_sentence(read: Callable[..., Adapter]) -> None:
    from asym_analysis.errors import AdapterError

    pair = {"q.lora_A.weight": torch.ones(2, 6), "q.lora_B.weight": torch.ones(4, 2)}
    for alpha in (torch.tensor(1 + 2j), torch.ones(3)):
        with pytest.raises(AdapterError, match=r"q\.alpha (holds a complex number|should hold one number)"):
            read({**pair, "q.alpha": alpha}, dialect="peft")
