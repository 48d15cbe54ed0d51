"""The engine over the `tokenizers` package: any tokenizer.json, at that package's speed.

An engine is immutable and shared by all threads. It has a ``name``, a ``reason``, a vocabulary, and methods:
``frame`` (what the tokenizer puts around texts), ``encode`` (texts and a layout to rows), ``count`` (only how
long these are) and ``spans`` (where tokens lie in their texts). ``encode_batch_fast`` is what runs underneath
all but the last: it lets go of the GIL, unlike ``encode``, and keeps no character offsets.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from penstock.arguments import refused
from penstock.errors import ConfigError, PenstockError, RowTokenizerError, TokenizerError
from penstock.tokenizer_backend import PASSES, parse
from penstock.tokenizer_layout import Frame, Layout, Spans, emptied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from penstock.ragged import Int32Array, Int64Array, Ragged

Texts: TypeAlias = "Sequence[str] | pa.Array | pa.ChunkedArray"
Unit = Literal["char", "byte"]

# A call's Encoding objects weigh some 150 bytes a token: few rows at a time keep that to tens of MB.
BLOCK_ROWS = 1024
BLOCK_CHARACTERS = 1 << 20
HEAD_CHARACTERS = 64
PROBES = ("a", "1", ".", "the", "一")


class TokenizersEngine:
    """Tokenizes with the `tokenizers` package.

    Args:
        text: The tokenizer.json.
        place: Where it comes from, for messages.
        reason: Why this engine.

    Raises:
        TokenizerError: The file is damaged, or its post-processor leaves out a text or doubles it.
    """

    name = "tokenizers"
    num_inexact = 0  # texts that another engine left to this one

    def __init__(self, text: str, place: str, reason: str) -> None:
        self.reason = reason
        backend = parse(text, place)
        backend.no_truncation()
        backend.no_padding()
        processor, backend.post_processor = backend.post_processor, None
        _refuse_endless(backend, place)
        try:
            probe, tokens = _probe(backend, place)
            backend.post_processor = processor
            self._frames = {
                (num_texts, special): _read_frame(backend, probe, tokens, num_texts, special)
                for num_texts in (1, 2)
                for special in (True, False)
            }
        except (*PASSES, TokenizerError):
            raise
        except BaseException as error:  # noqa: BLE001  a panic in the Rust code is no Exception
            raise TokenizerError(
                f"{place}: the tokenizers package cannot make a row with it: {error}. The file is damaged; "
                "fetch it again"
            ) from None
        self._place = place
        self.frame(1, add_special_tokens=True)
        # The layout adds the special tokens from here on; without the post-processor, which trims
        # them, offsets say where tokens really begin and end.
        backend.post_processor = None
        self._loaded: Any = backend
        self._processor: Any = processor

    @property
    def _backend(self) -> Any:
        return self._loaded

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary, added ones counted."""
        return int(self._backend.get_vocab_size())

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, if there is one."""
        number: int | None = self._backend.token_to_id(token)
        return number

    def frame(self, num_texts: int, *, add_special_tokens: bool) -> Frame:
        """What stands around one text, or around a pair.

        Raises:
            TokenizerError: The post-processor does not take that many texts.
        """
        frame = self._frames[num_texts, add_special_tokens]
        if frame is None:
            what = "a text" if num_texts == 1 else "each text of a pair"
            raise TokenizerError(
                f"{self._place}: the post-processor does not put {what} once and whole into a row, "
                "so such rows cannot be made. Give the file another post_processor"
            )
        return frame

    def encode(
        self, texts: Texts, pairs: Texts | None, layout: Layout
    ) -> tuple[Ragged, dict[int, Exception]]:
        """Make rows of texts.

        Args:
            texts: What to encode.
            pairs: The second texts of pairs, as many; or None.
            layout: What the rows shall look like.

        Returns:
            The rows, and why some of them failed: these have no token.
        """
        reasons: dict[int, str] = {}
        strings = _strings(texts, "texts", reasons)
        num_rows = len(strings)
        if pairs is not None:
            second: dict[int, str] = {}
            strings = strings + _strings(pairs, "pairs", second)
            if len(strings) != 2 * num_rows:
                raise ConfigError(f"pairs: {len(strings) - num_rows:,} for {num_rows:,} texts; give one each")
            reasons |= {num_rows + at: reason for at, reason in second.items()}
        ids, offsets = self._tokens(strings, reasons)
        rows, scored = layout.arrange(ids, offsets)
        if layout.scored or layout.stride is not None:
            last = len(strings) - num_rows
            tokens = [ids[start:stop] for start, stop in pairwise(offsets[last:].tolist())]
            num_bytes = self._bytes_of(strings[last:], tokens, scored, reasons)
            rows = replace(rows, num_bytes=spread(num_bytes, rows.row_of))
        failures: dict[int, Exception] = {}
        for at, reason in sorted(reasons.items()):
            which = "" if at < num_rows else "of the pair's second text: "
            failures.setdefault(at % num_rows, RowTokenizerError(which + reason, row=at % num_rows + 1))
        for at, reason in layout.too_long(offsets).items():
            failures.setdefault(at, RowTokenizerError(reason, row=at + 1))
        return (emptied(rows, list(failures)) if failures else rows), dict(sorted(failures.items()))

    def count(self, texts: Texts, layout: Layout) -> Int64Array:
        """``int64[rows]``: tokens of each row, without the rows.

        Raises:
            RowTokenizerError: A text cannot be tokenized.
        """
        rows, failures = self.encode(texts, None, layout)
        if failures:
            raise failures[min(failures)]
        return rows.lengths

    def spans(
        self, texts: Texts, pairs: Texts | None, layout: Layout, unit: Unit
    ) -> tuple[Ragged, Int64Array]:
        """Rows, none of them cut into windows, and where their tokens begin and end in their texts.

        Returns:
            The rows, and ``int64[n, 2]``: of each token the characters, or the bytes of UTF-8, of its text.
            Special tokens have (0, 0).

        Raises:
            RowTokenizerError: A row cannot be made.
        """
        texts, pairs = readable(texts, "texts"), None if pairs is None else readable(pairs, "pairs")
        rows, failures = self.encode(texts, pairs, layout)
        if failures:
            raise failures[min(failures)]
        reasons: dict[int, str] = {}
        each = [_strings(side, "", reasons) for side in (texts, pairs) if side is not None]
        parts = [np.empty((0, 2), np.int64)]
        for start, stop in _blocks([sum(map(len, row)) for row in zip(*each, strict=True)]):
            block = [text for side in each for text in side[start:stop]]
            numbers = list(range(start, stop)) * len(each)
            encodings = _encodings(self._backend.encode_batch, block, numbers, reasons)
            if reasons:
                raise RowTokenizerError(reasons[min(reasons)], row=min(reasons) + 1)
            parts.append(self._spans_of_block(block, encodings, layout, unit))
        spans = np.concatenate(parts)
        if len(spans) != len(rows.ids):
            raise PenstockError("The engines disagree about the tokens of a text. This is a bug.")
        return rows, spans

    def _spans_of_block(
        self, texts: list[str], encodings: list[Any], layout: Layout, unit: Unit
    ) -> Int64Array:
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        dropped, kept = layout.kept(np.append(0, np.cumsum(lengths)))
        found: list[tuple[int, int]] = []
        for text, encoding, skip, count in zip(
            texts, encodings, dropped.tolist(), kept.tolist(), strict=True
        ):
            spans = self._spans_of_text(encoding, skip, count)
            found += spans if unit == "char" or text.isascii() else _in_bytes(text, spans)
        table = np.array([*found, (0, 0)], np.int64)
        return table[layout.places(np.append(0, np.cumsum(kept)))]

    def _spans_of_text(self, encoding: Any, skip: int, count: int) -> list[tuple[int, int]]:
        """Of ``count`` tokens that stay behind ``skip`` others; the post-processor trims them as it likes."""
        if not count:
            return []
        if skip:  # done to the tokens themselves: the first of a row may be trimmed in another way
            encoding.truncate(len(encoding) - skip, direction="left")
        if self._processor is not None:
            encoding = self._processor.process(encoding, None, False)
        spans: list[tuple[int, int]] = encoding.offsets[:count]
        return spans

    def _tokens(self, texts: list[str], reasons: dict[int, str]) -> tuple[Int32Array, Int64Array]:
        """``int32[n]`` tokens of all texts and ``int64[texts + 1]`` where each begins."""
        offsets = np.zeros(len(texts) + 1, np.int64)
        parts = [np.empty(0, np.int32)]
        for start, stop in _blocks([len(text) for text in texts]):
            encode = self._backend.encode_batch_fast
            encodings = _encodings(encode, texts[start:stop], range(start, stop), reasons)
            lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
            tokens = chain.from_iterable(encoding.ids for encoding in encodings if encoding)
            # The fastest of six ways tried: 25 ns a token, where making the token takes 2,500.
            parts.append(np.fromiter(tokens, np.int32, int(lengths.sum())))
            offsets[start + 1 : stop + 1] = lengths
        return np.concatenate(parts), np.cumsum(offsets)

    def _bytes_of(
        self, texts: list[str], rows: list[Int32Array], scored: Spans, reasons: dict[int, str]
    ) -> Int64Array:
        """``int64[texts]``: the UTF-8 bytes that the scored tokens of each text stand for.

        What lies between two tokens goes with the later one, what lies after the last with the last. A
        character that is cut in two counts whole.
        """
        num_bytes = np.zeros(len(texts), np.int64)
        parts = []
        for at, (start, stop) in enumerate(zip(scored.starts.tolist(), scored.stops.tolist(), strict=True)):
            if start == 0 and stop == len(rows[at]) > 0:
                num_bytes[at] = _utf8_bytes(texts[at])
            elif start < stop:
                parts.append(Part(at, texts[at], rows[at], start, stop))
        self._measure(parts, num_bytes, reasons)
        return num_bytes

    def _measure(self, parts: list[Part], num_bytes: Int64Array, reasons: dict[int, str]) -> None:
        for first, last in _blocks([len(part.text) for part in parts]):
            block = parts[first:last]
            for part, encoding in zip(block, self._with_ends(block, reasons), strict=True):
                if encoding:
                    num_bytes[part.row] = part.num_bytes(encoding)

    def _with_ends(self, parts: list[Part], reasons: dict[int, str]) -> list[Any]:
        """Encodings that know where the tokens of texts end, at least those that matter."""
        encode, numbers = self._backend.encode_batch, [part.row for part in parts]
        encodings = _encodings(encode, [part.head for part in parts], numbers, reasons)
        unlike = [at for at, head in enumerate(encodings) if head and not parts[at].is_enough(head)]
        texts, numbers = [parts[at].text for at in unlike], [parts[at].row for at in unlike]
        for at, encoding in zip(unlike, _encodings(encode, texts, numbers, reasons), strict=True):
            encodings[at] = encoding
        return encodings


class Part(NamedTuple):
    """A text of which only the tokens from ``start`` to ``stop`` are scored."""

    row: int
    text: str
    tokens: Int32Array
    start: int
    stop: int

    @property
    def num_known(self) -> int:
        """Of so many tokens it must be known where they end: up to the last scored, or before the first."""
        return self.stop if self.stop < len(self.tokens) else self.start

    @property
    def head(self) -> str:
        """As much of the text as should make these tokens."""
        return self.text[: HEAD_CHARACTERS + 5 * len(self.text) * self.num_known // (4 * len(self.tokens))]

    def is_enough(self, head: Any) -> bool:
        """Whether the head made the same tokens, and one more behind them, so that the cut did not matter."""
        known = slice(self.num_known + 1)
        return len(self.head) == len(self.text) or head.ids[known] == self.tokens[known].tolist()

    def num_bytes(self, encoding: Any) -> int:
        """UTF-8 bytes from the end of the token before the first scored one to that of the last."""
        begin = encoding.token_to_chars(self.start - 1)[1] if self.start else 0
        is_last = self.stop == len(self.tokens)
        end = len(self.text) if is_last else encoding.token_to_chars(self.stop - 1)[1]
        return _utf8_bytes(self.text[begin:end])


def _encodings(
    encode: Callable[..., list[Any]], texts: list[str], numbers: Sequence[int], reasons: dict[int, str]
) -> list[Any]:
    """The encodings of texts; of one that fails an empty list, and the reason under its number."""
    try:
        return list(encode(texts, add_special_tokens=False))
    except PASSES:
        raise
    except BaseException as error:  # noqa: BLE001  a panic in the Rust code is no Exception
        if len(texts) == 1:
            reasons[numbers[0]] = _reason(texts[0], error)
            return [[]]
    half = len(texts) // 2
    left = _encodings(encode, texts[:half], numbers[:half], reasons)
    return left + _encodings(encode, texts[half:], numbers[half:], reasons)


def _refuse_endless(backend: Any, place: str) -> None:
    """With such a token `tokenizers` finds "" everywhere in a text, and takes memory until there is none.

    Raises:
        TokenizerError: The normalizer leaves nothing of an added token that is looked for behind it.
    """
    if backend.normalizer is None:
        return
    for token in backend.get_added_tokens_decoder().values():
        if token.normalized and token.content and not backend.normalizer.normalize_str(token.content):
            raise TokenizerError(
                f"{place}: the normalizer leaves nothing of the added token {token.content!r}; set its "
                "normalized to false"
            )


def _probe(backend: Any, place: str) -> tuple[str, list[int]]:
    """A text that makes tokens, and these."""
    for probe in chain(PROBES, islice(backend.get_vocab(), 100)):
        ids = backend.encode_batch([probe], add_special_tokens=False)[0].ids
        if ids:
            return probe, ids
    raise TokenizerError(f"{place}: no text makes a token: is the vocabulary empty?")


def _read_frame(backend: Any, probe: str, tokens: list[int], num_texts: int, special: bool) -> Frame | None:
    row = backend.encode_batch([probe if num_texts == 1 else (probe, probe)], add_special_tokens=special)[0]
    frame = Frame.of_row(row.ids, row.type_ids, row.sequence_ids)
    texts = {piece.text: piece.ids for piece in frame.pieces if piece.text is not None}
    are_whole = texts == dict.fromkeys(range(num_texts), tuple(tokens))
    # The first of two copies of a text counts as no text's, but is not marked as special either.
    return frame if are_whole and sum(row.special_tokens_mask) == frame.num_special else None


def readable(texts: Texts, argument: str) -> Any:
    """Texts that can be read more than once: a list, a tuple, or an Arrow array in one piece.

    Raises:
        ConfigError: They are no texts.
    """
    if isinstance(texts, (str, bytes)):
        raise ConfigError(f"{argument}: is one text; put it in a list")
    if isinstance(texts, (list, tuple)):
        return texts
    if not isinstance(texts, (pa.Array, pa.ChunkedArray)):
        if hasattr(texts, "__arrow_c_array__"):
            texts = pa.array(texts)
        elif hasattr(texts, "__arrow_c_stream__"):
            texts = pa.chunked_array(texts)
        else:
            try:
                return list(texts)
            except TypeError as error:
                raise refused(argument, texts, "a list of texts, or an Arrow array of strings") from error
    kind = texts.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise ConfigError(f"{argument}: is an Arrow array of {kind}; cast it to pyarrow.string()")
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _strings(texts: Texts, argument: str, reasons: dict[int, str]) -> list[str]:
    """The texts as a list of str, "" in place of what is none, and under its number the reason."""
    strings: list[Any] = [*_decoded(readable(texts, argument))]
    for at, text in enumerate(strings):
        if isinstance(text, UnicodeDecodeError):
            reasons[at], strings[at] = f"the text is not valid UTF-8: {text}", ""
        elif not isinstance(text, str):
            kind = "null" if text is None else f"of type {type(text).__name__}, not str"
            reasons[at], strings[at] = f"the text is {kind}", ""
    return strings


def _decoded(texts: Iterable[Any] | pa.Array) -> Iterable[Any]:
    """The texts as Python has them; of an Arrow array that is damaged, an error in place of a text."""
    if not isinstance(texts, pa.Array):
        return texts
    strings: list[Any]
    try:
        strings = texts.to_pylist()
    except UnicodeDecodeError:
        strings = [_text_or_error(text) for text in texts]
    return strings


def _text_or_error(text: Any) -> Any:
    try:
        return text.as_py()
    except UnicodeDecodeError as error:
        return error


def _reason(text: str, error: BaseException) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as surrogate:
        return (
            f"the text holds a lone surrogate (U+{ord(text[surrogate.start]):04X} at character "
            f"{surrogate.start + 1:,}), which has no UTF-8 form. Replace it: "
            "text.encode('utf-8', 'replace').decode()"
        )
    return f"the tokenizers package failed on this text of {len(text):,} characters: {error}"


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def spread(num_bytes: Int64Array, row_of: Int64Array | None) -> Int64Array:
    """Of the windows of a row the first carries its bytes."""
    if row_of is None:
        return num_bytes
    spread = np.zeros(len(row_of), np.int64)
    spread[np.searchsorted(row_of, np.arange(len(num_bytes)))] = num_bytes
    return spread


def _in_bytes(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same spans in bytes of UTF-8."""
    runes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (runes > 0x7F).astype(np.int64) + (runes > 0x7FF) + (runes > 0xFFFF)
    begins = np.append(0, np.cumsum(widths))
    return [(begin, end) for begin, end in begins[np.array(spans, np.int64).reshape(-1, 2)].tolist()]


def _blocks(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """Stretches of texts of so many characters that are encoded in one call."""
    start = characters = 0
    for at, length in enumerate(lengths):
        if at > start and (at - start == BLOCK_ROWS or characters + length > BLOCK_CHARACTERS):
            yield start, at
            start, characters = at, 0
        characters += length
    if start < len(lengths):
        yield start, len(lengths)
