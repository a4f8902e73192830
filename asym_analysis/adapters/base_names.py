"""Which weight of a base model a module of an adapter stands on, where their names differ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from asym_analysis.errors import AdapterError
from asym_analysis.lazy_torch import Tensor

__all__ = ["BaseNames", "Match"]

HEADS = frozenset({"lm_head", "embed_out", "output", "output_projection", "generator"})
EMBEDDINGS = frozenset(
    {"embed_tokens", "wte", "word_embeddings", "shared", "tok_embeddings", "embed_in", "token_embedding", "embedding"}
)
# Projections of one expert, and the fused stack that holds them: name of the stack, which half of its rows.
FUSED = {
    "gate_proj": ("gate_up_proj", 0),
    "up_proj": ("gate_up_proj", 1),
    "w1": ("gate_up_proj", 0),
    "w3": ("gate_up_proj", 1),
    "w2": ("down_proj", None),
}
EXPERT = re.compile(r"(?P<stack>.+\.experts)\.(?:(?P<number>\d+)\.(?P<name>\w+)|(?P<name2>\w+)\.(?P<number2>\d+))$")


@dataclass(frozen=True)
class Match:
    """A tensor of the base model, how it was found (empty: by its name), and which part of it is meant."""

    name: str
    how: str = ""
    expert: int | None = None
    half: int | None = None
    rows: int = 0

    def part_of(self, weight: Tensor) -> Tensor:
        """The part of the whole tensor that is meant: one expert, and one half of a fused projection."""
        if self.expert is None:
            return weight
        weight = weight[self.expert]
        if self.half is None:
            return weight
        axis = 0 if weight.shape[0] == 2 * self.rows else 1
        return weight.narrow(axis, self.half * self.rows, self.rows)


class BaseNames:
    """The names and shapes of a base model's tensors, asked with the names of an adapter's modules.

    Parameters
    ----------
    shapes
        Tensor name -> shape.
    source
        The base model, for messages.

    Examples
    --------
    >>> names = BaseNames({"model.language_model.layers.0.q.weight": (4, 4)}, "toy")
    >>> names.find("model.layers.0.q", (4, 4)).name
    'model.language_model.layers.0.q.weight'
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
        self._shapes = shapes
        self._source = source
        self._bare: dict[str, str] = {}
        for name in shapes:
            bare = re.sub(r"\.(?:weight|qweight|weight_packed)$|_blocks$", "", name).removesuffix(".base_layer")
            if bare != name or len(shapes[name]) > 1:
                self._bare.setdefault(bare.removeprefix("base_model.model."), name)
        self._by_last: dict[str, list[str]] = {}
        for bare in self._bare:
            self._by_last.setdefault(bare.rpartition(".")[2], []).append(bare)

    def find(self, module: str, shape: tuple[int, int] | None) -> Match:
        """Find the weight of a module.

        Raises
        ------
        AdapterError
            If none fits, or several fit equally well.
        """
        wanted = module.removesuffix(".weight")
        if wanted in self._bare:
            return Match(self._bare[wanted])
        found = self._ending(wanted, shape) or self._renamed(wanted, shape) or self._flattened(wanted)
        match = found or self._tied(wanted, shape) or self._stacked(wanted, shape)
        if match is not None:
            return match
        known = ", ".join(list(self._bare.values())[:3]) or "none"
        raise AdapterError(
            f"no weight of {self._source} fits module {module} (it holds {known}, ...): is this the adapter's base "
            "model?"
        )

    def _ending(self, wanted: str, shape: tuple[int, int] | None) -> Match | None:
        """The longest name that ends with the other's."""
        fitting: dict[int, list[str]] = {}
        parts = wanted.split(".")
        for bare in self._by_last.get(parts[-1], ()):
            other = bare.split(".")
            common = _common_tail(parts, other)
            if common in (len(parts), len(other)):
                fitting.setdefault(common, []).append(bare)
        best = fitting[max(fitting)] if fitting else []
        return self._only(wanted, best, shape, "one name ends with the other")

    def _renamed(self, wanted: str, shape: tuple[int, int] | None) -> Match | None:
        """Names that agree from the first number on, and in shape, with another prefix before it."""
        tail = _from_first_number(wanted)
        if tail is None:
            return None
        alike = [bare for bare in self._by_last.get(wanted.rpartition(".")[2], ()) if _from_first_number(bare) == tail]
        fitting = [bare for bare in alike if self._fits(bare, shape)]
        return self._only(wanted, fitting, shape, "the names agree from the layer's number on, and so do the shapes")

    def _flattened(self, wanted: str) -> Match | None:
        """Names in which underscores stand for dots, as kohya's trainers write them."""
        flat = wanted.replace(".", "_")
        fitting = [bare for bare in self._bare if f"_{flat}".endswith(f"_{bare.replace('.', '_')}")]
        longest = max(map(len, fitting), default=0)
        fitting = [bare for bare in fitting if len(bare) == longest]
        return self._only(wanted, fitting, None, "underscores stand for dots")

    def _tied(self, wanted: str, shape: tuple[int, int] | None) -> Match | None:
        """The input embedding of a model whose output head has no weight of its own, or the other way round."""
        last = wanted.rpartition(".")[2]
        others = EMBEDDINGS if last in HEADS else HEADS if last in EMBEDDINGS else frozenset()
        fitting = [bare for other in others for bare in self._by_last.get(other, ()) if self._fits(bare, shape)]
        return self._only(wanted, fitting, shape, "the output head and the input embedding share one weight")

    def _stacked(self, wanted: str, shape: tuple[int, int] | None) -> Match | None:
        """One expert of a tensor that holds all of them, shape (experts, rows, columns)."""
        found = EXPERT.match(wanted)
        if found is None:
            return None
        expert, projection = int(found["number"] or found["number2"]), found["name"] or found["name2"]
        for name, half in ((projection, None), FUSED.get(projection, ("", None))):
            bare = f"{found['stack']}.{name}"
            whole = Match(self._bare[bare]) if bare in self._bare else None
            whole = whole or self._ending(bare, None) or self._renamed(bare, None)
            if whole is not None:
                return self._expert(whole.name, expert, half, shape)
        return None

    def _expert(self, name: str, expert: int, half: int | None, shape: tuple[int, int] | None) -> Match | None:
        sizes = self._shapes[name]
        if name.endswith("_blocks"):  # packed: whoever reads it says so
            return Match(name)
        if len(sizes) != 3 or expert >= sizes[0]:
            return None
        how = f"expert {expert} of the stack" + ("" if half is None else f", half {half + 1} of the fused projection")
        if half is not None and shape is not None:
            fused = [(2 * shape[0], shape[1]), (shape[1], 2 * shape[0])]
            if sizes[1:] not in fused or fused[0] == fused[1]:
                return None
        return Match(name, how, expert, half, shape[0] if shape else 0)

    def _fits(self, bare: str, shape: tuple[int, int] | None) -> bool:
        sizes = self._shapes[self._bare[bare]]
        if shape is None or len(sizes) < 2:
            return shape is None
        matrix = sizes[0], _product(sizes[1:])
        return shape in (matrix, matrix[::-1])

    def _only(self, wanted: str, fitting: list[str], shape: tuple[int, int] | None, how: str) -> Match | None:
        if len(fitting) > 1:
            fitting = [bare for bare in fitting if self._fits(bare, shape)] or fitting
        if len(fitting) > 1:
            names = ", ".join(sorted(self._bare[bare] for bare in fitting)[:3])
            raise AdapterError(f"module {wanted} fits several weights of {self._source}: {names}")
        return Match(self._bare[fitting[0]], how) if fitting else None


def _common_tail(one: list[str], other: list[str]) -> int:
    count = 0
    while count < min(len(one), len(other)) and one[-1 - count] == other[-1 - count]:
        count += 1
    return count


def _from_first_number(name: str) -> tuple[str, ...] | None:
    """The parts from the one before the first number on: "layers", "0", "q"; None where there is no number."""
    parts = name.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return None if first is None else tuple(parts[max(first - 1, 0) :])


def _product(sizes: tuple[int, ...]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
