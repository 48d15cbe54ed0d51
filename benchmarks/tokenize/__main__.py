"""How fast is text made into tokens? ``penstock.Tokenizer`` beside the fastest tokenizers there are.

Each figure is the median of several processes of its own, pinned to one core, on text that the process
has not seen ("fresh", after a warm-up on other text of the same kind) and on the same text once more
("hot"), in calls of 256 documents, each repeat with new ``str`` objects. Token ids must equal those of
``tokenizers`` 0.23.3; for a rival that differs, the number of documents that do is shown.

Texts and tokenizers are those in PENSTOCK_TEST_DATA. Rivals live in environments of their own, made once::

    python benchmarks/tokenize setup      # .rivals/: fastokens, gigatoken, tokie, tokenizers 1.0.0rc3
    python benchmarks/tokenize run        # flat ids: every model, kind and rival
    python benchmarks/tokenize run --models gpt2 --kinds books_en --runs 5 --json results.json
    python benchmarks/tokenize padded     # to padded int64 matrices and masks: all that a model takes
    python benchmarks/tokenize stop       # one document of 1 MB, truncated to 512 tokens: milliseconds
    python benchmarks/tokenize threads    # two Python threads that share one tokenizer

With ``padded`` stands which share of the time goes by outside the engine, and with ``threads`` how much
processor time a thread takes beside another one: what they share costs time, whatever else runs here.

MB are 10^6 bytes of UTF-8. Run it with nothing else running. (A folder and not ``tokenize.py``: that would
hide the module of the standard library from every script beside it.)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from array import array
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from long_texts import KINDS as LONG_KINDS
from long_texts import long_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).resolve().parents[2]
RIVALS = ROOT / ".rivals"
ENVIRONMENTS = {
    "main": ["fastokens==0.3.5", "gigatoken==0.10.0", "tokie==0.1.4", "tokenizers==1.0.0rc3", "numpy"],
}
BATCH = 256
MAX_LENGTH = 512
WARM_BYTES = TIMED_BYTES = 1_500_000
HOT_REPEATS = 3
MODELS = ("llama3", "gpt2", "qwen3", "bert-base-uncased", "t5-small", "xlm-roberta", "phi3", "mistral-v1")
KINDS = ("books_en", "code", "multilingual", "adversarial")


# --- one process: a tokenizer, timed ------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """A tokenizer: texts to whatever it gives, and from that the ids of each text."""

    encode: Callable[[Any], Any]
    rows: Callable[[Any], Iterator[list[int]]]
    prepare: Callable[[list[str]], Any] = list  # what the texts of a call lie in, which is not timed
    watch: Callable[[Callable[[], None]], float] | None = None  # seconds of some work inside the engine


def cut(ids: Any, offsets: Iterable[int]) -> Iterator[list[int]]:
    """Rows of flat ids."""
    bounds = list(offsets)
    for start, stop in pairwise(bounds):
        yield ids[start:stop].tolist()


def penstock_flat(path: str) -> Timed:
    """Ours."""
    import penstock

    tokenizer = penstock.Tokenizer.from_pretrained(path)
    if tokenizer.engine != "native":
        raise SystemExit(f"{path}: {tokenizer.engine_reason}")
    return Timed(
        lambda texts: tokenizer.encode_batch(texts, add_special_tokens=False),
        lambda made: cut(made.ids, made.offsets.tolist()),
    )


def tokenizers_flat(path: str) -> Timed:
    """`tokenizers`, either release: Encoding objects."""
    import tokenizers

    tokenizer: Any = tokenizers.Tokenizer.from_file(path)
    if hasattr(tokenizer, "no_truncation"):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    return Timed(
        lambda texts: encode(texts, add_special_tokens=False), lambda made: (list(row.ids) for row in made)
    )


def fastokens_flat(path: str) -> Timed:
    """Flat ids as bytes."""
    import fastokens
    import numpy as np

    tokenizer = fastokens.Tokenizer.from_file(path)
    return Timed(
        lambda texts: tokenizer.encode_batch_flat(texts, add_special_tokens=False),
        lambda made: cut(np.frombuffer(made[0], np.uint32), np.frombuffer(made[1], np.uint64).tolist()),
    )


def gigatoken_flat(path: str) -> Timed:
    """An awkward array."""
    import gigatoken

    tokenizer = gigatoken.Tokenizer(path)
    return Timed(
        lambda texts: tokenizer.encode_batch(texts, parallel=False), lambda made: iter(made.to_list())
    )


def tokie_flat(path: str) -> Timed:
    """Flat ids as arrays."""
    import numpy as np
    import tokie

    tokenizer = tokie.Tokenizer.from_json(path)
    return Timed(
        lambda texts: tokenizer.encode_batch_flat(texts, add_special_tokens=False),
        lambda made: cut(made[0], [0, *np.cumsum(made[1]).tolist()]),
    )


def penstock_padded(path: str) -> Timed:
    """Ours, into matrices that are allocated once."""
    import numpy as np

    import penstock

    tokenizer = penstock.Tokenizer.from_pretrained(path)
    names = tokenizer.model_input_names
    out = {name: np.empty(BATCH * MAX_LENGTH, np.int64) for name in names}
    encode = tokenizer.encode_padded
    return Timed(
        lambda texts: encode(
            texts, max_length=MAX_LENGTH, padding_side="right", add_special_tokens=False, out=out
        ),
        lambda made: unpadded(made["input_ids"], made["attention_mask"]),
        watch=partial(inside, tokenizer),
    )


def penstock_padded_arrow(path: str) -> Timed:
    """The same from Arrow arrays."""
    import pyarrow as pa

    return replace(penstock_padded(path), prepare=pa.array)


def inside(tokenizer: Any, work: Callable[[], None]) -> float:
    """Seconds of some work that go by in C++: reading texts, and filling matrices."""
    from types import SimpleNamespace

    from penstock import _core, tokenizer_arrays

    spent = 0.0

    def clocked(call: Callable[..., Any]) -> Callable[..., Any]:
        def run_it(*arguments: Any, **settings: Any) -> Any:
            nonlocal spent
            start = time.perf_counter()
            made = call(*arguments, **settings)
            spent += time.perf_counter() - start
            return made

        return run_it

    native, engine = tokenizer._engine._native, tokenizer._engine
    engine._native = SimpleNamespace(encode_rows=clocked(native.encode_rows))
    setattr(tokenizer_arrays, "_core", SimpleNamespace(collate=clocked(_core.collate)))  # noqa: B010
    try:
        work()
    finally:
        engine._native = native
        setattr(tokenizer_arrays, "_core", _core)  # noqa: B010
    return spent


def gigatoken_padded(path: str) -> Timed:
    """Its uint32 matrix, widened, and the mask from the lengths."""
    import gigatoken
    import numpy as np

    tokenizer = gigatoken.Tokenizer(path)
    places = np.arange(MAX_LENGTH)

    def encode(texts: list[str]) -> tuple[Any, Any]:
        matrix, lengths = tokenizer.encode_batch_padded(
            texts, 0, max_length=MAX_LENGTH, truncate=True, parallel=False
        )
        matrix, lengths = np.asarray(matrix), np.asarray(lengths)
        return matrix.astype(np.int64), (places[: matrix.shape[1]] < lengths[:, None]).astype(np.int64)

    return Timed(encode, lambda made: unpadded(*made))


def transformers_padded(path: str) -> Timed:
    """`transformers` as its users call it."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=path, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return Timed(
        lambda texts: tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=MAX_LENGTH,
            add_special_tokens=False,
            return_tensors="pt",
        ),
        lambda made: unpadded(made["input_ids"].numpy(), made["attention_mask"].numpy()),
    )


