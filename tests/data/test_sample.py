import hashlib

import numpy as np
import pyarrow as pa

from lmwright.data.sample import quotas, same_rows, subset
from lmwright.tasks.text_ranking import TextRanking


def drawn_rows(table, limit, seed):
    return same_rows(table, limit, seed, table.column("label").to_pylist())


def rows(counts):
    labels = [name for name, n in counts.items() for _ in range(n)]
    ids = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(len(labels))]
    return pa.table({"id": ids, "label": labels, "text": [f"text {i}" for i in ids]})


def test_the_draw_ignores_the_order_of_rows_and_keeps_the_shares():
    table = rows({"a": 700, "b": 300})
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(1000)))
    drawn, again = drawn_rows(table, 100, 7), drawn_rows(shuffled, 100, 7)
    assert drawn.equals(again)
    assert drawn.column("id").to_pylist() == sorted(drawn.column("id").to_pylist())
    assert drawn.column("label").to_pylist().count("a") == 70
    assert set(drawn.column("id").to_pylist()) != set(
        drawn_rows(table, 100, 8).column("id").to_pylist()
    )


def test_a_smaller_draw_lies_inside_a_larger_one():
    table = rows({"a": 500, "b": 500})
    small, large = drawn_rows(table, 60, 0), drawn_rows(table, 200, 0)
    assert set(small.column("id").to_pylist()) < set(large.column("id").to_pylist())


def test_no_limit_keeps_all_rows():
    table = rows({"a": 5, "b": 3})
    for limit in (None, 0, 8, 100):
        assert drawn_rows(table, limit, 0).num_rows == 8


def test_rows_outside_the_draw_do_not_disturb_it():
    table = rows({"a": 400, "b": 400})
    drawn = drawn_rows(table, 100, 3)
    gone = set(table.column("id").to_pylist()) - set(drawn.column("id").to_pylist())
    keep = np.array([name not in set(sorted(gone)[:50]) for name in table.column("id").to_pylist()])
    fewer = drawn_rows(table.filter(pa.array(keep)), 100, 3)
    kept, before = set(fewer.column("id").to_pylist()), set(drawn.column("id").to_pylist())
    assert len(kept & before) >= 96  # shares may be rounded by a few places


def test_quotas_sum_to_the_limit_and_give_a_rare_label_its_place():
    assert quotas(np.array([998, 1, 1]), 10).tolist() == [8, 1, 1]
    assert quotas(np.array([2, 2, 2]), 5).sum() == 5
    assert (quotas(np.array([1, 50, 3]), 53) <= np.array([1, 50, 3])).all()


def test_of_rankings_whole_ones_are_kept():
    table = rows({f"query {n}": 3 + n % 4 for n in range(60)})
    table = table.rename_columns(["id", "query", "document"])
    whole = table.group_by("query").aggregate([("id", "count")]).to_pylist()
    sizes = {row["query"]: row["id_count"] for row in whole}
    drawn = subset(TextRanking(), table, 100, 5)
    kept = drawn.column("query").to_pylist()
    assert 94 < len(kept) <= 100
    assert all(kept.count(query) == sizes[query] for query in kept)
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(len(table))))
    assert subset(TextRanking(), shuffled, 100, 5).equals(drawn)
    assert set(subset(TextRanking(), table, 100, 6).column("query").to_pylist()) != set(kept)
    one = subset(TextRanking(), table, 1, 5).column("query").to_pylist()
    assert len(one) == sizes[one[0]] and set(one) <= set(kept)
    assert subset(TextRanking(), table, 0, 5).num_rows == table.num_rows
