"""Tokenizers of models of text, and one sentence where a model has none that fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from asym_analysis.errors import AdapterError

__all__ = ["check_known", "text_tokenizer"]

# A folder with none of these has no tokenizer: transformers would make one without words.
PATTERNS = ("tokenizer*", "vocab*", "*.model", "*.gguf", "merges.txt", "*.tiktoken")


def text_tokenizer(source: str, **options: Any) -> Any:
    """Load the tokenizer of a model, with a token for padding and no more positions than the model has.

    Parameters
    ----------
    source, **options
        As `from_pretrained` takes them.

    Returns
    -------
    PreTrainedTokenizerBase
        The tokenizer.

    Raises
    ------
    AdapterError
        If there is no such model, if it reads images, or if it has no tokenizer that can be read.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    try:
        config = AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise AdapterError(f"the model {source} cannot be opened: {_reason(error)}") from None
    kind = MODEL_MAPPING.get(type(config), None)
    if getattr(kind, "main_input_name", "input_ids") == "pixel_values":
        raise AdapterError(f"{source} is a model of images: give a folder of images in place of texts")
    folder = Path(source)
    if folder.is_dir() and not any(path for pattern in PATTERNS for path in folder.glob(pattern)):
        raise AdapterError(
            f"{source} has no tokenizer (tokenizer.json, vocab.txt or the like): copy it from the model's origin"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise AdapterError(
            f"{source} has no tokenizer that can be read ({_reason(error)}); give the folder that has it"
        ) from None
    if tokenizer.pad_token_id is None:
        # Padding is masked everywhere, so that any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        if "roberta" in config.model_type:  # whose first positions stand for padding
            positions -= (config.pad_token_id or 0) + 1
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return tokenizer


def check_known(source: str, tokenizer: Any, ids: Iterable[Sequence[int]]) -> None:
    """Refuse texts of which a tokenizer knows less than half.

    Parameters
    ----------
    source
        The model, for the message.
    tokenizer
        Its tokenizer.
    ids
        Token ids of each text, without padding.

    Raises
    ------
    AdapterError
        If more than half of the tokens are unknown ones.
    """
    if tokenizer.unk_token_id is None:
        return
    tokens = [token for text in ids for token in text]
    unknown = sum(token == tokenizer.unk_token_id for token in tokens)
    if 2 * unknown > len(tokens):
        raise AdapterError(
            f"the tokenizer of {source} does not know {unknown / len(tokens):.0%} of the tokens in these texts; the "
            "folder may lack the tokenizer's files, or the texts may be in another language"
        )


def _reason(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0].rstrip(".:")
