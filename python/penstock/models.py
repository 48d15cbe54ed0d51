"""Models: loading one for a task, and what it says about itself.

A model is trusted for a task only if every weight the task uses came out of its files: a head that
transformers would make up on the spot is an error here, not a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.arguments import flag, optional, refused, string
from penstock.errors import ConfigError, MissingExtensionError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from penstock.tasks import Task

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
_OTHER_SPELLINGS = {
    "fp32": "float32",
    "float": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
}
_HASH_BLOCK = 8 << 20


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model, ready to be asked, and where it came from.

    Attributes:
        model: The transformers model, in eval mode.
        source: The path or hub id it was loaded from, or the class name of a module of unknown origin.
        folder: Its folder, if it is a local one.
        revision: The hub commit, for a hub id.
        dtype: What its weights are, resolved: ``"float32"``, ``"bfloat16"``, ...
        device: Where its inputs go.
        is_own: It was handed over as a module: its weights are what is in memory, whatever its files say.
    """

    model: torch.nn.Module
    source: str
    folder: Path | None
    revision: str | None
    dtype: str
    device: torch.device
    is_own: bool = False

    @property
    def config(self) -> Any:
        """The transformers config of the model."""
        return self.model.config

    def file(self, name: str) -> Path | None:
        """A file that lies beside the model's weights, such as ``modules.json``; None if there is none.

        Raises:
            ModelError: It is a hub model and nobody can say whether it has the file.
        """
        if self.folder is not None:
            path = self.folder / name
            return path if path.is_file() else None
        return _hub_file(self.source, name, self.revision) if self.revision is not None else None

    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of all files the model was made of, in hex.

        For a module that was handed over: over its config and its weights in memory.
        """
        digest = hashlib.sha256()
        config = None if self.is_own else self.file("config.json")
        files = [] if config is None else _model_files(config.parent)
        if not files or not all(path.is_file() for path in files):
            for block in _weights_in_memory(self.model):
                digest.update(block)
            return digest.hexdigest()
        for path in files:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as opened:
                while block := opened.read(_HASH_BLOCK):
                    digest.update(block)
        return digest.hexdigest()


def load_model(
    source: str | os.PathLike[str] | torch.nn.Module,
    task: str | type[Task],
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model with the head that a task needs. Blocks; the weights must be safetensors.

    Args:
        source: A folder, a hub id, or a transformers model that is already built. A built model is put in
            eval mode, and moved only if ``device`` is given.
        task: The name of a task, or its class.
        revision: Branch, tag or commit of a hub id.
        dtype: One of ``DTYPES``; ``"auto"`` is what the checkpoint says.
        device: ``None`` is cuda if there is one, else cpu.
        device_map: Passed on to transformers, to spread a large model; needs ``accelerate``.
        trust_remote_code: Run Python code that comes with the model.

    Raises:
        ConfigError: An argument cannot be right.
        ModelError: The model cannot be loaded, or it lacks weights that the task uses.
        MissingExtensionError: The model needs a package that is not installed.
    """
    from penstock.tasks import task_class

    kind = task if isinstance(task, type) else task_class(task)
    wanted = _dtype_name(dtype)
    revision = optional(string, "revision", revision)
    trust_remote_code = flag("trust_remote_code", trust_remote_code)
    if device_map is not None and not isinstance(device_map, (str, Mapping)):
        raise refused("device_map", device_map, "a string such as 'auto', or a dict of modules and devices")
    if device is not None and device_map is not None:
        raise ConfigError(
            "device and device_map are both given: device_map places the model by itself; drop device."
        )
    if not isinstance(source, (str, os.PathLike)):
        return _take_over(source, wanted, device, device_map)
    folder = _local_folder(os.fspath(source))
    name = os.fspath(source) if folder is None else str(folder)
    model = _from_files(name, kind, revision, wanted, device_map, trust_remote_code)
    if device_map is None:
        from penstock.staging import resolve_device

        model.to(resolve_device(device))
    model.eval().requires_grad_(False)
    commit = (
        None if folder is not None else (getattr(model.config, "_commit_hash", None) or revision or "main")
    )
    return LoadedModel(model, name, folder, commit, _weight_dtype(model), _input_device(model))


def tokenizer_source(source: str | os.PathLike[str] | torch.nn.Module) -> str:
    """Where the tokenizer of a model lies: its own folder or hub id.

    Call it before loading: a missing tokenizer should not cost minutes.

    Raises:
        ModelError: The folder has no ``tokenizer.json``.
        ConfigError: A model that is already built does not say where it came from.
    """
    if not isinstance(source, (str, os.PathLike)):
        name = getattr(getattr(source, "config", None), "name_or_path", "") or ""
        if not name:
            raise ConfigError(
                f"model is a {type(source).__name__} that does not say which folder it came from: "
                "give its tokenizer with tokenizer=."
            )
        source = str(name)
    name = os.fspath(source)
    folder = _local_folder(name)
    if folder is not None and not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"{folder}: there is no tokenizer.json in it. Give a tokenizer with tokenizer=, or write the "
            "file: transformers.AutoTokenizer.from_pretrained(...).save_pretrained(folder)."
        )
    return name


# ---- loading ----


