"""It simulates: how the emulated Slurm writes times, host lists, nodes, partitions and its configuration, as 22.05 does."""

from __future__ import annotations

import json
import os
import re
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECORDS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "records", "slurm-22.05", "answers.json")

_NODE = (
    "NodeName={name} Arch=x86_64 CoresPerSocket=1  CPUAlloc={cpus_used} CPUEfctv={cpus} CPUTot={cpus} CPULoad=0.13 "
    "AvailableFeatures={features} ActiveFeatures={features} Gres={gres} GresDrain=N/A GresUsed={gres_used} "
    "NodeAddr=127.0.0.1 NodeHostName=localhost Port={port} Version=22.05.8 OS=Linux 6.1.0   RealMemory={memory} "
    "AllocMem={memory_used} FreeMem=23416 Sockets={cpus} Boards=1 State={state} ThreadsPerCore=1 TmpDisk=0 Weight=1 "
    "Owner=N/A MCS_label=N/A Partitions={partitions}  BootTime={began} SlurmdStartTime={began} LastBusyTime={began} "
    "CfgTRES={tres} AllocTRES={tres_used} CapWatts=n/a CurrentWatts=0 AveWatts=0 ExtSensorsJoules=n/s ExtSensorsWatts=0 "
    "ExtSensorsTemp=n/s{reason}\n"
)
_PARTITION = (
    "PartitionName={name} AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default={default} QoS=N/A "
    "DefaultTime={time_default} DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO MaxNodes=UNLIMITED "
    "MaxTime={time_max} MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED Nodes={hosts} PriorityJobFactor=1 PriorityTier={tier} "
    "RootOnly=NO ReqResv=NO OverSubscribe=NO OverTimeLimit=NONE PreemptMode={preempt} State={state} TotalCPUs={cpus} "
    "TotalNodes={count} SelectTypeParameters=NONE JobDefaults=(null) DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED "
    "TRES={tres}\n"
)


def moment(at: float | None, nothing: str = "N/A") -> str:
    return nothing if at is None else time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at))


def limit(minutes: int | None, *, wide: bool = False) -> str:
    """`30:00`, `1:00:00`, `9-00:00:00` as squeue writes it; `00:30:00` with `wide`, as scontrol does."""
    if minutes is None:
        return "UNLIMITED"
    days, rest = divmod(minutes, 1440)
    hours, rest = divmod(rest, 60)
    if days:
        return f"{days}-{hours:02}:{rest:02}:00"
    if wide:
        return f"{hours:02}:{rest:02}:00"
    return f"{hours}:{rest:02}:00" if hours else f"{rest}:00"


