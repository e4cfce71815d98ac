# SPDX-License-Identifier: Apache-2.0
"""What every part of the package builds on: records, errors, log, files, units."""
