"""Output files are written whole or not at all, even where the power fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["replacing", "synced"]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path` that takes its place only when the block ends without an exception.

    Parameters
    ----------
    path
        The file to write. Missing parent folders are made. An existing file is replaced in one step, once the new
        one is on the disk, and stays as it was if the block fails.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with replacing(folder / "table.csv") as part:
    ...     _ = part.write_text("a,b")
    >>> (folder / "table.csv").read_text()
    'a,b'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as matplotlib choose their format by it.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        synced(part)
        part.replace(target)
        synced(target.parent)
    except BaseException:
        with suppress(FileNotFoundError):
            part.unlink()
        raise


def synced(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; file systems that cannot say so are passed over.

    Parameters
    ----------
    path
        The file or folder.
    """
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
