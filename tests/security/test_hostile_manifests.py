"""Attacks by whoever writes manifests on the machine that applies them: each is a repository, and what a person is told of it.

Every verb that reads a repository is run over it. Nothing of the attacker's may run here but jobs on hosts, nothing of the user's
may reach a host, an archive, the state or a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.app.converge import Reconciler
from reconciler.app.wiring import Settings, open_ports
from reconciler.load.trust import Permits
from tests.security.hostile import PRIZE, World, holders

pytestmark = pytest.mark.real


@dataclass(frozen=True)
class Attack:
    """`build` writes the repository. `told`: all of this is said by `validate` (or, with `late`, by `apply`)."""

    build: Callable[[World], None]
    told: tuple[str, ...]
    late: bool = False


ATTACKS: dict[str, Attack] = {}


def attack(*told: str, late: bool = False) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    def register(build: Callable[[World], None]) -> Callable[[World], None]:
        ATTACKS[build.__name__] = Attack(build, told, late)
        return build

    return register


# ---- secrets


@attack(
    "manifests/evil.yaml:1: Job general/default/evil: spec.secrets.X.command: the output of sh -c", "git config --add"
)
def a_secret_runs_a_command(world: World) -> None:
    world.job(secrets={"X": {"command": ["sh", "-c", world.touch()]}})


@attack("spec.secrets.X.file: the file ~/.ssh/id_ed25519 is not permitted", '{"files": ["~/.ssh/id_ed25519"]}')
def a_secret_is_a_file_of_the_home_directory(world: World) -> None:
    world.job(secrets={"X": {"file": "~/.ssh/id_ed25519"}})


@attack("spec.secrets.X.file: the file ../home/.ssh/id_ed25519 is not permitted")
def a_secret_is_a_path_that_leaves_the_repository(world: World) -> None:
    world.job(secrets={"X": {"file": "../home/.ssh/id_ed25519"}})


@attack("spec.secrets.X.file: the file /", "is not permitted")
def a_secret_is_an_absolute_path(world: World) -> None:
    world.job(secrets={"X": {"file": str(world.prize)}})


@attack("spec.secrets.X.file: the file keys/mine is not permitted")
def a_secret_is_a_link_out_of_the_repository(world: World) -> None:
    (world.repo / "keys").mkdir()
    (world.repo / "keys" / "mine").symlink_to(world.prize)
    world.job(secrets={"X": {"file": "keys/mine"}})


@attack("spec.secrets.X.file: the file .git/config is not permitted")
def a_secret_is_the_clones_git_configuration(world: World) -> None:
    world.job(secrets={"X": {"file": ".git/config"}})


@attack("spec.secrets.X.env: the variable GITHUB_TOKEN of this machine is not permitted")
def a_secret_is_the_token_of_ci(world: World) -> None:
    world.job(secrets={"X": {"env": "GITHUB_TOKEN"}})


@attack("spec.secrets.WANDB_API_KEY.env: the variable AWS_SECRET_ACCESS_KEY of this machine is not permitted")
def a_secret_has_a_harmless_name_and_a_cloud_key(world: World) -> None:
    world.job(secrets={"WANDB_API_KEY": {"env": "AWS_SECRET_ACCESS_KEY"}})


@attack("spec.secrets.X.command: the output of sh -c", "is not permitted")
def defaults_of_a_directory_bring_a_command(world: World) -> None:
    world.write("manifests/_defaults.yaml", f"spec: {{secrets: {{X: {{command: [sh, -c, '{world.touch()}']}}}}}}\n")
    world.job()


@attack("Sweep general/default/evil: spec.secrets.X.env: the variable GITHUB_TOKEN")
def a_sweep_brings_a_secret(world: World) -> None:
    world.job(secrets={"X": {"env": "GITHUB_TOKEN"}}, sweep={"grid": {"env.SEED": ["1", "2"]}})


# ---- code


@attack("spec.source.repo: code from ../home/.ssh, which lies outside their repository, is not permitted")
def code_comes_from_outside(world: World) -> None:
    world.job(source={"repo": "../home/.ssh", "mode": "files", "files": ["*"]})


@attack("spec.source.repo: code from ~, which lies outside their repository, is not permitted")
def code_comes_from_the_home_directory(world: World) -> None:
    world.job(source={"repo": "~", "mode": "files", "files": [".ssh/id_ed25519"]})


@attack("spec.source.repo: code from elsewhere, which lies outside their repository, is not permitted")
def code_comes_through_a_link(world: World) -> None:
    (world.repo / "elsewhere").symlink_to(world.home)
    world.job(source={"repo": "elsewhere", "mode": "rsync"})


@attack("spec.source.repo: code from .git, ", "is not permitted")
def code_is_the_git_directory(world: World) -> None:
    world.job(source={"repo": ".git", "mode": "files", "files": ["config"]})


@attack("cannot be shipped: a link in it leads out of", late=True)
def files_are_listed_through_a_link(world: World) -> None:
    (world.repo / "data").symlink_to(world.prize.parent)
    world.job(source={"mode": "files", "files": ["data/id_ed25519"]})


@attack("cannot be shipped: a link in it leads out of", late=True)
def files_are_globbed_through_a_link(world: World) -> None:
    (world.repo / "data").symlink_to(world.home)
    world.job(source={"mode": "files", "files": ["data/*/id*"]})


@attack(
    "spec.source.files[0]: '**' stands for directories", "spec.source.files[1]: no path", "spec.source.repo: no path"
)
def paths_are_none(world: World) -> None:
    world.job(source={"repo": "x" * 256, "mode": "files", "files": ["**foo", "d/" * 2100]})


@attack("'manifests/a/\\nmanifests'", "characters that do not print; rename the file")
def a_name_passes_for_a_line_of_ours(world: World) -> None:
    world.write("manifests/a/\nmanifests/good.yaml:1: removed\x1b[31m.yaml", "x")


@attack("manifests/\\x1b[8mlink'", "characters that do not print")
def a_name_of_a_link_hides(world: World) -> None:
    (world.repo / "manifests" / "\x1b[8mlink").symlink_to("README.md")


@attack("spec.source.ref: what is stashed cannot be shipped")
def a_ref_is_what_was_put_aside(world: World) -> None:
    world.write("manifests/README.md", PRIZE)
    world.git("stash")
    world.job(source={"ref": "refs/stash~0"})


@attack("spec.source.ref: expected a branch, a tag or a commit: what refs were before")
def a_ref_is_what_a_branch_was(world: World) -> None:
    world.job(source={"ref": "HEAD@{1}"})


@attack("spec.source.ref: a ref cannot start with '-'")
def a_ref_is_an_option_of_git(world: World) -> None:
    world.job(source={"ref": f"--output={world.loot}"})


@attack("ext::sh", "no such directory", late=True)
def a_repository_is_a_url_that_runs(world: World) -> None:
    world.job(source={"repo": f"ext::sh -c {world.touch()}"})


@attack("--upload-pack=", "no such directory", late=True)
def a_repository_is_an_option_of_git(world: World) -> None:
    world.job(source={"repo": f"--upload-pack={world.touch()}"})


def _bare(world: World, folder: str) -> None:
    """Files that git, asked there, takes for a repository with a configuration of its own."""
    world.write(f"{folder}/HEAD", "ref: refs/heads/main\n")
    world.write(f"{folder}/objects/info/.keep", "")
    world.write(f"{folder}/refs/heads/.keep", "")
    world.write(
        f"{folder}/config",
        f"[core]\nrepositoryformatversion = 0\nbare = false\nworktree = .\nfsmonitor = {world.touch()}\n"
        f'[filter "x"]\nclean = {world.touch()}; cat\nsmudge = {world.touch()}; cat\nrequired = true\n'
        f'[remote "origin"]\nurl = "ext::sh -c {world.touch()}"\npromisor = true\n',
    )
    world.write(f"{folder}/.gitattributes", "* filter=x\n")
    world.write(f"{folder}/code.py", "pass\n")


@attack("bareRepository", late=True)
def a_directory_looks_like_a_repository_of_its_own(world: World) -> None:
    _bare(world, "model")
    world.job(source={"repo": "model", "dirty": True})


@attack("model is not a git repository", late=True)
def a_commit_is_asked_of_such_a_directory(world: World) -> None:
    _bare(world, "model")
    world.job(source={"repo": "model", "ref": "main"})


@attack("is not checked out", late=True)
def a_submodule_has_a_url_that_runs(world: World) -> None:
    world.write(
        ".gitmodules", f'[submodule "m"]\npath = m\nurl = "ext::sh -c {world.touch()}"\nupdate = !{world.touch()}\n'
    )
    world.job(source={"submodules": True})
    world.git("add", "-A")
    world.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},m")


@attack(late=True)
def attributes_name_filters_and_drivers(world: World) -> None:
    world.write(".gitattributes", "* filter=x diff=x merge=x export-subst\n")
    world.write(".gitconfig", f'[filter "x"]\nclean = {world.touch()}\nsmudge = {world.touch()}\n')
    world.write("code.py", "$Format:%(trailers)$\n")
    world.job(source={"dirty": True})


@attack(late=True)
def hooks_lie_in_the_repository(world: World) -> None:
    for name in ("post-checkout", "pre-commit", "post-index-change", "reference-transaction", "fsmonitor-watchman"):
        world.write(f"hooks/{name}", f"#!/bin/sh\n{world.touch()}\n").chmod(0o755)
    world.job(source={"dirty": True})


# ---- text


@attack("manifests/evil.yaml:1", "tag")
def a_tag_makes_an_object(world: World) -> None:
    world.write("manifests/evil.yaml", f"!!python/object/apply:os.system ['{world.touch()}']\n")


@attack("manifests/evil.yaml:4", "tag")
def a_tag_makes_an_object_within_a_job(world: World) -> None:
    world.write(
        "manifests/evil.yaml",
        "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: evil}\n"
        f"spec: {{command: !!python/object/new:subprocess.Popen [['sh', '-c', '{world.touch()}']]}}\n",
    )


@attack("manifests/inventory.yaml:1", "tag")
def a_tag_stands_in_the_inventory(world: World) -> None:
    world.write("manifests/inventory.yaml", f"hosts: !!python/object/apply:os.system ['{world.touch()}']\n")


@attack("manifests/evil.yaml:", "alias")
def aliases_explode(world: World) -> None:
    lines = ["a0: &a0 [" + ", ".join(["lol"] * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 12)]
    world.write("manifests/evil.yaml", "\n".join(lines) + "\n")


@attack("manifests/evil.yaml:1: ", "nested deeper")
def brackets_nest_without_end(world: World) -> None:
    world.write("manifests/evil.yaml", "x: " + "[" * 100_000 + "\n")


@attack("manifests/evil.yaml:4", "written twice")
def a_key_is_written_twice(world: World) -> None:
    world.write(
        "manifests/evil.yaml",
        "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: evil}\nspec: {command: [a], source: null, command: [b]}\n",
    )


@attack("manifests/evil.yaml: 5000040 bytes are too many for a file of this kind")
def a_document_is_huge(world: World) -> None:
    world.write("manifests/evil.yaml", "metadata: {name: " + "x" * 5_000_000 + "}\nspec: {command: [a]}\n")


@attack("1 to 63 letters")
def a_name_leaves_its_directory(world: World) -> None:
    world.job(name="../../../loot", file="manifests/evil.yaml")


@attack("1 to 63 letters")
def a_project_leaves_its_directory(world: World) -> None:
    world.write(
        "manifests/evil.yaml",
        "apiVersion: reconciler/v1\nkind: Job\nmetadata: {name: a, project: .., group: ..}\nspec: {command: [a], source: null}\n",
    )


@attack("1 to 63 letters")
def a_name_is_an_option(world: World) -> None:
    world.job(name="-oProxyCommand=x", file="manifests/evil.yaml")


@attack("manifests/evil.yaml", "link")
def a_manifest_is_a_link(world: World) -> None:
    (world.repo / "manifests" / "evil.yaml").symlink_to(world.prize)


@attack("spec.slurm.directives[0]: --wait cannot be set here: use `reconciler apply --wait` instead")
def a_directive_is_one_of_ours(world: World) -> None:
    world.job(slurm={"directives": [f"--wait={world.loot}"]})


@attack("spec.slurm.directives[0]")
def a_directive_brings_lines_of_its_own(world: World) -> None:
    world.job(slurm={"directives": [f"--mail-user=x\n{world.touch()}"]})


@attack("spec.slurm.partition")
def a_partition_brings_lines_of_its_own(world: World) -> None:
    world.job(slurm={"partition": f"gpu\n{world.touch()}"})


@attack("spec.tpu.metadata", "is not a key of metadata")
def a_key_of_metadata_lets_a_login_in(world: World) -> None:
    world.job(tpu={"metadata": {"ssh-keys=me:ssh-ed25519 AAAA": "x"}})


@attack("spec.tpu.version")
def a_version_is_an_option_of_gcloud(world: World) -> None:
    world.job(tpu={"version": "--impersonate-service-account=x"})


@attack("spec.volcano.namespace")
def a_namespace_is_an_option_of_kubectl(world: World) -> None:
    world.job(volcano={"namespace": "--kubeconfig=x"})


# ---- an inventory among the manifests


@attack("manifests/inventory.yaml:", "hosts.h.ssh", "-oProxyCommand")
def a_host_is_an_option_of_ssh(world: World) -> None:
    host = {"type": "plain", "ssh": f"-oProxyCommand={world.touch()}"}
    world.write("manifests/inventory.yaml", world.inventory(host))


@attack("manifests/inventory.yaml:", "hosts.h.ssh")
def a_hosts_name_reaches_the_shell_of_a_proxy_command(world: World) -> None:
    """The user's own configuration: every host of the site is reached through a jump host."""
    (world.home / ".ssh" / "config").write_text("Host *.site\n  ProxyCommand nc -N %h %p\n")
    world.patch.setenv("RECONCILER_SSH_CONFIG", str(world.home / ".ssh" / "config"))
    tail = world.touch().replace(" ", "${IFS}")
    world.write("manifests/inventory.yaml", world.inventory({"type": "plain", "ssh": f"x;{tail};.site"}))


