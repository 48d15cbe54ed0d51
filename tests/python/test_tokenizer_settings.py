"""Files that differ from known ones in one setting: exact all the same, or left to `tokenizers`."""

from __future__ import annotations

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers

from penstock import ConfigError, Tokenizer, _core
from penstock.errors import RowTokenizerError, TokenizerError

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
T5_SPLIT = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    ],
}


def file_of(model: dict[str, Any], **sections: Any) -> str:
    sections = {"added_tokens": [], "normalizer": None, "pre_tokenizer": None} | sections
    return json.dumps({"version": "1.0", "post_processor": None, "decoder": None, **sections, "model": model})


def bpe(vocabulary: dict[str, int], **settings: Any) -> dict[str, Any]:
    return {"type": "BPE", "vocab": vocabulary, "merges": [], **settings}


def unigram(*pieces: tuple[str, float], unk_id: int = 0) -> dict[str, Any]:
    return {"type": "Unigram", "unk_id": unk_id, "vocab": pieces, "byte_fallback": False}


def added(content: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    return {"id": number, "content": content, "normalized": False, **flags}


def load(text: str) -> Tokenizer:
    with TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(text, encoding="utf-8")
        return Tokenizer.from_pretrained(folder)


def check(text: str, *texts: str) -> Tokenizer:
    ours, theirs = load(text), tokenizers.Tokenizer.from_str(text)
    for each in texts:
        assert ours.encode_batch([each]).row(0).tolist() == theirs.encode(each).ids, ascii(each)
    return ours


@pytest.mark.parametrize("settings", [{}, {"fuse_unk": True}, {"byte_fallback": True}])
def test_bytes_without_a_token_become_unknown(settings: dict[str, Any]) -> None:
    vocabulary = {"u": 0, "a": 1, "\u0120": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    model = bpe(vocabulary, unk_token="u", **settings)
    assert check(file_of(model, pre_tokenizer=BYTE_LEVEL), "a zz a", "z\u00e9").engine == "tokenizers"


def test_bytes_without_a_token_and_without_unknown_vanish() -> None:
    text = file_of(bpe({"u": 0, "a": 1, "\u0120": 2}), pre_tokenizer=BYTE_LEVEL)
    assert check(text, "a zz a", "z\u00e9").engine == "native"


def test_scores_are_read_to_the_last_bit_as_tokenizers_reads_them() -> None:
    half = -7.582302462868173
    text = file_of(unigram(("u", -50), ("a", half), ("b", half), ("ab", 2 * half)))
    assert check(text, "ab", "abab").engine == "native"


@pytest.mark.parametrize("score", [True, None, "0.5"])
def test_a_score_that_is_no_number_is_left_to_tokenizers(score: Any) -> None:
    """It says then that the file is damaged."""
    with pytest.raises(TokenizerError):
        load(file_of(unigram(("a", score))))


def test_a_number_is_what_tokenizers_makes_of_it() -> None:
    rng = random.Random(5)
    written = ["0.1", "-0.0", "1e22", "1.5e-300", "123456789012345678901234567890.25", "4.9e-324", "1E+2"]
    written += [repr(rng.uniform(-20, 0)) for _ in range(2_000)]
    written += [
        f"{rng.randrange(10**20)}.{rng.randrange(10**9)}e{rng.randrange(-300, 250)}" for _ in range(500)
    ]
    written = [number for number in written if "." in number or "e" in number.lower()]
    vocabulary = ", ".join(f'["p{at}", {number}]' for at, number in enumerate(written))
    text = file_of(unigram()).replace('"vocab": []', f'"vocab": [{vocabulary}]')
    theirs = json.loads(tokenizers.Tokenizer.from_str(text).to_str())["model"]["vocab"]
    ours = [_core.parse_number(number) for number in written]
    assert ours == [score for _, score in theirs]
    assert ours != [float(number) for number in written]  # or there would be no need


def test_a_replaced_run_of_spaces_is_no_white_space_to_split_at() -> None:
    normalizer = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}
    pieces = unigram(("u", -9), ("a", -2), ("b", -2), ("\u2581", -1), ("\u2581a", -2), ("\u2581b", -2))
    text = file_of(pieces, normalizer=normalizer, pre_tokenizer=T5_SPLIT)
    check(text, "\u2581", "a  \u2581 b", "a  b", "\u2581a b   \u2581a b", "a  \u2581 b")


@pytest.mark.parametrize(("number", "engine"), [(3, "tokenizers"), (4, "native")])
def test_of_equal_pieces_each_counts_for_the_ids_of_added_tokens(number: int, engine: str) -> None:
    pieces = unigram(("u", -1), ("a", -1), ("b", -2), ("b", -2))
    assert check(file_of(pieces, added_tokens=[added("X", number)]), "aXb").engine == engine


@pytest.mark.parametrize(("number", "engine"), [(3, "native"), (10, "tokenizers")])
def test_tokens_of_the_model_do_not_count_for_the_ids_of_added_ones(number: int, engine: str) -> None:
    """The vocabulary has ids that are higher than it is long."""
    tokens = [added("c", 9), added("X", number)]
    text = file_of(bpe({"u": 0, "a": 1, "c": 9}, unk_token="u"), added_tokens=tokens)
    assert check(text, "acX", "Xc").engine == engine


def test_added_tokens_with_one_id_are_left_to_tokenizers() -> None:
    vocabulary = {"a": 0, "b": 1, "c": 4, "d": 3}
    tokens = [added("xy", 4), added("c", 4)]
    text = file_of(bpe(vocabulary, unk_token="a"), added_tokens=tokens)
    assert check(text, "axycd").engine == "tokenizers"


def test_an_added_token_is_whole_where_what_is_read_ends_within_it() -> None:
    vocabulary = {"[UNK]": 0, "a": 1, "[": 2}
    model = {"type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]", "max_input_chars_per_word": 9}
    model["continuing_subword_prefix"] = "##"
    native = load(file_of(model, added_tokens=[added("[S]", 3)], pre_tokenizer={"type": "BertPreTokenizer"}))
    assert native.engine == "native"
    for spaces in range(560, 620):
        texts = pa.array(["a a" + " " * spaces + "[S]" + " a" * 600])  # 594 bytes are read for three tokens
        assert native.encode_batch(texts, max_length=3).row(0).tolist() == [1, 1, 3], spaces


UNDERLINE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
BRACKET = {"type": "Replace", "pattern": {"String": "<"}, "content": "["}


@pytest.mark.parametrize(
    ("content", "flags", "normalizer", "pre_tokenizer", "stands_as"),
    [
        ("<x>", {"single_word": True}, UNDERLINE, None, ".<x>"),  # and "a" behind it, so that it is none
        ("<a b c>", {}, UNDERLINE, None, "<a b\u2581c>"),
        ("[xy]", {}, BRACKET, BYTE_LEVEL, "<xy]"),
    ],
    ids=["single word", "space or not", "another character"],
)
def test_no_text_is_cut_in_an_added_token_that_the_normalizer_makes(
    content: str, flags: dict[str, bool], normalizer: Any, pre_tokenizer: Any, stands_as: str
) -> None:
    tokens = [*"u<>[]xyabc. \u2581\u0120", *("z" * 2**power for power in range(5))]
    model = bpe({text: at for at, text in enumerate(tokens)}, unk_token=None if pre_tokenizer else "u")
    model["merges"] = [["z" * 2**power, "z" * 2**power] for power in range(4)]
    token = added(content, len(tokens)) | {"normalized": True} | flags
    text = file_of(model, added_tokens=[token], normalizer=normalizer, pre_tokenizer=pre_tokenizer)
    native, theirs = load(text), tokenizers.Tokenizer.from_str(text)
    assert native.engine == "native"
    for size in range(64, 200):  # bytes before, of few tokens, so that the text is cut among what comes then
        document = "z" * size + (stands_as + "a") * 200
        whole = theirs.encode(document).ids
        for length in range(size // 16, size // 16 + 16):
            row = native.encode_batch([document], max_length=length).row(0).tolist()
            assert row == whole[:length], (size, length)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("normalizer", {"type": "Lowercase", "x": [[[]]]}),
        ("added_tokens", [added("\ud800", 9)]),
        ("added_tokens", [added("x", 2**63)]),
        ("post_processor", {"type": "BertProcessing", "sep": ["b", -5], "cls": ["a", 1]}),
        ("post_processor", {"type": "BertProcessing", "sep": ["b", 2**31], "cls": ["a", ""]}),
        ("pre_tokenizer", BYTE_LEVEL | {"add_prefix_space": "false"}),
    ],
)
def test_damage_is_an_error_that_says_so_or_works_as_in_tokenizers(section: str, value: Any) -> None:
    text = file_of(bpe({"a": 0, "b": 1}), **{section: value})
    try:
        theirs = tokenizers.Tokenizer.from_str(text)
    except Exception:  # noqa: BLE001  whatever it says
        with pytest.raises(TokenizerError):
            load(text)
        return
    assert load(text).encode_batch(["ab"]).row(0).tolist() == theirs.encode("ab").ids


