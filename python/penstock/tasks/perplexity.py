"""Perplexity: how likely is this text, token by token, to a causal language model?

Every token of the text is scored exactly once. In front of the text stands what the tokenizer itself puts
there (a BOS), else the model's BOS, else its EOS; that token is context and is never scored. With
``bos=False`` nothing stands there, and the first token, which then has no context, is not scored and its
bytes are not counted. A text longer than ``max_length`` is read in windows that overlap: each window scores
up to ``stride`` new tokens with as much context before them as fits.

    logprob         natural log of the probability of the scored tokens; float32 softmax, float64 sum
    perplexity      exp(-logprob / num_tokens); null without a token; infinite past the largest float
    bits_per_byte   -logprob / (ln 2 * num_bytes); null without a byte
    num_tokens      tokens scored
    num_bytes       UTF-8 bytes of the text they stand for
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from penstock.arguments import is_whole
from penstock.errors import ConfigError
from penstock.tasks.lengths import resolve_max_length
from penstock.tasks.logprobs import TokenLogprobs, scored
from penstock.tasks.rows import NO_ANSWER, NOT_A_NUMBER, add_up, column, reasons

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.batch import Batch
    from penstock.models import LoadedModel
    from penstock.tasks import Array, Failures, Setting
    from penstock.tokenizer import Tokenizer

UNBOUNDED_LENGTH = 2_048
"""Window of a model that has no bound of its own (ALiBi, state spaces), where nobody says otherwise."""


class Perplexity:
    """The task ``perplexity``. See the module for what is scored.

    Args:
        loaded: A causal language model.
        tokenizer: Its tokenizer.
        max_length: Tokens of a window, the token in front counted. Default: what model and tokenizer allow.
        stride: New tokens of each window after the first, 1 to ``max_length`` - 1. Default: half of it.
        truncation: True scores only the first ``max_length`` tokens, in one window.
        bos: True: see the module. False: nothing in front. A number: that token in front.
    """

    name: ClassVar[str] = "perplexity"
    needs: ClassVar[str] = "perplexity needs one with a causal language model head (...ForCausalLM)."
    unused_weights: ClassVar[tuple[str, ...]] = ()
    takes_pairs: ClassVar[bool] = False

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        stride: int | None = None,
        truncation: bool | str = False,
        bos: bool | int = True,
    ) -> None:
        self.prompt = ""
        self.max_length = resolve_max_length(loaded, tokenizer, max_length, least=2) or UNBOUNDED_LENGTH
        self.stride = _stride(stride, self.max_length, truncation)
        self.bos_id = _bos_id(loaded, tokenizer, bos)
        self.tokenizer = tokenizer.with_bos(self.bos_id)
        self._logprobs = TokenLogprobs(loaded, self.tokenizer)
        self.body = self._logprobs.body

    @staticmethod
    def auto_class(config: Any) -> str:  # noqa: ARG004 - other tasks look at it
        """Any causal language model."""
        return "AutoModelForCausalLM"

    def tokenization(self) -> dict[str, Any]:
        """``stride`` is None with ``truncation``: then rows are cut, not read in windows."""
        return {"max_length": self.max_length, "stride": self.stride}

    def settings(self) -> dict[str, Setting]:
        """Resolved options."""
        return {
            "task": self.name,
            "max_length": self.max_length,
            "stride": self.stride,
            "bos_id": self.bos_id,
        }

    def schema(self) -> dict[str, pa.DataType]:
        """See the module."""
        floats = dict.fromkeys(("logprob", "perplexity", "bits_per_byte"), pa.float64())
        return {**floats, "num_tokens": pa.int64(), "num_bytes": pa.int64(), "error": pa.string()}

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``logprob`` float64[rows]: the sum over the scored tokens of each window."""
        with torch.inference_mode():
            return {"logprob": self._logprobs(batch).sum(1, dtype=torch.float64)}

    def counts(self, batch: Batch) -> dict[str, Array]:
        """``num_tokens`` and ``num_bytes``, int64[rows] each: what is scored in each window."""
        num_bytes = np.zeros(len(batch), np.int64) if batch.num_bytes is None else batch.num_bytes
        return {"num_tokens": scored(batch)[1], "num_bytes": num_bytes.astype(np.int64)}

    def combine(self, input_index: Array, outputs: Mapping[str, Array], num_rows: int) -> dict[str, Array]:
        """Sums over the windows of each row, in float64."""
        names = ("logprob", "num_tokens", "num_bytes")
        values = {name: add_up(input_index, outputs[name], num_rows) for name in names}
        values["is_answered"] = np.bincount(input_index, minlength=num_rows) > 0
        return values

    def columns(self, values: Mapping[str, Array], failures: Failures) -> dict[str, pa.Array]:
        """As ``schema`` says. A row without a token is no error."""
        logprob, num_tokens, num_bytes = values["logprob"], values["num_tokens"], values["num_bytes"]
        checks = [(~values["is_answered"], NO_ANSWER), (np.isnan(logprob), NOT_A_NUMBER)]
        errors, is_null = reasons(failures, len(logprob), checks)
        no_token, no_byte = num_tokens == 0, num_bytes == 0
        with np.errstate(over="ignore"):
            perplexity = np.exp(-logprob / np.where(no_token, 1, num_tokens))
        bits = -logprob / (math.log(2) * np.where(no_byte, 1, num_bytes))
        kinds = self.schema()
        return {
            "logprob": column(logprob, is_null, kinds["logprob"]),
            "perplexity": column(perplexity, is_null | no_token, kinds["perplexity"]),
            "bits_per_byte": column(bits, is_null | no_token | no_byte, kinds["bits_per_byte"]),
            "num_tokens": column(num_tokens.astype(np.int64), is_null, kinds["num_tokens"]),
            "num_bytes": column(num_bytes.astype(np.int64), is_null, kinds["num_bytes"]),
            "error": errors,
        }


