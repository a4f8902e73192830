"""The house's rules: sizes of files, public names, no heavy import before it is needed.

What may import what stands in pyproject.toml, under [tool.importlinter].
"""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import CodeType

import pytest

import asym_analysis

ROOT = Path(asym_analysis.__file__).parent


def _files() -> list[tuple[str, Path]]:
    return [(".".join(p.relative_to(ROOT).with_suffix("").parts), p) for p in sorted(ROOT.rglob("*.py"))]


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [shutil.which("lint-imports", path=Path(sys.executable).parent), "--no-cache", "--no-logo"],
        cwd=ROOT.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


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


def test_every_name_that_code_uses_is_defined() -> None:
    """What linters cannot be asked, since shapes in annotations look like undefined names."""

    def used(code: CodeType) -> set[str]:
        names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
        return names.union(*(used(each) for each in code.co_consts if isinstance(each, CodeType)))

    undefined = {}
    for module, path in _files():
        name = f"asym_analysis.{module}".removesuffix(".__init__")
        if module != "__main__":
            known = {*vars(importlib.import_module(name)), *dir(builtins)}
            if missing := used(compile(path.read_text(), str(path), "exec")) - known:
                undefined[name] = missing
    assert undefined == {}
