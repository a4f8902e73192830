"""From which distribution each trainer draws A and B, with the source of each entry, and what a file records of it.

A law is the name of a distribution (see `LAWS`). `known_laws` looks at the recorded initialization first: PEFT writes
`init_lora_weights` into adapter_config.json. Where nothing is recorded, the dialect names the library that wrote the
file, and with it the library's default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from asym_analysis.adapters.module_names import projection_of
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
}

#: Modules that PEFT and loralib adapt as embeddings, where A is zero and B is random.
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
    """

    A: str
    B: str
    recorded: bool
    source: str

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


def known_laws(metadata: Mapping[str, Any], module: str) -> KnownLaws | None:
    """Say from which laws the factors of a module were initialized, as far as the file tells.

    Parameters
    ----------
    metadata
        The adapter's: `init_lora_weights`, `peft_type` and `dialect` are looked at.
    module
        The module's name: embeddings have another initialization than linear layers.

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
    return laws_by_module(metadata)(module)


def laws_by_module(metadata: Mapping[str, Any]) -> Callable[[str], KnownLaws | None]:
    """Give `known_laws` of any module of one adapter, whose metadata are looked at once.

    Parameters
    ----------
    metadata
        As for `known_laws`.

    Returns
    -------
    callable
        Name of a module -> its laws.

    Examples
    --------
    >>> laws_by_module({"dialect": "mlx"})("layers.0.q_proj").B
    'zero'
    """
    facts = (metadata.get(name) for name in ("dialect", "peft_type", "init_lora_weights"))
    dialect, kind, recorded = (None if fact is None else str(fact) for fact in facts)
    linear, embedding = (_known_laws(dialect or "", (kind or "LORA").upper(), recorded, e) for e in (False, True))
    return lambda module: embedding if projection_of(module) in _EMBEDDINGS else linear


@lru_cache(maxsize=256)
def _known_laws(dialect: str, kind: str, recorded: str | None, embedding: bool) -> KnownLaws | None:
    if kind == "ADALORA":
        # The trained singular values, zero at first, are multiplied into A.
        return KnownLaws("random", "normal_0.02", False, "AdaLoRA's default (peft/tuners/adalora/layer.py)")
    if kind != "LORA":
        return None
    if recorded is not None:
        return _recorded(recorded.lower(), embedding)
    if dialect not in _BY_DIALECT:
        return None
    A, B, source = _BY_DIALECT[dialect]
    if dialect in ("peft", "loralib") and embedding:
        A, B = _EMBEDDING_LAWS
    return KnownLaws(A, B, False, source)


def _recorded(name: str, embedding: bool) -> KnownLaws | None:
    source = f"init_lora_weights={name} in the config"
    if name.startswith(_FROM_WEIGHTS):
        return KnownLaws("weights", "weights", True, source)
    if name not in _PEFT_LORA:
        return None
    A, B = _PEFT_LORA[name]
    if name in ("true", "gaussian") and embedding:
        A, B = _EMBEDDING_LAWS
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
