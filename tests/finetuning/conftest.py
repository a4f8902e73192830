"""Tiny random models of the paper's four families, with tokenizers, made here: nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("peft")

SENTENCES = ["the cat sat on the mat", "a dog ran in the park", "no bird sang at night", "one fish swam and ate"]
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()} | set("ABCDE") | {"Answer", ":", ".", "?"})


def save_tokenizer(folder: Path) -> int:
    """A word-level tokenizer; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.save_pretrained(folder)
    return len(special) + len(WORDS)


def _save(folder: Path, model_class: str, config: object) -> Path:
    import transformers

    torch.manual_seed(0)
    getattr(transformers, model_class)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class of roberta-large."""
    from transformers import RobertaConfig

    folder = tmp_path_factory.mktemp("roberta")
    config = RobertaConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=80,
        pad_token_id=0,
        type_vocab_size=1,
    )
    return _save(folder, "RobertaModel", config)


@pytest.fixture(scope="session")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class of facebook/bart-large."""
    from transformers import BartConfig

    folder = tmp_path_factory.mktemp("bart")
    config = BartConfig(
        vocab_size=save_tokenizer(folder),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=2,
    )
    return _save(folder, "BartForConditionalGeneration", config)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class of meta-llama/Llama-2-7b-hf."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=save_tokenizer(folder),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    return _save(folder, "LlamaForCausalLM", config)


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose linear maps are transformers' Conv1D, with the weight stored transposed."""
    from transformers import GPT2Config

    folder = tmp_path_factory.mktemp("gpt2")
    config = GPT2Config(vocab_size=save_tokenizer(folder), n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return _save(folder, "GPT2LMHeadModel", config)


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The class of google/vit-base-patch16-224."""
    from transformers import ViTConfig

    folder = tmp_path_factory.mktemp("vit")
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    _save(folder, "ViTForImageClassification", config)
    recipe = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(recipe | {"image_processor_type": "ViTImageProcessor"}))
    return folder


@pytest.fixture(scope="session")
def tiny_glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GLUE's five files in their original layouts, with their quirks: a byte-order mark, no header for CoLA."""
    folder = tmp_path_factory.mktemp("glue")
    rng = np.random.default_rng(0)
    rows = [(*rng.choice(SENTENCES, 2), i % 2) for i in range(24)]
    texts = {
        "MRPC": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        + "".join(f"{label}\t1\t2\t{a}\t{b}\n" for a, b, label in rows),
        "RTE": "index\tsentence1\tsentence2\tlabel\n"
        + "".join(f"{i}\t{a}\t{b}\t{('not_' if y else '') + 'entailment'}\n" for i, (a, b, y) in enumerate(rows)),
        "STS-B": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        + "".join(f"{i}\tg\tf\t1\t0\tn\tn\t{a}\t{b}\t{(i * 7) % 50 / 10:.3f}\n" for i, (a, b, _) in enumerate(rows)),
        "CoLA": "".join(f"gj04\t{y}\t\t{a}\n" for a, _, y in rows),
        "SST-2": "sentence\tlabel\n" + "".join(f"{a} \t{y}\n" for a, _, y in rows),
    }
    for task, text in texts.items():
        (folder / task).mkdir()
        for split in ("train", "dev"):
            (folder / task / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Summaries, instructions, questions, a text and images for the other families."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("data")
    pairs = [{"document": SENTENCES[i % 4], "summary": SENTENCES[(i + 1) % 4][:12]} for i in range(12)]
    for name in ("train", "validation"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    alpaca = [{"instruction": SENTENCES[i % 4], "input": "", "output": SENTENCES[(i + 1) % 4]} for i in range(12)]
    (folder / "alpaca.json").write_text(json.dumps(alpaca))
    questions = pd.DataFrame(
        {"question": SENTENCES, **{f"choice{i}": ["cat", "dog", "bird", "fish"] for i in range(4)}, "answer": range(4)}
    )
    for split in ("test", "dev"):
        (folder / "mmlu" / split).mkdir(parents=True)
        questions.to_csv(folder / "mmlu" / split / f"animals_{split}.csv", index=False)
    (folder / "text.txt").write_text("\n\n".join(SENTENCES * 6))
    rng, index = np.random.default_rng(0), []
    for domain in ("photo", "sketch"):
        for i in range(8):
            label = ["dog", "horse"][i % 2]
            path = f"{domain}-{i}.png"
            Image.fromarray(rng.integers(0, 255, (40, 36, 3), dtype=np.uint8)).save(folder / path)
            index.append({"path": path, "domain": domain, "label": label})
    pd.DataFrame(index).to_csv(folder / "index.csv", index=False)
    return folder
