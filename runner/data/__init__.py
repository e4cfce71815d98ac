# SPDX-License-Identifier: Apache-2.0
"""Inputs of notebooks: cloned sources, and datasets that are fetched, verified and served."""
