"""The slow twin against what transformers itself says: it is what everything else is measured with."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from penstock import reference

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = ("Warm water rises and cold water sinks.", "a", "It's late; we'll go home, they said.")


def load(folder: Path, auto: str) -> tuple[Any, tokenizers.Tokenizer]:
    model = getattr(transformers, auto).from_pretrained(folder).eval()
    return model, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_a_text_is_as_likely_as_the_loss_of_the_model_says(tiny_gpt2: Path) -> None:
    model, tokenizer = load(tiny_gpt2, "AutoModelForCausalLM")
    for text, row in zip(TEXTS, reference.perplexity(model, tokenizer, TEXTS), strict=True):
        ids = torch.tensor([[0, *tokenizer.encode(text).ids]])
        with torch.inference_mode():
            loss = float(model(input_ids=ids, labels=ids).loss)
        assert row["num_tokens"] == ids.shape[1] - 1
        assert row["num_bytes"] == len(text.encode())
        assert row["logprob"] == pytest.approx(-loss * (ids.shape[1] - 1), rel=1e-5)
        assert row["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_windows_give_each_token_the_context_that_fits(tiny_gpt2: Path) -> None:
    model, tokenizer = load(tiny_gpt2, "AutoModelForCausalLM")
    ids = [0, *tokenizer.encode(TEXTS[0]).ids]
    expected = 0.0
    for start, first, stop in [(0, 1, 6), (2, 6, 8), (4, 8, 10), (6, 10, 12)]:
        with torch.inference_mode():
            lines = model(input_ids=torch.tensor([ids[start:stop]])).logits[0].log_softmax(-1)
        expected += sum(float(lines[at - 1 - start, ids[at]]) for at in range(first, min(stop, 12)))
    cut = tokenizer.decode(ids[1:12])
    assert [0, *tokenizer.encode(cut).ids] == ids[:12]
    row = reference.perplexity(model, tokenizer, [cut], max_length=6, stride=2)[0]
    assert row["logprob"] == pytest.approx(expected, rel=1e-5)
    whole = reference.perplexity(model, tokenizer, [cut])[0]
    assert whole["logprob"] != pytest.approx(expected, rel=1e-3)


def test_an_empty_text_has_no_perplexity(tiny_gpt2: Path) -> None:
    model, tokenizer = load(tiny_gpt2, "AutoModelForCausalLM")
    for bos in (True, False):
        row = reference.perplexity(model, tokenizer, [""], bos=bos)[0]
        assert row == {
            "logprob": 0.0,
            "perplexity": None,
            "bits_per_byte": None,
            "num_tokens": 0,
            "num_bytes": 0,
        }


def test_without_a_bos_the_first_token_and_its_bytes_do_not_count(tiny_gpt2: Path) -> None:
    model, tokenizer = load(tiny_gpt2, "AutoModelForCausalLM")
    encoding = tokenizer.encode(TEXTS[0])
    row = reference.perplexity(model, tokenizer, [TEXTS[0]], bos=False)[0]
    assert row["num_tokens"] == len(encoding.ids) - 1
    assert row["num_bytes"] == len(TEXTS[0]) - len(encoding.tokens[0])


def test_labels_are_those_of_the_pipeline(tiny_bert: Path) -> None:
    model, tokenizer = load(tiny_bert, "AutoModelForSequenceClassification")
    fast = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    pipe = transformers.pipeline("text-classification", model=model, tokenizer=fast, device="cpu")
    for text, row in zip(TEXTS, reference.classify(model, tokenizer, TEXTS), strict=True):
        said = pipe(text)[0]
        assert (row["label"], row["score"]) == (said["label"], pytest.approx(said["score"], rel=1e-5))
        assert sum(row["probs"]) == pytest.approx(1.0)


def test_vectors_are_pooled_from_the_last_layer(tiny_bert: Path) -> None:
    model, tokenizer = load(tiny_bert, "AutoModel")
    ids = torch.tensor([tokenizer.encode(TEXTS[0]).ids])
    with torch.inference_mode():
        tokens = model(input_ids=ids).last_hidden_state[0]
    for pooling, expected in (("mean", tokens.mean(0)), ("cls", tokens[0]), ("last", tokens[-1])):
        np.testing.assert_array_equal(
            reference.embed(model, tokenizer, TEXTS[:1], pooling=pooling)[0], expected.numpy()
        )
    vectors = reference.embed(model, tokenizer, TEXTS, normalize=True, truncate_dim=8)
    assert vectors.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)


def test_the_settings_of_the_callers_tokenizer_are_neither_heeded_nor_touched(tiny_bert: Path) -> None:
    model, tokenizer = load(tiny_bert, "AutoModel")
    expected = reference.embed(model, tokenizer, TEXTS)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=32)
    before = tokenizer.to_str()
    np.testing.assert_array_equal(reference.embed(model, tokenizer, TEXTS), expected)
    assert tokenizer.to_str() == before