@attack("manifests/inventory.yaml:", "hosts.h.kubeconfig: an inventory in the manifests' repository cannot say that")
def a_kubeconfig_starts_a_program(world: World) -> None:
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", world.touch()]}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {**user, "exec": {**user["exec"], "interactiveMode": "Never"}}}],
    }
    path = world.write("kube.yaml", yaml.safe_dump(document))
    host = {"type": "volcano", "kubeconfig": str(path), "image": "i", "chips": {"h100": 8}}
    world.write("manifests/inventory.yaml", world.inventory(host))


def _tpu(world: World, **more: str) -> None:
    host = {"type": "tpu", "zone": "z-a", "accelerator_type": "v4-8", "version": "v", **more}
    world.write("manifests/inventory.yaml", world.inventory(host))


@attack(
    "manifests/inventory.yaml:", "hosts.h.ssh_key: an inventory in the manifests' repository cannot say that", "~/.ssh/"
)
def a_key_is_any_file_behind_a_link(world: World) -> None:
    (world.repo / "k.pub").symlink_to(world.prize)
    _tpu(world, ssh_key=str(world.repo / "k"))


@attack("manifests/inventory.yaml:", "hosts.h.ssh_key: an inventory in the manifests' repository cannot say that")
def a_key_leaves_its_directory(world: World) -> None:
    _tpu(world, ssh_key="~/.ssh/../token")


