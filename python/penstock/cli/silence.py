"""What libraries print is not what the user asked for: kept off the terminal, in the command line only."""

from __future__ import annotations

import os
import warnings
from typing import Any

from penstock.cli.exits import complain

_NOISY = r"(accelerate|huggingface_hub|tokenizers|torch|transformers)(\.|$)"


def silence_libraries(*, quiet: bool, debug: bool) -> None:
    """Import transformers so that it and its kin print neither warnings nor bars for loading weights.

    Bars for downloads stay (the hub shows them on terminals only), unless ``quiet``.

    Args:
        quiet: Warnings of Penstock's own are dropped too.
        debug: Change nothing.
    """
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module=_NOISY)
    warnings.showwarning = _drop if quiet else _show
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging

    are_disabled = quiet or are_progress_bars_disabled()
    logging.disable_progress_bar()
    if not are_disabled:
        enable_progress_bars()


def _show(message: Warning | str, *_: Any, **__: Any) -> None:
    complain(str(message), kind="Warning")


def _drop(*_: Any, **__: Any) -> None:
    pass
