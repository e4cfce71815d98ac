# SPDX-License-Identifier: Apache-2.0
"""`runner validate`: tells whether this system is fit for the notebooks, and what to do if not.

Each module holds the checks of one subject, as functions from what is seen to a
`runner.core.records.Check`. `system` calls them side by side, `show` and `page` present the result.
"""
