"""Parts that need no host: parsers of recorded texts, process identity, waiting, the bundle, the shell script."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest

from runtime import bundle, gpus, memory, process, record, request, status
from runtime.contract import Refused
from tests.runtime.host import Host, wait_for

PACKAGE = Path(bundle.__file__).parent
TOOLS = Path(sys.executable).parent
# memory.events of a cgroup v2, memory.oom_control of a v1 (Documentation/admin-guide/cgroup-v2.rst and cgroup-v1).
EVENTS = "low 0\nhigh 12\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n"
OOM_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"


@pytest.mark.parametrize(("text", "count"), [(EVENTS, 2), (OOM_CONTROL, 7), ("low 0\noom 1\n", None), ("", None)])
def test_kill_counter_is_parsed(text: str, count: int | None) -> None:
    assert memory.parse(text) == count


def test_kill_counter_is_sought_where_the_process_lives() -> None:
    assert memory.candidates("0::/user.slice/session-3.scope\n") == [
        "/sys/fs/cgroup/user.slice/session-3.scope/memory.events",
        "/sys/fs/cgroup/memory.events",
    ]
    assert memory.candidates("5:cpu,cpuacct:/a\n4:memory:/job_7\n0::/\n") == [
        "/sys/fs/cgroup/memory/job_7/memory.oom_control",
        "/sys/fs/cgroup/memory/memory.oom_control",
        "/sys/fs/cgroup/memory.events",
        "/sys/fs/cgroup/memory.events",
    ]


# The format of `nvidia-smi --query-gpu=index,uuid,name,memory.total,memory.used --format=csv,noheader,nounits`.
GPUS = """0, GPU-aa, NVIDIA H100 80GB HBM3, 81559, 4
1, GPU-bb, NVIDIA H100 80GB HBM3, 81559, 30000
2, GPU-cc, NVIDIA H100 80GB HBM3, 81559, 512
"""


def test_gpus_and_their_processes_are_joined() -> None:
    found = gpus.combine(GPUS, "GPU-bb, 20000\nGPU-bb, 12000\nGPU-cc, [N/A]\n")
    assert [(gpu["index"], gpu["used_mib"], gpu["processes"]) for gpu in found] == [
        (0, 4, 0),
        (1, 32000, 2),
        (2, 512, 1),
    ]
    assert found[0] == {
        "index": 0,
        "uuid": "GPU-aa",
        "name": "NVIDIA H100 80GB HBM3",
        "memory_total_mib": 81559,
        "used_mib": 4,
        "processes": 0,
    }


def test_gpu_without_a_memory_figure_is_kept() -> None:
    [gpu] = gpus.combine("0, GPU-aa, NVIDIA GB10, [N/A], [N/A]\n", "No running processes found\n")
    assert (gpu["memory_total_mib"], gpu["used_mib"]) == (None, 0)


def smi(directory: Path, text: str) -> str:
    script = directory / "nvidia-smi"
    script.write_text("#!/bin/sh\n" + text)
    script.chmod(0o755)
    return str(script)


def test_absent_nvidia_smi_is_no_error(tmp_path: Path) -> None:
    assert gpus.query(str(tmp_path / "nvidia-smi")) == (None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "exit code 18: Failed to init"),
        ("echo surprise", "surprise"),
        ("kill -SEGV $$", "exit code -11"),
    ],
)
def test_broken_nvidia_smi_is_an_error_with_its_words(tmp_path: Path, text: str, words: str) -> None:
    found, error = gpus.query(smi(tmp_path, text))
    assert found is None
    assert error is not None
    assert words in error


def test_hanging_nvidia_smi_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "TIMEOUT_S", 0.2)
    found, error = gpus.query(smi(tmp_path, "exec sleep 600"))
    assert found is None
    assert "no answer" in str(error)


def test_probe_reports_the_gpus(host: Host) -> None:
    tools = host.base / "tools"
    tools.mkdir()
    smi(tools, f'case $1 in --query-gpu=*) printf "{GPUS}";; *) echo "GPU-aa, 100";; esac\n'.replace("\n1,", "\\n1,"))
    host.environ["PATH"] = f"{tools}:{host.environ['PATH']}"
    closing = host.observe(probe=True)[""]
    assert closing["gpu_error"] is None
    assert [gpu["used_mib"] for gpu in closing["gpus"]] == [100, 30000, 512]


def test_identity_holds_for_one_process_of_one_boot_only() -> None:
    boot = process.boot_id()
    child = subprocess.Popen(["sleep", "60"])
    identity = {"pid": child.pid, "start": process.start_of(child.pid), "boot_id": boot}
    assert process.is_alive(identity, boot)
    assert not process.is_alive({**identity, "start": "1"}, boot)
    assert not process.is_alive(identity, "another boot")
    assert not process.is_alive(None, boot)
    child.kill()
    wait_for(lambda: not process.is_alive(identity, boot))  # a zombie until it is waited for
    assert process.look(child.pid) is not None
    child.wait()
    assert process.look(child.pid) is None


@pytest.mark.parametrize("proc", [True, False], ids=["proc", "ps"])
def test_sessions_and_descendants_are_found(proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "HAVE_PROC", proc)
    leader = subprocess.Popen(["sh", "-c", "sleep 60 & (setsid sleep 61) & wait"], start_new_session=True)
    try:
        start = process.start_of(leader.pid)
        assert start
        wait_for(lambda: [one for one in process.descendants(leader.pid, process.table()) if one.sid != leader.pid])
        table = process.table()
        members = {one.pid for one in process.session(leader.pid, start, table)}
        below = {one.pid for one in process.descendants(leader.pid, table)}
        assert leader.pid in members
        assert len(members & below) == 1, "the one that stayed"
        assert len(below - members) == 1, "the one that left"
        assert process.session(leader.pid, "another start", table) == []
    finally:
        process.send((one.pid for one in process.descendants(leader.pid, process.table())), signal.SIGKILL)
        leader.kill()
        leader.wait()


def test_name_with_blanks_and_parentheses_does_not_shift_the_columns(tmp_path: Path) -> None:
    program = tmp_path / ") S 1 (x"
    shutil.copy(shutil.which("sleep") or "", program)
    child = subprocess.Popen([str(program), "60"])
    try:
        found = wait_for(lambda: process.look(child.pid))
        assert found.ppid == os.getpid()
    finally:
        child.kill()
        child.wait()


WAIT = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from runtime import signals
signals.block()
wait = signals.waiter(portable=sys.argv[2] == "portable")
print(wait(0.01), flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print(wait(10), flush=True)
if os.fork() == 0:
    os._exit(0)
print(wait(10), wait(0.01), flush=True)
"""


