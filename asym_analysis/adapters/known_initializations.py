"""From which distribution each trainer draws A and B, with the source of each entry, and what a file records of it.

A law is the name of a distribution (see `LAWS`). `known_laws` looks at the recorded initialization first: PEFT writes
`init_lora_weights` into adapter_config.json. Where nothing is recorded, the dialect names the library that wrote the
file, and with it the library's default. Both speak of plain pairs. The tensors of the file say whether a module is one,
or an embedding, and a file that this package wrote says what was recorded before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.module_names import projection_of
from asym_analysis.adapters.module_source import ModuleSource
from asym_analysis.adapters.provenance import recorded_facts
from asym_analysis.vocabulary import FACTORS, Factor

__all__ = ["LAWS", "KnownLaws", "initial_squares", "known_laws", "laws_by_module"]

#: Name of a law -> what it is. d is d_in for A and d_out for B; fan_in is d_in for A and the rank for B.
LAWS: Mapping[str, str] = {
    "zero": "all entries zero",
    "kaiming_uniform": "uniform on plus or minus 1/sqrt(fan_in): torch.nn.init.kaiming_uniform_(a=sqrt(5))",
    "gaussian": "normal with standard deviation 1/rank",
    "xavier_normal": "normal with standard deviation sqrt(2/(rank + d))",
    "normal_0.02": "normal with standard deviation 0.02",
    "standard_normal": "normal with standard deviation 1",
    "orthonormal": "orthonormal rows of A or columns of B",
    "peft_orthogonal": "normal vectors times half of a random orthogonal matrix, entries of mean square 1/200",
    "weights": "computed from the base weights or from data",
    "random": "drawn at random, from a distribution that the file does not name",
    "composed": "not one tensor of the file with the law that is recorded: a product, pooled inputs, blocks or groups",
}

#: Modules that PEFT and loralib adapt as embeddings, where A is zero and B is random, if the tensors do not say it.
_EMBEDDINGS = frozenset(
    {
        *("embed_tokens", "wte", "wpe", "word_embeddings", "position_embeddings", "token_type_embeddings"),
        *("tok_embeddings", "embedding", "embeddings", "embed_in", "token_embedding", "position_embedding"),
        *("embed_positions", "shared"),
    }
)


@dataclass(frozen=True)
class KnownLaws:
    """The laws from which the factors of one module were initialized.

    Attributes
    ----------
    A, B
        A name of `LAWS`.
    recorded
        True where the file's own config names the initialization; False where it is the default of the library that
        wrote the file.
    source
        Who says so, for messages and tables.
    assumed
        True where the library has other initializations, too, and no config is there to say which was taken.
    """

    A: str
    B: str
    recorded: bool
    source: str
    assumed: bool = False

    @cached_property
    def random(self) -> frozenset[Factor]:
        """The factors that did not begin at zero."""
        return frozenset(factor for factor in FACTORS if self.law(factor) != "zero")

    def law(self, factor: str) -> str:
        """Name of the distribution that factor "A" or "B" was drawn from."""
        return self.A if factor == "A" else self.B


_CLONEOFSIMO = (
    "gaussian",
    "zero",
    "cloneofsimo's default (lora_diffusion/lora.py: normal_(lora_down, std=1/r))",
)
# Default of each library, by the name of the dialect that reads its files: A, B, where its source says so.
_BY_DIALECT: Mapping[str, tuple[str, str, str]] = {
    "peft": ("kaiming_uniform", "zero", "PEFT's default (peft/tuners/lora/layer.py, reset_lora_parameters)"),
    "peft without a config": ("kaiming_uniform", "zero", "PEFT's default; no config says that it was taken"),
    "loralib": ("kaiming_uniform", "zero", "loralib's default (loralib/layers.py, Linear.reset_parameters)"),
    "lit-gpt": ("kaiming_uniform", "zero", "LitGPT's default (litgpt/lora.py, LoRALinear.reset_parameters)"),
    "torchtune": (
        "kaiming_uniform",
        "zero",
        "torchtune's default (torchtune/modules/peft/lora.py, _lora_a_init_params)",
    ),
    "mlx": ("kaiming_uniform", "zero", "MLX's default (mlx_lm/tuner/lora.py: uniform on 1/sqrt(input_dims))"),
    "mlx-vlm": ("random", "zero", "mlx-vlm's default (mlx_vlm/trainer/lora.py)"),
    "clip-lora": ("kaiming_uniform", "zero", "CLIP-LoRA's default (loralib/layers.py, init_lora_param)"),
    "sam-lora": ("kaiming_uniform", "zero", "SAM-LoRA's default (sam_lora_image_encoder.py, reset_parameters)"),
    "kohya": ("kaiming_uniform", "zero", "kohya's default (networks/lora.py: kaiming_uniform_(a=sqrt(5)))"),
    "cloneofsimo": _CLONEOFSIMO,
    "cloneofsimo-list": _CLONEOFSIMO,
    "nemo": (
        "xavier_normal",
        "zero",
        "NeMo's default (parallel_adapters.py: column_init_method='xavier', row_init_method='zero')",
    ),
    # diffusers' own layers draw normal(1/rank); its training scripts pass either that or PEFT's default.
    "diffusers": ("random", "zero", "diffusers (models/lora.py and its training scripts: B is zero)"),
}
_LORA_DEFAULT = ("kaiming_uniform", "zero")
_PEFT_LORA: Mapping[str, tuple[str, str]] = {
    "true": _LORA_DEFAULT,
    "gaussian": ("gaussian", "zero"),
    "orthogonal": ("peft_orthogonal", "peft_orthogonal"),
    "false": ("kaiming_uniform", "kaiming_uniform"),  # both stay as torch.nn.Linear initializes them
    "mica": ("zero", "weights"),
    "eva": ("weights", "zero"),
}
_FROM_WEIGHTS = ("pissa", "olora", "loftq", "corda", "lora_ga")
_EMBEDDING_LAWS = ("zero", "standard_normal")
# What PEFT's embeddings do not know falls back to their default.
_PEFT_EMBEDDING: Mapping[str, tuple[str, str]] = {
    "false": ("standard_normal", "standard_normal"),
    "mica": ("zero", "weights"),
    "loftq": ("weights", "weights"),
}
_PAIR = frozenset({"A", "B", "W0", "magnitude"})  # parts of a plain pair, and the weight it may be taken out of
_MIDDLE = frozenset({"E", "mid"})  # parts that are multiplied into A
_INNER = KnownLaws(
    "composed", "weights", True, "LoRA-XS (a trained matrix between singular vectors of the base weight)"
)


def known_laws(metadata: Mapping[str, Any], module: str, source: ModuleSource | None = None) -> KnownLaws | None:
    """Say from which laws the factors of a module were initialized, as far as the file tells.

    Parameters
    ----------
    metadata
        The adapter's: `init_lora_weights`, `peft_type`, `dialect`, `tied` and `header` are looked at.
    module
        The module's name, which tells an embedding from a linear layer where `source` does not.
    source
        The module, where it is known: its tensors say whether it is an embedding, and whether the law of a tensor is
        that of the factor.

    Returns
    -------
    KnownLaws or None
        None where neither the config nor the dialect tells.

    Examples
    --------
    >>> known_laws({"init_lora_weights": "gaussian"}, "layers.0.q_proj").A
    'gaussian'
    >>> known_laws({"dialect": "mlx"}, "layers.0.q_proj").B
    'zero'
    >>> known_laws({}, "layers.0.q_proj") is None
    True
    """
    return _of_module(_facts(metadata), module, source)


def laws_by_module(adapter: Adapter) -> Callable[[str], KnownLaws | None]:
    """Give `known_laws` of any module of one adapter, whose metadata are looked at once.

    Parameters
    ----------
    adapter
        The adapter.

    Returns
    -------
    callable
        Name of a module -> its laws.

    Examples
    --------
    >>> import torch
    >>> pair = torch.ones(2, 8), torch.ones(4, 2)
    >>> laws_by_module(Adapter.from_factors({"q": pair}, metadata={"dialect": "mlx"}))("q").B
    'zero'
    """
    facts = _facts(adapter.metadata)
    return lambda module: _of_module(facts, module, adapter.source(module))


def _facts(metadata: Mapping[str, Any]) -> tuple[str, str, str | None, bool]:
    """Dialect, `peft_type` and recorded initialization, in lower case but for the type; whether embeddings are tied."""
    dialect, kind, recorded = (metadata.get(name) for name in ("dialect", "peft_type", "init_lora_weights"))
    configured, written = kind, recorded_facts(metadata.get("header") or {})
    if written is not None:  # this package writes True into the config where nothing is known
        dialect, recorded = (
            written.get("dialect"),
            written.get("init_lora_weights", None if recorded is True else recorded),
        )
        configured = written.get("peft_type")
    if dialect == "peft" and configured is None:
        dialect = "peft without a config"
    kind = str(kind or "LORA").upper()
    kind = "LORA" if kind.startswith("NETWORKS.LORA") else kind  # kohya's modules
    tied = bool(metadata.get("tied"))
    return str(dialect or ""), kind, None if recorded is None else str(recorded).lower(), tied


def _of_module(facts: tuple[str, str, str | None, bool], module: str, source: ModuleSource | None) -> KnownLaws | None:
    *names, tied = facts
    parts = {} if source is None else source.parts
    if any(".lora_embedding_" in part.tensor for part in parts.values()):
        laws = _known_laws(*names, True)
        # The factors of a tied head are the embedding's, turned round, and PEFT draws them once more for the head.
        return replace(laws, B="composed") if tied and laws is not None and laws.B == "standard_normal" else laws
    by_name = not any(".lora_A." in part.tensor for part in parts.values())
    laws = _known_laws(*names, by_name and projection_of(module) in _EMBEDDINGS)
    return laws if laws is None or source is None else _of_parts(laws, source, plain_shapes=not by_name)


def _of_parts(laws: KnownLaws, source: ModuleSource, *, plain_shapes: bool) -> KnownLaws | None:
    """The laws of the factors, which are the tensors' own only in plain pairs; None where there is no pair."""
    names = set(source.parts)
    if "R" in names:
        return _INNER
    if {name.partition(".")[0] for name in names} - _PAIR - _MIDDLE:
        return None
    changed: dict[str, str] = {}
    if names & _MIDDLE and laws.A not in ("zero", "weights"):
        changed["A"] = "composed"
    for factor, fan_in in (("A", source.d_in), ("B", source.rank)) if plain_shapes else ():
        # Pooled inputs, blocks, groups, and experts stacked in one tensor have another fan-in.
        if factor not in names or laws.law(factor) != "kaiming_uniform":
            continue
        if math.prod(source.parts[factor].shape[1:]) != fan_in:
            changed[factor] = "composed"
    return replace(laws, A=changed.get("A", laws.A), B=changed.get("B", laws.B)) if changed else laws