@attack("manifests/inventory.yaml:", "hosts.h.endpoint: an inventory in the manifests' repository cannot say that")
def a_service_is_not_googles(world: World) -> None:
    _tpu(world, endpoint="http://127.0.0.1:9")


@attack("manifests/inventory.yaml:", "hosts.h.python: ", "it would be started here")
def an_interpreter_lies_in_the_repository(world: World) -> None:
    script = world.write("python3", f'#!/bin/sh\n{world.touch()}\nexec python3 "$@"\n')
    script.chmod(0o755)
    world.write("manifests/inventory.yaml", world.inventory({"python": str(script)}))


@attack("manifests/inventory.yaml:", "hosts.h.cluster: its share ", "lies in the manifests' repository")
def a_runtime_lies_in_the_repository(world: World) -> None:
    from reconciler.app.shipping import Bundle

    bundle = f"share/runtime/{Bundle().sha256}"
    world.write(f"{bundle}/bootstrap.sh", f"#!/bin/sh\n{world.touch()}\n")
    world.write("manifests/inventory.yaml", world.inventory(cluster={"share": str(world.repo / "share")}))


@attack("manifests/inventory.yaml:", "clusters.c.wandb: the output of sh -c")
def a_credential_of_a_cluster_runs_a_command(world: World) -> None:
    wandb = {"command": ["sh", "-c", world.touch()]}
    world.write("manifests/inventory.yaml", world.inventory(cluster={"wandb": wandb}))


