"""N local `true` jobs with PSI/J, to all seen complete. Arguments: directory, N."""

import sys

import psij

directory, count = sys.argv[1], int(sys.argv[2])
executor = psij.JobExecutor.get_instance("local")
jobs = []
for _ in range(count):
    job = psij.Job(psij.JobSpec(executable="/usr/bin/true", directory=directory))
    executor.submit(job)
    jobs.append(job)
for job in jobs:
    status = job.wait()
    assert status is not None
    assert status.state == psij.JobState.COMPLETED, status