@pytest.mark.parametrize("special", [{}, {"x": {"id": "x", "ids": [7], "tokens": ["x"]}}])
def test_a_panic_of_the_package_is_an_error_that_names_the_file(special: dict[str, Any]) -> None:
    template = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    processor = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": template,
        "special_tokens": special,
    }
    model = {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load(file_of(model, post_processor=processor))


PLAIN = file_of(bpe({"a": 0, "b": 1, "\u0120": 2}), pre_tokenizer=BYTE_LEVEL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 5.5}, "max_length=5.5: must be a whole number"),
        ({"max_length": "5"}, "max_length='5': must be a whole number"),
        ({"max_length": 4, "stride": 2.5}, "stride=2.5: must be a whole number"),
        ({"truncation": ["right"]}, "truncation="),
        ({"pair_truncation": ["x"]}, "pair_truncation="),
        ({"add_special_tokens": "no"}, "add_special_tokens='no'"),
    ],
)
def test_arguments_of_the_wrong_kind_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(PLAIN).encode_batch(["a"], **arguments)


def test_a_refused_length_spoils_no_later_call() -> None:
    tokenizer = load(PLAIN)
    wrongs: list[Any] = [7.0, True]
    for wrong in wrongs:
        with pytest.raises(ConfigError):
            tokenizer.encode_batch(["ab"], max_length=wrong)
    assert tokenizer.encode_batch(["abab"], max_length=1).row(0).tolist() == [0]
    assert len(tokenizer.encode_batch(["abab"] * 2, max_length=7)) == 2
    assert tokenizer.encode_batch(["ab"], max_length=2**80).row(0).tolist() == [0, 1]


