"""Where tokenizers come from, what their folders say, and what a damaged one is told apart by."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers

from penstock import tokenizer_native
from penstock.errors import ConfigError, TokenizerError
from penstock.tokenizer import Tokenizer
from penstock.tokenizer_spec import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Make = Callable[..., Path]

BERT = ["input_ids", "token_type_ids", "attention_mask"]
DEBERTA = ["input_ids", "attention_mask", "token_type_ids"]
PLAIN = ["input_ids", "attention_mask"]


@pytest.fixture
def folder(tmp_path: Path, tiny_wordpiece: Path) -> Make:
    """Makes a tokenizer folder with these settings files."""

    def make(config: Any = None, special: Any = None, model: Any = None) -> Path:
        shutil.copy(tiny_wordpiece / "tokenizer.json", tmp_path)
        files = {"tokenizer_config.json": config, "special_tokens_map.json": special, "config.json": model}
        for name, settings in files.items():
            if settings is not None:
                (tmp_path / name).write_text(json.dumps(settings), encoding="utf-8")
        return tmp_path

    return make


def test_a_folder_its_file_and_their_object_give_the_same_rows(tiny_unigram: Path) -> None:
    file = tiny_unigram / "tokenizer.json"
    texts = ["the water falls", "naïve 水"]
    sources = [tiny_unigram, str(tiny_unigram), file, str(file), tokenizers.Tokenizer.from_file(str(file))]
    made = [Tokenizer.from_pretrained(source) for source in sources]
    assert len({tuple(one.encode_batch(texts).ids.tolist()) for one in made}) == 1
    assert [one.pad_id for one in made] == [1] * 5
    assert [one.model_max_length for one in made] == [64] * 4 + [None]


def test_a_file_by_another_name_does_not_read_its_neighbours(tiny_unigram: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_unigram / "tokenizer_config.json", tmp_path)
    shutil.copy(tiny_unigram / "tokenizer.json", tmp_path / "other.json")
    assert Tokenizer.from_pretrained(tmp_path / "other.json").model_max_length is None


def test_an_object_says_how_it_pads() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    plain = Tokenizer.from_pretrained(backend)
    assert (plain.pad_id, plain.pad_type_id, plain.padding_side) == (0, 0, "right")
    backend.enable_padding(direction="left", pad_id=2, pad_type_id=1, pad_token="c")
    made = Tokenizer.from_pretrained(backend)
    assert (made.pad_id, made.pad_type_id, made.padding_side) == (2, 1, "left")


@pytest.mark.parametrize("name", ["tiny_bpe", "tiny_wordpiece", "tiny_unigram"])
def test_transformers_tokenizers_are_taken_as_they_are(name: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoTokenizer

    source = AutoTokenizer.from_pretrained(request.getfixturevalue(name))
    texts, pairs = ["the water falls", "naïve 水", ""], ["a dam", "", "b"]
    for tokenizer in (
        Tokenizer.from_pretrained(source),
        Tokenizer.from_pretrained(request.getfixturevalue(name)),
    ):
        theirs = source(texts, pairs, truncation="longest_first", max_length=9)
        rows = tokenizer.encode_batch(texts, pairs, max_length=9)
        assert rows.ids.tolist() == [token for row in theirs["input_ids"] for token in row]
        if "token_type_ids" in theirs:
            assert rows.type_ids is not None
            assert rows.type_ids.tolist() == [token for row in theirs["token_type_ids"] for token in row]
        assert tokenizer.model_input_names == source.model_input_names
        assert tokenizer.model_max_length == source.model_max_length
        assert tokenizer.padding_side == source.padding_side
        assert (tokenizer.bos_id, tokenizer.eos_id) == (source.bos_token_id, source.eos_token_id)
        assert tokenizer.pad_id == (
            source.eos_token_id if source.pad_token_id is None else source.pad_token_id
        )
        assert tokenizer.vocab_size == len(source)


def test_an_added_token_that_normalizes_to_nothing_is_refused(tiny_bpe: Path, tmp_path: Path) -> None:
    """The tokenizers package would look for "" in every text, and never come to an end."""
    document = json.loads((tiny_bpe / "tokenizer.json").read_text(encoding="utf-8"))
    document["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": False}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False) | {"normalized": True}
    token = {"id": len(document["model"]["vocab"]), "content": "\n"} | flags
    document["added_tokens"].append(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"leaves nothing of the added token '\\n'; set its normalized"):
        Tokenizer.from_pretrained(tmp_path)
    token["normalized"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    assert Tokenizer.from_pretrained(tmp_path).encode_batch(["a\nb"]).ids.size > 1


def test_a_slow_tokenizer_is_refused_with_a_remedy() -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(TokenizerError, match=r"ByT5Tokenizer is a slow tokenizer.*AutoTokenizer"):
        Tokenizer.from_pretrained(ByT5Tokenizer())


@pytest.mark.parametrize("source", [7, None, b"x", ["a"]])
def test_what_is_no_tokenizer_is_refused_by_name(source: Any) -> None:
    with pytest.raises(ConfigError, match=f"a {type(source).__name__} is no tokenizer"):
        Tokenizer.from_pretrained(source)


@pytest.mark.parametrize(
    ("config", "model", "names"),
    [
        (None, None, PLAIN),
        ({"tokenizer_class": "BertTokenizer"}, None, BERT),
        ({"tokenizer_class": "BertTokenizerFast"}, None, BERT),
        ({"tokenizer_class": "ElectraTokenizer"}, None, BERT),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, None, PLAIN),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": BERT}, None, BERT),
        ({"tokenizer_class": "DistilBertTokenizer"}, {"model_type": "distilbert"}, PLAIN),
        ({"do_lower_case": True}, {"model_type": "bert"}, BERT),
        (None, {"model_type": "megatron-bert"}, BERT),
        (None, {"model_type": "electra"}, BERT),
        (None, {"model_type": "modernbert"}, PLAIN),
    ],
)
def test_model_inputs_are_those_of_transformers(
    folder: Make, config: Any, model: Any, names: list[str]
) -> None:
    from transformers import AutoTokenizer

    place = folder(config, None, model)
    assert Tokenizer.from_pretrained(place).model_input_names == names
    assert AutoTokenizer.from_pretrained(place).model_input_names == names


@pytest.mark.parametrize(
    ("config", "model", "names"),
    [
        # Not asked of transformers: it would need other files, or gives DistilBERT what it cannot take.
        ({"tokenizer_class": "DebertaV2TokenizerFast"}, {"model_type": "deberta-v2"}, DEBERTA),
        (None, {"model_type": "deberta-v2"}, DEBERTA),
        (None, {"model_type": "distilbert"}, PLAIN),
        ({"tokenizer_class": "BertTokenizer"}, {"model_type": "distilbert"}, PLAIN),
        ({"tokenizer_class": "RobertaTokenizer"}, {"model_type": "roberta"}, PLAIN),
    ],
)
def test_model_inputs_follow_the_family(folder: Make, config: Any, model: Any, names: list[str]) -> None:
    assert Tokenizer.from_pretrained(folder(config, None, model)).model_input_names == names


@pytest.mark.parametrize(
    ("config", "special", "model", "pad", "bos", "eos"),
    [
        (None, None, None, 0, None, None),
        ({"pad_token": "[MASK]"}, None, None, 4, None, None),
        ({"pad_token": {"content": "[MASK]", "lstrip": False}}, None, None, 4, None, None),
        ({"pad_token": None, "bos_token": "[CLS]"}, {"eos_token": "[SEP]"}, None, 0, 2, 3),
        ({"bos_token": None, "eos_token": "[SEP]"}, None, {"bos_token_id": 2}, 0, None, 3),
        ({"model_max_length": 512}, None, {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 4}, 4, 2, 3),
        (None, None, {"eos_token_id": [3, 4]}, 0, None, None),
        ({"pad_token": "not in the vocabulary"}, None, None, 0, None, None),
    ],
)
def test_special_tokens_are_those_that_the_files_name(
    folder: Make, config: Any, special: Any, model: Any, pad: int, bos: int | None, eos: int | None
) -> None:
    tokenizer = Tokenizer.from_pretrained(folder(config, special, model))
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (pad, bos, eos)


def test_without_a_pad_token_the_end_of_text_pads(tiny_bpe: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_bpe / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "a"}')
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert (
        tokenizer.pad_id
        == tokenizer.eos_id
        == tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id("a")
    )


@pytest.mark.parametrize(
    ("stated", "known"),
    [
        (512, 512),
        (512.0, 512),
        (1e30, None),
        (int(1e30), None),
        (0, None),
        (-1, None),
        ("x", None),
        (True, None),
    ],
)
def test_absurd_lengths_are_no_lengths(folder: Make, stated: Any, known: int | None) -> None:
    assert Tokenizer.from_pretrained(folder({"model_max_length": stated})).model_max_length == known


@pytest.mark.parametrize(
    ("config", "side"),
    [({}, "right"), ({"padding_side": "left"}, "left"), ({"tokenizer_class": "XLNetTokenizerFast"}, "left")],
)
def test_padding_goes_right_unless_the_files_say_otherwise(folder: Make, config: Any, side: str) -> None:
    assert Tokenizer.from_pretrained(folder(config)).padding_side == side


def broken(document: dict[str, Any], section: str, value: Any) -> str:
    return json.dumps(document | {section: value})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], r"is not JSON: .*line \d+ column \d+.*cut short or damaged"),
        (lambda _: "", "is not JSON"),
        (lambda _: "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "only a Git LFS pointer"),
        (lambda _: "[1, 2]", "has no model section, so"),
        (lambda _: '{"hello": 1}', "has no model section"),
        (lambda text: broken(json.loads(text), "normalizer", {"type": "Nonsense"}), "section normalizer: "),
        (lambda text: broken(json.loads(text), "added_tokens", [{"id": "x"}]), "section added_tokens: "),
        (lambda text: broken(json.loads(text), "model", {"type": "BPE", "vocab": 3}), "section model: "),
        (
            lambda text: broken(json.loads(text), "model", {"type": "BPE", "vocab": {}, "merges": ["a b"]}),
            "`a`",
        ),
        (
            lambda text: broken(
                json.loads(text),
                "pre_tokenizer",
                {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False},
            ),
            "section pre_tokenizer: .*parenthesis",
        ),
    ],
)
def test_a_damaged_tokenizer_json_is_told_with_its_place(
    tiny_wordpiece: Path, tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(damage((tiny_wordpiece / "tokenizer.json").read_text("utf-8")), "utf-8")
    with pytest.raises(TokenizerError, match=message) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(caught.value).startswith(str(file))


def test_a_file_that_is_no_text_is_told_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b'{"model": "\xff"}')
    with pytest.raises(TokenizerError, match="is not UTF-8 at byte 11"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[]", "must hold a JSON object, not a list")]
)
def test_damaged_settings_are_told_by_their_file(folder: Make, text: str, message: str) -> None:
    place = folder({})
    (place / "tokenizer_config.json").write_text(text)
    with pytest.raises(TokenizerError, match=f"tokenizer_config.json: {message}"):
        Tokenizer.from_pretrained(place)


def test_a_folder_without_a_tokenizer_is_told_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"no such file.*save_pretrained"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("source", ["/no/such/place", "./nowhere", "a/b/c", "models/tokenizer.json"])
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(source: str) -> None:
    with pytest.raises(TokenizerError, match="no such folder or file, and it cannot be a hub id"):
        Tokenizer.from_pretrained(source)


def test_a_post_processor_that_doubles_a_text_is_refused(tiny_bpe: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny_bpe / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A $A", pair="$A $B")
    with pytest.raises(TokenizerError, match="does not put a text once and whole into a row"):
        Tokenizer.from_pretrained(backend)


def test_a_post_processor_without_pairs_is_refused_when_pairs_come(tiny_bpe: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny_bpe / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A", pair="$A $B $B")
    tokenizer = Tokenizer.from_pretrained(backend)
    assert len(tokenizer.encode_batch(["a"])) == 1
    with pytest.raises(TokenizerError, match="each text of a pair"):
        tokenizer.encode_batch(["a"], ["b"])


@pytest.fixture
def hub(tmp_path: Path, tiny_unigram: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub id whose files are in the cache, as after a download."""
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_unigram, repository / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return "somebody/tiny"


