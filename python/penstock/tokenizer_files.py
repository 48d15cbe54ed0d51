"""Where tokenizers come from: folders, files, the hub, and objects of other packages.

``tokenizer.json`` says how text becomes tokens; the small files next to it say the rest: what pads, what
begins and ends a text, which inputs the model takes. Where these are silent, the answers are those that
`transformers` gives, unless noted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import tokenizers

from penstock.errors import ConfigError, TokenizerError
from penstock.tokenizer_native import make_engine

if TYPE_CHECKING:
    from penstock.tokenizer_engine import TokenizersEngine

Json: TypeAlias = Mapping[str, Any]

MODEL_FILE = "tokenizer.json"
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "cls_token")
UNLIMITED = 10**9  # model_max_length from here on means that nobody knows

PLAIN_INPUTS = ("input_ids", "attention_mask")
BERT_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
DEBERTA_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# By model type: the class is named after it ("deberta-v2" has DebertaV2Tokenizer). All others take no
# token_type_ids; DistilBERT must not be given any, though its tokenizer may be called BertTokenizer.
INPUTS_OF = {
    **dict.fromkeys(("bert", "convbert", "dprquestionencoder", "dprcontextencoder", "dpr"), BERT_INPUTS),
    **dict.fromkeys(("electra", "ernie", "layoutlm", "lxmert", "markuplm", "megatronbert"), BERT_INPUTS),
    **dict.fromkeys(("mobilebert", "nezha", "nomicbert", "realm", "retribert", "squeezebert"), BERT_INPUTS),
    **dict.fromkeys(("deberta", "debertav2"), DEBERTA_INPUTS),
    "fnet": ("input_ids", "token_type_ids"),
}


@dataclass(frozen=True)
class Settings:
    """What is known of a tokenizer besides how it cuts text; see the properties of ``Tokenizer``."""

    model_input_names: tuple[str, ...] = PLAIN_INPUTS
    pad_id: int = 0
    pad_type_id: int = 0
    padding_side: str = "right"
    model_max_length: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None


@dataclass(frozen=True)
class Found:
    """A tokenizer that was read: its tokenizer.json, the engine made of it, and the settings."""

    place: str
    json: str
    engine: TokenizersEngine
    settings: Settings


def find(source: Any, revision: str | None = None) -> Found:
    """Read a tokenizer from wherever it is.

    Args:
        source: A folder, a tokenizer.json, a hub id, a `transformers` fast tokenizer or a
            ``tokenizers.Tokenizer``.
        revision: Branch, tag or commit, for a hub id.

    Raises:
        TokenizerError: There is none, or it is damaged.
    """
    if isinstance(source, tokenizers.Tokenizer):
        return _from_backend(source)
    if hasattr(source, "backend_tokenizer"):
        return _from_transformers(source)
    if hasattr(source, "convert_tokens_to_ids"):
        raise TokenizerError(
            f"{type(source).__name__} is a slow tokenizer, written in Python. Penstock takes those with a "
            "tokenizer.json: load it with AutoTokenizer.from_pretrained(...), and check that is_fast is True"
        )
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(
            f"source: a {type(source).__name__} is no tokenizer. Give a folder, a tokenizer.json, a hub id, "
            "a transformers fast tokenizer or a tokenizers.Tokenizer"
        )
    path = Path(source).expanduser()
    if path.is_dir():
        return _from_file(path / MODEL_FILE)
    if path.exists():
        return _from_file(path)
    if isinstance(source, str) and HUB_ID.fullmatch(source) and not source.endswith(".json"):
        return _from_file(_downloaded(source, revision) / MODEL_FILE)
    raise TokenizerError(f"{source}: no such folder or file, and it cannot be a hub id")


def _from_file(path: Path) -> Found:
    if not path.is_file():
        raise TokenizerError(
            f"{path}: no such file. Penstock needs a tokenizer.json; to make one from the files there are: "
            "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: is not UTF-8 at byte {error.start:,}; fetch it again") from error
    engine = make_engine(text, str(path))
    # A file by any other name does not belong to the files next to it.
    files = [_read_settings(path.parent / name) if path.name == MODEL_FILE else {} for name in SETTINGS_FILES]
    return Found(str(path), text, engine, _settings(engine, *files))


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: is not JSON: {error}. Fetch it again") from error
    if not isinstance(settings, dict):
        raise TokenizerError(f"{path}: must hold a JSON object, not a {type(settings).__name__}")
    return settings


def _settings(engine: TokenizersEngine, config: Json, special: Json, model: Json) -> Settings:
    are_named = any(name in {*config, *special} for name in SPECIAL_NAMES)

    def token_id(name: str) -> int | None:
        for settings in (config, special):
            if name in settings:
                return _id_of(engine, settings[name])
        # Old folders name no special tokens at all; then the model's configuration knows.
        number = None if are_named else model.get(f"{name}_id")
        return number if isinstance(number, int) else None

    eos_id = token_id("eos_token")
    pad_ids = (token_id("pad_token"), _id_of(engine, "[PAD]"), _id_of(engine, "<pad>"), eos_id, 0)
    return Settings(
        model_input_names=_input_names(config, model),
        pad_id=next(number for number in pad_ids if number is not None),
        pad_type_id=int(config.get("pad_token_type_id") or 0),
        padding_side=_side(config, model),
        model_max_length=_limit(config.get("model_max_length")),
        bos_id=token_id("bos_token"),
        eos_id=eos_id,
    )


def _id_of(engine: TokenizersEngine, token: Any) -> int | None:
    content = token.get("content") if isinstance(token, dict) else token
    return engine.token_to_id(content) if isinstance(content, str) else None


def _kind(config: Json, model: Json) -> str:
    """The family, from the tokenizer's class if there is one, else from the model's type: "debertav2"."""
    if model.get("model_type") == "distilbert":
        return "distilbert"
    name = config.get("tokenizer_class") or model.get("tokenizer_class")
    if isinstance(name, str):
        return name.removesuffix("Fast").removesuffix("Tokenizer").lower()
    return str(model.get("model_type") or "").replace("-", "").replace("_", "").lower()


def _input_names(config: Json, model: Json) -> tuple[str, ...]:
    names = config.get("model_input_names")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return INPUTS_OF.get(_kind(config, model), PLAIN_INPUTS)


def _side(config: Json, model: Json) -> str:
    """Right where nothing is said: left is for generating text. XLNet looks at the last position."""
    side = config.get("padding_side")
    if side in ("left", "right"):
        return str(side)
    return "left" if _kind(config, model) == "xlnet" else "right"


def _limit(length: Any) -> int | None:
    is_number = isinstance(length, (int, float)) and not isinstance(length, bool)
    return int(length) if is_number and 0 < length < UNLIMITED else None


def _from_backend(backend: tokenizers.Tokenizer) -> Found:
    place = "tokenizers.Tokenizer"
    text = _serialized(backend, place)
    copy = make_engine(text, place)
    settings = _settings(copy, {}, {}, {})
    if backend.padding is not None:
        padding = backend.padding
        settings = replace(
            settings,
            pad_id=padding["pad_id"],
            pad_type_id=padding["pad_type_id"],
            padding_side=padding["direction"],
        )
    return Found(place, text, copy, settings)


def _from_transformers(source: Any) -> Found:
    place = type(source).__name__
    text = _serialized(source.backend_tokenizer, place)
    pad_ids = (source.pad_token_id, source.eos_token_id, 0)
    settings = Settings(
        model_input_names=tuple(source.model_input_names),
        pad_id=next(number for number in pad_ids if number is not None),
        pad_type_id=int(source.pad_token_type_id),
        padding_side=source.padding_side,
        model_max_length=_limit(source.model_max_length),
        bos_id=source.bos_token_id,
        eos_id=source.eos_token_id,
    )
    return Found(place, text, make_engine(text, place), settings)


def _serialized(backend: tokenizers.Tokenizer, place: str) -> str:
    try:
        return backend.to_str()
    except Exception as error:
        raise TokenizerError(
            f"{place}: it holds parts written in Python ({error}), which cannot be copied. Use the parts "
            "that the tokenizers package brings"
        ) from error


def _downloaded(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        files = [MODEL_FILE, *SETTINGS_FILES]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    except Exception as error:
        at = "" if revision is None else f" at revision {revision}"
        raise TokenizerError(
            f"{hub_id}{at}: is no folder here, and was not found on the hub either: {error}. If it is meant "
            "as a folder, check the path; offline (HF_HUB_OFFLINE=1), fetch it first"
        ) from error
