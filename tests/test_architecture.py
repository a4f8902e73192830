"""The house's rules: what may import what, no circles, no heavy import before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asym_analysis

ROOT = Path(asym_analysis.__file__).parent
GROUND = {"_deprecated", "errors", "atomic", "codec", "results", "vocabulary", "chance"}
MEASURING = {"questions", "adapters", "alignment", "bounds", "least_squares", "finetuning", "prediction"}
ALLOWED = {
    "_deprecated": set(),
    "errors": set(),
    "atomic": set(),
    "vocabulary": set(),
    "codec": set(),
    "results": {"atomic", "codec"},
    "chance": set(),
    "subspaces": {"chance", "vocabulary"},
    "least_squares": GROUND,
    "bounds.information": set(),
    "bounds.risk": set(),
    "bounds.estimators": GROUND,
    "adapters": GROUND | {"subspaces"},
    "alignment": GROUND | {"adapters", "subspaces"},
    "bounds": GROUND | {"adapters", "subspaces", "alignment", "least_squares", "bounds"},
    "prediction": GROUND | {"adapters", "subspaces", "alignment", "least_squares", "bounds"},
    "questions": GROUND | {"adapters", "subspaces", "alignment", "least_squares", "bounds", "prediction"},
    "finetuning": GROUND | {"adapters", "subspaces", "alignment", "least_squares", "bounds", "prediction"},
    "samples": GROUND | {"adapters"},
    "plots": GROUND | MEASURING | {"subspaces"},
    "report": GROUND | MEASURING | {"plots", "samples"},
}
HEAVY_HOMES = {
    "matplotlib": ("plots", "report"),
    "seaborn": ("plots", "report"),
    "transformers": ("finetuning",),
    "peft": ("finetuning",),
    "datasets": ("finetuning",),
    "accelerate": ("finetuning",),
    "typer": ("cli",),
    "rich": ("cli",),
}


def _files() -> list[tuple[str, Path]]:
    return [(".".join(p.relative_to(ROOT).with_suffix("").parts), p) for p in sorted(ROOT.rglob("*.py"))]


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _room(module: str) -> str:
    return next(
        (rule for rule in sorted(ALLOWED, key=len, reverse=True) if f"{module}.".startswith(f"{rule}.")), module
    )


@pytest.mark.parametrize(("module", "path"), _files(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_run_one_way(module: str, path: Path) -> None:
    room = module.split(".")[0]
    if module in ("__init__", "__main__") or room == "cli":
        return
    rule = _room(module)
    if module.endswith("__init__") and rule.startswith("bounds"):
        rule = "bounds"
    for name in _imports(path):
        if not name.startswith("asym_analysis."):
            continue
        target = name.removeprefix("asym_analysis.")
        target_room = target.split(".")[0]
        assert target_room == room or target_room in ALLOWED[rule], f"{module} may not import {name}"
        if target_room == room and rule.count("."):
            assert _room(target) == rule, f"{module} stands alone and may not import {name}"


@pytest.mark.parametrize(("module", "path"), _files(), ids=lambda value: value if isinstance(value, str) else "")
def test_heavy_libraries_stay_in_their_rooms(module: str, path: Path) -> None:
    for name in _imports(path):
        homes = HEAVY_HOMES.get(name.split(".")[0])
        assert homes is None or module.split(".")[0] in homes, f"{module} imports {name}"


def test_no_file_imports_itself_through_others() -> None:
    known = {module.removesuffix(".__init__"): path for module, path in _files()}
    graph = {
        module: {
            target
            for name in _imports(path)
            if (target := name.removeprefix("asym_analysis.")) in known and target != module and "." in target
        }
        for module, path in known.items()
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_files_hold_one_idea() -> None:
    too_long = {module: n for module, path in _files() if (n := len(path.read_text().splitlines())) > 600}
    assert not too_long


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, asym_analysis; "
        "print([m for m in ('torch', 'numpy', 'scipy', 'pandas', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", asym_analysis.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(asym_analysis, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No asym_analysis attribute compare_everything"):
        _ = asym_analysis.compare_everything


def test_the_stub_lists_each_public_name_once() -> None:
    names = [alias.asname or alias.name for alias in _stub_imports()]
    assert sorted(names) == sorted(set(asym_analysis.__all__) - {"__version__"})
    assert len(names) == len(set(names))


def _stub_imports() -> list[ast.alias]:
    tree = ast.parse((ROOT / "__init__.pyi").read_text())
    return [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
