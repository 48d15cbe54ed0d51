"""The embed task against its slow twin, and what it reads in a sentence-transformers folder."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import save_file

from penstock import Tokenizer, reference
from penstock.errors import ConfigError, ModelError
from penstock.models import load_model
from penstock.tasks import make_task
from penstock.tasks.padding import batch_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

hf: Any = transformers  # its classes are not typed

TEXTS = (
    "Warm water rises and cold water sinks.",
    "a",
    "The engineers measured the pressure in the pipe every hour of the day and night. " * 5,
    "水は高い所から低い所へ流れる。",
    "It's late; we'll go home.",
)
TYPE = "sentence_transformers.models."


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder that may be written to."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_bert, copy)
    return copy


def write_steps(folder: Path, *steps: str, **pooling: Any) -> None:
    """The files of sentence-transformers: one module after the other."""
    modules = [
        {"idx": at, "name": str(at), "path": f"{at}_{step}" if at else "", "type": TYPE + step}
        for at, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    said = {"word_embedding_dimension": 64, **pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(said), encoding="utf-8")


def embed_task(source: Any, tokenizer: Path, **options: Any) -> Any:
    return make_task("embed", load_model(source, "embed"), Tokenizer.from_pretrained(tokenizer), **options)


def embed(task: Any, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    rows = task.tokenizer.encode_batch(texts, **task.tokenization())
    batch = batch_of(rows, np.arange(len(rows))[::-1], width=64, pad_id=3)
    outputs = {name: each.numpy() for name, each in task.forward(batch).items()} | task.counts(batch)
    columns = task.columns(task.combine(batch.input_index, outputs, len(rows)), {})
    assert {name: column.type for name, column in columns.items()} == task.schema()
    assert columns["error"].null_count == len(rows)
    return np.array(columns["embedding"].to_pylist(), np.float32)


def assert_close(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> None:
    assert ours.shape == theirs.shape
    apart = np.linalg.norm(ours - theirs, axis=1)
    assert (apart <= 1e-5 * np.linalg.norm(theirs, axis=1)).all()


def backend_of(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", ["tiny_bert", "tiny_gpt2"])
def test_vectors_equal_those_of_one_text_at_a_time(
    family: str, pooling: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    model = hf.AutoModel.from_pretrained(folder).eval()
    cases: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({}, {}),
        ({"normalize": True}, {"normalize_embeddings": True}),
        ({"truncate_dim": 16}, {"truncate_dim": 16}),
        ({"truncate_dim": 16, "normalize": True}, {"truncate_dim": 16, "normalize_embeddings": True}),
        ({"max_length": 12}, {"max_length": 12}),
    )
    for options, given in cases:
        task = embed_task(folder, folder, pooling=pooling, **given)
        expected = reference.embed(
            model, backend_of(folder), TEXTS, **{"max_length": 64, "pooling": pooling, **options}
        )
        assert_close(embed(task, TEXTS), expected)


def test_padding_in_the_mean_would_be_noticed(tiny_bert: Path) -> None:
    """The control: the same comparison with the padding counted."""
    task = embed_task(tiny_bert, tiny_bert)
    batch = batch_of(task.tokenizer.encode_batch(TEXTS, max_length=64), width=64)
    expected = task.forward(batch)["embedding"].numpy()
    batch.num_tokens = np.full(len(TEXTS), 64, np.int32)
    with pytest.raises(AssertionError):
        assert_close(task.forward(batch)["embedding"].numpy(), expected)


def test_an_encoder_decoder_embeds_with_its_encoder(tiny_unigram: Path, tmp_path: Path) -> None:
    vocab_size = Tokenizer.from_pretrained(tiny_unigram).vocab_size
    config = hf.T5Config(
        vocab_size=vocab_size,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    task = embed_task(tmp_path, tiny_unigram)
    model = hf.T5EncoderModel.from_pretrained(tmp_path).eval()
    expected = reference.embed(model, backend_of(tiny_unigram), TEXTS, max_length=64)
    assert_close(embed(task, TEXTS), expected)


def test_without_a_word_from_the_folder_it_is_the_mean_as_it_is(tiny_bert: Path) -> None:
    settings = embed_task(tiny_bert, tiny_bert).settings()
    assert settings == {
        "task": "embed",
        "max_length": 64,
        "truncation": "right",
        "pooling": "mean",
        "normalize_embeddings": False,
        "truncate_dim": 64,
        "prompt": "",
    }


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
    ],
)
def test_the_folder_says_how_to_pool_and_whether_to_normalise(
    folder: Path, pooling: dict[str, Any], expected: str
) -> None:
    write_steps(folder, "Transformer", "Pooling", "Normalize", **pooling)
    task = embed_task(folder, folder)
    assert (task.pooling, task.normalize) == (expected, True)
    assert np.linalg.norm(embed(task, TEXTS), axis=1) == pytest.approx(1.0)
    mine = embed_task(folder, folder, pooling="mean", normalize_embeddings=False)
    assert (mine.pooling, mine.normalize) == ("mean", False)


def test_dense_steps_come_after_the_pooling(folder: Path) -> None:
    write_steps(folder, "Transformer", "Pooling", "Dense", "Normalize", pooling_mode="mean")
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(8, 64, generator=generator), torch.randn(8, generator=generator)
    (folder / "2_Dense").mkdir()
    said = {"in_features": 64, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(said), encoding="utf-8")
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    model = hf.AutoModel.from_pretrained(folder).eval()
    means = torch.from_numpy(reference.embed(model, backend_of(folder), TEXTS, max_length=64))
    dense = torch.tanh(means @ weight.T + bias)
    task = embed_task(folder, folder)
    assert task.settings()["truncate_dim"] == 8
    assert_close(embed(task, TEXTS), (dense / dense.norm(dim=1, keepdim=True)).numpy())


def test_the_folder_bounds_the_length_of_a_row(folder: Path) -> None:
    write_steps(folder, "Transformer", "Pooling", pooling_mode="mean")
    said = {"max_seq_length": 20, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(said), encoding="utf-8")
    assert embed_task(folder, folder).max_length == 20
    assert embed_task(folder, folder, max_length=40).max_length == 40


def test_a_prompt_is_found_by_name(folder: Path) -> None:
    write_steps(folder, "Transformer", "Pooling", pooling_mode="mean")
    said = {"prompts": {"query": "find: ", "document": ""}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said), encoding="utf-8")
    assert embed_task(folder, folder).prompt == "find: "
    assert embed_task(folder, folder, prompt_name="document").prompt == ""
    assert embed_task(folder, folder, prompt="look: ").settings()["prompt"] == "look: "
    with pytest.raises(ConfigError, match="'query', 'document'"):
        embed_task(folder, folder, prompt_name="passage")
    with pytest.raises(ConfigError, match="both given"):
        embed_task(folder, folder, prompt_name="query", prompt="look: ")


@pytest.mark.parametrize(
    ("steps", "pooling", "message"),
    [
        (("Transformer", "Pooling", "LayerNorm"), {"pooling_mode": "mean"}, "LayerNorm"),
        (("Transformer", "Pooling"), {"pooling_mode": "max"}, "its pooling is max"),
        (("Transformer", "Pooling"), {"pooling_mode": ["cls", "mean"]}, "cls \\+ mean"),
        (("Transformer", "Pooling"), {}, "not stated"),
    ],
)
def test_steps_that_are_not_known_are_refused_by_name(
    folder: Path, steps: tuple[str, ...], pooling: dict[str, Any], message: str
) -> None:
    write_steps(folder, *steps, **pooling)
    with pytest.raises(ModelError, match=message):
        embed_task(folder, folder)


def test_a_prompt_that_is_not_to_be_pooled_is_refused(folder: Path) -> None:
    write_steps(folder, "Transformer", "Pooling", pooling_mode="mean", include_prompt=False)
    embed_task(folder, folder)
    with pytest.raises(ModelError, match="include_prompt"):
        embed_task(folder, folder, prompt="find: ")


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "modules.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"modules\.json cannot be read"):
        embed_task(folder, folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "pooling='max'"),
        ({"truncate_dim": 65}, "between 1 and 64"),
        ({"truncate_dim": 0}, "=0"),
    ],
)
def test_options_that_cannot_be_right_are_refused(
    tiny_bert: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        embed_task(tiny_bert, tiny_bert, **options)
