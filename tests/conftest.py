"""Fixtures that several test folders share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("suite")
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(folder: str) -> Path:
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"the development data {folder!r} is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def shared_adapters() -> Path:
    """Real adapters of many formats, beside the checkout on development machines."""
    return _shared("adapters")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Small real pretrained models, beside the checkout on development machines."""
    return _shared("models")


@pytest.fixture(scope="session")
def shared_datasets() -> Path:
    """Small real datasets, beside the checkout on development machines."""
    return _shared("datasets")


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Let wrong shapes through to the package's own messages, as they reach a user."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
