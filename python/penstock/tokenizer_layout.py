"""From the tokens of texts to rows: truncation, special tokens, windows.

Pure array arithmetic, shared by all engines. Everything that `tokenizers` does after it has cut a text
into tokens is done here for all rows at once, and gives the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from penstock.errors import ConfigError
from penstock.ragged import Int32Array, Int64Array, Ragged, UInt8Array

if TYPE_CHECKING:
    from collections.abc import Sequence

Side = Literal["right", "left"]
PairTruncation = Literal["longest_first", "only_first", "only_second"]


class Spans(NamedTuple):
    """One stretch per row: ``[starts[i], stops[i])``, both ``int64[rows]``."""

    starts: Int64Array
    stops: Int64Array

    @property
    def lengths(self) -> Int64Array:
        """``int64[rows]``."""
        return self.stops - self.starts

    def keep(self, lengths: Int64Array, side: Side) -> Spans:
        """Only so many tokens of each; truncation on the right keeps the first ones."""
        if side == "right":
            return Spans(self.starts, self.starts + lengths)
        return Spans(self.stops - lengths, self.stops)


class Piece(NamedTuple):
    """A part of every row: a text, or special tokens (``text`` is None)."""

    text: int | None
    ids: tuple[int, ...]
    type_id: int


@dataclass(frozen=True)
class Frame:
    """What stands around the text or texts of a row: ``[CLS] text [SEP]`` is three pieces."""

    pieces: tuple[Piece, ...]

    @classmethod
    def of_row(cls, ids: Sequence[int], type_ids: Sequence[int], texts: Sequence[int | None]) -> Frame:
        """Read the frame off an encoded row; ``texts`` says for each token which text it is from."""
        pieces = []
        tokens = zip(texts, type_ids, ids, strict=True)
        for (text, type_id), run in groupby(tokens, key=lambda token: token[:2]):
            pieces.append(Piece(text, tuple(token[2] for token in run), type_id))
        return cls(tuple(pieces))

    @property
    def num_special(self) -> int:
        """Special tokens of a row."""
        return sum(len(piece.ids) for piece in self.pieces if piece.text is None)

    def num_before(self, text: int) -> int:
        """Special tokens before this text."""
        before = 0
        for piece in self.pieces:
            if piece.text == text:
                break
            before += len(piece.ids) if piece.text is None else 0
        return before

    @property
    def num_texts(self) -> int:
        """Texts of a row."""
        return sum(piece.text is not None for piece in self.pieces)

    @property
    def is_pair(self) -> bool:
        """Whether a row holds two texts."""
        return any(piece.text == 1 for piece in self.pieces)

    def with_second_text(self) -> Frame:
        """The frame of a pair that reads on from the first text to the second."""
        first = next(at for at, piece in enumerate(self.pieces) if piece.text == 0)
        return Frame(
            (*self.pieces[: first + 1], self.pieces[first]._replace(text=1), *self.pieces[first + 1 :])
        )

    def beginning_with(self, token: int) -> Frame:
        """This frame with one more special token in front, unless it begins with one itself."""
        if self.num_before(0):
            return self
        return Frame((Piece(None, (token,), self.pieces[0].type_id), *self.pieces))


@dataclass(frozen=True)
class Layout:
    """What the rows shall look like.

    Args:
        frame: What stands around the texts.
        max_length: Tokens of a row at most, special ones counted; None: no limit.
        truncation: Where too long texts lose tokens.
        pair_truncation: Which text of a pair loses them.
        stride: Cut windows instead of truncating; each later one holds up to so many new tokens.
        scored: The first token is context: say from where each row is scored. Of two texts, the first
            is context as a whole, and loses its first tokens when the row is too long.
        with_types: Make ``type_ids``.

    Raises:
        ConfigError: These cannot be together.
    """

    frame: Frame
    max_length: int | None = None
    truncation: Side = "right"
    pair_truncation: PairTruncation = "longest_first"
    stride: int | None = None
    scored: bool = False
    with_types: bool = False

    def __post_init__(self) -> None:
        special, max_length, stride = self.frame.num_special, self.max_length, self.stride
        if self.truncation not in ("right", "left"):
            raise ConfigError(f'truncation={self.truncation!r}: must be "right" or "left"')
        if self.pair_truncation not in get_args(PairTruncation):
            names = ", ".join(f'"{name}"' for name in get_args(PairTruncation))
            raise ConfigError(f"pair_truncation={self.pair_truncation!r}: must be one of {names}")
        if self.scored and self.pair_truncation != "longest_first":
            raise ConfigError(
                f"pair_truncation={self.pair_truncation!r}: with_bos has a rule of its own, by which the "
                "first text loses its first tokens; leave it out"
            )
        if max_length is not None and max_length < max(1, special):
            needed = f" for its {special} special tokens" if special else ""
            raise ConfigError(f"max_length={max_length}: a row needs at least {max(1, special)}{needed}")
        if stride is None:
            return
        if max_length is None:
            raise ConfigError("stride: needs max_length, the size of a window")
        if not 1 <= stride < max_length:
            raise ConfigError(f"stride={stride}: must be from 1 to max_length - 1 ({max_length - 1})")
        if self.frame.is_pair:
            raise ConfigError(
                "stride: pairs cannot be cut into windows; without it, long pairs are truncated"
            )
        if max_length == special and not self._cuts_rows:
            raise ConfigError(f"max_length={max_length}: leaves no room beside {special} special tokens")

    @property
    def _cuts_rows(self) -> bool:
        """Whether windows are slices of whole rows, not of texts with special tokens put around each."""
        return self.scored or self.frame.num_before(0) == self.frame.num_special

    def arrange(self, ids: Int32Array, offsets: Int64Array) -> tuple[Ragged, Spans]:
        """Make rows of the tokens of texts.

        Args:
            ids: ``int32[n]``, the tokens of all texts; of pairs all first texts, then all second ones.
            offsets: ``int64[texts + 1]``, where each text begins.

        Returns:
            The rows (without ``num_bytes``), and per input row which tokens of its scored text (the only
            one, or the second) are scored, counted from the first token of that text.
        """
        texts = self._texts(offsets)
        num_texts, rows = len(texts), len(texts[0].starts)
        if self.stride is not None:
            return self._windows(ids, texts[0])
        kept = self._truncated(texts)
        flat, row_offsets, type_ids = self._framed(ids, kept)
        row_lengths = np.diff(row_offsets)
        scored = Spans(kept[-1].starts - texts[-1].starts, kept[-1].stops - texts[-1].starts)
        first_scored = None
        if self.scored:
            before = self.frame.num_before(num_texts - 1) + (kept[0].lengths if num_texts == 2 else 0)
            context = np.maximum(before, np.ones(rows, np.int64))
            scored = Spans(np.minimum(scored.starts + (context - before), scored.stops), scored.stops)
            first_scored = np.minimum(context, row_lengths).astype(np.int32)
        return Ragged(flat, row_offsets, type_ids, None, first_scored), scored

    def kept(self, offsets: Int64Array) -> tuple[Int64Array, Int64Array]:
        """How many tokens of each text are cut off before those that stay, and how many stay.

        Args:
            offsets: As in ``arrange``; so are the texts in order.
        """
        texts = self._texts(offsets)
        kept = self._truncated(texts)
        dropped = [part.starts - whole.starts for part, whole in zip(kept, texts, strict=True)]
        return np.concatenate(dropped), np.concatenate([part.lengths for part in kept])

    def places(self, offsets: Int64Array) -> Int32Array:
        """For each token of the rows which of the texts' tokens it is; a special one is -1.

        Args:
            offsets: As in ``arrange``, of texts that hold no more than stays of them.
        """
        pieces = [piece._replace(ids=(-1,) * len(piece.ids)) for piece in self.frame.pieces]
        rows, _ = Layout(Frame(tuple(pieces))).arrange(np.arange(offsets[-1], dtype=np.int32), offsets)
        return rows.ids

    def too_long(self, offsets: Int64Array) -> dict[int, str]:
        """The rows that cannot be made, and why: the text that may not be cut leaves nothing of the other.

        Args:
            offsets: As in ``arrange``.
        """
        if self.max_length is None or self._whole_text is None:
            return {}
        room = self.max_length - self.frame.num_special
        texts = self._texts(offsets)
        whole, both = texts[self._whole_text].lengths, texts[0].lengths + texts[1].lengths
        return dict.fromkeys(
            np.flatnonzero((both > room) & (whole >= room) & (room > 0)).tolist(), self.why_too_long
        )

    @property
    def why_too_long(self) -> str:
        """What is wrong with a row that ``too_long`` names."""
        whole, cut = ("first", "second") if self._whole_text == 0 else ("second", "first")
        return (
            f"the {whole} text alone fills the row of max_length={self.max_length}, and "
            f"pair_truncation={self.pair_truncation!r} cuts only the {cut} text, down to one token. "
            "Give a larger max_length, or pair_truncation='longest_first'"
        )

    @property
    def _whole_text(self) -> int | None:
        """Which text of a pair is never cut; None: none, or there is one text only."""
        if not self.frame.is_pair or self.pair_truncation == "longest_first":
            return None
        return 1 if self.pair_truncation == "only_first" else 0

    def _texts(self, offsets: Int64Array) -> list[Spans]:
        num_texts = 2 if self.frame.is_pair else 1
        rows = (len(offsets) - 1) // num_texts
        return [
            Spans(offsets[k * rows : (k + 1) * rows], offsets[k * rows + 1 : (k + 1) * rows + 1])
            for k in range(num_texts)
        ]

    def _truncated(self, texts: list[Spans]) -> list[Spans]:
        if self.max_length is None:
            return texts
        room = self.max_length - self.frame.num_special
        if len(texts) == 1:
            return [texts[0].keep(np.minimum(texts[0].lengths, room), self.truncation)]
        first, second = texts
        if self.scored:
            keep_second = np.minimum(second.lengths, room)
            keep_first = np.minimum(first.lengths, room - keep_second)
            return [first.keep(keep_first, "left"), second.keep(keep_second, "left")]
        if self._whole_text is None:
            keep_first, keep_second = longest_first(first.lengths, second.lengths, room)
        else:
            keep = [np.minimum(text.lengths, room) for text in texts]
            cut = 1 - self._whole_text
            keep[cut] = np.minimum(keep[cut], room - keep[self._whole_text])
            keep_first, keep_second = keep
        return [first.keep(keep_first, self.truncation), second.keep(keep_second, self.truncation)]

    def _framed(
        self, ids: Int32Array, texts: Sequence[Spans]
    ) -> tuple[Int32Array, Int64Array, UInt8Array | None]:
        """Put the special tokens around the texts of every row: ids, offsets, type ids."""
        lengths = np.full(len(texts[0].starts), self.frame.num_special)
        for text in texts:
            lengths += text.lengths
        offsets = _offsets(lengths)
        flat = np.empty(offsets[-1], np.int32)
        type_ids = np.zeros(offsets[-1], np.uint8) if self.with_types else None
        at = offsets[:-1].copy()
        for piece in self.frame.pieces:
            if piece.text is None:
                where = np.add.outer(at, np.arange(len(piece.ids)))
                flat[where] = piece.ids
                step: int | Int64Array = len(piece.ids)
            else:
                text = texts[piece.text]
                where = _ranges(at, text.lengths)
                flat[where] = ids[_ranges(text.starts, text.lengths)]
                step = text.lengths
            if type_ids is not None and piece.type_id:
                type_ids[where] = piece.type_id
            at += step
        return flat, offsets, type_ids

    def _windows(self, ids: Int32Array, text: Spans) -> tuple[Ragged, Spans]:
        assert self.max_length is not None
        assert self.stride is not None
        before = self.frame.num_before(0)
        context = max(before, 1) if self.scored else before
        if self._cuts_rows:
            flat, offsets, type_ids = self._framed(ids, [text])
            lengths = np.diff(offsets)
            row_of, window, fresh = windows(lengths, self.max_length, self.stride)
            where = _ranges(window.starts + offsets[row_of], window.lengths)
            flat, type_ids = flat[where], None if type_ids is None else type_ids[where]
            first = np.where(fresh == 0, np.minimum(context, lengths[row_of]), fresh - window.starts)
            offsets = _offsets(window.lengths)
        else:
            size = self.max_length - self.frame.num_special
            row_of, window, fresh = windows(text.lengths, size, min(self.stride, size))
            shift = text.starts[row_of]
            flat, offsets, type_ids = self._framed(ids, [Spans(window.starts + shift, window.stops + shift)])
            first = before + fresh - window.starts
        scored = Spans(np.minimum(context - before, text.lengths), text.lengths)
        return Ragged(flat, offsets, type_ids, row_of, first.astype(np.int32)), scored


def longest_first(first: Int64Array, second: Int64Array, room: int) -> tuple[Int64Array, Int64Array]:
    """How many tokens of each of two texts stay so that together they fill at most ``room``.

    The longer text loses tokens until both are of one length, then both lose in turn; an odd one goes
    to the longer text.

    Example:
        >>> longest_first(np.array([3, 9]), np.array([9, 9]), 9)
        (array([3, 4]), array([6, 5]))
    """
    shorter = np.minimum(first, second)
    half = room // 2
    keep_shorter = np.where(2 * shorter > room, half, shorter)
    keep_longer = np.where(2 * shorter > room, room - half, room - keep_shorter)
    cut = first + second > room
    swapped = first > second
    keep_first = np.where(cut, np.where(swapped, keep_longer, keep_shorter), first)
    keep_second = np.where(cut, np.where(swapped, keep_shorter, keep_longer), second)
    return keep_first, keep_second


def windows(lengths: Int64Array, size: int, stride: int) -> tuple[Int64Array, Spans, Int64Array]:
    """Cut rows into windows of ``size`` tokens, each with up to ``stride`` tokens not seen before.

    Returns:
        Per window: the row it is of, its stretch of the row, and the first position of the row that no
        earlier window held.

    Example:
        >>> row_of, window, fresh = windows(np.array([7]), size=4, stride=2)
        >>> list(zip(window.starts.tolist(), window.stops.tolist(), fresh.tolist()))
        [(0, 4, 0), (2, 6, 4), (3, 7, 6)]
    """
    counts = 1 + np.maximum(0, -(-(lengths - size) // stride))
    row_of = np.repeat(np.arange(len(lengths)), counts)
    number = _ranges(np.zeros(len(lengths), np.int64), counts)
    stops = np.minimum(size + number * stride, lengths[row_of])
    fresh = np.where(number == 0, 0, size + (number - 1) * stride)
    return row_of, Spans(np.maximum(0, stops - size), stops), fresh


def emptied(rows: Ragged, inputs: Sequence[int]) -> Ragged:
    """The same rows, without any token in the rows of these inputs."""
    owner = np.arange(len(rows)) if rows.row_of is None else rows.row_of
    stays = ~np.isin(owner, np.asarray(inputs, np.int64))
    token_stays = np.repeat(stays, rows.lengths)
    return Ragged(
        rows.ids[token_stays],
        _offsets(np.where(stays, rows.lengths, 0)),
        None if rows.type_ids is None else rows.type_ids[token_stays],
        rows.row_of,
        None if rows.first_scored is None else np.where(stays, rows.first_scored, np.int32(0)),
        None if rows.num_bytes is None else np.where(stays, rows.num_bytes, 0),
    )


def filled(rows: Ragged, at: Int64Array, others: Ragged) -> Ragged:
    """The same rows, where those at these places, without any token so far, are the others, in order."""
    lengths = rows.lengths
    lengths[at] = others.lengths
    is_other = np.zeros(len(rows), bool)
    is_other[at] = True
    token_is_other = np.repeat(is_other, lengths)

    def merged(mine: Any, theirs: Any) -> Any:
        if mine is None:
            return None
        both = np.empty(len(token_is_other), mine.dtype)
        both[~token_is_other], both[token_is_other] = mine, theirs
        return both

    return Ragged(merged(rows.ids, others.ids), _offsets(lengths), merged(rows.type_ids, others.type_ids))


def _offsets(lengths: Int64Array) -> Int64Array:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _ranges(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """All of ``starts[0], starts[0] + 1, ...`` (so many as ``lengths[0]``), then those of the next."""
    offsets = _offsets(lengths)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
