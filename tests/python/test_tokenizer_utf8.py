"""What CPython keeps a str in, one, two or four bytes a character, as the UTF-8 that the engine reads."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

import penstock

# Characters around which the length of the UTF-8 changes, by what a str of them and smaller ones is kept in.
EDGES = {
    "latin1": "\x00\x7f\x80\xff",
    "ucs2": "\x00\x7f\x80\xff\u07ff\u0800\ud7ff\ue000\uffff",
    "ucs4": "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0003ffff\U00040000\U0010ffff",
}


@pytest.fixture(scope="module")
def byte_tokenizer() -> penstock.Tokenizer:
    """Its tokens are the bytes of the text."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    vocabulary = {chr(byte): byte for byte in printable}
    vocabulary |= {chr(256 + at): byte for at, byte in enumerate(others)}
    backend = Backend(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = penstock.Tokenizer.from_pretrained(backend)
    assert tokenizer.engine == "native"
    return tokenizer


def read(tokenizer: penstock.Tokenizer, text: str) -> bytes:
    """The bytes that the engine reads of a str."""
    return bytes(tokenizer.encode_batch([text]).ids.tolist())


@pytest.mark.parametrize("kind", EDGES)
def test_every_length_at_every_place(byte_tokenizer: penstock.Tokenizer, kind: str) -> None:
    """Blocks of sixteen characters, what is left of one, and all orders of lengths in them."""
    edges, rng = EDGES[kind], random.Random(kind)
    for length in (*range(19), 31, 32, 33, 50):
        for few in (edges, edges[:2] + edges[-1], "a" + edges[-1], "a"):
            text = "".join(rng.choices(few, k=length)) + edges[-1]
            assert read(byte_tokenizer, text) == text.encode()
            assert (
                read(byte_tokenizer, edges[-1] + "a" * length + text)
                == (edges[-1] + "a" * length + text).encode()
            )


def test_every_character(byte_tokenizer: penstock.Tokenizer) -> None:
    """All code points but surrogates, those that two bytes hold apart from all."""
    small = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)]))
    large = "".join(map(chr, range(0x10000, 0x110000)))
    for text in (small[:0x100], small, large + small):
        assert read(byte_tokenizer, text) == text.encode()


@pytest.mark.parametrize("surrogates", [[0xD800], [0xDBFF], [0xDC00], [0xDFFF], [0xD83D, 0xDE00]])
@pytest.mark.parametrize("filler", ["a", "\u044f", "\U0001f600"])
def test_a_lone_surrogate_is_found_wherever_it_stands(
    byte_tokenizer: penstock.Tokenizer, surrogates: list[int], filler: str
) -> None:
    """In a whole block and in the rest of one, of two bytes a character and of four."""
    for length in (1, 15, 16, 17, 35):
        for place in range(length + 1):
            text = filler * place + "".join(map(chr, surrogates)) + filler * (length - place)
            with pytest.raises(penstock.RowTokenizerError, match="surrogate"):
                byte_tokenizer.encode_batch(["a", text])
