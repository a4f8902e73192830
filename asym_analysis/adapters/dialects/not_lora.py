"""Files that hold no low-rank adapter: each kind is refused by its name, with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from asym_analysis.adapters.checkpoint import Checkpoint, Reading
from asym_analysis.adapters.dialects.peft.refusals import REFUSED
from asym_analysis.adapters.dialects.peft.tuners import KNOWN
from asym_analysis.errors import NotAnAdapterError

__all__ = ["NotLoraDialect"]

_KEYS = (
    (re.compile(r"(?:^|\.)prompt_embeddings$|prompt_encoder\."), *REFUSED["PROMPT_TUNING"]),
    (re.compile(r"\.ia3_l(?:\.|$)|\.on_input$"), *REFUSED["IA3"]),
    (re.compile(r"\.(?:oft_|boft_|hra_u)"), *REFUSED["OFT"]),
    (re.compile(r"\.adaption_(?:prompt|gate)"), *REFUSED["ADAPTION_PROMPT"]),
    (re.compile(r"trainable_tokens_delta"), *REFUSED["TRAINABLE_TOKENS"]),
    (
        re.compile(r"^<.+>$|^emb_params$|^string_to_param|^clip_[gl]$|^t5$"),
        "textual inversion",
        "it holds the embeddings of new tokens and changes no weight",
    ),
    (
        re.compile(r"\.adapters?\.[^.]+\.adapter_(?:down|up)\.|adapter_(?:down|up)\.0\.weight$"),
        "bottleneck adapters",
        "they have a nonlinearity between their two matrices, so that their product is not the change of a weight",
    ),
    (
        re.compile(r"exp_avg|(?:^|\.)(?:optimizer_states|param_groups)"),
        "an optimizer's state",
        "name the file with the adapter's weights instead",
    ),
)
_PLAIN = re.compile(r"(?:^|\.)(?:weight|bias|gamma|beta|running_mean|running_var|num_batches_tracked|position_ids)$")


@dataclass(frozen=True)
class NotLoraDialect:
    """Prompt and prefix tuning, IA3, OFT, textual inversion, a full checkpoint, and PEFT's tuners that add no B·A."""

    name = "none"

    def recognizes(self, checkpoint: Checkpoint) -> bool:
        """Say whether the file is of a known kind that is not a low-rank adapter.

        Parameters
        ----------
        checkpoint
            What a container holds, which no other dialect recognizes.

        Returns
        -------
        bool
            True where `read` can name the kind.
        """
        return _kind(checkpoint) is not None

    def read(self, checkpoint: Checkpoint) -> Reading:
        """Refuse the checkpoint, naming its kind.

        Parameters
        ----------
        checkpoint
            What a container holds.

        Raises
        ------
        NotAnAdapterError
            Always.
        """
        kind, reason = _kind(checkpoint) or ("no known adapter", "describe its names with a PatternDialect")
        raise NotAnAdapterError(f"{checkpoint.source} holds {kind}: {reason}")


def _kind(checkpoint: Checkpoint) -> tuple[str, str] | None:
    peft_type = str(checkpoint.config.get("peft_type") or "").upper()
    for pattern, kind, reason in _KEYS:
        if any(pattern.search(name) for name in checkpoint.tensors):
            return kind, reason
    if peft_type and peft_type not in KNOWN | {"LORASYM"}:
        return f"PEFT's {peft_type}", "a method that this version does not know, so that its tensors cannot be read"
    return _full_checkpoint(checkpoint.tensors)


def _full_checkpoint(names: Iterable[str]) -> tuple[str, str] | None:
    plain = sum(_PLAIN.search(name) is not None for name in names)
    total = sum(1 for _ in names)
    if total and plain >= 0.9 * total:
        return (
            f"{total} plain weights and no pair of factors, so a full (or merged) checkpoint",
            "name the adapter it was made from, or extract one from its difference to the base model "
            "(peft's save_as_lora, mergekit-extract-lora)",
        )
    return None
