"""Tuners that train a few numbers around frozen random projections: VeRA, PVeRA, RandLoRA, TinyLoRA, Uni-LoRA."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from asym_analysis.adapters.adapter import Part
from asym_analysis.adapters.base_weights import BaseWeights
from asym_analysis.adapters.config_files import number_or_none
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.dialects.peft.module import PeftModel, PeftModule
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.shared import (
    IndexedPair,
    ProjectedPair,
    ScaledBases,
    SharedPair,
    regenerate_projections,
)
from asym_analysis.errors import AdapterValueError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["add_pvera", "add_randlora", "add_tinylora", "add_unilora", "add_unilora_alone", "add_vera"]


def add_vera(module: PeftModule) -> None:
    """Add a VeRA update, whose shared projections are in the file or drawn again."""
    _add_vera(module, "vera")


def add_pvera(module: PeftModule) -> None:
    """Add a PVeRA update: its mean, which is what PEFT merges."""
    _add_vera(module, "pvera")
    module.ledger.assume("update", "its mean: PVeRA draws a random one in training", "nothing: merging gives the mean")


def _add_vera(module: PeftModule, kind: str) -> None:
    halves = kind == "pvera"
    named = module.required({"d": f"{kind}_lambda_d", "b": f"{kind}_lambda_b"})
    shared = module.model.shared
    if f"{kind}_A" in shared and f"{kind}_B" in shared:
        d_in = module.d_in(f"{kind}_A", f"{kind}_lambda_b")
        more = {factor: module.shared(f"{kind}_{factor}", frozen=True) for factor in "AB"}
    else:
        more = _drawn_again(module.model, kind)
        d_in = module.d_in()
    module.add(named, SharedPair(d_in, halves), more=more)


def _drawn_again(model: PeftModel, kind: str) -> dict[str, Part]:
    key = model.config.values.get("projection_prng_key")
    if not isinstance(key, int):
        raise AdapterValueError("its shared projections are not in the file, and no projection_prng_key is recorded")
    modules = [PeftModule(model, name) for name in model.groups]
    try:
        d_in = max(module.d_in() for module in modules)
    except AdapterValueError as error:
        raise AdapterValueError(
            "its shared projections are not in the file (save_projection=False); drawing them again from "
            "projection_prng_key needs every input size: give base= (the base model) or "
            "dialect=PeftDialect(in_features={'q_proj': 768, ...})"
        ) from error
    d_out = max(module.shape(f"{kind}_lambda_b")[0] for module in modules)
    rows = modules[0].shape(f"{kind}_lambda_d")[0]
    rank = rows // 2 if kind == "pvera" else rows
    shapes = {"A": (rows, d_in), "B": (d_out, rank)}
    return {
        factor: Part(shape, "float32", _Projection(key, shapes["A"], shapes["B"], index), f"{kind}_{factor}", True)
        for index, (factor, shape) in enumerate(shapes.items())
    }


@dataclass(frozen=True)
class _Projection:
    """Reads one of VeRA's two projections, drawn again from the key that the config records."""

    key: int
    shape_a: tuple[int, int]
    shape_b: tuple[int, int]
    which: int

    def __call__(self) -> Tensor:
        return regenerate_projections(self.key, self.shape_a, self.shape_b)[self.which]


def add_randlora(module: PeftModule) -> None:
    """Add a RandLoRA update, scaled by alpha over the rank of its bases."""
    named = module.required({"lambda": "randlora_lambda", "gamma": "randlora_gamma"})
    rank, small = module.shape("randlora_lambda")[0], module.shape("randlora_gamma")[-1]
    more = {factor: module.shared(f"randlora_{factor}", frozen=True) for factor in "AB"}
    alpha = number_or_none(module.config.values, "lora_alpha", "randlora_alpha")
    d_out, d_in = _sides(module, small, largest=more["B"].shape[0])
    module.add(named, ScaledBases(d_out, d_in), (640.0 if alpha is None else alpha) / rank, more=more)


