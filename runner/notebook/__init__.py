# SPDX-License-Identifier: Apache-2.0
"""One notebook: prepared, executed, judged, converted."""
