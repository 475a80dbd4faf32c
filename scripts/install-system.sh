#!/bin/sh
# What the end-to-end tests need of Debian's or Ubuntu's packages. Always succeeds: without them those tests skip.
set -u

missing=""
command -v chromium >/dev/null 2>&1 || missing="chromium fonts-dejavu-core"
command -v slurmctld >/dev/null 2>&1 || missing="$missing slurmctld slurmd slurm-client munge"
if [ -z "$missing" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
    echo "not installed, so their tests will be skipped (as root: apt-get install $missing)" >&2
    exit 0
fi
# Nobody's daemons are started by it: the tests start their own.
printf '#!/bin/sh\nexit 101\n' >/tmp/tbrm-policy-rc.d
if [ ! -e /usr/sbin/policy-rc.d ]; then
    install -m 755 /tmp/tbrm-policy-rc.d /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
# shellcheck disable=SC2086
apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    $missing >/dev/null || echo "could not be installed, so their tests will be skipped: $missing" >&2
exit 0
