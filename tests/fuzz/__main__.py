"""Coverage-guided fuzzing of one target with atheris (`pip install atheris`; Linux, CPython 3.11):

    python -m tests.fuzz TARGET [--seconds 60]

What it finds is written to tests/fuzz/found/TARGET/, where test_fuzz.py tries it from then on: keep it with the mend.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

KEPT = Path(__file__).parent / "found"


def main() -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: pip install atheris (Linux, CPython 3.11)", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["reconciler", "runtime"]):
        from tests.fuzz.targets import TARGETS, corpus
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    given = parser.parse_args()
    target = TARGETS[given.target]

    def one(data: bytes) -> None:
        try:
            target(data)
        except Exception:
            folder = KEPT / given.target
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)
            print(f"found, and kept in {path}: {data[:400]!r}", file=sys.stderr)
            raise

    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(corpus(given.target)):
            (Path(folder) / str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], f"-max_total_time={given.seconds}", "-max_len=65536", folder], one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