@attack("manifests/inventory.yaml:", "clusters.c.hf_token: the file ~/.ssh/id_ed25519 is not permitted")
def a_credential_of_a_cluster_is_a_file(world: World) -> None:
    world.write("manifests/inventory.yaml", world.inventory(cluster={"hf_token": {"file": "~/.ssh/id_ed25519"}}))


@attack("manifests/inventory.yaml:", "allow: an inventory in the manifests' repository cannot say that")
def an_inventory_permits_itself(world: World) -> None:
    world.write("manifests/inventory.yaml", world.inventory(allow={"env": ["*"]}))
    world.job(secrets={"X": {"env": "GITHUB_TOKEN"}})


@attack("manifests/inventory.yaml: a link that leads out of the repository is not read")
def an_inventory_is_a_link(world: World) -> None:
    (world.repo / "manifests" / "inventory.yaml").unlink()
    (world.repo / "manifests" / "inventory.yaml").symlink_to(world.prize)


@attack("is a link that leads out of")
def an_inventory_lies_behind_a_link_to_its_directory(world: World) -> None:
    theirs = world.home / "theirs"
    theirs.mkdir()
    (theirs / "inventory.yaml").write_text(f"{PRIZE}: 1\nhosts: {{h: {{type: local}}}}\n")
    world.git("rm", "-rq", "--cached", "manifests")
    (world.repo / "manifests").rename(world.root / "aside")
    (world.repo / "manifests").symlink_to(theirs)


