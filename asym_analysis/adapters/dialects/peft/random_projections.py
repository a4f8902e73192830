"""Tuners that train a few numbers around frozen random projections: VeRA, PVeRA, RandLoRA, TinyLoRA, Uni-LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from asym_analysis.adapters.adapter import Part
from asym_analysis.adapters.dialects.peft.config import number_or_none
from asym_analysis.adapters.dialects.peft.module import PeftModel, PeftModule
from asym_analysis.adapters.factorizations.shared import (
    IndexedPair,
    ProjectedPair,
    ScaledBases,
    SharedPair,
    regenerate_projections,
)
from asym_analysis.errors import AdapterValueError

__all__ = ["add_pvera", "add_randlora", "add_tinylora", "add_unilora", "add_vera"]


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
    if count == 1:
        return 0
    if "tinylora_P" in module.parts:
        recorded = module.ledger.tensors[module.parts["tinylora_P"]].read().float()
        for place in range(count):
            drawn = _TinyProjection(_seed(module) + place, length, rank)()
            if drawn.shape == recorded.shape and torch.allclose(drawn, recorded, atol=0.02, rtol=0.02):
                return place
        raise AdapterValueError("TinyLoRA's projections tinylora_P come from no place in the model that is known")
    raise AdapterValueError(
        "TinyLoRA's projections are not in the file (save_projection=False), and drawing them again needs the order of "
        "the modules in the model, which the file does not record: save them with save_projection=True"
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
