"""What a path names: the files of one adapter, or of several, in a stated order."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from asym_analysis.errors import AdapterError

__all__ = ["AdapterFiles", "adapter_at", "adapters_at", "candidates_at", "distinct_names", "natural_order"]

# A folder's own adapter, by the names that the libraries write, most telling first.
OWN_NAMES = (
    "adapter_model.safetensors",
    "adapter_model.safetensors.index.json",
    "adapter_model.bin",
    "adapter_model.bin.index.json",
    "adapters.safetensors",
    "adapters.npz",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
    "lit_model.pth.lora",
    "lit_model.pth",
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".gguf", ".lora")
# What trainers leave beside an adapter, with the suffix of one.
NOT_ADAPTERS = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*|training_args|trainer_state|initial|.*_optimizer|tokenizer.*)\.\w+$"
)
MOST_FOLDERS = 12
# Configs of trainers that write no adapter_config.json; a dialect reads them with `Checkpoint.beside`.
BESIDE = (
    "hyperparameters.yaml",
    "model_config.yaml",
    "lit_config.json",
    "torchtune_config.yaml",
    "run_config.yaml",
    "adapter_config.yaml",
)
CONFIG, INITIAL = "adapter_config.json", "initial.safetensors"
CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})$")
MLX_STEP = re.compile(r"(\d{1,18})_adapters\.(?:safetensors|npz)$")
# Names that say nothing on their own, so that the folder above is named with them.
VAGUE = re.compile(
    r"(checkpoint-\d+|best|last|final|best_model|final_model|adapter|adapters|lora|model|output|outputs|results|"
    r"weights|default|adapter_model|lora_weights|pytorch_lora_weights|\d+_adapters|lit_model|pytorch_model)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class AdapterFiles:
    """The files of one adapter: weights (or the index of their shards), config, initial factors, and the step."""

    weights: Path
    config: Path | None = None
    initial: Path | None = None
    step: int | None = None

    @classmethod
    def around(cls, weights: Path) -> AdapterFiles:
        """The weights, with what lies beside them."""
        config, initial = weights.parent / CONFIG, weights.parent / INITIAL
        step = MLX_STEP.search(weights.name) or CHECKPOINT.search(_absolute(weights.parent).name)
        return cls(
            weights=weights,
            config=config if config.exists() else None,
            initial=initial if initial.exists() and weights.name != INITIAL else None,
            step=int(step[1]) if step else None,
        )

    @property
    def name(self) -> str:
        """A short name that tells this adapter from its neighbours: the folder's, or the file's where that says more.

        Examples
        --------
        >>> AdapterFiles(Path("/runs/mrpc/seed-1/adapter_model.safetensors")).name
        'seed-1'
        >>> AdapterFiles(Path("/runs/mrpc/seed-1/checkpoint-90/adapter_model.bin")).name
        'seed-1/checkpoint-90'
        """
        return self._named(0)

    @property
    def source(self) -> str:
        """Where it came from: the path of its weights, or repository and commit where that lies in the hub's cache."""
        hub = self._hub
        return f"{hub[0]}@{hub[1]}" if hub else str(self.weights)

    @property
    def _hub(self) -> tuple[str, str] | None:
        """Repository and commit, read from the cache's layout: models--OWNER--NAME/snapshots/COMMIT/..."""
        parts = _absolute(self.weights).parts
        for place in range(1, len(parts) - 2):
            if parts[place] == "snapshots" and parts[place - 1].startswith("models--"):
                return parts[place - 1].removeprefix("models--").replace("--", "/"), parts[place + 1]
        return None

    @property
    def _folders(self) -> list[str]:
        """The folders above the weights; repository names stand for those of the hub's cache."""
        parts = list(_absolute(self.weights).parent.parts[1:])
        hub = self._hub
        if hub is None:
            return parts
        return [*hub[0].split("/"), *parts[parts.index("snapshots") + 2 :]]

    def _named(self, more: int) -> str:
        """The name with so many more of the folders above."""
        stem = self.weights.name.removesuffix(".index.json")
        while Path(stem).suffix in SUFFIXES:
            stem = Path(stem).stem
        parts = self._folders
        named = [*parts, stem] if self.weights.name not in OWN_NAMES else parts
        if not named:
            return stem
        first = len(named) - 1
        while first > 0 and VAGUE.match(named[first]):
            first -= 1
        return "/".join(named[max(first - more, 0) :])


def distinct_names(adapters: Sequence[AdapterFiles]) -> list[str]:
    """Names of several adapters: where two would agree, as many of the folders above as tell them apart.

    Examples
    --------
    >>> runs = [Path("/runs/mrpc/seed-1/adapter_model.bin"), Path("/runs/rte/seed-1/adapter_model.bin")]
    >>> distinct_names([AdapterFiles(weights) for weights in runs])
    ['mrpc/seed-1', 'rte/seed-1']
    """
    names = [adapter.name for adapter in adapters]
    for more in range(1, MOST_FOLDERS):
        files = {(name, adapter.weights) for name, adapter in zip(names, adapters, strict=True)}
        counts = Counter(name for name, _ in files)  # one file that was named twice stays one name
        if len(counts) == len(files):
            break
        names = [
            adapter._named(more) if counts[name] > 1 else name for adapter, name in zip(adapters, names, strict=True)
        ]
    return names


