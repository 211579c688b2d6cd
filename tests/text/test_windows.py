"""Windows over long texts: they cover a text, share the stride, and each token has one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmwright.text.windows import central, stretches


@given(st.integers(0, 300), st.integers(1, 60), st.data())
def test_windows_cover_a_text_and_share_the_stride(count, room, data):
    stride = data.draw(st.integers(0, room - 1))
    found = stretches(count, room, stride)
    ends = [first + size for first, size in found]
    assert found[0][0] == 0 and ends[-1] == count
    assert all(size <= room for _, size in found)
    assert all(first == end - stride for end, (first, _) in zip(ends, found[1:], strict=False))
    assert (len(found) == 1) == (count <= room)
    owners = np.zeros(count, int)
    for (first, size), mask in zip(found, central(found), strict=True):
        assert len(mask) == size
        owners[first : first + size] += mask
    assert (owners == 1).all()


def test_a_token_belongs_to_the_window_in_which_it_is_farthest_from_an_edge():
    """Two windows of 8 over 12 tokens share 4: the first two of these are the first one's."""
    one, two = central([(0, 8), (4, 8)])
    assert np.flatnonzero(one).tolist() == [0, 1, 2, 3, 4, 5]
    assert (4 + np.flatnonzero(two)).tolist() == [6, 7, 8, 9, 10, 11]
