"""CoNLL files: entities as conlleval counts them, faults by line, the file of the shared task."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmwright.assets import asset_file
from lmwright.core.errors import BadInput
from lmwright.data.formats.choose import read_table, reader_of
from lmwright.data.formats.conll_file import looks_like_conll, read_conll, spans_of
from lmwright.data.formats.csv_file import read_csv
from lmwright.data.formats.record import Fault, Table

TRAIN = "asset:conll2003-en/neuroner/data/conll2003/en/train.txt"
BIO = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O
. . O O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- -X- O

Rome NNP B-NP B-LOC
Milan NNP I-NP B-LOC
lost VBD B-VP O
"""


def table(folder: Path, data: str | bytes, name: str = "some.conll") -> Table:
    """A file with this content."""
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return Table(f"source 's': {name}", name, path)


def said(record: dict) -> list[tuple[str, str]]:
    """The spans of a record in words."""
    return [(s["label"], record["text"][s["start"] : s["end"]]) for s in record["spans"]]


def test_sentences_entities_and_documents(tmp_path):
    found = list(read_table(table(tmp_path, BIO), []))
    assert [origin for origin, _ in found] == ["some.conll:1", "some.conll:2", "some.conll:3"]
    records = [record for _, record in found]
    assert [record["text"] for record in records] == [
        "EU rejects German call .",
        "Peter Blackburn",
        "Rome Milan lost",
    ]
    assert [said(record) for record in records] == [
        [("ORG", "EU"), ("MISC", "German")],
        [("PER", "Peter Blackburn")],
        [("LOC", "Rome"), ("LOC", "Milan")],
    ]
    assert [record["document"][-1] for record in records] == ["1", "1", "2"]


def test_the_same_sentences_in_the_tags_of_the_shared_task(tmp_path):
    """IOB1: an entity begins with I, but for one that follows another of its label."""
    older = BIO.replace(" B-", " I-").replace("Milan NNP I-NP I-LOC", "Milan NNP I-NP B-LOC")
    assert older != BIO
    both = [list(read_table(table(tmp_path, text), ["text", "spans"])) for text in (BIO, older)]
    assert both[0] == both[1]


@pytest.mark.parametrize(
    "data",
    [
        BIO.replace("\n", "\r\n"),
        BIO.replace(" ", "\t"),
        BIO.replace("\n\n", "\n \t\n\n\n"),
        BIO.rstrip("\n"),
        BIO.replace("-X- O\n\n", "-X- O\n"),
        ("\ufeff" + BIO).encode(),
        BIO.encode("utf-16"),
    ],
    ids=["CRLF", "tabs", "wide gaps", "no end of line", "no gap after a start", "mark", "utf-16"],
)
def test_line_ends_gaps_and_encodings_change_nothing(tmp_path, data):
    assert list(read_table(table(tmp_path, data), [])) == list(read_table(table(tmp_path, BIO), []))


def test_only_spaces_and_tabs_part_columns(tmp_path):
    """A no-break space or a line separator of Unicode belongs to its token."""
    data = "10\u00a0000 B-NUM\npeople O\nof\u2028it O\n\u3000 O\n"
    ((_, record),) = read_table(table(tmp_path, data), ["text", "spans"])
    assert record["text"] == "10\u00a0000 people of\u2028it \u3000"
    assert said(record) == [("NUM", "10\u00a0000")]


@pytest.mark.parametrize("line", ["alone", "Paris NNP", "Paris B", "Paris X-LOC", "Paris B-"])
def test_a_line_without_an_entity_tag_costs_its_sentence_only(tmp_path, line):
    data = BIO.replace("rejects VBZ B-VP O", line)
    found = list(read_conll(table(tmp_path, data), []))
    assert found[0] == Fault("some.conll:1", "no entity tag", line)
    assert [record["text"] for _, record in found[1:]] == ["Peter Blackburn", "Rome Milan lost"]


def test_columns_that_it_has_not_are_refused(tmp_path):
    with pytest.raises(BadInput, match="label"):
        list(read_conll(table(tmp_path, BIO), ["text", "label"]))


def conlleval(tags: list[str]) -> set[tuple[int, int, str]]:
    """Chunks (first, last, type) by conlleval's own rules of where one starts and ends."""
    found, first = set(), 0
    before, kind_before = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        place_in, kind = tag[:1], tag[2:]
        ends = (before, place_in) in {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O")}
        starts = (before, place_in) in {("B", "B"), ("I", "B"), ("O", "B"), ("O", "I")}
        other = kind_before != kind
        if ends or (before != "O" and other):
            found.add((first, place - 1, kind_before))
        if starts or (place_in != "O" and other):
            first = place
        before, kind_before = place_in, kind
    return found


TAGS = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])


@given(st.lists(TAGS, max_size=12))
def test_entities_are_those_that_conlleval_finds(tags):
    words = [f"w{'x' * (place % 3)}" for place in range(len(tags))]
    edges = [0]
    for word in words:
        edges.append(edges[-1] + len(word) + 1)
    wanted = {(edges[first], edges[last + 1] - 1, kind) for first, last, kind in conlleval(tags)}
    found = spans_of(words, tags)
    assert {(s["start"], s["end"], s["label"]) for s in found} == wanted
    assert len(found) == len(wanted)


def test_ends_and_single_tokens_of_iobes():
    tags = ["S-A", "S-A", "B-A", "E-A", "B-A", "I-A", "E-A", "I-A", "E-B", "O", "E-A"]
    words = list("abcdefghijk")
    text = " ".join(words)
    found = [(s["label"], text[s["start"] : s["end"]]) for s in spans_of(words, tags)]
    assert found == [
        ("A", "a"),
        ("A", "b"),
        ("A", "c d"),
        ("A", "e f g"),
        ("A", "h"),
        ("B", "i"),
        ("A", "k"),
    ]


