"""What ships with Penstock so that it can be tried at once: a small model, a corpus of many kinds of text.

The model (a very small GPT-2, trained on books in the public domain) and the texts were made for this, by
``tools/train_demo.py`` and ``tools/demo_corpus.py``.

Example:
    >>> MODEL.is_dir(), CORPUS.is_file()
    (True, True)
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CORPUS", "MODEL"]

MODEL = Path(__file__).resolve().parent / "model"
"""A folder with a causal language model and its tokenizer."""

CORPUS = Path(__file__).resolve().parent / "corpus.jsonl"
"""Rows with the fields ``id``, ``kind``, ``text`` and ``source``."""
