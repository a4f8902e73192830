"""What a tuner sees of one module: its tensors, the config, the other modules and, if given, its base weight."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from asym_analysis.adapters.adapter import Part
from asym_analysis.adapters.base_weights import BaseWeights
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.dialects.peft.config import PeftConfig
from asym_analysis.adapters.factorizations.module_source import Factorization, Layout
from asym_analysis.adapters.module_names import projection_of
from asym_analysis.adapters.name_patterns import Patterns
from asym_analysis.errors import AdapterError, AdapterValueError
from asym_analysis.lazy_torch import torch

__all__ = ["PeftModel", "PeftModule"]

#: Projections that read the residual stream, and so have the same input size in every layer of one network.
_READ_THE_STREAM = frozenset(
    {
        *("q", "k", "v", "q_proj", "k_proj", "v_proj", "query", "key", "value", "q_lin", "k_lin", "v_lin"),
        *("query_proj", "key_proj", "value_proj", "qkv", "qkv_proj", "query_key_value", "c_attn", "in_proj", "Wqkv"),
        *("gate_proj", "up_proj", "gate_up_proj", "fc1", "c_fc", "lin1", "wi", "wi_0", "wi_1", "dense_h_to_4h"),
    }
)


@dataclass(frozen=True)
class PeftModel:
    """All modules of a checkpoint, and what they share.

    Attributes
    ----------
    ledger, config
        Where the account is kept, and what adapter_config.json says.
    groups
        Module -> part, as `parse_key` names it -> tensor's name.
    paths
        Module -> its name as the config's patterns see it.
    shared
        Part -> tensor's name, for tensors that all modules share.
    in_features
        Pattern for the end of a module's name -> input size, where the user gives it.
    base
        The base model's weights, where the user gives them.
    taken
        What the initialization took out of the base weight, where `base` is the one from before (`taken_from`).
    """

    ledger: Ledger
    config: PeftConfig
    groups: Mapping[str, Mapping[str, str]]
    paths: Mapping[str, str]
    shared: Mapping[str, str]
    in_features: Mapping[str, int]
    base: BaseWeights | None = None
    taken: str | None = None

    @cached_property
    def order(self) -> tuple[str, ...] | None:
        """The adapted modules in the model's order; None where that is not known.

        Files keep tensors in an order of their own: only a base in memory tells.
        """
        if len(self.groups) == 1:
            return tuple(self.groups)
        if self.base is None or not self.base.in_memory:
            return None
        places = {name: place for place, name in enumerate(self.base)}
        named = {module: PeftModule(self, module).base_name for module in self.groups}
        if any(name is None for name in named.values()):
            return None
        return tuple(sorted(self.groups, key=lambda module: places[named[module] or ""]))

    @cached_property
    def given_sizes(self) -> Patterns[int]:
        """The input sizes that the user gives."""
        return Patterns(self.in_features)

    def stream_size(self, shared_A: str, outputs: str) -> int | None:
        """The input size of every module, if the names say that it is one; None where it may differ.

        Parameters
        ----------
        shared_A
            Part of the shared A, as wide as the largest input.
        outputs
            Part that has one number for each of a module's outputs.
        """
        if shared_A not in self.shared:
            return None
        towers: dict[str, dict[str, set[int]]] = {}
        for module, parts in self.groups.items():
            tower = towers.setdefault(_tower(module), {})
            tower.setdefault(projection_of(module), set()).add(self.ledger.tensors[parts[outputs]].size)
        projections = {projection for tower in towers.values() for projection in tower}
        one_size = all(len(sizes) == 1 for tower in towers.values() for sizes in tower.values())
        first = next(iter(towers.values()), {})
        if not one_size or any(tower != first for tower in towers.values()):
            return None
        if len(projections) > 1 and not projections <= _READ_THE_STREAM:
            return None
        return (0, *self.ledger.tensors[self.shared[shared_A]].shape)[-1]


@dataclass(frozen=True)
class PeftModule:
    """One module of a checkpoint."""

    model: PeftModel
    name: str

    @property
    def ledger(self) -> Ledger:
        """Where the account is kept."""
        return self.model.ledger

    @property
    def config(self) -> PeftConfig:
        """What adapter_config.json says."""
        return self.model.config

    @property
    def parts(self) -> Mapping[str, str]:
        """Part -> tensor's name."""
        return self.model.groups[self.name]

    @property
    def path(self) -> str:
        """The module's name as the config's patterns see it."""
        return self.model.paths[self.name]

    def shape(self, part: str) -> tuple[int, ...]:
        """Shape of a part's tensor."""
        return self.ledger.tensors[self.parts[part]].shape

    def required(self, names: Mapping[str, str]) -> dict[str, str]:
        """Part of the factorization -> tensor's name, from part of the factorization -> part of the file.

        Raises
        ------
        AdapterValueError
            If one is missing.
        """
        missing = [name for name in names.values() if name not in self.parts]
        if missing:
            raise AdapterValueError(f"{', '.join(missing)} is not there")
        return {part: self.parts[name] for part, name in names.items()}

    def shared(self, part: str, *, frozen: bool = False) -> Part:
        """A tensor that all modules share.

        Raises
        ------
        AdapterValueError
            If the file does not hold it.
        """
        if part not in self.model.shared:
            raise AdapterValueError(f"{part}, which all modules share, is not in the file")
        self.ledger.share(self.model.shared[part], f"{part} of every module")
        return self.ledger.part(self.model.shared[part], frozen=frozen)

    def add(
        self,
        parts: Mapping[str, str],
        factorize: Factorization,
        scaling: float = 1.0,
        *,
        layout: Layout | None = None,
        trained: frozenset[str] | None = None,
        also: Iterable[str] = (),
        more: Mapping[str, Part] | None = None,
        frozen: Iterable[str] = (),
    ) -> None:
        """Record the module as `Ledger.add` does, in the layout of its base weight where that is given."""
        layout = layout or self.layout
        weight = self.base_shape
        if weight is not None and len(weight) > 2 and layout.weight_shape is None:
            layout = Layout(weight)
        self.ledger.add(
            self.name, parts, factorize, scaling, layout=layout, trained=trained, also=also, more=more, frozen=frozen
        )

    @property
    def layout(self) -> Layout:
        """The layout that the config gives to linear layers."""
        return Layout(stored_transposed=self.config.fan_in_fan_out)

    @cached_property
    def base_name(self) -> str | None:
        """Name of the base weight; None where no base is given or none fits."""
        if self.model.base is None:
            return None
        try:
            return self.model.base.name_of(self.name.rpartition("/")[2])
        except AdapterError:
            return None

    @property
    def base_shape(self) -> tuple[int, ...] | None:
        """Shape of the base weight as the model stores it; None where no base is given or none fits."""
        if self.model.base is None or self.base_name is None:
            return None
        return self.model.base.shape_of(self.base_name)

    def base_weight(self, why: str, *, transposed: bool | None = None) -> Part:
        """The base weight as a matrix (d_out, d_in): read when the update is, or copied now where it is in memory.

        Parameters
        ----------
        why
            What the update is, for the message where no base is given.
        transposed
            True where the model stores the weight as (d_in, d_out), by default as the config says.

        Raises
        ------
        AdapterValueError
            If there is none.
        """
        base, name, shape = self.model.base, self.base_name, self.base_shape
        if base is None or name is None or shape is None:
            given = "no base model is given" if base is None else f"{base.source} has no weight of that module"
            raise AdapterValueError(f"{why}, and {given}: give base= (a model's folder, id or state dict)")
        transposed = self.config.fan_in_fan_out if transposed is None else transposed
        rows, columns = shape[0], int(torch.Size(shape[1:]).numel())
        matrix = (columns, rows) if transposed else (rows, columns)
        read = partial(base.matrix, self.name.rpartition("/")[2], matrix, transposed=transposed)
        if base.in_memory:
            read = partial(torch.clone, read())
        return Part(matrix, "float32", read, tensor=f"{name} of the base model", frozen=True)

    def d_in(self, shared_A: str | None = None, outputs: str = "") -> int:
        """Size of the module's input, which the tuner's tensors do not record.

        Parameters
        ----------
        shared_A, outputs
            As for `PeftModel.stream_size`, where the tuner has a shared A.

        Raises
        ------
        AdapterValueError
            If it is neither given nor follows from the base model or the names.
        """
        if (given := self.model.given_sizes.first(self.name)) is not None:
            return given
        if self.base_shape is not None and len(self.base_shape) == 2:
            return self.base_shape[0 if self.config.fan_in_fan_out else 1]
        if not self.model.in_features and shared_A is not None:
            size = self.model.stream_size(shared_A, outputs)
            if size is not None:
                return size
        raise AdapterValueError(
            f"the file records no input size and the modules' may differ; give it with base= (the base model) or with "
            f"dialect=PeftDialect(in_features={{{projection_of(self.name)!r}: ...}})"
        )


def _tower(module: str) -> str:
    """What stands before the first number of a name: one for each stack of layers."""
    parts = module.split(".")
    first = next((index for index, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
    return ".".join(parts[:first])