def test_spans_of_another_column(tmp_path):
    """Parts of speech (column 2) word by word, chunks (column 3) as entities are read."""
    _, (_, second), _ = read_conll(table(tmp_path, BIO), ["text", "words.2", "spans.3"])
    tags = [{"start": 0, "end": 5, "label": "NNP"}, {"start": 6, "end": 15, "label": "NNP"}]
    assert second["words.2"] == tags
    assert second["spans.3"] == [{"start": 0, "end": 15, "label": "NP"}]
    with pytest.raises(BadInput, match=r"words\.0"):
        list(read_conll(table(tmp_path, BIO), ["words.0"]))
    faults = list(read_conll(table(tmp_path, BIO), ["words.5"]))
    assert [each.reason for each in faults if isinstance(each, Fault)] == ["no such column"] * 3
    faults = list(read_conll(table(tmp_path, BIO), ["spans.2"]))
    assert faults[0] == Fault("some.conll:1", "no entity tag", "EU NNP B-NP B-ORG")


def test_words_beside_a_sentence_are_those_of_its_document(tmp_path):
    found = [record for _, record in read_conll(table(tmp_path, BIO), ["before", "text", "after"])]
    first, second, third = found
    assert first == {"before": "", "text": "EU rejects German call .", "after": "Peter Blackburn"}
    assert second == {"before": first["text"], "text": "Peter Blackburn", "after": ""}
    assert third == {"before": "", "text": "Rome Milan lost", "after": ""}
    assert "before" not in next(read_conll(table(tmp_path, BIO), []))[1]
    both = Table("s", "some.conll", tmp_path / "some.conll", optional=("before", "other"))
    assert list(next(read_conll(both, ["text"]))[1]) == ["text", "before"]


@given(st.lists(st.tuples(st.integers(1, 70), st.booleans()), min_size=1, max_size=12))
def test_words_beside_are_the_nearest_hundred(tmp_path_factory, shape):
    """Against all words of the document joined, whatever its sentences' lengths."""
    lines, documents = [], []
    for number, (size, begins) in enumerate(shape):
        if begins or not documents:
            lines.append("-DOCSTART- -X- O\n")
            documents.append([])
        words = [f"w{number}.{place}" for place in range(size)]
        documents[-1].append(words)
        lines.append("\n".join(f"{word} X O" for word in words) + "\n")
    path = tmp_path_factory.mktemp("conll")
    found = iter(read_conll(table(path, "\n".join(lines)), ["text", "before", "after"]))
    for sentences in documents:
        for place, words in enumerate(sentences):
            before = [word for each in sentences[:place] for word in each][-100:]
            after = [word for each in sentences[place + 1 :] for word in each][:100]
            wanted = (" ".join(words), " ".join(before), " ".join(after))
            _, record = next(found)
            assert (record["text"], record["before"], record["after"]) == wanted


def test_parts_of_speech_of_the_training_file():
    """Every token has one of the Penn Treebank's tags (or one of four that the file has beside)."""
    path = asset_file(TRAIN)
    found = read_table(Table("source 's': train.txt", "train.txt", path), ["text", "words.2"])
    tags = Counter(span["label"] for _, record in found for span in record["words.2"])
    assert sum(tags.values()) == 203621 and len(tags) == 45
    assert tags["NNP"] == 34392 and tags["IN"] == 19064


def test_the_training_file_of_the_shared_task():
    """Its numbers are those of Tjong Kim Sang and De Meulder 2003, tables 1 and 2."""
    path = asset_file(TRAIN)
    found = list(read_table(Table("source 's': train.txt", "train.txt", path), []))
    assert not [each for each in found if isinstance(each, Fault)]
    records = [record for _, record in found]
    assert len(records) == 14041
    assert len({record["document"] for record in records}) == 946
    assert sum(len(record["text"].split(" ")) for record in records) == 203621
    kinds = Counter(span["label"] for record in records for span in record["spans"])
    assert kinds == {"LOC": 7140, "MISC": 3438, "ORG": 6321, "PER": 6600}
    edges = [
        (" " + record["text"] + " ")[place]
        for record in records
        for span in record["spans"]
        for place in (span["start"], span["end"] + 1)
    ]
    assert set(edges) == {" "}, "spans end where words end"


def test_it_is_known_by_its_content(tmp_path):
    assert reader_of(table(tmp_path, BIO, "some.txt")) is read_conll
    assert reader_of(table(tmp_path, BIO, "some.dat")) is read_conll
    assert reader_of(table(tmp_path, BIO.replace("\n", "\r\n"), "some.txt")) is read_conll
    commas = "text,label\n" + "He said O,B-LOC\nnot so O,O\nnever O,O\n"
    assert reader_of(table(tmp_path, commas, "some.csv")) is read_csv
    assert reader_of(table(tmp_path, commas, "some.txt")) is read_csv
    tabs = "text\tlabel\na text\tO\nanother\tO\nmore\tO\n"
    assert reader_of(table(tmp_path, tabs, "some.tsv")) is read_csv
    assert reader_of(table(tmp_path, tabs, "some.txt")) is read_csv


@given(st.integers(0, len(BIO)))
def test_a_start_cut_anywhere_looks_no_different(cut):
    """The format is told from the first bytes, which may end within a line."""
    lines = [line for line in BIO[:cut].split("\n")[:-1] if line.strip()]
    assert looks_like_conll(BIO[:cut]) == (len(lines) > 1)