def minutes_of(text: str) -> int | None:
    """A time as directives write it, in whole minutes, rounded up as Slurm does."""
    if text in ("UNLIMITED", "INFINITE"):
        return None
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    whole = int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
    return -(-whole // 60)


def compress(names: list[str]) -> str:
    """`gh[01-02],cpu01`; names that end in two digits."""
    heads: dict[str, list[str]] = {}
    for name in sorted(names):
        heads.setdefault(name[:-2], []).append(name[-2:])
    return ",".join(head + tails[0] if len(tails) == 1 else f"{head}[{spans(tails)}]" for head, tails in heads.items())


def expand(text: str) -> list[str]:
    names: list[str] = []
    for head, inside in re.findall(r"([^,\[\]]+)(?:\[([^\]]*)\])?", text):
        for span in inside.split(",") if inside else [""]:
            first, dash, last = span.partition("-")
            if dash:
                names += [f"{head}{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
            else:
                names.append(head + span)
    return names


def spans(numbers: list[str]) -> str:
    """`01-03,07` of numbers in ascending order."""
    parts: list[list[str]] = []
    for number in numbers:
        if parts and int(number) == int(parts[-1][-1]) + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(part[0] if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def node_line(cluster: Any, name: str) -> str:
    node, held = cluster.config["nodes"][name], cluster.held_on(name)
    mine = cluster.state["nodes"][name]
    kind, count = node.get("gpu_type", ""), node.get("gpus", 0)
    cpus, memory = sum(job["cpus"] for job in held), sum(job["memory"] for job in held)
    indexes = sorted(index for job in held for index in job["indexes"].get(name, []))
    base = "IDLE" if not cpus else "ALLOCATED" if cpus >= node["cpus"] else "MIXED"
    if mine["state"] == "down":
        base = "DOWN"
    elif mine["state"] == "drain":
        base += "+DRAIN"
    elif any(job.get("ending") for job in held):
        base += "+COMPLETING"
    where = ",".join(part["name"] for part in cluster.config["partitions"] if name in expand(part["nodes"]))
    used = spans([str(index) for index in indexes]) or "N/A"
    reason = f" Reason={mine['reason']} [alice@{moment(mine['at'])}]" if mine["state"] != "up" else ""
    return _NODE.format(
        name=name,
        cpus=node["cpus"],
        cpus_used=cpus,
        memory=node["memory"],
        memory_used=memory,
        features=",".join(node["features"]),
        gres=f"gpu:{kind}:{count}" if count else "(null)",
        gres_used=f"gpu:{kind}:{len(indexes)}(IDX:{used})" if count else "gpu:0",
        port=17000 + list(cluster.config["nodes"]).index(name),
        state=base,
        partitions=where,
        began=moment(cluster.state["began"]),
        tres=f"cpu={node['cpus']},mem={node['memory']}M,billing={node['cpus']}" + _gpus(kind, count),
        tres_used=f"cpu={cpus},mem={memory}M" + _gpus(kind, len(indexes)) if cpus else "",
        reason=reason,
    )


def _gpus(kind: str, count: int) -> str:
    return f",gres/gpu={count},gres/gpu:{kind}={count}" if count else ""


def partition_line(cluster: Any, part: dict[str, Any]) -> str:
    hosts = expand(part["nodes"])
    nodes = [cluster.config["nodes"][name] for name in hosts]
    cpus, memory = sum(node["cpus"] for node in nodes), sum(node["memory"] for node in nodes)
    gpus: dict[str, int] = {}
    for node in nodes:
        if node.get("gpus"):
            gpus[node["gpu_type"]] = gpus.get(node["gpu_type"], 0) + node["gpus"]
    total = f",gres/gpu={sum(gpus.values())}" if gpus else ""
    total += "".join(f",gres/gpu:{kind}={count}" for kind, count in sorted(gpus.items()))
    return _PARTITION.format(
        name=part["name"],
        default="YES" if part.get("default") else "NO",
        time_default=limit(part["minutes_default"], wide=True),
        time_max=limit(part["minutes_max"], wide=True),
        hosts=part["nodes"],
        tier=part.get("tier", 1),
        preempt=part.get("preempt", "OFF"),
        state="DOWN" if part.get("down") else "UP",
        cpus=cpus,
        count=len(hosts),
        tres=f"cpu={cpus},mem={memory}M,node={len(hosts)},billing={cpus}{total}",
    )


def config_text(cluster: Any) -> str:
    """The recorded configuration, with what this cluster is set to."""
    with open(RECORDS, encoding="utf-8") as file:
        text = json.load(file)["capacity-idle-config"]["stdout"].removesuffix("reconciler: whole\n")
    config = cluster.config
    storage = "accounting_storage/none" if config["accounting"] == "off" else "accounting_storage/slurmdbd"
    for key, value in {
        "AccountingStorageType": storage,
        "KillWait": f"{config['kill_wait_s']:.0f} sec",
        "MaxArraySize": str(config["array_max"]),
        "MinJobAge": f"{config['min_job_age_s']:.0f} sec",
        "NEXT_JOB_ID": str(cluster.state["next_id"]),
    }.items():
        text = re.sub(rf"(?m)^({key} += ).*$", rf"\g<1>{value}", text)
    return re.sub(r"\A(Configuration data as of ).*", rf"\g<1>{moment(cluster.now)}", text)
