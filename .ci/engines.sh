#!/bin/sh
# The real engines that tests drive: sshd, ssh, rsync, a Slurm cluster, kubectl. As root on Debian they are installed; elsewhere the missing
# ones are named, and their tests skip with the same words. No system daemon is started: tests run their own.
set -eu
missing=""
for pair in sshd:openssh-server ssh:openssh-client rsync:rsync git:git csh:csh tcsh:tcsh fish:fish zsh:zsh busybox:busybox mksh:mksh ksh:ksh \
    munged:munge slurmctld:slurmctld slurmd:slurmd slurmdbd:slurmdbd sbatch:slurm-client \
    mariadbd:mariadb-server-core mariadb:mariadb-client-core kubectl:kubernetes-client; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
plugins=" slurm-wlm-basic-plugins"   # a package without a command
for file in /usr/lib/*/slurm*/select_cons_tres.so /usr/lib*/slurm*/select_cons_tres.so; do
    [ ! -e "$file" ] || plugins=""
done
missing="$missing$plugins"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    policy=/usr/sbin/policy-rc.d     # asked before a package may start its daemon
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    for pause in 2 10 30 0; do
        # shellcheck disable=SC2086
        if { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } >.engines.log 2>&1
        then rm -f .engines.log; exit 0; fi
        [ "$pause" = 0 ] || sleep "$pause"
    done
    cat .engines.log >&2
    echo "engines: could not install:$missing" >&2
    exit 1
fi
echo "engines: not here:$missing. Their tests are skipped; to run them: apt-get install$missing (or your system's packages of the same)" >&2
