"""N local `true` jobs with DPDispatcher (one job each, polls every second), to all seen complete. Arguments: directory, N."""

import os
import sys

from dpdispatcher import Machine, Resources, Submission, Task

directory, count = sys.argv[1], int(sys.argv[2])
local, remote = os.path.join(directory, "local"), os.path.join(directory, "remote")
os.makedirs(remote)
tasks = []
for index in range(count):
    name = f"t{index:05d}"
    os.makedirs(os.path.join(local, name))
    tasks.append(Task(command="true", task_work_path=name + "/", forward_files=[], backward_files=[]))
machine = Machine.load_from_dict(
    {"batch_type": "Shell", "context_type": "LazyLocalContext", "local_root": local, "remote_root": remote}
)
resources = Resources(number_node=1, cpu_per_node=1, gpu_per_node=0, queue_name="", group_size=1)
submission = Submission(work_base="./", machine=machine, resources=resources, task_list=tasks)
submission.run_submission(check_interval=1, clean=False)
