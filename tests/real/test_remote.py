"""The same road over real sshd: two machines of the lab, their faults, and both ways to reach them."""

from __future__ import annotations

import os
import pwd
import time
from pathlib import Path

import pytest

from tests.lab.sshd import Lab, lab
from tests.real.conftest import Site, lab_inventory, processes

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("ssh")]


def test_a_job_runs_on_a_plain_ssh_host_with_its_code(remote: Site, ssh_lab: Lab):
    (remote.repo / "code.sh").write_text("echo from $LAB_HOST; cat data/x\n")
    (remote.repo / "data").mkdir()
    (remote.repo / "data" / "x").write_text("payload\n")
    remote.job("t", ["sh", "code.sh"], source={"ref": "HEAD"}, request={"hosts": ["node2"]})
    remote.commit()
    said = remote("apply", "--yes", "--wait")
    assert said.code == 0, said
    assert "payload\n" in remote("logs", "t").out
    assert remote.status()["t"]["host"] == "node2"


def test_jobs_outlive_the_session_and_are_ended_with_all_their_children(remote: Site):
    remote.job("t", ["sh", "-c", "sleep 401 & setsid sleep 401 & sleep 401"])
    remote.commit()
    assert remote("apply", "--yes").code == 0
    remote.until(lambda jobs: jobs["t"]["phase"] == "Running" and len(processes("\0" + "401")) == 3)
    remote("cancel", "t")
    remote.until(lambda jobs: jobs["t"]["phase"] == "Cancelled", apply=True)
    assert not processes("\0" + "401")


def test_a_program_that_ignores_term_is_killed_after_its_grace(remote: Site):
    remote.job("t", ["sh", "-c", "trap '' TERM; while :; do sleep 402; done"], grace="1s")
    remote.commit()
    remote("apply", "--yes")
    remote.until(lambda jobs: jobs["t"]["phase"] == "Running" and processes("\0" + "402") != [])
    remote("cancel", "t")
    remote.until(lambda jobs: jobs["t"]["phase"] == "Cancelled", apply=True)
    assert not processes("\0" + "402")


def test_an_unreachable_host_holds_its_job_and_the_others_go_on(remote: Site, ssh_lab: Lab):
    remote.job("far", ["sleep", "403"], request={"hosts": ["node1"]})
    remote.commit()
    assert remote("apply", "--yes").code == 0
    run_id = remote.status()["far"]["run_id"]
    host = ssh_lab["node1"]
    host.freeze()
    try:
        remote.job("near", ["true"], request={"hosts": ["node2"]})
        remote.commit()
        said = remote("apply", "--yes")
        assert said.code == 4
        assert "node1" in said.out
        found = remote.until(lambda jobs: jobs["near"]["phase"] == "Succeeded", apply=True)
        assert found["far"]["phase"] == "Unknown"
    finally:
        host.thaw()
    found = remote.until(lambda jobs: jobs["far"]["phase"] == "Running", apply=True)
    assert found["far"]["run_id"] == run_id
    remote("cancel", "far")
    remote.until(lambda jobs: jobs["far"]["phase"] == "Cancelled", apply=True)


def test_a_rebooted_host_loses_its_run_which_is_requeued(remote: Site, ssh_lab: Lab):
    if not ssh_lab.namespaces:
        pytest.skip("a host of the lab has a boot id of its own only with namespaces (root on Linux)")
    mark = f"{ssh_lab['node1'].root}/{remote.root.name}.second"
    remote.job("t", ["sh", "-c", f"[ -f {mark} ] || {{ touch {mark}; sleep 404; }}"], request={"hosts": ["node1"]})
    remote.commit()
    remote("apply", "--yes")
    remote.until(lambda jobs: jobs["t"]["phase"] == "Running" and Path(mark).exists())
    ssh_lab["node1"].stop()
    ssh_lab["node1"].start()
    said = remote("apply", "--yes", "--wait")
    assert said.code == 0, said
    assert "was restarted" in remote("history", "t").out
    assert remote.status()["t"]["attempt"] == 2


def test_an_unknown_host_key_is_refused_with_the_way_to_accept_it(remote: Site, ssh_lab: Lab):
    ssh_lab["node2"].rekey()
    try:
        remote.job("t", ["true"], request={"hosts": ["node2"]})
        remote.commit()
        said = remote("apply", "--yes", "--assume-empty", "node2")
        assert said.code == 4
        assert "key" in said.out
        assert "started" not in said.out
    finally:
        ssh_lab.trust()
    assert remote("apply", "--yes", "--wait").code == 0


def test_a_connection_cut_right_after_the_launch_leaves_one_process_that_is_adopted(remote: Site, ssh_lab: Lab):
    """The node starts the run and its answer never comes: sshd is cut while the launch waits for its last line."""
    host = ssh_lab["node1"]
    remote.job("t", ["sleep", "405"], request={"hosts": ["node1"]})
    remote.commit()
    process = remote.start("apply", "--yes")
    deadline = time.monotonic() + 30
    while not processes("\0" + "405") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    host.cut()
    process.communicate(timeout=60)
    found = remote.until(lambda jobs: jobs["t"]["phase"] == "Running", apply=True)
    assert found["t"]["attempt"] == 1
    assert len(processes("\0" + "405")) == 1
    remote("cancel", "t")
    remote.until(lambda jobs: jobs["t"]["phase"] == "Cancelled", apply=True)


