#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs inside the build, as root: installs programs used by notebooks and `runner`, adds a user, removes setuid.
set -eu

# The G2 notebooks use wget and tar; `runner clone` and the record of a run use git,
# with ssh for private repositories.
for tool in git tar wget; do
  command -v "$tool" >/dev/null || missing="${missing:-} $tool"
done
command -v ssh >/dev/null || missing="${missing:-} openssh-client"
if [ -n "${missing:-}" ] || [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086  # our own list of names
  apt-get install -qq -y --no-install-recommends ca-certificates ${missing:-} >/dev/null
fi

# uid 1001 as in the RAPIDS images; group root, so that a container with any uid and the usual group 0
# has the same access. Not with useradd, which writes the current date to /etc/shadow.
if ! grep -q '^[^:]*:[^:]*:1001:' /etc/passwd; then
  echo 'runner:x:1001:0:runner:/tmp:/usr/sbin/nologin' >>/etc/passwd
fi
mkdir -p /workspace
chown 1001:0 /workspace
chmod 0775 /workspace

# Nothing here needs root privileges.
find / -xdev -type f -perm /6000 -exec chmod ug-s {} +

# Files that differ between builds, or are not needed.
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
  /var/lib/dpkg/*-old /var/log/* /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /tmp/* /var/tmp/*
