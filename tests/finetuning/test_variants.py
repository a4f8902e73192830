"""Variants: both notations, what cannot train, and the trap in the released code's strategy strings."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asym_analysis.finetuning import INITIALIZATIONS, FactorInitialization, Variant


@pytest.mark.parametrize(
    "text",
    ["hB_0 A_rand", r"\hat B_0 A_rand", r"$\hat{B}_0 A_{rand}$", "B̂_0 A_orth", "A_rand hB_zero", "hB_zero_A_rand"],
)
def test_the_recommended_variant_in_every_spelling(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        variant = Variant.parse(text)
    assert variant == Variant(B=FactorInitialization("zero", True), A=FactorInitialization("orthonormal", False))
    assert variant.tuned == "B"


def test_a_strategy_string_that_names_a_first_is_read_as_the_released_code_reads_it() -> None:
    with pytest.warns(UserWarning, match="write 'hB_zero_A_rand'"):
        variant = Variant.parse("A_rand_hB_zero")
    # The released parser takes tokens 0 and 1 for B and tokens 2 and 3 for A: the README's example trains A.
    assert variant == Variant(B=FactorInitialization("orthonormal", False), A=FactorInitialization("zero", True))


def test_the_papers_notation_means_the_same_in_either_order() -> None:
    assert Variant.parse("A_V hB_0") == Variant.parse("hB_0 A_V")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("hB_0 A_V", "singular"),
        ("hB_0 A_V_last", "last_singular"),
        ("hB_zero_A_V_last", "last_singular"),
        ("hB_0 A_X", "principal"),
        ("hB_zero_A_X_last", "last_principal"),
        ("hB_0 A_G", "gradient"),
        ("hB_0 A_E", "coordinates"),
    ],
)
def test_singular_vectors(text: str, start: str) -> None:
    assert FactorInitialization(start, False) == Variant.parse(text).A  # type: ignore[arg-type]
    assert FactorInitialization("last_singular", False) == Variant.parse("B_U_last hA_0").B


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hB_0 hA_0", "both factors are zero at first"),
        ("B_0 hA_rand", "B is frozen at zero"),
        ("B_rand A_0", "must train"),
        ("hB_0", "strategy string"),
        ("hB_0 hB_rand", "B once and A once"),
        ("hB_0 A_U", "A has no initialization 'U'"),
        ("hB_0 A_magic", "known for A"),
        ("", "strategy string"),
    ],
)
def test_what_cannot_be_trained_or_read_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Variant.parse(text)


@given(
    B=st.tuples(st.sampled_from(sorted(INITIALIZATIONS)), st.booleans()),
    A=st.tuples(st.sampled_from(sorted(INITIALIZATIONS)), st.booleans()),
)
def test_what_is_written_is_read_back(B: tuple[str, bool], A: tuple[str, bool]) -> None:
    try:
        variant = Variant(FactorInitialization(*B), FactorInitialization(*A))  # type: ignore[arg-type]
    except ValueError:
        return
    assert Variant.parse(str(variant)) == variant
