"""Train the tokenizer and the small GPT-2 that ``penstock demo`` scores with.

Everything is seeded: the same books, arguments, library versions and number of threads give the same
files. The books are a JSONL file with the fields ``text`` and ``source``; which of them are trained on,
held out or left out is decided in ``demo_corpus.py``.

Example::

    python tools/train_demo.py --books books_en.jsonl --epochs 8 --threads 2

A run writes a checkpoint every few hundred steps into ``--checkpoints`` and goes on from there with
``--resume``. At the end the model is stored as float16 and read back, and the loss on the held-out
books is measured on what was read back, so the numbers in ``training.json`` are those of the files.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel

from demo_corpus import HELD_OUT, LEFT_OUT, Document, read_books

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Ids = npt.NDArray[np.int64]

END_OF_TEXT = "<|endoftext|>"
END_ID = 0
VOCAB_SIZE = 4096
CONTEXT = 256
SEED = 20
MODEL_FOLDER = Path(__file__).resolve().parents[1] / "python" / "penstock" / "demo" / "model"


def train_tokenizer(documents: Sequence[Document]) -> Tokenizer:
    """Train a byte-level BPE with the pre-tokenizer of GPT-2; ``<|endoftext|>`` is id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    return tokenizer


def new_model(dropout: float) -> GPT2LMHeadModel:
    """Return the untrained model: GPT-2, 4 layers, 192 wide, 6 heads, tied embeddings."""
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=CONTEXT,
        n_embd=192,
        n_layer=4,
        n_head=6,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, as one fused operation
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=0.0,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
        use_cache=False,
    )
    torch.manual_seed(SEED)
    return GPT2LMHeadModel(config)


class Rows:
    """The training books as rows of ``CONTEXT + 1`` ids, cut and shuffled anew for every epoch.

    Documents are cut at paragraphs into pieces of random length, each piece begins with
    ``<|endoftext|>``, and the pieces are shuffled and joined: the model sees many beginnings, as it
    will when it scores short texts.
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer) -> None:
        self._newline = tokenizer.token_to_id("Ċ")
        self._documents: list[list[Ids]] = []
        for document in documents:
            encodings = tokenizer.encode_batch(document.text.split("\n\n"))
            self._documents.append([np.asarray(e.ids, dtype=np.int64) for e in encodings])

    def epoch(self, number: int) -> Ids:
        """Return the rows of one epoch, int64[rows, CONTEXT + 1]; each row overlaps the next by one id."""
        rng = np.random.default_rng((SEED, number))
        pieces: list[Ids] = []
        for paragraphs in self._documents:
            piece: list[Ids] = []
            room = int(rng.integers(32, 512))
            for paragraph in paragraphs:
                piece.append(np.full(2 if piece else 1, self._newline if piece else END_ID))
                piece.append(paragraph)
                room -= len(paragraph) + 2
                if room <= 0:
                    pieces.append(np.concatenate(piece))
                    piece = []
                    room = int(rng.integers(32, 512))
            if piece:
                pieces.append(np.concatenate(piece))
        stream = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
        num_rows = (len(stream) - 1) // CONTEXT
        starts = np.arange(num_rows)[:, None] * CONTEXT
        rows: Ids = stream[starts + np.arange(CONTEXT + 1)]
        return rows


def batches(rows: Rows, batch_rows: int, first_step: int) -> Iterator[torch.Tensor]:
    """Yield int64[batch_rows, CONTEXT + 1] without end, beginning with the batch of ``first_step``."""
    step = 0
    epoch = 0
    while True:
        ids = rows.epoch(epoch)
        for start in range(0, len(ids) - batch_rows + 1, batch_rows):
            if step >= first_step:
                yield torch.from_numpy(ids[start : start + batch_rows])
            step += 1
        epoch += 1


def learning_rate(progress: float, peak: float, warmup: float = 0.04) -> float:
    """Return the rate at ``progress`` in [0, 1]: a linear rise, then a cosine down to a fiftieth."""
    if progress < warmup:
        return peak * (progress + 1e-4) / warmup
    along = min(1.0, (progress - warmup) / (1.0 - warmup))
    return peak * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * along)))


def make_optimizer(model: GPT2LMHeadModel) -> torch.optim.AdamW:
    """Return AdamW that decays matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def batch_loss(model: GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean loss in nats/token of int64[rows, CONTEXT + 1], matrix products in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def train(rows: Rows, steps: int, options: argparse.Namespace) -> tuple[GPT2LMHeadModel, dict[str, Any]]:
    """Train for ``steps`` or ``--minutes``; the rate anneals by whichever is nearer its end."""
    model = new_model(options.dropout).train()
    optimizer = make_optimizer(model)
    step, spent_s, losses = 0, 0.0, []
    resumed_at: list[int] = []
    checkpoint = options.checkpoints / "checkpoint.pt"
    if options.resume and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_s = state["step"], state["spent_s"]
        resumed_at = [*state.get("resumed_at", []), step]
    torch.manual_seed(SEED + step)
    begun = time.monotonic() - spent_s
    for ids in batches(rows, options.batch_rows, step):
        spent_s = time.monotonic() - begun
        progress = max(step / steps, spent_s / 60 / options.minutes)
        if progress >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress, options.peak_rate)
        loss = batch_loss(model, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {np.mean(losses[-100:]):.4f}  {spent_s:.0f} s", flush=True)
        if step % 500 == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step, "spent_s": spent_s, "resumed_at": resumed_at}, checkpoint)
    tokens = step * options.batch_rows * CONTEXT
    return model, {
        "steps": step,
        "planned_steps": steps,
        "resumed_at_steps": resumed_at,
        "tokens_seen": tokens,
        "minutes": round(spent_s / 60, 1),
        "last_training_loss": round(float(np.mean(losses[-200:])), 4),
    }


