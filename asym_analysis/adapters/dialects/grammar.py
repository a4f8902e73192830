"""The key grammar of a library as one value: how it names, turns and scales the two factors of an update."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import GIVE_SCALE, Ledger
from asym_analysis.adapters.factorizations.blocks import SplitPair, StackedExpert
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.adapters.facts import Facts
from asym_analysis.adapters.module_names import projection_of
from asym_analysis.adapters.name_patterns import Patterns
from asym_analysis.errors import AdapterError, AdapterValueError

__all__ = ["EMBEDDINGS", "Grammar", "Key", "PatternDialect"]

_BASE_WEIGHT = re.compile(
    r"(?:\.(?:linear|base|base_layer|original_layer|original_linear|original|orig|to_wrap|module))?"
    r"(?:\.parametrizations\.weight\.original|\.(?:weight|bias|scale|scales|biases))$"
)
#: Names of embeddings, whose weight is stored as (tokens, width): for `Grammar.embeddings`.
EMBEDDINGS = "embed_tokens|wte|embeddings?|word_embeddings|tok_embeddings"


class Key(NamedTuple):
    """A tensor's name, taken apart: the module that it belongs to and the part that it plays there."""

    module: str
    part: str


@dataclass(frozen=True)
class Grammar:
    """Where a file keeps the two factors of each update, which way round they are, and how they are scaled.

    The libraries that this package knows and a file of your own are described alike. Patterns are regular expressions
    that match the whole name of a tensor; their group ``module``, or their first group, is the module's name, and
    pairs the factors. A group ``split`` is the number of a pair, where the parts of a fused projection have one each.

    Parameters
    ----------
    A, B : str
        Patterns of the two factors.
    transposed : str, default ""
        The factors that the file keeps the other way round, ``"A"``, ``"B"`` or ``"AB"``: A as (d_in, rank), B as
        (rank, d_out). ``"auto"`` reads it from the shapes of all pairs together.
    alpha : float, int or str, optional
        A number, or the pattern of the tensor that holds each module's alpha. None: see `alpha_at`.
    rank_stabilized : bool, default False
        True for the scale alpha / sqrt(rank) instead of alpha / rank.
    name : str, default "patterns"
        The name of the dialect, for messages and `load_adapter(dialect=...)`.
    magnitude : str, optional
        Pattern of DoRA's magnitude.
    refused : mapping of str to str, optional
        Pattern -> reason, for tensors of an update that cannot be read.
    module : callable, optional
        Gives the module's name from the match of a pattern, where the first group is not that name.
    alpha_at, scale_at, rank_at : tuple of str, optional
        Where the config, a file of `config_names` or the header has the alpha, the whole factor of B·A, and the rank:
        paths such as ``"model/lora_alpha"``, the first that is there; ``{module}`` in a path of the rank stands for the
        module's name. A rank that differs from the tensors' means that the config belongs to another file.
    default_scale : float, optional
        The scale where the library's config is there (`rank_at`) but gives no alpha. None: it is assumed to be 1.
    zero_alpha : bool, default False
        True where the library takes an alpha of 0 for the rank.
    known_as : mapping of str to tuple of str, optional
        What to keep of the config: key of the metadata -> paths.
    config_names : tuple of str, optional
        Files beside the weights, JSON or YAML, that the library writes.
    experts : bool, default False
        True where a pair of three dimensions belongs to a stack of experts: one module for each.
    embeddings : str, optional
        Pattern of the projections whose weight the model stores as (d_in, d_out).
    embeddings_transposed : str, optional
        `transposed` for these, where it differs.
    requires : tuple of str, optional
        Paths that must be in the config for a checkpoint to be recognized.
    whole_file : bool, default False
        True where every tensor must match for a checkpoint to be recognized.
    doubt : tuple of (tuple of str, str), optional
        Paths, all of which are in configs whose scale is uncertain, and why.
    hint : str, default ""
        What is known of the scale of files that do not record it.

    Raises
    ------
    AdapterError
        If a pattern is not a regular expression, or names no module; if `transposed` names anything but A and B.

    Examples
    --------
    >>> import torch
    >>> from asym_analysis.adapters.adapter import TensorSource
    >>> tensors = {"net/q/left": torch.ones(5, 2), "net/q/right": torch.ones(2, 3)}
    >>> sources = {name: TensorSource(tuple(t.shape), "float32", t.clone) for name, t in tensors.items()}
    >>> grammar = Grammar(A="(.*)/left", B="(.*)/right", transposed="AB", alpha=4)
    >>> grammar.read(Checkpoint(sources)).modules["net/q"].scaling
    2.0
    """

    A: str
    B: str
    transposed: str = ""
    alpha: float | int | str | None = None
    rank_stabilized: bool = False
    name: str = "patterns"
    magnitude: str | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    module: Callable[[re.Match[str]], str] | None = None
    alpha_at: tuple[str, ...] = ()
    scale_at: tuple[str, ...] = ()
    rank_at: tuple[str, ...] = ()
    default_scale: float | None = None
    zero_alpha: bool = False
    known_as: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    config_names: tuple[str, ...] = ()
    experts: bool = False
    embeddings: str | None = None
    embeddings_transposed: str | None = None
    requires: tuple[str, ...] = ()
    whole_file: bool = False
    doubt: tuple[tuple[str, ...], str] | None = None
    hint: str = ""

    def __post_init__(self) -> None:
        if self.transposed != "auto" and set(self.transposed) - {"A", "B"}:
            raise AdapterError(f"transposed is {self.transposed!r}: name the factors A, B or both, or write 'auto'")
        self._patterns  # noqa: B018 - a pattern that cannot be used is told at once

    @cached_property
    def _patterns(self) -> list[tuple[str, re.Pattern[str]]]:
        named = {"A": self.A, "B": self.B, "alpha": self.alpha, "magnitude": self.magnitude}
        return [(part, _compiled(pattern)) for part, pattern in named.items() if isinstance(pattern, str)]

    def key(self, tensor: str) -> Key | None:
        """Take a tensor's name apart.

        Parameters
        ----------
        tensor : str
            Its name in the file.

        Returns
        -------
        Key or None
            The module and the part (``"A"``, ``"B"``, ``"alpha"``, ``"magnitude"``; ``"A.0"``, ... for a split
            projection); None where it names no part of an update.
        """
        for part, pattern in self._patterns:
            found = pattern.fullmatch(tensor)
            if found is None:
                continue
            groups = found.groupdict()
            module = self.module(found) if self.module else groups["module"] if "module" in groups else found[1]
            split = groups.get("split")
            return Key(module, part if split is None else f"{part}.{int(split)}")
        return None

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a factor is named as in this grammar; every tensor, for a grammar of whole files.

        Parameters
        ----------
        checkpoint : Checkpoint
            What a container holds.

        Returns
        -------
        bool
            True where the names fit, and the config has what the grammar requires.
        """
        facts = Facts(checkpoint)
        if any(facts.at(path) is None for path in self.requires):
            return False
        A, B = (pattern for part, pattern in self._patterns if part in ("A", "B"))
        return bool(checkpoint.tensors) and _named_so(A, B, tuple(checkpoint.tensors), self.whole_file)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair the factors of each module, scale them, and account for every other tensor.

        Parameters
        ----------
        checkpoint : Checkpoint
            What a container holds.

        Returns
        -------
        Reading
            The modules, with the account of every tensor and what was assumed.

        Raises
        ------
        AdapterError
            If no pair can be formed.
        """
        ledger, facts = Ledger(checkpoint, self.name), Facts(checkpoint, self.config_names)
        groups: dict[str, dict[str, str]] = {}
        rest = []
        for tensor in checkpoint.tensors:
            reason = next((why for pattern, why in self.refused.items() if re.fullmatch(pattern, tensor)), None)
            key = None if reason else self.key(tensor)
            if reason is not None:
                ledger.refuse(tensor, reason)
            elif key is None:
                rest.append(tensor)
            elif key.part in groups.setdefault(key.module, {}):
                ledger.refuse(tensor, f"a second {key.part} of {key.module}")
            else:
                groups[key.module][key.part] = tensor
        _account_for(ledger, rest, groups)
        ledger.require_both(groups)
        auto = self.transposed == "auto"
        turned = _orientation(ledger, groups, Patterns(checkpoint.in_features)) if auto else self.transposed
        for module, parts in groups.items():
            try:
                self.add(ledger, facts, module, dict(parts), turned)
            except AdapterValueError as error:
                ledger.refuse(parts.values(), f"{module}: {error}")
        self.say_scale(ledger, facts)
        return ledger.reading({key: value for key, paths in self.known_as.items() if (value := facts.at(*paths))})

    def add(self, ledger: Ledger, facts: Facts, module: str, parts: dict[str, str], turned: str) -> None:
        """Add the update of one module.

        Parameters
        ----------
        ledger : Ledger
            The account that it is added to.
        facts : Facts
            What the config and the header say.
        module : str
            The module's name.
        parts : dict of str to str
            Part -> tensor's name.
        turned : str
            The factors that the file keeps the other way round.

        Raises
        ------
        AdapterValueError
            If the parts make no update.
        """
        alpha = parts.pop("alpha", None)
        also = [alpha] if alpha is not None else []
        embedding = self.embeddings is not None and re.fullmatch(self.embeddings, projection_of(module)) is not None
        if embedding and self.embeddings_transposed is not None:
            turned = self.embeddings_transposed
        pair = Pair("A" in turned, "B" in turned)
        if any("." in part for part in parts):
            count = sum(part.startswith("A.") for part in parts)
            rank = _rank(ledger, {"A": parts.get("A.0", ""), "B": parts.get("B.0", "")}, turned)
            ledger.add(module, parts, SplitPair(count, pair), self.scale(ledger, facts, module, rank, alpha), also=also)
            return
        A, B = _shapes(ledger, parts)
        if self.experts and len(B) == 3:
            scaling = self.scale(ledger, facts, module, B[-1], alpha)
            for expert in range(B[0]):
                ledger.add(f"{module}.{expert}", parts, StackedExpert(expert), scaling, also=also)
            return
        convolution = (B[0], *A[1:]) if len(A) > 2 and not turned else None
        layout = Layout(convolution, stored_transposed=embedding)
        scaling = self.scale(ledger, facts, module, _rank(ledger, parts, turned), alpha)
        ledger.add(module, parts, pair, scaling, layout=layout, also=also)

    def scale(self, ledger: Ledger, facts: Facts, module: str, rank: int, alpha: str | None = None) -> float:
        """Give the number that multiplies B·A.

        Parameters
        ----------
        ledger, facts, module : Ledger or Facts or str
            As for `add`.
        rank : int
            The rank that the tensors have.
        alpha : str, optional
            Name of the tensor that holds the module's alpha.

        Returns
        -------
        float
            The scale; 1 where no alpha is recorded.

        Raises
        ------
        AdapterValueError
            If the config gives another rank, or the module's alpha is missing.
        """
        value = facts.alpha
        if value is None:
            whole = facts.number(*self.scale_at)
            if whole is not None:
                return whole
            expected = facts.number(*(path.format(module=module) for path in self.rank_at))
            if expected is not None and expected != rank:
                raise AdapterValueError(
                    f"the tensors have rank {rank}, the config says {expected:g}: the scale is unknown"
                )
            value = ledger.number(alpha) if alpha is not None else self.recorded_alpha(facts)
        if value is None and isinstance(self.alpha, str):
            raise AdapterValueError("no tensor matches the pattern of its alpha")
        if value is None or (value == 0 and self.zero_alpha):
            return 1.0 if self.default_scale is None else self.default_scale
        return value / (math.sqrt(rank) if self.rank_stabilized else rank)

    def recorded_alpha(self, facts: Facts) -> float | None:
        """Give the alpha of the grammar, or of the config; None where there is none.

        Returns
        -------
        float or None
            Alpha.
        """
        return float(self.alpha) if isinstance(self.alpha, int | float) else facts.number(*self.alpha_at)

    def say_scale(self, ledger: Ledger, facts: Facts) -> None:
        """Record where the scales come from, and what is assumed of them."""
        if facts.number(*self.scale_at) is not None or self.recorded_alpha(facts) is not None:
            ledger.scaling_from("given" if isinstance(self.alpha, int | float) else "adapter config")
            if self.doubt is not None and all(facts.at(path) is not None for path in self.doubt[0]):
                ledger.assume("scale", self.doubt[1], GIVE_SCALE)
        elif isinstance(self.alpha, str):
            ledger.scaling_from("alpha of each module")
        elif self.default_scale is not None and facts.number(*self.rank_at) is not None:
            ledger.scaling_from(f"{self.default_scale:g}: the config gives no alpha")
        else:
            ledger.scaling_from("1: no alpha is recorded", recorded=False, hint=self.hint)


