"""The two ways in which variants are written: the paper's notation, and the strategy strings of its released code.

A strategy string ("hB_zero_A_rand") is read by position in the released code: its first two tokens are taken for B, the
next two for A, whatever letters they carry. A string that names A first, as the released README's own example does,
trains the other factor than it seems to (docs/theory.md, section 2, bug 3). Such a string is read here as the released
code reads it, with a warning.
"""

from __future__ import annotations

import re
import unicodedata
import warnings

from asym_analysis.finetuning.factor_initialization import FactorInitialization
from asym_analysis.finetuning.initializations import INITIALIZATIONS
from asym_analysis.vocabulary import Factor

__all__ = ["parse_variant"]

_FACTOR = re.compile(r"(?P<hat>h|\\hat\s*)?\{?(?P<name>[AB])\}?_\{?(?P<subscript>[A-Za-z0-9]+(?:_last)?)\}?")


def parse_variant(text: str) -> tuple[FactorInitialization, FactorInitialization]:
    r"""Read how a text initializes B and A; see `Variant.parse`.

    Raises
    ------
    ValueError
        If the text is in neither notation.

    Examples
    --------
    >>> B, A = parse_variant(r"\hat B_rand A_V")
    >>> B.trained, A.trained, A.initialization
    (True, False, 'singular')
    """
    # A circumflex becomes a combining character under NFD, and then the same leading h as the other spellings.
    plain = re.sub(r"([AB])\u0302", r"h\1", unicodedata.normalize("NFD", text.strip().strip("$")))
    if re.search(r"[\s,;]", re.sub(r"\\hat\s*", "h", plain)):
        return _paper_notation(text, plain)
    return _strategy_string(text, plain)


def _paper_notation(text: str, plain: str) -> tuple[FactorInitialization, FactorInitialization]:
    """Two factors apart from each other, in either order: each carries its own letter, so order means nothing."""
    found = {match["name"]: match for match in _FACTOR.finditer(plain)}
    leftover = re.sub(r"[\s,;]", "", _FACTOR.sub("", plain))
    if set(found) != {"A", "B"} or leftover or len(_FACTOR.findall(plain)) != 2:
        raise ValueError(f"{text!r} does not name B once and A once; write it as 'hB_0 A_rand'")
    read = {
        name: FactorInitialization(_initialization(name, match["subscript"], text), trained=bool(match["hat"]))
        for name, match in found.items()
    }
    return read["B"], read["A"]


def _strategy_string(text: str, plain: str) -> tuple[FactorInitialization, FactorInitialization]:
    """One word of underscores, by position as the released code reads it."""
    # "V_last" holds an underscore of its own; the released parser splits it and loses the second half.
    tokens = re.sub(r"_([VUXY])_last(?=_|$)", r"_\1last", plain).split("_")
    letters = [token.removeprefix("h") for token in tokens[0::2]]
    if len(tokens) != 4 or set(letters) != {"A", "B"}:
        raise ValueError(
            f"{text!r} is not a strategy string of four tokens; write it as 'hB_zero_A_rand' or 'hB_0 A_rand'"
        )
    factors = []
    for name, (mark, subscript) in zip(("B", "A"), (tokens[0:2], tokens[2:4]), strict=True):
        factors.append(FactorInitialization(_initialization(name, subscript, text), trained=mark.startswith("h")))
    if letters == ["A", "B"]:
        seeming = f"{_state(tokens[2])} B from {tokens[3]} and {_state(tokens[0])} A from {tokens[1]}"
        meant = f"{_state(tokens[0])} B from {tokens[1]} and {_state(tokens[2])} A from {tokens[3]}"
        warnings.warn(
            f"{text!r} seems to say {seeming}, but the released code reads B first by position and runs {meant}, as is "
            f"done here too; for what it seems to say, write '{tokens[2]}_{tokens[3]}_{tokens[0]}_{tokens[1]}'",
            stacklevel=4,
        )
    return factors[0], factors[1]


def _state(mark: str) -> str:
    return "trained" if mark.startswith("h") else "frozen"


def _initialization(name: str, subscript: str, text: str) -> str:
    factor: Factor = "A" if name == "A" else "B"
    possible = {found: kind for found, kind in INITIALIZATIONS.items() if factor in kind.subscripts}
    for found, kind in possible.items():
        written = kind.subscripts[factor]
        # Names of vectors are single capitals and matched as they are written; words in any case.
        vectors = written[0].isupper() and (len(written) == 1 or "_" in written)
        exact = {written, written.replace("_last", "last")}
        loose = {*kind.aliases, *([] if vectors else [written.lower()])}
        if subscript in exact or subscript.lower() in loose:
            return found
    known = [spelling for kind in possible.values() for spelling in (kind.subscripts[factor], *kind.aliases)]
    raise ValueError(f"{text!r}: {name} has no initialization {subscript!r}; known for {name}: {', '.join(known)}")
