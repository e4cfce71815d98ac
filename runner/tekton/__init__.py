# SPDX-License-Identifier: Apache-2.0
"""Tekton manifests rendered from a plan."""
