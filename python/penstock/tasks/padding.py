"""How a padded batch is shown to a model so that padding cannot touch a score.

There are several ways, from fast to slow, and which of them are exact depends on the model. A task lists
the ways it knows, the fastest first; ``settle`` asks the model a few test rows each way and takes the first
whose answers are right: those of the same row asked alone, and the same whatever tokens the padding holds.

How the mask can be given (``mask``):

``"none"``     no mask. Exact for causal models: padding on the right comes after every token that counts.
``"lengths"``  a mask over keys made here, ready to use. transformers, given one of two dimensions, would read
               it back from the device to see whether it is needed, and the host would wait. No mask at all
               for a batch whose rows are all full.
``"given"``    the usual mask of two dimensions, which every model understands.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from penstock.batch import Batch
from penstock.errors import ModelError
from penstock.ragged import Ragged
from penstock.tasks.lengths import context_length

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from penstock.models import LoadedModel
    from penstock.tokenizer import Tokenizer

FULL_ATTENTION = frozenset(
    (
        *("albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "megatron-bert"),
        *(
            "mobilebert",
            "mt5",
            "roberta",
            "roberta-prelayernorm",
            "t5",
            "umt5",
            "xlm-roberta",
            "xlm-roberta-xl",
        ),
    )
)
"""Model types whose every layer attends to the whole row. Others may attend to a neighbourhood once a row is
long, which no test row would show, and a ready mask would undo."""

_TEST_TEXTS = (
    "Water runs from high ground to low; a penstock is the pipe that makes it work on the way, day or night.",
    "The river is low.",
    "12 gates, 3 wheels, and one clock that nobody winds any more.",
)
_TEST_TOKENS = 48
_TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Relative distance between a row asked alone and in a batch: other kernels add up in another order.

In float64 the softmax of the logits is still float32.
"""

_MISUSE = (ValueError, TypeError, KeyError, IndexError, AttributeError)

Way = TypeVar("Way")


def masks_for(model: Any) -> tuple[str, ...]:
    """The masks worth trying for a model, the fastest first."""
    is_full = getattr(model.config, "model_type", None) in FULL_ATTENTION
    return ("none", "lengths", "given") if is_full else ("none", "given")


def accepted_inputs(module: torch.nn.Module) -> frozenset[str]:
    """The names that a model's ``forward`` takes.

    A tokenizer may list inputs that the model does not know, such as ``token_type_ids``.
    """
    return _accepted(type(module).forward)


@functools.cache
def _accepted(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def model_inputs(batch: Batch, accepted: frozenset[str], mask: str) -> dict[str, Any]:
    """Keyword arguments for the model: the batch's inputs that it knows, its mask, and no cache of keys."""
    inputs: dict[str, Any] = {
        name: tensor for name, tensor in batch.inputs.items() if name in accepted and name != "attention_mask"
    }
    width = batch.inputs["input_ids"].shape[1]
    if "attention_mask" in accepted and mask != "none":
        is_full = int(batch.num_tokens.min()) == width
        if mask == "given":
            given = batch.inputs.get("attention_mask")
            inputs["attention_mask"] = token_mask(batch).long() if given is None else given
        elif not is_full:
            inputs["attention_mask"] = token_mask(batch)[:, None, None, :].expand(-1, 1, width, -1)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


def on_device(values: np.ndarray[Any, Any], device: torch.device) -> torch.Tensor:
    """A small array of whole numbers, on its way to the device; the host does not wait.

    CUDA stages a copy from ordinary memory at once and returns when the array has been read; up to 64 kB
    it does not wait for the device either, and rows have 4 bytes each here.
    """
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int32)).to(device, non_blocking=True)


def token_mask(batch: Batch) -> torch.Tensor:
    """bool[rows, width]: which positions hold tokens of the row, by its length, whatever the tokens are."""
    ids = batch.inputs["input_ids"]
    lengths = on_device(batch.num_tokens, ids.device)
    return torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]


