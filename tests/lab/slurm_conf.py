"""Configuration files of the Slurm clusters in slurm.py. Written for Slurm 22.05 (Debian 12); what is default is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GPUS = {"gh01": ("h100", 8), "gh02": ("h100", 8), "ga01": ("a100-sxm4-80gb", 4)}
CPU_NODES = ("cpu01", "cpu02")
NODES = (*GPUS, *CPU_NODES)
CONTROLLER = "ctl01"
PARTITIONS = ("gpu", "gpu-preempt", "gpu-cancel", "cpu")
ACCOUNTS = ("team-a", "team-b")
# Controller, accounting, database, then the nodes.
FIRST_NODE_PORT = 3
PORTS = FIRST_NODE_PORT + len(NODES)

# Times are short where a test would wait for them. Notes:
#   AuthInfo             cred_expire is also how long a requeued job waits before it may start again
#   config_overrides     nodes claim more than this machine has
#   NoInAddrAny          daemons listen at the address of their hostname, which is 127.0.0.1 wherever we start them
#   ReturnToService=1    a node set down by hand stays down, as in production
#   DefMemPerCPU         without it a job takes all memory of its nodes, and none is shared
SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.sock,cred_expire={cred_expire_s}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/nodes/%n/spool
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
MailProg=/bin/true
SlurmdParameters=config_overrides
GresTypes=gpu
{processes}
JobAcctGatherFrequency=task=1

ReturnToService=1
SlurmctldTimeout=30
SlurmdTimeout={slurmd_timeout_s}
KillWait={kill_wait_s}
MinJobAge={min_job_age_s}
JobRequeue=1

SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0,default_queue_depth=1000,bf_continue
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
MaxArraySize={max_array_size}
MaxJobCount=20000

PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PriorityType=priority/multifactor
PriorityWeightQOS=1000
PriorityWeightPartition=1000
{accounting}
{nodes}
PartitionName=DEFAULT Nodes={gpu_nodes} MaxTime=2-00:00:00 DefaultTime=1:00:00
PartitionName=gpu Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=gpu-preempt PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace_s}
PartitionName=gpu-cancel PriorityTier=1 PreemptMode=CANCEL GraceTime={grace_s}
PartitionName=cpu Nodes={cpu_nodes} MaxTime=1-00:00:00 DefaultTime=30:00 PriorityTier=5 PreemptMode=OFF
{more}
"""

# AccountingStoragePass is the path of munge's socket: clients and the controller would look in /run/munge.
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={root}/run/munge.sock
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES={tres}
AccountingStoreFlags=job_comment,job_env,job_script
"""
NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=slurm
StoragePass=lab
StorageLoc=slurm_acct
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
"""

# A job over its memory ends OUT_OF_MEMORY with cgroups, FAILED without.
CGROUP_PROCESSES = """\
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup"""
PLAIN_PROCESSES = """\
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill"""
CGROUP_CONF = """\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainCores=no
ConstrainDevices=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=no
AllowedRAMSpace=100
MinRAMSpace=16
"""

SQL = """\
create database slurm_acct;
create user slurm@'127.0.0.1' identified by 'lab';
grant all on slurm_acct.* to slurm@'127.0.0.1';
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a test may ask of a cluster."""

    accounting: bool = True
    cgroup: bool = False
    cluster: str = "lab"
    cpus: int = 32
    memory_mb: int = 16000
    grace_s: int = 0
    kill_wait_s: int = 3
    cred_expire_s: int = 5
    slurmd_timeout_s: int = 15
    min_job_age_s: int = 300
    max_array_size: int = 1001
    more: str = ""  # further lines of slurm.conf


def write(root: Path, first_port: int, user: str, options: Options) -> None:
    """Everything in root/etc, and the fake GPUs."""
    etc = root / "etc"
    names = {"root": root, "user": user, "cluster": options.cluster}
    ports = {"ctld_port": first_port, "dbd_port": first_port + 1, "db_port": first_port + 2}
    tres = ",".join(["gres/gpu", *sorted({f"gres/gpu:{model}" for model, _ in GPUS.values()})])
    (etc / "slurm.conf").write_text(
        SLURM_CONF.format(
            **names,
            **ports,
            **{
                key: getattr(options, key)
                for key in options.__dataclass_fields__
                if key not in {"cluster", "accounting"}
            },
            processes=CGROUP_PROCESSES if options.cgroup else PLAIN_PROCESSES,
            accounting=ACCOUNTING.format(root=root, tres=tres, **ports) if options.accounting else NO_ACCOUNTING,
            nodes="\n".join(_node(name, first_port + FIRST_NODE_PORT + i, options) for i, name in enumerate(NODES)),
            gpu_nodes=",".join(GPUS),
            cpu_nodes=",".join(CPU_NODES),
        )
    )
    (etc / "gres.conf").write_text("AutoDetect=off\n" + "".join(_fake_gpus(root, name) for name in GPUS))
    if options.cgroup:
        (etc / "cgroup.conf").write_text(CGROUP_CONF)
    if options.accounting:
        secret = etc / "slurmdbd.conf"
        secret.touch(mode=0o600)  # slurmdbd insists
        secret.write_text(SLURMDBD_CONF.format(**names, **ports))


def hosts(names: Sequence[str], present: str) -> str:
    """An /etc/hosts in which all machines of the cluster are this one."""
    return "".join(f"127.0.0.1 {name}\n" for name in ("localhost", *names)) + present


def accounts(options: Options, user: str) -> str:
    """Input of one sacctmgr: each start of it takes half a second."""
    lines = [f"add cluster {options.cluster}", "add qos high Priority=100", "add qos low Priority=1"]
    lines += [f"add account {name} Description={name} Organization=lab" for name in ACCOUNTS]
    lines += [f"add user {user} Account={','.join(ACCOUNTS)} DefaultAccount={ACCOUNTS[0]} QOS=normal,high,low"]
    # root is there from the start, with an account of its own.
    lines += [f"modify user where name={user} set DefaultAccount={ACCOUNTS[0]}"] if user == "root" else []
    return "\n".join(lines) + "\n"


def _node(name: str, port: int, options: Options) -> str:
    line = f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={options.cpus}"
    line += f" RealMemory={options.memory_mb} State=UNKNOWN"
    if name not in GPUS:
        return line + " Feature=cpu"
    model, count = GPUS[name]
    return line + f" Gres=gpu:{model}:{count} Feature={model.partition('-')[0]}"


def _fake_gpus(root: Path, name: str) -> str:
    """Slurm wants character devices, and counts and numbers GPUs by them; links to one will do."""
    model, count = GPUS[name]
    directory = root / "nodes" / name / "dev"
    directory.mkdir(parents=True)
    for number in range(count):
        (directory / f"nvidia{number}").symlink_to("/dev/null")
    return f"NodeName={name} Name=gpu Type={model} File={directory}/nvidia[0-{count - 1}]\n"
