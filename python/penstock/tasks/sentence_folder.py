"""What a sentence-transformers folder says about how its model makes an embedding.

Such a folder lists its steps in ``modules.json``: the transformer, the pooling, sometimes dense layers,
sometimes a normalisation. A step that is not known here is refused by name: leaving it out would give other
embeddings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from penstock.models import LoadedModel

_POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_OLD_POOLINGS = {  # one switch each, before there was "pooling_mode"
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")


@dataclass(frozen=True)
class SentenceFolder:
    """The steps and settings of a model, as its folder states them.

    Attributes:
        pooling: "mean", "cls" or "last"; None if the folder does not say.
        dense: Layers between pooling and normalisation, as (folder, its config).
        normalize: Whether the last step normalises.
        max_seq_length: The most tokens of a row.
        prompts: Texts to put in front, by name.
        default_prompt_name: The one that is used if none is asked for.
        pools_prompt: Whether the tokens of the prompt are pooled with the others.
    """

    pooling: str | None = None
    dense: tuple[tuple[Path, dict[str, Any]], ...] = ()
    normalize: bool = False
    max_seq_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    pools_prompt: bool = True


def read_sentence_folder(loaded: LoadedModel) -> SentenceFolder:
    """Read ``modules.json`` and the files it leads to. A folder without one says nothing.

    Raises:
        ModelError: A file is damaged, or names a step that is not known here.
    """
    if loaded.file("modules.json") is None:
        return SentenceFolder()
    pooling, normalize, pools_prompt = None, False, True
    dense: list[tuple[Path, dict[str, Any]]] = []
    for step in _json(loaded, "modules.json", list):
        kind, folder = str(step.get("type", "")).rpartition(".")[2], str(step.get("path", ""))
        if kind == "Pooling":
            said = _json(loaded, f"{folder}/config.json", dict)
            pooling, pools_prompt = _pooling(loaded, said), bool(said.get("include_prompt", True))
        elif kind == "Dense":
            dense.append(_dense(loaded, folder))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise ModelError(
                f"{loaded.source}: modules.json has a step of type {step.get('type')!r}, which is not known "
                "here; leaving it out would give other embeddings. Known are Transformer, Pooling, Dense and "
                "Normalize."
            )
    texts = _json(loaded, "config_sentence_transformers.json", dict)
    prompts = {str(name): str(text) for name, text in (texts.get("prompts") or {}).items()}
    most = _max_seq_length(loaded)
    return SentenceFolder(
        pooling, tuple(dense), normalize, most, prompts, texts.get("default_prompt_name"), pools_prompt
    )


def load_dense(path: Path, said: dict[str, Any], device: torch.device) -> torch.nn.Module:
    """A dense layer and its activation, in float32."""
    import torch
    from safetensors.torch import load_file

    weights = load_file(path)
    size_out, size_in = weights["linear.weight"].shape
    linear = torch.nn.Linear(size_in, size_out, bias="linear.bias" in weights)
    linear.load_state_dict({name.removeprefix("linear."): value.float() for name, value in weights.items()})
    activation = getattr(torch.nn, _activation(said))()
    return torch.nn.Sequential(linear, activation).to(device).eval().requires_grad_(False)


def _dense(loaded: LoadedModel, folder: str) -> tuple[Path, dict[str, Any]]:
    said = _json(loaded, f"{folder}/config.json", dict)
    odd = [name for name in ("use_residual",) if said.get(name)]
    odd += [
        name
        for name in ("module_input_name", "module_output_name")
        if said.get(name) not in (None, _EMBEDDING)
    ]
    if odd or _activation(said) not in _ACTIVATIONS:
        raise ModelError(
            f"{loaded.source}: the dense step in {folder} has "
            f"{', '.join(odd) or said.get('activation_function')!r}, which is not known here."
        )
    path = loaded.file(f"{folder}/model.safetensors")
    if path is None:
        raise ModelError(
            f"{loaded.source}: {folder} has no model.safetensors, and only safetensors are read."
        )
    return path, said


_EMBEDDING = "sentence_embedding"


def _activation(said: dict[str, Any]) -> str:
    return str(said.get("activation_function") or "torch.nn.Tanh").rpartition(".")[2]


def _pooling(loaded: LoadedModel, said: dict[str, Any]) -> str:
    modes = said.get("pooling_mode") or [mode for switch, mode in _OLD_POOLINGS.items() if said.get(switch)]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) == 1 and modes[0] in _POOLINGS:
        return _POOLINGS[modes[0]]
    raise ModelError(
        f"{loaded.source}: its pooling is {' + '.join(map(str, modes)) or 'not stated'}; embed knows mean, "
        "cls and lasttoken, one at a time."
    )


def _max_seq_length(loaded: LoadedModel) -> int | None:
    said = _json(loaded, "sentence_bert_config.json", dict)
    if said.get("do_lower_case"):
        raise ModelError(
            f"{loaded.source}: sentence_bert_config.json has do_lower_case, which lowers text outside of the "
            "tokenizer; that is not done here. Lower the text yourself and take the setting out of a copy."
        )
    most = said.get("max_seq_length")
    return most if isinstance(most, int) and most > 0 else None


def _json(loaded: LoadedModel, name: str, kind: type) -> Any:
    """The contents of a file; empty if there is no such file."""
    path = loaded.file(name)
    if path is None:
        return kind()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(said, kind):
        raise ModelError(f"{path} holds a JSON {type(said).__name__}; it must hold a {kind.__name__}.")
    return said
