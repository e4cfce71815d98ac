# SPDX-License-Identifier: Apache-2.0
"""The report for machines: summary, JUnit, OpenMetrics, RO-Crate, GitHub."""
