# SPDX-License-Identifier: Apache-2.0
"""Secrets do not get through, however they are spelled and wherever a stream is cut."""

from __future__ import annotations

import base64
import html
import itertools
import json
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner import log
from runner.redact import MASK, Redactor
from runner.run.runlog import RunLog

SECRET = "hunter2-ÄÖ/+\"'\\ <&> \n end"
# Of few letters, so that secrets begin like each other and like what stands between them.
letters = st.text('ab\u00e4"', max_size=12)
secrets = (letters | st.text(max_size=12)).filter(lambda text: text and text not in MASK and "\0" not in text)


def streamed(redactor: Redactor, pieces: list[str]) -> str:
    """Return what comes out of a stream that is fed these pieces."""
    stream = redactor.stream()
    return "".join([*map(stream.feed, pieces), stream.flush()])


def cut(text: str, places: list[int]) -> list[str]:
    """Return the text in pieces."""
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(edges)]


SPELLINGS = {
    "as it is": str,
    "json": lambda s: json.dumps(s)[1:-1],
    "json, utf-8": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "repr": lambda s: repr(s)[1:-1],
    "url": lambda s: quote(s, safe=""),
    "url path": quote,
    "html": html.escape,
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64, bare": lambda s: base64.b64encode(s.encode()).decode().rstrip("="),
    "base64 of urls": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_secret_is_masked_in_each_spelling(name: str) -> None:
    """Printing, quoting and encoding a value does not get it past the mask, wherever it is cut."""
    text = f"token={SPELLINGS[name](SECRET)}&more"
    redactor = Redactor([SECRET])

    assert redactor.text(text) == f"token={MASK}&more"
    for place in range(len(text)):
        assert streamed(redactor, [text[:place], text[place:]]) == f"token={MASK}&more"


def test_values_of_a_tree_are_masked_and_the_rest_is_kept() -> None:
    """JSON-like data keeps its shape, its names, its numbers and its other texts."""
    tree = {"a": ["x token y", 1, None, True, 2.5], "token": {"b": ("token",)}}

    assert Redactor(["token"]).tree(tree) == {"a": [f"x {MASK} y", 1, None, True, 2.5], "token": {"b": [MASK]}}


def test_no_secrets_or_empty_ones_mask_nothing() -> None:
    """An empty variable must not turn every text into masks."""
    for redactor in (Redactor(), Redactor([""])):
        assert not redactor
        assert redactor.text("text") == "text"
        assert streamed(redactor, ["te", "xt"]) == "text"


def test_the_longer_of_two_secrets_wins() -> None:
    """A secret that begins like another one is masked whole."""
    assert Redactor(["abc", "abcdef"]).text("abcdef abc") == f"{MASK} {MASK}"


@pytest.mark.parametrize("place", range(1, 6))
def test_the_longer_of_two_secrets_wins_in_pieces(place: int) -> None:
    """Also when a piece ends within it, no rest of it is left."""
    redactor = Redactor(["abc", "abcdef"])

    assert streamed(redactor, ["abcdef"[:place], "abcdef"[place:]]) == MASK


def test_what_cannot_become_a_secret_is_not_held_back() -> None:
    """Output appears as it is printed; only a possible beginning waits."""
    stream = Redactor(["token"]).stream()

    assert stream.feed("10 % done\r") == "10 % done\r"
    assert stream.feed("a to") == "a "
    assert stream.feed("day") == "today"
    assert stream.feed("tok") == ""
    assert stream.flush() == "tok"
    assert stream.flush() == ""


@given(
    st.lists(secrets, min_size=1, max_size=3),
    st.lists(letters | st.text(max_size=10), min_size=1, max_size=5),
    st.lists(st.integers(0, 200), max_size=10),
)
@example(["aab"], ["aaab"], [3])
@example(["abab"], ["ababab"], [2, 4])
def test_a_stream_cut_anywhere_leaks_nothing(values: list[str], between: list[str], places: list[int]) -> None:
    """Whatever the pieces, the whole text that comes out holds no secret."""
    text = values[0].join(between) + values[-1]

    out = streamed(Redactor(values), cut(text, places)).replace(MASK, "\0")

    assert not [value for value in values if value in out]


@given(st.lists(secrets, max_size=3), letters | st.text(max_size=60), st.lists(st.integers(0, 200), max_size=10))
def test_a_stream_comes_out_as_the_whole_text_would(values: list[str], text: str, places: list[int]) -> None:
    """Where the cuts are makes no difference, and nothing is lost or doubled."""
    redactor = Redactor(values)

    assert streamed(redactor, cut(text, places)) == redactor.text(text)


def test_colours_within_a_secret_do_not_get_it_into_the_log(tmp_path) -> None:
    """The log strips colours; what is left without them is masked as well."""
    with RunLog(tmp_path / "n.log", Redactor(["hunter2"])) as runlog:
        runlog.printed("hun\x1b[31mter2\x1b[0m\n")
        log.info("event", text="hunter2")

    content = (tmp_path / "n.log").read_text()
    assert "hunter2" not in content
    assert content.count(MASK) == 2
