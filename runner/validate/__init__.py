# SPDX-License-Identifier: Apache-2.0
"""`runner validate`: checks whether this system is ready for the notebooks, with a hint for each problem.

Each module has the checks of one subject, as functions that return `runner.core.records.Check`. `system` runs them
concurrently, `show` presents the result.
"""
