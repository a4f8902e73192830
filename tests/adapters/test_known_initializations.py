"""The table of initializations, held to the layers that the installed PEFT makes and to the package's dialects."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asym_analysis import Adapter, initialization_drift, load_adapter, save_adapter
from asym_analysis.adapters.dialects import DIALECTS
from asym_analysis.adapters.known_initializations import LAWS, known_laws, laws_by_module

peft = pytest.importorskip("peft")
pytorch_utils = pytest.importorskip("transformers.pytorch_utils")

WITHOUT_A_DEFAULT = {"gguf", "lorasym", "none", "patterns"}  # converted files, many schemes, no scheme


@pytest.mark.parametrize("dialect", [dialect.name for dialect in DIALECTS])
def test_every_dialect_has_an_entry_or_none_on_purpose(dialect: str) -> None:
    known = known_laws({"dialect": dialect}, "layers.0.q_proj")
    assert (known is None) == (dialect in WITHOUT_A_DEFAULT)
    if known is not None:
        assert {known.A, known.B} <= set(LAWS)
        assert known.B == "zero"
        assert not known.recorded


def standard_deviation(law: str, rank: int, fan_in: int, size: int) -> float:
    return {
        "zero": 0.0,
        "kaiming_uniform": 1 / math.sqrt(3 * fan_in),
        "gaussian": 1 / rank,
        "standard_normal": 1.0,
        "peft_orthogonal": math.sqrt(1 / 200),
    }[law]


#: Names that say nothing, or the wrong thing, of the kind of layer.
LAYERS = {
    "proj": lambda: nn.Linear(512, 384),
    "embedding": lambda: nn.Linear(512, 384),
    "embed_tokens": lambda: nn.Embedding(600, 320),
    "codes": lambda: nn.Embedding(600, 320),
    "conv": lambda: nn.Conv2d(48, 64, 3),
    "grouped": lambda: nn.Conv2d(48, 64, 3, groups=2),
    "turned": lambda: pytorch_utils.Conv1D(384, 512),
}
CONVOLUTIONS = {"conv", "grouped"}


def drawn(layers: dict[str, nn.Module], **options: Any) -> Any:
    torch.manual_seed(0)
    return peft.get_peft_model(nn.ModuleDict(layers), peft.LoraConfig(r=16, target_modules=[*layers], **options))


@pytest.mark.parametrize("recorded", [True, False, "gaussian", "orthogonal", "eva", "pissa", "olora", "mica"])
def test_the_table_is_what_peft_draws(recorded: bool | str) -> None:
    simple = isinstance(recorded, bool) or recorded == "gaussian"
    layers = {name: make() for name, make in LAYERS.items() if simple or name not in CONVOLUTIONS}
    adapter = load_adapter(drawn(layers, init_lora_weights=recorded))
    laws = laws_by_module(adapter)
    for module, update in adapter.items():
        known = laws(module)
        assert known is not None
        assert known.recorded
        for law, factor, fan_in in ((known.A, update.A, update.d_in), (known.B, update.B, 16)):
            assert (law == "zero") == (not factor.any()), module
            if law in ("weights", "composed"):
                continue
            expected = standard_deviation(law, 16, fan_in, max(factor.shape))
            assert factor.square().mean().sqrt().item() == pytest.approx(expected, rel=0.05), module
            if law == "kaiming_uniform":
                assert factor.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.01)
        if simple:
            assert (known.A, known.B).count("composed") == (module == "grouped" and recorded is False)


@pytest.mark.parametrize("tied", [True, False])
def test_an_embedding_that_is_tied_to_the_head_is_drawn_as_the_head(tied: bool) -> None:
    llama = pytest.importorskip("transformers").LlamaConfig(
        vocab_size=400, hidden_size=128, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4
    )
    torch.manual_seed(0)
    model = pytest.importorskip("transformers").LlamaForCausalLM(llama)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    config = peft.LoraConfig(r=8, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=tied)
    adapter = load_adapter(peft.get_peft_model(model, config))
    known = laws_by_module(adapter)("model.embed_tokens")
    assert known is not None
    normal = adapter["model.embed_tokens"].B.abs().max() > 1  # PEFT draws it as the head's A, uniform on 1/sqrt(128)
    assert normal == (known.B == "standard_normal") == (not tied)


@pytest.mark.parametrize("options", [{"use_qalora": True}, {"kasa_config": peft.KasaConfig()}, "blocks"])
def test_what_is_no_plain_pair_has_no_law_of_a_plain_pair(options: Any) -> None:
    if options == "blocks":
        options = {"use_bdlora": peft.BdLoraConfig(target_modules_bd_a=["proj"], nblocks=2)}
    adapter = load_adapter(drawn({"proj": nn.Linear(512, 384)}, **options))
    known = laws_by_module(adapter)("proj")
    assert known is not None
    assert (known.A, known.B) == ("composed", "zero")
    row = initialization_drift(adapter).frame.set_index("factor").loc["A"]
    assert (row.verdict, math.isnan(row.value), math.isnan(row.upper)) == ("cannot tell", True, True)


@pytest.mark.parametrize("recorded", [True, False])
def test_the_experts_of_one_parameter_are_drawn_with_the_fan_in_of_all(recorded: bool) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Parameter(torch.randn(4, 128, 96))

    model = nn.ModuleDict({"experts": Experts()})
    config = peft.LoraConfig(r=16, target_modules=[], target_parameters=["experts.up"], init_lora_weights=recorded)
    adapter = load_adapter(peft.get_peft_model(model, config))
    assert len(adapter) == 4
    for module in adapter:
        known = laws_by_module(adapter)(module)
        assert known is not None
        assert ("kaiming_uniform", "zero" if recorded else "composed") == (known.A, known.B)


def test_a_matrix_between_frozen_factors_did_not_begin_at_zero() -> None:
    name = "base_model.model.layers.0.q"
    tensors = {f"{name}.lora_A.weight": (4, 64), f"{name}.lora_B.weight": (32, 4)}
    tensors |= {f"{name}.default_lora_latent_mapping.weight": (4, 4)}
    values = {key: torch.randn(shape) for key, shape in tensors.items()}
    config = {"peft_type": "LORA", "init_lora_weights": True, "r": 4, "lora_alpha": 4}
    told = initialization_drift(load_adapter(values, config=config)).frame
    assert set(told.verdict) == {"cannot tell"}


def test_products_of_more_than_two_tensors_have_no_default() -> None:
    tensors = {"hada_w1_a": (32, 4), "hada_w1_b": (4, 64), "hada_w2_a": (32, 4), "hada_w2_b": (4, 64)}
    values = {f"lora_unet_mid_proj.{part}": torch.randn(shape) for part, shape in tensors.items()}
    adapter = load_adapter(values | {"lora_unet_mid_proj.alpha": torch.tensor(4.0)})
    assert adapter.metadata["dialect"] == "kohya"
    assert [laws_by_module(adapter)(module) for module in adapter] == [None]


@pytest.mark.parametrize("format", ["peft", "kohya"])
@pytest.mark.parametrize("recorded", [None, "pissa", "gaussian", True])
def test_a_file_that_we_wrote_records_no_more_than_was_known(
    tmp_path: Path, format: Any, recorded: bool | str | None
) -> None:
    metadata = {} if recorded is None else {"init_lora_weights": recorded}
    adapter = Adapter.from_factors({"layers.0.q": (torch.randn(8, 64), torch.randn(32, 8))}, metadata=metadata)
    saved = load_adapter(save_adapter(adapter, tmp_path / "saved", format=format))
    before, after = (laws_by_module(each)(module) for each in (adapter, saved) for module in each)
    assert after == before


def test_initializations_from_the_base_weights_and_other_tuners() -> None:
    for recorded in ("pissa", "pissa_niter_4", "olora", "loftq", "corda", "lora_ga"):
        known = known_laws({"init_lora_weights": recorded}, "q_proj")
        assert known is not None
        assert (known.A, known.B) == ("weights", "weights")
    eva = known_laws({"init_lora_weights": "eva"}, "q_proj")
    assert eva is not None
    assert (eva.A, eva.B) == ("weights", "zero")
    assert known_laws({"peft_type": "LOHA", "dialect": "peft"}, "q_proj") is None
    assert known_laws({"init_lora_weights": "a scheme of tomorrow"}, "q_proj") is None