def unpadded(matrix: Any, mask: Any) -> Iterator[list[int]]:
    """Rows without their padding."""
    for row, real in zip(matrix, mask, strict=True):
        yield row[real == 1].tolist()


PEERS: dict[str, Callable[[str], Timed]] = {
    "penstock": penstock_flat,
    "fastokens 0.3.5": fastokens_flat,
    "gigatoken 0.10.0": gigatoken_flat,
    "tokenizers 1.0.0rc3": tokenizers_flat,
    "tokie 0.1.4": tokie_flat,
    "tokenizers 0.23.3": tokenizers_flat,
}
PADDED: dict[str, Callable[[str], Timed]] = {
    "penstock": penstock_padded,
    "penstock from Arrow": penstock_padded_arrow,
    "gigatoken 0.10.0": gigatoken_padded,
    "transformers": transformers_padded,
}
OURS = (
    "penstock",
    "penstock from Arrow",
    "tokenizers 0.23.3",
    "transformers",
)  # live in the environment of Penstock itself


def documents(kind: str) -> Iterator[str]:
    """The documents of a corpus, over and over."""
    folder = Path(os.environ["PENSTOCK_TEST_DATA"]) / "corpora"
    with (folder / f"{kind}.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return chain(texts)


def take(source: Iterator[str], num_bytes: int) -> list[str]:
    """So many bytes of documents, or all that there are."""
    taken, size = [], 0
    for text in source:
        taken.append(text)
        size += len(text.encode())
        if size >= num_bytes:
            break
    return taken


def renewed(texts: list[str]) -> list[str]:
    """The same texts as new objects, so that nothing that CPython keeps in a str is there already."""
    return [text.encode().decode() for text in texts]


def timed(peer: Timed, texts: list[str]) -> float:
    """Seconds for all texts, 256 a call."""
    fresh = renewed(texts)
    batches = [peer.prepare(fresh[at : at + BATCH]) for at in range(0, len(fresh), BATCH)]
    start = time.perf_counter()
    for batch in batches:
        peer.encode(batch)
    return time.perf_counter() - start


def outside(peer: Timed, texts: list[str]) -> float | None:
    """The share of the time that goes by outside the engine; None: that is not asked of this peer."""
    if peer.watch is None:
        return None
    shares = []
    for _ in range(HOT_REPEATS):
        seconds: list[float] = []
        spent = peer.watch(partial(_clock, peer, texts, seconds))
        shares.append(1 - spent / seconds[0])
    return median(shares)


def _clock(peer: Timed, texts: list[str], seconds: list[float]) -> None:
    seconds.append(timed(peer, texts))


def digests(peer: Timed, texts: list[str]) -> list[str]:
    """What each text became, short."""
    made = chain.from_iterable(
        peer.rows(peer.encode(peer.prepare(texts[at : at + BATCH]))) for at in range(0, len(texts), BATCH)
    )
    return [hashlib.sha256(array("q", row).tobytes()).hexdigest()[:16] for row in made]


def tokenizer_file(model: str) -> str:
    """The tokenizer.json of a model."""
    return str(Path(os.environ["PENSTOCK_TEST_DATA"]) / "tokenizers" / model / "tokenizer.json")


def child(job: str, name: str, model: str, kind: str) -> dict[str, Any]:
    """One figure, in this process."""
    source = documents(kind)
    warm, texts = take(source, WARM_BYTES), take(source, TIMED_BYTES)
    if sum(map(len, texts)) < TIMED_BYTES // 4:  # a small corpus: half to warm up with, half to time
        half = len(warm) // 2
        warm, texts = warm[:half], warm[half:]
    peer = (PADDED if job == "padded" else PEERS)[name](tokenizer_file(model))
    timed(peer, warm)
    num_bytes = sum(len(text.encode()) for text in texts)
    fresh = timed(peer, texts)
    hot = median(timed(peer, texts) for _ in range(HOT_REPEATS))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "fresh": num_bytes / 1e6 / fresh,
        "hot": num_bytes / 1e6 / hot,
        "outside": outside(peer, texts),
        "documents": len(texts),
        "peak_mb": peak,
        "digests": digests(peer, texts),
    }