@lru_cache(maxsize=256)
def _known_laws(dialect: str, kind: str, recorded: str | None, embedding: bool) -> KnownLaws | None:
    if kind == "ADALORA":
        # The trained singular values, zero at first, are multiplied into A.
        return KnownLaws("random", "normal_0.02", False, "AdaLoRA's default (peft/tuners/adalora/layer.py)")
    if kind != "LORA":
        return None
    if recorded is not None:
        return _recorded(recorded, embedding)
    if dialect not in _BY_DIALECT:
        return None
    A, B, source = _BY_DIALECT[dialect]
    if dialect.startswith(("peft", "loralib")) and embedding:
        A, B = _EMBEDDING_LAWS
    return KnownLaws(A, B, False, source, assumed=dialect == "peft without a config")


def _recorded(name: str, embedding: bool) -> KnownLaws | None:
    source = f"init_lora_weights={name} in the config"
    weights = name.startswith(_FROM_WEIGHTS)
    if not weights and name not in _PEFT_LORA:
        return None
    A, B = ("weights", "weights") if weights else _PEFT_LORA[name]
    if embedding:
        A, B = _PEFT_EMBEDDING.get(name, _EMBEDDING_LAWS)
    return KnownLaws(A, B, True, source)


@lru_cache(maxsize=4096)
def initial_squares(laws: KnownLaws | None, rank: int, d_in: int, d_out: int) -> Mapping[Factor, tuple[float, ...]]:
    """Expected squared lengths of each factor of one module at its initialization.

    Parameters
    ----------
    laws
        From `known_laws`; without any, PEFT's default is the only one that is thought of.
    rank, d_in, d_out
        Shapes: A is (rank, d_in), B (d_out, rank).

    Returns
    -------
    dict
        Factor -> squared Frobenius norms, of PEFT's two defaults where only "random" is known; without the factors that
        began at zero or were computed from weights.

    Examples
    --------
    >>> initial_squares(known_laws({"init_lora_weights": True}, "layers.0.q_proj"), rank=6, d_in=64, d_out=32)
    {'A': (2.0,)}
    """
    found: dict[Factor, tuple[float, ...]] = {}
    for factor, width, fan_in in (("A", d_in, d_in), ("B", d_out, rank)):
        mean_square = {
            "kaiming_uniform": 1 / (3 * fan_in),
            "gaussian": rank**-2.0,
            "xavier_normal": 2 / (rank + width),
            "normal_0.02": 0.02**2,
            "standard_normal": 1.0,
            "orthonormal": 1 / width,
            "peft_orthogonal": 1 / 200,
        }
        name = "kaiming_uniform" if laws is None else laws.law(factor)
        names = ("kaiming_uniform", "gaussian") if name == "random" else (name,)
        squares = tuple(rank * width * mean_square[each] for each in names if each in mean_square)
        if squares:
            found["A" if factor == "A" else "B"] = squares
    return found
