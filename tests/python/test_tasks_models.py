"""Loading a model for a task: what is refused, what is resolved, and what a model is known by."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from penstock import Tokenizer
from penstock.errors import ConfigError, ModelError
from penstock.models import load_model, tokenizer_source
from penstock.tasks import TASKS, Task, check_options, make_task, task_class
from penstock.tasks.lengths import context_length

if TYPE_CHECKING:
    from pathlib import Path

hf: Any = transformers  # its classes are not typed

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "pad_token_id": 1,
}


@pytest.fixture
def folder(tiny_gpt2: Path, tmp_path: Path) -> Path:
    """A copy of the model's folder that may be written to."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_gpt2, copy)
    return copy


# ---- the registry ----


def test_the_registry_is_listed_without_torch() -> None:
    code = "import sys, penstock.tasks; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_task_has_what_the_scorer_asks_for(tiny_bert: Path, tiny_gpt2: Path) -> None:
    for name in TASKS:
        folder = tiny_gpt2 if name == "perplexity" else tiny_bert
        task = make_task(name, load_model(folder, name), Tokenizer.from_pretrained(folder), max_length=None)
        assert isinstance(task, Task)
        assert task.name == name == task.settings()["task"]
        assert list(task.schema())[-1] == "error"
        assert set(task.tokenization()) >= {"max_length", "stride"}


def test_an_unknown_task_is_answered_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"'classify', 'embed', 'perplexity'.*Did you mean 'perplexity'"):
        task_class("perplexty")


def test_an_option_of_another_task_is_told_where_it_belongs() -> None:
    with pytest.raises(ConfigError, match=r"no option 'stride'.*belongs to task 'perplexity'"):
        check_options("embed", {"stride": 5})
    with pytest.raises(ConfigError, match="Did you mean 'truncate_dim'"):
        check_options("embed", {"truncat_dim": 5})
    check_options("embed", {"stride": None, "truncate_dim": 5})


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_bert: Path, tiny_gpt2: Path) -> None:
    larger, smaller = (tiny_bert, tiny_gpt2)
    if Tokenizer.from_pretrained(tiny_bert).vocab_size < Tokenizer.from_pretrained(tiny_gpt2).vocab_size:
        larger, smaller = smaller, larger
    with pytest.raises(ConfigError, match="do not belong together"):
        make_task("embed", load_model(smaller, "embed"), Tokenizer.from_pretrained(larger))


# ---- loading ----


