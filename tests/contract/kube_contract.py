"""What every Kube promises. A test class inherits these and provides `bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pytest

from reconciler.backends.kube_control import JOB, NAMESPACE, POD, QUEUE, SECRET, Kube
from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unreachable

LABELS = {"reconciler/owner": "jo", "reconciler/run": "r-1"}


def job(name: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """A job of one small pod that sleeps."""
    container = {"name": "main", "image": "lab/busybox:1", "command": ["sleep", "60"]}
    template = {"metadata": {"labels": LABELS}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch.volcano.sh/v1alpha1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": LABELS if labels is None else labels,
            "annotations": {"reconciler/run": "{}"},
        },
        "spec": {
            "schedulerName": "volcano",
            "queue": "default",
            "minAvailable": 1,
            "tasks": [{"name": "worker", "replicas": 1, "template": template}],
            **spec,
        },
    }


def secret(name: str, value: str = "eA==") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "labels": LABELS},
        "data": {"record.json": value},
    }


class Bench(Protocol):
    """A Kube, and what happens behind its back."""

    @property
    def kube(self) -> Kube: ...

    def elsewhere(self, namespace: str) -> Kube:
        """As the same user, in another namespace."""

    def lose_next(self, verb: str) -> None:
        """The next such call acts, and its answer is lost."""

    def forbid(self, verb: str, plural: str) -> None: ...

    def no_volcano(self) -> None:
        """The server knows no kind of Volcano's."""

    def cut(self) -> None:
        """Nobody answers any more."""