@attack("is a link that leads out of")
def the_manifests_are_a_link(world: World) -> None:
    theirs = world.home / "theirs"
    theirs.mkdir()
    (theirs / "note.yaml").write_text(PRIZE)
    world.git("rm", "-rq", "--cached", "manifests")
    (world.repo / "manifests").rename(world.root / "aside")
    (world.repo / "manifests").symlink_to(theirs)


# ---- and what becomes of them

VERBS = (("validate",), ("--working-tree", "plan", "--show", "evil"), ("apply", "--yes"))


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_runs_here_and_nothing_gets_out(world: World, name: str) -> None:
    chosen = ATTACKS[name]
    chosen.build(world)
    if name != "a_submodule_has_a_url_that_runs":
        world.git("add", "-A")
    world.git("commit", "-q", "-m", "evil")
    said = {}
    for verb in VERBS:
        said[" ".join(verb)] = told = world(*verb)
        assert not world.loot.exists(), f"{verb} ran what it must not: {told.out}"
        assert PRIZE not in told, verb
    where = said["apply --yes" if chosen.late else "validate"].out
    assert not [text for text in chosen.told if text not in where], where
    assert (said["validate"].code == 0) is chosen.late, where

    def is_the_users(path: Path) -> bool:
        return path == world.prize or path == world.repo / ".git" / "config" or world.home in path.parents

    assert holders(world.root, PRIZE, but=is_the_users) == []


def test_one_hostile_manifest_stops_nobody_elses_job(world: World) -> None:
    world.job("good")
    world.job(secrets={"X": {"command": ["sh", "-c", world.touch()]}})
    world.commit()
    said = world("apply", "--yes", "--wait", "--timeout", "30")
    assert said.code == 4, said
    assert "general/default/good: Succeeded" in said
    assert not world.loot.exists()


# ---- what the user permits is done


@pytest.mark.parametrize("way", ["variable", "git config", "inventory"])
def test_what_is_permitted_from_outside_is_looked_up(world: World, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.home / "token").write_text("t-file")
    monkeypatch.setenv("TEAM_KEY", "t-env")
    argv = ["sh", "-c", "echo t-command"]
    allow = '{env: ["TEAM_*"], files: [~/token], commands: [[sh, -c, echo t-command]], repos: [../code]}'
    if way == "variable":
        monkeypatch.setenv("RECONCILER_ALLOW", allow)
    elif way == "git config":
        world.git("config", "--add", "reconciler.allow", allow)
    else:
        outside = world.root / "mine.yaml"
        outside.write_text(world.inventory() + f"allow: {allow}\n")
        world.options = ["--inventory", str(outside)]
    code = world.root / "code"
    code.mkdir()
    (code / "run.sh").write_text(f'echo "$A $B $C" > {world.root}/got\n')
    secrets = {"A": {"env": "TEAM_KEY"}, "B": {"file": "~/token"}, "C": {"command": argv}}
    source = {"repo": "../code", "mode": "files", "files": ["run.sh"]}
    world.job("mine", command=["sh", "run.sh"], secrets=secrets, source=source)
    world.commit()
    said = world("validate")
    assert said.code == 0, said
    said = world("apply", "--yes", "--wait", "--timeout", "30")
    assert said.code == 0, said
    assert (world.root / "got").read_text() == "t-env t-file t-command\n"


