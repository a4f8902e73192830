"""Key grammars of language-model trainers beside PEFT: MLX, torchtune, GGUF, loralib, LitGPT, NeMo, LORASYM."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.errors import AdapterError, NotAnAdapterError

A, B = torch.randn(2, 5), torch.randn(6, 2)
Q = "model.layers.0.self_attn.q_proj"


MLX = {f"{Q}.lora_a": A.T.contiguous(), f"{Q}.lora_b": B.T.contiguous()}


class TestMlx:
    @pytest.mark.parametrize(
        ("config", "scaling"),
        [
            ({"lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0}, "num_layers": 4}, 20.0),
            ({"lora_parameters": {"rank": 2, "alpha": 16, "scale": 10.0}, "num_layers": 4}, 10.0),
            ({"lora_parameters": {"rank": 2, "alpha": 16}}, 8.0),
            ({}, 1.0),
        ],
    )
    def test_scale(self, config: dict, scaling: float, read: Callable[..., Adapter]) -> None:
        """The scale is given outright: mlx-lm has not multiplied by alpha since June 2024."""
        adapter = read(MLX, config)
        assert adapter.metadata["dialect"] == "mlx"
        assert ("assumed" in adapter.metadata["scaling"]) == (not config)
        torch.testing.assert_close(adapter[Q].delta(), scaling * B @ A)

    def test_dora(self, read: Callable[..., Adapter]) -> None:
        assert read({**MLX, f"{Q}.m": torch.rand(6)})[Q].magnitude is not None

    @pytest.mark.parametrize("flat", [True, False])
    def test_experts(self, flat: bool, read: Callable[..., Adapter]) -> None:
        a, b = torch.randn(3, 2, 5), torch.randn(3, 6, 2)
        adapter = read({"mlp.switch.lora_a": a.flatten(0, 1) if flat else a, "mlp.switch.lora_b": b})
        assert list(adapter) == [f"mlp.switch.{expert}" for expert in range(3)]
        for expert in range(3):
            torch.testing.assert_close(adapter[f"mlp.switch.{expert}"].delta(), b[expert] @ a[expert])

    def test_embedding(self, read: Callable[..., Adapter]) -> None:
        adapter = read(
            {"model.embed_tokens.lora_a": torch.randn(20, 2), "model.embed_tokens.lora_b": torch.randn(2, 6)}
        )
        assert adapter["model.embed_tokens"].delta().shape == (20, 6)


@pytest.mark.parametrize(
    ("config", "scaling"), [({"r": 2, "lora_alpha": 16}, 8.0), ({"model": {"lora_rank": 2, "lora_alpha": 4}}, 2.0)]
)
def test_torchtune(config: dict, scaling: float, read: Callable[..., Adapter]) -> None:
    module = "layers.0.attn.q_proj"
    tensors = {f"{module}.lora_a.weight": A, f"{module}.lora_b.weight": B, f"{module}.magnitude": torch.rand(6)}
    adapter = read(tensors, config)
    assert adapter.metadata["dialect"] == "torchtune"
    torch.testing.assert_close(adapter[module].delta(), scaling * B @ A)
    assert adapter[module].magnitude is not None


def test_gguf(read: Callable[..., Adapter]) -> None:
    experts_a, experts_b = torch.randn(3, 2, 5), torch.randn(3, 6, 2)
    tensors = {
        "blk.0.attn_q.weight.lora_a": A,
        "blk.0.attn_q.weight.lora_b": B,
        "blk.0.ffn_up_exps.weight.lora_a": experts_a,
        "blk.0.ffn_up_exps.weight.lora_b": experts_b,
        "token_embd.weight.lora_a": torch.randn(20, 2),
        "token_embd.weight.lora_b": torch.randn(6, 2),
    }
    adapter = read(tensors, header={"adapter.lora.alpha": 16.0, "general.architecture": "llama"})
    assert adapter.metadata["dialect"] == "gguf"
    torch.testing.assert_close(adapter["blk.0.attn_q"].delta(), 8.0 * B @ A)
    torch.testing.assert_close(adapter["blk.0.ffn_up_exps.1"].delta(), 8.0 * experts_b[1] @ experts_a[1])
    assert adapter["token_embd"].delta().shape == (20, 6)


class TestLoralib:
    @pytest.mark.parametrize(
        ("name_A", "name_B", "module"),
        [
            ("h.0.attn.lora_A", "h.0.attn.lora_B", "h.0.attn"),
            ("h.0.attn.lora.lora_A", "h.0.attn.lora.lora_B", "h.0.attn"),
            ("encoder.query_lora_A.weight", "encoder.query_lora_B.weight", "encoder.query"),
            ("blocks.0.attn.qkv.linear_a_q.weight", "blocks.0.attn.qkv.linear_b_q.weight", "blocks.0.attn.qkv.q"),
            ("3.lora_A", "3.lora_B", "3"),
            ("fc.parametrizations.weight.0.lora_A", "fc.parametrizations.weight.0.lora_B", "fc"),
            ("layer_0.q_proj.lora_layer.lora_A", "layer_0.q_proj.lora_layer.lora_B", "layer_0.q_proj"),
            ("fc.A", "fc.B", "fc"),
        ],
    )
    @pytest.mark.parametrize("turned", [False, True])
    def test_names_and_orientation(
        self, name_A: str, name_B: str, module: str, turned: bool, read: Callable[..., Adapter]
    ) -> None:
        tensors = {name_A: A.T.contiguous() if turned else A, name_B: B.T.contiguous() if turned else B}
        adapter = read(tensors, {"lora_alpha": 6})
        assert adapter.metadata["dialect"] == "loralib"
        torch.testing.assert_close(adapter[module].delta(), 3.0 * B @ A)

    def test_square_pairs_follow_the_others(self, read: Callable[..., Adapter]) -> None:
        """A pair that multiplies either way round is turned as the rest of the file is."""
        square_A, square_B = torch.randn(4, 4), torch.randn(4, 4)
        tensors = {
            "x.lora_A": A.T.contiguous(),
            "x.lora_B": B.T.contiguous(),
            "y.lora_A": square_A,
            "y.lora_B": square_B,
        }
        torch.testing.assert_close(read(tensors)["y"].delta(), (square_A @ square_B).T)

    @pytest.mark.parametrize("enabled", [[True, False, True], [True, True, True], [False, True, False]])
    def test_merged_linear(self, enabled: list[bool], read: Callable[..., Adapter]) -> None:
        """loralib's own arithmetic: a grouped convolution over the stacked A, padded with zero rows."""
        parts = sum(enabled)
        a, b = torch.randn(2 * parts, 5), torch.randn(4 * parts, 2)
        stacked = functional.conv1d(a[None], b[..., None], groups=parts)[0]
        expected = torch.zeros(3, 4, 5)
        expected[torch.tensor(enabled)] = stacked.reshape(parts, 4, 5)
        config = {"enable_lora": enabled, "r": 2, "lora_alpha": 6}
        adapter = read({"h.attn.lora_A": a, "h.attn.lora_B": b}, config)
        torch.testing.assert_close(adapter["h.attn"].delta(), 3.0 * expected.reshape(12, 5))

    def test_merged_linear_without_its_flags(self, read: Callable[..., Adapter]) -> None:
        with pytest.raises(AdapterError, match="enable_lora"):
            read({"h.attn.lora_A": torch.randn(4, 5), "h.attn.lora_B": torch.randn(8, 2)})

    def test_adapter_hub(self, read: Callable[..., Adapter]) -> None:
        """`loras.<name>`, a nested config; the fused projections that it lists are fused in some models only."""
        config = {
            "name": "sst2",
            "config": {"r": 2, "alpha": 6, "attn_matrices": ["q", "v"], "composition_mode": "add"},
        }
        tensors = {"h.query.loras.sst2.lora_A": A, "h.query.loras.sst2.lora_B": B}
        torch.testing.assert_close(read(tensors, config)["h.query"].delta(), 3.0 * B @ A)
        fused = {"h.c_attn.loras.sst2.lora_A": torch.randn(4, 5), "h.c_attn.loras.sst2.lora_B": torch.randn(8, 2)}
        assert read(fused, config)["h.c_attn"].shape == (12, 5)
        config["config"]["composition_mode"] = "scale"
        with pytest.raises(NotAnAdapterError, match="IA3"):
            read(tensors, config)

    def test_whole_model(self, read: Callable[..., Adapter]) -> None:
        tensors = {"q.lora_A": A, "q.lora_B": B, "q.linear.weight": torch.zeros(6, 5), "norm.weight": torch.zeros(5)}
        adapter = read(tensors)
        assert set(adapter.coverage.ignored) == {"q.linear.weight", "norm.weight"}
        assert not adapter.extras
        assert set(read({"q.lora_A": A, "q.lora_B": B, "head.weight": A}).extras) == {"head.weight"}

    def test_only_one_factor(self, read: Callable[..., Adapter]) -> None:
        with pytest.raises(AdapterError, match="A of 2 modules and no B"):
            read({"w_a_000": A, "w_a_001": A})
        with pytest.raises(AdapterError, match="frozen A was left out"):
            read({"h.lora_B": B})
        with pytest.raises(AdapterError, match="frozen A was left out"):
            read({"base_model.model.q.lora_B.weight": B}, {"peft_type": "LORA", "r": 2, "lora_alpha": 4})


