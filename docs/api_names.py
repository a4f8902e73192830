"""Write docs/api.md's lists of names from the package's own: python docs/api_names.py [--check].

The names of the top level, the classes of their results, and what the rooms offer beside them.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import asym_analysis
from asym_analysis.results import Result

FILE = Path(__file__).with_name("api.md")
ROOMS = ("least_squares", "chance", "bounds", "questions", "prediction", "finetuning")
HEAD = """# API

Every public name. Examples in the docstrings run in the tests.

"""


def listed(names: list[str]) -> str:
    """One autosummary table."""
    lines = "".join(f"   {name}\n" for name in names)
    return f"```{{eval-rst}}\n.. autosummary::\n   :toctree: generated\n   :nosignatures:\n\n{lines}```\n\n"


def results() -> list[str]:
    """Paths of the classes that analyses return, without those of the top level."""
    for module in pkgutil.walk_packages(asym_analysis.__path__, "asym_analysis."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, waiting = set(), [Result]
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += kind.__subclasses__()
    public = [getattr(asym_analysis, name) for name in asym_analysis.__all__]
    own = [kind for kind in found if kind not in public and kind.__module__.startswith("asym_analysis")]
    return sorted(f"{kind.__module__}.{kind.__name__}" for kind in own if not kind.__name__.startswith("_"))


def page() -> str:
    """The whole of api.md."""
    top = sorted(name for name in asym_analysis.__all__ if not name.startswith("__") and name != "MEASURES")
    classes = [name for name in top if isinstance(getattr(asym_analysis, name), type)]
    plots = [name for name in top if name.startswith("plot_")]
    functions = [name for name in top if name not in classes and name not in plots]
    shown = [getattr(asym_analysis, name) for name in top]
    kinds = results()
    text = HEAD
    for title, names in {"Functions": functions, "Classes": classes, "Plots": plots}.items():
        text += f"## {title}\n\n" + listed([f"asym_analysis.{name}" for name in names])
    text += "## Results\n\nWhat the analyses return; the columns of each table stand in its class.\n\n" + listed(kinds)
    for room in ROOMS:
        module = importlib.import_module(f"asym_analysis.{room}")
        own = []
        for name in sorted(module.__all__):
            value = getattr(module, name)
            path = f"{getattr(value, '__module__', '')}.{name}"
            if callable(value) and value not in shown and path not in kinds:
                own.append(f"asym_analysis.{room}.{name}")
        if own:
            text += f"## asym_analysis.{room}, beside these\n\n" + listed(own)
    return text.rstrip("\n") + "\n"


def main() -> int | str:
    """Write the lists, or with --check say whether they are current."""
    text = page()
    if "--check" in sys.argv:
        return "docs/api.md is not current: run python docs/api_names.py" if FILE.read_text("utf-8") != text else 0
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