def test_a_transfer_cut_in_the_middle_leaves_nothing_believed_and_is_made_again(remote: Site, ssh_lab: Lab):
    host = ssh_lab["node1"]
    (remote.repo / "big").write_bytes(os.urandom(60 << 20))
    remote.job("t", ["sh", "-c", "wc -c < big"], source={"ref": "HEAD"}, request={"hosts": ["node1"]})
    remote.commit()
    process = remote.start("apply", "--yes")
    objects = host.root / remote.root.name / "w" / ".dispatch" / "objects"
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        if any(path.stat().st_size > 1 << 20 for path in objects.glob("*") if path.exists()):
            host.cut()
            break
        time.sleep(0.002)
    process.communicate(timeout=60)
    assert not list(objects.glob("*.tar.gz")) or process.returncode == 0
    said = remote("apply", "--yes", "--wait")
    assert said.code == 0, said
    assert remote("logs", "t").out.split() == [str(60 << 20)]


def test_a_full_disk_on_the_node_is_said_and_nothing_is_started(empty_site: Site):
    with lab("small") as made:
        if not made.namespaces:
            pytest.skip("a small file system of its own needs namespaces (root on Linux)")
        host = made["small"]
        host.stop()
        host.home_size = "6m"
        host.start()
        site = empty_site
        site.env = {"RECONCILER_SSH_CONFIG": str(made.ssh_config)}
        inventory = lab_inventory(made, "small")
        home = pwd.getpwuid(os.getuid()).pw_dir  # that of the host, not the one of the tests
        inventory["clusters"]["small"] = {"root": f"{home}/c", "work": f"{home}/w"}
        site.make(inventory)
        (site.repo / "big").write_bytes(os.urandom(12 << 20))
        site.job("t", ["sleep", "406"], source={"ref": "HEAD"})
        site.commit()
        said = site("apply", "--yes")
        assert said.code == 4
        assert "started" not in said.out
        assert "space" in said.err.lower(), said
        assert not processes("\0" + "406")


def test_a_tree_is_sent_once_for_many_jobs(remote: Site, ssh_lab: Lab):
    (remote.repo / "x").write_bytes(os.urandom(1 << 20))
    for n in range(10):
        remote.job(f"j{n}", ["test", "-f", "x"], source={"ref": "HEAD"}, request={"hosts": ["node2"]})
    remote.commit()
    objects = ssh_lab["node2"].root / remote.root.name / "w" / ".dispatch" / "objects"
    before = set(objects.glob("*"))
    assert remote("apply", "--yes", "--wait").code == 0
    assert len(set(objects.glob("*")) - before) == 1


@pytest.mark.parametrize("transport", ["fabric", "openssh"])
def test_both_ways_to_reach_a_host_run_a_job_with_hostile_text(empty_site: Site, ssh_lab: Lab, transport: str):
    site = empty_site
    site.env = {"RECONCILER_SSH_CONFIG": str(ssh_lab.ssh_config)}
    site.make(lab_inventory(ssh_lab, "node1", space=site.root.name, transport=transport))
    text = 'it\'s "x"\n$(touch /tmp/owned) \\ ü'
    site.job("t", ["printf", "%s", text])
    site.commit()
    said = site("apply", "--yes", "--wait")
    assert said.code == 0, said
    assert site("logs", "t").out == text


def test_gpus_are_pinned_and_never_given_twice(empty_site: Site, ssh_lab: Lab):
    """nvidia-smi is simulated here by a script that prints four idle H100 in its output format."""
    site = empty_site
    host = ssh_lab["node1"]
    tool = host.root / "bin" / "nvidia-smi"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(
        '#!/bin/sh\ncase "$*" in *--query-gpu*) for n in 0 1 2 3; do '
        'echo "$n, GPU-$n, NVIDIA H100 80GB HBM3, 81559, 4"; done;; esac\n'
    )
    tool.chmod(0o755)
    inventory = lab_inventory(
        ssh_lab, "node1", space=site.root.name, chips={"h100": 4}, env={"PATH": f"{tool.parent}:/usr/bin:/bin"}
    )
    site.env = {"RECONCILER_SSH_CONFIG": str(ssh_lab.ssh_config)}
    site.make(inventory)
    link = Path("/usr/local/bin/nvidia-smi")
    if link.exists() or os.getuid() != 0:
        pytest.skip("needs a machine without nvidia-smi of its own, and root to put the simulated one there")
    link.symlink_to(tool)
    try:
        for n in range(3):
            site.job(
                f"g{n}", ["sh", "-c", "echo $CUDA_VISIBLE_DEVICES; sleep 407"], request={"chip": "h100", "min_chips": 2}
            )
        site.commit()
        site("apply", "--yes")
        found = site.until(lambda jobs: sum(job["phase"] == "Running" for job in jobs.values()) == 2)
        waiting = [name for name, job in found.items() if job["phase"] == "Pending"]
        assert len(waiting) == 1
        assert "0 of 4 h100 free, 2 asked" in site("explain", waiting[0]).out
        given = [site("logs", name).out.split()[0] for name in found if name not in waiting]
        assert sorted(",".join(given).split(",")) == ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]
        for name in found:
            site("cancel", name)
        site.until(lambda jobs: all(job["phase"] == "Cancelled" for job in jobs.values()), apply=True)
    finally:
        link.unlink()


def test_doctor_names_a_host_that_is_down_and_what_to_do(remote: Site, ssh_lab: Lab):
    ssh_lab["node2"].stop()
    try:
        said = remote("doctor")
        assert said.code == 4
        assert "node2" in said.out
        assert "BAD connection" in said.out
    finally:
        ssh_lab["node2"].start()
    assert "BAD" not in remote("doctor").out
