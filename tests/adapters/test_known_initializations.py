"""The table of initializations, held to the layers that the installed PEFT makes and to the package's dialects."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from asym_analysis.adapters.dialects import DIALECTS
from asym_analysis.adapters.known_initializations import LAWS, known_laws

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


@pytest.mark.parametrize("recorded", [True, False, "gaussian", "orthogonal"])
def test_the_table_is_what_peft_draws(recorded: object) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = nn.ModuleDict({"proj": nn.Linear(512, 384), "embed_tokens": nn.Embedding(600, 320)})
    targets = ["proj"] if recorded == "orthogonal" else ["proj", "embed_tokens"]
    config = peft.LoraConfig(r=16, target_modules=targets, init_lora_weights=recorded)
    layers = peft.get_peft_model(model, config).base_model.model
    found = {"proj": (layers["proj"].lora_A["default"].weight, layers["proj"].lora_B["default"].weight)}
    if recorded in (True, "gaussian"):
        embedding = layers["embed_tokens"]
        found["embed_tokens"] = (embedding.lora_embedding_A["default"], embedding.lora_embedding_B["default"])
    for module, (A, B) in found.items():
        known = known_laws({"init_lora_weights": recorded}, f"layers.0.{module}")
        assert known is not None
        assert known.recorded
        for law, factor, fan_in in ((known.A, A, A.shape[1]), (known.B, B, 16)):
            expected = standard_deviation(law, 16, fan_in, max(factor.shape))
            assert factor.square().mean().sqrt().item() == pytest.approx(expected, rel=0.05)
            if law == "kaiming_uniform":
                assert factor.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.01)


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
