"""kohya-ss sd-scripts, LyCORIS and what follows them: module names flattened with underscores, an alpha for each."""

from __future__ import annotations

from dataclasses import dataclass

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.down_up import read_down_up
from asym_analysis.adapters.dialects.down_up_keys import parse_key
from asym_analysis.adapters.dialects.ledger import Ledger

__all__ = ["KohyaDialect"]


@dataclass(frozen=True)
class KohyaDialect:
    """`lora_unet_...`, `lora_te1_...`, `lora_transformer_...`, `lycoris_...`: LoRA, LoCon, LoHa, LoKr, DoRA.

    Module names stay as the file has them, since the underscores cannot be undone without the model.
    """

    name = "kohya"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether a module's name has no dot, before a part that sd-scripts or LyCORIS writes."""
        return any(
            (parsed := parse_key(key)) is not None
            and "." not in parsed.module
            and parsed.module.startswith(("lora_", "lycoris_"))
            for key in checkpoint.tensors
        )

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Scale each update by its own alpha over its rank; a missing alpha stands for the rank."""
        return read_down_up(Ledger(checkpoint, self.name), checkpoint.header)
