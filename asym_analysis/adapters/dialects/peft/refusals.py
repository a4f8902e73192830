"""PEFT's methods whose change of a weight is not read, each with the reason."""

from __future__ import annotations

from asym_analysis.errors import NotAnAdapterError

__all__ = ["REFUSED", "refuse_kind"]

_PROMPTS = "it learns virtual tokens and changes no weight, so there is nothing low-rank to analyse"
_SCALES = "it rescales activations with one vector a layer; its change of a weight is diag(l)·W0 - W0, of full rank"
_ROTATES = (
    "it multiplies the base weight by a trained orthogonal matrix, so that its change of a weight is (Q - I)·W0: "
    "the file holds no factors of it, and the base weight is missing"
)
_SVD = "its change of a weight lies between singular vectors of the base weight, which are not in the file"
_DENSE = "its change of a weight is dense and of full rank, so there are no low-rank factors to analyse"

#: `peft_type` -> (name in messages, reason).
REFUSED = {
    "PROMPT_TUNING": ("prompt tuning", _PROMPTS),
    "MULTITASK_PROMPT_TUNING": ("multitask prompt tuning", _PROMPTS),
    "P_TUNING": ("P-tuning", _PROMPTS),
    "PREFIX_TUNING": ("prefix tuning", _PROMPTS),
    "CPT": ("context-aware prompt tuning", _PROMPTS),
    "CARTRIDGE": ("a cartridge", _PROMPTS),
    "ADAPTION_PROMPT": ("LLaMA-Adapter (adaption prompt)", _PROMPTS),
    "IA3": ("IA3", _SCALES),
    "LN_TUNING": ("layer-norm tuning", "it trains the norms' own parameters"),
    "BEFT": ("BEFT", "it trains biases only and changes no weight"),
    "OFT": ("OFT", _ROTATES),
    "BOFT": ("BOFT", _ROTATES),
    "ROAD": (
        "PEFT's ROAD",
        "it rotates and rescales pairs of outputs; its change of a weight is (R - I)·W0, of full rank",
    ),
    "TRAINABLE_TOKENS": ("trainable tokens", "it trains single rows of the embedding"),
    "PSOFT": ("PEFT's PSOFT", _SVD),
    "ADAMSS": ("PEFT's ADAMSS", _SVD),
    "FROD": ("PEFT's FROD", "it trains a sparse matrix in a basis taken from the base weights, of full rank"),
    "SHIRA": ("PEFT's SHIRA", "it changes single entries of a weight: a sparse matrix of full rank"),
    "C3A": ("PEFT's C3A", f"it adds circulant blocks; {_DENSE}"),
    "FOURIERFT": ("PEFT's FOURIERFT", f"it trains some frequencies of the change; {_DENSE}"),
    "WAVEFT": ("PEFT's WAVEFT", f"it trains some wavelet coefficients of the change; {_DENSE}"),
    "PEANUT": (
        "PEFT's PEANUT",
        "a small network with nonlinearities makes the change out of the base weight, so that it has no factors",
    ),
    "SHADOW": ("PEFT's SHADOW", "it runs a small network beside the model and changes no weight"),
    "POLY": (
        "PEFT's POLY",
        "it mixes several LoRAs by the task of each input, so that there is no one change of a weight",
    ),
    "XLORA": (
        "PEFT's XLORA",
        "it mixes several LoRAs for each input, so that there is no one change of a weight: name one of those instead",
    ),
}


def refuse_kind(peft_type: str, source: str) -> None:
    """Refuse a method that is known and not read.

    Raises
    ------
    NotAnAdapterError
        If `peft_type` is one.
    """
    if peft_type in REFUSED:
        kind, reason = REFUSED[peft_type]
        raise NotAnAdapterError(f"{source} holds {kind}: {reason}")
