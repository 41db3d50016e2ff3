"""The fake of the Kubernetes API keeps the contract."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.backends.kube_control import NAMESPACE, Kube
from reconciler.core.errors import Unreachable
from tests.backends.kube_fake import FakeKube, lost
from tests.contract.kube_contract import KubeContract


class FakeBench:
    def __init__(self) -> None:
        self.kube = FakeKube()
        self.kube.put(NAMESPACE, {"metadata": {"name": "team-a"}})

    def elsewhere(self, namespace: str) -> Kube:
        return replace(self.kube, namespace=namespace)

    def lose_next(self, verb: str) -> None:
        self.kube.failures.append(lost(verb))

    def forbid(self, verb: str, plural: str) -> None:
        self.kube.forbidden.add((verb, plural))

    def no_volcano(self) -> None:
        self.kube.unknown |= {"batch.volcano.sh", "scheduling.volcano.sh"}

    def cut(self) -> None:
        self.kube.failures += [(verb, Unreachable("nobody answers"), False) for verb in ("list", "create")]


class TestFakeKube(KubeContract):
    @pytest.fixture
    def bench(self) -> FakeBench:
        return FakeBench()
