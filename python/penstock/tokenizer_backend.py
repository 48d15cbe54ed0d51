"""Tokenizers of the `tokenizers` package, made of the text of a tokenizer.json, or why they cannot be."""

from __future__ import annotations

import json
from typing import Any

import tokenizers

from penstock.errors import TokenizerError

# What must go on as it came; all else that `tokenizers` throws is the fault of what it was given.
PASSES = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)
SECTIONS = (
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "added_tokens",
    "truncation",
    "padding",
)


def parse(text: str, place: str) -> tokenizers.Tokenizer:
    """Make a backend of the text of a tokenizer.json.

    Raises:
        TokenizerError: It is damaged; the message says where.
    """
    try:
        return tokenizers.Tokenizer.from_str(text)
    except PASSES:
        raise
    except BaseException as error:  # noqa: BLE001  a panic in the Rust code is no Exception
        raise TokenizerError(f"{place}: {_damage(text, str(error))}") from None


def _is_readable(text: str) -> bool:
    try:
        tokenizers.Tokenizer.from_str(text)
    except PASSES:
        raise
    except BaseException:  # noqa: BLE001
        return False
    return True


def _damage(text: str, error: str) -> str:
    if text.startswith("version https://git-lfs"):
        return "is only a Git LFS pointer; fetch the file itself with git lfs pull"
    try:
        document = json.loads(text)
    except ValueError as syntax:
        return f"is not JSON: {syntax}. The file is cut short or damaged; fetch it again"
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        return "has no model section, so it is not a tokenizer.json"
    version = tokenizers.__version__
    advice = f"The file is damaged, or newer than the tokenizers package ({version}); update that"
    for section in SECTIONS:
        empty: Any = [] if section == "added_tokens" else None
        if _is_readable(json.dumps(document | {section: empty})):
            return f"section {section}: {error}. {advice}"
    return f"section model: {error}. {advice}"
