# SPDX-License-Identifier: Apache-2.0
"""The framer returns every whole line, however the stream is cut into pieces."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from notif_relayd.records.framing import Framer


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """Cut a stream into pieces at the given offsets, modulo its length."""
    marks = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in itertools.pairwise(marks)]


# Short lines, because the ends of lines are the interesting places.
streams = st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"x"))).map(b"\n".join)
places = st.lists(st.integers(min_value=0, max_value=10_000))


@given(stream=streams, places=places)
def test_output_is_the_stream_up_to_its_last_newline(stream: bytes, places: list[int]) -> None:
    framer = Framer(limit=1000)
    out = b"".join(framer.feed(piece) for piece in cut(stream, places))
    assert out == stream[: stream.rfind(b"\n") + 1]
    assert framer.torn == (not stream.endswith(b"\n") and bool(stream))
    assert framer.given_up == 0


@given(stream=streams, places=places, limit=st.integers(min_value=2, max_value=8))
def test_too_long_line_is_skipped_as_a_whole(stream: bytes, places: list[int], limit: int) -> None:
    framer = Framer(limit)
    out = b"".join(framer.feed(piece) for piece in cut(stream, places))
    whole = stream.split(b"\n")[:-1]
    kept = out.split(b"\n")[:-1]
    # A long line that arrives in one piece is returned whole; the validator rejects it.
    assert [line for line in kept if len(line) < limit] == [
        line for line in whole if len(line) < limit
    ]
    assert all(line in whole for line in kept)
    skipped = len(whole) - len(kept)
    unfinished = len(stream) - stream.rfind(b"\n") - 1
    assert framer.given_up == skipped + (unfinished >= limit)


def test_endless_line_takes_bounded_memory() -> None:
    framer = Framer(limit=100)
    for _ in range(1000):
        assert framer.feed(b"x" * 60) == b""
        assert framer.held < 100
    assert framer.given_up == 1
    assert framer.feed(b"end\ngood\n") == b"good\n"


def test_longest_line_is_accepted_in_any_pieces() -> None:
    line = b"x" * 99 + b"\n"
    framer = Framer(limit=100)
    assert [framer.feed(line[i : i + 1]) for i in range(100)] == [b""] * 99 + [line]
    assert framer.feed(b"x" * 100) == b""
    assert framer.given_up == 1
