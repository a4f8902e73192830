"""Write docs/api.md's list of names from the package's own: python docs/api_names.py [--check]."""

from __future__ import annotations

import sys
from pathlib import Path

import asym_analysis

FILE = Path(__file__).with_name("api.md")
START, END = "   :nosignatures:\n\n", "\n```\n"


def main() -> int:
    """Write the list, or with --check say whether it is current."""
    text = FILE.read_text()
    head = text.partition(START)[0]
    names = sorted(name for name in asym_analysis.__all__ if not name.startswith("__") and name != "MEASURES")
    new = head + START + "".join(f"   {name}\n" for name in names).rstrip("\n") + END
    if "--check" in sys.argv:
        return int(new != text)
    FILE.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
