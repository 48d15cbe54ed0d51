"""Classify: what label does a trained classifier give this text, or what score?

What comes out follows the checkpoint's ``problem_type``, and its number of labels where it states none:

    single_label_classification    label, score (probability of the label), probs: softmax
    multi_label_classification     label (the likeliest), score (its probability), probs: sigmoid
    regression, one output         score (as the model gives it), int_score (rounded into ``score_range``)
    regression, several outputs    scores (as the model gives them)

A checkpoint with one output and no ``problem_type`` is a regression. ``probs`` and ``scores`` are in the
order of the checkpoint's labels, which ``settings()["labels"]`` lists.

Decoders with a linear head (``.score``) answer at the last token of the row, and the row's length says which
one that is. transformers looks for the last token that is not the padding token: where padding is the same
token as the end of a text, it answers somewhere else, and without a padding token it refuses to batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np
import pyarrow as pa
import torch

from penstock.arguments import choice, is_whole, refused
from penstock.errors import ConfigError, ModelError
from penstock.tasks.lengths import resolve_max_length
from penstock.tasks.padding import accepted_inputs, masks_for, model_inputs, on_device, settle
from penstock.tasks.rows import NO_ANSWER, NO_TOKEN, NOT_A_NUMBER, column, place, reasons
from penstock.tokenizer_layout import PairTruncation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.batch import Batch
    from penstock.models import LoadedModel
    from penstock.tasks import Array, Failures, Setting
    from penstock.tokenizer import Tokenizer

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"

Way = tuple[str, str]  # (where the answer is taken, how the mask is given)


class Classify:
    """The task ``classify``. See the module for what comes out.

    Args:
        loaded: A model with a head for sequence classification.
        tokenizer: Its tokenizer.
        max_length: Tokens of a row, special tokens counted; longer rows are truncated. Default: what the
            model and tokenizer allow.
        truncation: The side that is cut off: "right" (or True) or "left".
        pair_truncation: Which text of a too long pair is cut: "longest_first", "only_first" or "only_second".
        score_range: Smallest and largest ``int_score`` of a regression with one output.
    """

    name: ClassVar[str] = "classify"
    needs: ClassVar[str] = "classify needs one with a trained head (...ForSequenceClassification)."
    unused_weights: ClassVar[tuple[str, ...]] = ()
    takes_pairs: ClassVar[bool] = True

    def __init__(
        self,
        loaded: LoadedModel,
        tokenizer: Tokenizer,
        *,
        max_length: int | None = None,
        truncation: bool | str = True,
        pair_truncation: PairTruncation = "longest_first",
        score_range: tuple[int, int] = (0, 5),
    ) -> None:
        self.loaded, self.tokenizer, self.prompt = loaded, tokenizer, ""
        self.max_length = resolve_max_length(loaded, tokenizer, max_length)
        self.truncation = truncation_side(truncation)
        self.pair_truncation = choice("pair_truncation", pair_truncation, get_args(PairTruncation))
        self.score_range = _score_range(score_range)
        model: Any = loaded.model
        self._model = model
        self.labels = _labels(model.config)
        self.problem = _problem(model.config, len(self.labels))
        self._head: Any = getattr(model, "score", None)
        self.body: torch.nn.Module = getattr(model, "base_model", model)
        self._is_decoder = isinstance(self._head, torch.nn.Linear) and self.body is not model
        self._way, _ = settle(loaded, tokenizer, self._ways(), self._logits, self._logits_alone)

    @staticmethod
    def auto_class(config: Any) -> str:  # noqa: ARG004 - other tasks look at it
        """Any model for sequence classification."""
        return "AutoModelForSequenceClassification"

    def tokenization(self) -> dict[str, Any]:
        """Rows are truncated, never cut into windows."""
        side = {} if self.truncation == "right" else {"truncation": self.truncation}
        rule = {} if self.pair_truncation == "longest_first" else {"pair_truncation": self.pair_truncation}
        return {"max_length": self.max_length, "stride": None, **side, **rule}

    def settings(self) -> dict[str, Setting]:
        """Resolved options, and what the checkpoint says its outputs mean."""
        return {
            "task": self.name,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "pair_truncation": self.pair_truncation,
            "problem_type": self.problem,
            "labels": self.labels,
            "score_range": list(self.score_range),
        }

    def schema(self) -> dict[str, pa.DataType]:
        """See the module."""
        vector = pa.list_(pa.float32())
        if self.problem != REGRESSION:
            kinds = {"label": pa.string(), "score": pa.float32(), "probs": vector}
        elif len(self.labels) == 1:
            kinds = {"score": pa.float32(), "int_score": pa.int64()}
        else:
            kinds = {"scores": vector}
        return {**kinds, "error": pa.string()}

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``outputs`` float32[rows, labels]: probabilities, or the model's own numbers for a regression."""
        with torch.inference_mode():
            logits = self._logits(self._way, batch)
            if self.problem == SINGLE:
                logits = logits.softmax(-1)
            elif self.problem == MULTI:
                logits = logits.sigmoid()
            return {"outputs": logits}

    def counts(self, batch: Batch) -> dict[str, Array]:
        """``num_tokens`` int64[rows]."""
        return {"num_tokens": batch.num_tokens.astype(np.int64)}

    def combine(self, input_index: Array, outputs: Mapping[str, Array], num_rows: int) -> dict[str, Array]:
        """A row has one answer; it goes where the row is."""
        return place(input_index, outputs, num_rows)

    def columns(self, values: Mapping[str, Array], failures: Failures) -> dict[str, pa.Array]:
        """As ``schema`` says."""
        answers, is_answered = values["outputs"], values["is_answered"]
        checks = [
            (~is_answered, NO_ANSWER),
            (values["num_tokens"] == 0, NO_TOKEN),
            (np.isnan(answers).any(axis=1), NOT_A_NUMBER),
        ]
        errors, is_null = reasons(failures, len(answers), checks)
        kinds = self.schema()
        made = {
            name: column(each, is_null, kinds[name]) for name, each in self._made(answers, is_null).items()
        }
        return {**made, "error": errors}

    def _made(self, answers: Array, is_null: Array) -> dict[str, Array]:
        if self.problem != REGRESSION:
            best = np.where(is_null, 0, answers.argmax(axis=1)) if len(answers) else np.zeros(0, np.int64)
            labels = np.array(self.labels, dtype=object)[best]
            return {"label": labels, "score": answers[np.arange(len(answers)), best], "probs": answers}
        if len(self.labels) > 1:
            return {"scores": answers}
        score = answers[:, 0]
        low, high = self.score_range
        rounded = np.rint(np.clip(np.where(is_null, low, score), low, high)).astype(np.int64)
        return {"score": score, "int_score": rounded}

    # ---- the model ----

    def _ways(self) -> list[Way]:
        """A linear head on a decoder answers at the last token; any other model by itself."""
        return [("last" if self._is_decoder else "model", mask) for mask in masks_for(self._model)]

    def _logits(self, way: Way, batch: Batch) -> torch.Tensor:
        """float32[rows, labels]."""
        where, mask = way
        if where == "model":
            logits = self._model(**model_inputs(batch, accepted_inputs(self._model), mask)).logits
        else:
            hidden = self.body(**model_inputs(batch, accepted_inputs(self.body), mask)).last_hidden_state
            logits = self._head(
                hidden[torch.arange(len(batch), device=hidden.device), last_token(batch, hidden)]
            )
        rows: torch.Tensor = logits.float().reshape(len(batch), -1)
        return rows

    def _logits_alone(self, batch: Batch) -> torch.Tensor:
        """One row without padding, asked as anybody would; without a padding token the last one answers."""
        inputs = {name: each for name, each in batch.inputs.items() if name in accepted_inputs(self._model)}
        inputs.pop("attention_mask", None)
        config: Any = self._model.config.get_text_config()
        padding = config.pad_token_id
        if self._is_decoder:
            config.pad_token_id = None
        try:
            logits = self._model(**inputs).logits
        finally:
            config.pad_token_id = padding
        if logits.shape != (1, len(self.labels)):
            raise ModelError(
                f"{self.loaded.source} answers with logits of shape {list(logits.shape)} for one row; "
                f"classify needs [1, {len(self.labels)}], one number per label."
            )
        plain: torch.Tensor = logits.float()
        return plain


