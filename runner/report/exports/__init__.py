# SPDX-License-Identifier: Apache-2.0
"""Machine-readable reports: summary, JUnit, OpenMetrics, RO-Crate, GitHub."""