def stop(model: str, kind: str, runs: int) -> dict[str, Any]:
    """How long a document of 1 MB takes that is cut to 512 tokens: as a new str, and the same once more.

    To make a new one touches 1 MB of memory, so that what the tokenizer keeps is not in the fast caches then.
    """
    import penstock

    tokenizer = penstock.Tokenizer.from_pretrained(tokenizer_file(model))
    text = long_text(kind)
    plain = tokenizer.encode_batch([text], add_special_tokens=False).row(0)
    new: list[float] = []
    same: list[float] = []
    for _ in range(runs):
        for texts, seconds in ((renewed([text]), new), ([text], same)):
            start = time.perf_counter()
            made = tokenizer.encode_batch(texts, max_length=MAX_LENGTH, add_special_tokens=False)
            seconds.append((time.perf_counter() - start) * 1e3)
    result = {
        "model": model,
        "kind": kind,
        "bytes": len(text.encode()),
        "tokens": len(plain),
        "is_prefix": made.row(0).tolist() == plain[:MAX_LENGTH].tolist(),
        "new_ms": new,
        "same_ms": same,
    }
    print(
        f"{model:<18}{kind:<10}{len(plain):>9,} tokens{median(new):>9.3f} ms [{min(new):.3f}] new"
        f"{median(same):>9.3f} ms [{min(same):.3f}] again{'' if result['is_prefix'] else '  DIFFERENT'}",
        flush=True,
    )
    return result


