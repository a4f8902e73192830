"""Key grammars: how each training library names, shapes and scales its factors."""

from __future__ import annotations

from asym_analysis.adapters.checkpoint import Checkpoint, Dialect, Reading
from asym_analysis.adapters.dialects.peft import PeftDialect
from asym_analysis.errors import AdapterError

__all__ = ["DIALECTS", "read_checkpoint"]

#: Every dialect, in the order in which it is asked whether it recognizes a checkpoint.
DIALECTS: tuple[Dialect, ...] = (PeftDialect(),)


def read_checkpoint(checkpoint: Checkpoint, dialect: str | Dialect = "auto") -> tuple[str, Reading]:
    """Turn named tensors into adapted modules.

    Parameters
    ----------
    checkpoint
        What a container holds.
    dialect
        The name of a key grammar, ``"auto"`` for the first that recognizes the checkpoint, or a grammar of your own.

    Returns
    -------
    name, reading
        The dialect's name, and the modules with the account of every tensor.

    Raises
    ------
    NotAnAdapterError
        If the checkpoint holds something other than low-rank updates; the message names it.
    AdapterError
        If no dialect knows it, or no pair can be formed.
    """
    chosen = _choose(checkpoint, dialect)
    return chosen.name, chosen.read(checkpoint)


def _choose(checkpoint: Checkpoint, dialect: str | Dialect) -> Dialect:
    if not isinstance(dialect, str):
        return dialect
    if dialect == "auto":
        known = [candidate for candidate in DIALECTS if candidate.recognizes(checkpoint)]
        if not known:
            names = ", ".join(list(checkpoint.tensors)[:3]) or "no tensor"
            raise AdapterError(
                f"{checkpoint.source}: no low-rank pair is named as a known library names it (found {names}); "
                "describe the names with a PatternDialect"
            )
        return known[0]
    by_name = {candidate.name: candidate for candidate in DIALECTS}
    if dialect not in by_name:
        raise AdapterError(f"unknown dialect {dialect!r}: choose auto, {', '.join(by_name)}, or give a PatternDialect")
    return by_name[dialect]