@pytest.mark.parametrize("way", ["sigtimedwait", "portable"])
def test_waiting_ends_with_the_signal_or_the_time(way: str) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", WAIT, str(PACKAGE.parent), way], capture_output=True, timeout=60, check=True
    )
    assert done.stdout.split() == [b"None", b"15", b"17", b"None"]


def test_whole_run_works_without_sigtimedwait_proc_and_subreaper(host: Host) -> None:
    """As on a system that offers none of them."""
    script = host.base / "poor.py"
    script.write_text(
        "import sys\nsys.path.insert(0, sys.argv[1])\nimport signal\ndel signal.sigtimedwait\n"
        "from runtime import process\nprocess.HAVE_PROC = False\nprocess.subreaper = lambda: lambda: False\n"
        "import runtime.__main__\nraise SystemExit(runtime.__main__.main(['launch']))\n"
    )
    first, second = host.run("a", shell="echo up; exit 3"), host.run("b", shell="sleep 600 & echo up; wait")
    document = {"version": 1, "runs": [first, second]}
    subprocess.run(
        [sys.executable, "-I", "-S", str(script), str(host.bundle)],
        input=json.dumps(document).encode(),
        env=host.environ,
        timeout=60,
        check=True,
    )
    assert host.wait_final(first)["exit_code"] == 3
    host.wait_log(second, "up")
    started = json.loads((Path(second["status_dir"]) / "started").read_text())
    os.kill(started["pid"], signal.SIGTERM)
    assert host.wait_final(second)["status"] == "preempted"


def test_first_to_write_has_one_winner(tmp_path: Path) -> None:
    path = str(tmp_path / "started")
    assert status.first_to_write(path, {"a": 1})
    assert not status.first_to_write(path, {"a": 2})
    assert status.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["started"]


def test_first_to_write_has_one_winner_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_arguments: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_first_to_write_has_one_winner(tmp_path)


def test_final_record_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"seq": 0, "status": "running", "progress": {}, "checkpoint": {}}
    status.replace_json(str(tmp_path / "metadata.json"), fields)

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        record.Record(str(tmp_path), dict(fields)).finish(record.Ending("completed", None, ""))
    assert status.read_json(str(tmp_path / "metadata.json")) == fields
    assert os.listdir(tmp_path) == ["metadata.json"]


def test_text_that_no_program_can_be_given_is_found_in_any_spelling() -> None:
    for text in (b'"\\u0000"', b'"\\uD800"', b'"\\udfff"'):
        assert request.read_document(b'{"version": 1, "x": ' + text + b"}")["doubtful"]
    assert not request.read_document(b'{"version": 1, "x": "\\u00e9"}')["doubtful"]


def test_run_must_be_an_object() -> None:
    with pytest.raises(Refused, match="JSON object"):
        request.check_run([])