def _stride(stride: int | None, max_length: int, truncation: bool | str) -> int | None:
    if truncation not in (True, False, "right"):
        raise ConfigError(f"truncation={truncation!r}: perplexity knows False (windows), True and 'right'.")
    if truncation:
        if stride is not None:
            raise ConfigError("stride and truncation: a truncated row has one window; drop one of the two.")
        return None
    if stride is None:
        return max(1, max_length // 2)
    if not is_whole(stride) or not 1 <= stride < max_length:
        raise ConfigError(
            f"stride={stride!r}: it must be a whole number from 1 to max_length - 1 = {max_length - 1:,}, so "
            "that every token but the first has context. Half of max_length is the default."
        )
    return int(stride)


def _bos_id(loaded: LoadedModel, tokenizer: Tokenizer, bos: bool | int) -> int | None:
    """The token to put in front, where the tokenizer puts none there itself."""
    if bos is False:
        if tokenizer.num_special_tokens():
            raise ConfigError(
                "bos=False: this tokenizer puts special tokens around every text by itself. Leave bos out, "
                "or take its post_processor out of tokenizer.json."
            )
        return None
    config: Any = loaded.config.get_text_config()
    table: Any = loaded.model.get_input_embeddings()  # type: ignore[operator]
    size = min(tokenizer.vocab_size, int(getattr(table, "num_embeddings", tokenizer.vocab_size)))
    if bos is not True:
        if not is_whole(bos) or not 0 <= bos < size:
            raise ConfigError(f"bos={bos!r}: it must be True, False or a token id below {size:,}.")
        return int(bos)
    stated = [getattr(config, name, None) for name in ("bos_token_id", "eos_token_id")]
    for ids in (*stated, tokenizer.bos_id, tokenizer.eos_id):
        first = ids[0] if isinstance(ids, list) and ids else ids
        if isinstance(first, int) and 0 <= first < size:
            return first
    raise ConfigError(
        f"{loaded.source} and its tokenizer name neither a BOS nor an EOS token to put in front of a text. "
        "Give one (bos=ID), or score without (bos=False): then the first token of each text is not scored."
    )
