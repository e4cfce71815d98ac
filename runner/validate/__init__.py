# SPDX-License-Identifier: Apache-2.0
"""`runner validate`: is this system fit for the notebooks, and if not, what is to be done?

Each module holds the checks of one subject, as functions from what is seen to a
`runner.records.Check`. `system` calls them side by side, `show` and `page` present the result.
"""
