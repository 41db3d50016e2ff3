"""What manifests may have of this machine, at the place where it is looked up: whatever brought the reference there."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.app.shipping import RepositoryShipper
from reconciler.core.errors import ManifestError, SecretError, ShipError
from reconciler.core.job import SecretRef
from reconciler.core.trust import TOKENS, Allowed
from reconciler.load.documents import load_documents
from reconciler.load.normal import decode
from reconciler.load.secrets import Resolver
from reconciler.load.trust import Permits, parse_allowed

HEAD = "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: j}\nspec: {command: [a], source: "


@pytest.fixture
def permits(tmp_path: Path) -> Permits:
    (tmp_path / "home").mkdir()
    (tmp_path / "jobs" / ".git").mkdir(parents=True)
    (tmp_path / "jobs" / ".git" / "config").write_text("token")
    (tmp_path / "jobs" / "key").write_text("v")
    (tmp_path / "home" / "key").write_text("h")
    return Permits(tmp_path / "jobs", tmp_path / "jobs", tmp_path / "home")


def resolver(permits: Permits) -> Resolver:
    environ = {"PATH": "/usr/bin:/bin", "GITHUB_TOKEN": "g", "WANDB_API_KEY": "w"}
    return Resolver(permits.base, permits.home, environ, trust=permits)


def test_tokens_of_trackers_and_files_of_the_repository_need_no_permission(permits: Permits) -> None:
    assert resolver(permits).resolve("X", SecretRef("env", "WANDB_API_KEY")).reveal() == "w"
    assert resolver(permits).resolve("X", SecretRef("file", "key")).reveal() == "v"


@pytest.mark.parametrize(
    "reference",
    [
        SecretRef("env", "GITHUB_TOKEN"),
        SecretRef("file", "~/key"),
        SecretRef("file", "../home/key"),
        SecretRef("file", ".git/config"),
        SecretRef("file", ".GIT/config"),
        SecretRef("command", ("echo", "x")),
    ],
)
def test_the_rest_is_refused_where_it_is_looked_up(permits: Permits, reference: SecretRef) -> None:
    with pytest.raises(SecretError, match=r"Secret X: .* is not permitted to manifests here") as raised:
        resolver(permits).resolve("X", reference)
    assert "git config --add reconciler.allow" in raised.value.hint


def test_the_other_places_are_asked_only_when_they_are_needed_and_once(permits: Permits) -> None:
    asked: list[int] = []

    def more() -> Allowed:
        asked.append(1)
        return Allowed(env=("GITHUB_*",))

    mine = Permits(permits.top, permits.base, permits.home, Allowed(files=("~/key",)), more)
    assert resolver(mine).resolve("X", SecretRef("file", "~/key")).reveal() == "h"
    assert not asked
    for _ in range(2):
        assert resolver(mine).resolve("X", SecretRef("env", "GITHUB_TOKEN")).reveal() == "g"
    with pytest.raises(SecretError):
        resolver(mine).resolve("X", SecretRef("command", ("echo", "x")))
    assert asked == [1]


def test_no_code_is_packed_from_outside(permits: Permits, tmp_path: Path) -> None:
    def nobody(_host: str) -> None:
        raise AssertionError

    shipper = RepositoryShipper(permits.base, tmp_path / "cache", nobody, permits)
    text = HEAD + "{repo: ../home, mode: files, files: [key]}}\n"
    spec = decode(load_documents([("f.yaml", text.encode())]).desired[0].normal)
    with pytest.raises(ShipError, match=r"code from \.\./home, which lies outside their repository, is not permitted"):
        shipper.prepare(spec, None, None)
    shipper = RepositoryShipper(permits.base, tmp_path / "cache", nobody, permits.also(Allowed(repos=("../home",))))
    assert shipper.prepare(spec, None, None).payload is not None


def test_a_text_that_only_looks_like_a_home_is_a_directory_of_the_repository(permits: Permits) -> None:
    assert permits.refusal_of_repo("~nobody-here") is None
    assert permits.refusal_of_repo("~") is not None


@pytest.mark.parametrize(
    "text", ["env: [1x]", "[a]", "{env: A}", "{commands: [pass]}", "{env: [A]", "{env: [A*B]}", "!!x {}"]
)
def test_a_permission_that_cannot_be_read_permits_nothing(text: str) -> None:
    with pytest.raises(ManifestError) as raised:
        parse_allowed(text, "$RECONCILER_ALLOW")
    assert "$RECONCILER_ALLOW" in str(raised.value)


def test_no_token_of_the_list_is_one_of_ci_clouds_or_version_control() -> None:
    beginnings = ("AWS", "AZURE", "CI", "GH", "GIT", "GOOGLE", "KUBE", "RECONCILER", "SSH", "VAULT")
    assert [name for name in TOKENS if name.startswith(beginnings)] == []
