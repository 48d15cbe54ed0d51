"""The slow, obvious twin of the fast paths: one text at a time, no batch, no padding, whole logits.

Tests compare the tasks with these functions, and benchmarks use them as the plain loop that anybody would
write. They share no code with the tasks. Read them from top to bottom to learn what a score means.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Array = np.ndarray[Any, np.dtype[Any]]
Text = str | tuple[str, str]


@torch.inference_mode()
def perplexity(
    model: Any,
    tokenizer: tokenizers.Tokenizer,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    stride: int | None = None,
    bos: bool | int = True,
) -> list[dict[str, float | int | None]]:
    """Score each text with a causal language model.

    Args:
        model: A transformers model with a causal language model head, in eval mode.
        tokenizer: Its tokenizer.
        texts: Any texts.
        max_length: The most tokens the model sees at a time; None: all of the text.
        stride: New tokens of each window after the first; None: half of ``max_length``.
        bos: True: in front stands what the tokenizer puts there, else the model's BOS, else its EOS. False:
            nothing. A number: that token, unless the tokenizer puts one there.

    Returns:
        One dict per text: logprob, perplexity, bits_per_byte, num_tokens, num_bytes.
    """
    tokenizer = _plain(tokenizer)
    config = model.config.get_text_config()
    eos = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    in_front: Any = _own_bos(tokenizer)
    if in_front is None and bos is not False:
        in_front = bos if bos is not True else eos if config.bos_token_id is None else config.bos_token_id
    results = []
    for text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        num_bytes = len(text.encode("utf-8"))
        if bos is False:
            tokens = list(encoding.ids)
            if tokens:  # the first token has no context: it is not scored, and its bytes do not count
                num_bytes -= len(text[: encoding.offsets[0][1]].encode("utf-8"))
        else:
            tokens = [in_front, *encoding.ids]

        logprob, num_tokens = 0.0, 0
        for start, first, stop in windows(len(tokens), max_length, stride):
            seen = torch.tensor([tokens[start:stop]], device=model.device)
            logprobs = model(input_ids=seen).logits[0].float().log_softmax(-1).cpu()
            for position in range(first, stop):  # the line before a token says how likely it was
                logprob += float(logprobs[position - 1 - start, tokens[position]])
                num_tokens += 1

        results.append(
            {
                "logprob": logprob,
                "perplexity": math.exp(-logprob / num_tokens) if num_tokens else None,
                "bits_per_byte": -logprob / math.log(2) / num_bytes if num_tokens and num_bytes else None,
                "num_tokens": num_tokens,
                "num_bytes": num_bytes,
            }
        )
    return results


def windows(num_tokens: int, max_length: int | None, stride: int | None) -> Iterator[tuple[int, int, int]]:
    """Cut a row into windows: what the model sees, and from where it is scored.

    Args:
        num_tokens: Tokens of the row, the first of which is never scored.
        max_length: The most tokens of a window; None: one window.
        stride: New tokens of each window after the first; None: half of ``max_length``.

    Yields:
        ``(start, first, stop)``: the window is tokens start to stop; those from first on are scored in it.

    Example:
        >>> list(windows(10, 4, 3))
        [(0, 1, 4), (3, 4, 7), (6, 7, 10)]
    """
    if num_tokens < 2:
        return
    stop = num_tokens if max_length is None else min(num_tokens, max_length)
    yield 0, 1, stop
    while max_length is not None and stop < num_tokens:
        first, stop = stop, min(num_tokens, stop + (max_length // 2 if stride is None else stride))
        yield stop - max_length, first, stop


@torch.inference_mode()
def classify(
    model: Any, tokenizer: tokenizers.Tokenizer, texts: Sequence[Text], *, max_length: int | None = None
) -> list[dict[str, Any]]:
    """Ask a classifier about each text, or pair of texts.

    Args:
        model: A transformers model for sequence classification, in eval mode.
        tokenizer: Its tokenizer.
        texts: Texts, or ``(text, text)``.
        max_length: Longer rows are truncated to so many tokens, special tokens counted.

    Returns:
        One dict per text: label, score and probs; of a regression, score and int_score, or scores if it has
        several outputs.
    """
    tokenizer = _plain(tokenizer, max_length)
    config = model.config
    problem = config.problem_type or (
        "regression" if config.num_labels == 1 else "single_label_classification"
    )
    results: list[dict[str, Any]] = []
    for text in texts:
        inputs = _inputs(model, _encode(tokenizer, text))
        # A decoder answers at its last token. transformers would go back over padding tokens at the end; a
        # row asked alone has no padding, so there is nothing to go back over.
        pad_token_id = config.pad_token_id
        if hasattr(model, "score"):
            config.pad_token_id = None
        logits = model(**inputs).logits[0].float().cpu()
        config.pad_token_id = pad_token_id

        if problem == "regression" and len(logits) == 1:
            score = float(logits[0])
            results.append({"score": score, "int_score": round(max(0, min(score, 5)))})
        elif problem == "regression":
            results.append({"scores": logits.tolist()})
        else:
            probs = logits.softmax(0) if problem == "single_label_classification" else logits.sigmoid()
            best = int(probs.argmax())
            results.append(
                {"label": config.id2label[best], "score": float(probs[best]), "probs": probs.tolist()}
            )
    return results


@torch.inference_mode()
def embed(
    model: Any,
    tokenizer: tokenizers.Tokenizer,
    texts: Sequence[Text],
    *,
    max_length: int | None = None,
    pooling: str = "mean",
    normalize: bool = False,
    truncate_dim: int | None = None,
) -> Array:
    """A vector for each text.

    Args:
        model: A transformers model without a head, in eval mode.
        tokenizer: Its tokenizer.
        texts: Texts, or ``(text, text)``.
        max_length: Longer rows are truncated to so many tokens, special tokens counted.
        pooling: "mean", "cls" or "last".
        normalize: Whether vectors get the length 1.
        truncate_dim: How many numbers of each vector to keep.

    Returns:
        float32[texts, dimension].
    """
    tokenizer = _plain(tokenizer, max_length)
    vectors = []
    for text in texts:
        tokens = model(**_inputs(model, _encode(tokenizer, text))).last_hidden_state[0].float().cpu()
        vector = {"mean": tokens.mean(0), "cls": tokens[0], "last": tokens[-1]}[pooling][:truncate_dim]
        vectors.append(vector / vector.norm() if normalize else vector)
    stacked: Array = torch.stack(vectors).numpy()
    return stacked


def _plain(tokenizer: tokenizers.Tokenizer, max_length: int | None = None) -> tokenizers.Tokenizer:
    """A copy that pads nothing and truncates to ``max_length`` only, whatever its file says."""
    plain = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    if max_length is not None:
        plain.enable_truncation(max_length)
    return plain


def _own_bos(tokenizer: tokenizers.Tokenizer) -> int | None:
    """The special token that the tokenizer itself puts in front of a text, if it does."""
    encoding = tokenizer.encode("a")
    return int(encoding.ids[0]) if encoding.special_tokens_mask[0] else None


def _encode(tokenizer: tokenizers.Tokenizer, text: Text) -> tokenizers.Encoding:
    return tokenizer.encode(text) if isinstance(text, str) else tokenizer.encode(*text)


def _inputs(model: Any, encoding: tokenizers.Encoding) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": torch.tensor([encoding.ids], device=model.device)}
    if any(encoding.type_ids) and "token_type_ids" in inspect.signature(model.forward).parameters:
        inputs["token_type_ids"] = torch.tensor([encoding.type_ids], device=model.device)
    return inputs
