"""Adapters on the Hugging Face Hub: the few files that make one, through the hub's own client, cache and login."""

from __future__ import annotations

import re
from pathlib import Path

from asym_analysis.adapters.sources import CONFIG, INITIAL, OWN_NAMES
from asym_analysis.errors import AdapterError

__all__ = ["fetch_from_hub", "is_hub_id"]

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+$", re.ASCII)


def is_hub_id(source: str) -> bool:
    """True for `owner/name`, the form of a model on the hub.

    Examples
    --------
    >>> is_hub_id("owner/lora-mrpc"), is_hub_id("runs/seed 1"), is_hub_id("./runs/one")
    (True, False, False)
    """
    return bool(HUB_ID.match(source)) and not source.startswith(".")


def fetch_from_hub(repo: str, *, revision: str | None, subfolder: str | None) -> Path:
    """Fetch an adapter's files into the hub client's cache and return their folder.

    Its token, cache folder and offline mode (HF_TOKEN, HF_HOME, HF_HUB_OFFLINE) are honoured. Only files of the names
    that libraries give to adapters are fetched, never a whole model.

    Raises
    ------
    AdapterError
        If the repository, the revision or the adapter is not there, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    names = [CONFIG, INITIAL, *OWN_NAMES, "adapter_model-*-of-*", "*lora*.safetensors", "*adapter*.gguf"]
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    where = f"{repo}{f' at {revision}' if revision else ''}"
    try:
        snapshot = snapshot_download(repo, revision=revision, allow_patterns=[prefix + name for name in names])
    except LocalEntryNotFoundError as error:
        raise AdapterError(
            f"{where} is no path here and cannot be fetched from the Hugging Face Hub (offline, and not in its cache): "
            "check the path, or connect"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise AdapterError(
            f"{where} is no path here and the Hugging Face Hub does not give it ({reason[:200]}): check the name, the "
            "revision and your login"
        ) from error
    folder = Path(snapshot) / (subfolder or "")
    if not folder.is_dir():
        raise AdapterError(f"{where} has no adapter {f'in {subfolder}' if subfolder else 'of a name that is known'}")
    return folder