def test_a_hub_id_is_read_from_the_cache_when_offline(hub: str, tiny_unigram: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(hub)
    assert tokenizer.fingerprint() == Tokenizer.from_pretrained(tiny_unigram).fingerprint()
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert Tokenizer.from_pretrained(hub, revision=commit).pad_id == 1


def test_a_hub_id_that_is_not_there_is_told_with_its_revision(hub: str) -> None:
    with pytest.raises(TokenizerError, match=r"at revision v2: is no folder here.*HF_HUB_OFFLINE"):
        Tokenizer.from_pretrained("somebody/other", revision="v2")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "minilm", "t5-small", "roberta", "phi3", "bert-base-cased"])
def test_real_folders_agree_with_transformers(test_data: Path, name: str) -> None:
    from transformers import AutoTokenizer

    place = test_data / "tokenizers" / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = AutoTokenizer.from_pretrained(place)
    ours = Tokenizer.from_pretrained(place)
    assert ours.model_input_names == theirs.model_input_names
    assert ours.model_max_length == (None if theirs.model_max_length > 1e9 else theirs.model_max_length)
    texts = ["the water falls", "naïve 水 \U0001f30a", ""]
    ids = theirs(texts, padding=False, truncation=False)["input_ids"]
    assert [
        row.tolist() for row in np.split(ours.encode_batch(texts).ids, np.cumsum([len(r) for r in ids])[:-1])
    ] == ids


