"""The classify task against its slow twin, and the padding traps of decoders with a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from penstock import Tokenizer, reference
from penstock.errors import ConfigError, ModelError
from penstock.models import load_model
from penstock.tasks import make_task
from penstock.tasks.padding import batch_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

hf: Any = transformers  # its classes are not typed

END = "<|endoftext|>"
TEXTS = (
    "Warm water rises and cold water sinks.",
    "a",
    "The engineers measured the pressure in the pipe every hour of the day and night. " * 5,
    "水は高い所から低い所へ流れる。",
    "It's late; we'll go home.",
)
PAIRS = (("Where does it flow?", "Down the pipe."), ("a", TEXTS[2]), (TEXTS[2], "b"), ("", "It turns."))
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LONG: dict[str, Any] = {**SHAPE, "max_position_embeddings": 64}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_model(config: Any) -> Any:
    """A classifier with weights large enough to have opinions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = hf.AutoModelForSequenceClassification.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.15)
    return model


def bert(folder: Path, **said: Any) -> Any:
    vocab_size = Tokenizer.from_pretrained(folder).vocab_size
    return make_model(hf.BertConfig(vocab_size=vocab_size, pad_token_id=0, **LONG, **said))


def decoder(name: str, folder: Path, **said: Any) -> Any:
    vocab_size = Tokenizer.from_pretrained(folder).vocab_size
    ids = {"bos_token_id": 0, "eos_token_id": 0, "num_labels": 3}
    if name == "gpt2":
        shape: dict[str, Any] = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
        return make_model(hf.GPT2Config(vocab_size=vocab_size, **shape, **ids, **said))
    return make_model(hf.LlamaConfig(vocab_size=vocab_size, **LONG, **ids, **said))


def classify_task(model: Any, folder: Path, **options: Any) -> Any:
    return make_task("classify", load_model(model, "classify"), Tokenizer.from_pretrained(folder), **options)


def score(
    task: Any, texts: Sequence[str], pairs: Sequence[str] | None = None, *, pad_id: int = 0
) -> dict[str, list[Any]]:
    rows = task.tokenizer.encode_batch(texts, pairs, **task.tokenization())
    order = np.random.default_rng(0).permutation(len(rows))
    batch = batch_of(rows, order, width=64, pad_id=pad_id)
    outputs = {name: each.numpy() for name, each in task.forward(batch).items()} | task.counts(batch)
    columns = task.columns(task.combine(batch.input_index, outputs, len(rows)), {})
    assert {name: column.type for name, column in columns.items()} == task.schema()
    return {name: column.to_pylist() for name, column in columns.items()}


def assert_equal(columns: dict[str, list[Any]], expected: list[dict[str, Any]]) -> None:
    assert set(columns) == {*expected[0], "error"}
    assert columns["error"] == [None] * len(expected)
    for name in expected[0]:
        for ours, row in zip(columns[name], expected, strict=True):
            if name in ("label", "int_score"):
                assert ours == row[name]
            else:
                np.testing.assert_allclose(ours, row[name], rtol=1e-5, atol=1e-5)


def backend_of(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    "said",
    [
        {"num_labels": 3},
        {"id2label": {0: "no", 1: "yes"}, "problem_type": "single_label_classification"},
        {"num_labels": 4, "problem_type": "multi_label_classification"},
        {"num_labels": 1},
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 1, "problem_type": "multi_label_classification"},
        {"num_labels": 4, "problem_type": "regression"},
    ],
)
def test_answers_equal_those_of_one_text_at_a_time(tiny_wordpiece: Path, said: dict[str, Any]) -> None:
    model = bert(tiny_wordpiece, **said)
    task = classify_task(model, tiny_wordpiece)
    expected = reference.classify(model, backend_of(tiny_wordpiece), TEXTS, max_length=64)
    assert_equal(score(task, TEXTS), expected)
    assert task.settings()["labels"] == [model.config.id2label[at] for at in range(model.config.num_labels)]


def test_pairs_keep_their_two_kinds_of_tokens(tiny_wordpiece: Path) -> None:
    model = bert(tiny_wordpiece, num_labels=3)
    task = classify_task(model, tiny_wordpiece, max_length=32)
    expected = reference.classify(model, backend_of(tiny_wordpiece), PAIRS, max_length=32)
    columns = score(task, [first for first, _ in PAIRS], [second for _, second in PAIRS])
    assert_equal(columns, expected)
    swapped = score(task, [second for _, second in PAIRS], [first for first, _ in PAIRS])
    assert swapped["probs"][0] != columns["probs"][0]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("pad_token_id", [None, 0, 7])
def test_decoders_answer_at_the_last_token_whatever_the_padding_is(
    tiny_bpe: Path, name: str, pad_token_id: int | None
) -> None:
    model = decoder(name, tiny_bpe, pad_token_id=pad_token_id)
    task = classify_task(model, tiny_bpe)
    texts = [*TEXTS, f"It ends.{END}", f"{END}{END}", END]  # ends with what is padding elsewhere
    expected = reference.classify(model, backend_of(tiny_bpe), texts, max_length=64)
    for pad_id in (0, 7, 100):
        assert_equal(score(task, texts, pad_id=pad_id), expected)