class TestLitGpt:
    attention = "transformer.h.0.attn.attn"

    def tensors(self, sizes: list[int]) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        a, b = torch.randn(2 * len(sizes), 8), torch.randn(sum(sizes), 2)
        expected = [part_b @ part_a for part_a, part_b in zip(a.chunk(len(sizes)), b.split(sizes), strict=True)]
        return {f"{self.attention}.lora_A": a, f"{self.attention}.lora_B": b}, expected

    def test_query_and_value(self, read: Callable[..., Adapter]) -> None:
        tensors, expected = self.tensors([8, 8])
        adapter = read(tensors, {"lora_r": 2, "lora_alpha": 6})
        assert adapter.metadata["dialect"] == "lit-gpt"
        assert list(adapter) == [f"{self.attention}.query", f"{self.attention}.value"]
        for update, dense in zip(adapter.values(), expected, strict=True):
            torch.testing.assert_close(update.delta(), 3.0 * dense)

    def test_grouped_queries(self, read: Callable[..., Adapter]) -> None:
        tensors, expected = self.tensors([8, 4, 4])
        config = {"lora_r": 2, "lora_alpha": 2, "n_head": 4, "n_query_groups": 2, "head_size": 2}
        adapter = read(tensors, config)
        for update, dense in zip(adapter.values(), expected, strict=True):
            torch.testing.assert_close(update.delta(), dense)
        with pytest.raises(AdapterError, match="n_query_groups"):
            read(tensors)

    def test_other_layers(self, read: Callable[..., Adapter]) -> None:
        adapter = read(
            {"transformer.h.0.mlp.fc_1.lora_A": A, "transformer.h.0.mlp.fc_1.lora_B": B, "lm_head.linear.weight": A}
        )
        torch.testing.assert_close(adapter["transformer.h.0.mlp.fc_1"].delta(), B @ A)


