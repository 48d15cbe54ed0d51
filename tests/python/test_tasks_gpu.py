"""The tasks on a CUDA device: the same scores, and a host that does not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from penstock import Tokenizer, reference
from penstock.models import load_model
from penstock.tasks import make_task
from penstock.tasks.padding import batch_of

if TYPE_CHECKING:
    from pathlib import Path

hf: Any = transformers  # its classes are not typed

TEXTS = ("Warm water rises and cold water sinks.", "a", "It's late; we'll go home, they said. " * 8)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def test_perplexity_on_a_device_equals_one_text_at_a_time_on_the_host(tiny_gpt2: Path) -> None:
    backend = tokenizers.Tokenizer.from_file(str(tiny_gpt2 / "tokenizer.json"))
    model = hf.AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    loaded = load_model(tiny_gpt2, "perplexity", device="cuda")
    task = make_task("perplexity", loaded, Tokenizer.from_pretrained(tiny_gpt2), max_length=32, stride=9)
    rows = task.tokenizer.encode_batch(TEXTS, **task.tokenization())
    batch = batch_of(rows, width=32, device="cuda")
    outputs = {"logprob": task.forward(batch)["logprob"].cpu().numpy(), **task.counts(batch)}
    ours = task.combine(batch.input_index, outputs, len(TEXTS))["logprob"]
    rows_alone: Any = reference.perplexity(model, backend, TEXTS, max_length=32, stride=9)
    theirs = [row["logprob"] for row in rows_alone]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("name", ["classify", "embed"])
@pytest.mark.parametrize("width", [64, None])
def test_the_host_does_not_wait_for_an_encoder(tiny_bert: Path, name: str, width: int | None) -> None:
    task = make_task(name, load_model(tiny_bert, name, device="cuda"), Tokenizer.from_pretrained(tiny_bert))
    rows = task.tokenizer.encode_batch([TEXTS[0]] * 3, **task.tokenization())
    batch = batch_of(rows, width=width, device="cuda")
    task.forward(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        task.forward(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
