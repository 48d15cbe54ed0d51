"""How long a row may be for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock.arguments import whole
from penstock.errors import ConfigError
from penstock.wording import counted

if TYPE_CHECKING:
    import torch

    from penstock.models import LoadedModel
    from penstock.tokenizer import Tokenizer

_POSITION_NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")


def resolve_max_length(
    loaded: LoadedModel, tokenizer: Tokenizer, asked: int | None, *, stated: int | None = None, least: int = 1
) -> int | None:
    """The most tokens of a row: what was asked for, or the least of what model and tokenizer allow.

    Args:
        loaded: The model.
        tokenizer: Its tokenizer.
        asked: The caller's ``max_length``.
        stated: A bound that the model's own files state (``max_seq_length``).
        least: The fewest tokens that make sense for the task.

    Returns:
        None if nothing bounds it.

    Raises:
        ConfigError: More was asked for than the model has positions, or fewer than ``least``.
    """
    positions = context_length(loaded.model)
    if asked is None:
        known = [n for n in (positions, tokenizer.model_max_length, stated) if n is not None]
        return max(least, min(known)) if known else None
    asked = whole("max_length", asked, least=least)
    if positions is not None and asked > positions:
        raise ConfigError(
            f"max_length={asked:,}: {loaded.source} has positions for {counted(positions, 'token')}. "
            f"Use max_length={positions} or less; longer rows are cut, or read in windows."
        )
    return asked


def context_length(model: torch.nn.Module) -> int | None:
    """How many tokens a row may have: the positions that the model has, or None if nothing bounds them.

    RoBERTa and its kin start counting behind the padding index, so some of their positions are never used:
    the length is taken from the table of positions itself wherever there is such a table.
    """
    import torch

    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, torch.nn.Embedding):
            padding = getattr(module, "padding_idx", table.padding_idx)
            return int(table.num_embeddings) - (0 if padding is None else int(padding) + 1)
    config: Any = model.config
    text: Any = config.get_text_config()
    for name in _POSITION_NAMES:
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return min(value, _one_rotation(text) or value)
    return None


def _one_rotation(config: Any) -> int | None:
    """How long rows may be that all turn alike, for positions of the kind LongRoPE; None for all others.

    Past that length the longest row of a batch decides how all of them are turned, padding counted, and a
    short row would be scored in one way beside short rows and in another beside a long one.
    """
    said = getattr(config, "rope_parameters", None) or {}
    kinds = said.values() if all(isinstance(each, dict) for each in said.values()) else [said]
    bounds = [
        each.get("original_max_position_embeddings") for each in kinds if each.get("rope_type") == "longrope"
    ]
    return min((int(bound) for bound in bounds if bound), default=None)