def _sides(module: PeftModule, small: int, largest: int) -> tuple[int, int]:
    """(d_out, d_in) of a module whose smaller side is known, and the largest side of any module."""
    shape = module.base_shape
    if shape is not None and len(shape) == 2:
        return (shape[1], shape[0]) if module.config.fan_in_fan_out else (shape[0], shape[1])
    if small == largest:
        return small, small
    given = module.model.given_sizes.first(module.name)
    if given is not None and given > small:
        return small, given
    if given is not None and len(module.model.groups) == 1:
        return largest, given
    raise AdapterValueError(
        "RandLoRA records the smaller side of a weight only, and not which side it is: give base= (the base model)"
    )


def add_tinylora(module: PeftModule) -> None:
    """Add a TinyLoRA update, whose trained vector and random projections depend on the module's place in the model."""
    named = module.required({"A": "tinylora_A", "B": "tinylora_B"})
    vectors = {int(name.rpartition(".")[2]): name for name in module.model.shared if name.startswith("tinylora_v.")}
    if not vectors:
        raise AdapterValueError("TinyLoRA's trained vectors tinylora_v are not in the file")
    rank = module.shape("tinylora_A")[0]
    length = module.ledger.tensors[module.model.shared[next(iter(vectors.values()))]].size
    place = _place(module, length, rank)
    count = len(module.model.groups)
    groups = max(1, round(count * (1 - float(number_or_none(module.config.values, "weight_tying") or 0))))
    group = min(place // max(1, count // groups), groups - 1)
    if group not in vectors:
        raise AdapterValueError(f"TinyLoRA's trained vector tinylora_v.{group} is not in the file")
    more = {"v": module.shared(vectors[group])}
    if "tinylora_P" in module.parts:
        named["P"] = module.parts["tinylora_P"]
    else:
        draw = _TinyProjection(_seed(module) + place, length, rank)
        more["P"] = Part((length, rank, rank), "float32", draw, f"tinylora_P.{module.name}", frozen=True)
    module.add(named, ProjectedPair(), more=more, frozen=("A", "B", "P"))


def _place(module: PeftModule, length: int, rank: int) -> int:
    """The module's place among those that are adapted, in the model's order, which seeds its projections."""
    count = len(module.model.groups)
    if module.model.order is not None:
        return module.model.order.index(module.name)
    if "tinylora_P" in module.parts:
        recorded = module.ledger.tensors[module.parts["tinylora_P"]].read().float()
        for place in range(count):
            drawn = _TinyProjection(_seed(module) + place, length, rank)()
            if drawn.shape == recorded.shape and torch.allclose(drawn, recorded, atol=0.02, rtol=0.02):
                return place
        raise AdapterValueError("TinyLoRA's projections tinylora_P come from no place in the model that is known")
    raise AdapterValueError(
        "TinyLoRA's projections are not in the file (save_projection=False), and drawing them again needs the order of "
        "the modules in the model, which files do not record: give base=, the open base model"
    )


def _seed(module: PeftModule) -> int:
    seed = number_or_none(module.config.values, "projection_seed")
    return 42 if seed is None else int(seed)


@dataclass(frozen=True)
class _TinyProjection:
    seed: int
    length: int
    rank: int

    def __call__(self) -> Tensor:
        return _tiny_projection(self.seed, self.length, self.rank)


@lru_cache(maxsize=64)
def _tiny_projection(seed: int, length: int, rank: int) -> Tensor:
    """TinyLoRA's random matrices: normal, of variance 1/rank, from a CPU generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.normal(0.0, rank**-0.5, (length, rank, rank), generator=generator)


def add_unilora(module: PeftModule) -> None:
    """Add a Uni-LoRA update, whose indices the file holds where `save_indices` was set."""
    named = module.required(
        {f"{which}_{kind}": f"unilora_{kind}_{which}" for which in "AB" for kind in ("indices", "scales")}
    )
    more = {"theta": module.shared("unilora_theta_d")}
    module.add(named, IndexedPair(), more=more, frozen=("A_scales", "B_scales", "A_indices", "B_indices"))


def add_unilora_alone(model: PeftModel) -> None:
    """Add the updates of a file that holds the trained vector only, whose indices are drawn again.

    They are spread over the modules in the model's order, A before B, so that this needs the base model in memory.
    """
    theta, base = model.shared["unilora_theta_d"], model.base
    if base is None or not base.in_memory:
        model.ledger.refuse(
            theta,
            "Uni-LoRA's indices are not in the file (save_indices=False), and drawing them again needs the model's "
            "modules in their order, which files do not record: give base=, the open base model",
        )
        return
    try:
        targets = _targets(model.config, base)
    except AdapterValueError as error:
        model.ledger.refuse(theta, str(error))
        return
    values = model.config.values
    rank = model.config.rank or 4
    length, seed = model.ledger.tensors[theta].size, int(number_or_none(values, "proj_seed") or 0)
    if values.get("proj_seed") is None:
        seed = 42
    sizes = [rank * side for module in targets for side in reversed(targets[module])]
    drawn = _Indices(sum(sizes), length, seed)
    start = 0
    for module, (d_out, d_in) in targets.items():
        parts = {"theta": model.ledger.part(theta)}
        for factor, shape in (("A", (rank, d_in)), ("B", (d_out, rank))):
            for kind, dtype in (("indices", "int64"), ("scales", "float32")):
                read = _Slice(drawn, start, shape, scales=kind == "scales")
                parts[f"{factor}_{kind}"] = Part(shape, dtype, read, f"{module}.{factor}_{kind}", frozen=True)
            start += shape[0] * shape[1]
        layout = Layout(stored_transposed=model.config.fan_in_fan_out)
        model.ledger.add(module, {}, IndexedPair(), 1.0, layout=layout, more=parts)
    model.ledger.share(theta, "unilora_theta_d of every module")


def _targets(config: PeftConfig, base: BaseWeights) -> dict[str, tuple[int, int]]:
    """(d_out, d_in) of each linear layer that target_modules names, in the model's order."""
    wanted = config.values.get("target_modules")
    narrowed = [
        name for name in ("layers_to_transform", "layers_pattern", "exclude_modules") if config.values.get(name)
    ]
    if narrowed or not isinstance(wanted, str | list) or wanted == "all-linear":
        what = ", ".join(narrowed) or f"target_modules {wanted!r}"
        raise AdapterValueError(
            f"Uni-LoRA's indices are not in the file, and {what} leaves open which modules they belong to: save them "
            "with save_indices=True"
        )
    found = {}
    for name in base:
        module, _, leaf = name.rpartition(".")
        shape = base.shape_of(name)
        if leaf == "weight" and len(shape) == 2 and _is_target(module, wanted):
            found[module] = (shape[1], shape[0]) if config.fan_in_fan_out else (shape[0], shape[1])
    return found


def _is_target(module: str, wanted: str | list[str]) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted)