#: The grammar of a file that no known library wrote, under the name that users know.
PatternDialect = Grammar


def _account_for(ledger: Ledger, rest: list[str], groups: Mapping[str, object]) -> None:
    """Say of tensors beside the factors whether they were trained: not so in the state dict of a whole model."""
    whole_model = any(_BASE_WEIGHT.sub("", tensor) in groups for tensor in rest)
    for tensor in rest:
        if _BASE_WEIGHT.sub("", tensor) in groups:
            ledger.ignore(tensor, "frozen base weight of an adapted module")
        elif whole_model:
            reason = "the file is the state dict of a whole model, and does not say what else was trained"
            ledger.ignore(tensor, reason, may_be_trained=True)
        else:
            ledger.keep(tensor, tensor, "trained beside the adapter")


def _shapes(ledger: Ledger, parts: Mapping[str, str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    missing = [part for part in "AB" if part not in parts]
    if missing:
        raise AdapterValueError(f"{', '.join(parts) or 'alpha'} without {' and '.join(missing)}")
    A, B = (ledger.tensors[parts[part]].shape for part in "AB")
    if len(A) < 2 or len(B) < 2 or 0 in A + B:
        raise AdapterValueError(f"A {A} and B {B} are not matrices")
    return A, B


def _rank(ledger: Ledger, parts: Mapping[str, str], turned: str) -> int:
    A, _ = _shapes(ledger, {part: tensor for part, tensor in parts.items() if tensor})
    return A[-1] if "A" in turned else A[0]


def _orientation(ledger: Ledger, groups: Mapping[str, Mapping[str, str]], input_sizes: Patterns[int]) -> str:
    """The factors that are kept the other way round, by what multiplies with the smaller rank in most pairs.

    A square weight's factors multiply both ways, of which one would have a rank as large as the weight. An input size
    that the user gives decides alone.
    """
    votes = [0, 0]
    open_pairs = 0
    for module, parts in groups.items():
        if not {"A", "B"} <= parts.keys():
            continue
        A, B = (ledger.tensors[parts[part]].shape for part in "AB")
        if len(A) != 2 or len(B) != 2:
            continue
        size = input_sizes.first(module)
        if size in A and A[0] != A[1]:
            return "AB" if A[0] == size else ""
        upright, turned = A[0] == B[1], A[1] == B[0]
        if upright and turned and A[0] == A[1]:
            open_pairs += 1
        elif upright or (turned and not (A[0] < A[1] and A[0] % B[1] == 0)):  # the latter is a merged projection
            votes[int(turned and (not upright or A[1] < A[0]))] += 1
    if open_pairs and not any(votes):
        ledger.assume(
            "orientation",
            "A as (rank, d_in) and B as (d_out, rank), since every pair multiplies either way round",
            "give dialect=PatternDialect(A=..., B=..., transposed='AB') to load_adapter for the other way round",
        )
    return "AB" if votes[1] > votes[0] else ""


@lru_cache(maxsize=64)  # adapters of one family have the same names
def _named_so(A: re.Pattern[str], B: re.Pattern[str], tensors: tuple[str, ...], every: bool) -> bool:
    factors = ((A.fullmatch(tensor) or B.fullmatch(tensor)) is not None for tensor in tensors)
    return all(factors) if every else any(factors)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise AdapterError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
    if not compiled.groups:
        raise AdapterError(f"the pattern {pattern!r} has no group for the module's name: write (?P<module>.+)")
    return compiled
