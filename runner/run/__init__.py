# SPDX-License-Identifier: Apache-2.0
"""One run of one notebook: `lifecycle` tells the story, the modules beside it are its parts."""
