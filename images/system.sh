#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs inside the build, as root: the programs that notebooks and `runner` call, a user, no setuid.
set -eu

# G2's notebooks fetch with wget and unpack with tar; `runner clone` and the record of a run use git,
# with ssh for private repositories.
for tool in git tar wget; do
  command -v "$tool" >/dev/null || missing="${missing:-} $tool"
done
command -v ssh >/dev/null || missing="${missing:-} openssh-client"
if [ -n "${missing:-}" ] || [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # shellcheck disable=SC2086  # a list of names of ours
  apt-get install -qq -y --no-install-recommends ca-certificates ${missing:-} >/dev/null
fi

# uid 1001 as in the RAPIDS images; group root, so that a container of any uid with the usual group 0
# has what the user has. Written by hand: useradd would write today's date into /etc/shadow.
if ! grep -q '^[^:]*:[^:]*:1001:' /etc/passwd; then
  echo 'runner:x:1001:0:runner:/tmp:/usr/sbin/nologin' >>/etc/passwd
fi
mkdir -p /workspace
chown 1001:0 /workspace
chmod 0775 /workspace

# Nothing here needs to become root.
find / -xdev -type f -perm /6000 -exec chmod ug-s {} +

# What differs between two builds, and what nobody needs.
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
  /var/lib/dpkg/*-old /var/log/* /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /tmp/* /var/tmp/*
