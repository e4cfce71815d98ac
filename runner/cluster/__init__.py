# SPDX-License-Identifier: Apache-2.0
"""The launcher: runs plans on a Kubernetes cluster with Tekton, through kubectl."""
