# SPDX-License-Identifier: Apache-2.0
"""The report on all notebooks of a run."""

from runner.report.builder import ReportResult, build
from runner.report.summary import summary_schema

__all__ = ["ReportResult", "build", "summary_schema"]
