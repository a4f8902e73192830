"""The configs that come with the package, as text: naming or copying them needs no library."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from asym_analysis.errors import AdapterError

__all__ = ["config_text", "first_sentence", "shipped_configs"]


def shipped_configs() -> dict[str, str]:
    """Read the config files that come with the package.

    Returns
    -------
    dict
        Name -> text.

    Examples
    --------
    >>> "minilm-glue" in shipped_configs()
    True
    """
    folder = files("asym_analysis.finetuning") / "configs"
    with as_file(folder) as path:
        return {file.stem: file.read_text(encoding="utf-8") for file in sorted(path.glob("*.toml"))}


def config_text(source: str | Path) -> tuple[str, Path | None]:
    """Read a config file, or a shipped config by its name.

    Parameters
    ----------
    source
        A path, or a name from `shipped_configs`.

    Returns
    -------
    tuple
        Its text, and the folder that relative paths in it are taken from: None for a shipped config.

    Raises
    ------
    AdapterError
        If there is neither a file nor a shipped config of that name.
    """
    path = Path(source)
    if path.is_file():
        return path.read_text(encoding="utf-8"), path.parent
    shipped = shipped_configs()
    if str(source) in shipped:
        return shipped[str(source)], None
    raise AdapterError(f"there is no file {source}, and no shipped config of that name; shipped: {', '.join(shipped)}")


def first_sentence(text: str) -> str:
    r"""What the comment at the head of a config says first.

    Parameters
    ----------
    text
        The config.

    Returns
    -------
    str
        Its first sentence, on one line.

    Examples
    --------
    >>> first_sentence("# Your texts: a CSV or a\n# JSON file. More.\n#   asym finetune x\n")
    'Your texts: a CSV or a JSON file.'
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            break
        lines.append(line.removeprefix("# ").strip())
    words = " ".join(lines)
    sentence = words.split(". ")[0]
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."
