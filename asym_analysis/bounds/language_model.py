"""Bounds on the bits per token of an adapted language model, over documents and over tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from asym_analysis.adapters.adapter import Adapter
from asym_analysis.adapters.applied import AppliedAdapter
from asym_analysis.adapters.load import as_adapter
from asym_analysis.bounds.admissibility import checked_tuned, doubts
from asym_analysis.bounds.description import PLACEMENTS, encode_adapter
from asym_analysis.bounds.duplicates import Duplicates, find_duplicates
from asym_analysis.bounds.losses import generator_for
from asym_analysis.bounds.model_losses import logits_of, tied_doubts
from asym_analysis.bounds.risk import chernoff_risk
from asym_analysis.results import TableResult, settings_of
from asym_analysis.vocabulary import Tuned, finite, whole

__all__ = ["LanguageModelBound", "language_model_bound"]

MOST_REPEATED = 0.01  # share of documents that repeat others, above which independence does not hold
MOST_PROBED = 64  # tokens of the document whose later tokens are changed
SAME_LOGITS = 0.02  # of the largest logit: a change as small is that of the arithmetic, in 16 bits
SAMPLING_SHARE = 0.1  # of a level's delta, for the documents that were not evaluated


@dataclass(frozen=True, eq=False, repr=False)
class LanguageModelBound(TableResult):
    """Bounds on bits per token, one row a predictor, smoothing and level. All rows hold together.

    Attributes
    ----------
    frame
        One row a predictor, smoothing and level. Columns:

        - `level`: "document" (mean bits per token of a new document) or "token" (mean bits of the next token, drawn
          anew at each context of these documents).
        - `predictor`: "coded adapter" in its model, or "base model" without any adapter.
        - `levels`, `placement`: of the code; missing for the base model.
        - `smoothing`: weight alpha of the uniform distribution in the predictor's probabilities.
        - `nats`: length of the message, with the choice of smoothing charged.
        - `training_bits`: bits per token on the documents evaluated.
        - `sampled_bits`: upper confidence bound on the same over all documents; equal where all were evaluated.
        - `bits`: the bound on the expected bits per token.
        - `uniform_bits`: log2 of the vocabulary, what guessing costs.
        - `vacuous`: no better than guessing.
        - `kind`: "certificate" or "diagnostic".
        - `assumptions`: in words.
    settings
        The arguments, and versions.
    """

    def best(self, level: str = "document", *, predictor: str | None = "coded adapter") -> pd.Series | None:
        """The row of lowest bound among the certificates of one level.

        Parameters
        ----------
        level : str, default "document"
            "document" or "token".
        predictor : str or None, default "coded adapter"
            "coded adapter", "base model", or None for any.

        Returns
        -------
        Series or None
            One row of `frame`.
        """
        rows = self.frame[(self.frame["level"] == level) & (self.frame["kind"] == "certificate")]
        if predictor is not None:
            rows = rows[rows["predictor"] == predictor]
        return None if rows.empty else rows.sort_values("bits", kind="stable").iloc[0]

    def summary(self) -> pd.DataFrame:
        """The best row of each level and predictor.

        Returns
        -------
        DataFrame
            Columns level, predictor, smoothing, nats, training_bits, bits, uniform_bits, vacuous, kind.
        """
        best = self.frame.loc[self.frame.groupby(["level", "predictor"], sort=False)["bits"].idxmin()]
        columns = [
            "level",
            "predictor",
            "smoothing",
            "nats",
            "training_bits",
            "bits",
            "uniform_bits",
            "vacuous",
            "kind",
        ]
        return best[columns].reset_index(drop=True)


def language_model_bound(
    checkpoint: Any,
    model: torch.nn.Module,
    documents: Sequence[str] | Sequence[Tensor],
    *,
    tokenizer: Any = None,
    max_length: int = 512,
    subsample: int | None = None,
    smoothing: Sequence[float] = (0.0001, 0.001, 0.01, 0.05, 0.2),
    levels: Sequence[int] = (2, 3, 5),
    tuned: Tuned | str = "auto",
    include_head: bool = True,
    confidence: float = 0.95,
    tried: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> LanguageModelBound:
    """Bound the expected bits per token of a causal model with an adapter, from the documents it was trained on.

    What is certified is the adapter after quantization to the message's levels, in this model, with its next-token
    probabilities mixed as (1 - alpha) p + alpha/V, which bounds the loss. At level "document" the documents are i.i.d.
    and the bound is for the mean bits per token of a new one, cut at `max_length` tokens. At level "token" nothing is
    assumed of the documents' law; the bound is for the mean, over the contexts of these documents, of the expected
    bits of a next token drawn anew from the text's own law.

    Parameters
    ----------
    checkpoint : Adapter or source
        An `Adapter`, or anything that `load_adapter` reads.
    model : Module
        The open base model; its output has `logits` of shape (documents, tokens, vocabulary). Pretrained on none of
        these documents: this cannot be seen, and is among the assumptions. It is as before afterwards.
    documents : sequence of str or sequence of Tensor
        The n training documents: texts, or one tensor of token ids each.
    tokenizer : object, optional
        For texts: called with one text, gives `input_ids`.
    max_length : int, default 512
        Longer documents are cut, in tokens.
    subsample : int, optional
        Evaluate so many documents, drawn at random; their number is paid for. By default all.
    smoothing : sequence of float, optional
        Values of alpha to try, each in (0, 1); the choice is charged.
    levels : sequence of int, optional
        Numbers of levels of the code to try; the message says which.
    tuned, include_head : {"B", "A", "both"} or str or bool, optional
        As in `compute_bound`.
    confidence : float, default 0.95
        1 - delta, of all rows together.
    tried : int, default 1
        Number of codes or subsets of modules tried on these data.
    batch_size : int, default 16
        Documents of one forward pass.
    seed : int, default 0
        Of the subsample.
    progress : bool, default False
        Show a progress bar.

    Returns
    -------
    LanguageModelBound
        One row for each level, predictor and smoothing.

    Raises
    ------
    ValueError
        If an argument lies outside its range, or a document has fewer than two tokens.
    AdapterError
        If the model does not fit the adapter.

    References
    ----------
    .. [1] S. Lotfi and others, Non-vacuous generalization bounds for large language models, arXiv 2312.17173 (2024):
       documents, smoothing and subsampling.
    .. [2] S. Lotfi and others, Unlocking tokens as data points for generalization bounds on larger language models,
       arXiv 2407.18158 (2024): tokens as a martingale.
    .. [3] docs/theory.md, section 5.6.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> class Bigrams(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.table = torch.nn.Linear(32, 32, bias=False)
    ...     def forward(self, input_ids, attention_mask):
    ...         return SimpleNamespace(logits=self.table(torch.nn.functional.one_hot(input_ids, 32).float()))
    >>> steps = (torch.arange(32)[:, None] - torch.arange(32)) % 32
    >>> follows = 20.0 * ((steps >= 1) & (steps <= 4))  # token k + 1, 2, 3 or 4 follows token k: two bits
    >>> adapter = Adapter.from_factors({"table": (torch.eye(32), follows)})
    >>> drawn = torch.randint(1, 5, (100, 100), generator=torch.Generator().manual_seed(0))
    >>> documents = list(drawn.cumsum(1) % 32)
    >>> found = language_model_bound(adapter, Bigrams(), documents, tuned="B", smoothing=(0.01,), levels=(2,))
    >>> best = found.best("token")
    >>> bool(best.training_bits < 2.1), bool(2 < best.bits < best.uniform_bits)
    (True, True)
    """
    adapter = as_adapter(checkpoint)
    own, evidence = checked_tuned(adapter, tuned)
    _check_choices(smoothing, levels, confidence, tried, batch_size)
    texts = _tokens(documents, tokenizer, whole(max_length, "max_length", least=2))
    n = len(texts)
    evaluated = n if subsample is None else whole(subsample, "subsample", least=1, most=n)
    chosen = np.arange(n)
    if evaluated < n:
        chosen = torch.randperm(n, generator=generator_for(seed, "documents"))[:evaluated].numpy()
    reading = _Reading(adapter, model.eval(), [texts[int(i)] for i in chosen], batch_size, progress)
    reading.refuse_later_tokens()
    reasons = [*doubts(adapter, own), *reading.doubts(adapter)]
    if adapter.extras and not include_head:
        reasons.append("the head was fixed beforehand, which cannot be seen")
    predictors = list(_predictors(adapter, own, levels, include_head=include_head))
    # Half of delta for each level; in each, a share for the sampling, divided among all that is evaluated on it.
    shares = _Shares((1.0 - confidence) / 2, len(predictors) * len(smoothing) if evaluated < n else 0)
    repeats = find_duplicates([" ".join(map(str, text.tolist())) for text in texts])
    lengths = np.array([len(text) - 1 for text in texts])
    bounds = _Bounds(reading, lengths, smoothing, shares, math.log(tried * len(smoothing) * 2), own, reasons, repeats)
    rows = [row for predictor in predictors for row in bounds.of(predictor)]
    reading.refuse_changes()
    settings = settings_of(
        checkpoint=adapter.name, documents=n, evaluated=evaluated, tokens=int(lengths.sum()), max_length=max_length,
        tuned=own, tuned_known_from=evidence, smoothing=tuple(smoothing), levels=tuple(levels), confidence=confidence,
        tried=tried, repeated_within=repeats.within, seed=seed,
    )  # fmt: skip
    return LanguageModelBound(pd.DataFrame(rows), settings)


def _check_choices(
    smoothing: Sequence[float], levels: Sequence[int], confidence: float, tried: int, batch_size: int
) -> None:
    for alpha in smoothing:
        finite(alpha, "smoothing", above=0, below=1)
    if not smoothing or not levels:
        raise ValueError("smoothing and levels need at least one value each")
    finite(confidence, "confidence", above=0, below=1)
    whole(tried, "tried", least=1)
    whole(batch_size, "batch_size", least=1)


class _Predictor(NamedTuple):
    """The base model, or a coded adapter in it."""

    name: str
    levels: int | None
    placement: str
    nats: float
    adapter: Adapter | None


def _predictors(adapter: Adapter, own: Tuned, levels: Sequence[int], *, include_head: bool) -> Iterator[_Predictor]:
    yield _Predictor("base model", None, "", 0.0, None)
    for count in levels:
        for placement in PLACEMENTS:
            coded = encode_adapter(adapter, tuned=own, include_head=include_head, levels=count, placement=placement)
            yield _Predictor("coded adapter", count, placement, coded.nats, coded.adapter)


@dataclass(frozen=True)
class _Bounds:
    """The rows of a predictor, from its probabilities of the documents that are evaluated.

    Attributes
    ----------
    choice
        Nats for the choice of smoothing, for what was tried, and for base model or coded adapter.
    """

    reading: _Reading
    lengths: Int[np.ndarray, "n"]
    smoothing: Sequence[float]
    shares: _Shares
    choice: float
    tuned: Tuned
    reasons: Sequence[str]
    repeats: Duplicates

    def of(self, predictor: _Predictor) -> Iterator[dict[str, Any]]:
        """One row for each smoothing and level."""
        chances = self.reading.probabilities(predictor.adapter)
        paid, vocabulary = predictor.nats + self.choice, self.reading.vocabulary
        adapted, repeated = predictor.adapter is not None, self.repeats.within
        # A copy's tokens follow from those of the first: they are drawn anew at neither level.
        doubtful = repeated > MOST_REPEATED or (bool(self.reasons) and adapted)
        for alpha in self.smoothing:
            loss = [-np.log2((1 - alpha) * p + alpha / vocabulary) for p in chances]
            range_ = _Range(alpha, vocabulary)
            for level, bound in (("document", _document_bound), ("token", _token_bound)):
                mean, upper, value = bound(loss, self.lengths, paid, range_, self.shares)
                yield {
                    "level": level, "predictor": predictor.name, "levels": predictor.levels,
                    "placement": predictor.placement, "smoothing": alpha, "nats": paid, "training_bits": mean,
                    "sampled_bits": upper, "bits": value, "uniform_bits": math.log2(vocabulary),
                    "vacuous": value >= math.log2(vocabulary),
                    "kind": "diagnostic" if doubtful else "certificate",
                    "assumptions": _assumptions(level, self.tuned, adapted, self.reasons, repeated),
                }  # fmt: skip


@dataclass(frozen=True)
class _Range:
    """Smallest and largest bits of one token after smoothing."""

    alpha: float
    vocabulary: int

    @property
    def least(self) -> float:
        return -math.log2(1 - self.alpha + self.alpha / self.vocabulary)

    @property
    def width(self) -> float:
        return math.log2(self.vocabulary / self.alpha) - self.least


@dataclass(frozen=True)
class _Shares:
    """Delta of one level, for the bound itself and for each mean that is known from a subsample."""

    delta: float
    sampled: int

    @property
    def bound(self) -> float:
        return self.delta * (1 - SAMPLING_SHARE) if self.sampled else self.delta

    @property
    def sampling(self) -> float:
        return self.delta * SAMPLING_SHARE / max(self.sampled, 1)


def _document_bound(
    loss: Sequence[np.ndarray], lengths: Float[np.ndarray, "n"] | np.ndarray, nats: float, range_: _Range,
    shares: _Shares,
) -> tuple[float, float, float]:  # fmt: skip
    """Mean, its upper bound over all documents, and the bound: one loss a document, by the Chernoff bound."""
    unit = np.clip([(part.mean() - range_.least) / range_.width for part in loss], 0.0, 1.0)
    mean = float(unit.mean())
    upper = chernoff_risk(mean, 0.0, len(unit), 1 - shares.sampling) if shares.sampled else mean
    value = chernoff_risk(min(upper, 1.0), nats, len(lengths), 1 - shares.bound)
    bits = (range_.least + range_.width * number for number in (mean, min(upper, 1.0), min(value, 1.0)))
    first, second, third = bits
    return first, second, third


def _token_bound(
    loss: Sequence[np.ndarray], lengths: np.ndarray, nats: float, range_: _Range, shares: _Shares
) -> tuple[float, float, float]:
    """The same with one loss a token, a martingale's differences given the context: by Azuma's inequality."""
    tokens, longest = int(lengths.sum()), int(lengths.max())
    sums = np.array([(part - range_.least).sum() for part in loss]) / (range_.width * longest)
    mean = float(sum(part.sum() for part in loss) / sum(map(len, loss)))
    upper = mean
    if shares.sampled:
        most = chernoff_risk(min(float(sums.mean()), 1.0), 0.0, len(sums), 1 - shares.sampling)
        upper = range_.least + range_.width * min(1.0, most * longest * len(lengths) / tokens)
    return mean, upper, upper + range_.width * math.sqrt((nats - math.log(shares.bound)) / (2 * tokens))


class _Reading:
    """Probabilities that a model gives each next token of the documents."""

    def __init__(
        self, adapter: Adapter, model: torch.nn.Module, texts: list[Tensor], batch_size: int, progress: bool
    ) -> None:
        self.adapter, self.model, self.texts = adapter, model, texts
        self.batch_size, self.progress = batch_size, progress
        self.vocabulary = 0
        self.first: list[tuple[int, np.ndarray]] = []  # some documents, as the base model gave them at first
        known = getattr(getattr(model, "config", None), "vocab_size", None)
        if known is not None and max(int(text.max()) for text in texts) >= known:
            raise ValueError(f"a document holds a token beyond the model's vocabulary of {known}: wrong tokenizer?")

    def probabilities(self, candidate: Adapter | None) -> list[Float[np.ndarray, "_"]]:
        """One array a document; without a candidate those of the base model."""
        if candidate is None:
            found = self._read()
            self.first = [(index, found[index]) for index in next(self._batches())[0]]
            return found
        with AppliedAdapter(candidate, self.model, head=bool(candidate.extras)):
            return self._read()

    def refuse_changes(self) -> None:
        """Refuse a model that has come to give other probabilities for the same documents.

        Raises
        ------
        ValueError
            If it remembers what it read, has random numbers in it, or was changed.
        """
        batch, tokens, mask = next(self._batches())
        again = self._chances(batch, tokens, mask)
        if any(np.abs(again[index] - before).max() > SAME_LOGITS for index, before in self.first):
            raise ValueError(
                "the base model gives other probabilities for the same documents at the end of the work: it remembers "
                "what it read, or has random numbers in it; each document must be read alone and in evaluation mode"
            )

    def doubts(self, adapter: Adapter) -> tuple[str, ...]:
        """What is known against losses in this model."""
        with AppliedAdapter(adapter, self.model, head=bool(adapter.extras)) as applied:
            return tied_doubts(applied)

    def refuse_later_tokens(self) -> None:
        """Refuse a model whose prediction of a token uses tokens after it: the answer is among its inputs.

        Raises
        ------
        ValueError
            If the logits before a token change with it.
        """
        text = max(self.texts, key=len)[:MOST_PROBED]
        changed, last = text.clone(), len(text) // 2
        changed[last:] = text[: len(text) - last].flip(0).roll(1)  # tokens of the same text, so that each is known
        changed[last] = text[0] if text[last] != text[0] else text[-1]
        if torch.equal(changed, text):
            return
        both = torch.stack([text, changed]).to(next(self.model.parameters()).device)
        logits = self._logits(both, torch.ones_like(both))[:, :last]
        apart = (logits[0] - logits[1]).abs().max()
        if apart > SAME_LOGITS * logits.abs().max().clamp_min(1.0):
            raise ValueError(
                "the model's prediction of a token changes with the tokens after it: it is not causal, and reads the "
                "answer among its inputs"
            )

    @torch.no_grad()
    def _logits(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits of a batch, checked."""
        logits = logits_of(self.model(input_ids=tokens, attention_mask=mask))
        if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
            raise ValueError(
                f"the model gives logits of shape {tuple(logits.shape)}: it is not a causal language model"
            )
        if logits[mask.bool()].isnan().any():
            raise ValueError("the model's logits hold NaN: open it in a wider dtype (float32, bfloat16)")
        if int(tokens.max()) >= logits.shape[-1]:
            raise ValueError(f"a token is {int(tokens.max())}, and the model's vocabulary has {logits.shape[-1]}")
        return logits

    def _read(self) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for batch, tokens, mask in self._batches():
            found |= self._chances(batch, tokens, mask)
        return [found[index] for index in range(len(self.texts))]

    def _chances(self, batch: list[int], tokens: Tensor, mask: Tensor) -> dict[int, np.ndarray]:
        logits = self._logits(tokens, mask)
        self.vocabulary = logits.shape[-1]
        chances = logits[:, :-1].double().softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0].cpu().numpy()
        return {index: chances[row, : len(self.texts[index]) - 1] for row, index in enumerate(batch)}

    def _batches(self) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Documents of like lengths together, filled up at their ends, which no earlier token sees."""
        device = next(self.model.parameters()).device
        order = sorted(range(len(self.texts)), key=lambda index: len(self.texts[index]))
        starts = range(0, len(order), self.batch_size)
        for start in tqdm(starts, desc="documents", disable=not self.progress, leave=False):
            batch = order[start : start + self.batch_size]
            texts = [self.texts[index] for index in batch]
            tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
            yield batch, tokens.to(device), mask.to(device)


def _tokens(documents: Sequence[str] | Sequence[Tensor], tokenizer: Any, max_length: int) -> list[Tensor]:
    found = []
    for index, document in enumerate(documents):
        if isinstance(document, str):
            if tokenizer is None:
                raise ValueError("documents holds texts: give tokenizer=, or the token ids of each document")
            document = torch.as_tensor(tokenizer(document)["input_ids"])
        given = torch.as_tensor(document).reshape(-1)[:max_length]
        if given.is_floating_point() or given.is_complex() or bool((given < 0).any()):
            raise ValueError(f"document {index} holds numbers that are no token ids: give whole numbers from 0")
        tokens = given.long()
        if len(tokens) < 2:
            raise ValueError(f"document {index} has {len(tokens)} tokens, and a bound on the next token needs two")
        found.append(tokens)
    if not found:
        raise ValueError("documents is empty")
    return found


def _assumptions(level: str, tuned: Tuned, adapted: bool, reasons: Sequence[str], repeated: float) -> str:
    facts = (
        ["i.i.d. documents"]
        if level == "document"
        else ["each token drawn from its text's distribution given those before it; the bound is for these contexts"]
    )
    facts.append("base model and tokenizer made without these documents")
    if adapted:
        facts.append("code and modules fixed before them")
        if tuned != "both":
            facts.append(f"{'A' if tuned == 'B' else 'B'} drawn without them")
        facts += reasons
    if repeated > MOST_REPEATED:
        facts.append(f"{repeated:.0%} of the documents repeat another")
    return "; ".join(facts)
