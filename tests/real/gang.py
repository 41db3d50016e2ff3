"""A program that is taken away in the middle of its first attempt, and tells where its second one begins."""

TRAIN = """
import os, pathlib, time
from runtime import api
rank, shared = os.environ["RECONCILER_NODE_RANK"], pathlib.Path(os.environ["SHARED"])
newest = api.resume()
if os.environ["RECONCILER_ATTEMPT"] == "2":
    start = int((pathlib.Path(newest) / "step").read_text())
    (shared / f"resumed-{rank}").write_text(f"{start} in attempt {os.environ['RECONCILER_ATTEMPT']}")
    raise SystemExit(0)
if rank == "0":
    with api.checkpoint(5) as path:
        (pathlib.Path(path) / "step").write_text("5")
    api.report(5, 10, loss=0.5)
(shared / f"began-{rank}").touch()
time.sleep(600)
"""
