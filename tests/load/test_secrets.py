from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from reconciler.core.errors import SecretError
from reconciler.core.job import SecretRef
from reconciler.core.secret import Secret
from reconciler.load.secrets import VALUE_MAX_BYTES, Resolver


@pytest.fixture
def resolver(tmp_path: Path) -> Resolver:
    (tmp_path / "home").mkdir()
    return Resolver(
        tmp_path, tmp_path / "home", {"KEY": "v'al $(x)", "PATH": os.environ["PATH"], "EMPTY": ""}, deadline_s=10.0
    )


def python(code: str) -> SecretRef:
    return SecretRef("command", (sys.executable, "-c", code))


def test_a_value_written_out_is_itself(resolver: Resolver) -> None:
    assert resolver.resolve("X", Secret("v")).reveal() == "v"


def test_variables_files_and_commands_are_read(resolver: Resolver) -> None:
    (resolver.base / "here").write_bytes("päss\r\n".encode())
    (resolver.home / "there").write_text("two\nlines\n")
    assert resolver.resolve("X", SecretRef("env", "KEY")).reveal() == "v'al $(x)"
    assert resolver.resolve("X", SecretRef("file", "here")).reveal() == "päss"
    assert resolver.resolve("X", SecretRef("file", "~/there")).reveal() == "two\nlines"
    assert resolver.resolve("X", python("import os; print(os.environ['KEY'])")).reveal() == "v'al $(x)"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (SecretRef("env", "GONE"), "Secret X: the variable GONE is not set"),
        (SecretRef("env", "EMPTY"), "is empty"),
        (SecretRef("file", "gone"), "the file gone cannot be read: No such file"),
        (SecretRef("file", "."), "cannot be read: Is a directory"),
        (SecretRef("command", ("no-such-program",)), "no-such-program cannot be started"),
        (SecretRef("command", ("a\0b",)), "cannot be started"),
        (python("print('hunter2'); raise SystemExit(3)"), "failed with exit code 3"),
        (python("pass"), "is empty"),
        (python("print('a\\0hunter2')"), "NUL"),
        (python("import sys; sys.stdout.buffer.write(b'hunter2\\xff')"), "not UTF-8"),
        (python("while True: print('hunter2' * 1000)"), f"longer than {VALUE_MAX_BYTES}"),
        (SecretRef("kubernetes", ("n", "k")), "only read by the cluster itself"),
    ],
)
def test_what_cannot_be_resolved_says_why_and_shows_no_value(
    resolver: Resolver, reference: SecretRef, message: str
) -> None:
    with pytest.raises(SecretError) as raised:
        resolver.resolve("X", reference)
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    marker = tmp_path / "child"
    slow = Resolver(tmp_path, tmp_path, dict(os.environ), deadline_s=1.5)
    code = f"import os, time\npid = os.fork()\nif pid: open({str(marker)!r}, 'w').write(str(pid))\ntime.sleep(60)\n"
    started = time.monotonic()
    with pytest.raises(SecretError, match=r"did not end within 1\.5 s"):
        slow.resolve("X", python(code))
    assert time.monotonic() - started < 10
    child = int(marker.read_text())
    until = time.monotonic() + 10
    while (
        Path(f"/proc/{child}").exists()
        and "Z" not in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    ):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_command_gets_no_input(resolver: Resolver) -> None:
    assert resolver.resolve("X", python("import sys; print(repr(sys.stdin.read()))")).reveal() == "''"
