"""Fixtures that every test may use: the external data, and tiny models made on the spot.

The tiny tokenizers and models are trained or seeded in the test session, so nothing is fetched and
nothing binary lies in the repository. torch and transformers are imported only inside the fixtures
that need them.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer as Backend

# The machine may be shared and slow: a time limit per test says enough, one per example lies.
settings.register_profile("penstock", deadline=None)
settings.load_profile("penstock")

# Tiny models gain nothing from a second core, and on a busy machine OpenMP's threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SENTENCES = (
    "A penstock is the pipe that brings water down from the dam to the turbine.",
    "When the gate opens, the water falls, and the wheel begins to turn.",
    "The engineers measured the pressure in the pipe every hour of the day and night.",
    "Nobody in the valley remembered a winter with so much rain.",
    "She counted the sacks twice, wrote 1,024 in the book, and closed it.",
    "It's late; we'll go home, they said, and they didn't look back.",
    "def area(width, height):\n    return width * height  # in metres\n",
    "Der Fluss trägt das Holz bis zur Mühle, und die Mühle mahlt das Korn.",
    "L'été, la rivière est basse et l'on voit les pierres.",
    "水は高い所から低い所へ流れる。",
    "Вода течёт вниз по трубе.",
    "Warm water rises \U0001f30a and cold water sinks.",
)
SPECIAL_WORDPIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SPECIAL_UNIGRAMS = ("<s>", "<pad>", "</s>", "<unk>")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Shells start what runs in the background with Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` skip by name on a machine without one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device here"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real tokenizers and texts; the test skips where there is none."""
    folder = os.environ.get("PENSTOCK_TEST_DATA")
    if not folder:
        _no_data("PENSTOCK_TEST_DATA is not set: set it to the folder that holds tokenizers/ and corpora/")
    if not (Path(folder) / "tokenizers").is_dir():
        _no_data(f"PENSTOCK_TEST_DATA={folder}: there is no tokenizers/ folder in it")
    return Path(folder)


def _no_data(reason: str) -> NoReturn:
    if os.environ.get("PENSTOCK_REQUIRE_DATA") == "1":
        pytest.fail(f"{reason} (PENSTOCK_REQUIRE_DATA=1 makes this a failure)", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def sentences() -> tuple[str, ...]:
    """The texts that the tiny tokenizers were trained on."""
    return SENTENCES


@pytest.fixture(scope="session")
def tiny_bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer in the manner of GPT-2: no special tokens around a row."""
    folder = tmp_path_factory.mktemp("tiny_bpe")
    _write_byte_level_bpe(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a WordPiece tokenizer in the manner of BERT: ``[CLS] row [SEP]``."""
    folder = tmp_path_factory.mktemp("tiny_wordpiece")
    _write_wordpiece(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_unigram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Unigram tokenizer in the manner of XLM-R: ``<s> row </s>``."""
    folder = tmp_path_factory.mktemp("tiny_unigram")
    _write_unigram(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a causal model of two layers (GPT-2, 64 hidden, context 64) and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_gpt2")
    vocab_size = _write_byte_level_bpe(folder)

    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocab_size, n_positions=64, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    _save_seeded(GPT2LMHeadModel, config, folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier of two layers (BERT, 64 hidden, three labels) and its tokenizer.

    Loads as ``BertForSequenceClassification`` and, without the head, as ``BertModel``.
    """
    folder = tmp_path_factory.mktemp("tiny_bert")
    vocab_size = _write_wordpiece(folder)

    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
        pad_token_id=0,
        id2label={0: "low", 1: "middle", 2: "high"},
        label2id={"low": 0, "middle": 1, "high": 2},
    )
    _save_seeded(BertForSequenceClassification, config, folder)
    return folder


def _save_seeded(model_class: Any, config: Any, folder: Path) -> None:
    """Save a model whose weights depend on nothing but the seed, and are large enough to disagree on."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_26)
        model = model_class(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.15)
        model.save_pretrained(folder)


def _write_byte_level_bpe(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_repeated(), trainer)
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64}
    return _write(folder, backend, settings | {"bos_token": end, "eos_token": end, "unk_token": end})


def _write_wordpiece(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word
        for text in SENTENCES
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
    )
    pieces = [*SPECIAL_WORDPIECES, *_wordpieces(words, limit=395)]
    model = models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    backend = Tokenizer(model)
    backend.add_special_tokens(list(SPECIAL_WORDPIECES))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    settings = {"tokenizer_class": "BertTokenizer", "model_max_length": 64, "do_lower_case": True}
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return _write(folder, backend, settings | names | {"mask_token": "[MASK]"})


def _write_unigram(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    normalizer, pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    words = Counter(
        word
        for text in SENTENCES
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
    )
    vocab = [(token, 0.0) for token in SPECIAL_UNIGRAMS] + _unigrams(words, limit=296)
    backend = Tokenizer(models.Unigram(vocab, unk_id=SPECIAL_UNIGRAMS.index("<unk>"), byte_fallback=False))
    backend.add_special_tokens(list(SPECIAL_UNIGRAMS))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B:0 </s>:0",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return _write(folder, backend, settings | names | {"cls_token": "<s>", "sep_token": "</s>"})


# The trainers of these two families break ties by the order of a hash table, so their vocabulary changes
# from run to run; counted by hand, a tokenizer is the same in every session.


def _wordpieces(words: Counter[str], limit: int) -> list[str]:
    """Letters first (at the start of a word and after), then the commonest starts, ends and words."""
    letters = sorted({letter for word in words for letter in word})
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for cut in range(2, len(word) + 1):
            counts[word[:cut]] += count
            counts["##" + word[-cut:]] += count * (cut < len(word))
    common = [piece for piece in counts if counts[piece] > 1]
    common.sort(key=lambda piece: (-counts[piece], piece))
    return list(dict.fromkeys([*letters, *("##" + letter for letter in letters), *common]))[:limit]


def _unigrams(words: Counter[str], limit: int) -> list[tuple[str, float]]:
    """Every letter and the commonest pieces of up to six letters, with the log of how common they are."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(len(word)):
            for stop in range(start + 1, min(start + 6, len(word)) + 1):
                counts[word[start:stop]] += count
    ranked = sorted(counts, key=lambda piece: (len(piece) > 1, -counts[piece] * len(piece), piece))[:limit]
    total = sum(counts[piece] for piece in ranked)
    return [(piece, math.log(counts[piece] / total)) for piece in ranked]


def _repeated() -> Iterator[str]:
    """The training text, several times over, because the trainer drops what is seen once."""
    for _ in range(4):
        yield from SENTENCES


def _write(folder: Path, backend: Backend, settings: dict[str, Any]) -> int:
    """Write the three files of a tokenizer folder; return the size of the vocabulary."""
    backend.save(str(folder / "tokenizer.json"))
    special_tokens = {name: token for name, token in settings.items() if name.endswith("_token")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens, indent=2), encoding="utf-8")
    return backend.get_vocab_size()
