"""An encoder with mean pooling and a linear head, for sentence encoders that were trained that way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutput

__all__ = ["MeanPooledClassifier", "mean_pooled"]


def mean_pooled(
    hidden: Float[Tensor, "batch length width"], mask: Int[Tensor, "batch length"]
) -> Float[Tensor, "batch width"]:
    """The mean hidden state over the tokens that are no padding.

    Examples
    --------
    >>> import torch
    >>> mean_pooled(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


class MeanPooledClassifier(nn.Module):
    """A pretrained encoder under its usual name, mean pooling, and `classifier`.

    Module names are those of transformers' sequence classification model of the same encoder, so that an adapter
    trained on one loads into the other.

    Parameters
    ----------
    source
        What `from_pretrained` takes.
    num_labels
        1 makes it a regression with squared loss; more, a classification with cross-entropy.
    options
        Passed to `from_pretrained`.
    """

    def __init__(self, source: str | Path, num_labels: int, **options: Any) -> None:
        super().__init__()
        encoder = AutoModel.from_pretrained(source, **options)
        self.prefix = encoder.base_model_prefix
        self.config = encoder.config
        self.config.num_labels = num_labels
        setattr(self, self.prefix, encoder)
        self.classifier = nn.Linear(self.config.hidden_size, num_labels)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Int[Tensor, "batch length"],
        labels: Tensor | None = None,
        token_type_ids: Int[Tensor, "batch length"] | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits, and the loss where labels are given."""
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        hidden = getattr(self, self.prefix)(input_ids=input_ids, attention_mask=attention_mask, **segments)[0]
        logits = self.classifier(mean_pooled(hidden, attention_mask))
        if labels is None:
            return SequenceClassifierOutput(logits=logits)
        if logits.shape[1] == 1:
            loss = nn.functional.mse_loss(logits[:, 0], labels.to(logits.dtype))
        else:
            loss = nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
