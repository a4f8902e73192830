"""Files as each trainer saves them, config and all, held to the weight that the trainer merges."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from asym_analysis import load_adapter
from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import AdapterError


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).float()


def assert_merged(adapter: Adapter, module: str, base: Tensor, merged: Tensor) -> None:
    torch.testing.assert_close(base + adapter[module].delta(), merged, rtol=1e-5, atol=1e-5)


def assumed(adapter: Adapter) -> list[str]:
    return [assumption.what for assumption in adapter.assumptions]


class TestLitGpt:
    """`litgpt finetune_lora` writes lit_model.pth.lora, hyperparameters.yaml and model_config.yaml."""

    embedding, head_size, rank, alpha = 12, 3, 2, 7

    def save(self, folder: Path, enabled: tuple[bool, bool, bool], *, groups: int, name: str) -> dict[str, Tensor]:
        query, key, value = enabled
        rows = (4 * self.head_size * query, groups * self.head_size * key, groups * self.head_size * value)
        qkv, proj = f"transformer.h.0.attn.{name}", "transformer.h.0.attn.proj"
        tensors = {
            f"{qkv}.lora_A": normal(self.rank * sum(enabled), self.embedding),
            f"{qkv}.lora_B": normal(sum(rows), self.rank),
            f"{proj}.lora_A": normal(self.rank, self.embedding),
            f"{proj}.lora_B": normal(self.embedding, self.rank),
        }
        torch.save({"model": tensors}, folder / "lit_model.pth.lora")
        names = ("query", "key", "value", "projection", "mlp", "head")
        flags = dict(zip(names, (*enabled, True, False, False), strict=True))
        settings = {
            "checkpoint_dir": "checkpoints/x/y",
            "precision": None,
            "lora_r": self.rank,
            "lora_alpha": self.alpha,
        }
        settings |= {f"lora_{name}": flag for name, flag in flags.items()}
        (folder / "hyperparameters.yaml").write_text(yaml.safe_dump(settings))
        sizes = {"n_embd": self.embedding, "n_head": 4, "n_query_groups": groups, "head_size": self.head_size}
        (folder / "model_config.yaml").write_text(yaml.safe_dump({"name": "pythia", **sizes}))
        return tensors

    def merged(
        self, tensors: dict[str, Tensor], enabled: tuple[bool, bool, bool], groups: int, name: str
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The fused update: a product for each part, whose rows go to the places of that part in the fused weight."""
        A, B = (tensors[f"transformer.h.0.attn.{name}.lora_{factor}"] for factor in "AB")
        size, q_per_kv = self.head_size, 4 // groups
        rows = torch.arange((4 + 2 * groups) * size)
        if name == "attn" and not all(enabled):
            # Interleaved: the queries of a group, its key, its value, the next group's queries, ... Where all three are
            # enabled, these versions add the rows in the order of the stack.
            place = (rows // size) % (q_per_kv + 2)
            places = (place < q_per_kv, place == q_per_kv, place == q_per_kv + 1)
        else:
            places = (rows < 4 * size, (rows >= 4 * size) & (rows < (4 + groups) * size), rows >= (4 + groups) * size)
        fused = torch.zeros(len(rows), self.embedding)
        first, index = 0, 0
        for part, there in enumerate(enabled):
            if there:
                count = int(places[part].sum())
                fused[places[part]] = B[first : first + count] @ A[index * self.rank : (index + 1) * self.rank]
                first, index = first + count, index + 1
        return self.alpha / self.rank * fused, places

    @pytest.mark.parametrize("groups", [1, 2, 4])
    @pytest.mark.parametrize("enabled", [(True, False, True), (True, True, True), (False, True, False)])
    @pytest.mark.parametrize("name", ["attn", "qkv"])
    def test_fused_projection(self, name: str, enabled: tuple[bool, bool, bool], groups: int, tmp_path: Path) -> None:
        tensors = self.save(tmp_path, enabled, groups=groups, name=name)
        adapter = load_adapter(tmp_path)
        assert adapter.metadata["dialect"] == "lit-gpt"
        assert not adapter.assumptions
        fused, places = self.merged(tensors, enabled, groups, name)
        modules = [f"transformer.h.0.attn.{name}.{part}" for part in ("query", "key", "value")]
        for module, place, there in zip(modules, places, enabled, strict=True):
            assert (module in adapter) == there
            if there:
                torch.testing.assert_close(adapter[module].delta(), fused[place], rtol=1e-5, atol=1e-5)
        A, B = (tensors[f"transformer.h.0.attn.proj.lora_{factor}"] for factor in "AB")
        torch.testing.assert_close(adapter["transformer.h.0.attn.proj"].delta(), 3.5 * B @ A)

    def test_weights_alone(self, tmp_path: Path) -> None:
        """Without its configs the scale is assumed, and a fused projection of unequal parts cannot be split."""
        self.save(tmp_path, (True, False, True), groups=2, name="attn")
        settings = tmp_path / "hyperparameters.yaml"
        sizes = (tmp_path / "model_config.yaml").rename(tmp_path / "sizes.yaml")
        values = yaml.safe_load(settings.read_text())
        settings.unlink()
        alone = load_adapter(tmp_path)
        assert "scale" in assumed(alone)
        assert "model_config.yaml" in str(alone.coverage.refused)
        both = {**values, **yaml.safe_load(sizes.read_text())}
        given = load_adapter(tmp_path, config=both)
        assert len(given) == 3
        assert not given.assumptions
        assert load_adapter(tmp_path, alpha=7)["transformer.h.0.attn.proj"].scaling == 3.5


class TestClipLora:
    @pytest.mark.parametrize("rank", [2, 4])
    def test_scale(self, rank: int, tmp_path: Path) -> None:
        """Weights by layer and projection, with the metadata that its loader compares; alpha / sqrt(r)."""
        layers = {
            f"layer_{layer}": {
                name: {"w_lora_A": normal(rank, 8), "w_lora_B": normal(8, rank)} for name in ("q_proj", "v_proj")
            }
            for layer in range(2)
        }
        metadata = {"r": rank, "alpha": 3, "encoder": "both", "params": ["q", "v"], "position": "all"}
        torch.save({"weights": layers, "metadata": metadata}, tmp_path / "lora_weights.pt")
        adapter = load_adapter(tmp_path)
        assert adapter.metadata["dialect"] == "clip-lora"
        assert not adapter.assumptions
        factors = layers["layer_1"]["v_proj"]
        merged = 3 / rank**0.5 * factors["w_lora_B"] @ factors["w_lora_A"]
        assert_merged(adapter, "layer_1.v_proj", torch.zeros(8, 8), merged)
        assert adapter.frame[["layer", "projection"]].values.tolist() == [
            [0, "q_proj"], [0, "v_proj"], [1, "q_proj"], [1, "v_proj"],
        ]  # fmt: skip


MLX = "model.layers.0.self_attn.q_proj"


class TestMlx:
    def save(self, folder: Path, tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Adapter:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "adapters.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return load_adapter(folder)

    def test_linear_and_embedding(self, tmp_path: Path) -> None:
        config = {"fine_tune_type": "lora", "lora_parameters": {"rank": 3, "dropout": 0.0, "scale": 20.0}, "model": "m"}
        a, b = normal(8, 3), normal(3, 5)
        table_a, table_b = normal(30, 3), normal(3, 8)
        tensors = {f"{MLX}.lora_a": a, f"{MLX}.lora_b": b}
        tensors |= {"model.embed_tokens.lora_a": table_a, "model.embed_tokens.lora_b": table_b}
        adapter = self.save(tmp_path, tensors, config)
        assert adapter.metadata["base_model"] == "m"
        assert not adapter.assumptions
        weight, table = normal(5, 8), normal(30, 8)
        assert_merged(adapter, MLX, weight, weight + (20.0 * b.T) @ a.T)
        assert_merged(adapter, "model.embed_tokens", table, table + (20.0 * table_a) @ table_b)

    def test_fused_projection(self, tmp_path: Path) -> None:
        """A list of pairs for each part of a fused weight, whose updates lie upon each other."""
        sizes, module = (32, 8, 8), "model.layers.0.self_attn.qkv_proj"
        pairs = [(normal(32, 4), normal(4, size)) for size in sizes]
        tensors = {f"{module}.lora_{f}.{i}": pair[f == "b"] for i, pair in enumerate(pairs) for f in "ab"}
        adapter = self.save(
            tmp_path, tensors, {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 20.0}}
        )
        assert adapter.metadata["dialect"] == "mlx"
        weight = normal(48, 32)
        merged = weight + torch.cat([(20.0 * b.T) @ a.T for a, b in pairs])
        assert_merged(adapter, module, weight, merged)
        assert adapter[module].rank == 12

    def test_fused_projection_without_a_part(self, tmp_path: Path) -> None:
        tensors = {f"{MLX}.lora_a.0": normal(8, 2), f"{MLX}.lora_b.0": normal(2, 4), f"{MLX}.lora_a.1": normal(8, 2)}
        with pytest.raises(AdapterError, match="do not fit"):
            self.save(tmp_path, tensors, {})

    @pytest.mark.parametrize("experts", [2, 3])
    def test_experts(self, experts: int, tmp_path: Path) -> None:
        module = "model.layers.0.mlp.switch_mlp.up_proj"
        a, b = normal(experts, 2, 8), normal(experts, 6, 2)
        tensors = {f"{module}.lora_a": a, f"{module}.lora_b": b}
        adapter = self.save(tmp_path, tensors, {"lora_parameters": {"rank": 2, "scale": 10.0}})
        weight = normal(experts, 6, 8)
        merged = weight + (10.0 * b) @ a.reshape(experts, -1, 8)
        for expert in range(experts):
            assert_merged(adapter, f"{module}.{expert}", weight[expert], merged[expert])

    def test_mlx_examples(self, tmp_path: Path) -> None:
        """adapters.npz without a config: the scale is in the script, and differs between its versions."""
        np.savez(tmp_path / "adapters.npz", **{f"{MLX}.lora_a": normal(8, 2).numpy(), f"{MLX}.lora_b": np.ones((2, 5))})
        adapter = load_adapter(tmp_path)
        assert assumed(adapter) == ["scale"]
        assert "multiplied by 2, later by 20" in str(adapter.assumptions[0])
        assert load_adapter(tmp_path, scale=20)[MLX].scaling == 20.0
        assert not load_adapter(tmp_path, scale=20).assumptions

    def test_scale_that_two_versions_read_differently(self, tmp_path: Path) -> None:
        parameters = {"rank": 2, "alpha": 16.0, "dropout": 0.0, "scale": 10.0}
        tensors = {f"{MLX}.lora_a": normal(8, 2), f"{MLX}.lora_b": normal(2, 5)}
        adapter = self.save(tmp_path, tensors, {"lora_layers": 16, "lora_parameters": parameters})
        assert adapter[MLX].scaling == 10.0
        assert assumed(adapter) == ["scale"]

    @pytest.mark.parametrize("names", [("A", "B"), ("lora_a", "lora_b")])
    def test_mlx_vlm(self, names: tuple[str, str], tmp_path: Path) -> None:
        """Its config holds rank and alpha alone, and its layers multiply by alpha itself."""
        a, b = normal(8, 4), normal(4, 8)
        module = f"language_model.{MLX}"
        tensors = {f"{module}.{names[0]}": a, f"{module}.{names[1]}": b}
        adapter = self.save(tmp_path, tensors, {"rank": 4, "alpha": 0.1, "dropout": 0.1})
        assert adapter.metadata["dialect"] == "mlx-vlm"
        assert not adapter.assumptions
        weight = normal(8, 8)
        assert_merged(adapter, module, weight, weight + 0.1 * (a @ b).T)


class TestTorchtune:
    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("adapter_config.json", {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj"], "peft_type": "LORA"}),
            ("torchtune_config.yaml", {"model": {"lora_rank": 4, "lora_alpha": 16}, "epochs": 1}),
        ],
    )
    def test_adapter_file(self, file: str, text: Mapping[str, Any], tmp_path: Path) -> None:
        module = "layers.0.attn.q_proj"
        a, b = normal(4, 8), normal(8, 4)
        torch.save({f"{module}.lora_a.weight": a, f"{module}.lora_b.weight": b}, tmp_path / "adapter_0.pt")
        (tmp_path / file).write_text(yaml.safe_dump(text) if file.endswith("yaml") else json.dumps(text))
        adapter = load_adapter(tmp_path)
        assert adapter.metadata["dialect"] == "torchtune"
        assert not adapter.assumptions
        weight = normal(8, 8)
        assert_merged(adapter, module, weight, weight + (16 / 4) * b @ a)


class TestNemo:
    module = "decoder.layers.0.self_attention.linear_qkv"

    @pytest.mark.parametrize(
        ("file", "config", "scale"),
        [
            ("run_config.yaml", {"peft": {"dim": 4, "alpha": 32, "dropout": 0.0}}, 8.0),
            ("run_config.yaml", {"peft": {"dim": 4}}, 1.0),
            (
                "model_config.yaml",
                {"peft": {"peft_scheme": "lora", "lora_tuning": {"adapter_dim": 4, "alpha": 2}}},
                0.5,
            ),
        ],
    )
    def test_adapter_file(self, file: str, config: Mapping[str, Any], scale: float, tmp_path: Path) -> None:
        a, b = normal(4, 8), normal(12, 4)
        name = f"module.{self.module}.adapter"
        torch.save({f"{name}.linear_in.weight": a, f"{name}.linear_out.weight": b}, tmp_path / "model_weights.ckpt")
        (tmp_path / file).write_text(yaml.safe_dump(config))
        adapter = load_adapter(tmp_path)
        assert not adapter.assumptions
        weight = normal(12, 8)
        x = normal(3, 8)
        out = functional.linear(x, weight) + scale * functional.linear(functional.linear(x, a), b)
        torch.testing.assert_close(
            functional.linear(x, weight + adapter[self.module].delta()), out, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(("alpha", "scale"), [(16.0, 4.0), (0.0, 1.0)])
def test_gguf(alpha: float, scale: float, tmp_path: Path) -> None:
    """As convert_lora_to_gguf.py writes it; llama.cpp scales by alpha / rank, or by 1 where alpha is 0."""
    gguf = pytest.importorskip("gguf")
    a, b = normal(4, 8), normal(6, 4)
    table_a, table_b = normal(4, 30), normal(8, 4)
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    written = {"blk.0.attn_q.weight": (a, b), "token_embd.weight": (table_a.T, table_b)}
    for name, factors in written.items():
        for factor, values in zip("ab", factors, strict=True):
            writer.add_tensor(f"{name}.lora_{factor}", values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    adapter = load_adapter(tmp_path / "adapter.gguf")
    assert adapter.metadata["dialect"] == "gguf"
    assert not adapter.assumptions
    weight, table = normal(6, 8), normal(30, 8)
    assert_merged(adapter, "blk.0.attn_q", weight, weight + scale * b @ a)
    assert_merged(adapter, "token_embd", table, table + scale * (table_b @ table_a).T)


class TestLoralib:
    """`torch.save(lora.lora_state_dict(model))`: no config, so that the user gives r and lora_alpha."""

    def load(self, folder: Path, tensors: dict[str, Tensor], **config: Any) -> Adapter:
        torch.save(tensors, folder / "checkpoint.pt")
        return load_adapter(folder, config=config)

    def test_linear_and_embedding(self, tmp_path: Path) -> None:
        A, B, table_A, table_B = normal(2, 8), normal(6, 2), normal(2, 30), normal(8, 2)
        tensors = {"fc.lora_A": A, "fc.lora_B": B, "wte.lora_A": table_A, "wte.lora_B": table_B}
        adapter = self.load(tmp_path, tensors, r=2, lora_alpha=5)
        weight, table = normal(6, 8), normal(30, 8)
        assert_merged(adapter, "fc", weight, weight + (B @ A) * 2.5)
        assert_merged(adapter, "wte", table, table + (table_B @ table_A).T * 2.5)

    @pytest.mark.parametrize("kernel", [1, 3, 5])
    def test_convolution(self, kernel: int, tmp_path: Path) -> None:
        A, B = normal(2 * kernel, 4 * kernel), normal(6 * kernel, 2 * kernel)
        weight = normal(6, 4, kernel, kernel)
        adapter = self.load(tmp_path, {"conv.conv.lora_A": A, "conv.conv.lora_B": B}, r=2, lora_alpha=5)
        merged = weight + (B @ A).view(weight.shape) * 2.5
        assert_merged(
            adapter,
            "conv.conv",
            weight.reshape(adapter["conv.conv"].delta().shape),
            merged.reshape(adapter["conv.conv"].delta().shape),
        )
        assert ("layout" in assumed(adapter)) == (kernel > 1)

    @pytest.mark.parametrize("enabled", [[True, False, True], [True, True, True]])
    def test_merged_linear(self, enabled: list[bool], tmp_path: Path) -> None:
        parts = sum(enabled)
        A, B = normal(2 * parts, 8), normal(4 * parts, 2)
        delta = functional.conv1d(A[None], B[..., None], groups=parts)[0]
        weight = normal(12, 8)
        merged = weight.clone().view(3, 4, 8)
        merged[torch.tensor(enabled)] += 2.5 * delta.view(parts, 4, 8)
        tensors = {"h.0.attn.c_attn.lora_A": A, "h.0.attn.c_attn.lora_B": B}
        adapter = self.load(tmp_path, tensors, enable_lora=enabled, r=2, lora_alpha=5)
        assert_merged(adapter, "h.0.attn.c_attn", weight, merged.view(12, 8))

    def test_minlora(self, tmp_path: Path) -> None:
        """Parametrizations of each weight, B·A scaled by lora_alpha / rank."""
        A, B = normal(4, 8), normal(6, 4)
        names = {f"layers.0.fc.parametrizations.weight.0.lora_{f}": t for f, t in (("A", A), ("B", B))}
        adapter = self.load(tmp_path, names, rank=4, lora_alpha=1)
        weight = normal(6, 8)
        assert_merged(adapter, "layers.0.fc", weight, weight + (B @ A).view(weight.shape) * 0.25)

    def test_adapter_hub(self, tmp_path: Path) -> None:
        A, B = normal(8, 12), normal(12, 8)
        module = "roberta.encoder.layer.0.attention.self.query"
        torch.save(
            {f"{module}.loras.sst2.lora_A": A, f"{module}.loras.sst2.lora_B": B}, tmp_path / "pytorch_adapter.bin"
        )
        config = {"architecture": "lora", "r": 8, "alpha": 16, "attn_matrices": ["q", "v"], "composition_mode": "add"}
        (tmp_path / "adapter_config.json").write_text(json.dumps({"config": config, "model_name": "roberta-base"}))
        adapter = load_adapter(tmp_path)
        weight = normal(12, 12)
        assert_merged(adapter, module, weight, weight + B @ A * 2.0)


class TestSam:
    def test_pairs_alternate_between_query_and_value(self, tmp_path: Path) -> None:
        """Sam_LoRA adds B·A to the first and the last third of the fused output."""
        pairs = [(normal(4, 8), normal(8, 4)) for _ in range(4)]
        tensors = {f"w_{f}_{i:03d}": pair[f == "b"] for i, pair in enumerate(pairs) for f in "ab"}
        save_file(tensors | {"fc_8in_3out": normal(3, 8)}, tmp_path / "sam_lora.safetensors")
        adapter = load_adapter(tmp_path)
        assert list(adapter) == [f"blocks.{block}.attn.qkv.{part}" for block in (0, 1) for part in "qv"]
        for module, (a, b) in zip(adapter, pairs, strict=True):
            x = normal(3, 8)
            torch.testing.assert_close(
                functional.linear(x, adapter[module].delta()), x @ a.T @ b.T, rtol=1e-4, atol=1e-4
            )
        assert list(adapter.extras) == ["fc_8in_3out"]
        assert "alpha // rank" in str(adapter.assumptions[0])


class TestCloneofsimo:
    def test_safetensors(self, tmp_path: Path) -> None:
        up, down = normal(6, 4), normal(4, 8)
        header = {"unet": '["CrossAttention"]', "unet:0:rank": "4"}
        save_file({"unet:0:up": up, "unet:0:down": down}, tmp_path / "lora.safetensors", header)
        adapter = load_adapter(tmp_path)
        weight = normal(6, 8)
        assert_merged(adapter, "unet:0", weight, weight + 1.0 * (up @ down))
        assert assumed(adapter) == ["scale"]
        assert load_adapter(tmp_path, scale=0.7)["unet:0"].scaling == 0.7

    def test_list(self, tmp_path: Path) -> None:
        """torch.save of [up, down, up, down, ...], more than ten so that numbers are not ordered as words."""
        pairs = [(normal(6, 4), normal(4, 8)) for _ in range(7)]
        torch.save([factor for pair in pairs for factor in pair], tmp_path / "lora.pt")
        adapter = load_adapter(tmp_path)
        assert list(adapter) == [str(number) for number in range(7)]
        for module, (up, down) in zip(adapter, pairs, strict=True):
            torch.testing.assert_close(adapter[module].delta(), up @ down, rtol=1e-5, atol=1e-5)


class TestKohya:
    def test_sd_scripts(self, tmp_path: Path) -> None:
        """The merge of sd-scripts: linear, convolution of one pixel, and of three by three; alpha a tensor."""
        shapes = {
            "to_q": ((4, 8), (6, 4)),
            "proj_in": ((4, 8, 1, 1), (6, 4, 1, 1)),
            "conv": ((4, 8, 3, 3), (6, 4, 1, 1)),
        }
        tensors, merged = {}, {}
        for name, (down_shape, up_shape) in shapes.items():
            down, up = normal(*down_shape), normal(*up_shape)
            module = f"lora_unet_down_blocks_0_{name}"
            tensors |= {
                f"{module}.lora_down.weight": down,
                f"{module}.lora_up.weight": up,
                f"{module}.alpha": torch.tensor(2.0),
            }
            if down.ndim == 2:
                update = up @ down
            elif down.shape[2:] == (1, 1):
                update = (up.squeeze(3).squeeze(2) @ down.squeeze(3).squeeze(2)).unsqueeze(2).unsqueeze(3)
            else:
                update = functional.conv2d(down.permute(1, 0, 2, 3), up).permute(1, 0, 2, 3)
            merged[module] = 0.5 * update
        save_file(tensors, tmp_path / "style.safetensors", {"ss_network_alpha": "2.0", "ss_network_dim": "4"})
        adapter = load_adapter(tmp_path)
        assert not adapter.assumptions
        for module, update in merged.items():
            assert_merged(adapter, module, torch.zeros_like(update), update)

    def test_alpha_of_some_modules_only(self, tmp_path: Path) -> None:
        tensors = {}
        for name in ("a", "b"):
            tensors |= {
                f"lora_unet_{name}.lora_down.weight": normal(2, 8),
                f"lora_unet_{name}.lora_up.weight": normal(6, 2),
            }
        save_file(tensors | {"lora_unet_a.alpha": torch.tensor(1.0)}, tmp_path / "x.safetensors")
        adapter = load_adapter(tmp_path)
        assert [adapter[module].scaling for module in adapter] == [0.5, 1.0]
        assert "1 of 2 modules" in str(adapter.assumptions[0])


def test_layout_of_gpt2_without_a_config() -> None:
    state = {f"base_model.model.transformer.h.0.attn.c_attn.lora_{f}.weight": normal(2, 2) for f in "AB"}
    assert assumed(load_adapter(state, scale=1)) == ["layout"]
    assert not load_adapter(state, config={"r": 2, "lora_alpha": 4, "fan_in_fan_out": True}).assumptions


def test_a_tuner_without_an_alpha_has_no_assumed_scale() -> None:
    state = {"q.vera_lambda_d": normal(4), "q.vera_lambda_b": normal(6)}
    state |= {"vera_A": normal(4, 8), "vera_B": normal(6, 4)}
    config = {"peft_type": "VERA", "r": 4, "d_initial": 0.1, "projection_prng_key": 0}
    adapter = load_adapter(
        {f"base_model.model.{name}" if name.startswith("q") else f"base_model.{name}": t for name, t in state.items()},
        config=config, in_features=8,
    )  # fmt: skip
    assert adapter["q"].scaling == 1.0
    assert "scale" not in assumed(adapter)


class TestDiffusers:
    def test_pipeline(self, tmp_path: Path) -> None:
        """`save_lora_weights`: PEFT's state dict under the component, its LoraConfig flattened in the header."""
        config = peft.LoraConfig(
            r=4, lora_alpha=6, use_rslora=True, alpha_pattern={"attn.to_k": 2}, target_modules=["to_q", "to_k"]
        )  # fmt: skip
        block = nn.ModuleDict({"attn": nn.ModuleDict({"to_q": nn.Linear(8, 6), "to_k": nn.Linear(8, 6)})})
        model = peft.get_peft_model(block, config)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = normal(*parameter.shape)
        state = peft.get_peft_model_state_dict(model)
        tensors = {name.replace("base_model.model.", "unet."): tensor for name, tensor in state.items()}
        flat = {f"unet.{key}": sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
        header = {"format": "pt", "lora_adapter_metadata": json.dumps(flat, indent=2, sort_keys=True, default=str)}
        save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", header)
        adapter = load_adapter(tmp_path)
        assert adapter.metadata["dialect"] == "diffusers"
        assert not adapter.assumptions
        for name in ("to_q", "to_k"):
            layer = model.base_model.model["attn"][name]
            merged = layer.weight + layer.get_delta_weight("default")
            assert_merged(adapter, f"unet.attn.{name}", layer.weight.detach(), merged.detach())

    def test_attention_processors(self, tmp_path: Path) -> None:
        """Old diffusers: the processors' state dict, up(down(x)) without a factor."""
        down, up = normal(4, 8), normal(6, 4)
        name = "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_v_lora"
        torch.save({f"{name}.down.weight": down, f"{name}.up.weight": up}, tmp_path / "pytorch_lora_weights.bin")
        adapter = load_adapter(tmp_path)
        x, weight = normal(3, 8), normal(6, 8)
        out = functional.linear(x, weight) + functional.linear(functional.linear(x, down), up)
        (module,) = adapter
        torch.testing.assert_close(functional.linear(x, weight + adapter[module].delta()), out, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("down_name", "up_name", "alpha"),
        [
            ("diffusion_model.blocks.0.attn.q.lora_down.weight", "diffusion_model.blocks.0.attn.q.lora_up.weight", 2.0),
            ("diffusion_model.blocks.0.attn.q.lora_A.weight", "diffusion_model.blocks.0.attn.q.lora_B.weight", 4.0),
            ("double_blocks.0.processor.qkv_lora2.down.weight", "double_blocks.0.processor.qkv_lora2.up.weight", None),
            (
                "transformer.single_blocks.0.attn.to_q.lora_A.weight",
                "transformer.single_blocks.0.attn.to_q.lora_B.weight",
                None,
            ),
        ],
        ids=["ComfyUI", "ComfyUI, PEFT's names", "x-flux", "ai-toolkit"],
    )
    def test_trainers_beside_it(self, down_name: str, up_name: str, alpha: float | None, tmp_path: Path) -> None:
        """weight + alpha / rank · up · down, where a missing alpha stands for the rank."""
        down, up = normal(4, 8), normal(6, 4)
        tensors = {down_name: down, up_name: up}
        if alpha is not None:
            tensors["diffusion_model.blocks.0.attn.q.alpha"] = torch.tensor(alpha)
        save_file(tensors, tmp_path / "flux.safetensors")
        adapter = load_adapter(tmp_path)
        weight = normal(6, 8)
        (module,) = adapter
        scale = 1.0 if alpha is None else alpha / down.shape[0]
        assert_merged(adapter, module, weight, weight + scale * torch.mm(up.flatten(1), down.flatten(1)))
        assert ("scale" in assumed(adapter)) == (alpha is None)

    def test_alpha_in_the_header_alone(self, tmp_path: Path) -> None:
        tensors = {"lora_unet_q.lora_down.weight": normal(4, 8), "lora_unet_q.lora_up.weight": normal(6, 4)}
        save_file(tensors, tmp_path / "x.safetensors", {"ss_network_alpha": "1", "ss_network_dim": "4"})
        adapter = load_adapter(tmp_path)
        assert adapter["lora_unet_q"].scaling == 1.0
        assert "training had the alpha 1" in str(adapter.assumptions[0])


def test_diffusers_header_of_one_component(tmp_path: Path) -> None:
    tensors = {}
    for component in ("transformer", "text_encoder"):
        tensors |= {f"{component}.q.lora_A.weight": normal(4, 8), f"{component}.q.lora_B.weight": normal(6, 4)}
    header = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", header)
    adapter = load_adapter(tmp_path)
    assert adapter["transformer.q"].scaling == 0.5
    assert "1 in 1 of 2 modules" in str(adapter.assumptions[0])


PAIRS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "peft": lambda: {
        "base_model.model.q.lora_A.weight": normal(4, 8),
        "base_model.model.q.lora_B.weight": normal(6, 4),
    },
    "kohya": lambda: {"lora_unet_q.lora_down.weight": normal(4, 8), "lora_unet_q.lora_up.weight": normal(6, 4)},
    "diffusers": lambda: {"unet.q.lora_A.weight": normal(4, 8), "unet.q.lora_B.weight": normal(6, 4)},
    "mlx": lambda: {"q.lora_a": normal(8, 4), "q.lora_b": normal(4, 6)},
    "torchtune": lambda: {"q.lora_a.weight": normal(4, 8), "q.lora_b.weight": normal(6, 4)},
    "nemo": lambda: {"q.adapter.linear_in.weight": normal(4, 8), "q.adapter.linear_out.weight": normal(6, 4)},
    "gguf": lambda: {"q.weight.lora_a": normal(4, 8), "q.weight.lora_b": normal(6, 4)},
    "loralib": lambda: {"q.lora_A": normal(4, 8), "q.lora_B": normal(6, 4)},
    "lit-gpt": lambda: {"lm_head.lora_A": normal(4, 8), "lm_head.lora_B": normal(6, 4)},
    "clip-lora": lambda: {"q.w_lora_A": normal(4, 8), "q.w_lora_B": normal(6, 4)},
    "sam-lora": lambda: {"w_a_000": normal(4, 8), "w_b_000": normal(6, 4)},
    "cloneofsimo": lambda: {"unet:0:down": normal(4, 8), "unet:0:up": normal(6, 4)},
    "cloneofsimo-list": lambda: {"0": normal(6, 4), "1": normal(4, 8)},
}


@pytest.mark.parametrize("dialect", PAIRS)
def test_files_without_a_scale(dialect: str) -> None:
    """Every dialect says that it assumed the scale and how to give it; what is given is used."""
    state = PAIRS[dialect]()
    adapter = load_adapter(state)
    (module,) = adapter
    assert adapter.metadata["dialect"] == dialect
    assert adapter[module].shape == (6, 8)
    assert adapter[module].scaling == 1.0
    (assumption,) = adapter.assumptions
    assert assumption.what == "scale"
    assert "alpha=" in assumption.remedy
    assert "--scale" in assumption.remedy
    by_alpha = load_adapter(state, alpha=8)
    assert by_alpha[module].scaling == (4.0 if dialect == "clip-lora" else 2.0)
    assert load_adapter(state, scale=0.3)[module].scaling == 0.3
    assert not by_alpha.assumptions
    assert not load_adapter(state, scale=0.3).assumptions


@pytest.mark.parametrize("alpha", [torch.tensor([1.0, 2.0]), torch.tensor(1j), torch.tensor(True)])
def test_alpha_that_is_no_single_number(alpha: Tensor) -> None:
    state = PAIRS["kohya"]() | {"lora_unet_q.alpha": alpha}
    if alpha.dtype == torch.bool:
        assert load_adapter(state)["lora_unet_q"].scaling == 0.25
        return
    with pytest.raises(AdapterError, match=r"lora_unet_q: lora_unet_q\.alpha .*") as error:
        load_adapter(state)
    assert str(error.value).count("\n") == 0


class TestOrientation:
    @pytest.mark.parametrize("turned", [False, True])
    def test_square_weights(self, turned: bool) -> None:
        """Factors of a square weight multiply both ways; the rank is the smaller side."""
        A, B = normal(2, 8), normal(8, 2)
        stored = (A.T, B.T) if turned else (A, B)
        adapter = load_adapter({"q.lora_A": stored[0], "q.lora_B": stored[1]}, scale=1)
        assert adapter["q"].rank == 2
        torch.testing.assert_close(adapter["q"].delta(), B @ A)
        assert not adapter.assumptions

    @pytest.mark.parametrize("d_in", [2, 8])
    def test_input_size_of_the_user(self, d_in: int) -> None:
        """Rank 8 of a weight with two inputs looks like rank 2 of one with eight."""
        A, B = normal(8, 2), normal(2, 8)
        adapter = load_adapter({"q.lora_A": A, "q.lora_B": B}, scale=1, in_features=d_in)
        assert adapter["q"].d_in == d_in
        torch.testing.assert_close(adapter["q"].delta(), B @ A if d_in == 2 else (A @ B).T)

    def test_what_no_shape_tells_is_said(self) -> None:
        adapter = load_adapter({"q.lora_A": normal(4, 4), "q.lora_B": normal(4, 4)}, scale=1)
        assert assumed(adapter) == ["orientation"]
        assert "transposed='AB'" in adapter.assumptions[0].remedy
