"""A library is one value: names, orientation, scale and config files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import yaml

from asym_analysis import load_adapter
from asym_analysis.adapters import dialects
from asym_analysis.adapters.dialects import Grammar, PatternDialect
from asym_analysis.adapters.hub import ADAPTER_FILES
from asym_analysis.errors import AdapterError

A, B = torch.randn(2, 5), torch.randn(6, 2)

#: A library that does not exist: B transposed, `strength / sqrt(rank)`, a YAML file of its own.
NEW = Grammar(
    name="newlib",
    A=r"net/(.+)/reads",
    B=r"net/(.+)/writes",
    transposed="B",
    rank_stabilized=True,
    alpha_at=("adapter/strength",),
    rank_at=("adapter/width",),
    config_names=("newlib.yaml",),
    known_as={"base_model": ("backbone",)},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors = {"net/blocks.3.query/reads": A, "net/blocks.3.query/writes": B.T.contiguous(), "net/head": torch.ones(2)}
    torch.save(tensors, tmp_path / "weights.pt")
    config = {"backbone": "vit", "adapter": {"strength": 6, "width": 2}}
    (tmp_path / "newlib.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_adding_a_library_is_adding_a_value(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AdapterError, match="PatternDialect"):
        load_adapter(folder)
    monkeypatch.setattr(dialects, "DIALECTS", (NEW, *dialects.DIALECTS))
    adapter = load_adapter(folder)
    assert (adapter.metadata["dialect"], adapter.metadata["base_model"]) == ("newlib", "vit")
    torch.testing.assert_close(adapter["blocks.3.query"].delta(), 6 / 2**0.5 * B @ A)
    assert list(adapter.extras) == ["net/head"]
    assert not adapter.assumptions
    assert load_adapter(folder, dialect="newlib").coverage.complete


def test_the_user_writes_the_same_type(folder: Path) -> None:
    assert PatternDialect is Grammar
    adapter = load_adapter(
        folder, dialect=PatternDialect(A="net/(.+)/reads", B="net/(.+)/writes", transposed="B", alpha=4)
    )
    torch.testing.assert_close(adapter["blocks.3.query"].delta(), 2.0 * B @ A)
    automatic = PatternDialect(A="net/(.+)/reads", B="net/(.+)/writes", transposed="B")
    assert load_adapter(folder, dialect=automatic, scale=2)["blocks.3.query"].scaling == 2.0


def test_every_value_has_its_own_name_and_can_be_copied() -> None:
    names = [dialect.name for dialect in dialects.DIALECTS]
    assert len(set(names)) == len(names)
    assert pickle.loads(pickle.dumps(NEW)) == NEW


def test_config_of_another_file(folder: Path) -> None:
    (folder / "newlib.yaml").write_text("adapter: {strength: 6, width: 64}")
    with pytest.raises(AdapterError, match="the tensors have rank 2, the config says 64"):
        load_adapter(folder, dialect=NEW)


def test_damaged_config(folder: Path) -> None:
    (folder / "newlib.yaml").write_text("adapter: [")
    with pytest.raises(AdapterError, match=r"newlib\.yaml is not valid YAML"):
        load_adapter(folder, dialect=NEW)


def test_declared_configs_are_fetched_from_the_hub() -> None:
    declared = {name for dialect in dialects.DIALECTS for name in getattr(dialect, "config_names", ())}
    assert declared <= set(ADAPTER_FILES)


def test_rooms_of_the_dialects() -> None:
    """A library that differs in names, orientation and scale needs no file."""
    room = Path(dialects.__file__).parent
    assert len(list(room.rglob("*.py"))) <= 20
