"""Which dialect reads a file, what no dialect reads, and what reading costs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

from asym_analysis.adapters.adapter import Adapter, TensorSource
from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.dialects import DIALECTS, PatternDialect, read_checkpoint
from asym_analysis.errors import AdapterError, AdapterValueError, NotAnAdapterError

A, B = torch.randn(2, 5), torch.randn(6, 2)
MODULE = "base_model.model.layers.0.q_proj"
PEFT = {f"{MODULE}.lora_A.weight": A, f"{MODULE}.lora_B.weight": B}


class TestCloneofsimo:
    def test_named(self, read: Callable[..., Adapter]) -> None:
        tensors = {
            "unet:0:down": A,
            "unet:0:up": B,
            "text_encoder:10:down": A,
            "text_encoder:10:up": B,
            "<s1>": torch.rand(8),
        }
        adapter = read(tensors, header={"unet:0:rank": "2", "unet": '["CrossAttention"]'})
        assert adapter.metadata["dialect"] == "cloneofsimo"
        torch.testing.assert_close(adapter["unet:0"].delta(), B @ A)
        assert list(adapter.extras) == ["<s1>"]

    def test_rank_that_disagrees_with_the_header(self, read: Callable[..., Adapter]) -> None:
        with pytest.raises(AdapterError, match="rank 2, the config says 3"):
            read({"unet:0:down": A, "unet:0:up": B}, header={"unet:0:rank": "3"})

    @pytest.mark.parametrize("names", [["0", "1", "2", "3"], ["[0]", "[1]", "[2]", "[3]"], ["2", "1", "0", "3"]])
    def test_nameless_list(self, names: list[str], read: Callable[..., Adapter]) -> None:
        """up, down, up, down, ... in the order of their numbers, not of their names."""
        values = [B, A, 2 * B, A]
        ordered = sorted(names, key=lambda name: int(name.strip("[]")))
        tensors = dict(sorted(zip(ordered, values, strict=True)))
        adapter = read(tensors)
        assert list(adapter) == ["0", "1"]
        torch.testing.assert_close(adapter["1"].delta(), 2 * B @ A)


class TestPatterns:
    @pytest.mark.parametrize("transposed", ["", "A", "B", "AB"])
    def test_transposes(self, transposed: str, read: Callable[..., Adapter]) -> None:
        tensors = {
            "q/in": A.T.contiguous() if "A" in transposed else A,
            "q/out": B.T.contiguous() if "B" in transposed else B,
        }
        grammar = PatternDialect(A="(?P<module>.*)/in", B="(?P<module>.*)/out", transposed=transposed, alpha=8)
        adapter = read(tensors, dialect=grammar)
        assert adapter.metadata["dialect"] == "patterns"
        torch.testing.assert_close(adapter["q"].delta(), 4.0 * B @ A)

    def test_alpha_in_the_file(self, read: Callable[..., Adapter]) -> None:
        grammar = PatternDialect(A="(.*)/in", B="(.*)/out", alpha="(.*)/scale", rank_stabilized=True)
        adapter = read({"q/in": A, "q/out": B, "q/scale": torch.tensor(2.0), "head": torch.rand(3)}, dialect=grammar)
        assert adapter["q"].scaling == pytest.approx(2.0**0.5)
        assert list(adapter.extras) == ["head"]
        with pytest.raises(AdapterError, match="pattern of its alpha"):
            read({"q/in": A, "q/out": B}, dialect=grammar)

    @pytest.mark.parametrize("pattern", ["(", "no group"])
    def test_patterns_that_cannot_be_used(self, pattern: str) -> None:
        with pytest.raises(AdapterError, match="pattern"):
            PatternDialect(A=pattern, B="(.*)b")

    def test_unknown_factor(self) -> None:
        with pytest.raises(AdapterError, match="transposed"):
            PatternDialect(A="(.*)a", B="(.*)b", transposed="C")

    def test_nothing_matches(self, read: Callable[..., Adapter]) -> None:
        with pytest.raises(AdapterError, match="0 of 2"):
            read(PEFT, dialect=PatternDialect(A="(.*)/a", B="(.*)/b"))


@pytest.mark.parametrize(
    ("tensors", "config", "named"),
    [
        ({"prompt_embeddings": (4, 8)}, {"peft_type": "PROMPT_TUNING"}, "prompt tuning"),
        ({"prompt_embeddings": (4, 8)}, {}, "prompt tuning"),
        ({"prompt_embeddings": (4, 8)}, {"peft_type": "PREFIX_TUNING"}, "prefix tuning"),
        ({"base_model.model.h.0.ia3_l": (8, 1)}, {"peft_type": "IA3"}, "IA3"),
        ({"base_model.model.h.0.oft_R.weight": (2, 3)}, {}, "OFT"),
        ({"base_model.model.h.0.c3a_kernel": (2, 3)}, {"peft_type": "C3A"}, "C3A"),
        ({"<krk>": (768,)}, {}, "textual inversion"),
        ({"emb_params": (1, 768)}, {}, "textual inversion"),
        ({"clip_l": (1, 768), "clip_g": (1, 1280)}, {}, "textual inversion"),
        ({"model.embed.weight": (9, 4), "model.norm.bias": (4,)}, {}, "full"),
        ({"h.0.adapters.x.adapter_down.0.weight": (2, 3)}, {}, "bottleneck"),
    ],
)
def test_what_is_no_lora_is_refused_by_name(
    tensors: dict[str, tuple[int, ...]], config: dict[str, Any], named: str, read: Callable[..., Adapter]
) -> None:
    with pytest.raises(NotAnAdapterError, match=named):
        read({name: torch.zeros(shape) for name, shape in tensors.items()}, config)


def test_unknown_names(read: Callable[..., Adapter]) -> None:
    with pytest.raises(AdapterError, match="PatternDialect"):
        read({"alpha_thing": A, "beta_thing": B, "gamma_thing": A})
    with pytest.raises(AdapterError, match="saved empty"):
        read({})
    with pytest.raises(AdapterError, match="unknown dialect"):
        read(PEFT, dialect="pfet")


def test_named_dialects(read: Callable[..., Adapter]) -> None:
    assert read(PEFT, dialect="peft").metadata["dialect"] == "peft"
    assert len({dialect.name for dialect in DIALECTS}) == len(DIALECTS)


class TestPeftTraps:
    @pytest.mark.parametrize(
        ("config", "scaling"),
        [
            ({"r": 2, "lora_alpha": 8}, 4.0),
            ({"r": 2, "lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
            ({"r": 64, "rank_pattern": {"q_proj": 2}, "lora_alpha": 8}, 4.0),
            ({"r": 2, "lora_alpha": 8, "alpha_pattern": {"layers.0": 1, "q_proj": 2, "layers.0.q_proj": 100}}, 1.0),
            ({}, 1.0),
        ],
    )
    def test_scale(self, config: dict[str, Any], scaling: float, read: Callable[..., Adapter]) -> None:
        adapter = read(PEFT, {"peft_type": "LORA", **config} if config else {})
        assert adapter["layers.0.q_proj"].scaling == pytest.approx(scaling)
        assert ("assumed" in adapter.metadata["scaling"]) == (not config)

    def test_rank_of_another_config(self, read: Callable[..., Adapter]) -> None:
        with pytest.raises(AdapterError, match="the config says 16"):
            read(PEFT, {"peft_type": "LORA", "r": 16, "lora_alpha": 8})

    @pytest.mark.parametrize(
        "config",
        [
            {"lora_alpha": "much"},
            {"lora_alpha": [8]},
            {"alpha_pattern": {"(": 2}},
            {"alpha_pattern": [1]},
            {"lora_alpha": "nan"},
        ],
    )
    def test_configs_that_make_no_sense(self, config: dict[str, Any], read: Callable[..., Adapter]) -> None:
        with pytest.raises(AdapterError, match="config's"):
            read(PEFT, config)

    def test_shards_that_were_not_gathered(self, read: Callable[..., Adapter]) -> None:
        tensors = {f"{MODULE}.lora_A.weight": torch.zeros(0), f"{MODULE}.lora_B.weight": torch.zeros(6, 2)}
        with pytest.raises(AdapterError, match="ZeRO-3"):
            read(tensors)

    def test_overlapping_patterns_are_told(self, read: Callable[..., Adapter]) -> None:
        """PEFT writes its config sorted by name, so training may have applied another pattern than loading does."""
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "alpha_pattern": {"0.q_proj": 1, "q_proj": 2}}
        assert "overlap" in read(PEFT, config).metadata["scaling"]

    def test_partner_is_missing(self, read: Callable[..., Adapter]) -> None:
        adapter = read({**PEFT, "base_model.model.x.lora_A.weight": A})
        assert adapter.coverage.refused == {"base_model.model.x.lora_A.weight": "x: A without B"}

    def test_parameter_that_is_called_alpha(self, read: Callable[..., Adapter]) -> None:
        """It is none of an update's where the module has no factors; beside factors it scales them."""
        assert list(read({**PEFT, "base_model.model.snake.alpha": torch.ones(4)}).extras) == ["snake.alpha"]
        assert read({**PEFT, f"{MODULE}.alpha": torch.tensor(6.0)})["layers.0.q_proj"].scaling == 3.0

    def test_all_zero_update(self, read: Callable[..., Adapter]) -> None:
        adapter = read({f"{MODULE}.lora_A.weight": A, f"{MODULE}.lora_B.weight": torch.zeros(6, 2)})
        assert adapter["layers.0.q_proj"].frobenius_norm() == 0.0


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_small_numbers_are_cast_up_first(dtype: torch.dtype, read: Callable[..., Adapter]) -> None:
    adapter = read({name: tensor.to(dtype) for name, tensor in PEFT.items()})
    update = adapter["layers.0.q_proj"]
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert (update.A.dtype, update.B.dtype) == (expected, expected)
    assert adapter.source("layers.0.q_proj").dtype == str(dtype).removeprefix("torch.")
    torch.testing.assert_close(update.delta(), B.to(dtype).to(expected) @ A.to(dtype).to(expected))


