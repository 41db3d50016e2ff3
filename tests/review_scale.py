"""Measured, not a test: python tests/review_scale.py DIR JOBS"""

import resource, subprocess, sys, time
from pathlib import Path
from reconciler.core.memory import Ended, Launched, Launching
from reconciler.core.phase import Phase
from reconciler.store.git import GitStore
from reconciler.store.gitref import GitRef, REF
from tests.store.test_git import Remote, git
from tests.worlds import handle_of, job, run_of

where, count = Path(sys.argv[1]), int(sys.argv[2])
where.mkdir(parents=True, exist_ok=True)
remote = Remote(where)


def timed(what, call):
    t = time.monotonic()
    r = call()
    print(f"{what}: {time.monotonic() - t:.2f} s")
    return r


base = job()
from reconciler.core.names import JobKey
from dataclasses import replace

runs = [
    replace(run_of(base), job=JobKey("p", f"g{n % 50}", f"job-{n}"), run_id=f"p-g-job-{n}-abcdef12-1")
    for n in range(count)
]
first = remote.clone("first")
remote.clone("second")
a = GitStore(GitRef(first), actor="a")
timed("lock", a.lock)
timed("intents", lambda: a.append([(r.job, Launching(r, False)) for r in runs], commit="c", why="apply"))
timed(
    "results (memory only)",
    lambda: a.append([(r.job, Launched(r.run_id, handle_of(r))) for r in runs], commit="c", why="apply"),
)
timed("unlock", a.unlock)
timed("look, nothing new", a.newest)
b = GitStore(GitRef(remote.clone("second")), actor="b")
timed("look, fresh process with objects to fetch", b.newest)
b.memories()
c = GitStore(GitRef(remote.clone("second")), actor="c")
timed("look, fresh process, objects here", c.newest)
timed("lock", c.lock)
timed(
    "append one end",
    lambda: c.append(
        [
            (
                runs[0].job,
                Ended(runs[0].run_id, Phase.SUCCEEDED, None, 0, "x", requeue=False, lasted=True, not_before=0.0),
            )
        ],
        commit="c",
    ),
)
timed("unlock", c.unlock)
timed("look, one changed", a.newest)
print("max rss MiB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(subprocess.run(["git", "-C", str(first), "count-objects", "-vH"], capture_output=True, text=True).stdout)
# partial clone
subprocess.run(["git", "-C", str(remote.bare), "config", "uploadpack.allowFilter", "true"], check=True)
part = where / "partial"
subprocess.run(
    ["git", "clone", "-q", "--filter=blob:none", "-b", "main", f"file://{remote.bare}", str(part)], check=True
)
t = time.monotonic()
try:
    GitStore(GitRef(part), actor="p").newest()
    print(f"partial clone look: {time.monotonic() - t:.1f} s")
except Exception as e:
    print(f"partial clone look fails after {time.monotonic() - t:.1f} s: {type(e).__name__} {str(e)[:200]}")
