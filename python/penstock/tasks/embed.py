"""Embed: a vector for each text.

    embedding    float32[dimension]

The token vectors of the model's last layer are pooled over the tokens of the row, by its length, in float32:
their mean, the first (``cls``) or the last. How, and whether the result is normalised, is what the folder
says if it is one of sentence-transformers (``modules.json``); else the mean, not normalised. ``truncate_dim``
keeps the first numbers of a vector, for models trained that way; what is left is normalised, if at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from penstock.arguments import choice, flag, optional, string, whole
from penstock.errors import ConfigError, ModelError
from penstock.tasks.classify import last_token, truncation_side
from penstock.tasks.lengths import resolve_max_length
from penstock.tasks.padding import accepted_inputs, masks_for, model_inputs, on_device, settle, token_mask
from penstock.tasks.rows import NO_ANSWER, NO_TOKEN, NOT_A_NUMBER, column, place, reasons
from penstock.tasks.sentence_folder import SentenceFolder, load_dense, read_sentence_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.batch import Batch
    from penstock.models import LoadedModel
    from penstock.tasks import Array, Failures, Setting
    from penstock.tokenizer import Tokenizer

POOLINGS = ("mean", "cls", "last")


class Embed:
    """The task ``embed``. See the module for what comes out.

    Args:
        loaded: Any text encoder or decoder.
        tokenizer: Its tokenizer.
        max_length: Tokens of a row, special tokens counted; longer rows are truncated. Default: the folder's
            ``max_seq_length``, and what the model and tokenizer allow.
        truncation: The side that is cut off: "right" (or True) or "left".
        pooling: One of ``POOLINGS``.
        normalize_embeddings: Whether vectors get the length 1.
        truncate_dim: How many numbers of each vector to keep.
        prompt_name: Name of a prompt in ``config_sentence_transformers.json``, put in front of every text.
        prompt: The prompt itself.
    """

    name: ClassVar[str] = "embed"
    needs: ClassVar[str] = "embed needs the weights of the whole transformer."
    unused_weights: ClassVar[tuple[str, ...]] = ("pooler.",)  # a layer over [CLS] for training; not pooling
    takes_pairs: ClassVar[bool] = True

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        truncation: bool | str = True,
        pooling: str | None = None,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> None:
        said = read_sentence_folder(loaded)
        self.loaded, self.tokenizer = loaded, tokenizer
        self.max_length = resolve_max_length(loaded, tokenizer, max_length, stated=said.max_seq_length)
        self.truncation = truncation_side(truncation)
        self.pooling = choice("pooling", pooling or said.pooling or "mean", POOLINGS)
        asked = optional(flag, "normalize_embeddings", normalize_embeddings)
        self.normalize = said.normalize if asked is None else asked
        self.prompt = _prompt(loaded, said, prompt_name, optional(string, "prompt", prompt))
        model: Any = loaded.model
        self.body: torch.nn.Module = getattr(model, "base_model", model)
        self._dense = [load_dense(path, config, loaded.device) for path, config in said.dense]
        self.dimension: int | None = None
        self._way, vectors = settle(
            loaded, tokenizer, masks_for(model), self._embedding, self._embedding_alone
        )
        self.dimension = _kept(truncate_dim, vectors.shape[1])

    @staticmethod
    def auto_class(config: Any) -> str:
        """The bare transformer; of an encoder-decoder, its encoder."""
        return "AutoModelForTextEncoding" if getattr(config, "is_encoder_decoder", False) else "AutoModel"

    def tokenization(self) -> dict[str, Any]:
        """Rows are truncated, never cut into windows."""
        side = {} if self.truncation == "right" else {"truncation": self.truncation}
        return {"max_length": self.max_length, "stride": None, **side}

    def settings(self) -> dict[str, Setting]:
        """Resolved options."""
        return {
            "task": self.name,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "pooling": self.pooling,
            "normalize_embeddings": self.normalize,
            "truncate_dim": self.dimension,
            "prompt": self.prompt,
        }

    def schema(self) -> dict[str, pa.DataType]:
        """See the module."""
        return {"embedding": pa.list_(pa.float32()), "error": pa.string()}

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``embedding`` float32[rows, dimension]."""
        with torch.inference_mode():
            return {"embedding": self._embedding(self._way, batch)}

    def counts(self, batch: Batch) -> dict[str, Array]:
        """``num_tokens`` int64[rows]."""
        return {"num_tokens": batch.num_tokens.astype(np.int64)}

    def combine(self, input_index: Array, outputs: Mapping[str, Array], num_rows: int) -> dict[str, Array]:
        """A row has one answer; it goes where the row is."""
        return place(input_index, outputs, num_rows)

    def columns(self, values: Mapping[str, Array], failures: Failures) -> dict[str, pa.Array]:
        """As ``schema`` says."""
        vectors = values["embedding"]
        checks = [
            (~values["is_answered"], NO_ANSWER),
            (values["num_tokens"] == 0, NO_TOKEN),
            (np.isnan(vectors).any(axis=1), NOT_A_NUMBER),
        ]
        errors, is_null = reasons(failures, len(vectors), checks)
        return {"embedding": column(vectors, is_null, self.schema()["embedding"]), "error": errors}

    # ---- the model ----

    def _embedding(self, mask: str, batch: Batch) -> torch.Tensor:
        """float32[rows, dimension]."""
        hidden = self.body(**model_inputs(batch, accepted_inputs(self.body), mask)).last_hidden_state
        return self._finished(self._pooled(hidden, batch))

    def _pooled(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        if self.pooling == "cls":
            return hidden[:, 0].float()
        if self.pooling == "last":
            return hidden[torch.arange(len(batch), device=hidden.device), last_token(batch, hidden)].float()
        is_padding = ~token_mask(batch).to(hidden.device)
        lengths = on_device(np.maximum(1, batch.num_tokens), hidden.device)
        return hidden.masked_fill(is_padding[:, :, None], 0.0).sum(1, dtype=torch.float32) / lengths[:, None]

    def _finished(self, vectors: torch.Tensor) -> torch.Tensor:
        for layer in self._dense:
            vectors = layer(vectors.to(self.loaded.device))
        vectors = vectors[:, : self.dimension]
        return torch.nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors

    def _embedding_alone(self, batch: Batch) -> torch.Tensor:
        """One row without padding or mask: its tokens are all there is to pool."""
        inputs = {name: each for name, each in batch.inputs.items() if name in accepted_inputs(self.body)}
        inputs.pop("attention_mask", None)
        answer: Any = self.body(**inputs)
        if getattr(answer, "last_hidden_state", None) is None:
            raise ModelError(f"{self.loaded.source} gives no last_hidden_state, so there is nothing to pool.")
        tokens = answer.last_hidden_state[0].float()
        vector = tokens.mean(0) if self.pooling == "mean" else tokens[0 if self.pooling == "cls" else -1]
        return self._finished(vector[None])


def _prompt(loaded: LoadedModel, said: SentenceFolder, name: str | None, prompt: str | None) -> str:
    """The text to put in front: given, or found by name, or the folder's default, or none."""
    if name is not None and prompt is not None:
        raise ConfigError("prompt and prompt_name are both given; drop one of the two.")
    name = said.default_prompt_name if name is None and prompt is None else name
    if name is not None and name not in said.prompts:
        known = ", ".join(map(repr, said.prompts)) or "none"
        raise ConfigError(f"prompt_name={name!r}: the prompts of {loaded.source} are: {known}.")
    chosen = prompt if name is None else said.prompts[name]
    if chosen and not said.pools_prompt:
        raise ModelError(
            f"{loaded.source} leaves the tokens of a prompt out when it pools (include_prompt is false), "
            "which is not done here. Use the model without a prompt."
        )
    return chosen or ""


def _kept(truncate_dim: int | None, dimension: int) -> int:
    if truncate_dim is None:
        return dimension
    return whole("truncate_dim", truncate_dim, most=dimension)
