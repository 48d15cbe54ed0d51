"""One tokenizer three times: the native engine, the engine over `tokenizers`, and that package itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import tokenizers

from penstock.tokenizer import Tokenizer
from penstock.tokenizer_engine import TokenizersEngine

if TYPE_CHECKING:
    from pathlib import Path

TINY = ("tiny_bpe", "tiny_wordpiece", "tiny_unigram")


class Twins(NamedTuple):
    """The same tokenizer."""

    native: Tokenizer
    over_package: Tokenizer
    package: tokenizers.Tokenizer


def twins(folder: Path) -> Twins:
    """Load the tokenizer.json of a folder."""
    file = folder / "tokenizer.json"
    native, other = Tokenizer.from_pretrained(file), Tokenizer.from_pretrained(file)
    assert native.engine == "native", native.engine_reason
    other._engine = TokenizersEngine(file.read_text(encoding="utf-8"), str(file), "a test")
    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.no_padding()
    backend.no_truncation()
    return Twins(native, other, backend)