def last_token(batch: Batch, hidden: torch.Tensor) -> torch.Tensor:
    """int64[rows]: the position of the last token of each row, by its length; 0 for a row without tokens."""
    return on_device(np.maximum(0, batch.num_tokens - 1), hidden.device).long()


def truncation_side(truncation: bool | str) -> str:
    """The side that is cut off.

    Raises:
        ConfigError: It is neither; ``False`` is refused too, because longer rows cannot be scored whole.
    """
    if truncation is True:
        return "right"
    if truncation in ("right", "left"):
        return str(truncation)
    raise ConfigError(
        f"truncation={truncation!r}: it must be 'right' or 'left'. A row longer than the model's positions "
        "can only be scored in part."
    )


def _score_range(given: Any) -> tuple[int, int]:
    bounds = tuple(given) if isinstance(given, Iterable) else ()
    if len(bounds) != 2 or not all(map(is_whole, bounds)) or bounds[0] >= bounds[1]:
        raise refused("score_range", given, "two whole numbers, the smaller first, like (0, 5)")
    return int(bounds[0]), int(bounds[1])


def _labels(config: Any) -> list[str]:
    names = {int(at): str(name) for at, name in (getattr(config, "id2label", None) or {}).items()}
    return [names.get(at, f"LABEL_{at}") for at in range(int(config.num_labels))]


def _problem(config: Any, num_labels: int) -> str:
    stated = getattr(config, "problem_type", None)
    if stated in (SINGLE, MULTI, REGRESSION):
        return str(stated)
    return REGRESSION if num_labels == 1 else SINGLE
