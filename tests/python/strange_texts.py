"""What tokenizers are tested with: the names of the real ones, and strings that find what they get wrong."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

REAL = (
    "bert-base-cased",
    "bert-base-multilingual-cased",
    "bert-base-uncased",
    "cl100k",
    "dolma2",
    "gpt2",
    "llama3",
    "minilm",
    "mistral-v1",
    "modernbert-like",
    "o200k",
    "phi3",
    "qwen3",
    "roberta",
    "t5-small",
    "xlm-roberta",
)
"""The tokenizers among the external test data."""

WORDS = (
    "the",
    "Water",
    "FALLS",
    "don't",
    "I'LL",
    "we've",
    "x's",
    "Straße",
    "naïve",
    "İstanbul",
    "ſo",
    "ﬁne",
    "e\u0301a\u0323\u0302",
)
SPACES = (
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u0085",
    "\u200b",
    "\ufeff",
    "\x0b",
    "\x1f",
)
DIGITS = ("7", "42", "1234", "١٢", "५", "Ⅷ", "½", "²", "1,024", "3.14")
MARKS = (
    "'",
    '"',
    ".",
    ",",
    "!",
    "?",
    "...",
    "-",
    "_",
    "▁",
    "$",
    "+",
    "`",
    "~",
    "^",
    "。",
    "、",
    "«",
    "—",
    "’",
    "/",
)
OTHERS = (
    "水は高い",
    "Вода",
    "नमस्ते",
    "ไทย",
    "한국어",
    "\u1112\u1161\u11ab",
    "العربية",
    "ﷺ",
    "\u0e33",
    "ᄀ",
    "\u0344",
)
EMOJI = (
    "\U0001f30a",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1eb\U0001f1f7",
    "\u2764\ufe0f",
    "\U0001f44d\U0001f3fd",
)
CONTROLS = (
    "\x00",
    "\x07",
    "\x7f",
    "\u0080",
    "\u200d",
    "\u202e",
    "\ufffd",
    "\ue000",
    "\ufffe",
    "\U0010ffff",
    "\u00ad",
)


@cache
def code_points() -> list[str]:
    """One list of every character that can be in a text, surrogates left out."""
    return [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]


@cache
def by_category() -> list[list[str]]:
    """Characters by their general category, so that rare ones are drawn as often as common ones."""
    found: dict[str, list[str]] = {}
    for character in code_points():
        found.setdefault(unicodedata.category(character), []).append(character)
    return list(found.values())


def strange_texts(seed: int, added: Sequence[str] = ()) -> Iterator[str]:
    """Texts without end.

    Args:
        seed: The same seed gives the same texts.
        added: Strings to mix in: the added tokens of a tokenizer.
    """
    draw = random.Random(seed)
    kinds = [WORDS, SPACES, SPACES, DIGITS, MARKS, MARKS, OTHERS, EMOJI, CONTROLS]
    while True:
        pieces = []
        for _ in range(draw.randrange(1, 12)):
            choice = draw.randrange(len(kinds) + 4)
            if choice < len(kinds):
                pieces.append(draw.choice(kinds[choice]))
            elif choice == len(kinds):
                pieces.append(draw.choice(draw.choice(by_category())))
            elif choice == len(kinds) + 1:
                pieces.append(
                    "".join(draw.choices("abcdefghijklmnopqrstuvwxyzABCDEF", k=draw.randrange(1, 9)))
                )
            elif choice == len(kinds) + 2:
                pieces.append(draw.choice(draw.choice(kinds)) * draw.randrange(1, 5))
            elif added:
                pieces.append(draw.choice(added))
            else:
                raw = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 6)))
                pieces.append(raw.decode("utf-8", "replace"))
        yield "".join(pieces)