@pytest.mark.parametrize("texts", [None, 5])
def test_what_is_no_list_of_texts_is_refused(texts: Any) -> None:
    with pytest.raises(ConfigError, match=r"texts=.*must be a list of texts"):
        load(PLAIN).encode_batch(texts)


def test_texts_may_come_once_only_or_from_any_library_of_arrow() -> None:
    tokenizer = load(PLAIN)
    rows, offsets = tokenizer.encode_offsets(text for text in ["ab", "b"])
    assert (rows.ids.tolist(), offsets.tolist()) == ([0, 1, 1], [[0, 1], [1, 2], [0, 1]])

    class Capsules:
        def __init__(self, array: Any) -> None:
            self.array = array

    class Array(Capsules):
        def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
            return self.array.__arrow_c_array__(requested_schema)

    class Stream(Capsules):
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return self.array.__arrow_c_stream__(requested_schema)

    for texts in (Array(pa.array(["ab", "b"])), Stream(pa.chunked_array([["ab"], ["b"]]))):
        assert tokenizer.encode_batch(texts).ids.tolist() == [0, 1, 1]


def test_a_text_that_is_not_utf_8_takes_no_neighbour_with_it() -> None:
    offsets = pa.array([0, 1, 3, 4], pa.int32()).buffers()[1]
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xff\xfeb")])
    rows, failures = load(PLAIN).encode_rows(texts)
    assert [rows.row(at).tolist() for at in range(3)] == [[0], [], [1]]
    assert isinstance(failures[1], RowTokenizerError)
    assert list(failures) == [1]
    assert "not valid UTF-8" in str(failures[1])


def test_arrays_to_write_to_have_memory_of_their_own() -> None:
    one = np.empty(64, np.int64)
    with pytest.raises(ConfigError, match="lies in the memory of another array"):
        load(PLAIN).encode_padded(["ab"], out={"input_ids": one, "attention_mask": one[1:]})
    odd = np.empty(520, np.uint8)[1:513].view(np.int64)
    with pytest.raises(ConfigError, match="must be contiguous, aligned"):
        load(PLAIN).encode_padded(["ab"], out={"input_ids": odd, "attention_mask": one})
    with pytest.raises(ConfigError, match="must be a NumPy array"):
        load(PLAIN).encode_padded(["ab"], out={"input_ids": [0] * 64, "attention_mask": one})  # type: ignore[dict-item]
