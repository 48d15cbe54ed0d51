"""Five documents, half a second each to fetch, and a model: the same job written in four ways.

The example is a well-known one. A tutorial on "async data loading during inference" fetches five documents,
each with half a second of network or disk, and runs GPT-2 on each; its loader fetches one document at a time
into a queue of two. Here that loader stands beside the loop without one, beside asyncio as an expert would
write it, and beside ``penstock.Prefetcher``. All four give the same scores; that is checked first.

What to look for: whoever fetches one document at a time takes at least five times half a second, however
clever the queue. Fetching them side by side takes half a second in all, and then the model is what is left.

Run it anywhere; nothing is downloaded::

    penstock bench tutorial                     # a model of GPT-2's size, weights from a fixed seed
    penstock bench tutorial --size small        # a very small one
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import deque
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import penstock
from contenders import conditions
from penstock.demo import MODEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

DOCUMENTS = [
    "The future of AI is transformative and exciting.",
    "Machine learning models require careful data handling.",
    "Async operations improve pipeline efficiency significantly.",
    "Inference optimization is critical for production systems.",
    "Transformers have revolutionized natural language processing.",
]

Inputs = dict[str, torch.Tensor]
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768},  # 124 million parameters
    "small": {"n_layer": 2, "n_head": 2, "n_embd": 64},
}


class Example:
    """What the four have in common: documents that take a while, a tokenizer, a model."""

    def __init__(self, load_s: float, size: str) -> None:
        self.load_s = load_s
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_file())
        self.fast_tokenizer = penstock.Tokenizer.from_pretrained(self.tokenizer)  # once, like the model
        torch.manual_seed(0)
        vocabulary = len(self.tokenizer)
        config = GPT2Config(vocab_size=vocabulary, bos_token_id=None, eos_token_id=None, **SIZES[size])
        self.model = GPT2LMHeadModel(config).eval().to(self.device)

    def fetch(self, key: int) -> str:
        """A document, from a disk or a network that takes its time."""
        time.sleep(self.load_s)
        return DOCUMENTS[key]

    async def fetch_async(self, key: int) -> str:
        """The same on an event loop."""
        await asyncio.sleep(self.load_s)
        return DOCUMENTS[key]

    def tokenize(self, text: str) -> Inputs:
        """What the model takes, on its device."""
        made = self.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        return {name: tensor.to(self.device) for name, tensor in made.items()}

    @torch.inference_mode()
    def score(self, inputs: Inputs) -> float:
        """Mean negative log-likelihood of a document's tokens. Padding does not count."""
        logits = self.model(**inputs).logits[:, :-1]
        targets = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        return loss.item()


# --- 1. no loader: the model waits for every document ------------------------------------------------------


def sequential(example: Example) -> list[float]:
    """Fetch, then score, then fetch."""
    return [example.score(example.tokenize(example.fetch(key))) for key in range(len(DOCUMENTS))]


# --- 2. asyncio as the tutorial has it: one loader, a queue of two, the model on the event loop ------------


def asyncio_tutorial(example: Example) -> list[float]:
    """The next document is fetched while the model runs, one at a time."""

    async def main() -> list[float]:
        ready: asyncio.Queue[Inputs | None] = asyncio.Queue(2)

        async def load_all() -> None:
            for key in range(len(DOCUMENTS)):
                await ready.put(example.tokenize(await example.fetch_async(key)))
            await ready.put(None)

        loader = asyncio.create_task(load_all())
        scores = []
        while (inputs := await ready.get()) is not None:
            scores.append(example.score(inputs))
        await loader
        return scores

    return asyncio.run(main())


# --- 3. asyncio as an expert writes it: many loads at once, but not too many; the model in a thread --------


def asyncio_expert(example: Example, in_flight: int = 64) -> list[float]:
    """A bounded window of loads, results in order, nothing slow on the event loop."""

    async def load(key: int) -> Inputs:
        text = await example.fetch_async(key)
        return await asyncio.to_thread(example.tokenize, text)

    async def main() -> list[float]:
        loads = (load(key) for key in range(len(DOCUMENTS)))
        return [await asyncio.to_thread(example.score, inputs) async for inputs in in_order(loads, in_flight)]

    return asyncio.run(main())


