"""Every tuner of PEFT whose update is read: the names of its tensors, and what adds the update of one module.

A new tuner is one `Tuner` here and, where its arithmetic is new, one factorization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from asym_analysis.adapters.config_files import number_or_none
from asym_analysis.adapters.dialects.peft.lora import add_loha, add_lokr, add_lora
from asym_analysis.adapters.dialects.peft.module import PeftModel, PeftModule
from asym_analysis.adapters.dialects.peft.random_projections import (
    add_pvera,
    add_randlora,
    add_tinylora,
    add_unilora,
    add_unilora_alone,
    add_vera,
)
from asym_analysis.adapters.factorizations.blocks import BlockwisePair
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.pairs import NormalizedPair, RoutedPair, TiledPair
from asym_analysis.adapters.factorizations.shared import BankPair
from asym_analysis.adapters.factorizations.with_base import (
    BlockAffine,
    GatedSum,
    HadamardOfBase,
    ReflectedBase,
    RemovedSubspace,
    ReplacedTail,
    SparsePair,
)
from asym_analysis.adapters.module_names import projection_of
from asym_analysis.errors import AdapterValueError

__all__ = ["KNOWN", "TUNERS", "Tuner", "tuner_of"]


@dataclass(frozen=True)
class Tuner:
    """One of PEFT's tuners.

    Attributes
    ----------
    types
        Values of `peft_type` in its config.
    names
        Names of a module's tensors, as PEFT writes them.
    add
        Adds the update of one module to the ledger; raises AdapterValueError with the reason where it cannot.
    shared
        Names of tensors that all modules share.
    aliases
        Shorter names of some parts.
    alone
        Adds the updates of all modules where the file holds the shared tensors only.
    """

    types: tuple[str, ...]
    names: tuple[str, ...]
    add: Callable[[PeftModule], None]
    shared: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    alone: Callable[[PeftModel], None] | None = None


def tuner_of(parts: Iterable[str]) -> Tuner:
    """The tuner that names a module's parts; LoRA where none of the others does."""
    return _tuner_of(frozenset(part.partition(".")[0] for part in parts))


@lru_cache(maxsize=256)  # an adapter's modules have the same few parts each
def _tuner_of(names: frozenset[str]) -> Tuner:
    return next((tuner for tuner in TUNERS[1:] if names & {*tuner.names, *tuner.shared}), TUNERS[0])


def _add_delora(module: PeftModule) -> None:
    # Without the base weight's norms, which old versions of PEFT left out, the update cannot be formed.
    named = {"A": "delora_A", "B": "delora_B", "strength": "delora_lambda", "norms": "delora_w_norm"}
    module.add(module.required(named), NormalizedPair(), layout=Layout(), frozen=("norms",))


def _add_gralora(module: PeftModule) -> None:
    named = module.required({"A": "gralora_A", "B": "gralora_B"})
    general = {"general_A": "gralora_A_general", "general_B": "gralora_B_general"}
    named |= {part: module.parts[name] for part, name in general.items() if name in module.parts}
    shape = module.shape("gralora_A")
    if len(shape) != 3 or 0 in shape:
        raise AdapterValueError(f"gralora_A has shape {shape}")
    hybrid = module.shape("gralora_A_general")[0] if "general_A" in named else 0
    alpha = module.config.alpha
    module.config.scale_assumed |= alpha is None
    module.add(named, BlockwisePair(), 1.0 if alpha is None else alpha / (shape[2] + hybrid))


def _add_vblora(module: PeftModule) -> None:
    whole = {"logits_A": "vblora_logits_A", "logits_B": "vblora_logits_B"}
    kept = {
        f"{factor}_{part}": f"vblora_logits_{factor}_topk_{part}" for factor in "AB" for part in ("indices", "weights")
    }
    named = module.required(whole if "vblora_logits_A" in module.parts else kept)
    top = int(number_or_none(module.config.values, "topk") or 2)
    module.add(named, BankPair(top), more={"bank": module.shared("vblora_vector_bank")})