def threads(model: str, kind: str) -> None:
    """One tokenizer, one thread and two: MB/s."""
    from concurrent.futures import ThreadPoolExecutor

    import penstock

    tokenizer = penstock.Tokenizer.from_pretrained(tokenizer_file(model))
    texts = take(documents(kind), 2 * TIMED_BYTES)
    batches = [texts[at : at + 64] for at in range(0, len(texts), 64)]
    num_bytes = sum(len(text.encode()) for text in texts)

    def work(_: int) -> None:
        for batch in batches:
            tokenizer.encode_batch(batch, add_special_tokens=False)

    speeds: dict[int, list[float]] = {1: [], 2: []}
    busy: dict[int, list[float]] = {1: [], 2: []}  # processor seconds, which other programs hardly change
    for count in (1, 2) * 10:
        with ThreadPoolExecutor(count) as pool:
            start, burnt = time.perf_counter(), time.process_time()
            list(pool.map(work, range(4 * count)))  # each thread has the same to do
            speeds[count].append(4 * count * num_bytes / 1e6 / (time.perf_counter() - start))
            busy[count].append((time.process_time() - burnt) / count)
    one, two = median(speeds[1][1:]), median(speeds[2][1:])
    share = median(busy[2][1:]) / median(busy[1][1:])
    print(
        f"{model:<18}{kind:<14}{one:>9.1f} MB/s{two:>9.1f} MB/s with two threads: {two / one:.2f}x; "
        f"each burns {share:.2f} times the processor time of one alone",
        flush=True,
    )


# --- all processes --------------------------------------------------------------------------------------


def ask(*arguments: str, python: str = sys.executable, core: int = 0) -> Any:
    """Run a child on one core and read what it prints; a string: why it has no figure."""
    environment = os.environ | {
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    command = ["taskset", "-c", str(core), python, __file__, "child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=900)
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["failed"])[-1][:160]
    return json.loads(done.stdout.splitlines()[-1])


def rival_python() -> str:
    """The interpreter that has the rivals."""
    python = RIVALS / "main" / "bin" / "python"
    if not python.exists():
        raise SystemExit("the rivals are not installed: run python benchmarks/tokenize setup")
    return str(python)


def setup() -> None:
    """Make the environments of the rivals."""
    for name, packages in ENVIRONMENTS.items():
        folder = RIVALS / name
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *packages], check=True)


