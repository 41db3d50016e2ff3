"""Placement: the first host that can hold all that is asked, never less, never the same accelerator twice."""

from __future__ import annotations

from reconciler.core.actions import Start
from reconciler.core.job import Request
from reconciler.core.solve import HostView, Placement, Rented, Reservations, Unplaceable, candidates, place
from tests.worlds import HOST, census, gpus, job, live_memory, planned, run_of, seen

H100 = HostView("h", "plain", "hpc", {"h100": 8}, busy_mib=100)
A6000 = HostView("a", "plain", "lab", {"a6000": 2})


def chip_of(gpu):
    from reconciler.app.wiring import chip_of

    return chip_of(gpu)


def tried(request, hosts, censuses, taken=None):
    return place(request, hosts, {item.host: item for item in censuses}, taken or Reservations(), chip_of)


def test_the_first_host_in_the_users_order_that_fits_wins():
    a, b = census(host="a", gpus=gpus(2, name="NVIDIA RTX A6000")), census(host="h", gpus=gpus(8))
    assert tried(Request(min_chips=2), [A6000, H100], [a, b]).host == "a"
    assert tried(Request(min_chips=2), [H100, A6000], [a, b]).host == "h"


def test_never_fewer_chips_than_asked():
    found = tried(Request(chip="h100", min_chips=16), [H100], [census(host="h", gpus=gpus(8))])
    assert isinstance(found, Unplaceable)
    assert found.reasons == (("h", "has 8 h100, 16 asked"),)


def test_the_busy_rule_is_per_accelerator():
    one_busy = census(host="h", gpus=gpus(8, busy={0: 100, 3: 99}))
    found = tried(Request(chip="h100", min_chips=7), [H100], [one_busy])
    assert isinstance(found, Placement)
    assert "GPU-0" not in found.gpus
    assert "GPU-3" in found.gpus


def test_the_inventorys_count_is_a_grant_not_a_wish():
    four = HostView("h", "plain", "hpc", {"h100": 4})
    taken = Reservations()
    taken.take("h", ("GPU-0", "GPU-1", "GPU-2"))
    found = tried(Request(chip="h100", min_chips=2), [four], [census(host="h", gpus=gpus(8))], taken)
    assert isinstance(found, Unplaceable)
    assert "1 of 8 h100 free, 2 asked (3 held by our jobs" in found.sentence


def test_a_typed_request_on_a_mixed_host_takes_only_that_type():
    mixed = HostView("h", "plain", "hpc", {"h100": 2, "a6000": 2})
    a = gpus(2, name="NVIDIA RTX A6000")
    b = tuple(gpu.__class__(f"H-{n}", n + 2, "NVIDIA H100 80GB HBM3", 81559, 0) for n, gpu in enumerate(gpus(2)))
    found = tried(Request(chip="h100", min_chips=2), [mixed], [census(host="h", gpus=a + b)])
    assert found.gpus == ("H-0", "H-1")


def test_two_jobs_of_one_pass_never_get_the_same_accelerator():
    wanted = [job(f"j{n}", request={"chip": "h100", "min_chips": 3}) for n in range(3)]
    made = planned(wanted, [], [census(host="h", gpus=gpus(8))], hosts=(H100,))
    given = [gpu for action in made.actions if isinstance(action.effect, Start) for gpu in action.effect.placement.gpus]
    assert len(given) == len(set(given)) == 6
    assert sum(view.reason == "Unplaceable" for view in made.views) == 1


def test_a_launch_on_its_way_holds_its_accelerators_although_nvidia_smi_shows_them_idle():
    first = job("first", request={"chip": "h100", "min_chips": 6})
    run = run_of(first, host="h", gpus=tuple(f"GPU-{n}" for n in range(6)))
    made = planned(
        [first, job("second", request={"chip": "h100", "min_chips": 3})],
        [live_memory(run)],
        [census(seen(run), host="h", gpus=gpus(8))],
        hosts=(H100,),
    )
    assert not made.effects


def test_another_repositorys_run_holds_its_accelerators_too():
    theirs = run_of(job("theirs"), host="h", owner="they", gpus=tuple(f"GPU-{n}" for n in range(6)))
    wanted = job("ours", request={"min_chips": 3})
    made = planned([wanted], [], [census(seen(theirs), host="h", gpus=gpus(8))], hosts=(H100,))
    assert not made.effects


def test_allow_and_deny_lists_and_named_hosts():
    hosts = [H100, A6000, HOST]
    assert candidates(Request(clusters=("lab",)), hosts) == ["a", "ws"]
    assert candidates(Request(exclude_clusters=("lab",)), hosts) == ["h"]
    assert candidates(Request(hosts=("ws",)), hosts) == ["ws"]


def test_cpu_mode_takes_a_slot_and_no_accelerator():
    found = tried(Request(), [H100], [census(host="h", gpus=gpus(8))])
    assert found == Placement("h", (), None)


def test_generic_mode_takes_any_accelerator_and_says_which():
    found = tried(Request(min_chips=1), [A6000], [census(host="a", gpus=gpus(2, name="NVIDIA RTX A6000"))])
    assert found.chip == "a6000"


def test_a_host_that_cannot_be_asked_is_named_with_the_reason_and_not_counted_as_full():
    found = tried(Request(), [HOST], [census(complete=False, error="connection refused")])
    assert found.blind == ("ws",)
    assert "connection refused" in found.sentence


def test_an_nvidia_smi_that_fails_is_said_and_gives_nothing():
    from reconciler.core.observation import Capacity, Census

    broken = Census("h", True, capacity=Capacity(8, None, "driver/library version mismatch"))
    assert "driver/library version mismatch" in tried(Request(min_chips=1), [H100], [broken]).sentence


def test_schedulers_are_passed_over_with_a_sentence():
    other = HostView("login", "pbs", "hpc", {})
    assert tried(Request(), [other], []).reasons == (("login", "pbs hosts are not driven by this version"),)


def test_zones_without_capacity_are_passed_over_until_their_time():
    zones = ("z1", "z2", "z3")
    host = HostView("pod", "tpu", "lab", {}, rented=Rented("tpu-v4", 4, 8, zones, 9, cooldown_s=600.0))
    look = {"pod": census(host="pod")}

    def asked(dry, tries=0, zones=()):
        return place(
            Request(min_chips=4), [host], look, Reservations(), chip_of, tries=tries, zones=zones, dry=dry, now=1000.0
        )

    assert asked({}).place["zone"] == "z1"
    assert asked({("pod", "z1"): 1000.5}).place["zone"] == "z2"
    assert asked({("pod", "z1"): 1000.0}).place["zone"] == "z1"
    assert asked({("other", "z1"): 2000.0}).place["zone"] == "z1"
    assert asked({("pod", "z2"): 2000.0}, tries=1).place["zone"] == "z3"
    assert asked({("pod", "z3"): 2000.0}, tries=2).place["zone"] == "z1"
    assert asked({("pod", "z1"): 2000.0, ("pod", "z3"): 3000.0}, zones=("z3", "z1")).until == 2000.0
    none = asked({("pod", zone): 4000.0 + 60 * at for at, zone in enumerate(zones)})
    assert none.until == 4000.0
    assert none.sentence == (
        "pod: had no capacity: z1 until 01:06:40 UTC, z2 until 01:07:40 UTC, z3 until 01:08:40 UTC"
    )
    assert not none.final
