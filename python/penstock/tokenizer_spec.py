"""From a tokenizer.json to the native engine: what it does exactly, and by name what it does not.

Nothing is guessed: a part, a setting or a pattern that is not known here means that `tokenizers` does the
whole job. The file is untrusted; what is not as it must be is refused like what is unknown, and
`tokenizers` then says what is wrong with it.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from tokenizers import pre_tokenizers

from penstock import _core
from penstock.tokenizer_layout import Frame, Piece

Json: TypeAlias = Mapping[str, Any]

METASPACE = "\u2581"
NFC_CHANGES_TO_ASCII = "K;`\u00c5"  # what NFC makes of other characters, of what a token may hold


class Unknown(Exception):  # noqa: N818  not an error: a reason
    """Why the native engine leaves a tokenizer to the `tokenizers` package."""


class Known(NamedTuple):
    """A tokenizer.json that the engine knows, every part of it."""

    native: _core.Tokenizer
    frames: dict[tuple[int, bool], Frame | None]  # by number of texts, and whether with special tokens
    vocabulary: Mapping[str, int]
    added: dict[str, int]  # ids of the added tokens, which may be in the vocabulary too


def read(document: Json) -> Known:
    """The native engine for a parsed tokenizer.json.

    Raises:
        Unknown: It holds something that the engine does not do exactly; says what.
    """
    try:
        return _read(document)
    except ValueError as error:
        raise Unknown(str(error)) from error
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise Unknown(f"the file is not as expected ({type(error).__name__}: {error})") from error


def _read(document: Json) -> Known:
    model = document["model"]
    kind = model.get("type", "BPE" if "merges" in model else None)
    families = {"BPE": _bpe, "WordPiece": _wordpiece, "Unigram": _unigram}
    if kind not in families:
        raise Unknown(f"model type {kind!r}")
    built = families[kind](document, model)
    vocabulary = model["vocab"]
    if not isinstance(vocabulary, Mapping):
        vocabulary = dict(zip(map(itemgetter(0), vocabulary), itertools.count()))
    ids = _ids_of_added(document, vocabulary, len(model["vocab"]))
    raw, normalized = _added_tokens(document, ids, built)
    native = _core.Tokenizer(built, raw, normalized, _guards(document, normalized))
    frames = {
        (num_texts, special): _frame(document, num_texts, add_special_tokens=special)
        for num_texts in (1, 2)
        for special in (True, False)
    }
    return Known(native, frames, vocabulary, ids)


# --- models ------------------------------------------------------------------------------------------------


def _bpe(document: Json, model: Json) -> _core.Model:
    _only(
        model,
        "BPE",
        dropout=(None, 0, 0.0),
        continuing_subword_prefix=(None, ""),
        end_of_word_suffix=(None, ""),
    )
    if _splits_bytes(document["pre_tokenizer"]):
        return _byte_bpe(document, model)
    return _core.piece_bpe(
        model["vocab"],
        model["merges"],
        unk_token=model.get("unk_token"),
        fuse_unk=_flag(model, "fuse_unk", default=False),
        byte_fallback=_flag(model, "byte_fallback", default=False),
        ignore_merges=_flag(model, "ignore_merges", default=False),
        normalizer=_normalizer(document.get("normalizer")),
        metaspace=_metaspace(document.get("pre_tokenizer")),
    )


def _splits_bytes(pre_tokenizer: Json | None) -> bool:
    return any(step["type"] == "ByteLevel" for step in _steps(pre_tokenizer, "pretokenizers"))


def _byte_bpe(document: Json, model: Json) -> _core.Model:
    steps = _steps(document["pre_tokenizer"], "pretokenizers")
    at = [step["type"] for step in steps].index("ByteLevel")
    uses_regex = _flag(steps[at], "use_regex", default=True)
    adds_space = _flag(steps[at], "add_prefix_space", default=True)
    if model.get("unk_token") is not None or _flag(model, "byte_fallback", default=False):
        missing = sum(char not in model["vocab"] for char in pre_tokenizers.ByteLevel.alphabet())
        if missing:
            raise Unknown(f"byte-level BPE with {missing} bytes left to unk_token or byte_fallback")
    if at > 0 and adds_space:
        raise Unknown("pre_tokenizer ByteLevel with a prefix space behind other splits")
    rules = [_rule(step) for step in steps[:at]]
    rules += [("Split", GPT2)] if uses_regex else []
    rules += [_rule_of_bytes(step) for step in steps[at + 1 :]]
    return _core.byte_bpe(
        model["vocab"],
        model["merges"],
        rules=rules,
        add_prefix_space=adds_space,
        ignore_merges=_flag(model, "ignore_merges", default=False),
        normalizer=_normalizer(document.get("normalizer")),
    )


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _rule(step: Json) -> tuple[str, str]:
    """What cuts a text, for ``_core``: its type and its setting."""
    kind = step["type"]
    if kind == "Digits":
        return kind, "one" if _flag(step, "individual_digits") else "run"
    if kind == "Punctuation":
        return kind, str(step["behavior"])
    if kind != "Split" or "Regex" not in step["pattern"]:
        raise Unknown(f"pre_tokenizer {kind}{' of a string' if kind == 'Split' else ''}")
    # The matches and what is between them; or the matches alone, of regexes that leave nothing between them.
    kinds = {("Isolated", False): kind, ("Removed", True): "Matches"}
    how = (step["behavior"], _flag(step, "invert"))
    if how not in kinds:
        raise Unknown(f"pre_tokenizer Split with behavior {how[0]!r}, invert {how[1]}")
    return kinds[how], str(step["pattern"]["Regex"])


def _rule_of_bytes(step: Json) -> tuple[str, str]:
    """The same behind ByteLevel, which makes a character of each byte."""
    kind, setting = _rule(step)
    return f"{kind} of bytes", setting


def _wordpiece(document: Json, model: Json) -> _core.Model:
    steps = _steps(document["pre_tokenizer"], "pretokenizers")
    if [step["type"] for step in steps] != ["BertPreTokenizer"]:
        raise Unknown(f"WordPiece with pre_tokenizer {_names(steps)}")
    normalizers = _steps(document.get("normalizer"), "normalizers")
    bert = None
    if normalizers:
        if [step["type"] for step in normalizers] != ["BertNormalizer"]:
            raise Unknown(f"WordPiece with normalizer {_names(normalizers)}")
        (step,) = normalizers
        lowercase = _flag(step, "lowercase")
        strips = lowercase if step.get("strip_accents") is None else _flag(step, "strip_accents")
        bert = (_flag(step, "clean_text"), _flag(step, "handle_chinese_chars"), strips, lowercase)
    return _core.wordpiece(
        model["vocab"],
        unk_token=model["unk_token"],
        prefix=model["continuing_subword_prefix"],
        max_word_chars=model["max_input_chars_per_word"],
        bert=bert,
    )


def _unigram(document: Json, model: Json) -> _core.Model:
    steps = _steps(document.get("pre_tokenizer"), "pretokenizers")
    names = [step["type"] for step in steps]
    if names not in ([], ["Metaspace"], ["WhitespaceSplit"], ["WhitespaceSplit", "Metaspace"]):
        raise Unknown(f"Unigram with pre_tokenizer {_names(steps)}")
    if model.get("unk_id") is None:
        raise Unknown("Unigram without unk_id")
    return _core.unigram(
        model["vocab"],
        unk_id=model["unk_id"],
        byte_fallback=_flag(model, "byte_fallback", default=False),
        normalizer=_normalizer(document.get("normalizer")),
        splits_at_spaces="WhitespaceSplit" in names,
        metaspace=_metaspace(steps[-1]) if names and names[-1] == "Metaspace" else None,
    )


def _metaspace(step: Json | None) -> tuple[str, bool] | None:
    """A Metaspace: when it prepends ("always", "first", "never") and whether it splits."""
    if step is None:
        return None
    if step["type"] != "Metaspace":
        raise Unknown(f"pre_tokenizer {step['type']}")
    _only(step, "Metaspace", replacement=(METASPACE,))
    scheme = step.get("prepend_scheme")
    if scheme is None:  # as older files say it
        if not _flag(step, "add_prefix_space", default=True):
            raise Unknown("Metaspace without add_prefix_space and prepend_scheme")
        scheme = "always"
    if scheme not in ("always", "first", "never"):
        raise Unknown(f"Metaspace with prepend_scheme {scheme!r}")
    return scheme, _flag(step, "split", default=True)


# --- normalizers -------------------------------------------------------------------------------------------


def _normalizer(section: Json | None) -> list[tuple[Any, ...]]:
    """Steps for ``_core``: the name and its settings."""
    return [_normalizer_step(step) for step in _steps(section, "normalizers")]


def _normalizer_step(step: Json) -> tuple[Any, ...]:
    kind = step["type"]
    if kind in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        return (kind,)
    if kind == "Strip":
        return (kind, _flag(step, "strip_left"), _flag(step, "strip_right"))
    if kind == "Prepend":
        return (kind, str(step["prepend"]))
    if kind == "Replace" and "String" in step["pattern"]:
        return (kind, str(step["pattern"]["String"]), str(step["content"]))
    if kind == "Replace" and step["pattern"] == {"Regex": " {2,}"}:
        return ("ReplaceSpaces", str(step["content"]))
    if kind == "Precompiled":
        return (kind, base64.b64decode(step["precompiled_charsmap"], validate=True))
    raise Unknown(f"normalizer {kind}{' of a regex' if kind == 'Replace' else ''}")


# --- added tokens ------------------------------------------------------------------------------------------


def _added_tokens(document: Json, ids: Mapping[str, int], model: _core.Model) -> tuple[list[Any], list[Any]]:
    """The tokens looked for in the raw text, and those looked for in normalized text."""
    raw: list[Any] = []
    normalized: list[Any] = []
    for token in document.get("added_tokens") or ():
        content = token["content"]
        if not content:
            continue
        if ids[content] != token["id"]:
            raise Unknown(f"added token {content!r} has an id that is not its own")
        if _flag(token, "normalized"):
            content = model.normalize(content)
        if not content:
            raise Unknown("an added token of which the normalizer leaves nothing")
        flags = (_flag(token, "single_word"), _flag(token, "lstrip"), _flag(token, "rstrip"))
        (normalized if token["normalized"] else raw).append((content, token["id"], *flags))
    for tokens in (raw, normalized):
        if any(token[4] for token in tokens) and any(token[0][:1].isspace() for token in tokens):
            raise Unknown("added tokens that take spaces along beside others that begin with one")
    return raw, normalized


def _ids_of_added(document: Json, known: Mapping[str, int], size: int) -> dict[str, int]:
    """The ids that `tokenizers` gives to added tokens, which may not be those that the file says."""
    ids: dict[str, int] = {}
    highest = -1
    for token in document.get("added_tokens") or ():
        content = token["content"]
        if content in ids:
            raise Unknown(f"added token {content!r} stands there twice")
        if content in known:
            ids[content] = known[content]
        elif content:
            ids[content] = highest = max(highest + 1, size)
    if len(set(ids.values())) < len(ids):
        raise Unknown("two added tokens with one id")
    return ids


def _guards(document: Json, normalized: list[Any]) -> list[Any] | None:
    """As what tokens that are looked for in normalized text may stand in the raw one; None: not known."""
    steps = _steps(document.get("normalizer"), "normalizers")
    names = [step["type"] for step in steps]
    contents = [token[0] for token in normalized]
    if not normalized or not steps:
        return normalized
    if names == ["NFC"]:
        are_plain = all(text.isascii() and not set(text) & set(NFC_CHANGES_TO_ASCII) for text in contents)
        return normalized if are_plain else None
    only_spaces = (("Prepend", METASPACE), ("Replace", " ", METASPACE))
    if set(names) <= {"Prepend", "Replace"} and all(_normalizer_step(step) in only_spaces for step in steps):
        # Of a token with several of these each may be a space or not in the raw text.
        if any(text.count(METASPACE) > 1 for text in contents):
            return None
        forms = {
            form for text in contents for form in (text, text.replace(METASPACE, " "), text.lstrip(METASPACE))
        }
        single_word = any(token[2] for token in normalized)
        return [(form, 0, single_word, False, False) for form in sorted(forms) if form]
    return None


# --- what stands around texts ------------------------------------------------------------------------------


def _frame(document: Json, num_texts: int, *, add_special_tokens: bool) -> Frame | None:
    """What the post-processor puts around one text, or around a pair; None: it does not take so many."""
    found = _any_frame(document, num_texts, add_special_tokens=add_special_tokens)
    return found if found.num_texts == num_texts else None


def _any_frame(document: Json, num_texts: int, *, add_special_tokens: bool) -> Frame:
    plain = Frame(tuple(Piece(text, (), text) for text in range(num_texts)))
    steps = [
        step for step in _steps(document.get("post_processor"), "processors") if step["type"] != "ByteLevel"
    ]
    if len(steps) > 1:
        raise Unknown(f"post_processor {_names(steps)}")
    if not steps or not add_special_tokens:
        return plain if not steps else _without_special(steps[0], num_texts, plain)
    return _frame_of(steps[0], num_texts)


def _without_special(step: Json, num_texts: int, plain: Frame) -> Frame:
    pieces = [piece for piece in _frame_of(step, num_texts).pieces if piece.text is not None]
    return plain if step["type"] == "BertProcessing" else Frame(tuple(pieces))


def _frame_of(step: Json, num_texts: int) -> Frame:
    kind = step["type"]
    if kind == "TemplateProcessing":
        return Frame(tuple(_template_pieces(step, step["single" if num_texts == 1 else "pair"])))
    if kind not in ("BertProcessing", "RobertaProcessing"):
        raise Unknown(f"post_processor {kind}")
    begin, end = (_special_id(step["cls"][1]),), (_special_id(step["sep"][1]),)
    pieces = [Piece(None, begin, 0), Piece(0, (), 0), Piece(None, end, 0)]
    if num_texts == 2:
        second = 1 if kind == "BertProcessing" else 0
        middle = [] if kind == "BertProcessing" else [Piece(None, end, 0)]
        pieces += [*middle, Piece(1, (), second), Piece(None, end, second)]
    return Frame(tuple(pieces))


def _template_pieces(step: Json, template: list[Json]) -> list[Piece]:
    pieces = []
    for part in template:
        ((kind, what),) = part.items()
        if kind == "SpecialToken":
            ids = step["special_tokens"][what["id"]]["ids"]
            pieces.append(Piece(None, tuple(map(_special_id, ids)), _type_id(what)))
        else:
            pieces.append(Piece("AB".index(what["id"]), (), _type_id(what)))
    texts = [piece.text for piece in pieces if piece.text is not None]
    if texts != list(range(len(texts))):
        raise Unknown("post_processor that leaves out a text, doubles or swaps it")
    return pieces


def _special_id(number: Any) -> int:
    if type(number) is not int or not 0 <= number < 2**31:
        raise Unknown(f"post_processor with {number!r} as the id of a special token")
    return number


def _type_id(part: Json) -> int:
    number = part["type_id"]
    if type(number) is not int or not 0 <= number < 2**8:
        raise Unknown(f"post_processor with type_id {number!r}")
    return number


# --- the file ----------------------------------------------------------------------------------------------


def _steps(section: Json | None, name: str) -> list[Json]:
    """The parts of a section: of a Sequence its own, however deep, else the one."""
    found: list[Json] = []
    todo = [] if section is None else [section]
    while todo:
        step = todo.pop()
        if step["type"] == "Sequence":
            todo += reversed(step[name])
        else:
            found.append(step)
    return found


def _flag(section: Json, name: str, *, default: bool | None = None) -> bool:
    """A true or false of the file, and nothing that merely counts as one."""
    value = section[name] if default is None else section.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, bool):
        raise Unknown(f"{name} {value!r}, which is neither true nor false")
    return value


def _names(steps: list[Json]) -> str:
    return ", ".join(step["type"] for step in steps) or "none"


def _only(section: Json, what: str, **allowed: tuple[Any, ...]) -> None:
    for name, values in allowed.items():
        if section.get(name) not in values:
            raise Unknown(f"{what} with {name} {section[name]!r}")
