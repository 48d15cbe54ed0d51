"""Build the corpus that ``penstock demo`` scores, and say which books the demo is made of.

Every row has an ``id``, a ``kind``, a ``text`` and a ``source``. Nothing is left to chance: prose is drawn
from the held-out books with a fixed seed, shuffled prose and base64 are derived with fixed seeds, and the
other texts are read from ``demo_texts/``. The books are a JSONL file with the fields ``text`` and
``source``, cut to documents of a few thousand characters.

Example::

    python tools/demo_corpus.py --books books_en.jsonl
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEED = 20
TEXTS = Path(__file__).resolve().parent / "demo_texts"
CORPUS = Path(__file__).resolve().parents[1] / "python" / "penstock" / "demo" / "corpus.jsonl"

HELD_OUT = (
    "Arthur Conan Doyle/A Study in Scarlet.md",
    "Edith Nesbit/The Railway Children.md",
    "Ella Cheever Thayer/Wired Love.md",
    "M.R. James/Ghost Stories of an Antiquary.md",
)

LEFT_OUT = {
    "Agatha Christie/The Murder on the Links.md": "author died in 1976; public domain in few countries",
    "Agatha Christie/The Secret Adversary.md": "author died in 1976; public domain in few countries",
    "Aldous Huxley/Antic Hay.md": "author died in 1963; public domain in few countries",
    "Carlo Collodi/The Adventures of Pinocchio.md": "the translator's dates are not known",
    "Donald Keyhoe/The Flying Saucers Are Real.md": "published in 1950; author died in 1988",
    "John W. Campbell/Invaders from the Infinite.md": "magazine of 1932, book of 1961; author died in 1971",
    "Maurice Leblanc/Arsène Lupin vs. Herlock Sholmes.md": "the translator's dates are not known",
    "W.E.B. Du Bois./The Souls of Black Folk.md": "author died in 1963; public domain in few countries",
    "Willa Cather/A Lost Lady.md": "published in 1923; public domain only lately, left out by caution",
}


class Row(NamedTuple):
    """A row of the corpus before it is numbered."""

    kind: str
    text: str
    source: str


class Document(NamedTuple):
    """A cleaned piece of a book: where it comes from, and its text."""

    source: str
    text: str


def clean(text: str) -> str:
    r"""Strip the mark-up and the line-end habits of the files, so that only the book's text remains.

    Example:
        >>> clean('# Title: X\n-------\n## ONE\r\n\r\n_Indeed_, said **he**. \r\n')
        'ONE\n\nIndeed, said he.'
    """
    text = text.replace("\r\n", "\n").replace("\r", "").replace("\ufeff", "")
    if text.startswith("# Title:"):
        text = text.partition("\n-------\n")[2]
    text = text.replace("**", "")
    text = re.sub(r"(?<!\w)_|_(?!\w)", "", text)
    text = re.sub(r"^#+ +", "", text, flags=re.MULTILINE)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def read_books(path: Path, *, held_out: bool) -> Iterator[Document]:
    """Yield the cleaned documents of the held-out books, or of the books to train on."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            source = row["source"]
            if source in LEFT_OUT or (source in HELD_OUT) != held_out:
                continue
            text = clean(row["text"])
            if text:
                yield Document(source, text)


def prose(documents: Sequence[Document], count: int) -> list[Row]:
    """Draw ``count`` passages of 200 to 900 characters, as many from each book, none twice.

    A passage is whole paragraphs of one document. Paragraphs with line ends inside (verse, tables) and
    those that do not end a sentence (headings) are not used.
    """
    rng = random.Random(SEED)
    books = sorted({document.source for document in documents})
    rows: list[Row] = []
    for number, book in enumerate(books):
        own = [document for document in documents if document.source == book]
        rng.shuffle(own)
        wanted = count * (number + 1) // len(books) - count * number // len(books)
        passages = (passage(document.text, rng) for document in own)
        found = [text for text in passages if text is not None][:wanted]
        if len(found) < wanted:
            raise SystemExit(f"{book}: {len(found)} of {wanted} passages found; is the books file complete?")
        rows += [Row("prose", text, book) for text in found]
    return rows


def passage(text: str, rng: random.Random) -> str | None:
    """Return whole paragraphs of ``text`` that make 200 to 900 characters, or None where there are none."""
    paragraphs = text.split("\n\n")[1:-1]  # the first and the last may be cut in the middle
    if not paragraphs:
        return None
    start = rng.randrange(len(paragraphs))
    enough = rng.randrange(200, 700)
    taken: list[str] = []
    for paragraph in paragraphs[start:]:
        if "\n" in paragraph or not re.search(r"[A-Za-z][.!?][\"']?$", paragraph):
            return None
        taken.append(paragraph)
        joined = "\n\n".join(taken)
        if len(joined) >= enough:
            return joined if len(joined) <= 900 else None
    return None


def shuffled(passages: Sequence[Row]) -> list[Row]:
    """Return the words of each passage in a random order: the same words, no sense."""
    rng = random.Random(SEED)
    rows = []
    for row in passages:
        words = row.text.split()
        rng.shuffle(words)
        rows.append(Row("shuffled", " ".join(words), f"{row.source} (words shuffled)"))
    return rows


def random_base64(count: int) -> list[Row]:
    """Return the base64 of 150 to 280 random bytes, ``count`` times."""
    rng = random.Random(SEED)
    blocks = [rng.randbytes(rng.randrange(150, 280)) for _ in range(count)]
    return [Row("base64", base64.b64encode(block).decode(), "random bytes") for block in blocks]


def read_texts(kind: str, source: str = "{}") -> list[Row]:
    """Read ``demo_texts/KIND.txt``: each text follows a line ``=== title``, its source."""
    content = (TEXTS / f"{kind}.txt").read_text(encoding="utf-8")
    rows = []
    for entry in content.removeprefix("=== ").split("\n=== "):
        title, _, text = entry.partition("\n")
        rows.append(Row(kind, text.rstrip("\n"), source.format(title)))
    return rows


def build(documents: Sequence[Document]) -> list[dict[str, str]]:
    """Return the numbered rows of the corpus, kinds mixed as they would be in a crawl."""
    passages = prose(documents, 70)
    kinds = [
        passages,
        read_texts("web", "written for this demo: {}"),
        read_texts("code", "written for this demo: {}"),
        read_texts("languages"),
        shuffled(passages),
        random_base64(50),
        [Row("edge", "", "an empty text"), Row("edge", "I", "a single character")],
    ]
    rows = [
        {"id": f"{row.kind}-{number:02d}", **row._asdict()}
        for kind in kinds
        for number, row in enumerate(kind, 1)
    ]
    random.Random(SEED).shuffle(rows)
    return rows


def main() -> None:
    """Write the corpus and say how much of each kind it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--books", type=Path, required=True, help="JSONL with the fields text and source")
    parser.add_argument("--output", type=Path, default=CORPUS, help="the corpus, a JSONL file")
    options = parser.parse_args()
    rows = build(list(read_books(options.books, held_out=True)))
    with options.output.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for kind in sorted({row["kind"] for row in rows}):
        lengths = sorted(len(row["text"]) for row in rows if row["kind"] == kind)
        print(f"{kind:10} {len(lengths):3} rows, {lengths[0]} to {lengths[-1]} characters")


if __name__ == "__main__":
    main()
