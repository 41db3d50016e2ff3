"""Which control a host gets, and what is said where something is missing: the library, credentials, a project."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from reconciler.backends import tpu_client, tpu_open, tpu_refusals
from reconciler.backends.tpu_client import TpuClientControl
from reconciler.backends.tpu_gcloud import GcloudControl
from reconciler.core.errors import AccessRefused, OutcomeUnknown, Rejected, Unreachable
from reconciler.core.inventory import TpuHost
from tests.emulators.tpu.emulator import GET_LIBRARY, have_library

needs_library = pytest.mark.skipif(not have_library(), reason=GET_LIBRARY)
ZONE = "us-central2-b"


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, no project, and no machine of Google's to ask for any."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT", "GCLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("google.cloud.tpu_v2", "google.auth"):
        monkeypatch.setitem(sys.modules, name, None)


def host(**fields: object) -> TpuHost:
    return TpuHost("pod", "c", zone=ZONE, zones=(ZONE,), accelerator_type="v4-8", **fields)  # type: ignore[arg-type]


def test_the_host_may_choose(nobody: None) -> None:
    assert isinstance(tpu_open.open_control(host(control="client")), TpuClientControl)
    assert isinstance(tpu_open.open_control(host(control="gcloud")), GcloudControl)


@needs_library
def test_auto_is_the_library_where_it_can_sign_in(nobody: None, program: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(tpu_open.open_control(host()), GcloudControl)
    assert isinstance(tpu_open.open_control(host(endpoint="http://127.0.0.1:1")), TpuClientControl)
    monkeypatch.setattr(tpu_open, "default_project", lambda: "p")
    assert isinstance(tpu_open.open_control(host()), TpuClientControl)


@needs_library
def test_auto_without_a_program_is_the_library(nobody: None) -> None:
    assert isinstance(tpu_open.open_control(host()), TpuClientControl)


def test_auto_without_the_library_is_the_program(nobody: None, no_library: None, program: None) -> None:
    assert isinstance(tpu_open.open_control(host()), GcloudControl)


def test_without_either_the_next_step_is_told(nobody: None, no_library: None) -> None:
    with pytest.raises(AccessRefused) as refused:
        tpu_open.open_control(host())
    assert "pip install 'reconciler[tpu]'" in refused.value.hint
    control = TpuClientControl("p")
    with pytest.raises(AccessRefused, match="google-cloud-tpu is not installed") as refused:
        control.get(ZONE, "n")
    assert "pip install 'reconciler[tpu]'" in refused.value.hint
    assert "pip install 'reconciler[tpu]'" in control.list(ZONE).error


@needs_library
def test_without_credentials_the_command_is_told(nobody: None) -> None:
    for control in (TpuClientControl("p"), TpuClientControl("")):
        with pytest.raises(AccessRefused) as refused:
            control.get(ZONE, "n")
        assert "`gcloud auth application-default login`" in refused.value.hint
        assert not control.list(ZONE).complete


@needs_library
def test_without_a_project_the_command_is_told(nobody: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials.json").write_text(
        json.dumps({"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"})
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "credentials.json"))
    quick = tpu_client.Patience(tries_s=0.1, pause_s=0.01)
    with pytest.raises(AccessRefused) as refused:
        TpuClientControl("", endpoint="http://127.0.0.1:1", patience=quick).get(ZONE, "n")
    assert "`gcloud config set project PROJECT`" in refused.value.hint
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    with pytest.raises(Unreachable):
        TpuClientControl("", endpoint="http://127.0.0.1:1", patience=quick).get(ZONE, "n")


@pytest.mark.parametrize(
    ("status", "message", "lost", "error"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: Connection refused", True, Unreachable),
        ("UNAVAILABLE", "The service is currently unavailable.", True, OutcomeUnknown),
        ("UNAVAILABLE", "The service is currently unavailable.", False, Unreachable),
        (
            "UNAVAILABLE",
            "Getting metadata from plugin failed with error: Reauthentication is needed.",
            True,
            AccessRefused,
        ),
        ("UNAVAILABLE", "Getting metadata from plugin failed with error: HTTPSConnectionPool", True, Unreachable),
        ("INTERNAL", "x", True, OutcomeUnknown),
        ("ABORTED", "unable to queue the operation", True, Unreachable),
        ("PERMISSION_DENIED", "x", True, AccessRefused),
        ("INVALID_ARGUMENT", "x", False, Rejected),
    ],
)
def test_an_error_says_whether_something_may_have_happened(
    status: str, message: str, lost: bool, error: type[Exception]
) -> None:
    assert type(tpu_refusals.error(status, message, "create TPU VM n", lost=lost)) is error


@pytest.mark.parametrize(
    ("message", "kind", "final"),
    [
        (
            "Quota 'TPUV4sPreemptiblePodPerProjectPerZoneForTPUAPI' exhausted. Limit 32 in zone us-central2-b",
            "quota",
            False,
        ),
        ("Quota 'TPUV6E' exhausted. Limit 0 in zone us-east5-a", "no-quota", True),
        ("There is no more capacity in the zone", "capacity", False),
        ("Insufficient reserved capacity", "reservation", False),
        ("", "capacity", False),
    ],
)
def test_why_a_queued_resource_failed(message: str, kind: str, final: bool) -> None:
    denied = tpu_refusals.of_request(message)
    assert (denied.kind, denied.final) == (kind, final)
    assert denied.message


@pytest.mark.parametrize("text", ["Limit: 32", "Limit: 10", "Limit 0.5", "limit of 100", "Limit: 08"])
def test_a_limit_is_none_only_when_it_is_nought(text: str) -> None:
    denied = tpu_refusals.at_create("RESOURCE_EXHAUSTED", f"Quota limit 'X' has been exceeded. {text} in zone a.")
    assert denied is not None
    assert denied.kind == "quota"
