from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.load import strict_yaml
from reconciler.load.rejections import FILE_MAX_BYTES
from reconciler.load.strict_yaml import DEPTH_MAX, Document, read


@pytest.fixture(params=["c", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs over libyaml and over the slower parser that stands in where it is missing."""
    if request.param == "python":
        monkeypatch.setattr(strict_yaml, "_LOADER", strict_yaml._PyLoader)
    return str(request.param)


def only(text: str | bytes) -> Document:
    documents = read(text.encode() if isinstance(text, str) else text, "f.yaml")
    assert len(documents) == 1
    return documents[0]


def told(text: str | bytes) -> list[str]:
    return [
        str(problem)
        for document in read(text.encode() if isinstance(text, str) else text, "f.yaml")
        for problem in document.problems
    ]


SURPRISES = {
    "1:30:00": 'write "1:30:00"',
    "190:20:30.15": 'write "190:20:30.15"',
    "no": 'write false, or "no"',
    "yes": 'write true, or "yes"',
    "on": 'write true, or "on"',
    "Off": 'write false, or "Off"',
    "True": 'write true, or "True"',
    "NULL": 'write null, or "NULL"',
    "~": 'write null, or "~"',
    "010": 'write 10, or "010"',
    "08": 'write 8, or "08"',
    "-007": 'or "-007"',
    "0o10": 'or "0o10"',
    "0x1F": 'or "0x1F"',
    "0b11": 'or "0b11"',
    "1_000": 'or "1_000"',
    "+1": 'or "+1"',
    ".5": 'or ".5"',
    "1.": 'or "1."',
    ".inf": 'write ".inf"',
    "-.INF": 'write "-.INF"',
    ".nan": 'write ".nan"',
    "2024-01-01": 'write "2024-01-01"',
    "2024-1-1 10:00:00": 'write "2024-1-1 10:00:00"',
    "2001-12-14t21:59:43.10-05:00": "as a date",
    "1e999": "larger than any number",
    "9223372036854775808": "64 bits",
    "=": 'write "="',
    "<<": 'write "<<"',
}


@pytest.mark.parametrize("text", SURPRISES)
def test_a_surprise_is_refused_with_its_line_and_what_to_write(parser: str, text: str) -> None:
    (message,) = told(f"a: 1\nb:\n  c: {text}\n")
    assert message.startswith("f.yaml:3: b.c: ")
    assert SURPRISES[text] in message


@pytest.mark.parametrize("text", SURPRISES)
def test_a_surprise_in_quotes_is_text(parser: str, text: str) -> None:
    assert only(f"a: \"{text}\"\nb: '{text}'").value == {"a": text, "b": text}


@pytest.mark.parametrize("text", [key for key in SURPRISES if key not in ("<<", "=")] + ["8", "1.5", "true", "null"])
def test_a_key_that_is_not_text_is_refused(parser: str, text: str) -> None:
    (message,) = told(f"{text}: 1\n")
    assert message.startswith("f.yaml:1: ")
    assert f'"{text}"' in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0", 0),
        ("1.50", 1.5),
        ("3e-4", 0.0003),
        ("1E5", 100000.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("", None),
        ("1.2.3", "1.2.3"),
        ("128G", "128G"),
        ("2-00:00:00", "2-00:00:00"),
        ("y", "y"),
        ("node-7", "node-7"),
        ("-", None),
        ("10.0.0.1:22", "10.0.0.1:22"),
        ("redis://:pw@host:6379/0", "redis://:pw@host:6379/0"),
    ],
)
def test_what_means_the_same_to_everybody_is_read(parser: str, text: str, value: Any) -> None:
    expected = [None] if text == "-" else value
    document = only(f"a: {text}\n" if text != "-" else "a:\n  -\n")
    assert (document.value, document.problems) == ({"a": expected}, ())


def test_a_key_written_twice_names_both_lines(parser: str) -> None:
    assert told("a: 1\nb: 2\na: 3\n") == ["f.yaml:3: 'a' is written twice: it stands already on line 1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: &b {a: 1}\nnext:\n  <<: *b\n", "f.yaml:3: next: Merge keys"),
        ("a: !!int 3", "f.yaml:1: a: The tag tag:yaml.org,2002:int is not read here"),
        ("a: !!python/object/apply:os.system [x]", "The tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("!x a: 1", "The tag !x"),
        ("? [a, b]\n: 1", "A list or mapping cannot be a key"),
        ('a: "\\0"', "f.yaml:1: a: A NUL character"),
        ("a:\n\t- b", "a tab cannot indent|'\\t'"),
        ("a: b: c", "the indentation is off"),
        ("a: 'x", "never closed"),
        ("a: @x", "put the text into double quotes"),
        ("a: *x", "starts with '*'"),
        ("a: &x [*x]", "stands inside the value that it names"),
        (b"a: \xff", "f.yaml:1: The byte 0xff is not UTF-8"),
        (b"a: 1\nb: \xc3\x28", "f.yaml:2: The byte 0xc3"),
        (b"\xef\xbb\xbfa: 1", "byte order mark"),
        ("a: 1".encode("utf-16"), "UTF-16"),
        (b"a: 1\nb: x\x00y", "f.yaml:2: The control character 0x00"),
        (b"a: x\x1by", "The control character 0x1b"),
        (b"a: 'x\ry'", "carriage return"),
        ("a: 'x\u2028y'", "U+2028"),
        ("a: 'x\x85y'", "U+0085"),
        (b"#" * (FILE_MAX_BYTES + 1), "too many"),
    ],
)
def test_text_that_is_refused_says_why(parser: str, text: str | bytes, message: str) -> None:
    messages = "\n".join(told(text))
    assert any(part in messages for part in message.split("|")), messages


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{a: " * 50_000, "- " * 100_000, "? " * 100_000, "a: " + "[" * 300 + "]" * 300]
)
def test_deep_nesting_is_refused_before_it_can_overflow_the_stack(parser: str, text: str) -> None:
    (message,) = told(text)
    assert f"deeper than {DEPTH_MAX} levels" in message


def test_nesting_up_to_the_limit_is_read(parser: str) -> None:
    assert told("[" * DEPTH_MAX + "]" * DEPTH_MAX) == []
    assert "deeper" in told("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1))[0]


def test_aliases_that_expand_to_gigabytes_are_refused(parser: str) -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x,x]"]
    for index in range(1, 10):
        name, before = "abcdefghij"[index], "abcdefghij"[index - 1]
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]")
    (message,) = told("\n".join(lines))
    assert "expand to more than" in message


def test_aliases_are_read_as_copies(parser: str) -> None:
    value = only("a: &x {b: [1]}\nc: *x\n").value
    assert value == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert isinstance(value, dict)
    assert value["a"] is not value["c"]


def test_a_document_that_is_no_yaml_does_not_hide_the_others(parser: str) -> None:
    documents = read(b"a: 1\n---\nb: [\n---\nc: 3\n--- # four\nd: {\n", "f.yaml")
    assert [document.value for document in documents] == [{"a": 1}, None, {"c": 3}, None]
    assert [document.parsed for document in documents] == [True, False, True, False]
    assert documents[2].line == 5
    assert documents[2].line_of(("c",)) == 5
    assert 6 <= documents[3].problems[0].line <= 7


def test_empty_documents_are_no_documents(parser: str) -> None:
    assert read(b"", "f") == []
    assert read(b"# only a comment\n---\n---\n", "f") == []


def test_lines_and_written_text_of_a_path(parser: str) -> None:
    document = only("a:\n  b:\n    - x\n    - c: 3.10\n")
    assert document.line_of(("a", "b", 1, "c")) == 4
    assert document.line_of(("a", "b", 9)) == 2
    assert document.line_of(("a", "nothing")) == 1
    assert document.written(("a", "b", 1, "c")) == "3.10"
    assert document.written(("a", "b")) is None
    assert document.written(("z",)) is None


HOSTILE = [
    "it's",
    'say "hi"',
    "$(reboot)",
    "`id`",
    "back\\slash",
    "a\nb\n",
    "héllo ☃ 🚀",
    " lead",
    "trail ",
    "#no",
    "a: b",
    "\t",
    "%s{}",
    "\x1b[31m",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_arrives_byte_identical(parser: str, text: str) -> None:
    assert only(json.dumps({"a": text, "b": [text], "k" + text: 1}, ensure_ascii=False)).value == {
        "a": text,
        "b": [text],
        "k" + text: 1,
    }


SCALARS = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text()


@given(
    st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20),
)
def test_json_is_read_as_itself_or_refused_with_a_problem(value: Any) -> None:
    (document,) = read(json.dumps({"value": value}, ensure_ascii=False).encode("utf-8", "replace"), "f")
    if not document.problems:
        assert document.value == {"value": value}
    else:  # NUL, C1 controls and line separators are the text that is refused
        text = json.dumps(value, ensure_ascii=False)
        assert "u0000" in text or any(not character.isprintable() for character in text)


@given(st.binary(max_size=300))
@example(b"%YAML 9.9\n---\na: 1")
@example(b"--- |\n---")
@example(b"- &a\n- *a")
@example(b"&a *a")
def test_no_bytes_raise_anything(data: bytes) -> None:
    for document in read(data, "f"):
        assert document.problems or document.parsed


@given(st.text(alphabet="ab:-[]{}&*|>'\"%@`#,?\n\t ~<=01.\\", max_size=80))
def test_no_yaml_like_text_raises_anything_and_both_parsers_agree(text: str) -> None:
    fast = read(text.encode(), "f")
    original = strict_yaml._LOADER
    try:
        strict_yaml._LOADER = strict_yaml._PyLoader
        slow = read(text.encode(), "f")
    finally:
        strict_yaml._LOADER = original
    if not any(document.problems for document in fast) and not any(document.problems for document in slow):
        assert [document.value for document in fast] == [document.value for document in slow]
