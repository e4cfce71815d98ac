#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compares the digests in versions.env with their tags' current digests in the registry.
# A changed base, or one without a digest: a warning; with STRICT=1 (the weekly build) exit 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
moved=0
while IFS='=' read -r name base; do
  [[ $name == *_BASE ]] || continue
  pinned=$(sed -n "s/^${name}_DIGEST=//p" versions.env)
  now=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$base")
  if [[ $pinned == "$now" ]]; then
    echo "$base: $now"
  else
    moved=1
    echo "::warning file=images/versions.env::$base is ${now} now, ${name}_DIGEST says ${pinned:-nothing}"
    echo "  hint: test it, then set ${name}_DIGEST=${now} in images/versions.env" >&2
  fi
done < <(grep -E '^[A-Z0-9_]+=' versions.env)
[[ -z ${STRICT:-} ]] || exit "$moved"