def test_a_permission_is_heard_while_watch_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "x")
    world.job(secrets={"X": {"env": "TEAM_KEY"}})
    world.commit()
    with open_ports(Settings(world.repo, state=world.root / "state")) as ports:
        seen = Reconciler(ports).look()
        assert "TEAM_KEY of this machine is not permitted" in str(seen.state.problems)
        world.git("config", "--add", "reconciler.allow", "{env: [TEAM_KEY]}")
        assert not Reconciler(ports).look().state.problems


def test_a_permission_is_no_wider_than_it_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "RECONCILER_ALLOW", '{env: [AWS_REGION, "TEAM_*"], files: [~/public/], commands: [[sh, -c]], repos: [../code]}'
    )
    (world.home / "public").mkdir()
    (world.home / "public" / "out").symlink_to(world.prize)
    (world.root / "code2").mkdir()
    secrets = {
        "A": {"env": "AWS_SECRET_ACCESS_KEY"},
        "B": {"file": "~/public/../.ssh/id_ed25519"},
        "C": {"file": "~/public/out"},
        "D": {"command": ["sh", "-c", world.touch()]},
    }
    world.job(secrets=secrets, source={"repo": "../code2", "mode": "files", "files": ["*"]})
    world.commit()
    said = world("validate")
    assert [
        field for field in ("A.env", "B.file", "C.file", "D.command") if f"spec.secrets.{field}: " not in said
    ] == []
    assert "spec.source.repo: " in said
    assert world("apply", "--yes").code == 4
    assert not world.loot.exists()


def test_a_wrong_permission_is_told_by_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_ALLOW", "{envs: [A]}")
    said = world("plan")
    assert said.code == 1
    assert "$RECONCILER_ALLOW" in said
    assert "envs" in said


def test_a_requeue_asks_again_what_is_permitted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_ALLOW", "{env: [GITHUB_TOKEN]}")
    restart = {"failure": 100, "backoff": {"initial": "1s", "max": "1s"}}
    world.job(command="exit 1", secrets={"X": {"env": "GITHUB_TOKEN"}}, restart=restart)
    world.commit()
    assert "launch general/default/evil on h: started" in world("apply", "--yes")
    monkeypatch.delenv("RECONCILER_ALLOW")
    refusal = "spec.secrets.X.env: the variable GITHUB_TOKEN of this machine is not permitted"
    deadline = time.monotonic() + 20
    while refusal not in (said := world("apply", "--yes")):
        assert time.monotonic() < deadline, said
        assert "requeue" not in said, said
        time.sleep(0.1)


@pytest.mark.parametrize("target", ["../../home", "../.git"])
def test_submit_does_not_write_through_a_link(world: World, target: str) -> None:
    (world.repo / "manifests" / "general").symlink_to(target)
    world.commit()
    said = world("submit", "--no-commit", "new", "--", "true")
    assert said.code == 1, said
    assert "lies behind a link that leads out of the repository's files" in said
    assert not (world.repo / ".git" / "default").exists()
    assert sorted(path.name for path in world.home.iterdir()) == [".ssh"]


def _runtime(world: World, share: str) -> None:
    from reconciler.app.shipping import Bundle

    world.write(f"{share}/runtime/{Bundle().sha256}/bootstrap.sh", f"#!/bin/sh\n{world.touch()}\n")
    world.job()
    world.git("rm", "-q", "manifests/inventory.yaml")
    world.commit()


@pytest.mark.parametrize("name", ["jobs", "alias"])
def test_no_runtime_is_taken_from_the_repository_whatever_the_inventory(world: World, name: str) -> None:
    _runtime(world, "share")
    (world.root / "alias").symlink_to(world.repo)
    outside = world.root / "mine.yaml"
    outside.write_text(world.inventory(cluster={"share": str(world.root / name / "share")}))
    world.options = ["--inventory", str(outside)]
    for verb in VERBS:
        said = world(*verb)
        assert not world.loot.exists(), f"{verb}: {said.out}"
        assert "hosts.h.cluster: its share " in said, said
        assert "choose a directory outside of it, such as ~/.local/share/reconciler" in said, said


def test_no_state_is_taken_from_the_repository(world: World) -> None:
    _runtime(world, ".state/local/work/.dispatch")
    world.options = ["--state", str(world.repo / ".state")]
    for verb in VERBS:
        said = world(*verb)
        assert not world.loot.exists(), f"{verb}: {said.out}"
        assert "lies in the manifests' repository, whose files would be taken for ours" in said, said
        assert "Choose a directory outside of it with --state DIR" in said, said


