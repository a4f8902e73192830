"""cloneofsimo/lora: pairs numbered in the order of the model's layers, named by the header or not at all."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.ledger import Ledger
from asym_analysis.adapters.factorizations.module_source import Layout
from asym_analysis.adapters.factorizations.pairs import Pair
from asym_analysis.errors import AdapterError

__all__ = ["CloneofsimoDialect"]

_NAMED = re.compile(r"^(.+:\d+):(up|down)$")
_NUMBERED = re.compile(r"^(?:.*[.:/\[])?(\d+)\]?$")
_TOKEN = re.compile(r"^<.+>$")


@dataclass(frozen=True)
class CloneofsimoDialect:
    """`unet:0:up`, `unet:0:down` with learned tokens beside them; or a bare list up, down, up, down, ...

    Modules keep the file's numbers: they count the adapted layers of the model in its own order, and the header names
    the classes that were searched. Scale 1: that library's alpha is the user's, at generation time.
    """

    name = "cloneofsimo"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether tensors are named `model:number:up`, or all by number alone."""
        names = list(checkpoint.tensors)
        if any(_NAMED.match(name) for name in names):
            return True
        return len(names) > 1 and len(names) % 2 == 0 and all(_NUMBERED.match(name) for name in names)

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Pair by number; learned tokens are kept as extras."""
        ledger = Ledger(checkpoint, self.name)
        groups: dict[str, dict[str, str]] = {}
        for tensor in checkpoint.tensors:
            named = _NAMED.match(tensor)
            if named is not None:
                groups.setdefault(named[1], {})["B" if named[2] == "up" else "A"] = tensor
            elif _TOKEN.match(tensor):
                ledger.keep(tensor, tensor, "learned token of a textual inversion")
        if not groups:
            groups = _consecutive(list(checkpoint.tensors))
        for module, parts in groups.items():
            if parts.keys() != {"A", "B"}:
                ledger.refuse(parts.values(), f"{module}: {'up' if 'B' in parts else 'down'} without its partner")
                continue
            A, B = (checkpoint.tensors[parts[part]].shape for part in "AB")
            recorded = checkpoint.header.get(f"{module}:rank")
            if recorded is not None and str(recorded) != str(A[0] if A else ""):
                ledger.refuse(parts.values(), f"{module}: the header says rank {recorded}, A has shape {A}")
                continue
            convolution = (B[0], *A[1:]) if len(A) > 2 and B else None
            ledger.add(module, parts, Pair(), 1.0, layout=Layout(convolution))
        ledger.scaling_from("1: the file records no alpha, which is chosen at generation time", recorded=False)
        return ledger.reading({})


def _consecutive(names: list[str]) -> dict[str, dict[str, str]]:
    """Modules of a bare list: B of the first layer, its A, B of the second, ..."""
    numbers = {int(found[1]): name for name in names if (found := _NUMBERED.match(name)) is not None}
    if len(numbers) != len(names):
        raise AdapterError("a list of factors whose numbers repeat cannot be put in order")
    ordered = [numbers[number] for number in sorted(numbers)]
    return {
        str(index): {"B": up, "A": down}
        for index, (up, down) in enumerate(zip(ordered[::2], ordered[1::2], strict=True))
    }