def test_bundle_is_the_same_bytes_every_time() -> None:
    first = bundle.bundle_tar()
    time.sleep(0)
    assert first == bundle.bundle_tar()
    with tarfile.open(fileobj=BytesIO(first)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == sorted(bundle.bundle_files())
        assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
    assert {"bootstrap.sh", "__main__.py", "runtime/__init__.py", "runtime/api.py"} <= set(bundle.bundle_files())
    assert len(bundle.bundle_digest()) == 64


def test_bundle_imports_the_standard_library_only() -> None:
    names: set[str] = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"runtime"}


@pytest.mark.skipif(not (TOOLS / "vermin").exists(), reason="needs vermin")
def test_node_side_stays_within_python_3_8() -> None:
    done = subprocess.run(
        [str(TOOLS / "vermin"), "-t=3.8-", "--no-tips", "--eval-annotations", "--violations", str(PACKAGE)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.skipif(not (TOOLS / "shellcheck").exists(), reason="needs shellcheck")
def test_bootstrap_is_clean_for_shellcheck() -> None:
    subprocess.run([str(TOOLS / "shellcheck"), "-s", "sh", str(PACKAGE / "bootstrap.sh")], check=True)


def call(host: Host, environ: dict[str, str], shell: str = "sh") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [shutil.which(shell) or shell, str(host.bundle / "bootstrap.sh"), "observe"],
        input=b'{"version": 1}',
        capture_output=True,
        env=environ,
        check=False,
    )


def interpreter(directory: Path, name: str, text: str) -> Path:
    """A stand-in for a Python, in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def only(host: Host, *programs: str) -> str:
    """A PATH with these programs and nothing else."""
    directory = host.base / "only"
    directory.mkdir(exist_ok=True)
    for program in programs:
        (directory / program).symlink_to(shutil.which(program) or program)
    return str(directory)


def test_no_python_is_exit_code_91_with_a_sentence(host: Host) -> None:
    done = call(host, {"PATH": only(host, "uname"), "HOME": str(host.base)})
    assert done.returncode == 91
    assert b"No Python 3.8 or newer on" in done.stderr
    assert b"RECONCILER_PYTHON" in done.stderr


def test_python_that_is_too_old_hands_over_to_the_next(host: Host) -> None:
    """A stand-in that does what the bundle's first lines do under 3.6; the real one is below."""
    path = only(host, "uname", "env")
    again = f'exec /bin/sh "{host.bundle}/bootstrap.sh" "$6"\n'
    interpreter(Path(path), "python3", f"echo old >> {host.base}/order\n{again}")
    interpreter(Path(path), "python3.12", f'echo new >> {host.base}/order\nexec {sys.executable} "$@"\n')
    done = call(host, {"PATH": path, "HOME": str(host.base)})
    assert b'"done":true' in done.stdout, done.stderr
    assert (host.base / "order").read_text() == "old\nnew\n"


def test_python_managed_by_uv_is_found(host: Host) -> None:
    directory = host.base / ".local/share/uv/python/cpython-3.11.9-linux-x86_64-gnu/bin"
    interpreter(directory, "python3", f'exec {sys.executable} "$@"\n')
    assert b'"done":true' in call(host, {"PATH": only(host, "uname"), "HOME": str(host.base)}).stdout


def test_shim_that_stands_for_nothing_is_passed_over(host: Host) -> None:
    shims = host.base / "shims"
    interpreter(shims, "python3", "echo 'no version is set' >&2; exit 127\n")
    path = only(host, "uname")
    interpreter(Path(path), "python3.11", f'exec {sys.executable} "$@"\n')
    assert b'"done":true' in call(host, {"PATH": f"{shims}:{path}", "HOME": str(host.base)}).stdout


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_bootstrap_runs_in_any_posix_shell(host: Host, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    command = [shell, "sh"] if shell == "busybox" else [shell]
    done = subprocess.run(
        [*command, str(host.bundle / "bootstrap.sh"), "observe"],
        input=b'{"version": 1}',
        capture_output=True,
        env=host.environ,
        check=True,
    )
    assert b'"done":true' in done.stdout


def versions() -> list[str]:
    """Interpreters of other versions that this machine happens to have."""
    found = {}
    for minor in (6, 8, 9, 13):
        for base in (
            *os.environ.get("PATH", "").split(":"),
            *(str(p) for p in Path.home().glob(".pyenv/versions/*/bin")),
        ):
            path = Path(base) / f"python3.{minor}"
            if path.is_file() and "/shims" not in base:
                found[minor] = str(path)
    return [found[minor] for minor in sorted(found)]


@pytest.mark.parametrize("python", versions(), ids=lambda path: Path(path).name)
def test_launch_works_under_every_python_at_hand(host: Host, python: str) -> None:
    host.environ["RECONCILER_PYTHON"] = python  # 3.6 hands over by the bundle's own first lines
    run = host.run(shell="echo hello", setup=["true"])
    host.start(run)
    assert host.wait_final(run)["status"] == "completed"
    assert host.log(run) == "hello\n"
