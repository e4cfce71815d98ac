# SPDX-License-Identifier: Apache-2.0
"""The report over all notebooks of a plan: what people open after a run."""

from runner.report.builder import ReportResult, build
from runner.report.summary import summary_schema

__all__ = ["ReportResult", "build", "summary_schema"]
