"""A look at a pickle before `torch.load` runs it: opcode by opcode, building nothing.

`weights_only` keeps code from running, but not from filling the memory (``bytearray(10**11)``), nor the interpreter
from crashing on tuples nested a million deep, nor a small file from claiming a large storage.
"""

from __future__ import annotations

import pickletools
from io import BufferedIOBase
from pathlib import Path

from asym_analysis.adapters.containers.raw_tensor import megabytes
from asym_analysis.errors import AdapterFormatError
from asym_analysis.lazy_torch import torch

__all__ = ["inspect_pickle"]

# What a saved state dict needs.
ALLOWED_GLOBALS = {
    "collections OrderedDict",
    "torch.nn.parameter Parameter",
    "torch.serialization _get_layout",
    "torch Size",
    "torch Tensor",
    "torch device",
    "torch.storage TypedStorage",
    "torch.storage UntypedStorage",
    "torch._tensor _rebuild_from_type_v2",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "_codecs encode",
    "builtins set",
    "__builtin__ set",
}
INTEGERS = ("BININT", "INT", "LONG", "LONG1", "LONG4")
CALLS = ("REDUCE", "NEWOBJ", "BUILD")
MOST_LEVELS = 100
# Memory that the objects of an opcode may take; all must fit in twice the file plus the allowance.
BYTES_AN_OPCODE, BYTES_A_CALL, ALLOWANCE = 100, 1500, 32_000_000


def inspect_pickle(file: BufferedIOBase, path: Path) -> set[str]:
    """Read one pickle's opcodes to the end, without executing them; return the strings found.

    Raises
    ------
    AdapterFormatError
        If it names a class or function that a state dict does not need, claims a storage larger than the file, would
        fill the memory, nests too deep, or is damaged.
    """
    size = path.stat().st_size
    integers: list[int] = []  # since the last MARK: a storage's size is among them
    texts: set[str] = set()
    nesting, charged = _Nesting(), 0
    try:
        for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]
            charged += BYTES_A_CALL if opcode.name in CALLS else BYTES_AN_OPCODE
            if nesting.step(opcode, argument) > MOST_LEVELS or charged > 2 * size + ALLOWANCE:
                raise AdapterFormatError(
                    f"{path} holds objects nested too deep, or too many, for a state dict of {megabytes(size)}: it is "
                    "not loaded"
                )
            if opcode.name == "MARK":
                integers.clear()
            elif opcode.name in INTEGERS and isinstance(argument, int):
                integers.append(argument)
            elif opcode.name == "BINPERSID" and any(integer > size for integer in integers):
                raise AdapterFormatError(
                    f"{path} claims a tensor of {max(integers):,} entries in a file of {megabytes(size)}: it was cut "
                    "short or is damaged; fetch it again"
                )
            elif opcode.name == "GLOBAL":
                _check_global(str(argument), path)
            elif isinstance(argument, str):
                texts.add(argument)
    except (ValueError, IndexError, OverflowError, MemoryError) as error:  # MemoryError: a text of 2^60 bytes
        raise AdapterFormatError(f"{path} begins as a pickle but is damaged or cut short; fetch it again") from error
    return texts


class _Nesting:
    """Track how deep the objects on a pickle's stack are nested, without building them."""

    MARK = -1

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.memo: dict[int, int] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: object) -> int:
        """Follow one opcode; return the depth of the object that it leaves on top."""
        name = opcode.name
        if name == "MARK":
            self.stack.append(self.MARK)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo.get(int(str(argument)), 0))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(str(argument))] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        else:
            items, container = self._taken(opcode.stack_before)
            if opcode.stack_after:
                self.stack += [max(container, items + 1)] * len(opcode.stack_after)
        return self.stack[-1] if self.stack else 0

    def _taken(self, before: list[pickletools.StackObject]) -> tuple[int, int]:
        """Depths of the items that an opcode takes and, where it adds to a list or dict, of that container."""
        names = [taken.name for taken in before]
        deepest = -1
        if "mark" in names:
            while (depth := self.stack.pop()) != self.MARK:
                deepest = max(deepest, depth)
            names = names[: names.index("mark")]
        grows = names[:1] in (["list"], ["dict"], ["set"])
        for _ in names[1:] if grows else names:
            deepest = max(deepest, self.stack.pop())
        return deepest, self.stack.pop() if grows else 0


def _check_global(name: str, path: Path) -> None:
    module, _, attribute = name.partition(" ")
    if name in ALLOWED_GLOBALS or (module == "torch" and (attribute.endswith("Storage") or _is_dtype(attribute))):
        return
    raise AdapterFormatError(
        f"{path} holds more than tensors ({module}.{attribute}), and such pickles are never run: load it where you "
        "trust it and save its state_dict as safetensors"
    )


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)
