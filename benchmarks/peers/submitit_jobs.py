"""N local `true` jobs with submitit's LocalExecutor, to all seen complete. Arguments: directory, N."""

import sys

import submitit

directory, count = sys.argv[1], int(sys.argv[2])
executor = submitit.LocalExecutor(folder=directory)
executor.update_parameters(timeout_min=10)
true = submitit.helpers.CommandFunction(["true"], verbose=False)
jobs = [executor.submit(true) for _ in range(count)]
for job in jobs:
    job.result()
