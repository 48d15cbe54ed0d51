"""The perplexity task against its slow twin: every token once, padding never, whatever the model adds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock import Tokenizer, reference
from penstock.errors import ConfigError, ModelError
from penstock.models import load_model
from penstock.tasks import logprobs, make_task
from penstock.tasks.padding import batch_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.batch import Batch

hf: Any = transformers  # its classes are not typed

END = "<|endoftext|>"  # token 0: BOS, EOS and padding at once
TEXTS = (
    "Warm water rises and cold water sinks.",
    "",
    "a",
    "The engineers measured the pressure in the pipe every hour of the day and night. " * 5,
    "水は高い所から低い所へ流れる。",
    f"The wheel turns.{END}",
    f"{END}{END} and again{END}",
    "It's late; we'll go home, they said, and they didn't look back. " * 3,
)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES: dict[str, Any] = {
    "gpt2": (hf.GPT2Config, {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}),
    "llama": (hf.LlamaConfig, SHAPE),
    "gemma2": (
        hf.Gemma2Config,
        {**SHAPE, "head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 0.5},
    ),
    "granite": (hf.GraniteConfig, {**SHAPE, "logits_scaling": 8.0}),
    "mixtral": (hf.MixtralConfig, {**SHAPE, "num_local_experts": 4}),
}


def make_model(family: str, vocab_size: int, **said: Any) -> Any:
    """A model with weights large enough to have opinions."""
    kind, shape = FAMILIES[family]
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = kind(vocab_size=vocab_size, **{**shape, **ids, **said})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = hf.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.15)
    return model


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backend(tiny_bpe: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(tiny_bpe / "tokenizer.json"))


@pytest.fixture(scope="module")
def tokenizer(tiny_bpe: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(tiny_bpe)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, backend: tokenizers.Tokenizer) -> Any:
    return make_model(request.param, backend.get_vocab_size())


@pytest.fixture(scope="module")
def gpt2(backend: tokenizers.Tokenizer) -> Any:
    return make_model("gpt2", backend.get_vocab_size())


def perplexity_task(model: Any, tokenizer: Tokenizer, **options: Any) -> Any:
    return make_task("perplexity", load_model(model, "perplexity"), tokenizer, **options)


def score(task: Any, batches: list[Batch], num_rows: int) -> dict[str, list[Any]]:
    """What the scorer does: forward, copy, keep, combine, columns."""
    outputs = []
    for batch in batches:
        copied = {name: tensor.cpu().numpy() for name, tensor in task.forward(batch).items()}
        outputs.append({**copied, **task.counts(batch)})
    joined = {name: np.concatenate([each[name] for each in outputs]) for name in outputs[0]}
    index = np.concatenate([batch.input_index for batch in batches])
    columns = task.columns(task.combine(index, joined, num_rows), {})
    assert {name: column.type for name, column in columns.items()} == task.schema()
    return {name: column.to_pylist() for name, column in columns.items()}


def assert_equal(columns: dict[str, list[Any]], expected: list[dict[str, Any]]) -> None:
    assert columns["error"] == [None] * len(expected)
    for name in ("num_tokens", "num_bytes"):
        assert columns[name] == [row[name] for row in expected]
    for name in ("logprob", "perplexity", "bits_per_byte"):
        for ours, row in zip(columns[name], expected, strict=True):
            if row[name] is None:
                assert ours is None
            else:
                assert abs(ours - row[name]) <= 1e-5 * max(1.0, abs(row[name]))


@pytest.mark.parametrize(("max_length", "stride"), [(64, None), (32, 7), (32, 31), (12, 1), (2, 1)])
def test_scores_equal_those_of_one_text_at_a_time(
    family: Any, tokenizer: Tokenizer, backend: tokenizers.Tokenizer, max_length: int, stride: int | None
) -> None:
    texts = TEXTS if max_length > 12 else TEXTS[:3]
    task = perplexity_task(family, tokenizer, max_length=max_length, stride=stride)
    rows = task.tokenizer.encode_batch(texts, **task.tokenization())
    expected = reference.perplexity(family, backend, texts, max_length=max_length, stride=stride)
    assert_equal(score(task, [batch_of(rows, width=max_length)], len(texts)), expected)


def test_scores_do_not_depend_on_how_rows_are_batched(gpt2: Any, tokenizer: Tokenizer) -> None:
    task = perplexity_task(gpt2, tokenizer, max_length=24, stride=5)
    rows = task.tokenizer.encode_batch(TEXTS, **task.tokenization())
    together = score(task, [batch_of(rows)], len(TEXTS))
    order = np.argsort(rows.lengths, kind="stable")
    batches = [batch_of(rows, part, width=24) for part in np.array_split(order, 7)]
    apart = score(task, batches, len(TEXTS))
    np.testing.assert_allclose(together["logprob"], apart["logprob"], rtol=1e-5)
    assert together["num_tokens"] == apart["num_tokens"]


@pytest.mark.parametrize("pad_id", [0, 1, 65])
def test_what_the_padding_holds_changes_no_score(family: Any, tokenizer: Tokenizer, pad_id: int) -> None:
    task = perplexity_task(family, tokenizer, max_length=40)
    rows = task.tokenizer.encode_batch(TEXTS, **task.tokenization())
    expected = score(task, [batch_of(rows, width=48)], len(TEXTS))
    padded = score(task, [batch_of(rows, width=48, pad_id=pad_id)], len(TEXTS))
    np.testing.assert_allclose(padded["logprob"], expected["logprob"], rtol=1e-6)


def test_a_count_of_padding_would_be_noticed(
    gpt2: Any, tokenizer: Tokenizer, backend: tokenizers.Tokenizer
) -> None:
    """The control: the comparison above must turn red when padding is scored."""
    task = perplexity_task(gpt2, tokenizer)
    batch = batch_of(task.tokenizer.encode_batch(["a", "Warm water rises."]), width=16)
    wrong = replace(batch, num_tokens=np.full(2, 16, np.int32))
    expected = reference.perplexity(gpt2, backend, ["a", "Warm water rises."])
    assert_equal(score(task, [batch], 2), expected)
    with pytest.raises(AssertionError):
        assert_equal(score(task, [wrong], 2), expected)


@settings(max_examples=200, deadline=None)
@given(num_words=st.integers(0, 60), max_length=st.integers(2, 20), data=st.data())
def test_every_token_is_scored_exactly_once(num_words: int, max_length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, max_length - 1))
    words = {f"w{i}": i for i in range(60)} | {"<s>": 60}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<s>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    rows = (
        Tokenizer.from_pretrained(plain)
        .with_bos(60)
        .encode_batch([" ".join(f"w{i}" for i in range(num_words))], max_length=max_length, stride=stride)
    )
    batch = batch_of(rows)
    at = logprobs.scored_positions(batch, torch.device("cpu"))
    assert sorted(batch.inputs["input_ids"].flatten()[at].tolist()) == list(range(num_words))
    assert int(logprobs.scored(batch)[1].sum()) == num_words
    spans = list(reference.windows(num_words + 1, max_length, stride))
    assert [i for _, first, stop in spans for i in range(first, stop)] == list(range(1, num_words + 1))
    assert all(stop - start <= max_length and start < first for start, first, stop in spans)


def test_no_more_positions_than_the_bound_go_through_the_head_at_once(
    gpt2: Any, tokenizer: Tokenizer, backend: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = perplexity_task(gpt2, tokenizer)
    monkeypatch.setattr(logprobs, "_LOGITS_BYTES", {"cpu": 5 * 4 * backend.get_vocab_size()})
    seen: list[int] = []
    hook = gpt2.lm_head.register_forward_hook(lambda _head, given, _out: seen.append(given[0].numel() // 32))
    rows = task.tokenizer.encode_batch(TEXTS, **task.tokenization())
    columns = score(task, [batch_of(rows)], len(TEXTS))
    hook.remove()
    assert max(seen) == 5
    assert sum(seen) == sum(columns["num_tokens"])  # and nothing that is not scored goes through it
    assert_equal(columns, reference.perplexity(gpt2, backend, TEXTS, max_length=64))


@pytest.mark.parametrize("name", ["gemma2", "granite"])
def test_a_head_that_is_not_understood_is_found_out_and_run_as_a_whole(
    name: str, tokenizer: Tokenizer, backend: tokenizers.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs.TokenLogprobs, "_finished", lambda _self, logits: logits)
    model = make_model(name, backend.get_vocab_size())
    task = perplexity_task(model, tokenizer, max_length=32)
    assert task._logprobs.way[0] == "whole"
    monkeypatch.setattr(logprobs, "_LOGITS_BYTES", {"cpu": 70 * 4 * backend.get_vocab_size()})
    rows = task.tokenizer.encode_batch(TEXTS, **task.tokenization())
    assert_equal(
        score(task, [batch_of(rows)], len(TEXTS)), reference.perplexity(model, backend, TEXTS, max_length=32)
    )


def test_a_model_that_sees_what_comes_is_refused(tokenizer: Tokenizer, backend: tokenizers.Tokenizer) -> None:
    shape = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
    config = hf.BertConfig(vocab_size=backend.get_vocab_size(), is_decoder=False, **shape)
    model = hf.BertLMHeadModel(config).eval()
    with pytest.raises(ModelError, match="not a causal language model"):
        perplexity_task(model, tokenizer, bos=0)


# ---- what stands in front ----


def test_the_bos_of_the_model_stands_in_front_else_its_eos(gpt2: Any, tokenizer: Tokenizer) -> None:
    vocab_size = tokenizer.vocab_size
    for said, expected in (
        ({"bos_token_id": 5, "eos_token_id": 6}, 5),
        ({"bos_token_id": None, "eos_token_id": 6}, 6),
        ({"bos_token_id": None, "eos_token_id": [7, 8]}, 7),
        ({"bos_token_id": None, "eos_token_id": None}, 0),  # the tokenizer's own
    ):
        task = perplexity_task(make_model("gpt2", vocab_size, **said), tokenizer)
        assert task.bos_id == expected == task.settings()["bos_id"]
        assert task.tokenizer.encode_batch(["a"]).ids[0] == expected


def test_the_bos_of_the_tokenizer_goes_before_that_of_the_model(backend: tokenizers.Tokenizer) -> None:
    own = tokenizers.Tokenizer.from_str(backend.to_str())
    own.post_processor = tokenizers.processors.TemplateProcessing(f"{END} $A", special_tokens=[(END, 0)])
    model = make_model("gpt2", backend.get_vocab_size(), bos_token_id=5)
    task = perplexity_task(model, Tokenizer.from_pretrained(own), max_length=32)
    rows = task.tokenizer.encode_batch(TEXTS, **task.tokenization())
    assert_equal(
        score(task, [batch_of(rows)], len(TEXTS)), reference.perplexity(model, own, TEXTS, max_length=32)
    )
    with pytest.raises(ConfigError, match="bos=False"):
        perplexity_task(model, Tokenizer.from_pretrained(own), bos=False)


@pytest.mark.parametrize("bos", [False, 9])
def test_bos_can_be_left_out_or_chosen(
    gpt2: Any, tokenizer: Tokenizer, backend: tokenizers.Tokenizer, bos: bool | int
) -> None:
    texts = [text for text in TEXTS if text.isascii() and END not in text]
    task = perplexity_task(gpt2, tokenizer, bos=bos, max_length=32, stride=9)
    rows = task.tokenizer.encode_batch(texts, **task.tokenization())
    expected = reference.perplexity(gpt2, backend, texts, max_length=32, stride=9, bos=bos)
    assert_equal(score(task, [batch_of(rows)], len(texts)), expected)


# ---- options and columns ----


def test_lengths_default_to_what_the_model_and_its_tokenizer_allow(gpt2: Any, tokenizer: Tokenizer) -> None:
    assert perplexity_task(gpt2, tokenizer).tokenization() == {"max_length": 64, "stride": 32}
    assert perplexity_task(gpt2, tokenizer, truncation=True).tokenization() == {
        "max_length": 64,
        "stride": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 65}, "positions for 64"),
        ({"max_length": 1}, "at least 2"),
        ({"stride": 64}, "1 to max_length - 1 = 63"),
        ({"stride": 0}, "stride=0"),
        ({"stride": 8, "truncation": True}, "one of the two"),
        ({"truncation": "left"}, "truncation='left'"),
        ({"bos": 10_000}, "token id below"),
    ],
)
def test_options_that_cannot_be_right_are_refused(
    gpt2: Any, tokenizer: Tokenizer, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        perplexity_task(gpt2, tokenizer, **options)


def test_a_row_without_a_score_is_null_and_says_why(gpt2: Any, tokenizer: Tokenizer) -> None:
    task = perplexity_task(gpt2, tokenizer)
    outputs = {
        "logprob": np.array([-4.0, 0.0, math.nan, -1e9, -3.0]),
        "num_tokens": np.array([2, 0, 3, 1, 1]),
        "num_bytes": np.array([4, 0, 3, 1, 0]),
    }
    values = task.combine(np.array([1, 2, 3, 4, 6]), outputs, 7)
    columns = {name: each.to_pylist() for name, each in task.columns(values, {0: ValueError("torn")}).items()}
    assert columns["logprob"] == [None, -4.0, 0.0, None, -1e9, None, -3.0]
    assert columns["perplexity"] == [None, math.exp(2), None, None, math.inf, None, math.exp(3)]
    assert columns["bits_per_byte"] == [None, 1 / math.log(2), None, None, 1e9 / math.log(2), None, None]
    assert columns["num_tokens"] == [None, 2, 0, None, 1, None, 1]
    errors = columns["error"]
    assert errors[0] == "ValueError: torn"
    assert errors[3].startswith("the model's answer is not a number")
    assert errors[5] == "no answer came for this row"
    assert [errors[row] for row in (1, 2, 4, 6)] == [None] * 4
