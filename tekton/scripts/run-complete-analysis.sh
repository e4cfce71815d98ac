#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Finds `runner` and hands the work to `runner cluster VERB`, which drives kubectl. All logic is there.
set -euo pipefail

# Through links: the folder may be the .tekton of another repository.
tekton="$(dirname -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")")"
repository="$(dirname -- "$tekton")"

usage() {
  cat <<'TEXT'
usage: run-complete-analysis.sh VERB [options]

  install     check the cluster, then install tasks, pipelines, configuration and accounts
  validate    check the cluster, and for each notebook whether a node can host it
  run         start a run, print its name and follow it: run [complete|preprocessing|parallel|demo|FILE]
  rerun       repeat notebooks of a run on its volume: rerun [NOTEBOOK...|--failed]
  monitor     watch a run until it ends
  status      a run on one screen
  logs        the log of a notebook: logs NOTEBOOK
  fetch       copy outputs and report from the volume to a local folder
  cancel      stop a run so that its report is still written
  cleanup     delete old ended runs that this launcher started
  uninstall   remove everything but the volumes

Options of most verbs: --context NAME, --namespace NAME; of some: --plan FILE, --param KEY=VALUE, --dry-run,
--wait/--no-wait. `VERB --help` lists them.
Exit codes: 0 done (a followed run: it succeeded), 1 the run failed or the cluster refused, 2 usage,
3 something has to be installed first, 75 no connection.
TEXT
}

case "${1:-}" in
  install | validate | run | rerun | monitor | status | logs | fetch | cancel | cleanup | uninstall) ;;
  -h | --help | help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
esac

# Where the manifests are, whatever folder this is called from. Options given by the user win.
export RUNNER_CLUSTER_INSTALL_MANIFESTS="${RUNNER_CLUSTER_INSTALL_MANIFESTS:-$tekton}"
export RUNNER_CLUSTER_UNINSTALL_MANIFESTS="${RUNNER_CLUSTER_UNINSTALL_MANIFESTS:-$tekton}"
export RUNNER_CLUSTER_VALIDATE_TEKTON_DIR="${RUNNER_CLUSTER_VALIDATE_TEKTON_DIR:-$tekton}"
export RUNNER_CLUSTER_RUN_TEKTON_DIR="${RUNNER_CLUSTER_RUN_TEKTON_DIR:-$tekton}"

if command -v runner >/dev/null; then
  exec runner cluster "$@"
elif [[ -x "$repository/.venv/bin/runner" ]]; then
  exec "$repository/.venv/bin/runner" cluster "$@"
fi
echo "there is no runner command; make one with one of" >&2
echo "  make -C $repository setup                  # into $repository/.venv, found from here" >&2
echo "  python3 -m pip install $repository" >&2
exit 3
