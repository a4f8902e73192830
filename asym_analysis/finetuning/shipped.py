"""The configs that come with the package, as text: naming or copying them needs no library."""

from __future__ import annotations

from importlib.resources import as_file, files

__all__ = ["shipped_configs"]


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