def settle(
    loaded: LoadedModel,
    tokenizer: Tokenizer,
    ways: Iterable[Way],
    answer: Callable[[Way, Batch], torch.Tensor],
    alone: Callable[[Batch], torch.Tensor],
) -> tuple[Way, torch.Tensor]:
    """The first way whose answers are right, and the answers.

    Args:
        loaded: The model.
        tokenizer: The prepared tokenizer; its test rows are the test.
        ways: The ways that the task knows, the fastest first.
        answer: Asks a batch one way; rows along the first dimension.
        alone: The plain truth for a batch that is one row without padding.

    Raises:
        ModelError: None of them; says how far off each was.
    """
    rows, width = _test_rows(tokenizer, context_length(loaded.model))
    batches = [batch_of(rows, [row], device=loaded.device) for row in range(len(rows))]
    try:
        with torch.inference_mode():
            truth = _joined([alone(batch) for batch in batches])
    except _MISUSE as error:
        raise ModelError(f"{loaded.source} cannot be asked about a row of text: {error}") from error
    clean = batch_of(rows, device=loaded.device, width=width)
    dirty = _dirtied(clean)
    tolerance = tolerance_of(loaded)
    found: list[str] = []
    for way in ways:
        try:
            with torch.inference_mode():
                apart = _joined([answer(way, batch) for batch in batches])
                together, stained = _joined([answer(way, clean)]), _joined([answer(way, dirty)])
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, *_MISUSE) as error:
            found.append(f"{way}: {type(error).__name__}: {str(error)[:160]}")
            continue
        far = max(5 * distance(apart, truth), distance(together, truth))  # apart, nothing differs but the way
        # A model that looks at padding at all differs in some bit. Only the way that leaves all care to the
        # model itself forgives a little: a router of experts may group the tokens in another way.
        stain = 0.0 if torch.equal(together, stained) else distance(stained, together)
        if far <= tolerance and (stain == 0.0 or (_is_plainest(way) and stain <= tolerance)):
            return way, truth
        found.append(f"{way}: {far:.2g} from the truth, {stain:.2g} by padding alone")
    raise ModelError(
        f"{loaded.source} does not give the same answer for a row alone and for the same row in a padded "
        f"batch, so its scores would depend on its neighbours. Tried ({loaded.dtype}, at most {tolerance:g} "
        f"apart): {'; '.join(found)}. If the model is in half precision, try dtype='float32'."
    )


def _is_plainest(way: object) -> bool:
    return way == "given" or (isinstance(way, tuple) and "given" in way)


def _joined(answers: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.to("cpu", torch.float64) for part in answers])


def tolerance_of(loaded: LoadedModel) -> float:
    """How far apart two right answers may be, relative, in the dtype of the model."""
    return _TOLERANCE.get(loaded.dtype, 5e-2)


def distance(ours: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative to the truth; infinite if the shapes differ or something is not a number."""
    if ours.shape != truth.shape or not bool(torch.isfinite(ours).all()):
        return float("inf")
    return float((ours - truth).norm() / truth.norm().clamp(min=1e-12))


# ---- batches made here ----


def batch_of(
    rows: Ragged,
    which: Sequence[int] | np.ndarray[Any, np.dtype[Any]] | None = None,
    *,
    device: str | torch.device = "cpu",
    width: int | None = None,
    pad_id: int = 0,
) -> Batch:
    """A batch made on the spot, for a few rows: the test rows of a task, and tests.

    Args:
        rows: Tokenized rows.
        which: Which of them, in this order; None: all.
        device: Where the tensors go.
        width: The padded length; None: that of the longest row.
        pad_id: What the padding holds.
    """
    chosen = np.arange(len(rows)) if which is None else np.asarray(which, np.int64)
    lengths = rows.lengths[chosen].astype(np.int32)
    shape = (len(chosen), max(1, int(lengths.max())) if width is None else width)
    arrays = {"input_ids": np.full(shape, pad_id, np.int64), "attention_mask": np.zeros(shape, np.int64)}
    if rows.type_ids is not None:
        arrays["token_type_ids"] = np.zeros(shape, np.int64)
    for at, row in enumerate(chosen):
        span = slice(int(rows.offsets[row]), int(rows.offsets[row + 1]))
        arrays["input_ids"][at, : lengths[at]] = rows.ids[span]
        arrays["attention_mask"][at, : lengths[at]] = 1
        if rows.type_ids is not None:
            arrays["token_type_ids"][at, : lengths[at]] = rows.type_ids[span]
    return Batch(
        inputs={name: torch.from_numpy(array).to(device) for name, array in arrays.items()},
        input_index=chosen if rows.row_of is None else rows.row_of[chosen],
        num_tokens=lengths,
        first_scored=None if rows.first_scored is None else rows.first_scored[chosen],
        num_bytes=None if rows.num_bytes is None else rows.num_bytes[chosen],
    )


def _test_rows(tokenizer: Tokenizer, positions: int | None) -> tuple[Ragged, int]:
    """Rows of different lengths, and the width to pad them to: it is padding that is to be tested.

    Their lengths follow from the model alone: what a run allows may be so little that all are of one length.
    """
    most = _TEST_TOKENS if positions is None else min(_TEST_TOKENS, positions)
    least = tokenizer.num_special_tokens() + 2
    limits = [max(least, most >> shift) for shift in range(len(_TEST_TEXTS))]
    pairs = zip(_TEST_TEXTS, limits, strict=True)
    rows = Ragged.concatenate([tokenizer.encode_batch([text], max_length=limit) for text, limit in pairs])
    longest, wanted = int(rows.lengths.max()), int(rows.lengths.max()) + 8
    return rows, wanted if positions is None else max(longest, min(wanted, positions))


def _dirtied(batch: Batch) -> Batch:
    """The same batch with other tokens where the padding is, those of its longest row, and the same mask."""
    ids = batch.inputs["input_ids"]
    longest = int(batch.num_tokens.argmax())
    words = ids[longest, 1 : max(2, int(batch.num_tokens[longest]) - 1)]
    filling = words.repeat(-(-ids.shape[1] // len(words)))[: ids.shape[1]].expand_as(ids)
    return replace(batch, inputs={**batch.inputs, "input_ids": torch.where(token_mask(batch), ids, filling)})
