"""A mixture-of-experts adapter that PEFT trained and saved, read back: its experts against PEFT's own weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asym_analysis import expert_sharing, load_adapter

EXPERTS, RANK, WIDTH, INNER = 4, 4, 32, 48


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The adapter's folder, and the change of every expert weight as PEFT merges it."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    if (
        not hasattr(peft.LoraConfig, "target_parameters")
        and "target_parameters" not in peft.LoraConfig.__dataclass_fields__
    ):
        pytest.skip("this PEFT has no adapters of parameters")
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=EXPERTS, num_experts_per_tok=2, max_position_embeddings=32,
    )  # fmt: skip
    network = transformers.MixtralForCausalLM(config)
    names = [
        name for name, _ in network.named_parameters() if name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    ]
    if not names:
        pytest.skip("this transformers keeps Mixtral's experts in modules of their own")
    before = {name: value.detach().clone() for name, value in network.named_parameters() if name in names}
    chosen = peft.LoraConfig(
        r=RANK, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM",
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )  # fmt: skip
    model = peft.get_peft_model(network, chosen)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    tokens = torch.randint(0, 64, (8, 16))
    for _ in range(5):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("mixtral")
    model.save_pretrained(folder)
    merged: Any = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    return folder, {name: merged[name].detach() - before[name] for name in names}


def test_every_expert_is_read_as_peft_merges_it(trained: tuple[Path, dict[str, torch.Tensor]]) -> None:
    pytest.importorskip("peft", minversion="0.21", reason="PEFT 0.18 lays experts' updates out the other way round")
    folder, changes = trained
    adapter = load_adapter(folder)
    assert len(adapter) == 2 * (2 * EXPERTS + 1)
    for name, change in changes.items():
        for expert in range(EXPERTS):
            torch.testing.assert_close(adapter[f"{name}.{expert}"].delta(), change[expert], atol=1e-6, rtol=1e-4)


def test_the_experts_share_what_their_stacked_factors_share(trained: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = trained
    adapter = load_adapter(folder)
    found = expert_sharing(adapter, (4, 8)).frame
    assert len(found) == 2 * 2 * 2 * 2  # layers, parameters, factors, dimensions
    assert found["experts"].unique().tolist() == [EXPERTS]
    for _, row in found.iterrows():
        name = row["group"].removesuffix(".*")
        factors = [adapter[f"{name}.{i}"] for i in range(EXPERTS)]
        own = [(u.A if row["factor"] == "A" else u.B.mT).double().numpy() for u in factors]
        values = np.linalg.svd(np.concatenate([f / np.linalg.norm(f) for f in own]), compute_uv=False) ** 2
        assert row["energy"] == pytest.approx(values[: row["rank"]].sum() / values.sum(), rel=1e-6)
        assert row["parameters"] == sum(f.size for f in own)


def test_experts_of_one_initialization_of_a_are_told_from_the_file(
    trained: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """PEFT draws an A for each expert; with one A for all, its energy in RANK dimensions is 1."""
    from safetensors.torch import load_file, save_file

    folder, _ = trained
    state = load_file(folder / "adapter_model.safetensors")
    for key, value in state.items():
        if "experts" in key and "lora_A" in key:
            state[key] = value[:RANK].repeat(EXPERTS, 1)
    save_file(state, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    shared, apart = (expert_sharing(load_adapter(f), (RANK,)).frame.query("factor == 'A'") for f in (tmp_path, folder))
    assert shared["energy"].to_numpy() == pytest.approx(1)
    assert (apart["energy"] < 0.75).all()
    assert (shared["energy"] > shared["null_mean"] + 5 * shared["null_std"]).all()
