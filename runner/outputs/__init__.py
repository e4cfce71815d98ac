# SPDX-License-Identifier: Apache-2.0
"""Files of an output folder: claims of active runs, earlier attempts, logs and saved notebooks."""
