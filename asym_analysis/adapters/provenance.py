"""Where a written adapter came from and what was assumed of it, kept in the header of its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.assumption import Assumption

__all__ = ["PROVENANCE", "assumptions_in", "provenance", "recorded_facts"]

#: Name of the header's entry.
PROVENANCE = "asym_analysis"
FACTS = ("source", "sha256", "dialect", "peft_type", "init_lora_weights", "scaling", "base_model", "step", "seed")


def provenance(adapter: Adapter, *, changes: tuple[str, ...] = ()) -> str:
    """Describe where an adapter came from and what was assumed of it, as JSON text.

    Parameters
    ----------
    adapter
        The adapter that is written.
    changes
        What was done to it on the way, such as "scale folded into B".

    Returns
    -------
    str
        A JSON object with name, facts of the source (path, sha256, dialect, ...), assumed, refused and changes.

    Examples
    --------
    >>> import torch
    >>> adapter = Adapter.from_factors({"q": (torch.ones(1, 3), torch.ones(2, 1))}, name="toy")
    >>> provenance(adapter, changes=("scale folded into B",))
    '{"name": "toy", "changes": ["scale folded into B"]}'
    """
    facts = {key: value for key in FACTS if isinstance(value := adapter.metadata.get(key), str | int | float)}
    record = {
        "name": adapter.name,
        **facts,
        "assumed": [asdict(assumption) for assumption in adapter.assumptions],
        "refused": dict(adapter.coverage.refused),
        "changes": [*adapter.metadata.get("changes", ()), *changes],
    }
    return json.dumps({key: value for key, value in record.items() if value or value == 0})


def assumptions_in(header: Mapping[str, Any]) -> tuple[Assumption, ...]:
    """Give the assumptions that were made when the file was written, which still hold when it is read.

    Parameters
    ----------
    header
        Text metadata of a file; an entry that is not one of ours counts for nothing.

    Returns
    -------
    tuple of Assumption
        None where the file was not written by this package.
    """
    record = recorded_facts(header) or {}
    listed = record.get("assumed")
    found = []
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and set(entry) == {"what", "value", "remedy"}:
            found.append(Assumption(*(str(entry[key]) for key in ("what", "value", "remedy"))))
    return tuple(found)


def recorded_facts(header: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Give what `provenance` wrote into the header of a file.

    Parameters
    ----------
    header
        Text metadata of a file.

    Returns
    -------
    mapping or None
        None where the file was not written by this package.

    Examples
    --------
    >>> recorded_facts({PROVENANCE: '{"name": "toy"}'}), recorded_facts({"format": "pt"})
    ({'name': 'toy'}, None)
    """
    if PROVENANCE not in header:
        return None
    try:
        record = json.loads(str(header[PROVENANCE]))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
