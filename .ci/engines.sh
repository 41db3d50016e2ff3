#!/bin/sh
# The real engines that tests drive: sshd, ssh, rsync. As root on Debian they are installed; elsewhere the missing ones are named,
# and their tests skip with the same words.
set -eu
missing=""
for pair in sshd:openssh-server ssh:openssh-client rsync:rsync git:git csh:csh tcsh:tcsh fish:fish zsh:zsh busybox:busybox mksh:mksh ksh:ksh; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
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