def windows(ids: Ids, stride: int = CONTEXT // 2) -> Iterator[tuple[Ids, int]]:
    """Yield (ids, how many of them are new) for ids longer than the context; ids[0] is never scored."""
    stop = min(len(ids), CONTEXT)
    yield ids[:stop], stop - 1
    while stop < len(ids):
        new = min(stride, len(ids) - stop)
        stop += new
        yield ids[stop - CONTEXT : stop], new


@torch.inference_mode()
def nats(model: GPT2LMHeadModel, tokenizer: Tokenizer, text: str) -> tuple[float, int]:
    """Return (sum of -log p over the tokens of ``text``, how many they are), from ``<|endoftext|>`` on."""
    ids = np.asarray([END_ID, *tokenizer.encode(text).ids], dtype=np.int64)
    total = 0.0
    for part, new in windows(ids):
        logits = model(input_ids=torch.from_numpy(part[None, :-1])).logits[0, -new:].double()
        targets = torch.from_numpy(part[-new:])
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
    return total, len(ids) - 1


def evaluate(folder: Path, documents: Sequence[Document]) -> dict[str, Any]:
    """Measure the stored model on ``documents``: nats/token and bits/byte, in all and book by book."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    sums: dict[str, list[float]] = {}
    for document in documents:
        total, num_tokens = nats(model, tokenizer, document.text)
        num_bytes = len(document.text.encode())
        for name in ("all", document.source):
            old = sums.setdefault(name, [0.0, 0, 0])
            sums[name] = [old[0] + total, old[1] + num_tokens, old[2] + num_bytes]
    return {
        name: {
            "nats_per_token": round(total / num_tokens, 4),
            "bits_per_byte": round(total / math.log(2) / num_bytes, 4),
            "tokens": int(num_tokens),
            "bytes": int(num_bytes),
        }
        for name, (total, num_tokens, num_bytes) in sums.items()
    }


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as readable JSON with a newline at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def store(model: GPT2LMHeadModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model as float16, its config and the tokenizer: what ``from_pretrained`` needs, no more."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("resid_pdrop", "embd_pdrop"):
        setattr(model.config, name, 0.0)
    torch.nn.Module.to(model, torch.float16)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = "float32"  # stored in half the bytes, computed in full precision
    write_json(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "model_max_length": CONTEXT,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        },
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--books", type=Path, required=True, help="JSONL with the fields text and source")
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER, help="folder for the model")
    parser.add_argument("--checkpoints", type=Path, default=Path("demo-checkpoints"), help="folder")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--epochs", type=float, default=8.0, help="passes over the training books")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps, instead of --epochs")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end by then, even with steps left")
    parser.add_argument("--batch-rows", type=int, default=8, help=f"rows of {CONTEXT} tokens a step")
    parser.add_argument("--peak-rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--dropout", type=float, default=0.0, help="on embeddings and residuals")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    return parser.parse_args()


def main() -> None:
    """Train, store, measure, and write down what was done."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    training = list(read_books(options.books, held_out=False))
    tokenizer = train_tokenizer(training)
    rows = Rows(training, tokenizer)
    epoch_tokens = len(rows.epoch(0)) * CONTEXT
    steps = options.steps or int(options.epochs * epoch_tokens / CONTEXT / options.batch_rows)
    print(f"{epoch_tokens} tokens an epoch, {steps} steps", flush=True)
    model, summary = train(rows, steps, options)
    store(model, tokenizer, options.output)
    held_out = evaluate(options.output, list(read_books(options.books, held_out=True)))
    record = {
        **summary,
        "epochs": round(summary["tokens_seen"] / epoch_tokens, 2),
        "tokens_per_epoch": epoch_tokens,
        "training_bytes": sum(len(document.text.encode()) for document in training),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seed": SEED,
        "batch_tokens": options.batch_rows * CONTEXT,
        "peak_rate": options.peak_rate,
        "dropout": options.dropout,
        "threads": options.threads,
        "held_out_loss": held_out,
        "training_books": sorted({document.source for document in training}),
        "held_out_books": list(HELD_OUT),
        "left_out_books": LEFT_OUT,
    }
    write_json(options.output / "training.json", record)
    print(json.dumps(held_out, indent=2))


if __name__ == "__main__":
    main()