@dataclass(frozen=True)
class _Slice:
    """Reads the indices of one factor, or the scales that make the columns of the projection have length one."""

    drawn: _Indices
    start: int
    shape: tuple[int, int]
    scales: bool

    def __call__(self) -> Tensor:
        indices, scales = self.drawn()
        chosen = indices[self.start : self.start + self.shape[0] * self.shape[1]].reshape(self.shape)
        return scales[chosen] if self.scales else chosen


@dataclass(frozen=True)
class _Indices:
    """Which entry of the trained vector each entry of the factors is, drawn as PEFT draws it."""

    count: int
    length: int
    seed: int

    def __call__(self) -> tuple[Tensor, Tensor]:
        return _draw_indices(self.count, self.length, self.seed)


@lru_cache(maxsize=2)
def _draw_indices(count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Every entry is used as often as every other, to within one; its scale is one over the root of that number."""
    generator = np.random.default_rng(seed)
    drawn = np.repeat(np.arange(length), count // length)
    if count % length:
        drawn = np.concatenate([drawn, generator.choice(length, size=count % length, replace=False)])
    generator.shuffle(drawn)
    indices = torch.as_tensor(drawn, dtype=torch.long)
    uses = torch.bincount(indices, minlength=length).float()
    return indices, torch.where(uses > 0, uses.rsqrt(), 0.0)
