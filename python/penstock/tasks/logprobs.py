"""How likely each token is to a causal language model, without the logits of a whole batch in memory.

Logits are rows times width times vocabulary: for one batch of 32,768 tokens and a vocabulary of 150,000 they
would be 20 GB in float32. So the body of the model runs once for the batch, and its head for some positions
at a time: those that are scored, and no others. Some models do more than that after their head; one that does
something not known here is run as a whole, for a few rows at a time. ``settle`` finds out what is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from penstock.errors import ModelError
from penstock.tasks.lengths import context_length
from penstock.tasks.padding import (
    accepted_inputs,
    distance,
    masks_for,
    model_inputs,
    on_device,
    settle,
    tolerance_of,
)

if TYPE_CHECKING:
    from penstock.batch import Batch
    from penstock.models import LoadedModel
    from penstock.tasks import Array
    from penstock.tokenizer import Tokenizer

Way = tuple[str, str]  # (how logits are made: "chunks" or "whole", how the mask is given)

_LOGITS_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
"""Float32 logits in memory at a time: enough rows to keep a matrix product busy."""
_CAUSAL_TEXT = (
    "Water runs from high ground to low, and does not come back on its own; someone has to carry it."
)


class TokenLogprobs:
    """Asks a model how likely the scored tokens of a batch are.

    Args:
        loaded: A causal language model.
        tokenizer: Its tokenizer, prepared: its rows say from where they are scored.

    Raises:
        ModelError: The model is not causal, or its answers depend on padding.
    """

    def __init__(self, loaded: LoadedModel, tokenizer: Tokenizer) -> None:
        model: Any = loaded.model
        self._model = model
        self._head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        self.body: torch.nn.Module = getattr(model, "base_model", model)
        self._config: Any = model.config.get_text_config()
        self._vocabulary = int(getattr(self._head, "out_features", 0) or self._config.vocab_size)
        self._refuse_what_is_not_causal(loaded, tokenizer)
        self.way, _ = settle(loaded, tokenizer, self._ways(), self._of_scored, self._of_one_row)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """float32[rows, width]: the log-probability of each scored token, 0 elsewhere. Does not wait."""
        return self._ask(self.way, batch)

    def _ways(self) -> list[Way]:
        has_head = self._head is not None and self.body is not self._model
        logits = ["chunks", "whole"] if has_head else ["whole"]
        return [(each, mask) for each in logits for mask in masks_for(self._model)]

    def _ask(self, way: Way, batch: Batch) -> torch.Tensor:
        ids = batch.inputs["input_ids"]
        at = scored_positions(batch, ids.device)
        scores = torch.zeros(ids.numel(), dtype=torch.float32, device=ids.device)
        if len(at):
            fill = self._by_chunks if way[0] == "chunks" else self._by_rows
            fill(batch, way[1], at, scores)
        return scores.view(ids.shape)

    def _by_chunks(self, batch: Batch, mask: str, at: torch.Tensor, scores: torch.Tensor) -> None:
        """The body for the whole batch, the head for some positions at a time."""
        hidden = self.body(**model_inputs(batch, accepted_inputs(self.body), mask)).last_hidden_state
        kind = getattr(getattr(self._head, "weight", None), "dtype", hidden.dtype)
        hidden = hidden.flatten(0, 1).to(kind if kind.is_floating_point else hidden.dtype)
        tokens = batch.inputs["input_ids"].flatten()
        for where in at.split(self._positions_at_a_time(at.device)):
            logits = self._finished(self._head(hidden.index_select(0, (where - 1).to(hidden.device))))
            scores.index_copy_(0, where, _pick(logits, tokens[where]).to(scores.device))

    def _by_rows(self, batch: Batch, mask: str, at: torch.Tensor, scores: torch.Tensor) -> None:
        """The whole model for a few rows at a time: slower, and right whatever comes after its head."""
        inputs = model_inputs(batch, accepted_inputs(self._model), mask)
        tokens, width = batch.inputs["input_ids"].flatten(), batch.inputs["input_ids"].shape[1]
        chunk = self._positions_at_a_time(at.device)
        step = max(1, chunk // width)
        ends = np.concatenate([[0], np.cumsum(scored(batch)[1])])
        for start in range(0, len(batch), step):
            rows = slice(start, start + step)
            mine = at[int(ends[start]) : int(ends[min(start + step, len(batch))])]
            few = {
                name: each[rows] if isinstance(each, torch.Tensor) else each for name, each in inputs.items()
            }
            if len(mine):
                logits = self._model(**few).logits.flatten(0, 1)
            for where in mine.split(chunk):
                lines = logits.index_select(0, (where - 1 - start * width).to(logits.device))
                scores.index_copy_(0, where, _pick(lines, tokens[where]).to(scores.device))

    def _finished(self, logits: torch.Tensor) -> torch.Tensor:
        """What some models do to logits after the head."""
        if (scale := getattr(self._config, "logit_scale", None)) is not None:
            logits = logits * scale
        if (divisor := getattr(self._config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        if (cap := getattr(self._config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    def _positions_at_a_time(self, device: torch.device) -> int:
        return max(1, _LOGITS_BYTES.get(device.type, 32 << 20) // (4 * self._vocabulary))

    # ---- the test at the start ----

    def _of_scored(self, way: Way, batch: Batch) -> torch.Tensor:
        """float32[scored tokens], row by row."""
        return self._ask(way, batch).flatten()[scored_positions(batch, batch.inputs["input_ids"].device)]

    def _of_one_row(self, batch: Batch) -> torch.Tensor:
        """One row without padding or mask, all logits, as anybody would write it."""
        ids = batch.inputs["input_ids"]
        at = scored_positions(batch, ids.device)
        logits = self._model(input_ids=ids).logits[0]
        return _pick(logits[(at - 1).to(logits.device)], ids[0, at])

    def _refuse_what_is_not_causal(self, loaded: LoadedModel, tokenizer: Tokenizer) -> None:
        """A model that sees the tokens to come (BERT with a language model head) gives no likelihood."""
        most = min(24, context_length(loaded.model) or 24)
        row = tokenizer.encode_batch([_CAUSAL_TEXT], max_length=most).ids.astype(np.int64)
        ids, half = torch.from_numpy(row)[None].to(loaded.device), max(1, len(row) // 2)
        with torch.inference_mode():
            logits = [self._model(input_ids=part).logits[0, :half].double() for part in (ids, ids[:, :half])]
        seen, unseen = (each - each.mean(-1, keepdim=True) for each in logits)
        if distance(seen, unseen) > tolerance_of(loaded):
            raise ModelError(
                f"{loaded.source} is not a causal language model: what it says of a token changes with the "
                "tokens after it, so it gives no likelihood of a text. Use a decoder, such as GPT-2 or Llama."
            )


def scored(batch: Batch) -> tuple[Array, Array]:
    """int64[rows] each: the first scored position of a row, and how many are scored. Position 0 never is."""
    first = np.ones(len(batch), np.int64) if batch.first_scored is None else np.maximum(1, batch.first_scored)
    return first.astype(np.int64), np.maximum(0, batch.num_tokens - first).astype(np.int64)


def scored_positions(batch: Batch, device: torch.device) -> torch.Tensor:
    """int64[scored tokens]: where in the flattened [rows, width] the scored tokens are, row by row.

    Padding is told by length, never by token: a row may hold the padding token as text. How many there are is
    known on the host, so nothing waits for the device.
    """
    width = batch.inputs["input_ids"].shape[1]
    host_first, host_count = scored(batch)
    total = int(host_count.sum())
    first, count = on_device(host_first, device).long(), on_device(host_count, device).long()
    rows = torch.repeat_interleave(torch.arange(len(batch), device=device), count, output_size=total)
    begins = count.cumsum(0) - count
    return rows * width + first[rows] + torch.arange(total, device=device) - begins[rows]


def _pick(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """float32[n]: the log-probability of each token under its line of logits [n, vocabulary]."""
    logprobs = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    return logprobs.gather(1, tokens.to(logits.device)[:, None]).squeeze(1)
