"""A trained adapter: an ordered mapping from module names to low-rank updates, read when asked for."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from asym_analysis.adapters.assumption import Assumption
from asym_analysis.adapters.coverage import Coverage
from asym_analysis.adapters.low_rank_update import LowRankUpdate
from asym_analysis.adapters.metadata import Metadata
from asym_analysis.adapters.module_names import place
from asym_analysis.adapters.module_source import InMemory, ModuleSource, Part, TensorSource
from asym_analysis.errors import AdapterError, AdapterValueError
from asym_analysis.lazy_torch import Tensor, torch

__all__ = ["Adapter", "ModuleSource", "Part", "TensorSource"]

_DESCRIPTION = ("name", "metadata", "extras", "coverage", "initial", "assumptions")


class Adapter(Mapping[str, LowRankUpdate]):
    """An ordered mapping: module name -> `LowRankUpdate`. Each access reads that module's tensors, and no other's.

    Parameters
    ----------
    modules : mapping of str to ModuleSource
        Module name -> `ModuleSource`.
    name : str
        How tables and figures call this adapter.
    metadata : mapping, optional
        What is known of it: base_model, task_type, dialect, source, sha256, peft_type, step, seed, ...
    extras : mapping of str to TensorSource, optional
        Tensors that were trained but belong to no low-rank pair: heads, biases, embeddings.
    coverage : Coverage, optional
        What became of every tensor of the file.
    initial : Adapter, optional
        The initial factors, where they were recorded.
    assumptions : sequence of Assumption, optional
        What the checkpoint leaves open (a scale, an orientation), the value taken, and how to give the right one.

    Examples
    --------
    >>> adapter = Adapter.from_factors({"layer.0.query": (torch.ones(1, 3), torch.ones(2, 1))}, scaling=2.0, name="toy")
    >>> len(adapter), adapter["layer.0.query"].frobenius_norm().__round__(4)
    (1, 4.899)
    """

    def __init__(
        self,
        modules: Mapping[str, ModuleSource],
        *,
        name: str,
        metadata: Mapping[str, Any] | None = None,
        extras: Mapping[str, TensorSource] | None = None,
        coverage: Coverage | None = None,
        initial: Adapter | None = None,
        assumptions: Sequence[Assumption] = (),
    ) -> None:
        self._modules = dict(modules)
        self.name = name
        self.metadata: Mapping[str, Any] = metadata if isinstance(metadata, Metadata) else dict(metadata or {})
        self.extras: Mapping[str, TensorSource] = dict(extras or {})
        self.coverage = coverage or Coverage()
        self.initial = initial
        self.assumptions: tuple[Assumption, ...] = tuple(assumptions)

    @classmethod
    def from_factors(
        cls,
        factors: Mapping[str, tuple[Tensor, Tensor]],
        *,
        scaling: float = 1.0,
        name: str = "adapter",
        metadata: Mapping[str, Any] | None = None,
        initial: Adapter | None = None,
    ) -> Adapter:
        """Make an adapter from factors in memory: module name -> (A of shape (rank, d_in), B of shape (d_out, rank)).

        The factors are copied; those of a smaller dtype than float32 are cast up.
        """
        modules = {}
        for module, pair in factors.items():
            A, B = (factor.detach().clone() for factor in pair)
            parts = {
                factor: Part(
                    tuple(value.shape), _dtype(value), partial(torch.clone, value), tensor=f"{module}.{factor}"
                )
                for factor, value in (("A", A), ("B", B))
            }
            make = partial(_plain_update, scaling)
            modules[module] = ModuleSource(
                d_out=B.shape[0],
                d_in=A.shape[1],
                rank=A.shape[0],
                dtype=_dtype(A),
                read=InMemory(_Held(A, B, scaling)),
                scaling=scaling,
                parts=parts,
                make=make,
            )
        used = {f"{module}.{factor}": f"{factor} of {module}" for module in factors for factor in ("A", "B")}
        return cls(modules, name=name, metadata=metadata, coverage=Coverage(used=used), initial=initial)

    def __getitem__(self, module: str) -> LowRankUpdate:
        """Read one module.

        Raises
        ------
        AdapterError
            If the adapter has no such module, or its tensors cannot be used; the message names the module.
        """
        return self._read(module, self.source(module).read)

    def view(self, module: str) -> LowRankUpdate:
        """Read one module to look at only: factors in memory are not copied, and must not be changed.

        Parameters
        ----------
        module : str
            Name of the module.

        Returns
        -------
        LowRankUpdate
            The update.

        Raises
        ------
        AdapterError
            If the adapter has no such module, or its tensors cannot be used; the message names the module.
        """
        return self._read(module, self.source(module).view)

    def _read(self, module: str, read: Callable[[], LowRankUpdate]) -> LowRankUpdate:
        try:
            return read()
        except AdapterValueError as error:
            raise AdapterValueError(f"{self.name}, module {module}: {error}") from error

    def source(self, module: str) -> ModuleSource:
        """What the header says of one module, without reading its tensors.

        Parameters
        ----------
        module : str
            Name of the module.

        Returns
        -------
        ModuleSource
            Its shapes, rank, dtype, scaling and parts.

        Raises
        ------
        AdapterError
            If the adapter has no such module.
        """
        try:
            return self._modules[module]
        except KeyError:
            known = ", ".join(list(self._modules)[:3]) or "none"
            raise AdapterModuleMissing(
                f"{self.name} has no module {module!r}; it has {len(self._modules)} modules ({known}, ...)"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, module: object) -> bool:
        return module in self._modules

    def copy(self) -> Adapter:
        """Read every module into memory: an adapter that depends on no file, model or tensor of anybody else.

        Returns
        -------
        Adapter
            The same modules, in float32 or float64; its initial factors are copied too.

        Raises
        ------
        AdapterError
            If a module cannot be read.
        """
        return self._like(
            {module: _in_memory(source, self[module]) for module, source in self._modules.items()},
            extras={name: replace(source, read=_held(source)) for name, source in self.extras.items()},
            initial=None if self.initial is None else self.initial.copy(),
        )

    def with_coverage(self, coverage: Coverage) -> Adapter:
        """Give the same adapter with another account of what its files hold.

        Parameters
        ----------
        coverage : Coverage
            The account.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.
        """
        return self._like(self._modules, coverage=coverage)

    def with_modules(self, modules: Mapping[str, ModuleSource]) -> Adapter:
        """Replace some modules, or add them; everything else stays as it is.

        Parameters
        ----------
        modules : mapping of str to ModuleSource
            Module name -> `ModuleSource`.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.
        """
        return self._like({**self._modules, **modules})

    def without(self, modules: Mapping[str, str]) -> Adapter:
        """Leave out some modules, whose tensors the coverage then counts as refused.

        Parameters
        ----------
        modules : mapping of str to str
            Module name -> why it is left out.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.

        Examples
        --------
        >>> pair = torch.ones(1, 3), torch.ones(2, 1)
        >>> adapter = Adapter.from_factors({"q": pair, "v": pair}).without({"v": "not wanted"})
        >>> list(adapter), dict(adapter.coverage.refused)
        (['q'], {'v.A': 'not wanted', 'v.B': 'not wanted'})
        """
        left = {module: source for module, source in self._modules.items() if module not in modules}
        kept = {part.tensor for source in left.values() for part in source.parts.values()}
        gone = {p.tensor: modules[module] for module in modules for p in self.source(module).parts.values()}
        refused = {tensor: reason for tensor, reason in gone.items() if tensor not in kept}
        used = {tensor: part for tensor, part in self.coverage.used.items() if tensor not in refused}
        coverage = replace(self.coverage, used=used, refused={**self.coverage.refused, **refused})
        return self._like(left, coverage=coverage)

    def with_updates(self, updates: Mapping[str, LowRankUpdate], **facts: Any) -> Adapter:
        """Replace the updates of some modules by others in memory.

        Parameters
        ----------
        updates : mapping of str to LowRankUpdate
            Module name -> update.
        **facts : object
            What to add to the metadata. Initial factors and their scheme are dropped, since they belong to the
            factors that were replaced. A bias of B is scaled as its factor is.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.
        """
        extras = dict(self.extras)
        for name, update in updates.items():
            bias, factor = f"{name}.lora_B.bias", self.source(name).scaling / (update.scaling or 1.0)
            if bias in extras and factor != 1:
                extras[bias] = replace(extras[bias], read=partial(_scaled, extras[bias], factor))
        modules = {name: _of_update(update.copy(), name) for name, update in updates.items()}
        kept = {key: self.metadata[key] for key in self.metadata if key not in ("init_lora_weights", "sha256")}
        weights = self.metadata.weights if isinstance(self.metadata, Metadata) else None
        metadata = Metadata({**kept, **facts}, weights=weights)
        return self._like({**self._modules, **modules}, metadata=metadata, extras=extras, initial=None)

    def truncate(
        self,
        *,
        rank: int | Mapping[str, int] | None = None,
        energy: float | None = None,
        budget: int | None = None,
    ) -> Adapter:
        """Keep the leading singular directions of every update: see `asym_analysis.adapters.resize.truncate`.

        Parameters
        ----------
        rank : int or mapping of str to int, optional
            Largest rank of every module; or module -> rank, such as the `rank_pattern` of `allocate_rank`.
        energy : float, optional
            Share of ||dW||_F^2 that every module keeps at least, in (0, 1].
        budget : int, optional
            Most numbers in all pairs together.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.

        Examples
        --------
        >>> adapter = Adapter.from_factors({"q": (torch.eye(3, 5), torch.eye(4, 3))})
        >>> adapter.truncate(rank=2).ranks
        (2,)
        """
        smaller: Adapter = _verb("resize:truncate")(self, rank=rank, energy=energy, budget=budget)
        return smaller

    def balanced(self) -> Adapter:
        """Give the same updates with balanced factors, B^T B = A A^T, and scaling 1.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.
        """
        even: Adapter = _verb("resize:balanced")(self)
        return even

    def renamed(self, names: Mapping[str, str]) -> Adapter:
        """Give some modules other names.

        Parameters
        ----------
        names : mapping of str to str
            Old name -> new name.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.

        Raises
        ------
        AdapterError
            If two modules would have one name.
        """
        modules = {names.get(name, name): source for name, source in self._modules.items()}
        if len(modules) < len(self):
            raise AdapterError(f"two modules of {self.name} would have one name: give each its own")
        return self._like(modules, initial=None if self.initial is None else self.initial.renamed(names))

    def replaced(
        self,
        *,
        name: str | None = None,
        modules: Mapping[str, ModuleSource] | None = None,
        extras: Mapping[str, TensorSource] | None = None,
        initial: Adapter | None = None,
    ) -> Adapter:
        """Give this adapter with some of its pieces replaced; what is not given stays.

        Parameters
        ----------
        name : str, optional
            Its name.
        modules : mapping of str to ModuleSource, optional
            Sources of some modules.
        extras : mapping of str to TensorSource, optional
            All trained tensors outside the modules.
        initial : Adapter, optional
            The initial factors.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.
        """
        given = {"name": name, "extras": extras, "initial": initial}
        changed = {piece: value for piece, value in given.items() if value is not None}
        return self._like({**self._modules, **(modules or {})}, **changed)

    def without_initial(self) -> Adapter:
        """Leave out the recorded initial factors.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.
        """
        return self._like(self._modules, initial=None)

    def without_extras(self) -> Adapter:
        """Leave out the trained tensors that belong to no pair: heads, biases, embeddings.

        Returns
        -------
        Adapter
            A new adapter; this one stays as it is.
        """
        return self._like(self._modules, extras={})

    def save(
        self,
        path: str | os.PathLike[str],
        format: Literal["peft", "kohya", "diffusers"] = "peft",
        *,
        fold_scale: bool = False,
        component: str | None = None,
        base: Any = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the adapter to disk in PEFT's, kohya's or diffusers' format: see `save_adapter`.

        Parameters
        ----------
        path : path
            Folder (PEFT), or file or folder (kohya, diffusers).
        format : {"peft", "kohya", "diffusers"}, default "peft"
            "peft", "kohya" or "diffusers".
        fold_scale : bool, default False
            Multiply the scaling into B.
        component : str, optional
            Part of the pipeline ("unet", ...), for module names that do not say it.
        base : path, mapping, Module or BaseWeights, optional
            The base model, whose names replace flattened ones.
        overwrite : bool, default False
            Replace an adapter that is already there.

        Returns
        -------
        Path
            What was written.

        Raises
        ------
        AdapterError
            If the format has no place for something, or the disk does not take it. Nothing is written then.
        """
        options = {"fold_scale": fold_scale, "component": component, "base": base, "overwrite": overwrite}
        written: Path = _verb("save:save_adapter")(self, path, format, **options)
        return written

    def _like(self, modules: Mapping[str, ModuleSource], **changed: Any) -> Adapter:
        own = {name: getattr(self, name) for name in _DESCRIPTION}
        return Adapter(modules, **own | changed)

    @property
    def base_changed(self) -> str | None:
        """How the initialization changed the base weight too (PiSSA, OLoRA, ...); None where it did not.

        Where this says something, W0 + dW is not the model and the norm of dW not the size of the change: whatever
        needs W0 or that size has to say so.
        """
        said = self.metadata.get("base_changed")
        return None if said is None else str(said)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a module, from the header alone: module, layer, projection, d_out, d_in, rank, scaling, dtype."""
        rows = [
            (*place(module).values(), s.d_out, s.d_in, s.rank, s.scaling, s.dtype)
            for module, s in self._modules.items()
        ]
        frame = pd.DataFrame(
            rows, columns=["module", "layer", "projection", "d_out", "d_in", "rank", "scaling", "dtype"]
        )
        return frame.astype({"layer": "Int64"})

    @property
    def ranks(self) -> tuple[int, ...]:
        """The distinct ranks of the modules, ascending."""
        return tuple(sorted({source.rank for source in self._modules.values()}))

    def __repr__(self) -> str:
        ranks = "/".join(map(str, self.ranks)) or "-"
        base = self.metadata.get("base_model") or "unknown base model"
        return f"Adapter({self.name!r}: {len(self)} modules, rank {ranks}, {base}; {self.coverage})"

    def _repr_html_(self) -> str:
        title = html.escape(repr(self).removeprefix("Adapter(").removesuffix(")"))
        return f"<p>{title}</p>" + self.frame.to_html(index=False, max_rows=12, border=0)


def _verb(name: str) -> Callable[..., Any]:
    """A function of this package that stands on `Adapter`, found when it is first used: "module:function"."""
    module, _, function = name.partition(":")
    verb: Callable[..., Any] = getattr(import_module(f"asym_analysis.adapters.{module}"), function)
    return verb


def _plain_update(scaling: float, parts: Mapping[str, Tensor], *, copy: bool = True) -> LowRankUpdate:
    A, B = parts["A"], parts["B"]
    dtype = torch.float64 if torch.float64 in (A.dtype, B.dtype) else torch.float32
    # Copies, so that nobody changes what others read.
    return LowRankUpdate(A.to(dtype, copy=copy), B.to(dtype, copy=copy), scaling)


class _Held:
    """The update of two factors in memory, checked when it is first looked at and remembered where it needs no copy."""

    def __init__(self, A: Tensor, B: Tensor, scaling: float) -> None:
        self.parts, self.scaling = {"A": A, "B": B}, scaling
        self.update: LowRankUpdate | None = None

    def __call__(self) -> LowRankUpdate:
        if self.update is not None:
            return self.update
        update = _plain_update(self.scaling, self.parts, copy=False)
        if update.A is self.parts["A"] and update.B is self.parts["B"]:
            self.update = update
        return update


def _of_update(update: LowRankUpdate, module: str) -> ModuleSource:
    """The source of an update in memory, a plain pair with whatever belongs to it."""
    held = {"A": update.A, "B": update.B} | ({} if update.magnitude is None else {"magnitude": update.magnitude})
    parts = {
        name: Part(tuple(value.shape), _dtype(value), partial(torch.clone, value), tensor=f"{module}.{name}")
        for name, value in held.items()
    }
    return ModuleSource(
        d_out=update.d_out,
        d_in=update.d_in,
        rank=update.rank,
        dtype=_dtype(update.A),
        read=InMemory(partial(_itself, update)),
        scaling=update.scaling,
        parts=parts,
        make=partial(_remade, update),
    )


def _remade(update: LowRankUpdate, parts: Mapping[str, Tensor]) -> LowRankUpdate:
    values = {name: value.to(update.A.dtype) for name, value in parts.items()}
    return replace(update, A=values["A"], B=values["B"], magnitude=values.get("magnitude")).copy()


def _scaled(source: TensorSource, factor: float) -> Tensor:
    return factor * source.read()


def _in_memory(source: ModuleSource, update: LowRankUpdate) -> ModuleSource:
    parts = {name: replace(part, read=_held(part)) for name, part in source.parts.items()}
    return replace(source, read=InMemory(partial(_itself, update)), parts=parts)


def _itself(update: LowRankUpdate) -> LowRankUpdate:
    return update


def _held(source: TensorSource) -> Callable[[], Tensor]:
    return partial(torch.clone, source.read().clone())


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


class AdapterModuleMissing(AdapterError, KeyError):  # noqa: N818 - a missing key, named as Mapping callers expect it
    """The adapter has no module of that name; a KeyError too, so that `Mapping.get` works."""

    __str__ = AdapterError.__str__