async def in_order(
    coroutines: Iterable[Coroutine[Any, Any, Inputs]], in_flight: int
) -> AsyncIterator[Inputs]:
    """Results in order, of so many coroutines at once."""
    window: deque[asyncio.Task[Inputs]] = deque()
    try:
        for coroutine in coroutines:
            window.append(asyncio.create_task(coroutine))
            if len(window) == in_flight:
                yield await window.popleft()
        while window:
            yield await window.popleft()
    finally:
        for task in window:  # somebody failed, or the loop was left
            task.cancel()


# --- 4. Penstock ------------------------------------------------------------------------------------------


def prefetcher(example: Example) -> list[float]:
    """Fetched side by side, tokenized and on the device before the loop asks; in order, bounded."""
    with penstock.Prefetcher(
        range(len(DOCUMENTS)),
        example.fast_tokenizer,
        load=example.fetch_async,  # a plain function will do: then threads fetch
        device=example.device,
        max_batch_rows=1,  # as the others; leave it out, and the five are one batch
    ) as batches:
        return [example.score(batch.inputs) for batch in batches]


FORMS: dict[str, Callable[[Example], list[float]]] = {
    "sequential": sequential,
    "asyncio, as the tutorial has it": asyncio_tutorial,
    "asyncio, as an expert has it": asyncio_expert,
    "penstock.Prefetcher": prefetcher,
}


def tokenizer_file() -> str:
    """GPT-2's own, where the test data are; else the demo's."""
    folder = os.environ.get("PENSTOCK_TEST_DATA")
    gpt2 = Path(folder or ".") / "tokenizers" / "gpt2" / "tokenizer.json"
    return str(gpt2 if folder and gpt2.is_file() else MODEL / "tokenizer.json")


def are_equal(scores: list[float], expected: list[float]) -> bool:
    """Up to the arithmetic of float32: a padded row is summed in another order."""
    pairs = zip(scores, expected, strict=True)
    return all(abs(one - other) <= 1e-5 * max(1.0, abs(other)) for one, other in pairs)


def measure(example: Example, runs: int) -> tuple[dict[str, list[float]], list[float], float]:
    """Seconds of each run, the scores that all four give, and the least that the model takes for all five.

    A first round is checked and not timed.
    """
    expected = [example.score(example.tokenize(text)) for text in DOCUMENTS]
    for name, form in FORMS.items():
        if not are_equal(form(example), expected):
            raise SystemExit(f"{name} gives other scores; nothing was timed.")
    seconds: dict[str, list[float]] = {name: [] for name in FORMS}
    model_s = float("inf")
    for _ in range(runs):
        model_s = min(model_s, forward_s(example))
        for name, form in FORMS.items():
            start = time.perf_counter()
            form(example)
            seconds[name].append(time.perf_counter() - start)
    return seconds, expected, model_s


def forward_s(example: Example) -> float:
    """Seconds that the model takes for all five, tokenized already."""
    inputs = [example.tokenize(text) for text in DOCUMENTS]
    start = time.perf_counter()
    for each in inputs:
        example.score(each)
    return time.perf_counter() - start


def main() -> None:
    """Run the four, print scores and times; with --json also write the raw seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--load-s", type=float, default=0.5)
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the raw seconds here")
    given = parser.parse_args()
    measured_on = conditions()
    example = Example(given.load_s, given.size)
    seconds, scores, model_s = measure(example, given.runs)
    floor_s = given.load_s + model_s
    what = f"{len(DOCUMENTS)} documents, {given.load_s:g} s to fetch each, a model of {given.size} size"
    print(f"{what}; on {example.device}")
    print("scores of all four: " + ", ".join(f"{score:.4f}" for score in scores))
    print(f"floor {floor_s:.3f} s: one fetch, and the model's {model_s:.3f} s for all five")
    print(f"{'':<34}{'median s':>10}{'min':>8}{'max':>8}{'x floor':>9}{'speed-up':>10}")
    slowest = median(seconds["sequential"])
    for name, values in seconds.items():
        middle = median(values)
        print(
            f"{name:<34}{middle:>10.3f}{min(values):>8.3f}{max(values):>8.3f}"
            f"{middle / floor_s:>9.2f}{slowest / middle:>9.2f}x"
        )
    if given.json:
        asked = {"load_s": given.load_s, "size": given.size, "runs": given.runs}
        raw = {
            "asked": asked,
            "what": what,
            "floors_s": {"one fetch, and the model for all": floor_s},
            "seconds": seconds,
            "scores": scores,
            "conditions": measured_on,
        }
        given.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
