"""What causal language models share: their model, tokenizer, collator, and rows made of a prompt and an answer."""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override

from asym_analysis.finetuning.tasks.base import Task
from asym_analysis.finetuning.tasks.tokenizers import text_tokenizer

__all__ = ["CausalTask", "prompt_and_answer"]


class CausalTask(Task):
    """A task for a decoder."""

    peft_task_type: ClassVar[str | None] = "CAUSAL_LM"

    @override
    def model(self, source: str, **options: Any) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(source, **options)

    @override
    def processor(self, source: str, **options: Any) -> Any:
        return text_tokenizer(source, **options)

    @override
    def collator(self, processor: Any) -> Any:
        from transformers import DataCollatorForSeq2Seq

        return DataCollatorForSeq2Seq(processor, padding=True)


def prompt_and_answer(tokenizer: Any, prompt: str, answer: str, max_length: int) -> dict[str, Any]:
    """Token ids of a prompt and its answer; only the answer is learned. Too long a prompt is cut on the left."""
    answer_ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    prompt_ids = tokenizer(prompt)["input_ids"]
    answer_ids = answer_ids[: max_length - 1]
    kept = prompt_ids[-(max_length - len(answer_ids)) :]
    return {
        "input_ids": kept + answer_ids,
        "attention_mask": [1] * (len(kept) + len(answer_ids)),
        "labels": [-100] * len(kept) + answer_ids,
        "length": len(kept) + len(answer_ids),
    }
