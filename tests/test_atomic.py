"""A replaced file is on the disk before its name is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asym_analysis.atomic import replacing


def test_the_new_file_is_on_the_disk_before_it_takes_the_old_ones_name(tmp_path: Path, monkeypatch) -> None:
    """Else a power cut could leave the new name with no data behind it."""
    events: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(handle: int) -> None:
        events.append(("synced", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def noted_replace(self: Path, target: Path) -> Path:
        events.append(("renamed", str(self)))
        return replace(self, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files have no names here")
    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    with replacing(tmp_path / "table.csv") as part:
        part.write_text("new")
    assert events == [("synced", str(part)), ("renamed", str(part)), ("synced", str(tmp_path))]
    assert (tmp_path / "table.csv").read_text() == "new"


def test_a_file_system_that_cannot_sync_is_no_reason_to_fail(tmp_path: Path, monkeypatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    with replacing(tmp_path / "table.csv") as part:
        part.write_text("new")
    assert (tmp_path / "table.csv").read_text() == "new"
