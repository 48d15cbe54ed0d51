"""The native engine is `tokenizers`, id for id, on texts that nobody writes."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from penstock import Prefetcher
from penstock.errors import RowTokenizerError, TokenizerError
from penstock.tokenizer import Tokenizer
from penstock.tokenizer_engine import TokenizersEngine
from penstock.tokenizer_native import NativeEngine
from strange_texts import REAL, by_category, code_points, strange_texts

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.tokenizer_layout import Frame

Json = dict[str, Any]

PROOF_TEXTS = 10_000_000  # over all tokenizers
CI_TEXTS = 4_000  # of each
BATCH = 1_000
ONLY_DIGITS = (*range(0x11DE0, 0x11DEA), *range(0x16FF4, 0x16FF7))  # of Digits, not of \p{N}


class Twins:
    """A tokenizer, and the package that says what is right."""

    def __init__(self, folder: Path) -> None:
        self.ours = Tokenizer.from_pretrained(folder / "tokenizer.json")
        assert self.ours.engine == "native", self.ours.engine_reason
        self.theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.theirs.no_truncation()
        self.theirs.no_padding()
        self.added = [token.content for token in self.theirs.get_added_tokens_decoder().values()]

    def check(self, texts: list[str], special: bool = True) -> None:
        rows = self.ours.encode_batch(texts, add_special_tokens=special)
        encodings = self.theirs.encode_batch_fast(texts, add_special_tokens=special)
        want = [encoding.ids for encoding in encodings]
        if rows.ids.tolist() == [number for ids in want for number in ids]:
            lengths = np.fromiter(map(len, want), np.int64, len(want))
            if np.array_equal(rows.lengths, lengths):
                return
        for at, text in enumerate(texts):
            assert rows.row(at).tolist() == want[at], ascii(text)


@pytest.fixture(scope="module", params=REAL)
def twins(request: pytest.FixtureRequest, test_data: Path) -> Twins:
    return Twins(test_data / "tokenizers" / request.param)


def split(regex: str) -> Json:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def words_of(regex: str) -> Json:
    return split(regex) | {"behavior": "Removed", "invert": True}


def digits(one: bool) -> Json:
    return {"type": "Digits", "individual_digits": one}


def byte_level(use_regex: bool = False) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES_BEHIND = r"\s*[\r\n]+|\s+(?!\S)|\s+"
FIRST, SECOND = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = rf"{CONTRACTIONS}|{LEAD}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES_BEHIND}"
QWEN2 = CL100K.replace("{1,3}", "")
MINICPM = CL100K.replace("{1,3}", "+")
QWEN35 = QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"^\s\p{L}", r"^\s\p{L}\p{M}")
TEKKEN = (
    rf"{LEAD}{FIRST}*{SECOND}+|{LEAD}{FIRST}+{SECOND}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES_BEHIND}"
)
O200K = (
    rf"{LEAD}{FIRST}*{SECOND}+{CONTRACTIONS}?|{LEAD}{FIRST}+{SECOND}*{CONTRACTIONS}?|\p{{N}}{{1,3}}|"
    rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES_BEHIND}"
)
DEEPSEEK_V3 = (  # its file has the newlines themselves
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"""
    rf"[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES_BEHIND}"
).replace(r"\r\n", "\r\n")
KANA, HANGUL = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
ALPHABETS = (
    "\\s?["
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
SIGNS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
THREE = "[0-9][0-9][0-9]"
RUNS: Json = {"type": "Punctuation", "behavior": "Contiguous"}

CHAINS: dict[str, list[Json]] = {
    "gpt2": [split(GPT2), byte_level()],
    "cl100k": [words_of(CL100K), byte_level()],
    "qwen2": [split(QWEN2), byte_level()],
    "qwen35": [split(QWEN35), byte_level()],
    "o200k": [split(O200K), byte_level()],
    "tekken": [split(TEKKEN), byte_level()],
    "deepseek-v3 alone": [split(DEEPSEEK_V3), byte_level()],
    "minicpm alone": [words_of(MINICPM), byte_level()],
    "starcoder": [digits(True), byte_level(use_regex=True)],
    "digits in runs": [digits(False), byte_level(use_regex=True)],
    "numbers": [split(r"\p{N}"), byte_level(use_regex=True)],
    "minicpm": [split(r"\p{N}{1,3}"), split(MINICPM), byte_level()],
    "split and its own regex": [split(KANA), split(QWEN2), byte_level(use_regex=True)],
    "deepseek-v3": [split(r"\p{N}{1,3}"), split(KANA), split(DEEPSEEK_V3), byte_level()],
    "deepseek-coder": [
        split("[\r\n]"),
        split(r"\s?\p{L}+"),
        split(r"\s?\p{P}+"),
        split(HANGUL),
        digits(True),
        byte_level(),
    ],
    "deepseek-llm": [
        split("[\r\n]"),
        split(ALPHABETS),
        split(SIGNS),
        split(r"\s+$"),
        split(HANGUL),
        digits(True),
        byte_level(),
    ],
    "ends of lines": [split(r"\s+$"), byte_level()],
    "falcon": [RUNS, byte_level(use_regex=True), digits(False), split(THREE)],
    "falcon3": [RUNS, byte_level(use_regex=True), digits(True)],
    "punctuation": [
        {"type": "Punctuation", "behavior": "Isolated"},
        split(THREE),
        byte_level(use_regex=True),
    ],
    "bytes only": [byte_level(), split(THREE), digits(False)],
}


@pytest.fixture(scope="module", params=list(CHAINS.values()), ids=list(CHAINS))
def chained_twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """A tokenizer that merges any two bytes that stand in one word, so that its ids tell where words end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = list(product(alphabet, alphabet))
    random.Random(5).shuffle(pairs)
    vocabulary = {token: number for number, token in enumerate([*alphabet, *map("".join, pairs)])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, pairs))
    sequence = {"type": "Sequence", "pretokenizers": request.param}
    document = json.loads(backend.to_str()) | {"pre_tokenizer": sequence}
    folder = tmp_path_factory.mktemp("chained")
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    return Twins(folder)


@pytest.fixture(scope="module", params=["tiny_bpe", "tiny_wordpiece", "tiny_unigram"])
def tiny_twins(request: pytest.FixtureRequest) -> Twins:
    return Twins(request.getfixturevalue(request.param))


def every_code_point(step: int = 1) -> list[str]:
    """Each alone, between letters, and behind a space."""
    shapes = ("{}", "a{}b", " {}x")
    return [shape.format(character) for character in code_points()[::step] for shape in shapes]


def crowded_code_points(step: int) -> list[str]:
    """Those that tokenizers treat one by one, and every so manieth of the others, in many neighbourhoods."""
    shape = "a{0}b {0}X  {0}  1{0}23{0}{0}.{0}\n{0}'s "
    used = {*range(0x800), *range(0x1C80, 0x3100), *ONLY_DIGITS}
    some = [character for character in code_points() if ord(character) in used or ord(character) % step == 0]
    texts = [shape.format(character) for character in some]
    return ["".join(texts[at : at + 64]) for at in range(0, len(texts), 64)]


def category_pairs() -> list[str]:
    """A character of each category next to one of each other."""
    some = [characters[len(characters) // 3] for characters in by_category()]
    some += ["a", "Z", "s", "'", " ", "\n", "7", ".", "水", "é", "\u0301"]
    return [f"{one}{two}{between}{one}" for one in some for two in some for between in ("", " ")]


def test_tiny_tokenizers_agree_on_strange_texts(tiny_twins: Twins) -> None:
    tiny_twins.check(list(islice(strange_texts(1, tiny_twins.added), CI_TEXTS)))
    tiny_twins.check(category_pairs(), special=False)


def test_chains_of_pre_tokenizers_agree_on_strange_texts(chained_twins: Twins) -> None:
    chained_twins.check(list(islice(strange_texts(6), CI_TEXTS // 2)))
    chained_twins.check(category_pairs())
    chained_twins.check(crowded_code_points(step=499))


def test_real_tokenizers_agree_on_strange_texts(twins: Twins) -> None:
    twins.check(list(islice(strange_texts(2, twins.added), CI_TEXTS)))
    twins.check(category_pairs(), special=False)
    twins.check(every_code_point(step=211))


def test_added_tokens_are_found_wherever_they_stand(twins: Twins) -> None:
    some = twins.added[:40]
    shapes = (
        "{0}",
        "a{0}b",
        " {0} ",
        "a {0} b",
        "{0}{0}",
        "{0} {1}",
        "é{0}水{1}",
        "{0}\n",
        "{0}{1}'s",
        "x{0}",
    )
    texts = [shape.format(one, two) for one in some for two in (some[0], some[-1]) for shape in shapes]
    twins.check(texts + [text.upper() for text in texts])


def test_a_text_that_is_cut_short_begins_like_the_whole(twins: Twins) -> None:
    check_heads(twins)


def test_a_text_that_chains_cut_short_begins_like_the_whole(chained_twins: Twins) -> None:
    check_heads(chained_twins)


def check_heads(twins: Twins) -> None:
    texts = list(islice(strange_texts(3), 2_000))
    long = [
        " ".join(texts[at : at + 50]) + " the water falls and falls" * 40 for at in range(0, len(texts), 50)
    ]
    whole = twins.ours.encode_batch(long, add_special_tokens=False)
    for max_length in (1, 5, 33, 128):
        cut = twins.ours.encode_batch(long, add_special_tokens=False, max_length=max_length)
        for at in range(len(long)):
            assert cut.row(at).tolist() == whole.row(at)[:max_length].tolist()
        assert (
            twins.ours.count_batch(long, add_special_tokens=False, max_length=max_length).tolist()
            == cut.lengths.tolist()
        )


def test_a_very_long_word_is_neither_slow_nor_wrong(twins: Twins) -> None:
    for word in ("a" * 200_000, "ab" * 100_000, "水" * 70_000, " " * 200_000, "é1" * 60_000):
        ids = twins.ours.encode_batch([word], add_special_tokens=False).ids
        assert len(ids) > 0 or not word.strip()
    twins.check(["x" * 3_000, "水" * 1_000, "ab" * 1_500, "1" * 3_000, " " * 1_000 + "a"])


@pytest.mark.parametrize("character", ["é", "水", "\U0001f30a"], ids=["latin1", "ucs2", "ucs4"])
def test_strings_of_every_width_are_read_whole(tiny_bpe: Path, character: str) -> None:
    """A wide character at each place of the blocks that strings are read in, once and again."""
    twins = Twins(tiny_bpe)
    texts = ["a" * at + character + "b" * (size - at) for size in range(50) for at in range(size + 1)]
    twins.check(texts)
    twins.check([text + text[::-1] for text in texts])
    for max_length in (1, 16, 17):
        cut = twins.ours.encode_batch(texts, max_length=max_length)
        whole = twins.ours.encode_batch(texts)
        assert all(cut.row(at).tolist() == whole.row(at)[:max_length].tolist() for at in range(len(texts)))


@pytest.mark.parametrize("beside", ["", "水", "\U0001f30a"])
def test_a_lone_surrogate_is_found_at_every_place(tiny_bpe: Path, beside: str) -> None:
    tokenizer = Tokenizer.from_pretrained(tiny_bpe)
    texts = [beside + "a" * at + "\udc00" + "b" * (40 - at) for at in range(41)]
    rows, failures = tokenizer.encode_rows(texts)
    assert len(rows.ids) == 0
    for at in range(41):
        assert f"(U+DC00 at character {at + len(beside) + 1})" in str(failures[at])


class Doubtful:
    """A native engine that is not sure of texts with water in them."""

    def __init__(self, native: Any) -> None:
        self._native = native

    def encode_rows(self, texts: Any, pairs: Any, frame: Any, with_types: bool) -> Any:
        ids, offsets, types, sizes, status = self._native.encode_rows(texts, pairs, frame, with_types)
        keep = self._is_sure(texts) if pairs is None else self._is_sure(texts) & self._is_sure(pairs)
        lengths = np.diff(offsets) * keep
        token_stays = np.repeat(keep, np.diff(offsets))
        types = None if types is None else types[token_stays]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return ids[token_stays], offsets, types, sizes, self._status(keep, status)

    def count_rows(self, texts: Any, frame: Any) -> Any:
        counts, status = self._native.count_rows(texts, frame)
        keep = self._is_sure(texts)
        return counts * keep, self._status(keep, status)

    def _status(self, keep: Any, status: Any) -> Any:
        if keep.all():
            return status
        return np.where(keep, 0 if status is None else status, 2).astype(np.uint8)

    def _is_sure(self, texts: Any) -> Any:
        return np.array(["water" not in str(text) for text in texts])


@pytest.mark.parametrize("folder", ["tiny_bpe", "tiny_wordpiece"])
def test_a_text_the_engine_does_not_know_is_left_to_the_package(
    folder: str, request: pytest.FixtureRequest
) -> None:
    """Rows that the engine gives back unread are made by `tokenizers`, among those that it made."""
    sure, doubtful = (Twins(request.getfixturevalue(folder)) for _ in range(2))
    engine: Any = doubtful.ours._engine
    engine._native = Doubtful(engine._native)
    texts: Any = ["the dam", "the water falls", "", "water", "a turbine", None]
    doubtful.check(texts[:5])
    assert doubtful.ours.num_fallbacks == 2

    def compare(call: str, num_texts: int, *arguments: Any, **options: Any) -> None:
        before = doubtful.ours.num_fallbacks
        found, want = (getattr(each.ours, call)(*arguments, **options) for each in (doubtful, sure))
        assert str(found) == str(want)
        assert doubtful.ours.num_fallbacks - before == num_texts

    for column in (texts, pa.array(texts)):
        compare("encode_rows", 2, column)
        compare("encode_rows", 2, column, max_length=3)
        compare("encode_rows", 4, column, column[::-1], max_length=4)
        compare("encode_rows", 2, column, max_length=4, stride=1)
    compare("count_batch", 2, texts[:5])
    compare("encode_padded", 2, texts[:5])
    compare("encode_packed", 2, texts[:5])
    compare("encode_batch", 0, ["the dam", "a turbine"])
    with pytest.raises(RowTokenizerError, match="row 6: the text is null"):
        doubtful.ours.count_batch(texts)
    assert sure.ours.num_fallbacks == 0


def test_stats_say_how_many_texts_were_left_to_the_package_in_a_pass(tiny_bpe: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(tiny_bpe)
    engine: Any = tokenizer._engine
    engine._native = Doubtful(engine._native)
    texts = ["the dam", "the water falls", "", "water", "a turbine"]
    tokenizer.encode_batch(texts)  # counted before the pass
    with Prefetcher(texts, tokenizer, device="cpu", max_batch_rows=2) as batches:
        assert sum(len(batch) for batch in batches) == len(texts)
        stats = batches.stats()
    assert stats.num_fallbacks == 2
    assert "2 texts left to tokenizers" in str(stats)


def test_texts_left_to_the_package_are_counted_by_all_threads(tiny_bpe: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(tiny_bpe)
    engine: Any = tokenizer._engine
    engine._native = Doubtful(engine._native)
    with ThreadPoolExecutor(8) as pool:
        views = (tokenizer, tokenizer.with_bos(0))
        list(pool.map(lambda turn: views[turn % 2].encode_batch(["water", "dam", "water"]), range(400)))
    assert [view.num_fallbacks for view in views] == [800, 800]


def test_what_joins_its_neighbours_is_never_taken_for_what_stands_alone(twins: Twins) -> None:
    """A charsmap sees graphemes: a word of a mark or a joiner is another word behind a space."""
    joining = ["\u200d\u0344", "\u0e33", "\U0001f3fb", "\u0301", "\u200d\u200d", "\u0d4e"]
    texts = [text for word in joining for text in (word, f"a {word}", f"{word} a", f"a{word}", f"a{word} b")]
    twins.check(texts + texts)


@pytest.mark.proof
@pytest.mark.timeout(6_000)
def test_ten_million_strange_texts(twins: Twins) -> None:
    texts = strange_texts(int(os.environ.get("PENSTOCK_SEED", "4")), twins.added)
    for _ in range(PROOF_TEXTS // len(REAL) // BATCH):
        twins.check(list(islice(texts, BATCH)))


@pytest.mark.proof
@pytest.mark.timeout(6_000)
def test_chains_agree_on_every_code_point(chained_twins: Twins) -> None:
    texts = crowded_code_points(step=1)
    for start in range(0, len(texts), BATCH):
        chained_twins.check(texts[start : start + BATCH])


@pytest.mark.proof
@pytest.mark.timeout(6_000)
def test_every_code_point_and_every_document(twins: Twins, test_data: Path) -> None:

    points = every_code_point()
    for start in range(0, len(points), BATCH):
        twins.check(points[start : start + BATCH], special=False)
    for path in sorted((test_data / "corpora").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            documents = [json.loads(line)["text"] for line in lines]
        for start in range(0, len(documents), BATCH):
            twins.check(documents[start : start + BATCH])
            twins.check(documents[start : start + BATCH], special=False)


PROCESSORS: list[Any] = [
    None,
    processors.ByteLevel(),
    processors.BertProcessing(("water", 3), ("dam", 2)),
    processors.RobertaProcessing(("water", 3), ("dam", 2)),
    processors.TemplateProcessing(
        single="dam:2 $A:1 water:0",
        pair="dam $A:0 water water:1 $B:2 dam:2",
        special_tokens=[("dam", 2), ("water", 3)],
    ),
    processors.TemplateProcessing(single="$A", pair="$A:1 $B:0", special_tokens=[]),
    processors.Sequence([processors.ByteLevel(), processors.RobertaProcessing(("water", 3), ("dam", 2))]),
]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_stands_around_texts_is_read_as_it_is(tiny_wordpiece: Path, processor: Any) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny_wordpiece / "tokenizer.json"))
    backend.post_processor = processor
    engine = Tokenizer.from_pretrained(backend)._engine
    assert engine.name == "native"
    probed = TokenizersEngine(backend.to_str(), "a test", "")
    for num_texts in (1, 2):
        for special in (True, False):
            got = engine.frame(num_texts, add_special_tokens=special)
            want = probed.frame(num_texts, add_special_tokens=special)
            assert tokens_of(got) == tokens_of(want)


def tokens_of(frame: Frame) -> list[tuple[int | None, int, int | None]]:
    """Texts and special tokens one by one: neighbours may be one piece or several."""
    return [
        (piece.text, piece.type_id, token)
        for piece in frame.pieces
        for token in (piece.ids if piece.text is None else (None,))
    ]


REFUSED: list[tuple[list[Json], str]] = [
    ([split("x+"), byte_level()], "pre_tokenizer Split with x+"),
    ([words_of(r"\p{N}"), byte_level()], r"pre_tokenizer Matches with \p{N}"),
    ([words_of(DEEPSEEK_V3), byte_level()], "pre_tokenizer Matches"),
    ([split(GPT2) | {"behavior": "MergedWithNext"}, byte_level()], "Split with behavior 'MergedWithNext'"),
    ([RUNS | {"behavior": "Removed"}, byte_level()], "pre_tokenizer Punctuation with Removed"),
    ([split("one") | {"pattern": {"String": " "}}, byte_level()], "pre_tokenizer Split of a string"),
    ([digits(True), byte_level() | {"add_prefix_space": True}], "prefix space behind other splits"),
    ([byte_level(), split(GPT2)], "pre_tokenizer Split of bytes"),
    ([byte_level(), RUNS], "pre_tokenizer Punctuation of bytes"),
    ([byte_level(), byte_level()], "pre_tokenizer ByteLevel"),
    ([{"type": "WhitespaceSplit"}, byte_level()], "pre_tokenizer WhitespaceSplit"),
    ([*[digits(True)] * 8, byte_level(use_regex=True)], "a pre_tokenizer of no steps, or of more than 8"),
]


def test_the_engine_refuses_by_name_what_it_does_not_know(tiny_bpe: Path) -> None:

    document = json.loads((tiny_bpe / "tokenizer.json").read_text(encoding="utf-8"))
    x_only = split("x+")
    replace = {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    changes: list[tuple[str, Any, str]] = [
        ("pre_tokenizer", x_only, "pre_tokenizer Split"),
        *(
            (
                "pre_tokenizer",
                {"type": "Sequence", "pretokenizers": chain},
                reason,
            )
            for chain, reason in REFUSED
        ),
        ("normalizer", replace, "normalizer Replace of a regex"),
        ("model", document["model"] | {"dropout": 0.5}, "BPE with dropout 0.5"),
        ("model", words, "model type 'WordLevel'"),
    ]
    for section, value, reason in changes:
        tokenizer = Tokenizer.from_pretrained(
            tokenizers.Tokenizer.from_str(json.dumps(document | {section: value}))
        )
        assert tokenizer.engine == "tokenizers"
        assert reason in tokenizer.engine_reason
    assert isinstance(Tokenizer.from_pretrained(tiny_bpe)._engine, NativeEngine)


@pytest.mark.parametrize("section", ["normalizer", "pre_tokenizer", "post_processor", "added_tokens"])
def test_a_damaged_section_is_told_as_such(tiny_bpe: Path, tmp_path: Path, section: str) -> None:
    document = json.loads((tiny_bpe / "tokenizer.json").read_text(encoding="utf-8"))
    broken: Any = [{"content": 5}] if section == "added_tokens" else {"type": "BertProcessing"}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document | {section: broken}), encoding="utf-8")
    with pytest.raises(TokenizerError, match=f"section {section}"):
        Tokenizer.from_pretrained(path)