def test_an_answer_at_the_wrong_token_would_be_noticed(tiny_bpe: Path) -> None:
    """The control: where transformers itself would answer, with padding and end the same token."""
    model = decoder("gpt2", tiny_bpe, pad_token_id=0)
    texts = [f"It ends.{END}", TEXTS[0]]
    task = classify_task(model, tiny_bpe)
    batch = batch_of(task.tokenizer.encode_batch(texts), width=64)
    with torch.inference_mode():
        theirs = model(**batch.inputs).logits.softmax(-1)
    ours = task.forward(batch)["outputs"]
    assert not torch.allclose(ours[0], theirs[0], atol=1e-3)
    torch.testing.assert_close(ours[1], theirs[1])


def test_a_decoder_has_nothing_to_say_of_a_row_without_tokens(tiny_bpe: Path) -> None:
    task = classify_task(decoder("llama", tiny_bpe), tiny_bpe)
    columns = score(task, ["", TEXTS[0]])
    assert [columns[name][0] for name in ("label", "score", "probs")] == [None] * 3
    assert columns["error"] == ["the row has no token for the model to look at", None]
    assert columns["label"][1] in {"LABEL_0", "LABEL_1", "LABEL_2"}


def test_int_score_is_rounded_into_its_range(tiny_wordpiece: Path) -> None:
    task = classify_task(bert(tiny_wordpiece, num_labels=1), tiny_wordpiece)
    answers = np.array([[-1.0], [0.5], [1.5], [2.51], [7.0], [np.nan]], np.float32)
    values = {"outputs": answers, "num_tokens": np.full(6, 3), "is_answered": np.ones(6, bool)}
    assert task.columns(values, {})["int_score"].to_pylist() == [0, 0, 2, 3, 5, None]
    wide = classify_task(bert(tiny_wordpiece, num_labels=1), tiny_wordpiece, score_range=(-10, 10))
    assert wide.columns(values, {1: "torn"})["int_score"].to_pylist() == [-1, None, 2, 3, 7, None]


def test_long_rows_lose_the_side_that_is_asked_for(tiny_wordpiece: Path) -> None:
    model = bert(tiny_wordpiece, num_labels=3)
    left = classify_task(model, tiny_wordpiece, truncation="left", max_length=16)
    assert left.tokenization() == {"max_length": 16, "stride": None, "truncation": "left"}
    assert classify_task(model, tiny_wordpiece).tokenization() == {"max_length": 64, "stride": None}
    pairs = classify_task(model, tiny_wordpiece, pair_truncation="only_second")
    assert pairs.tokenization() == {"max_length": 64, "stride": None, "pair_truncation": "only_second"}
    assert pairs.settings()["pair_truncation"] == "only_second"
    tail = TEXTS[2].rstrip()[-60:]
    assert score(left, [TEXTS[2]])["probs"] == score(left, [tail])["probs"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": False}, "'right' or 'left'"),
        ({"pair_truncation": "both"}, "pair_truncation='both'"),
        ({"max_length": 1_000}, "positions for 64"),
        ({"score_range": (5, 0)}, "the smaller first"),
    ],
)
def test_options_that_cannot_be_right_are_refused(
    tiny_wordpiece: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        classify_task(bert(tiny_wordpiece), tiny_wordpiece, **options)


def test_a_model_whose_answer_moves_with_padding_is_refused(tiny_unigram: Path) -> None:
    vocab_size = Tokenizer.from_pretrained(tiny_unigram).vocab_size
    config = hf.XLNetConfig(vocab_size=vocab_size, d_model=32, n_layer=2, n_head=4, d_inner=64)
    with pytest.raises(ModelError, match="does not give the same answer"):
        classify_task(make_model(config), tiny_unigram)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert", "ModernBert", "MPNet", "DebertaV2"])
def test_encoders_of_many_kinds_are_exact(tiny_wordpiece: Path, kind: str) -> None:
    vocab_size = Tokenizer.from_pretrained(tiny_wordpiece).vocab_size
    shape: dict[str, Any] = {
        **SHAPE,
        "max_position_embeddings": 66,
        "vocab_size": vocab_size,
        "pad_token_id": 0,
    }
    if kind == "DistilBert":
        shape = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": vocab_size}
    if kind == "ModernBert":
        shape |= {"local_attention": 16, "global_attn_every_n_layers": 2, "classifier_pooling": "mean"}
        shape |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    model = make_model(getattr(hf, f"{kind}Config")(num_labels=3, **shape))
    task = classify_task(model, tiny_wordpiece, max_length=60)
    expected = reference.classify(model, backend_of(tiny_wordpiece), TEXTS, max_length=60)
    assert_equal(score(task, TEXTS), expected)
