"""Containers: a file's bytes become named tensors that are still in the file. The bytes decide, not the suffix."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from asym_analysis.adapters.checkpoint import Checkpoint
from asym_analysis.adapters.containers.archive import checked_entries
from asym_analysis.adapters.containers.gguf import open_gguf
from asym_analysis.adapters.containers.npz import open_npz
from asym_analysis.adapters.containers.pickled import InMemoryTensor, open_legacy_pickle
from asym_analysis.adapters.containers.raw_tensor import FileStamp, megabytes
from asym_analysis.adapters.containers.safetensors import open_safetensors
from asym_analysis.adapters.containers.sharded import open_sharded
from asym_analysis.errors import AdapterError, AdapterFormatError, NotAnAdapterError

__all__ = ["FileStamp", "InMemoryTensor", "megabytes", "open_container"]

FOREIGN = {
    b"\x89HDF": "an HDF5 file (Keras)",
    b"\x93NUMPY": "a single NumPy array",
    b"\x1f\x8b": "gzip-compressed data",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\xfd7zXZ": "xz-compressed data",
    b"\x28\xb5\x2f\xfd": "zstandard-compressed data",
    b"BZh": "bzip2-compressed data",
    b"PK\5\6": "an empty zip archive",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
}


def open_container(path: Path) -> Checkpoint:
    """Open a file of any known container, reading no more than its header.

    Parameters
    ----------
    path
        The file, or the index of several.

    Returns
    -------
    Checkpoint
        Its tensors, still in the file, and its own metadata.

    Raises
    ------
    NotAnAdapterError
        If the file is something else: a Git LFS pointer, a web page, another kind of archive.
    AdapterFormatError
        If the file is empty, cut short, damaged or unsafe.
    """
    head, size = _head(path)
    if path.name.endswith(".index.json"):
        return open_sharded(path, open_container)
    if _has_json_header(head):
        return open_safetensors(path)
    if head.startswith(b"PK\3\4"):
        entries = checked_entries(path)
        if all(entry.name.endswith(".npy") for entry in entries):
            return open_npz(entries)
        from asym_analysis.adapters.containers.torch_zip import open_torch_zip  # needs torch's own unpickler

        return open_torch_zip(path, entries)
    if head.startswith(b"GGUF"):
        return open_gguf(path)
    if re.match(rb"\x80[\x02-\x05]", head):
        return open_legacy_pickle(path)
    _refuse_foreign(path, head, size)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return open_safetensors(path)
    raise AdapterFormatError(
        f"{path} is not a known checkpoint format (it starts with {head[:8]!r}): give a safetensors, torch, npz or "
        "GGUF file"
    )


def _has_json_header(head: bytes) -> bool:
    """Whether a file starts as safetensors does: a length of less than 4 GB in 8 bytes, then a JSON object.

    The length may be any number, so that its first bytes may be those by which another format is known (640 is 80 02,
    a pickle's). No other format has four zeros and then a brace there.
    """
    return head[4:9] == b"\0\0\0\0{"


def _head(path: Path) -> tuple[bytes, int]:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise AdapterFormatError(f"{path} is not a regular file: name the file that holds the tensors")
        with open(path, "rb") as file:
            return file.read(512), status.st_size
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from error


def _refuse_foreign(path: Path, head: bytes, size: int) -> None:
    if size == 0:
        raise AdapterFormatError(f"{path} is empty: fetch it again")
    if head.startswith(b"version https://git-lfs"):
        claim = re.search(rb"\nsize (\d{1,15})\n", head)
        real = f" of {megabytes(int(claim[1]))}" if claim else ""
        raise NotAnAdapterError(
            f"{path} is a Git LFS pointer to a file{real}, not the file itself: run `git lfs pull` where it came from"
        )
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html") or head.lstrip()[:5].lower() == b"<html":
        raise NotAnAdapterError(f"{path} is a web page, perhaps an error or login page: fetch the file itself")
    if size < 16:
        raise AdapterFormatError(f"{path} has only {size} bytes, fewer than any checkpoint: fetch it again")
    text = _text(head)
    if text is not None:
        raise NotAnAdapterError(
            f"{path} is text, not a checkpoint (it starts with {text[:60].strip()!r}), perhaps an error message that "
            "was saved in its place: fetch the file itself"
        )
    if head[257:262] == b"ustar":
        raise NotAnAdapterError(f"{path} is a tar archive: unpack it and name what lies in it")
    for magic, kind in FOREIGN.items():
        if head.startswith(magic):
            raise NotAnAdapterError(f"{path} is {kind}: give a safetensors, torch, npz or GGUF file")


def _text(head: bytes) -> str | None:
    """The first characters of a file that is text, or None."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else the last character is cut
            return None
        text = head[: error.start].decode("utf-8-sig")
    return text if all(character.isprintable() or character.isspace() for character in text) else None
