"""Texts of 1 MB for ``stop``: every kind of writing that is hard to stop in, the same on every machine."""

from __future__ import annotations

import base64
import json
import os
import random
import unicodedata
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_BYTES = 1_000_000


def _corpus(name: str) -> list[str]:
    """The documents of a corpus of the test data."""
    path = Path(os.environ["PENSTOCK_TEST_DATA"]) / "corpora" / f"{name}.jsonl"
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


@cache
def _multilingual() -> list[str]:
    """Read once: several kinds look for their script in it."""
    return _corpus("multilingual")


def _share(text: str, script: str) -> float:
    """How many of the letters have names that begin so."""
    letters = [letter for letter in text[:400] if letter.isalpha()]
    return sum(unicodedata.name(letter, "").startswith(script) for letter in letters) / max(len(letters), 1)


def _script(script: str) -> list[str]:
    """Documents in one script."""
    return [text for text in _multilingual() if _share(text, script) > 0.7]


def _draw(letters: str, length: int) -> list[str]:
    """Characters at random, always the same."""
    return random.Random(3).choices(letters, k=length)


def _table() -> list[str]:
    """Numbers with commas, no space."""
    draw = random.Random(5)
    return [",".join(f"{draw.uniform(-1e4, 1e4):.3f}" for _ in range(8)) for _ in range(20_000)]


def _emoji() -> list[str]:
    """Words of emoji."""
    faces = "".join(chr(code) for code in range(0x1F300, 0x1F6FF)) + "\u200d\ufe0f"
    draw = random.Random(7)
    return ["".join(draw.choices(faces, k=draw.randrange(1, 12))) + " " for _ in range(60_000)]


def _unbroken() -> list[str]:
    """Chinese characters without white space or punctuation."""
    letters = dict.fromkeys(filter(str.isalpha, "".join(_script("CJK"))))
    return _draw("".join(letters), NUM_BYTES // 3)


KINDS: dict[str, Callable[[], list[str]]] = {
    "english": lambda: _corpus("books_en"),
    "code": lambda: _corpus("code"),
    "chinese": lambda: _script("CJK"),
    "russian": lambda: _script("CYRILLIC"),
    "thai": lambda: _script("THAI"),
    "numbers": _table,
    "base64": lambda: [base64.b64encode(random.Random(1).randbytes(NUM_BYTES)).decode()],
    "emoji": _emoji,
    # One word: nothing of what splits text into words is there.
    "digits": lambda: _draw("0123456789", NUM_BYTES),
    "unbroken": _unbroken,
    "repeated": lambda: ["a" * NUM_BYTES],
}


@cache
def long_text(kind: str) -> str:
    """A text of 1 MB, or as much as there is of it, over and over."""
    glue = "" if kind in ("digits", "unbroken") else "\n"
    text = glue.join(KINDS[kind]())
    while len(text.encode()) < NUM_BYTES:
        text += glue + text
    return text.encode()[:NUM_BYTES].decode(errors="ignore")
