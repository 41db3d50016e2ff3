"""A simulated Kubernetes API server with a simulated Volcano, for tests. See docs/volcano-emulator.md."""

from __future__ import annotations

from tests.emulators.kube.cluster import Cluster

__all__ = ["Cluster"]
