"""Stage ``data``: from raw sources to rows that can be trained on, and what is known of them."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from lmwright.core.columns import Row
from lmwright.core.durable import write_json
from lmwright.core.errors import BadInput
from lmwright.core.settings import kind_of
from lmwright.core.stage import Feedback, RowStatistics, Stage, Work, WorkEstimate
from lmwright.core.task import MergingTask, Task, role_columns, task_to_json, text_of_its_own
from lmwright.data.corpus import GROUP_ROWS, TASK, schema_of, stream_rows, write_rows
from lmwright.data.dedup import NearDuplicates
from lmwright.data.exact import CONFLICTING, KEPT, judge_repeats
from lmwright.data.gather import Gathered, Limits, Rejected, gather, side_columns
from lmwright.data.label_errors import CHARACTERS, find_label_errors
from lmwright.data.merge import merge_judgements
from lmwright.data.quality import EXAMPLES, SourceQuality, balance, label_variants
from lmwright.data.shape import COLUMN, shape_of
from lmwright.data.sources import (
    Fault,
    Source,
    check_columns,
    derivation_of,
    located_source,
    place_of,
    source_hash,
)
from lmwright.data.split import SPLITS, Fractions, assign, folds
from lmwright.tables import SHAPES, module_of
from lmwright.text.language import identifier as identifier_of

REPEATED_ID, UNFIT, NEAR_HELD = 3, 4, 5
"""Beside the verdicts of exact.py: why a row is not kept."""

REASONS = {
    CONFLICTING: ("conflicting targets", "the same input stands in rows with another target"),
    REPEATED_ID: ("repeated id", "an earlier row of the source has this id"),
    NEAR_HELD: ("near a held row", "models are judged by a row that is nearly the same"),
}

FEEDBACK_FRACTIONS = {
    "train": 0.7,
    "validation": 0.04,
    "calibration": 0.2,
    "gate": 0.03,
    "test": 0.03,
}
"""Shares of the feedback that may be learnt from; what judges is a test set of its own."""
PART_BYTES = 24 << 20
"""Bytes of text that are sorted in memory at a time."""
ROWS_AT_ONCE = 2 * GROUP_ROWS
"""Rows that are parsed at a time, in whole row groups; the others of a part stay lines."""
ID_END = len('["') + 32
"""Where the id ends that begins each line of a part."""


@dataclass(frozen=True, kw_only=True)
class Data(Stage):
    """Read, clean, compare, judge and split the rows of all sources.

    ``task``            by default the recipe's task.
    ``near``            Jaccard similarity of word pairs from which two rows stay together.
    ``max_characters``  a longer text is rejected.
    ``max_faulty``      share of unfit rows from which a source is refused.
    ``label_error_rows``    rows, drawn at random, that are searched for wrong labels; 0 for none.
    ``language_rows``   rows of each source, drawn at random, whose language is identified.
    ``languages``       codes among which the language is sought; empty: all.
    ``held``            rows of other artifacts, as ARTIFACT/FILE, that models are judged by. Where
                        there are any, a training row is rejected when it is near one of them
                        or near a row of a test set.
    """

    task: Any = None
    sources: tuple[Source, ...]
    fractions: Fractions = field(default_factory=Fractions)
    near: float = 0.7
    max_characters: int = 100_000
    max_faulty: float = 0.1
    label_error_rows: int = 12_000
    language_rows: int = 1_000
    languages: tuple[str, ...] = ()
    held: tuple[str, ...] = ()

    def needs(self) -> tuple[str, ...]:
        """The artifacts with held rows."""
        return tuple(dict.fromkeys(place.partition("/")[0] for place in self.held))

    def gives(self) -> tuple[str, ...]:
        """The artifact ``rows``: see :mod:`lmwright.data.corpus`."""
        return ("rows",)

    def holds(self) -> dict[str, tuple[str, ...]]:
        """The splits, and a test set for each source with that role."""
        test_sets = (f"test-{source.name}" for source in self.sources if source.role == "test")
        return {"rows": (*SPLITS, *test_sets)}

    @classmethod
    def beside(cls, settings: Mapping[str, Any], feedback: Feedback) -> dict[str, Any]:
        """The rows of the feedback, of which none is learnt from that is near a row of a split that
        models are judged by. Test sets are no such rows: a replay plays them as traffic."""
        return {
            feedback.artifact: {
                "stage": "data",
                "sources": list(feedback.sources),
                "held": [f"rows/{split}" for split in SPLITS if split != "train"],
                "label_error_rows": 0,
                "fractions": FEEDBACK_FRACTIONS,
                "writes": {"rows": feedback.artifact},
            }
        }

    def learns_from(self) -> tuple[str, ...]:
        """The sources that are no test sets."""
        return tuple(source.name for source in self.sources if source.role == "train")

    def asks(self) -> tuple[str, ...]:
        """The held rows."""
        return self.held

    @classmethod
    def located(cls, settings: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
        """The sources' paths from the recipe's folder."""
        sources = settings.get("sources")
        if not isinstance(sources, list):
            return settings
        return {**settings, "sources": [located_source(source, folder) for source in sources]}

    def reaches(self, inputs: Mapping[str, Path]) -> tuple[str, ...]:
        """The task of the rows, how sources are derived, and shapes that they may have."""
        kinds = [kind_of(source.derive) for source in self.sources if source.derive is not None]
        derivations = [module_of("derivations", kind) for kind in kinds]
        has_messages = any(column.name == COLUMN for column in self.task.columns)
        shapes = [module_of("shapes", kind) for kind in (SHAPES if has_messages else ())]
        own = [kind_of(source.shape) for source in self.sources if source.shape is not None]
        return (
            module_of("tasks", self.task.kind),
            *derivations,
            *shapes,
            *(module_of("shapes", kind) for kind in own if kind not in SHAPES),
        )

    def reads(self) -> dict[str, str]:
        """Each source's name -> hash of the content of its files."""
        return {f"source {source.name}": source_hash(source) for source in self.sources}

    def check(self) -> None:
        """Raise BadInput for sources or numbers that cannot be meant."""
        names = [source.name for source in self.sources]
        if "train" not in {source.role for source in self.sources}:
            raise BadInput("no source has the role train", "at least one source to learn from")
        if len(set(names)) < len(names):
            raise BadInput(f"the sources are called {names}", "a name for each source")
        for name in names:
            if not name or not name.replace("-", "").replace("_", "").isalnum():
                raise BadInput(f"a source is called {name!r}", "letters, digits, - and _")
        for source in self.sources:
            derivation_of(source)
            if source.shape is not None:
                shape_of(source.shape, f"source {source.name!r}: shape")
        if not 0.3 <= self.near <= 1:
            raise BadInput(f"near is {self.near}", "a Jaccard similarity from 0.3 to 1")
        if not 0 <= self.max_faulty <= 1:
            raise BadInput(f"max_faulty is {self.max_faulty}", "a share from 0 to 1")
        if self.max_characters < 2:
            raise BadInput(f"max_characters is {self.max_characters}", "a number from 2 on")
        if min(self.label_error_rows, self.language_rows) < 0:
            raise BadInput("label_error_rows or language_rows is negative", "0 or more")
        for place in self.held:
            if place.count("/") != 1:
                raise BadInput(f"held has {place!r}", "ARTIFACT/FILE, as in rows/gate")
        if self.languages:
            identifier_of(self.languages)
        self.fractions.check()

    def check_task(self, task: Task) -> None:
        """BadInput for a source that names columns which the task has not."""
        columns = role_columns(task, "input", "target")
        for source in self.sources:
            check_columns(source, columns)

    def estimate(self, known: RowStatistics) -> WorkEstimate:
        """All rows of the sources; what is kept takes about a kilobyte a row."""
        return WorkEstimate(rows=known.source_rows(), disk=1000 * known.source_rows())

    def run(self, work: Work) -> dict[str, Any]:
        """Fill ``rows`` in two passes over the texts; returns the quality report as facts."""
        self.check()
        clock = [time.perf_counter()]
        folder = work.scratch / "data"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        target = work.out("rows")
        limits = Limits(characters=self.max_characters, faulty=self.max_faulty)

        def say(done: int, note: str) -> None:
            work.progress(done, 2 * max(done, 1), note)

        with (
            closing(Rejected(target / "rejected.jsonl")) as rejected,
            closing(NearDuplicates(folder / "near", self.near)) as near,
        ):
            gathered = gather(
                self.task, self.sources, folder, near, rejected, limits, self.seed, say
            )
            clock.append(time.perf_counter())
            ids = np.concatenate([gathered.ids, *self.add_held(work.inputs, near)])
            groups = near.groups(np.lexsort(ids.T[::-1]).argsort().astype(np.int32))
            clock.append(time.perf_counter())
            barred = self.near_held(gathered, groups)
            groups = groups[: len(barred)]
            if isinstance(self.task, MergingTask):
                gathered, first = merge_judgements(self.task, gathered, self.sources, folder)
                groups = np.unique(groups[first], return_inverse=True)[1].astype(groups.dtype)
                barred = barred[first]
            verdict, places = self.place(gathered, groups, barred)
            task = self.task.fitted(learnt_rows(gathered, verdict, places))
            second = Second(self, task, gathered, groups, verdict, places)
            quality = second.run(folder, target, rejected)
        shutil.rmtree(folder)
        clock.append(time.perf_counter())
        seconds = dict(zip(("read", "compare", "write"), np.diff(clock).tolist(), strict=True))
        work.measured(seconds=seconds)
        learnt = list(self.learns_from())
        return {**quality, "learns_from": learnt, "headline": headline(quality)}

    def add_held(self, inputs: Mapping[str, Path], near: NearDuplicates) -> Iterator[np.ndarray]:
        """Add the held rows after all others; yields their ids, uint64 (rows, 2)."""
        for place in self.held:
            artifact, _, split = place.partition("/")
            for batch in stream_rows(inputs[artifact] / f"{split}.parquet"):
                near.add([text_of_its_own(self.task, row) for row in batch.to_pylist()])
                ids = batch.column("id").to_pylist()
                hashes = np.frombuffer(bytes.fromhex("".join(ids)), ">u8")
                yield hashes.astype(np.uint64).reshape(-1, 2)

    def near_held(self, gathered: Gathered, groups: np.ndarray) -> np.ndarray:
        """Which rows may not be learnt from: bool (rows,).

        ``groups`` (rows and held rows,) are the groups of near duplicates.
        """
        is_test = self.is_test(gathered)
        if not self.held:
            return np.zeros(len(is_test), bool)
        judging = np.concatenate([is_test, np.ones(len(groups) - len(is_test), bool)])
        barred = np.zeros(len(groups), bool)
        barred[groups[judging]] = True
        return barred[groups[: len(is_test)]] & ~is_test

    def is_test(self, gathered: Gathered) -> np.ndarray:
        """Which rows are of a test set: bool (rows,)."""
        return np.array([source.role == "test" for source in self.sources])[gathered.sources]

    def place(
        self, gathered: Gathered, groups: np.ndarray, barred: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Verdict of each row (KEPT or a reason), and the file it belongs to: both (rows,).

        Files are the splits, then the test sets in the order of the sources. Rows that are
        ``barred`` (rows,) stand in none.
        """
        is_test = self.is_test(gathered)
        verdict = np.where(barred, NEAR_HELD, REPEATED_ID).astype(np.int8)
        fresh = np.flatnonzero(~gathered.repeats_id & ~barred)
        if not len(fresh):
            raise BadInput("no row is left after cleaning", "rows with text and label")
        # Where several answers are right, only a row with the same targets too is a repeat.
        keys = gathered.keys if self.task.one_answer else gathered.keys ^ gathered.targets
        verdict[fresh] = judge_repeats(
            keys[fresh], gathered.ids[fresh], gathered.targets[fresh], is_test[fresh]
        )
        learnt = (verdict == KEPT) & ~is_test
        places = len(SPLITS) + gathered.sources.astype(np.int16)
        ordered = np.argsort(np.argsort(gathered.names))[gathered.strata[learnt]]
        parted = together(groups[learnt], gathered.keys[learnt], gathered.clusters[learnt])
        places[learnt] = assign(parted, gathered.ids[learnt], ordered, self.fractions, self.seed)
        verdict[near_others(groups, places, learnt)] = NEAR_HELD
        return verdict, places


FEW = 30
"""Rows of a split of which fewer tell little."""


def headline(quality: Mapping[str, Any]) -> dict[str, Any]:
    """The line that a person is told of the rows: what was kept, dropped, and is too little."""
    rows, splits = quality["rows"], quality["splits"]
    line = f"{rows['kept']:,} of {rows['read']:,} rows kept"
    dropped = {
        "repeats": rows["repeats_removed"],
        "merged with others": rows.get("merged", 0),
        "rejected": rows["rejected"],
    }
    told = ", ".join(f"{count:,} {name}" for name, count in dropped.items() if count)
    warnings = []
    for name, split in splits.items():
        alone = len(quality["labels"]) > 1 and len(split["labels"]) == 1
        if split["rows"] < FEW or alone:
            kinds = f" of {next(iter(split['labels']))!r} alone" if alone else ""
            warnings.append(f"{name} has {split['rows']} rows{kinds}")
    line += f" ({told})" if told else ""
    line += f"; few to go by: {', '.join(warnings)}" if warnings else ""
    return {"line": line, "warnings": warnings}


def together(groups: np.ndarray, keys: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Groups of rows that are never parted: all (rows,).

    Rows of one cluster, and of equal ``keys`` (inputs). Where there are no clusters (0: none),
    near duplicates too, which are ``groups``; between clusters near duplicates are so many that
    they would make one group of all.
    """
    clustered = bool(clusters.any())
    count, offset = len(groups), 0
    ends = []
    names = (keys, np.where(clusters == 0, keys, clusters)) if clustered else (keys, groups)
    for each in names:
        _, number = np.unique(each, return_inverse=True)
        ends.append(count + offset + number)
        offset += int(number.max(initial=-1)) + 1
    rows = np.tile(np.arange(count), len(ends))
    size = count + offset
    ones = np.ones(len(rows), dtype=np.int8)
    graph = sparse.coo_matrix((ones, (rows, np.concatenate(ends))), shape=(size, size))
    _, found = sparse.csgraph.connected_components(graph, directed=False)
    # Numbered by the first row of each, as the groups of near duplicates are.
    _, first, number = np.unique(found[:count], return_index=True, return_inverse=True)
    return first[number].astype(groups.dtype)


def near_others(groups: np.ndarray, places: np.ndarray, learnt: np.ndarray) -> np.ndarray:
    """Which rows of the training split are near a row of another split: bool (rows,)."""
    train = learnt & (places == SPLITS.index("train"))
    held = np.zeros(int(groups.max(initial=-1)) + 1, bool)
    held[groups[learnt & ~train]] = True
    return train & held[groups]


def learnt_rows(
    gathered: Gathered, verdict: np.ndarray, places: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """The kept rows of the training split, as they were gathered."""
    learnt = (verdict == KEPT) & (places == SPLITS.index("train"))
    for first, batch in gathered.staged():
        yield batch.filter(pa.array(learnt[first : first + batch.num_rows]))


def refuse_empty(places: np.ndarray) -> None:
    """Raise BadInput when there are too few rows (their ``places``) for the splits."""
    counts = np.bincount(places, minlength=len(SPLITS))[: len(SPLITS)]
    empty = [name for name, count in zip(SPLITS, counts, strict=True) if not count]
    if empty:
        raise BadInput(
            f"{len(places)} rows leave nothing for {', '.join(empty)}",
            "rows for every split (some dozens at least)",
            "add rows (nearly equal ones, and those of one cluster, stay together), or raise the "
            "fractions of these splits",
        )


@dataclass
class Second:
    """The second pass: rows go to their files in order, and what is seen of them is counted."""

    stage: Data
    task: Task
    gathered: Gathered
    groups: np.ndarray
    verdict: np.ndarray
    places: np.ndarray

    def run(self, folder: Path, target: Path, rejected: Rejected) -> dict[str, Any]:
        """Write every file of the artifact; returns the quality report."""
        stage, gathered = self.stage, self.gathered
        self.seen = [SourceQuality() for _ in stage.sources]
        self.for_language = self.sample_languages()
        searched = self.sample_label_errors()
        self.texts: dict[int, str] = dict.fromkeys(searched.tolist(), "")
        characters = int(gathered.characters.sum(dtype=np.int64))
        columns = role_columns(self.task, "input", "target")
        repeated = [column.name for column in columns if column.type == "label"]
        schema = schema_of(columns, side_columns(stage.sources))
        with closing(Parts(folder / "parts", schema, characters)) as parts:
            for first, batch in gathered.staged():
                self.scatter(first, batch.to_pylist(), parts, rejected)
            refuse_empty(self.places[(self.verdict == KEPT) & (self.places < len(SPLITS))])
            self.refuse_empty_test_sets()
            for place, name in self.files():
                write_rows(target / f"{name}.parquet", schema, parts.sorted(place), repeated)
        quality = self.quality(rejected, self.label_errors(searched))
        write_json(target / TASK, task_to_json(self.task))
        write_json(target / "sources.json", self.describe_sources())
        write_json(target / "quality.json", quality)
        return quality

    def refuse_empty_test_sets(self) -> None:
        """Raise BadInput when a test set has no row of its own."""
        for place, name in self.files()[len(SPLITS) :]:
            if not ((self.places == place) & (self.verdict == KEPT)).any():
                raise BadInput(
                    f"no row of {name} is left after cleaning",
                    "texts that are not among the training rows, with labels that are",
                    "leave the source out, or look at it alone",
                )

    def files(self) -> list[tuple[int, str]]:
        """(place, name) of every file of rows."""
        test_sets = [
            (len(SPLITS) + number, f"test-{source.name}")
            for number, source in enumerate(self.stage.sources)
            if source.role == "test"
        ]
        return [*enumerate(SPLITS), *test_sets]

    def scatter(
        self, first: int, rows: list[dict[str, Any]], parts: Parts, rejected: Rejected
    ) -> None:
        """Send the rows of one batch to their parts or to the rejected, and look at each kept one.

        A row with which the fitted task cannot work (a label that was never learnt) is rejected.
        """
        gathered, kept = self.gathered, []
        for number, row in enumerate(rows, first):
            source = self.stage.sources[int(gathered.sources[number])]
            if self.verdict[number] == KEPT and (reason := self.task.fault(row)):
                self.verdict[number] = UNFIT
                fault = Fault(row["origin"], reason, repr(self.task.target(row))[:80])
                rejected.put(source.name, fault)
            elif (verdict := int(self.verdict[number])) in REASONS:
                rejected.put(source.name, Fault(row["origin"], *REASONS[verdict]))
            if self.verdict[number] != KEPT:
                continue
            row_id, text = identifier(gathered.ids[number]), self.task.text(row)
            label = gathered.names[gathered.strata[number]]
            seen = self.seen[int(gathered.sources[number])]
            seen.see(row_id, text, label, bool(self.for_language[number]))
            if number in self.texts:
                self.texts[number] = text[:CHARACTERS]
            frame = {"id": row_id, "source": source.name, "licence": source.licence}
            kept.append((int(self.places[number]), {**row, **frame}))
        parts.put(kept)

    def sample_languages(self) -> np.ndarray:
        """Which rows' language is identified: of each source those with the smallest ids."""
        chosen = np.zeros(len(self.verdict), bool)
        for number in range(len(self.stage.sources)):
            rows = np.flatnonzero((self.gathered.sources == number) & (self.verdict == KEPT))
            order = np.argsort(self.gathered.ids[rows, 0], kind="stable")
            chosen[rows[order[: self.stage.language_rows]]] = True
        return chosen

    def sample_label_errors(self) -> np.ndarray:
        """Rows that are searched for wrong labels, in the order of their ids."""
        rows = np.flatnonzero((self.verdict == KEPT) & (self.places < len(SPLITS)))
        order = np.lexsort((self.gathered.ids[rows, 1], self.gathered.ids[rows, 0]))
        return rows[order[: self.stage.label_error_rows]]

    def label_errors(self, rows: np.ndarray) -> dict[str, Any]:
        """Suspected label errors among ``rows`` as facts."""
        rows = rows[self.verdict[rows] == KEPT]
        codes, labels = np.unique(self.gathered.strata[rows], return_inverse=True)
        if len(rows) < 20 or len(codes) < 2:
            return {"searched": 0, "suspected": 0, "worst": []}
        fold = folds(self.groups[rows], self.gathered.ids[rows], 4, self.stage.seed)
        texts = [self.texts[row] for row in rows.tolist()]
        found = find_label_errors(texts, labels, fold, len(codes))
        names = [self.gathered.names[code] for code in codes]
        right = float((found.probability.argmax(1) == labels).mean())
        return {
            "searched": len(rows),
            "suspected": len(found.rows),
            "out_of_fold_accuracy": round(right, 6),
            "worst": [
                {
                    "id": identifier(self.gathered.ids[rows[place]]),
                    "label": names[labels[place]],
                    "looks_like": names[found.better[place]],
                    "margin": round(float(found.margin[place]), 6),
                }
                for place in found.rows[: 5 * EXAMPLES].tolist()
            ],
        }

    def quality(self, rejected: Rejected, label_errors: dict[str, Any]) -> dict[str, Any]:
        """The quality report: facts for cards, gates and pages."""
        gathered, kept = self.gathered, self.verdict == KEPT
        learnt = kept & (self.places < len(SPLITS))
        labels = self.count_labels(learnt)
        by_reason = {name: dict(sorted(c.items())) for name, c in sorted(rejected.counts.items())}
        return {
            "rows": {
                "read": sum(gathered.read),
                "kept": int(kept.sum()),
                "rejected": sum(c.total() for c in rejected.counts.values()),
                "repeats_removed": int((self.verdict == 1).sum()),
                **({"merged": gathered.merged} if gathered.merged else {}),
            },
            "labels": labels,
            "balance": balance(labels),
            "consistency": {
                "label_variants": label_variants(gathered.names),
                "rows_with_conflicting_targets": int((self.verdict == CONFLICTING).sum()),
            },
            "rejected": by_reason,
            "near_duplicates": self.near_facts(kept),
            "splits": {
                name: {"rows": int((place := learnt & (self.places == number)).sum()),
                       "labels": self.count_labels(place)}
                for number, name in enumerate(SPLITS)
            },
            "test_sets": self.test_facts(kept, learnt),
            "sources": {
                source.name: self.source_facts(number, kept, rejected)
                for number, source in enumerate(self.stage.sources)
            },
            "label_errors": label_errors,
        }  # fmt: skip

    def count_labels(self, chosen: np.ndarray) -> dict[str, int]:
        """Label -> number of the chosen rows, sorted by label."""
        counts = np.bincount(self.gathered.strata[chosen], minlength=len(self.gathered.names))
        named = zip(self.gathered.names, counts.tolist(), strict=True)
        return dict(sorted((name, count) for name, count in named if count))

    def near_facts(self, kept: np.ndarray) -> dict[str, Any]:
        """Groups of near duplicates among the kept rows."""
        sizes = np.bincount(self.groups[kept], minlength=1)
        return {
            "threshold": self.stage.near,
            "shingles": "pairs of neighbouring words",
            "groups": int((sizes > 1).sum()),
            "rows_in_groups": int(sizes[sizes > 1].sum()),
            "largest_group": int(sizes.max(initial=0)),
        }

    def test_facts(self, kept: np.ndarray, learnt: np.ndarray) -> dict[str, Any]:
        """Of each test set: its rows, labels, and how many have a near duplicate to learn from."""
        held = np.zeros(len(self.groups), bool)
        held[self.groups[learnt]] = True
        found = {}
        for place, name in self.files()[len(SPLITS) :]:
            rows = kept & (self.places == place)
            found[name.removeprefix("test-")] = {
                "rows": int(rows.sum()),
                "labels": self.count_labels(rows),
                "near_training_rows": int(held[self.groups[rows]].sum()),
                "repeats_of_other_rows": int(((self.verdict == 1) & (self.places == place)).sum()),
            }
        return found

    def source_facts(self, number: int, kept: np.ndarray, rejected: Rejected) -> dict[str, Any]:
        """Completeness and the findings on one source."""
        gathered, source = self.gathered, self.stage.sources[number]
        mine = gathered.sources == number
        rows = mine & kept
        bad = rejected.counts.get(source.name, Counter[str]())
        return {
            "role": source.role,
            "licence": source.licence,
            "read": gathered.read[number],
            "completeness": round(1 - bad.total() / gathered.read[number], 6),
            "repaired": gathered.repaired[number],
            "repeats_removed": int((mine & (self.verdict == 1)).sum()),
            **self.seen[number].facts(
                gathered.characters[rows], gathered.words[rows], self.stage.languages
            ),
        }

    def describe_sources(self) -> list[dict[str, Any]]:
        """The sources' settings and the hash of their content; of a path as much as its rows
        name, which is the same wherever the file lies."""
        return [
            {**asdict(source), "path": place_of(source), "content": source_hash(source)}
            for source in self.stage.sources
        ]


class Parts:
    """Rows on disk, scattered over parts by file and leading bits of their id, then sorted.

    At most 64 parts a file, so that the files open at once stay below the usual limit.
    """

    def __init__(self, folder: Path, schema: pa.Schema, characters: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.schema = folder, schema
        self.bits = min(6, (characters // PART_BYTES).bit_length())
        self.open: dict[tuple[int, int], Any] = {}

    def put(self, rows: Iterable[tuple[int, Row]]) -> None:
        """Append rows, given as (file, row)."""
        for place, row in rows:
            key = (place, int(row["id"][:4], 16) >> (16 - self.bits))
            if key not in self.open:
                name = self.folder / f"{place}-{key[1]}"
                self.open[key] = name.open("w", encoding="utf-8")
            line = json.dumps([row[name] for name in self.schema.names])
            self.open[key].write(line + "\n")

    def close(self) -> None:
        """Close what is still open."""
        for file in self.open.values():
            file.close()

    def sorted(self, place: int) -> Iterator[pa.Table]:
        """The rows of one file, sorted by id, ``ROWS_AT_ONCE`` at most at a time."""
        for key in sorted(key for key in self.open if key[0] == place):
            file = self.open[key]
            file.close()
            path = Path(file.name)
            with path.open(encoding="utf-8") as lines:
                ordered = sorted(lines, key=lambda line: line[:ID_END])
            path.unlink()
            for first in range(0, len(ordered), ROWS_AT_ONCE):
                rows = map(json.loads, ordered[first : first + ROWS_AT_ONCE])
                columns = [
                    pa.array(list(c), f.type)
                    for c, f in zip(zip(*rows, strict=True), self.schema, strict=True)
                ]
                yield pa.Table.from_arrays(columns, schema=self.schema)


def identifier(number: np.ndarray) -> str:
    """The 32 hexadecimal characters of a row's id."""
    return f"{int(number[0]):016x}{int(number[1]):016x}"
