"""The native engine: texts to rows in C++, with `tokenizers` at hand for what it does not know exactly."""

from __future__ import annotations

import gc
import itertools
import json
import threading
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import tokenizers

from penstock import _core
from penstock.errors import ConfigError, RowTokenizerError
from penstock.ragged import Ragged
from penstock.tokenizer_engine import Part, Texts, TokenizersEngine, readable, spread
from penstock.tokenizer_layout import filled
from penstock.tokenizer_spec import Unknown, read

if TYPE_CHECKING:
    from penstock.ragged import Int32Array, Int64Array
    from penstock.tokenizer_layout import Layout

NO_TEXT, INEXACT, TOO_LONG = 1, 2, 3  # what `_core.Tokenizer` says of a row


def make_engine(text: str, place: str) -> TokenizersEngine:
    """The native engine if it knows every part of a tokenizer.json, else that of the `tokenizers` package.

    Raises:
        TokenizerError: The file is damaged.
    """
    try:
        return NativeEngine(text, place)
    except Unknown as reason:
        why = f"not native: {reason}. The tokenizers package ({tokenizers.__version__}) does the work"
        return TokenizersEngine(text, place, why)


class _CollectorPaused:
    """A context without garbage collections, which cost a third of the time that a large file takes.

    Parsing makes some 300,000 lists, which all stay, and the collector walks over all of them again and
    again. They hold no cycles: counting references frees them. Threads may be in here together: the first
    one stops the collector if it runs, and the last one starts it again if the first one stopped it, whatever
    became of the file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._was_running = False

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._was_running = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._was_running:
                gc.enable()


_collector_paused = _CollectorPaused()


class NativeEngine(TokenizersEngine):
    """Tokenizes in C++, token for token as `tokenizers` does.

    Args:
        text: The tokenizer.json.
        place: Where it comes from, for messages.

    Raises:
        Unknown: It holds something that is not known exactly.
    """

    name = "native"
    reason = "every part of the tokenizer.json is known"

    def __init__(self, text: str, place: str) -> None:
        with _collector_paused:
            try:
                document = json.loads(text, parse_float=_core.parse_number)
            except (ValueError, RecursionError) as error:
                raise Unknown(f"the file: {error}") from error
            if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
                raise Unknown("there is no model section")
            self._native, self._frames, self._vocabulary, self._added = read(document)
            del document  # else the next collection walks over all of it
        self._place, self._json = place, text
        self.frame(1, add_special_tokens=True)
        self._lock = threading.Lock()
        self._loaded: Any = None
        self._processor: Any = None
        self.num_inexact = 0

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary, added ones counted."""
        return len(self._vocabulary) + sum(token not in self._vocabulary for token in self._added)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, if there is one."""
        number: int | None = self._added.get(token, self._vocabulary.get(token))
        return number

    def encode(
        self, texts: Texts, pairs: Texts | None, layout: Layout
    ) -> tuple[Ragged, dict[int, Exception]]:
        """Make rows of texts: see ``TokenizersEngine``."""
        texts, pairs = readable(texts, "texts"), None if pairs is None else readable(pairs, "pairs")
        if pairs is not None and len(pairs) != len(texts):
            raise ConfigError(f"pairs: {len(pairs):,} for {len(texts):,} texts; give one each")
        if layout.stride is not None or layout.scored:
            rows = self._arranged(texts, pairs, layout)
            return super().encode(texts, pairs, layout) if rows is None else (rows, {})
        ids, offsets, type_ids, _, status = self._native.encode_rows(
            texts, pairs, _frame_of(layout), layout.with_types
        )
        rows = Ragged(ids, offsets, type_ids)
        if status is None:
            return rows, {}
        odd, more, failures = self._odd(texts, pairs, layout, status)
        return filled(rows, odd, more), failures

    def _odd(
        self, texts: Any, pairs: Any, layout: Layout, status: Any
    ) -> tuple[Int64Array, Ragged, dict[int, Exception]]:
        """What the native engine left: the numbers of rows, these rows, and why rows failed."""
        odd = np.flatnonzero((status == NO_TEXT) | (status == INEXACT))
        more, failed = super().encode(_some(texts, odd), None if pairs is None else _some(pairs, odd), layout)
        failures: dict[int, Exception] = {int(odd[at]): error for at, error in failed.items()}
        for at, error in failures.items():
            failures[at] = RowTokenizerError(vars(error)["reason"], row=at + 1)
        for at in np.flatnonzero(status == TOO_LONG).tolist():
            failures[at] = RowTokenizerError(layout.why_too_long, row=at + 1)
        return odd, more, dict(sorted(failures.items()))

    def _arranged(self, texts: Any, pairs: Any, layout: Layout) -> Ragged | None:
        """Rows that say what of them is scored; None: some text is odd."""
        made = [
            self._native.encode_rows(each, None, _PLAIN, False) for each in (texts, pairs) if each is not None
        ]
        if any(status is not None for *_, status in made):
            return None
        ids, offsets, _, sizes, _ = made[-1]
        all_ids, all_offsets = made[0][:2]
        if len(made) == 2:
            all_ids = np.concatenate([all_ids, ids])
            all_offsets = np.concatenate([all_offsets, all_offsets[-1] + offsets[1:]])
        rows, scored = layout.arrange(all_ids, all_offsets)
        lengths = np.diff(offsets)
        starts, stops = scored
        is_whole = (starts == 0) & (stops == lengths) & (lengths > 0)
        num_bytes = np.where(is_whole, sizes, 0)
        last = texts if pairs is None else pairs
        parts = [
            Part(
                at,
                str(last[at]),
                ids[offsets[at] : offsets[at + 1]],
                int(scored.starts[at]),
                int(scored.stops[at]),
            )
            for at in np.flatnonzero(~is_whole & (scored.starts < scored.stops)).tolist()
        ]
        reasons: dict[int, str] = {}
        self._measure(parts, num_bytes, reasons)
        return None if reasons else replace(rows, num_bytes=spread(num_bytes, rows.row_of))

    def count(self, texts: Texts, layout: Layout) -> Int64Array:
        """Tokens of each row: see ``TokenizersEngine``."""
        counts: Int64Array
        texts = readable(texts, "texts")
        counts, status = self._native.count_rows(texts, _frame_of(layout))
        if status is not None:
            odd, more, failures = self._odd(texts, None, layout, status)
            if failures:
                raise failures[min(failures)]
            counts[odd] = more.lengths
        return counts

    def _tokens(self, texts: list[str], reasons: dict[int, str]) -> tuple[Int32Array, Int64Array]:
        ids, offsets, _, _, status = self._native.encode_rows(texts, None, _PLAIN, False)
        if status is None:
            return ids, offsets
        odd = np.flatnonzero(status).tolist()
        with self._lock:
            self.num_inexact += int(np.count_nonzero(status == INEXACT))
        why: dict[int, str] = {}
        more, more_offsets = super()._tokens([texts[at] for at in odd], why)
        reasons |= {odd[at]: reason for at, reason in why.items()}
        parts = [ids[begin:end] for begin, end in itertools.pairwise(offsets)]
        for number, at in enumerate(odd):
            parts[at] = more[more_offsets[number] : more_offsets[number + 1]]
        lengths = [len(part) for part in parts]
        return np.concatenate(parts), np.cumsum([0, *lengths], dtype=np.int64)

    @property
    def _backend(self) -> Any:
        """What `tokenizers` makes of the file; made when it is first needed, which it seldom is."""
        with self._lock:
            if self._loaded is None:
                package = TokenizersEngine(self._json, self._place, self.reason)
                self._processor, self._loaded = package._processor, package._loaded
        return self._loaded


def _some(texts: Any, numbers: Int64Array) -> Any:
    return texts.take(numbers) if isinstance(texts, pa.Array) else [texts[at] for at in numbers.tolist()]


@lru_cache(maxsize=64)
def _frame_of(layout: Layout) -> _core.Frame:
    pieces = [
        (-1 if piece.text is None else piece.text, list(piece.ids), piece.type_id)
        for piece in layout.frame.pieces
    ]
    return _core.Frame(pieces, layout.max_length, layout.truncation == "left", layout.pair_truncation)


_PLAIN = _core.Frame([(0, [], 0)], None, False)