class KubeContract:
    def test_where_nothing_is_a_complete_list_is_empty(self, bench: Bench) -> None:
        assert list(bench.kube.list(JOB).objects) == []
        assert bench.kube.get(JOB, "nobody") is None

    def test_what_was_made_is_there_with_a_uid(self, bench: Bench) -> None:
        made = bench.kube.create(JOB, job("a"))
        assert not made.repeated
        assert made.object["metadata"]["uid"]
        there = bench.kube.get(JOB, "a")
        assert there is not None
        assert there["metadata"]["uid"] == made.object["metadata"]["uid"]
        assert there["metadata"]["annotations"]["reconciler/run"] == "{}"
        assert there["spec"]["tasks"][0]["replicas"] == 1

    def test_made_again_it_is_the_object_that_was_there(self, bench: Bench) -> None:
        first = bench.kube.create(SECRET, secret("s", "b25l"))
        again = bench.kube.create(SECRET, secret("s", "dHdv"))
        assert again.repeated
        assert again.object["metadata"]["uid"] == first.object["metadata"]["uid"]
        assert again.object["data"]["record.json"] == "b25l"

    def test_a_list_is_by_labels_and_by_their_presence(self, bench: Bench) -> None:
        bench.kube.create(JOB, job("a", {"reconciler/owner": "jo"}))
        bench.kube.create(JOB, job("b", {"reconciler/owner": "al"}))
        bench.kube.create(JOB, job("c", {"else": "x"}))
        assert names(bench, labels={"reconciler/owner": "jo"}) == ["a"]
        assert names(bench, labels={"reconciler/owner": ""}) == ["a", "b"]
        assert names(bench) == ["a", "b", "c"]
        assert names(bench, labels={"reconciler/owner": "jo", "else": "x"}) == []

    def test_a_list_tells_kinds_and_its_version(self, bench: Bench) -> None:
        bench.kube.create(SECRET, secret("s"))
        found = bench.kube.list(SECRET, labels=LABELS)
        assert [each["kind"] for each in found.objects] == ["Secret"]
        assert found.version

    def test_a_delete_is_of_the_very_object(self, bench: Bench) -> None:
        uid = bench.kube.create(SECRET, secret("s")).object["metadata"]["uid"]
        assert bench.kube.delete(SECRET, "s", uid="00000000-0000-0000-0000-000000000000") is False
        assert bench.kube.get(SECRET, "s") is not None
        assert bench.kube.delete(SECRET, "s", uid=uid) is True
        assert bench.kube.get(SECRET, "s") is None
        assert bench.kube.delete(SECRET, "s", uid=uid) is False

    def test_a_patch_merges_and_takes_away(self, bench: Bench) -> None:
        bench.kube.create(SECRET, secret("s"))
        done = bench.kube.patch(SECRET, "s", {"metadata": {"labels": {"reconciler/run": None, "new": "x"}}})
        assert done is not None
        assert done["metadata"]["labels"] == {"reconciler/owner": "jo", "new": "x"}
        there = bench.kube.get(SECRET, "s")
        assert there is not None
        assert there["metadata"]["labels"] == {"reconciler/owner": "jo", "new": "x"}
        assert there["data"] == {"record.json": "eA=="}
        assert bench.kube.patch(SECRET, "nobody", {"metadata": {"labels": {"x": "y"}}}) is None

    def test_a_misspelt_field_is_refused_and_named(self, bench: Bench) -> None:
        with pytest.raises(Rejected, match=r"spec\.minAvailble"):
            bench.kube.create(JOB, job("a", minAvailble=1))
        assert bench.kube.get(JOB, "a") is None

    def test_a_kind_of_the_cluster_needs_no_namespace(self, bench: Bench) -> None:
        assert bench.kube.get(QUEUE, "no-such-queue") is None
        assert bench.kube.get(NAMESPACE, bench.kube.namespace) is not None
        assert bench.kube.get(NAMESPACE, "no-such-namespace") is None

    def test_a_namespace_that_is_not_there_is_no_absence(self, bench: Bench) -> None:
        elsewhere = bench.elsewhere("no-such-ns")
        for call in (
            lambda: elsewhere.get(JOB, "a"),
            lambda: elsewhere.list(JOB),
            lambda: elsewhere.create(JOB, job("a")),
        ):
            with pytest.raises(Rejected, match=r"(?s)no namespace no-such-ns.*create namespace"):
                call()

    def test_a_kind_that_the_server_does_not_know_is_no_absence(self, bench: Bench) -> None:
        bench.no_volcano()
        for call in (
            lambda: bench.kube.get(JOB, "a"),
            lambda: bench.kube.list(JOB),
            lambda: bench.kube.create(JOB, job("a")),
            lambda: bench.kube.delete(JOB, "a", uid="x"),
        ):
            with pytest.raises(Rejected, match="Volcano is not installed"):
                call()
        assert list(bench.kube.list(POD).objects) == []

    def test_a_missing_right_names_the_verb_and_the_thing(self, bench: Bench) -> None:
        bench.forbid("list", "jobs")
        with pytest.raises(AccessRefused, match=r"(?s)cannot list .*can-i list jobs\.batch\.volcano\.sh"):
            bench.kube.list(JOB)
        assert not bench.kube.allowed("list", JOB)
        assert bench.kube.allowed("create", JOB)

    @pytest.mark.parametrize("verb", ["create", "delete", "patch"])
    def test_a_lost_answer_leaves_the_effect_open_and_it_is_not_repeated(self, bench: Bench, verb: str) -> None:
        uid = bench.kube.create(SECRET, secret("there")).object["metadata"]["uid"]
        bench.lose_next(verb)
        effects: dict[str, Callable[[], object]] = {
            "create": lambda: bench.kube.create(SECRET, secret("s")),
            "delete": lambda: bench.kube.delete(SECRET, "there", uid=uid),
            "patch": lambda: bench.kube.patch(SECRET, "there", {"metadata": {"labels": {"new": "x"}}}),
        }
        with pytest.raises(OutcomeUnknown):
            effects[verb]()
        there = bench.kube.get(SECRET, "there")
        assert (there is None) is (verb == "delete")
        assert (bench.kube.get(SECRET, "s") is not None) is (verb == "create")
        if verb == "patch":
            assert there is not None
            assert there["metadata"]["labels"]["new"] == "x"

    def test_output_of_a_pod_that_is_not_there_is_none(self, bench: Bench) -> None:
        assert bench.kube.logs("nobody", size_max=100) is None

    def test_nobody_answers(self, bench: Bench) -> None:
        bench.cut()
        with pytest.raises(Unreachable):
            bench.kube.list(JOB)
        with pytest.raises(Unreachable):
            bench.kube.create(SECRET, secret("s"))

    def test_closed_it_opens_again(self, bench: Bench) -> None:
        bench.kube.close()
        bench.kube.close()
        assert bench.kube.get(JOB, "a") is None


def names(bench: Bench, labels: dict[str, str] | None = None) -> list[str]:
    return sorted(each["metadata"]["name"] for each in bench.kube.list(JOB, labels=labels).objects)