def test_no_collection_while_a_file_is_read(tiny_wordpiece: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(document: Any) -> Any:
        seen.append(gc.isenabled())
        return read(document)

    monkeypatch.setattr(tokenizer_native, "read", watched)
    assert gc.isenabled()
    Tokenizer.from_pretrained(tiny_wordpiece)
    assert seen == [False]
    assert gc.isenabled()


@pytest.mark.parametrize("runs", [True, False])
def test_the_collector_is_left_as_it_was(tiny_wordpiece: Path, tmp_path: Path, *, runs: bool) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE"', encoding="utf-8")
    try:
        if not runs:
            gc.disable()
        Tokenizer.from_pretrained(tiny_wordpiece)
        assert gc.isenabled() == runs
        with pytest.raises(TokenizerError):
            Tokenizer.from_pretrained(tmp_path)
        assert gc.isenabled() == runs
    finally:
        gc.enable()


def test_the_last_of_many_threads_starts_the_collector_again() -> None:
    paused = tokenizer_native._CollectorPaused()
    first, second = threading.Event(), threading.Event()

    def load() -> None:
        with paused:
            first.set()
            second.wait(10)

    thread = threading.Thread(target=load)
    thread.start()
    assert first.wait(10)
    with paused:
        assert not gc.isenabled()
    assert not gc.isenabled()  # the other thread is still at it
    second.set()
    thread.join(10)
    assert gc.isenabled()