def test_integers_and_nan_are_refused(read: Callable[..., Adapter]) -> None:
    with pytest.raises(AdapterError, match=r"layers\.0\.q_proj.*int8"):
        read({f"{MODULE}.lora_A.weight": A.to(torch.int8), f"{MODULE}.lora_B.weight": B})
    broken = read({f"{MODULE}.lora_A.weight": A * float("nan"), f"{MODULE}.lora_B.weight": B})
    with pytest.raises(AdapterValueError, match=r"layers\.0\.q_proj.*NaN"):
        broken["layers.0.q_proj"]


class _Counted:
    """A tensor that counts how often it is read, and stays whole when sent to another process."""

    reads = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __call__(self) -> torch.Tensor:
        _Counted.reads += 1
        return self.tensor


def test_only_alphas_are_read_before_a_module_is() -> None:
    tensors = {
        "lora_unet_x.lora_down.weight": A,
        "lora_unet_x.lora_up.weight": B,
        "lora_unet_x.alpha": torch.tensor(4.0),
    }
    sources = {name: TensorSource(tuple(t.shape), "float32", _Counted(t)) for name, t in tensors.items()}
    _Counted.reads = 0
    name, reading = read_checkpoint(Checkpoint(sources))
    adapter = Adapter(reading.modules, name=name, coverage=reading.coverage)
    assert adapter.frame["scaling"].tolist() == [2.0]
    assert _Counted.reads == 1
    copy = pickle.loads(pickle.dumps(reading.modules["lora_unet_x"]))
    torch.testing.assert_close(copy.read().delta(), 2.0 * B @ A)


def test_reading_takes_linear_time() -> None:
    """The tensors that a dialect looks at grow with their number: counted, not timed."""

    class Names(dict[str, TensorSource]):
        looks = 0

        def __iter__(self) -> Any:
            for name in super().__iter__():
                Names.looks += 1
                yield name

        def __getitem__(self, name: str) -> TensorSource:
            Names.looks += 1
            return super().__getitem__(name)

    def looks(modules: int) -> int:
        sources = Names()
        for index in range(modules):
            for factor, tensor in (("A", A), ("B", B)):
                name = f"base_model.model.layers.{index}.q_proj.lora_{factor}.weight"
                sources[name] = TensorSource(tuple(tensor.shape), "float32", tensor.clone)
        config = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 2,
            "alpha_pattern": {f"layers.{i}.q_proj": 2 for i in range(modules)},
        }
        Names.looks = 0
        read_checkpoint(Checkpoint(sources, config))
        return Names.looks

    assert looks(400) <= 4.5 * looks(100)
