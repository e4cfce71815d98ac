# SPDX-License-Identifier: Apache-2.0
"""Random faults at random moments, and the invariants that hold after each. Start at `scenarios`."""