def conditions() -> dict[str, Any]:
    """What the figures were taken on."""
    import penstock

    cpu = [
        line
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if "model name" in line
    ]
    return {
        "python": platform.python_version(),
        "penstock": penstock.__version__,
        "machine": cpu[0].split(":", 1)[1].strip() if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


def run(
    job: str, models: list[str], kinds: list[str], peers: list[str], runs: int
) -> Iterator[list[dict[str, Any]]]:
    """All figures so far, peers in turn so that the machine's moods fall on all alike."""
    results = []
    for model in models:
        for kind in kinds:
            reference = ask("flat", "tokenizers 0.23.3", model, kind) if job == "flat" else None
            found: dict[str, list[Any]] = {peer: [] for peer in peers}
            for _ in range(runs):
                for peer in peers:
                    python = sys.executable if peer in OURS else rival_python()
                    if not any(isinstance(made, str) for made in found[peer]):
                        found[peer].append(ask(job, peer, model, kind, python=python))
            reference = reference or found["penstock"][0]
            for peer, made in found.items():
                results.append({"model": model, "kind": kind, "peer": peer} | summary(made, reference))
                print(line(results[-1]), flush=True)
            yield results


def summary(made: list[Any], reference: Any) -> dict[str, Any]:
    """Medians, and how many documents differ from the reference."""
    refusals = [each for each in made if isinstance(each, str)]
    if refusals:
        return {"refused": refusals[0]}
    pairs = zip(made[0]["digests"], reference["digests"], strict=True)
    return {
        "fresh": [each["fresh"] for each in made],
        "hot": [each["hot"] for each in made],
        "outside": None if made[0]["outside"] is None else median(each["outside"] for each in made),
        "documents": made[0]["documents"],
        "differ": sum(a != b for a, b in pairs),
        "peak_mb": median(each["peak_mb"] for each in made),
    }


def line(result: dict[str, Any]) -> str:
    """A line of the table."""
    head = f"{result['model']:<18}{result['kind']:<14}{result['peer']:<22}"
    if "refused" in result:
        return f"{head}  refused: {result['refused'][:60]}"
    fresh, hot = result["fresh"], result["hot"]
    share = "" if result["outside"] is None else f"{result['outside']:>7.1%} outside the engine"
    differ = f"  {result['differ']} of {result['documents']} differ" if result["differ"] else ""
    return (
        f"{head}{median(fresh):>8.1f} fresh [{min(fresh):.1f}-{max(fresh):.1f}]{median(hot):>9.1f} hot MB/s"
        f"{result['peak_mb']:>8.0f} MB peak{share}{differ}"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup")
    one = commands.add_parser("child")
    for name in ("job", "peer", "model", "kind"):
        one.add_argument(name)
    for name in ("run", "padded", "stop", "threads"):
        many = commands.add_parser(name)
        many.add_argument("--models", nargs="*", default=list(MODELS))
        kinds = KINDS if name == "run" else tuple(LONG_KINDS) if name == "stop" else KINDS[:3]
        many.add_argument("--kinds", nargs="*", default=list(kinds))
        if name in ("run", "padded"):
            many.add_argument("--peers", nargs="*", default=list(PEERS if name == "run" else PADDED))
        if name != "threads":
            many.add_argument("--runs", type=int, default=30 if name == "stop" else 5)
            many.add_argument("--json", type=Path, help="write the raw figures here")
    given = parser.parse_args()
    if given.command == "setup":
        setup()
    elif given.command == "child":
        print(json.dumps(child(given.job, given.peer, given.model, given.kind)))
    elif given.command == "threads":
        for model in given.models:
            for kind in given.kinds:
                threads(model, kind)
    elif given.command == "stop":
        measured_on = conditions()
        figures = [stop(model, kind, given.runs) for model in given.models for kind in given.kinds]
        if given.json:
            raw = {"conditions": measured_on, "job": "stop", "results": figures}
            given.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    else:
        job = "flat" if given.command == "run" else "padded"
        measured_on = conditions()
        for results in run(job, given.models, given.kinds, given.peers, given.runs):
            if given.json:
                raw = {"conditions": measured_on, "job": job, "results": results}
                given.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
