"""A self-delimiting (prefix-free) stream of bits: a message needs no length beside it."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt32

__all__ = ["BitReader", "BitWriter"]


class BitWriter:
    """Append numbers to a growing message.

    Examples
    --------
    >>> writer = BitWriter()
    >>> writer.integer(5)
    >>> writer.fixed(2, width=3)
    >>> reader = BitReader(writer.to_bytes())
    >>> reader.integer(), reader.fixed(3), reader.position == len(writer)
    (5, 2, True)
    """

    def __init__(self) -> None:
        self._bits: list[str] = []
        self._length = 0

    def __len__(self) -> int:
        """Bits written."""
        return self._length

    def fixed(self, value: int, width: int) -> None:
        """An integer in [0, 2^width) in exactly `width` bits."""
        if not 0 <= value < 1 << width:
            raise ValueError(f"{value} does not fit in {width} bits")
        if width:
            self._append(format(value, f"0{width}b"))

    def integer(self, value: int) -> None:
        """A positive integer of any size: Elias's delta code, about log2 v + 2 log2 log2 v bits, prefix-free."""
        if value < 1:
            raise ValueError(f"Elias's code is for positive integers, not {value}")
        width = value.bit_length()
        length = width.bit_length()
        self._append("0" * (length - 1) + format(width, "b") + format(value, "b")[1:])

    def float32(self, value: float) -> None:
        """A number rounded to float32, in 32 bits."""
        self.fixed(int(np.float32(value).view(np.uint32)), 32)

    def float16(self, value: float) -> None:
        """A number rounded to float16, in 16 bits."""
        self.fixed(int(np.float16(value).view(np.uint16)), 16)

    def words(self, values: UInt32[np.ndarray, "words"]) -> None:
        """32-bit words, after their number."""
        self.integer(len(values) + 1)
        if len(values):
            self._append("".join(map("{:032b}".format, values.tolist())))

    def to_bytes(self) -> bytes:
        """The message, filled up with zeros to whole bytes."""
        text = "".join(self._bits)
        filled = text.ljust(-(-max(len(text), 1) // 8) * 8, "0")
        return np.packbits(np.frombuffer(filled.encode(), dtype=np.uint8) - ord("0")).tobytes()

    def _append(self, text: str) -> None:
        self._bits.append(text)
        self._length += len(text)


class BitReader:
    """Read back what a `BitWriter` wrote; bits after the message's end are never looked at.

    Raises
    ------
    ValueError
        From every method, if the message ends too soon.
    """

    def __init__(self, message: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(message, dtype=np.uint8))
        self.position = 0

    def fixed(self, width: int) -> int:
        """An integer of `width` bits."""
        taken = self._take(width)
        return int("".join(map(str, taken.tolist())), 2) if width else 0

    def integer(self) -> int:
        """A positive integer in Elias's delta code."""
        length = 1
        while self.fixed(1) == 0:
            length += 1
        width = (1 << (length - 1)) | self.fixed(length - 1)
        return (1 << (width - 1)) | self.fixed(width - 1)

    def float32(self) -> np.float32:
        """A float32."""
        return np.uint32(self.fixed(32)).view(np.float32)

    def float16(self) -> np.float16:
        """A float16."""
        return np.uint16(self.fixed(16)).view(np.float16)

    def words(self) -> UInt32[np.ndarray, "words"]:
        """32-bit words, as many as the message says."""
        count = self.integer() - 1
        return np.packbits(self._take(32 * count)).view(">u4").astype(np.uint32)

    def _take(self, count: int) -> np.ndarray:
        if self.position + count > len(self._bits):
            raise ValueError("the message ends before it is complete: it was cut, or belongs to another adapter")
        taken = self._bits[self.position : self.position + count]
        self.position += count
        return taken
