"""Adapters and base models on the Hugging Face Hub, through the hub's own client, cache and login."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from asym_analysis.adapters.sources import BESIDE, CONFIG, INITIAL, OWN_NAMES
from asym_analysis.errors import AdapterError

__all__ = ["ADAPTER_FILES", "BASE_FILES", "fetch_from_hub", "is_hub_id"]

ADAPTER_FILES = (CONFIG, INITIAL, *OWN_NAMES, "adapter_model-*-of-*", "*lora*.safetensors", "*adapter*.gguf", *BESIDE)
BASE_FILES = ("model*.safetensors", "model.safetensors.index.json", "diffusion_pytorch_model*.safetensors*")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+$", re.ASCII)


def is_hub_id(source: str) -> bool:
    """True for `owner/name`, the form of a model on the hub.

    Examples
    --------
    >>> is_hub_id("owner/lora-mrpc"), is_hub_id("runs/seed 1"), is_hub_id("./runs/one")
    (True, False, False)
    """
    return bool(HUB_ID.match(source)) and not source.startswith(".")


def fetch_from_hub(
    repo: str, *, revision: str | None, subfolder: str | None, names: Sequence[str] = ADAPTER_FILES
) -> Path:
    """Fetch some files of a repository into the hub client's cache and return their folder.

    Its token, cache folder and offline mode (HF_TOKEN, HF_HOME, HF_HUB_OFFLINE) are honoured.

    Parameters
    ----------
    repo
        Id of the form owner/name.
    revision
        Branch, tag or commit; None for the default branch.
    subfolder
        Folder in the repository; None for its root.
    names
        Patterns of the files' names. By default those that libraries give to adapters: never a whole model.

    Returns
    -------
    Path
        The folder in the cache.

    Raises
    ------
    AdapterError
        If the repository, the revision or the files are not there, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    where = f"{repo}{f' at {revision}' if revision else ''}"
    try:
        snapshot = snapshot_download(repo, revision=revision, allow_patterns=[prefix + name for name in names])
    except LocalEntryNotFoundError as error:
        raise AdapterError(
            f"{where} is not a local path and cannot be fetched from the Hugging Face Hub (offline, and not in its "
            "cache): check the path, or connect"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise AdapterError(
            f"{where} is not a local path and could not be downloaded from the Hugging Face Hub ({reason[:200]}): "
            "check the name, the revision and your login"
        ) from error
    folder = Path(snapshot) / (subfolder or "")
    if not folder.is_dir():
        raise AdapterError(f"{where} has no file of a known name{f' in {subfolder}' if subfolder else ''}")
    return folder
