#!/bin/sh
# Chromium for the browser test, from Debian's or Ubuntu's packages. Always succeeds: without Chromium the test skips.
set -u
if command -v chromium >/dev/null 2>&1; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
    echo "chromium is not installed; the browser test will be skipped (as root: apt-get install chromium)" >&2
    exit 0
fi
apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    chromium fonts-dejavu-core >/dev/null || echo "chromium could not be installed; the browser test will be skipped" >&2
exit 0
