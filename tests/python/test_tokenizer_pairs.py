"""Which text of a pair is cut: ``pair_truncation`` against the strategies of the `tokenizers` package."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from both_engines import TINY, Twins, twins
from penstock import Prefetcher, Tokenizer
from penstock.errors import ConfigError, RowTokenizerError
from strange_texts import REAL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tokenizers

RULES = ("longest_first", "only_first", "only_second")
SENTENCE = "the water falls down from a dam to the turbine, naïve 水 \U0001f30a engineers turn it off\n"
WORDS = SENTENCE.split(" ")
TEXTS = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
LOADED: dict[str, Twins] = {}


@pytest.fixture(scope="module", autouse=True)
def _load(tiny_bpe: Path, tiny_wordpiece: Path, tiny_unigram: Path) -> None:
    LOADED.update(zip(TINY, map(twins, (tiny_bpe, tiny_wordpiece, tiny_unigram)), strict=True))


def expected(
    backend: tokenizers.Tokenizer, pair: tuple[str, str], size: int, rule: str, side: str, special: bool
) -> tuple[list[int], list[int]] | None:
    """The row that the package makes, and its type ids; None where it makes none."""
    backend.enable_truncation(size, strategy=rule, direction=side)
    try:
        encoding = backend.encode_batch([pair], add_special_tokens=special)[0]
    except Exception as error:
        if "too short to respect the provided max_length" not in str(error):
            raise
        return None
    return encoding.ids, encoding.type_ids


def check(
    of: Twins,
    pairs: Sequence[tuple[str, str]],
    size: int,
    rule: Any,
    side: Any,
    special: bool,
) -> int:
    """Both engines make the rows of the package, and none where it makes none: how many these are."""
    firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    want = [expected(of[2], pair, size, rule, side, special) for pair in pairs]
    reasons = []
    for tokenizer in of[:2]:
        rows, failures = tokenizer.encode_rows(
            firsts,
            seconds,
            max_length=size,
            truncation=side,
            pair_truncation=rule,
            add_special_tokens=special,
        )
        assert list(failures) == [at for at, row in enumerate(want) if row is None]
        for at, row in enumerate(want):
            ids, type_ids = row or ([], [])
            assert rows.row(at).tolist() == ids
            if rows.type_ids is not None:
                assert rows.type_ids[rows.offsets[at] : rows.offsets[at + 1]].tolist() == type_ids
        reasons.append({at: str(error) for at, error in failures.items()})
    assert reasons[0] == reasons[1]
    return len(reasons[0])


@pytest.mark.parametrize("name", TINY)
@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS), max_size=4),
    room=st.integers(0, 60),
    rule=st.sampled_from(RULES),
    side=st.sampled_from(["right", "left"]),
    special=st.booleans(),
)
def test_both_engines_cut_pairs_as_the_package_does(
    name: str, pairs: list[tuple[str, str]], room: int, rule: str, side: str, special: bool
) -> None:
    tokenizer = LOADED[name][0]
    size = max(1, room + (tokenizer.num_special_tokens(pair=True) if special else 0))
    check(LOADED[name], pairs, size, rule, side, special)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("rule", RULES[1:])
def test_every_length_of_both_texts_agrees(rule: str, side: str) -> None:
    pairs = [(" ".join("a" * first), " ".join("b" * second)) for first in range(7) for second in range(7)]
    refused = [check(LOADED["tiny_wordpiece"], pairs, size, rule, side, True) for size in range(3, 17)]
    assert refused[0] == 0, "without any room both are cut away"
    assert min(refused[1:6]) > 0
    assert refused[-1] == 0


def test_a_row_without_room_says_why_and_its_neighbours_do_not_care() -> None:
    for tokenizer in LOADED["tiny_wordpiece"][:2]:
        arguments: Any = {"max_length": 6, "pair_truncation": "only_second"}
        firsts, seconds = ["the", "the water falls down", None, "a"], ["water", "from", "b", None]
        rows, failures = tokenizer.encode_rows(firsts, seconds, **arguments)
        assert list(failures) == [1, 2, 3]
        assert rows.lengths.tolist() == [5, 0, 0, 0]
        assert isinstance(failures[1], RowTokenizerError)
        assert str(failures[1]) == (
            "rows, row 2: the first text alone fills the row of max_length=6, and "
            "pair_truncation='only_second' cuts only the second text, down to one token. Give a larger "
            "max_length, or pair_truncation='longest_first'"
        )
        assert "row 3: the text is null" in str(failures[2])
        assert "row 4: of the pair's second text: the text is null" in str(failures[3])
        with pytest.raises(RowTokenizerError, match=r"row 2: the first text alone"):
            tokenizer.encode_batch(firsts[:2], seconds[:2], **arguments)
        with pytest.raises(RowTokenizerError, match=r"the second text alone .* cuts only the first text"):
            tokenizer.encode_padded(
                ["a"], ["the water falls down"], max_length=6, pair_truncation="only_first"
            )
        arrow, arrow_failures = tokenizer.encode_rows(pa.array(firsts), pa.array(seconds), **arguments)
        assert arrow.ids.tolist() == rows.ids.tolist()
        assert list(map(str, arrow_failures.values())) == list(map(str, failures.values()))


def test_single_texts_are_cut_whatever_the_rule_for_pairs() -> None:
    for rule in RULES:
        for tokenizer in LOADED["tiny_wordpiece"][:2]:
            rows = tokenizer.encode_batch(["the water falls"], max_length=4, pair_truncation=rule)  # type: ignore[arg-type]
            assert rows.lengths.tolist() == [4]


def test_rules_that_cannot_be_are_refused_by_name() -> None:
    tokenizer = LOADED["tiny_bpe"][0]
    wrong: Any = "shortest"
    with pytest.raises(ConfigError, match=r"pair_truncation='shortest': must be one of \"longest_first\", "):
        tokenizer.encode_batch(["a"], ["b"], max_length=9, pair_truncation=wrong)
    with pytest.raises(ConfigError, match="pair_truncation='only_first': with_bos has a rule of its own"):
        tokenizer.with_bos(0).encode_batch(["a"], ["b"], max_length=9, pair_truncation="only_first")


@pytest.mark.parametrize("words", [WORDS[:7], WORDS], ids=["ascii", "not ascii"])
def test_a_long_second_text_is_read_only_as_far_as_needed(words: list[str]) -> None:
    tokenizer, _, backend = LOADED["tiny_wordpiece"]
    short = " ".join(words * 40)
    long = short + " " + " ".join(words * 30_000)
    want = expected(backend, ("the water", short), 64, "only_second", "right", True)
    times = {}
    for name, second in (("short", short), ("long", long)):
        arguments: Any = (["the water"] * 20, [second] * 20)
        begin = time.perf_counter()
        rows = tokenizer.encode_batch(*arguments, max_length=64, pair_truncation="only_second")
        times[name] = time.perf_counter() - begin
        assert want is not None
        assert rows.row(19).tolist() == want[0]
    assert times["long"] < 20 * times["short"] + 0.02, "to read it to its end takes far longer"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_cut_pairs_as_the_package_does(test_data: Path, name: str) -> None:
    of = twins(test_data / "tokenizers" / name)
    texts = [" ".join(np.roll(WORDS, turn)[: 1 + turn % 23]) for turn in range(40)]
    pairs = list(zip(texts, texts[::-1], strict=True))
    refused = 0
    for special in (True, False):
        least = of[0].num_special_tokens(pair=True) if special else 0
        for rule in RULES:
            for side in ("right", "left"):
                for room in (1, 8, 21, 50):
                    refused += check(of, pairs, least + room, rule, side, special)
    assert refused > 20


@pytest.mark.parametrize("rule", ["longest_first", "only_first", "only_second"])
def test_the_prefetcher_cuts_pairs_as_it_is_told(tiny_wordpiece: Path, rule: Any) -> None:
    tokenizer = Tokenizer.from_pretrained(tiny_wordpiece)
    texts, others = ["the water falls down the dam", "the water"], ["a turbine and the water", "the dam"]
    max_length = int(tokenizer.encode_batch(texts, others).lengths.max()) - 3
    whole = tokenizer.encode_batch(texts, others, max_length=max_length, pair_truncation=rule)
    pairs = list(zip(texts, others, strict=True))
    with Prefetcher(
        pairs, tokenizer, device="cpu", max_length=max_length, pair_truncation=rule, window_rows=1
    ) as batches:
        (batch,) = batches
    assert [
        row[:count].tolist()
        for row, count in zip(batch.inputs["input_ids"], batch.num_tokens.tolist(), strict=True)
    ] == [whole.row(at).tolist() for at in range(len(pairs))]