@pytest.mark.parametrize(
    ("prefix", "module"),
    [
        (
            "model.decoder.layers.0.self_attention.adapter_layer.lora_kqv_adapter",
            "model.decoder.layers.0.self_attention.linear_qkv",
        ),
        ("model.layers.0.mlp.adapter_layer.lora_4htoh_adapter", "model.layers.0.mlp.linear_fc2"),
        (
            "layers.0.self_attention.adapter_layer.lora_unfused_kqv_adapter.q_adapter",
            "layers.0.self_attention.linear_qkv.q",
        ),
        ("module.decoder.layers.0.self_attention.linear_proj.adapter", "decoder.layers.0.self_attention.linear_proj"),
        (
            "decoder.layers.0.self_attention.linear_qkv.adapter.adapter_k",
            "decoder.layers.0.self_attention.linear_qkv.k",
        ),
    ],
)
@pytest.mark.parametrize("config", [{"dim": 2, "alpha": 8}, {"lora_tuning": {"adapter_dim": 2, "alpha": 8}}])
def test_nemo(prefix: str, module: str, config: dict, read: Callable[..., Adapter]) -> None:
    adapter = read({f"{prefix}.linear_in.weight": A, f"{prefix}.linear_out.weight": B}, config)
    assert adapter.metadata["dialect"] == "nemo"
    torch.testing.assert_close(adapter[module].delta(), 4.0 * B @ A)


