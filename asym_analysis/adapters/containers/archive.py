"""Zip archives, checked before anything in them is unpacked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asym_analysis.adapters.containers.raw_tensor import FileStamp, megabytes
from asym_analysis.errors import AdapterFormatError

__all__ = ["ArchiveEntry", "checked_entries"]

# An entry may unpack to twice the archive plus this many bytes. Trained numbers hardly compress; a zip bomb does.
ALLOWANCE = 32_000_000
FOLDER = 0x10  # the attribute by which torch's reader knows a folder, whatever its name
UTF8 = 0x800  # the flag by which an archive says how its names are written
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of name and extra field


@dataclass(frozen=True)
class ArchiveEntry:
    """One file in a zip archive: where its bytes lie, and how to read them without opening the archive again."""

    stamp: FileStamp
    name: str
    offset: int
    packed_size: int
    size: int
    checksum: int
    compressed: bool

    def head(self, size: int) -> bytes:
        """Unpack the first bytes alone, unchecked."""
        data = self.stamp.read(self.offset, min(size, self.packed_size)).tobytes()
        try:
            return zlib.decompressobj(-15).decompress(data, size) if self.compressed else data
        except zlib.error as error:
            raise AdapterFormatError(
                f"{self.stamp.path}: entry {self.name!r} is damaged; fetch the file again"
            ) from error

    def read(self) -> bytearray:
        """Unpack the entry.

        Raises
        ------
        AdapterFormatError
            If the bytes are not those that were packed.
        """
        data = self.stamp.read(self.offset, self.packed_size).data
        try:
            unpacked = bytearray(zlib.decompressobj(-15).decompress(data, self.size + 1) if self.compressed else data)
        except zlib.error as error:
            raise AdapterFormatError(
                f"{self.stamp.path}: entry {self.name!r} is damaged; fetch the file again"
            ) from error
        if len(unpacked) != self.size or zlib.crc32(unpacked) != self.checksum:
            raise AdapterFormatError(
                f"{self.stamp.path}: entry {self.name!r} fails its checksum: the file is damaged; fetch it again"
            )
        return unpacked


def checked_entries(path: Path) -> list[ArchiveEntry]:
    """The entries of a zip archive, each of which fits what the archive's size allows.

    Raises
    ------
    AdapterFormatError
        If the archive has no directory (a download that was cut short), is encrypted or damaged, or an entry claims
        more than the archive could hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    # BadZipFile, and what the standard library's reader raises on other damaged fields.
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        OSError,
        OverflowError,
        ValueError,
        struct.error,
    ) as error:
        raise AdapterFormatError(
            f"{path} begins as a zip archive (torch or npz) but its directory cannot be read: it was cut short or is "
            "damaged; fetch it again"
        ) from error
    stamp = FileStamp.of(path)
    names = {info.filename.lower() for info in infos}  # torch's reader ignores the case
    if len(names) < len(infos):
        raise AdapterFormatError(f"{path} holds two entries of one name: the archive is damaged; fetch it again")
    return list(_placed(infos, stamp))


def _placed(infos: list[zipfile.ZipInfo], stamp: FileStamp) -> Iterator[ArchiveEntry]:
    with open(stamp.path, "rb") as file:
        for info in infos:
            _check(info, stamp)
            file.seek(info.header_offset)
            header = file.read(LOCAL_HEADER.size)
            offset = info.header_offset + LOCAL_HEADER.size
            signature, name_size, extra_size = LOCAL_HEADER.unpack(header.ljust(LOCAL_HEADER.size, b"\0"))
            offset += name_size + extra_size
            name = file.read(name_size).decode("utf-8" if info.flag_bits & UTF8 else "cp437", "replace")
            lies_there = signature == b"PK\3\4" and name == info.orig_filename
            if not lies_there or offset + info.compress_size > stamp.size:
                raise AdapterFormatError(
                    f"{stamp.path}: entry {info.filename!r} does not lie where the archive's directory says: the file "
                    "is damaged; fetch it again"
                )
            compressed = info.compress_type == zipfile.ZIP_DEFLATED
            yield ArchiveEntry(stamp, info.filename, offset, info.compress_size, info.file_size, info.CRC, compressed)


def _check(info: zipfile.ZipInfo, stamp: FileStamp) -> None:
    where = f"{stamp.path}: entry {info.filename!r}"
    if not 0 <= info.header_offset < stamp.size:
        raise AdapterFormatError(f"{where} does not lie in the file: it is damaged; fetch it again")
    if info.filename.endswith("/") or info.external_attr & FOLDER:
        raise AdapterFormatError(f"{where} is marked as a folder, as neither torch nor NumPy does: it is damaged")
    if info.flag_bits & 1:
        raise AdapterFormatError(f"{where} is encrypted: unpack it with its password first")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise AdapterFormatError(f"{where} is packed by a method that neither torch nor NumPy writes: pack it again")
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        raise AdapterFormatError(
            f"{where} claims {megabytes(info.file_size)} where {megabytes(info.compress_size)} are stored: the file is "
            "damaged; fetch it again"
        )
    if info.file_size > 2 * stamp.size + ALLOWANCE:
        raise AdapterFormatError(
            f"{where} would unpack to {megabytes(info.file_size)} from a file of {megabytes(stamp.size)}, as a zip "
            "bomb does: it is not unpacked"
        )