def test_a_loaded_model_is_ready_and_says_what_it_is(tiny_gpt2: Path) -> None:
    loaded = load_model(tiny_gpt2, "perplexity", device="cpu")
    assert (loaded.dtype, loaded.device, loaded.folder) == ("float32", torch.device("cpu"), tiny_gpt2)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    half = load_model(str(tiny_gpt2), "perplexity", dtype=torch.bfloat16)
    assert half.dtype == "bfloat16"
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("family", "task", "lacking"),
    [("tiny_gpt2", "classify", "score.weight"), ("tiny_bert", "perplexity", "cls.predictions")],
)
def test_a_head_that_is_not_in_the_files_is_never_made_up(
    family: str, task: str, lacking: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(ModelError, match=rf"lack .*{lacking}.*saved from"):
        load_model(request.getfixturevalue(family), task)


def test_the_pooler_that_embed_does_not_use_may_be_missing(tiny_wordpiece: Path, tmp_path: Path) -> None:
    config = hf.BertConfig(**SHAPE)
    hf.BertForMaskedLM(config).save_pretrained(tmp_path)
    assert load_model(tmp_path, "embed").dtype == "float32"
    with pytest.raises(ModelError, match=r"classifier\.bias"):
        load_model(tmp_path, "classify")


def test_an_architecture_without_such_a_head_is_refused(tmp_path: Path) -> None:
    config = hf.T5Config(vocab_size=60, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4)
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded for task 'perplexity'"):
        load_model(tmp_path, "perplexity")


def test_only_safetensors_are_read(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"holds no \*\.safetensors"):
        load_model(folder, "perplexity")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(ModelError, match="a pickle can run code"):
        load_model(folder, "perplexity")


def test_damaged_weights_are_an_error_that_names_the_model(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder, "perplexity")


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_model(tmp_path / "nowhere", "embed")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="is a file"):
        load_model(tmp_path / "file", "embed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bf16"}, "Did you mean 'bfloat16'"),
        ({"dtype": "int8"}, "must be one of"),
        ({"device": "cpu", "device_map": "auto"}, "drop device"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(
    tiny_gpt2: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(tiny_gpt2, "perplexity", **options)


def test_a_model_spread_by_a_device_map_takes_its_inputs_at_its_first_device(tiny_gpt2: Path) -> None:
    pytest.importorskip("accelerate")
    loaded = load_model(tiny_gpt2, "perplexity", device_map="cpu")
    assert loaded.device == torch.device("cpu")
    make_task("perplexity", loaded, Tokenizer.from_pretrained(tiny_gpt2))


def test_a_model_that_is_already_built_is_taken_as_it_is(tiny_gpt2: Path) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(tiny_gpt2).train()
    loaded = load_model(model, "perplexity")
    assert loaded.model is model
    assert not model.training
    assert tokenizer_source(model) == str(tiny_gpt2)
    with pytest.raises(ConfigError, match="Cast it first"):
        load_model(model, "perplexity", dtype="float16")
    with pytest.raises(ConfigError, match="already built"):
        load_model(model, "perplexity", device_map="auto")
    with pytest.raises(ConfigError, match="has a"):
        load_model(torch.nn.Linear(2, 2), "perplexity")
    with pytest.raises(ModelError, match="one number per label"):
        make_task("classify", load_model(model, "classify"), Tokenizer.from_pretrained(tiny_gpt2))


def test_a_folder_without_a_tokenizer_says_what_to_do(folder: Path) -> None:
    assert tokenizer_source(folder) == str(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json.*tokenizer="):
        tokenizer_source(folder)
    with pytest.raises(ConfigError, match="tokenizer="):
        tokenizer_source(hf.BertModel(hf.BertConfig(**SHAPE)))


# ---- what a model is known by ----


def test_a_fingerprint_changes_with_the_weights_and_the_config_and_with_nothing_else(folder: Path) -> None:
    first = load_model(folder, "perplexity").fingerprint()
    (folder / "README.md").write_text("words")
    assert load_model(folder, "perplexity").fingerprint() == first
    model = hf.AutoModelForCausalLM.from_pretrained(folder)
    in_memory = load_model(model, "perplexity").fingerprint()
    assert in_memory == load_model(model, "perplexity").fingerprint() != first
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert load_model(model, "perplexity").fingerprint() != in_memory
    model.save_pretrained(folder)
    assert load_model(folder, "perplexity").fingerprint() != first


def test_a_fingerprint_covers_every_shard(tmp_path: Path) -> None:
    config = hf.BertConfig(**SHAPE)
    hf.BertModel(config).save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    first = load_model(tmp_path, "embed").fingerprint()
    last = bytearray(shards[-1].read_bytes())
    last[-1] ^= 1
    shards[-1].write_bytes(last)
    assert load_model(tmp_path, "embed").fingerprint() != first


@pytest.mark.parametrize(
    ("kind", "said", "expected"),
    [
        ("Bert", {"max_position_embeddings": 66}, 66),
        ("Roberta", {"max_position_embeddings": 66}, 64),
        ("XLMRoberta", {"max_position_embeddings": 66}, 64),
        ("MPNet", {"max_position_embeddings": 66}, 64),
        ("Llama", {"max_position_embeddings": 66}, 66),
        (
            "Phi3",
            {
                "max_position_embeddings": 128,
                "original_max_position_embeddings": 32,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                },
            },
            32,
        ),
    ],
)
def test_a_row_may_be_as_long_as_the_positions_that_are_really_used(
    kind: str, said: dict[str, Any], expected: int
) -> None:
    ids = {"bos_token_id": 0, "eos_token_id": 2}
    config = getattr(hf, f"{kind}Config")(**SHAPE, **ids, **said)
    assert context_length(hf.AutoModel.from_config(config)) == expected
