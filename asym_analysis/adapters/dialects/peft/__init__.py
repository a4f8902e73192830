"""PEFT's checkpoints: the names, the config and the tuners of the library."""

from __future__ import annotations

from asym_analysis.adapters.dialects.peft.reader import PeftDialect, read_peft

__all__ = ["PeftDialect", "read_peft"]
