# SPDX-License-Identifier: Apache-2.0
"""What lies in an output folder: claims of runs in flight, earlier attempts, logs and saved notebooks."""
