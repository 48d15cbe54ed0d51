"""Text to token ids: the ``Tokenizer``, one class over whichever engine knows the tokenizer.json."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from penstock.arguments import flag, is_whole, optional, whole
from penstock.errors import ConfigError
from penstock.ragged import Ragged
from penstock.tokenizer_arrays import Packed, Padding, pack, pad
from penstock.tokenizer_files import Found, Settings, find
from penstock.tokenizer_layout import Frame, Layout
from penstock.tokenizer_native import make_engine

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from penstock.ragged import Int64Array
    from penstock.tokenizer_arrays import IntArray
    from penstock.tokenizer_engine import Texts
    from penstock.tokenizer_layout import PairTruncation, Side

__all__ = ["Packed", "Ragged", "Tokenizer"]

MAX_LAYOUTS = 64
MOST_TOKENS = 1 << 48  # of a row: a larger max_length is no other


class _Begin(NamedTuple):
    """How the rows of a ``with_bos`` view begin."""

    bos_id: int | None


class Tokenizer:
    """Turns texts into rows of token ids, exactly as the `tokenizers` package would.

    Made by ``from_pretrained``. Immutable: many threads may use one object at once, and copies are cheap.
    Truncation and padding sections of a tokenizer.json are ignored; the caller decides.

    Example:
        >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
        >>> words = {"water": 0, "falls": 1, "down": 2, "?": 3}
        >>> backend = Backend(models.WordLevel(words, unk_token="?"))
        >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> tokenizer = Tokenizer.from_pretrained(backend)
        >>> rows = tokenizer.encode_batch(["water falls down", "water"], max_length=2)
        >>> rows.ids.tolist(), rows.offsets.tolist()
        ([0, 1, 0], [0, 2, 3])
    """

    def __init__(self, found: Found, begin: _Begin | None = None) -> None:
        """For ``from_pretrained``; not for callers."""
        self._place, self._json = found.place, found.json
        self._settings = found.settings
        self._engine = found.engine
        self._vocab_size = found.engine.vocab_size
        self._begin = begin
        self._layouts: dict[tuple[Any, ...], Layout] = {}

    @classmethod
    def from_pretrained(cls, source: Any, *, revision: str | None = None) -> Tokenizer:
        """Load a tokenizer.

        Args:
            source: A folder with a tokenizer.json, the path of one, a hub id (fetched with
                huggingface_hub, which heeds ``HF_HUB_OFFLINE``), a fast tokenizer of `transformers`, or a
                ``tokenizers.Tokenizer``. Objects are copied.
            revision: Branch, tag or commit, for a hub id.

        Raises:
            TokenizerError: There is none, or it is damaged (the message says where), or it is a slow
                tokenizer, written in Python.
        """
        return cls(find(source, revision))

    def encode_batch(
        self,
        texts: Texts,
        pairs: Texts | None = None,
        *,
        max_length: int | None = None,
        truncation: Side = "right",
        pair_truncation: PairTruncation = "longest_first",
        stride: int | None = None,
        add_special_tokens: bool = True,
    ) -> Ragged:
        """Tokenize texts, or pairs of texts.

        Args:
            texts: A sequence of str, or an Arrow array of strings.
            pairs: The second texts of pairs, as many.
            max_length: Tokens of a row at most, special tokens counted; None: no limit.
            truncation: Which end of a too long text is cut off.
            pair_truncation: Which text of a too long pair is cut. ``"longest_first"``: the longer one until
                both are of one length, then both in turn; ``"only_first"`` or ``"only_second"``: no more than
                that, and a row fails of which the other text leaves no room for one token of it.
                Long documents behind short questions want ``"only_second"``.
            stride: Cut a too long row into overlapping windows instead: the first holds its first
                ``max_length`` tokens, and each later one up to so many new tokens behind as many old ones
                as fit. Where the tokenizer puts special tokens after a text, windows are cut from the text
                and each has its own special tokens; else they are slices of the row, so only the first
                holds a BOS.
            add_special_tokens: Put the tokenizer's special tokens around the texts.

        Returns:
            One row per text, or per window. ``first_scored`` and ``num_bytes`` are there with ``stride``
            and from views (``with_bos``).

        Raises:
            RowTokenizerError: A text cannot be tokenized (it is null, no str, or holds a lone surrogate), or
                ``pair_truncation`` leaves nothing of one; names the first such row. ``encode_rows`` gives the
                others nevertheless.
            ConfigError: An argument cannot be right.

        Example:
            >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
            >>> backend = Backend(models.WordLevel({"a": 0, "b": 1, "c": 2, "d": 3, "?": 4}, unk_token="?"))
            >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
            >>> tokenizer = Tokenizer.from_pretrained(backend)
            >>> rows = tokenizer.encode_batch(["a b c d", "d"], max_length=3, stride=2)
            >>> [rows.row(i).tolist() for i in range(len(rows))], rows.row_of.tolist()
            ([[0, 1, 2], [1, 2, 3], [3]], [0, 0, 1])
            >>> rows.first_scored.tolist(), rows.num_bytes.tolist()
            ([0, 2, 0], [7, 0, 1])
        """
        rows, failures = self.encode_rows(
            texts,
            pairs,
            max_length=max_length,
            truncation=truncation,
            pair_truncation=pair_truncation,
            stride=stride,
            add_special_tokens=add_special_tokens,
        )
        if failures:
            raise failures[min(failures)]
        return rows

    def encode_rows(
        self,
        texts: Texts,
        pairs: Texts | None = None,
        *,
        max_length: int | None = None,
        truncation: Side = "right",
        pair_truncation: PairTruncation = "longest_first",
        stride: int | None = None,
        add_special_tokens: bool = True,
    ) -> tuple[Ragged, dict[int, Exception]]:
        """Like ``encode_batch``, but a bad row does not stop the others.

        Returns:
            The rows, those that failed without any token (one window each), and by their index from 0 why.

        Raises:
            ConfigError: An argument cannot be right.
        """
        num_texts = 1 if pairs is None else 2
        layout = self._layout(num_texts, add_special_tokens, max_length, truncation, pair_truncation, stride)
        return self._engine.encode(texts, pairs, layout)

    def encode_padded(
        self,
        texts: Texts,
        pairs: Texts | None = None,
        *,
        max_length: int | None = None,
        truncation: Side = "right",
        pair_truncation: PairTruncation = "longest_first",
        padding_side: Literal["right", "left"] | None = None,
        multiple_of: int = 1,
        add_special_tokens: bool = True,
        dtype: npt.DTypeLike | None = None,
        out: Mapping[str, IntArray] | None = None,
    ) -> dict[str, IntArray]:
        """Tokenize texts into padded matrices, the shape that models take, in memory of the caller's.

        Args:
            texts, pairs, max_length, truncation, pair_truncation, add_special_tokens: As in ``encode_batch``.
            padding_side: Where rows are filled up. None: where the tokenizer says.
            multiple_of: The width is the longest row's, rounded up to a multiple of this.
            dtype: ``int64`` (if it is None) or ``int32``. With ``out``, that of its ``input_ids``.
            out: By name of the input an array to write to, contiguous, of at least rows times width elements;
                ``torch`` tensors in (pinned) host memory give theirs with ``.numpy()``. None: new memory.

        Returns:
            ``[rows, width]`` by name of the model's inputs: views of ``out`` if it is given. If ``out`` has a
            place for ``lengths`` (int64 or int32), these too: the tokens of each row, without padding.

        Raises:
            RowTokenizerError: A row cannot be made.
            ConfigError: An argument cannot be right; ``out`` lacks an input, or room.

        Example:
            >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
            >>> backend = Backend(models.WordLevel({"a": 3, "b": 4, "?": 5}, unk_token="?"))
            >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
            >>> batch = Tokenizer.from_pretrained(backend).encode_padded(["a b", "b"])
            >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist()
            ([[3, 4], [4, 0]], [[1, 1], [1, 0]])
        """
        padding = Padding(padding_side or self.padding_side, multiple_of, self.pad_id, self.pad_type_id)
        rows = self.encode_batch(
            texts,
            pairs,
            max_length=max_length,
            truncation=truncation,
            pair_truncation=pair_truncation,
            add_special_tokens=add_special_tokens,
        )
        return pad(rows, self._settings.model_input_names, padding, dtype, out)

    def encode_packed(
        self,
        texts: Texts,
        pairs: Texts | None = None,
        *,
        max_length: int | None = None,
        truncation: Side = "right",
        pair_truncation: PairTruncation = "longest_first",
        add_special_tokens: bool = True,
        first_position: int = 0,
        dtype: npt.DTypeLike | None = None,
        out: Mapping[str, IntArray] | None = None,
    ) -> Packed:
        """Tokenize texts into one row without padding, for models that are told where each text begins.

        Args:
            texts, pairs, max_length, truncation, pair_truncation, add_special_tokens: As in ``encode_batch``.
            first_position: Where ``position_ids`` begin in each row: 0 but for models like RoBERTa, whose
                first is ``pad_id + 1``.
            dtype: ``int64`` (if it is None) or ``int32``. With ``out``, that of its ``input_ids``.
            out: By name an array to write to, contiguous: ``input_ids``, ``position_ids`` and, if the model
                takes them, ``token_type_ids``, with a place for each token; ``cu_seqlens``, int32, with one
                for each row and one more. None: new memory.

        Returns:
            The arrays: views of ``out`` if it is given.

        Raises:
            RowTokenizerError: A row cannot be made.
            ConfigError: An argument cannot be right; ``out`` lacks an array, or room.

        Example:
            >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
            >>> backend = Backend(models.WordLevel({"a": 3, "b": 4, "?": 5}, unk_token="?"))
            >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
            >>> batch = Tokenizer.from_pretrained(backend).encode_packed(["a b", "b"])
            >>> batch.input_ids.tolist(), batch.position_ids.tolist()
            ([[3, 4, 4]], [[0, 1, 0]])
            >>> batch.cu_seqlens.tolist(), batch.max_seqlen
            ([0, 2, 3], 2)
        """
        rows = self.encode_batch(
            texts,
            pairs,
            max_length=max_length,
            truncation=truncation,
            pair_truncation=pair_truncation,
            add_special_tokens=add_special_tokens,
        )
        return pack(rows, first_position, dtype, out)

    def encode_offsets(
        self,
        texts: Texts,
        pairs: Texts | None = None,
        *,
        unit: Literal["char", "byte"] = "char",
        max_length: int | None = None,
        truncation: Side = "right",
        pair_truncation: PairTruncation = "longest_first",
        add_special_tokens: bool = True,
    ) -> tuple[Ragged, Int64Array]:
        """Like ``encode_batch``, and where each token begins and ends in its text.

        The `tokenizers` package says where, so this is as slow as that package, and reads all of a text.

        Args:
            texts, pairs, max_length, truncation, pair_truncation, add_special_tokens: As in ``encode_batch``.
            unit: ``"char"``: characters of the str; ``"byte"``: bytes of its UTF-8. Where several tokens
                make one character, each has the whole of it.

        Returns:
            The rows, and ``int64[n, 2]``, begin and end of each of their tokens, (0, 0) for special ones: of
            a pair, each in its own text.

        Raises:
            RowTokenizerError: A row cannot be made.
            ConfigError: An argument cannot be right.

        Example:
            >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
            >>> backend = Backend(models.WordLevel({"d\u00e9j\u00e0": 3, "vu": 4, "?": 5}, unk_token="?"))
            >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
            >>> tokenizer = Tokenizer.from_pretrained(backend)
            >>> rows, offsets = tokenizer.encode_offsets(["d\u00e9j\u00e0 vu"])
            >>> rows.ids.tolist(), offsets.tolist()
            ([3, 4], [[0, 4], [5, 7]])
            >>> tokenizer.encode_offsets(["d\u00e9j\u00e0 vu"], unit="byte")[1].tolist()
            [[0, 6], [7, 9]]
        """
        if unit not in ("char", "byte"):
            raise ConfigError(f'unit={unit!r}: must be "char" or "byte"')
        num_texts = 1 if pairs is None else 2
        layout = self._layout(num_texts, add_special_tokens, max_length, truncation, pair_truncation)
        return self._engine.spans(texts, pairs, layout, unit)

    def count_batch(
        self,
        texts: Texts,
        *,
        max_length: int | None = None,
        add_special_tokens: bool = True,
    ) -> Int64Array:
        """How many tokens the rows of texts would have, ``int64[rows]``.

        Args:
            texts, max_length, add_special_tokens: As in ``encode_batch``. With ``max_length`` little more
                of a long text is read than that many tokens take.

        Raises:
            RowTokenizerError: A text cannot be tokenized.

        Example:
            >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
            >>> backend = Backend(models.WordLevel({"a": 3, "b": 4, "?": 5}, unk_token="?"))
            >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
            >>> Tokenizer.from_pretrained(backend).count_batch(["a b", "b"]).tolist()
            [2, 1]
        """
        layout = self._layout(1, add_special_tokens, max_length, "right", "longest_first")
        return self._engine.count(texts, layout)

    def with_bos(self, bos_id: int | None) -> Tokenizer:
        """A view whose rows say what is to be scored, for a model that predicts each next token.

        Its rows begin with ``bos_id``, unless the tokenizer begins them with a special token itself. That
        token is context: ``first_scored`` is 1. Without any (``bos_id`` None), the first token of the text
        has no context, so it is not scored either, and ``num_bytes`` leaves out its bytes.
        Of a pair, only the second text is scored. The first stands before it, as its context, in one row
        such as a single text has, and loses its first tokens when the row is too long.

        Args:
            bos_id: The token that begins a text; None: there is none.

        Raises:
            ConfigError: There is no such token.

        Example:
            >>> from tokenizers import Tokenizer as Backend, models, pre_tokenizers
            >>> backend = Backend(models.WordLevel({"water": 0, "falls": 1, "<s>": 2}, unk_token="<s>"))
            >>> backend.pre_tokenizer = pre_tokenizers.Whitespace()
            >>> tokenizer = Tokenizer.from_pretrained(backend)
            >>> rows = tokenizer.with_bos(2).encode_batch(["water falls"])
            >>> rows.ids.tolist(), rows.first_scored.tolist(), rows.num_bytes.tolist()
            ([2, 0, 1], [1], [11])
            >>> rows = tokenizer.with_bos(None).encode_batch(["water falls"])
            >>> rows.ids.tolist(), rows.first_scored.tolist(), rows.num_bytes.tolist()
            ([0, 1], [1], [6])
        """
        if bos_id is not None and not (is_whole(bos_id) and 0 <= bos_id < self._vocab_size):
            raise ConfigError(f"bos_id={bos_id}: the vocabulary has ids 0 to {self._vocab_size - 1:,}")
        view = object.__new__(Tokenizer)
        view.__dict__ |= self.__dict__
        view._begin = _Begin(None if bos_id is None else int(bos_id))
        view._layouts = {}
        return view

    def num_special_tokens(self, pair: bool = False) -> int:
        """How many special tokens stand in a row (of a pair) when ``add_special_tokens`` is True.

        Raises:
            TokenizerError: The tokenizer takes no pairs.
        """
        return self._frame(2 if pair else 1, True).num_special

    def fingerprint(self) -> str:
        """A SHA-256, in hex, of everything that decides what rows come out."""
        document = json.loads(self._json)
        document["truncation"] = document["padding"] = None
        facts = {"tokenizer": document, "settings": vars(self._settings), "begin": self._begin}
        canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def model_input_names(self) -> list[str]:
        """The inputs that the model takes, in the order of `transformers`."""
        return list(self._settings.model_input_names)

    @property
    def pad_id(self) -> int:
        """The token that fills up short rows."""
        return self._settings.pad_id

    @property
    def pad_type_id(self) -> int:
        """The ``token_type_ids`` of padding."""
        return self._settings.pad_type_id

    @property
    def padding_side(self) -> str:
        """``"right"`` or ``"left"``: where padding goes."""
        return self._settings.padding_side

    @property
    def model_max_length(self) -> int | None:
        """The most tokens that the model takes; None if the files do not say."""
        return self._settings.model_max_length

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, if the files name one."""
        return self._settings.bos_id

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, if the files name one."""
        return self._settings.eos_id

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary, added ones counted."""
        return self._vocab_size

    @property
    def engine(self) -> str:
        """What does the work: ``"native"``, the C++ engine, or ``"tokenizers"``, the package."""
        return self._engine.name

    @property
    def engine_reason(self) -> str:
        """Why this engine."""
        return self._engine.reason

    @property
    def num_fallbacks(self) -> int:
        """How many texts so far the native engine left to the `tokenizers` package, which is slower.

        Such a text holds something that the engine does not know exactly. Counted by all threads and views
        together; 0 where that package does all the work (``engine``).
        """
        return self._engine.num_inexact

    def _layout(
        self,
        num_texts: int,
        add_special_tokens: bool,
        max_length: int | None,
        truncation: Side,
        pair_truncation: PairTruncation,
        stride: int | None = None,
    ) -> Layout:
        """What rows look like. Few calls of a program differ in that, so it is kept."""
        if type(max_length) is not int:
            max_length = optional(whole, "max_length", max_length)
        if type(stride) is not int:
            stride = optional(whole, "stride", stride)
        add_special_tokens = flag("add_special_tokens", add_special_tokens)
        key = (num_texts, add_special_tokens, max_length, str(truncation), str(pair_truncation), stride)
        layout = self._layouts.get(key)
        if layout is None:
            layout = Layout(
                frame=self._frame(num_texts, add_special_tokens),
                max_length=None if max_length is None else min(max_length, MOST_TOKENS),
                truncation=truncation,
                pair_truncation=pair_truncation,
                stride=stride,
                scored=self._begin is not None,
                with_types="token_type_ids" in self._settings.model_input_names,
            )
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[key] = layout
        return layout

    def _frame(self, num_texts: int, add_special_tokens: bool) -> Frame:
        if self._begin is None:
            return self._engine.frame(num_texts, add_special_tokens=add_special_tokens)
        frame = self._engine.frame(1, add_special_tokens=add_special_tokens)
        if self._begin.bos_id is not None:
            frame = frame.beginning_with(self._begin.bos_id)
        return frame if num_texts == 1 else frame.with_second_text()

    def __repr__(self) -> str:
        view = "" if self._begin is None else f".with_bos({self._begin.bos_id})"
        return f"<Tokenizer {self._place}: {self._vocab_size:,} tokens, engine {self.engine}>{view}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self._place, self._json, self._settings, self._begin)


def _rebuilt(place: str, text: str, settings: Settings, begin: _Begin | None) -> Tokenizer:
    return Tokenizer(Found(place, text, make_engine(text, place), settings), begin)