def test_what_init_writes_is_taken_by_the_next_verb(world: World) -> None:
    made = world.home / "reconciler"
    world.options = ["-C", str(made)]
    assert world("init").code == 0
    said = world("--working-tree", "validate")
    assert said.code == 0, said


def test_a_directory_is_the_repository_by_any_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where letter case does not count, or a file system is mounted twice, names differ and the directory does not."""
    other = world.root / "mounted"
    other.mkdir()
    trust = Permits(world.repo, world.repo, world.home)
    assert not trust.holds(other / "share")
    same = Path.samefile
    monkeypatch.setattr(Path, "samefile", lambda one, two: same(world.repo if one == other else one, two))
    assert trust.holds(other / "share")


def _export(world: World) -> None:
    """The files alone, as an archive of a release has them."""
    (world.repo / ".git").rename(world.root / "aside")


@pytest.mark.parametrize("source", [{"dirty": True}, {"ref": "main"}, {"mode": "rsync"}], ids=str)
@pytest.mark.parametrize("name", ["model", "model.git"])
def test_files_without_git_are_not_taken_for_a_repository(world: World, name: str, source: dict[str, Any]) -> None:
    _bare(world, name)
    world.job(source={"repo": name, **source})
    _export(world)
    for verb in VERBS:
        said = world(*verb)
        assert not world.loot.exists(), f"{verb}: {said.out}"
    if name == "model.git":
        assert "code is not shipped from a repository without a working tree" in said, said


def test_files_without_git_do_not_permit_themselves(world: World) -> None:
    world.git("init", "-q", "--bare", str(world.root / "made.git"))
    for path in (world.root / "made.git").iterdir():
        path.rename(world.repo / path.name)
    config = "[core]\nrepositoryformatversion = 0\nbare = false\nworktree = .\n"
    config += '[filter "x"]\nclean = ' + world.touch() + "; cat\n"
    config += "[reconciler]\nallow = \"{commands: [[sh, -c, '" + world.touch() + "']], env: ['*']}\"\n"
    world.write("config", config)
    world.write(".gitattributes", "* filter=x\n")
    world.job(secrets={"X": {"command": ["sh", "-c", world.touch()]}}, source={"dirty": True})
    _export(world)
    for verb in VERBS:
        said = world(*verb)
        assert said.code != 0, said
        assert "looks like a repository without a working tree" in said, said
        assert not world.loot.exists(), f"{verb}: {said.out}"


def test_a_git_directory_with_another_name_is_not_shipped(world: World) -> None:
    world.job(source={"mode": "files", "files": ["meta/config"]}, secrets={"X": {"file": "meta/config"}})
    world.commit()
    world.git("init", "-q", f"--separate-git-dir={world.repo / 'meta'}")
    for verb in VERBS:
        said = world(*verb)
        assert said.code != 0, said
        assert "lies among the files of the repository, which can be shipped" in said, said


@pytest.mark.parametrize(
    "spec",
    [
        {"secrets": {"X": {"file": "config"}}},
        {"source": {"mode": "files", "files": ["config"]}},
        {"source": {"mode": "rsync"}},
    ],
    ids=str,
)
def test_a_bare_repositorys_configuration_is_not_shipped(world: World, tmp_path: Path, spec: dict[str, Any]) -> None:
    world.job(**spec)
    world.commit()
    bare = tmp_path / "bare.git"
    world.git("clone", "-q", "--bare", ".", str(bare))
    (bare / "config").write_text((bare / "config").read_text() + f'[http]\nextraheader = "{PRIZE}"\n')
    world.options = ["-C", str(bare), "--inventory", str(world.repo / "manifests" / "inventory.yaml")]
    said = world("apply", "--yes")
    assert said.code != 0, said
    assert "is not permitted" in said or "from a repository without a working tree" in said, said


def test_a_bare_repository_of_manifests_is_read_where_it_is_no_content(world: World, tmp_path: Path) -> None:
    world.job("good")
    world.commit()
    bare = tmp_path / "bare.git"
    world.git("clone", "-q", "--bare", ".", str(bare))
    world.capture.readouterr()
    world.options = ["-C", str(bare)]
    said = world("plan")
    assert said.code == 2, said
    assert "general/default/good" in said