def adapter_at(path: Path) -> AdapterFiles:
    """The one adapter that a file or folder holds.

    A folder that holds none itself but one in its subfolders stands for that one.

    Parameters
    ----------
    path
        File or folder.

    Returns
    -------
    AdapterFiles
        Its files.

    Raises
    ------
    AdapterError
        If there is none, or several to choose from.
    """
    found = candidates_at(path)
    if len(found) > 1:
        names = ", ".join(str(files.weights.relative_to(path)) for files in found[:4])
        more = ", ..." if len(found) > 4 else ""
        raise AdapterError(
            f"{path} holds {len(found)} adapters ({names}{more}): name one of them, or load all with load_adapters"
        )
    return found[0]


def candidates_at(path: Path) -> list[AdapterFiles]:
    """The files that may be the one adapter of a file or folder: its own, or else those of its subfolders.

    Parameters
    ----------
    path
        File or folder.

    Returns
    -------
    list of AdapterFiles
        At least one.

    Raises
    ------
    AdapterError
        If there is none.
    """
    if not path.is_dir():
        return [AdapterFiles.around(path)]
    found = _own(path) or _below(path)
    if not found:
        raise _nothing_in(path)
    return found


def adapters_at(path: Path) -> list[AdapterFiles]:
    """Every adapter that a file, folder or glob pattern names.

    A training run gives its checkpoints in the order of their steps, then the adapter that the folder itself holds; a
    folder of several adapters gives its own first, then those of its subfolders by name.

    Parameters
    ----------
    path
        File, folder or glob pattern.

    Returns
    -------
    list of AdapterFiles
        The files of each.

    Raises
    ------
    AdapterError
        If there is none.
    """
    if path.is_dir():
        own, below = _own(path, steps=True), _below(path)
        checkpoints = [files for files in below if files.step is not None and files.weights.parent.parent == path]
        others = [files for files in below if files not in checkpoints]
        found = [*sorted(checkpoints, key=lambda files: files.step or 0), *own, *others]
        if not found:
            raise _nothing_in(path)
        return found
    if path.exists() or not glob.has_magic(str(path)):
        return [AdapterFiles.around(path)]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True), key=natural_order)]
    found = []
    for match in matches:
        if match.is_dir():
            found += _own(match) or _below(match)
        elif match.name.endswith(SUFFIXES) and not NOT_ADAPTERS.match(match.name):
            found.append(AdapterFiles.around(match))
    if not found:
        raise AdapterError(f"no adapter matches {path}: check the pattern ({len(matches)} other files or folders do)")
    return list({files.weights: files for files in found}.values())


def _own(folder: Path, *, steps: bool = False) -> list[AdapterFiles]:
    """The adapters whose weights lie in this folder: the one of a library's name alone, or every other.

    With `steps`, MLX's numbered saves come before the last.
    """
    named = [folder / name for name in OWN_NAMES if (folder / name).is_file()][:1]
    try:
        files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: natural_order(file.name))
    except OSError as error:
        raise AdapterError(f"{folder} cannot be read: {error.strerror}") from error
    if named:
        earlier = [file for file in files if MLX_STEP.match(file.name)] if steps else []
        return [AdapterFiles.around(file) for file in [*earlier, *named]]
    weights = [file for file in files if file.name.endswith(SUFFIXES) and not NOT_ADAPTERS.match(file.name)]
    indices = [file for file in files if file.name.endswith((".safetensors.index.json", ".bin.index.json"))]
    return [AdapterFiles.around(file) for file in indices or weights]


def _below(folder: Path) -> list[AdapterFiles]:
    subfolders = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: natural_order(path.name))
    return [files for subfolder in subfolders for files in _own(subfolder)]


def _nothing_in(folder: Path) -> AdapterError:
    return AdapterError(
        f"{folder} holds no adapter, nor do its subfolders (no file ends in {', '.join(SUFFIXES[:-1])}): "
        "name the file, or give a pattern such as folder/**/adapter_model.safetensors"
    )


@lru_cache(maxsize=2**15)  # the modules of many adapters have the same names
def natural_order(text: str) -> tuple[tuple[int, int | str], ...]:
    """A sorting key that compares numbers as numbers.

    Examples
    --------
    >>> sorted(["checkpoint-10", "checkpoint-2"], key=natural_order)
    ['checkpoint-2', 'checkpoint-10']
    """
    parts = re.split(r"(\d+)", text)
    return tuple((0, int(part)) if part.isdecimal() and len(part) < 19 else (1, part) for part in parts)


def _absolute(path: Path) -> Path:
    """Absolute without following links, so that the names the user sees are kept."""
    return Path(*path.absolute().parts) if ".." not in path.parts else path.resolve()
