"""A text that is cut is read only as far as it must be, and its tokens begin those of the whole text."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from penstock.tokenizer import Tokenizer
from strange_texts import REAL, strange_texts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALPHABETS = (
    "abAB",
    "0123456789",
    "0123456789,.;\n",
    "aé\u0301\u0300ñ '\u2019.",
    "क़\u0915\u093c\u0959, .a",
    "中文的一是\uff0c。 ",
    "กำลังไทยๆ ",
    "한국어\uac01\u1100\u1161가 ",
    "😀🇫🇷👍\U0001f3fd\u200d\ufe0f ",
    "aB3/+=",
    " a\u3000\t\n,▁",
    "ab ",
    "a",
    "=-",
    "①Ⅷａ１ﬁ½ ,x",
    "\u0301\u0338=<>a ,1",
    " 1 2,3",
    "'sStTa1 /\n",
    "\x00\x07\u200b a,1",
)
"""Each has what one rule for places to cut is about: runs without white space, marks, digits, white space."""

LENGTHS = (1, 2, 3, 8, 40, 200)


def hard_texts(seed: int, added: list[str]) -> Iterator[str]:
    """Texts without end, most of them longer than what is read of them at first."""
    draw = random.Random(seed)
    strange = strange_texts(seed, added)
    while True:
        yield "".join(draw.choices(draw.choice(ALPHABETS), k=draw.randrange(600, 2500)))
        yield "".join(next(strange) for _ in range(draw.randrange(20, 150)))
        runs = (draw.choices(draw.choice(ALPHABETS), k=draw.randrange(1, 80)) for _ in range(40))
        yield "".join("".join(run) + draw.choice(("", "", *added)) for run in runs)


def heads_agree(tokenizer: Tokenizer, whole: list[int], text: str) -> bool:
    """Whether rows of every length begin and end as the whole does, and are counted right."""
    for length in (*LENGTHS, len(whole), len(whole) + 1):
        right = tokenizer.encode_batch([text], max_length=length, add_special_tokens=False)
        left = tokenizer.encode_batch([text], max_length=length, truncation="left", add_special_tokens=False)
        if right.row(0).tolist() != whole[:length] or left.row(0).tolist() != whole[-length:]:
            return False
        counts = tokenizer.count_batch([text], max_length=length, add_special_tokens=False)
        if counts.tolist() != [min(length, len(whole))]:
            return False
    return True


@pytest.fixture(scope="module", params=REAL)
def both(request: pytest.FixtureRequest, test_data: Path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    file = test_data / "tokenizers" / request.param / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.no_truncation()
    backend.no_padding()
    native = Tokenizer.from_pretrained(file)
    assert native.engine == "native"
    return native, backend


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_of_any_length_begin_the_whole(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    native, backend = both
    added = [token.content for token in backend.get_added_tokens_decoder().values()][:20]
    texts = hard_texts(11, added)
    for _ in range(60):
        text = next(texts)
        whole = backend.encode(text, add_special_tokens=False).ids
        assert heads_agree(native, whole, text), text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_comes_behind_changes_nothing(both: tuple[Tokenizer, tokenizers.Tokenizer]) -> None:
    """The same head with other ends: what is read decides, and the whole agrees."""
    native, backend = both
    draw = random.Random(4)
    for alphabet in ALPHABETS:
        head = "".join(draw.choices(alphabet, k=700))
        for _ in range(4):
            text = head + "".join(draw.choices(draw.choice(ALPHABETS), k=draw.randrange(400)))
            whole = backend.encode(text, add_special_tokens=False).ids
            for length in (20, 100, 150, 250):
                row = native.encode_batch([text], max_length=length, add_special_tokens=False).row(0)
                assert row.tolist() == whole[:length], text


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["llama3", "qwen3", "bert-base-uncased", "t5-small", "xlm-roberta", "phi3"])
@pytest.mark.parametrize("kind", ["table", "base64", "russian", "chinese"])
def test_a_long_text_is_not_read_to_its_end(test_data: Path, name: str, kind: str) -> None:
    """A lone surrogate far behind the head: nobody who does not read it can know of it."""
    draw = random.Random(2)
    letters = {
        "table": "0123456789,.\n",
        "base64": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/",
        "russian": "абвгдежзийклмнопрст ",
        "chinese": "的一是在不了有和人这中大为上个国我以要他\uff0c。",
    }[kind]
    text = "".join(draw.choices(letters, k=100_000))
    native = Tokenizer.from_pretrained(test_data / "tokenizers" / name / "tokenizer.json")
    rows, failures = native.encode_rows([text + "\ud800"], max_length=64, add_special_tokens=False)
    assert not failures
    whole = native.encode_batch([text], add_special_tokens=False).row(0)
    assert rows.row(0).tolist() == whole[:64].tolist()
    _, failures = native.encode_rows([text[:50] + "\ud800"], max_length=64, add_special_tokens=False)
    assert 0 in failures, "what is read is looked at"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_text_whose_first_token_depends_on_its_end_is_read_whole(test_data: Path) -> None:
    """Pieces of several lengths, all of one letter: which one comes first depends on how many there are."""
    native = Tokenizer.from_pretrained(test_data / "tokenizers" / "xlm-roberta" / "tokenizer.json")
    _, failures = native.encode_rows(["a" * 20_000 + "\ud800"], max_length=8, add_special_tokens=False)
    assert 0 in failures


@given(st.data())
def test_any_text_begins_as_the_whole(data: st.DataObject) -> None:
    tokenizer, backend = data.draw(st.sampled_from(LOADED))
    alphabet = data.draw(st.sampled_from((*ALPHABETS, None)))
    characters = st.characters(codec="utf-8") if alphabet is None else st.sampled_from(alphabet)
    part = st.text(characters, max_size=60)
    text = data.draw(part) + data.draw(part) * data.draw(st.integers(1, 40)) + data.draw(part)
    length = data.draw(st.integers(1, 30))
    whole = backend.encode(text, add_special_tokens=False).ids
    row = tokenizer.encode_batch([text], max_length=length, add_special_tokens=False).row(0)
    assert row.tolist() == whole[:length]


LOADED: list[tuple[Tokenizer, tokenizers.Tokenizer]] = []


@pytest.fixture(scope="module", autouse=True)
def _load(tiny_bpe: Path, tiny_wordpiece: Path, tiny_unigram: Path) -> None:
    for folder in (tiny_bpe, tiny_wordpiece, tiny_unigram):
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        LOADED.append((Tokenizer.from_pretrained(folder), backend))