def _add_miss(module: PeftModule) -> None:
    named = module.required({"block": "miss_block"})
    shape = module.shape("miss_block")
    if len(shape) == 3:
        W0 = module.base_weight("MiSS with init_weights='bat' changes a weight by (W0 + I) times its blocks")
        module.add(named, BlockAffine(), more={"W0": W0})
        return
    copies = 1
    if module.config.values.get("init_weights") == "mini":
        weight = module.base_shape
        if weight is None:
            raise AdapterValueError(
                "MiSS with init_weights='mini' repeats its block over the outputs, whose number the file does not "
                "record: give base= (the base model)"
            )
        copies = weight[1 if module.config.fan_in_fan_out else 0] // shape[1]
    module.add(named, TiledPair(module.d_in(), copies))


def _add_lily(module: PeftModule) -> None:
    named = module.required({"A": "lily_A", "B": "lily_B", "router": "lily_router"})
    experts = module.shape("lily_router")[0]
    if experts != 1:
        raise AdapterValueError(
            f"Lily mixes {experts} matrices B by a router that reads each input, so that there is no one change of the "
            "weight (PEFT does not merge it either)"
        )
    router = named.pop("router")
    scaling = number_or_none(module.config.values, "scaling")
    module.add(named, RoutedPair(), 1.0 if scaling is None else scaling, also=(router,))


def _add_glora(module: PeftModule) -> None:
    parts = {part.removeprefix("glora_"): tensor for part, tensor in module.parts.items()}
    of_weight = {part: tensor for part, tensor in parts.items() if part[0] in "AB"}
    for which in "AB":
        if not {f"{which}.X"} <= of_weight.keys() and not {f"{which}.Xd", f"{which}.Xu"} <= of_weight.keys():
            raise AdapterValueError(f"GLoRA without its path {which}: it changes no weight")
    W0 = module.base_weight(
        "GLoRA changes a weight by W0 o A + B, an entrywise (Hadamard) product with the base weight"
    )
    module.add(of_weight, GatedSum(), more={"W0": W0})
    for part, tensor in parts.items():
        if part not in of_weight:
            module.ledger.keep(tensor, f"{module.name}.glora_{part}", f"part of the change of {module.name}'s bias")


def _add_hira(module: PeftModule) -> None:
    embedding = "hira_embedding_A" in module.parts
    prefix = "hira_embedding_" if embedding else "hira_"
    named = module.required({"A": f"{prefix}A", "B": f"{prefix}B"})
    transposed = _hira_transposed(module, named, embedding=embedding)
    why = "HiRA changes a weight by W0 o (B·A), an entrywise (Hadamard) product with the base weight"
    W0 = module.base_weight(why, transposed=transposed)
    layout = Layout(stored_transposed=transposed)
    module.add(named, HadamardOfBase(), layout=layout, more={"W0": W0})


def _hira_transposed(module: PeftModule, named: Mapping[str, str], *, embedding: bool) -> bool:
    """Whether the weight is stored as (d_in, d_out): PEFT's HiRA does not record it for GPT-2's Conv1D."""
    weight = module.base_shape
    if embedding or module.config.fan_in_fan_out or weight is None or len(weight) != 2:
        return embedding or module.config.fan_in_fan_out
    d_out, d_in = module.ledger.tensors[named["B"]].shape[0], module.ledger.tensors[named["A"]].shape[1]
    if d_out == d_in and projection_of(module.name) in ("c_attn", "c_fc", "c_proj"):
        raise AdapterValueError(
            "HiRA does not record whether a square weight is stored transposed, as GPT-2's is: say so with "
            "fan_in_fan_out in adapter_config.json"
        )
    return weight == (d_in, d_out) != (d_out, d_in)


def _add_hra(module: PeftModule) -> None:
    W0 = module.base_weight("HRA changes a weight by W0·H - W0, H being trained reflections")
    orthogonal = bool(module.config.values.get("apply_GS"))
    module.add(module.required({"u": "hra_u"}), ReflectedBase(orthogonal), more={"W0": W0})


def _add_deft(module: PeftModule) -> None:
    W0 = module.base_weight("DEFT changes a weight by Q·(R - P^T·W0)")
    values = module.config.values
    named = module.required({"P": "deft_P"} | ({} if values.get("para") else {"R": "deft_R"}))
    alpha = number_or_none(values, "lora_alpha", "alpha")
    scale = alpha / module.shape("deft_P")[1] if alpha else 1.0
    module.add(named, RemovedSubspace(scale, values.get("decomposition_method") == "qr"), more={"W0": W0})