def _from_files(
    name: str, kind: type[Task], revision: str | None, dtype: str, device_map: Any, trust_remote_code: bool
) -> Any:
    import safetensors
    import torch
    import transformers

    where: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)  # what it would warn of is read from its report below
    try:
        config = transformers.AutoConfig.from_pretrained(name, **where)
        auto = getattr(transformers, kind.auto_class(config))
        model, report = auto.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
            **where,
        )
    except ImportError as error:
        raise MissingExtensionError(f"{name} cannot be loaded: {error}") from error
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        raise ModelError(f"{name} cannot be loaded for task {kind.name!r}: {error}{_remedy(name)}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    _refuse_made_up_weights(name, config, kind, report)
    return model


def _remedy(name: str) -> str:
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return ""
    if any(folder.glob("pytorch_model*.bin")):
        return (
            " Only safetensors are read, because a pickle can run code: load the model once with "
            "transformers and write it again with save_pretrained(folder)."
        )
    return f" {folder} holds no *.safetensors file."


def _refuse_made_up_weights(name: str, config: Any, kind: type[Task], report: Mapping[str, Any]) -> None:
    """A weight that no file holds has random values, and so would every score made with it."""
    made_up = {key for key in report["missing_keys"] if not key.startswith(kind.unused_weights)}
    made_up |= {str(key[0]) for key in report["mismatched_keys"]}
    if not made_up:
        return
    listed = ", ".join(sorted(made_up)[:4]) + (f" and {len(made_up) - 4} more" if len(made_up) > 4 else "")
    made_for = ", ".join(getattr(config, "architectures", None) or ["unknown"])
    raise ModelError(
        f"{name} cannot be used for task {kind.name!r}: its files lack {listed}, and made-up values would "
        f"make every score meaningless. The checkpoint was saved from {made_for}; {kind.needs}"
    )


def _take_over(module: Any, dtype: str, device: Any, device_map: Any) -> LoadedModel:
    if not hasattr(getattr(module, "config", None), "get_text_config"):
        raise ConfigError(
            f"model={type(module).__name__}: give a folder, a hub id, or a transformers model, which has a "
            ".config."
        )
    if device_map is not None:
        raise ConfigError(
            "device_map places a model while it is loaded; this one is already built. Drop device_map."
        )
    held = _weight_dtype(module)
    if dtype not in ("auto", held):
        raise ConfigError(
            f"dtype={dtype!r}: the model that was handed over is {held}. Cast it first, or drop dtype."
        )
    if device is not None:
        from penstock.staging import resolve_device

        module.to(resolve_device(device))
    module.eval()
    origin = str(getattr(module.config, "name_or_path", "") or "")
    folder = Path(origin) if Path(origin).is_dir() and origin else None
    commit = None if folder is not None else getattr(module.config, "_commit_hash", None)
    source = origin if folder is not None or commit is not None else type(module).__name__
    return LoadedModel(module, source, folder, commit, held, _input_device(module), is_own=True)


def _dtype_name(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        meant = f" Did you mean {_OTHER_SPELLINGS[name]!r}?" if name in _OTHER_SPELLINGS else ""
        raise ConfigError(f"dtype={name!r}: it must be one of {', '.join(map(repr, DTYPES))}.{meant}")
    return name


def _weight_dtype(model: Any) -> str:
    for parameter in model.parameters():
        if parameter.is_floating_point():
            return str(parameter.dtype).removeprefix("torch.")
    return "float32"


def _input_device(model: Any) -> torch.device:
    """The device of the first layer: with a device map, that is where the inputs go."""
    import torch

    placed = getattr(model, "hf_device_map", None)
    if placed:
        first = next(iter(placed.values()))
        return torch.device("cuda", first) if isinstance(first, int) else torch.device(first)
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


# ---- files ----


def _local_folder(name: str) -> Path | None:
    """The folder that a source names, or None if it is a hub id."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{name} is a file; give the folder that holds config.json and the safetensors.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: there is no such folder.")
    return None


def _hub_file(repo: str, name: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = try_to_load_from_cache(repo, name, revision=revision)
    if cached is not None:  # a path, or the mark that the repository has no such file
        return Path(cached) if isinstance(cached, str) else None
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise ModelError(
            f"{repo}: cannot tell whether it has {name}: the hub cannot be reached and the file is not in "
            f"the cache. Download the model once while online (hf download {repo}), or give a local folder."
        ) from error
    except EntryNotFoundError:
        return None


def _model_files(folder: Path) -> list[Path]:
    """What a model is made of: its config, the weights that are read, adapters, and code of its own."""
    index = folder / "model.safetensors.index.json"
    weights = [folder / "model.safetensors"]
    if not weights[0].is_file() and index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        weights = [index, *(folder / shard for shard in sorted(set(shards)))]
    beside = [*folder.glob("*.py"), *folder.glob("adapter_*")]
    return [folder / "config.json", *weights, *sorted(path for path in beside if path.is_file())]


def _weights_in_memory(model: Any) -> Iterator[bytes]:
    import torch

    said = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):  # where it lies and who wrote it change no score
        said.pop(name, None)
    yield json.dumps(said, sort_keys=True, default=str).encode()
    for name, tensor in sorted(model.state_dict().items()):
        yield f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode()
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        for block in flat.view(torch.uint8).split(_HASH_BLOCK):
            yield block.numpy().tobytes()