class TestLorasym:
    module = "roberta.encoder.layer.0.attention.self.query"

    def tensors(self) -> dict[str, torch.Tensor]:
        name = f"base_model.model.{self.module}"
        factors = {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B, f"{name}.lora_E.weight": torch.randn(2, 2)}
        return factors | {"base_model.model.classifier.dense.weight": torch.randn(4, 4)}

    @pytest.mark.parametrize(
        ("rule", "trained"),
        [
            ({"update_A": False, "update_B": True, "A_init": "rand", "B_init": "zero", "use_E": False}, {"B"}),
            ({"update_A": True, "update_B": False}, {"A"}),
            ({"update_A": True, "update_B": True}, {"A", "B"}),
            ("hB_zero_A_rand", {"B"}),
            ("A_rand_hB_zero", {"A"}),  # the README's command, which trains the other factor than it says
            (None, None),
        ],
    )
    def test_rule(self, rule: object, trained: set[str] | None, read: Callable[..., Adapter]) -> None:
        config = {"peft_type": "LORASYM", "r": 2, "lora_alpha": 8, "base_model_name_or_path": "roberta-large"}
        adapter = read(self.tensors(), config | ({"update_rule": rule} if rule is not None else {}))
        assert adapter.metadata["dialect"] == "lorasym"
        torch.testing.assert_close(adapter[self.module].delta(), 4.0 * B @ A)
        assert adapter.source(self.module).trained == (None if trained is None else frozenset(trained))
        assert "lora_E" in next(iter(adapter.coverage.ignored))
        assert list(adapter.extras) == ["classifier.dense.weight"]
        assert adapter.metadata.get("trained") == (None if trained is None else "".join(sorted(trained)))
        initial = tuple(adapter.metadata.get(f"{factor}_init") for factor in "AB")
        if rule == "A_rand_hB_zero":
            assert initial == ("zero", "rand")
        else:
            assert initial == (("rand", "zero") if "rand" in str(rule) else (None, None))

    def test_used_middle_matrix(self, read: Callable[..., Adapter]) -> None:
        """The released code applies B·E·A in training, and merges it."""
        tensors = self.tensors()
        E = tensors[f"base_model.model.{self.module}.lora_E.weight"]
        rule = {"update_A": False, "update_B": True, "update_E": True, "use_E": True}
        adapter = read(tensors, {"peft_type": "LORASYM", "r": 2, "lora_alpha": 8, "update_rule": rule})
        torch.testing.assert_close(adapter[self.module].delta(), 4.0 * B @ E @ A)
        assert adapter.source(self.module).trained == {"A", "B"}
        without = {name: tensor for name, tensor in tensors.items() if "lora_E" not in name}
        with pytest.raises(AdapterError, match="no lora_E"):
            read(without, {"peft_type": "LORASYM", "r": 2, "lora_alpha": 8, "update_rule": rule})