def _add_osf(module: PeftModule) -> None:
    named = module.required({part: f"osf_svd_params.{part}_low" for part in "USV"})
    W0 = module.base_weight("OSF replaces the smallest singular components of W0")
    module.add(named, ReplacedTail(), more={"W0": W0})


def _add_supertuning(module: PeftModule) -> None:
    prefix = "supertuning_"
    if f"{prefix}indices" not in module.parts:
        raise AdapterValueError(
            "Super-Tuning's indices are not in the file: save them with save_precomputed_indices=True"
        )
    if f"{prefix}lora_A" not in module.parts:
        raise AdapterValueError(
            "Super-Tuning without its pair (r=None) changes single entries of a weight, at full rank"
        )
    named = module.required(
        {part: f"{prefix}{name}" for part, name in (("A", "lora_A"), ("B", "lora_B"), ("values", "values"))}
        | {"indices": f"{prefix}indices"}
    )
    alpha, rank = number_or_none(module.config.values, "lora_alpha"), module.shape(f"{prefix}lora_A")[0]
    module.add(named, SparsePair(2.0 if alpha is None else alpha / rank), layout=Layout(), frozen=("indices",))


#: Every tuner that is read, LoRA first: its names are those that other libraries write, too.
TUNERS = (
    Tuner(
        ("LORA", "ADALORA"),
        (
            *("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_E"),
            *("lora_diag", "ranknum", "alpha", "default_lora_latent_mapping"),
        ),
        add_lora,
        aliases={
            "lora_A": "A",
            "lora_B": "B",
            "lora_embedding_A": "embedding_A",
            "lora_embedding_B": "embedding_B",
            "lora_magnitude_vector": "magnitude",
            "lora_E": "E",
            "lora_diag": "E",
            "default_lora_latent_mapping": "R",
        },
    ),
    Tuner(("LOHA",), tuple(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")), add_loha),
    Tuner(("LOKR",), tuple(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")), add_lokr),
    Tuner(("VERA",), ("vera_lambda_d", "vera_lambda_b"), add_vera, ("vera_A", "vera_B")),
    Tuner(("PVERA",), ("pvera_lambda_d", "pvera_lambda_b"), add_pvera, ("pvera_A", "pvera_B")),
    Tuner(("RANDLORA",), ("randlora_lambda", "randlora_gamma"), add_randlora, ("randlora_A", "randlora_B")),
    Tuner(("TINYLORA",), ("tinylora_A", "tinylora_B", "tinylora_P"), add_tinylora, ("tinylora_v",)),
    Tuner(
        ("UNILORA",),
        tuple(f"unilora_{kind}_{which}" for kind in ("indices", "scales") for which in "AB"),
        add_unilora,
        ("unilora_theta_d",),
        alone=add_unilora_alone,
    ),
    Tuner(("DELORA",), ("delora_A", "delora_B", "delora_lambda", "delora_w_norm"), _add_delora),
    Tuner(("GRALORA",), ("gralora_A", "gralora_B", "gralora_A_general", "gralora_B_general"), _add_gralora),
    Tuner(
        ("VBLORA",),
        tuple(f"vblora_logits_{factor}{rest}" for factor in "AB" for rest in ("", "_topk_indices", "_topk_weights")),
        _add_vblora,
        ("vblora_vector_bank",),
    ),
    Tuner(("MISS",), ("miss_block",), _add_miss),
    Tuner(("LILY",), ("lily_A", "lily_B", "lily_router"), _add_lily),
    Tuner(("GLORA",), tuple(f"glora_{path}" for path in "ABCDE"), _add_glora),
    Tuner(("HIRA",), ("hira_A", "hira_B", "hira_embedding_A", "hira_embedding_B"), _add_hira),
    Tuner(("HRA",), ("hra_u",), _add_hra),
    Tuner(("DEFT",), ("deft_P", "deft_R"), _add_deft),
    Tuner(("OSF",), ("osf_svd_params",), _add_osf),
    Tuner(
        ("SUPERTUNING",),
        tuple(f"supertuning_{name}" for name in ("values", "indices", "lora_A", "lora_B")),
        _add_supertuning,
    ),
)

#: Every `peft_type` that is read.
KNOWN = frozenset(kind for tuner in TUNERS for kind in tuner.types)
