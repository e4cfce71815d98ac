# SPDX-License-Identifier: Apache-2.0
"""Secrets do not get through, however they are spelled and wherever a stream is cut."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import textwrap
from collections.abc import Callable
from types import SimpleNamespace
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.core import log
from runner.core.errors import UsageError
from runner.core.redact import MASK, Redactor, check_secret, values_in
from runner.outputs.run_log import RunLog

SECRET = "hunter2-ÄÖ/+\"'\\ <&> \n end"
# Of few letters, so that secrets begin like each other and like what stands between them.
letters = st.text('ab\u00e4"', max_size=12)
secrets = (letters | st.text(max_size=12)).filter(lambda text: text and text not in MASK and "\0" not in text)


def streamed(redactor: Redactor, pieces: list[str]) -> str:
    """Return the output of a stream for these chunks."""
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


KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAA/+\n-----END KEY-----\n"
ESCAPES: dict[str, Callable[[str], str]] = {
    "json": json.dumps,
    "json, utf-8": lambda s: json.dumps(s, ensure_ascii=False),
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda s: repr(s.encode()),
    "html": html.escape,
    "url": lambda s: quote(s, safe=""),
    "form": quote_plus,
}


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_masks_a_secret_at_each_alignment(before: int, after: int, encode: Callable[[bytes], bytes]) -> None:
    """`user:TOKEN` of an HTTP header has the token at any offset; less than a byte remains at each end."""
    token = "s3cr3t-t0ken?>"
    code = encode(f"{'u' * before}{token}{'x' * after}".encode()).decode()

    shown = Redactor([token]).text(f"Authorization: Basic {code}\n")

    left = shown.removeprefix("Authorization: Basic ").removesuffix("\n")
    assert MASK in left
    start, end = left.split(MASK)
    assert code.startswith(start)
    assert code.endswith(end)
    assert len(start) <= before * 8 // 6 + 1
    assert len(end.rstrip("=")) <= (after * 8 + 4) // 6 + 1


@pytest.mark.parametrize(
    "how",
    {
        "as it is": lambda s: s,
        "CRLF": lambda s: s.replace("\n", "\r\n"),
        "indented": lambda s: textwrap.indent(s, "    | "),
        "numbered": lambda s: "".join(f"{n}\t{line}\n" for n, line in enumerate(s.splitlines(), 1)),
        "a list": lambda s: repr(s.splitlines()),
        "JSON in JSON": lambda s: json.dumps({"key": json.dumps({"key": s})}),
        "JSON three deep": lambda s: json.dumps(json.dumps({"key": json.dumps(s)})),
        "repr of repr": lambda s: repr(repr(s)),
        "base64": lambda s: base64.b64encode(s.encode()).decode(),
        "base64, CRLF": lambda s: base64.b64encode(s.replace("\n", "\r\n").encode()).decode(),
        "each line in base64": lambda s: " ".join(base64.b64encode(x.encode()).decode() for x in s.splitlines()),
        "base64 of base64": lambda s: base64.b64encode(b"user:" + base64.b64encode(s.encode())).decode(),
    }.items(),
    ids=lambda pair: pair[0],
)
@pytest.mark.parametrize("given", ["\n", "\r\n"])
def test_no_line_of_a_secret_is_left(how: tuple[str, Callable[[str], str]], given: str) -> None:
    """A key of many lines is masked line by line, in any context."""
    text = how[1](KEY)

    for shown in (
        Redactor([KEY.replace("\n", given)]).text(text),
        streamed(Redactor([KEY.replace("\n", given)]), list(text)),
    ):
        assert MASK in shown
        for line in KEY.splitlines():
            assert line not in shown
            assert base64.b64encode(line.encode()).decode().rstrip("=")[:-1] not in shown
        assert not re.search(r"\w{12}", shown.replace("BEGIN", "").replace("END", ""))


@settings(deadline=None)
@given(
    st.text("ab4Z\"'\\/<&%+ \u00e4", min_size=6, max_size=12).filter(lambda s: s == s.strip()),
    st.sampled_from(sorted(ESCAPES)),
    st.sampled_from(sorted(ESCAPES)),
)
def test_a_spelling_within_a_spelling_is_masked(secret: str, inner: str, outer: str) -> None:
    """JSON in JSON, the repr of a URL, HTML of JSON: nothing is left but the quotes around it."""
    text = ESCAPES[outer](ESCAPES[inner](f"Q{secret}Q"))

    assert Redactor([secret]).text(text).split("Q")[1] == MASK, text


def test_overlapping_secrets_leave_nothing_of_each_other() -> None:
    """A short secret that overlaps the start of a long one does not expose the rest of it."""
    redactor = Redactor(["user", "ersecret-of-many-characters"])

    for text in ("usersecret-of-many-characters", "a usersecret-of-many-characters b"):
        assert redactor.text(text) == text.replace("usersecret-of-many-characters", MASK)
        assert streamed(redactor, list(text)) == redactor.text(text)


def test_values_of_a_mounted_secret_are_read_as_kubernetes_lays_them_out(tmp_path) -> None:
    """A link for each key into a folder of one version; a key may start with a dot, values too short are none."""
    data = tmp_path / "..2026_01_01"
    data.mkdir()
    (tmp_path / "..data").symlink_to(data.name)
    for key, value in {
        "token": b"hunter2\n",
        ".dockerconfigjson": b'{"auths": {}}',
        "pin": b"123",
        "raw": b"\xff\xfe\xfd\xfc",
    }.items():
        (data / key).write_bytes(value)
        (tmp_path / key).symlink_to(f"..data/{key}")

    values = values_in(tmp_path)

    assert {"hunter2\n", '{"auths": {}}'} < set(values)
    assert len(values) == 3
    assert values_in(tmp_path / "missing") == values_in(None) == ()
    code = base64.b64encode(b"u:\xff\xfe\xfd\xfc").decode()
    assert Redactor(values).text(f"{code} 123") == f"{code[:3]}{MASK} 123"


def test_values_of_a_tree_are_masked_and_the_rest_is_kept() -> None:
    """JSON-like data keeps its shape, its names, its numbers and its other texts."""
    tree = {"a": ["x token y", 1, None, True, 2.5], "token": {"b": ("token",)}}

    assert Redactor(["token"]).tree(tree) == {"a": [f"x {MASK} y", 1, None, True, 2.5], "token": {"b": [MASK]}}


def test_keys_are_masked_where_they_are_texts() -> None:
    """Keys of records are field names and stay; other keys may be secrets."""
    tree = {"token": [{"a token": "token"}], 5: "x"}

    assert Redactor(["token"]).tree(tree, keys=True) == {MASK: [{f"a {MASK}": MASK}], 5: "x"}


@pytest.mark.parametrize("value", ["hunter2\n", "hunter2\r\n", " hunter2 ", "hunter2\n\n"])
def test_blanks_at_the_ends_of_a_secret_are_no_part_of_it(value: str) -> None:
    """A secret from a file ends in a newline; a program that reads it strips that, or encodes it with the rest."""
    redactor = Redactor([value])
    encoded = [base64.b64encode(text.encode()).decode() for text in (value, "hunter2")]

    assert "hunter2" not in redactor.text(f"{value} hunter2 'hunter2'")
    assert redactor.text(" ".join(encoded)) == f"{MASK} {MASK}"


@pytest.mark.parametrize("between", ["\x1b[31m", "\x1b[1;31m\x1b[0m", "\b", "\x00", "\x1b]0;title\x07"])
def test_what_is_not_seen_does_not_hide_a_secret(between: str) -> None:
    """A page drops colours and controls, which joins the surrounding text."""
    redactor = Redactor(["hunter2"])

    assert redactor.tree([f"a hun{between}ter2\n"]) == [f"a {MASK}\n"]
    assert redactor.tree([f"a {between}b\n"]) == [f"a {between}b\n"]


def test_colours_between_pieces_of_a_secret_do_not_get_it_into_the_log(tmp_path) -> None:
    """Nor do the messages that it comes in."""
    with RunLog(tmp_path / "n.log", Redactor(["hunter2"])) as runlog:
        for piece in ("hun", "\x1b[31m", "ter", "2", "hunt"):
            runlog.printed(piece)

    assert (tmp_path / "n.log").read_text() == f"{MASK}hunt"


def test_a_write_that_takes_a_part_goes_on_with_the_rest(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unbuffered files may do so on a disk that fills up."""
    with RunLog(tmp_path / "n.log", Redactor()) as runlog:
        stream = runlog._stream
        monkeypatch.setattr(
            runlog, "_stream", SimpleNamespace(write=lambda data: stream.write(data[:3]), close=stream.close)
        )
        runlog.printed("0123456789\n")

    assert (tmp_path / "n.log").read_text() == "0123456789\n"


def test_a_short_secret_is_refused_by_its_name() -> None:
    """The message does not hold the value."""
    assert check_secret("PIN", "1234") == "1234"
    with pytest.raises(UsageError, match="--secret-env PIN: a value of 3 characters") as caught:
        check_secret("PIN", "xyz\n")
    assert "xyz" not in str(caught.value)


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
    """The log strips colours; the remaining text is masked as well."""
    with RunLog(tmp_path / "n.log", Redactor(["hunter2"])) as runlog:
        runlog.printed("hun\x1b[31mter2\x1b[0m\n")
        log.info("event", text="hunter2")

    content = (tmp_path / "n.log").read_text()
    assert "hunter2" not in content
    assert content.count(MASK) == 2
