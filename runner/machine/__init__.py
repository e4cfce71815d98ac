# SPDX-License-Identifier: Apache-2.0
"""Measurement and control of the machine: GPUs, host memory, processes."""
