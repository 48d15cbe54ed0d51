"""The bundled demo model and corpus, judged by transformers alone: no Penstock code takes part."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Path(__file__).resolve().parents[2] / "python" / "penstock" / "demo"
MODEL = DEMO / "model"
ORDERED_KINDS = ("prose", "web", "shuffled", "base64")
MARGIN = 1.25  # each kind's median perplexity is at least this many times that of the kind before
ROWS_PER_KIND = 12

Row = dict[str, str]


def corpus() -> list[Row]:
    with (DEMO / "corpus.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def training_record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((MODEL / "training.json").read_text(encoding="utf-8"))
    return record


class Judge:
    """Scores one text at a time: a plain loop over windows, as slow and as obvious as can be."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(MODEL)
        self.model = AutoModelForCausalLM.from_pretrained(MODEL)

    def perplexity(self, text: str) -> float:
        ids = [self.tokenizer.bos_token_id, *self.tokenizer(text)["input_ids"]]
        total = 0.0
        for window, new in self._windows(ids, self.tokenizer.model_max_length):
            with torch.inference_mode():
                logits = self.model(torch.tensor([window])).logits[0, :-1].double()
            logprobs = logits.log_softmax(-1)[range(len(window) - 1), window[1:]]
            total -= float(logprobs[-new:].sum())
        return math.exp(total / (len(ids) - 1))

    @staticmethod
    def _windows(ids: list[int], context: int) -> Iterator[tuple[list[int], int]]:
        stop = min(len(ids), context)
        yield ids[:stop], stop - 1
        while stop < len(ids):
            new = min(context // 2, len(ids) - stop)
            stop += new
            yield ids[stop - context : stop], new


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge()


def test_sense_scores_below_nonsense_and_noise_above_all(judge: Judge) -> None:
    perplexities: defaultdict[str, list[float]] = defaultdict(list)
    for row in corpus():
        kind = row["kind"]
        if kind in ORDERED_KINDS and len(perplexities[kind]) < ROWS_PER_KIND:
            perplexities[kind].append(judge.perplexity(row["text"]))
    medians = [median(perplexities[kind]) for kind in ORDERED_KINDS]
    for lower, higher in pairwise(medians):
        assert higher > MARGIN * lower, dict(zip(ORDERED_KINDS, medians, strict=True))


def test_the_model_computes_in_float32_and_knows_its_context(judge: Judge) -> None:
    assert judge.model.dtype == torch.float32
    assert judge.tokenizer.model_max_length == judge.model.config.n_positions
    assert judge.tokenizer.bos_token == judge.tokenizer.eos_token == "<|endoftext|>"
    assert len(judge.tokenizer) == judge.model.config.vocab_size


def test_the_tokenizer_loses_nothing(judge: Judge) -> None:
    for row in corpus():
        ids = judge.tokenizer(row["text"])["input_ids"]
        assert judge.tokenizer.decode(ids) == row["text"], row["id"]


def test_the_model_folder_stays_within_six_megabytes() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 6_000_000


def test_no_prose_of_the_corpus_comes_from_a_book_trained_on() -> None:
    record = training_record()
    trained_on = set(record["training_books"])
    sources = {row["source"] for row in corpus() if row["kind"] == "prose"}
    assert sources == set(record["held_out_books"])
    assert not sources & trained_on
    assert not set(record["left_out_books"]) & (trained_on | sources)


def test_every_row_has_its_own_id_and_the_edge_rows_are_there() -> None:
    rows = corpus()
    assert all(set(row) == {"id", "kind", "text", "source"} for row in rows)
    assert len({row["id"] for row in rows}) == len(rows) >= 300
    assert sorted(row["text"] for row in rows if row["kind"] == "edge") == ["", "I"]
