"""The native engine is `tokenizers`, id for id, on texts that nobody writes."""

from __future__ import annotations

import json
import os
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from penstock.errors import TokenizerError
from penstock.tokenizer import Tokenizer
from penstock.tokenizer_engine import TokenizersEngine
from penstock.tokenizer_native import NativeEngine
from strange_texts import REAL, by_category, code_points, strange_texts

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.tokenizer_layout import Frame

PROOF_TEXTS = 10_000_000  # over all tokenizers
CI_TEXTS = 4_000  # of each
BATCH = 1_000


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


@pytest.fixture(scope="module", params=["tiny_bpe", "tiny_wordpiece", "tiny_unigram"])
def tiny_twins(request: pytest.FixtureRequest) -> Twins:
    return Twins(request.getfixturevalue(request.param))


def every_code_point(step: int = 1) -> list[str]:
    """Each alone, between letters, and behind a space."""
    shapes = ("{}", "a{}b", " {}x")
    return [shape.format(character) for character in code_points()[::step] for shape in shapes]


def category_pairs() -> list[str]:
    """A character of each category next to one of each other."""
    some = [characters[len(characters) // 3] for characters in by_category()]
    some += ["a", "Z", "s", "'", " ", "\n", "7", ".", "水", "é", "\u0301"]
    return [f"{one}{two}{between}{one}" for one in some for two in some for between in ("", " ")]


def test_tiny_tokenizers_agree_on_strange_texts(tiny_twins: Twins) -> None:
    tiny_twins.check(list(islice(strange_texts(1, tiny_twins.added), CI_TEXTS)))
    tiny_twins.check(category_pairs(), special=False)


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


def test_a_text_the_engine_does_not_know_is_left_to_the_package(tiny_bpe: Path) -> None:
    """Rows that the engine gives back unread are made by `tokenizers`, among those that it made."""
    twins = Twins(tiny_bpe)
    engine: Any = twins.ours._engine
    native = engine._native

    class Doubtful:
        def encode_rows(self, texts: Any, pairs: Any, frame: Any, with_types: bool) -> Any:
            ids, offsets, types, sizes, status = native.encode_rows(texts, pairs, frame, with_types)
            keep = np.array(["water" not in text for text in texts])
            lengths = np.diff(offsets) * keep
            ids = ids[np.repeat(keep, np.diff(offsets))]
            return ids, np.concatenate([[0], np.cumsum(lengths)]), types, sizes, np.where(keep, status, 2)

    engine._native = Doubtful()
    twins.check(["the dam", "the water falls", "", "water", "a turbine"])
    assert engine.num_inexact == 2


@pytest.mark.proof
@pytest.mark.timeout(6_000)
def test_ten_million_strange_texts(twins: Twins) -> None:
    texts = strange_texts(int(os.environ.get("PENSTOCK_SEED", "4")), twins.added)
    for _ in range(PROOF_TEXTS // len(REAL) // BATCH):
        twins.check(list(islice(texts, BATCH)))


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


def test_the_engine_refuses_by_name_what_it_does_not_know(tiny_bpe: Path) -> None:

    document = json.loads((tiny_bpe / "tokenizer.json").read_text(encoding="utf-8"))
    split = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "b"}
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    changes: list[tuple[str, Any, str]] = [
        ("pre_tokenizer", split, "pre_tokenizer Split"),
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
