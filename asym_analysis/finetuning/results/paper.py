"""The paper's claims about which factor to train, and the numbers that it prints."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import numpy as np
import pandas as pd

from asym_analysis.finetuning.results.scores import Arm

__all__ = ["Claim", "paper_claims", "paper_results", "printed_differences"]

LORA, B_ONLY, A_ONLY = "hB_0 hA_Km", "hB_0 A_rand", "B_rand hA_0"


@dataclass(frozen=True)
class Claim:
    """One variant is said to be better than another, or no worse.

    Parameters
    ----------
    name : str
        The claim in a few words.
    source : str
        Where it was made.
    first, second : Arm
        Variant and rank of the two.
    says : {"better", "no worse"}
        "better": `first` beats `second`; "no worse": it does not lose to it.
    reference : Arm
        LoRA at the rank whose gain is the unit of differences.
    primary : bool, default False
        Whether the claim is one of the three that the design names beforehand.
    """

    name: str
    source: str
    first: Arm
    second: Arm
    says: Literal["better", "no worse"]
    reference: Arm
    primary: bool = False


def paper_claims(arms: Iterable[tuple[str, int]]) -> list[Claim]:
    """Make the paper's claims that some variants can speak to.

    Parameters
    ----------
    arms : iterable of tuple of (str, int)
        Pairs of variant and rank that were run.

    Returns
    -------
    list of Claim
        Those whose two variants, and LoRA at the same rank as the smaller of them, were run.

    Examples
    --------
    >>> arms = [("hB_0 hA_Km", 8), ("hB_0 A_rand", 8), ("B_rand hA_0", 8)]
    >>> [claim.name for claim in paper_claims(arms)]
    ['B-only is no worse than LoRA at equal rank', 'B-only beats A-only at equal rank']
    """
    known = {Arm(*arm) for arm in arms}
    claims = []
    for rank in sorted({arm.rank for arm in known if arm.variant == LORA}):
        lora, b_only, a_only = (Arm(variant, rank) for variant in (LORA, B_ONLY, A_ONLY))
        b_twice, a_twice = Arm(B_ONLY, 2 * rank), Arm(A_ONLY, 2 * rank)
        claims += [
            Claim("B-only is no worse than LoRA at equal rank", "Tables 1, 5", b_only, lora, "no worse", lora, True),
            Claim("B-only at twice the rank beats LoRA", "Tables 1, 4", b_twice, lora, "better", lora, True),
            Claim("B-only beats A-only, both at twice the rank", "Tables 1, 3", b_twice, a_twice, "better", lora, True),
            Claim("B-only beats A-only at equal rank", "Tables 1, 3, 4", b_only, a_only, "better", lora),
        ]
        for name, first, other in (
            ("A random frozen A is no worse than the weight's V", b_only, "hB_0 A_V"),
            ("A random frozen B is no worse than the weight's U", a_only, "B_U hA_0"),
        ):
            claims.append(Claim(name, "Tables 1, 7", first, Arm(other, rank), "no worse", lora))
        kaiming = Arm("B_Km hA_0", rank)
        claims.append(
            Claim("A frozen Kaiming B fails, an orthonormal one does not", "Table 1", a_only, kaiming, "better", lora)
        )
    return [claim for claim in claims if {claim.first, claim.second, claim.reference} <= known]


def printed_differences(family: str, claim: Claim, tasks: list[str]) -> tuple[str, int]:
    """Find the differences that the paper prints for a claim's two variants.

    Parameters
    ----------
    family
        A family of models as the paper's table names it.
    claim
        The claim.
    tasks
        Our tasks: rows of the same dataset are preferred, "PACS outside" where the runs are on PACS.

    Returns
    -------
    tuple
        The differences in words, and their common sign; 0 where signs differ or nothing is printed.
    """
    printed = paper_results()
    printed = printed[(printed["family"] == family) & printed["variant"].notna() & printed["rank"].notna()]
    found = []
    for (task, metric), members in printed.groupby(["task", "metric"], sort=False):
        firsts, seconds = (members[members["variant"] == arm.variant] for arm in (claim.first, claim.second))
        for first, second in itertools.product(firsts.to_dict("records"), seconds.to_dict("records")):
            if first["rank"] * claim.second.rank == second["rank"] * claim.first.rank:
                sign = -1 if str(metric).endswith("gap") else 1
                found.append((str(task), str(metric), sign * float(first["value"] - second["value"])))
    words = {task.split()[0] for task in tasks}
    found = [row for row in found if row[0].split()[0] in words] or found
    signs = {int(np.sign(difference)) for *_, difference in found}
    text = "; ".join(f"{task}, {metric} {difference:+.3g}" for task, metric, difference in found)
    return text, signs.pop() if len(signs) == 1 else 0


def paper_results() -> pd.DataFrame:
    """Read the numbers that the paper prints, as far as they are known here.

    Returns
    -------
    DataFrame
        `table, family, model, task, run` (in the names of the shipped configs where there is one, else in words),
        `variant` (in notation), `rank, metric, value, standard_error, note`. They are second-hand: read in texts about
        the paper (docs/theory.md, section 1.6).

    Examples
    --------
    >>> paper_results()["family"].unique().tolist()
    ['encoder', 'sequence to sequence', 'decoder', 'vision']
    """
    return pd.read_csv(files("asym_analysis.finetuning.results").joinpath("paper_results.csv").open(encoding="utf-8"))
