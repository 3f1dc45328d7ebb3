"""How much fits into this machine: asked before something of a stranger's size is read whole.

What belongs here: that question. What does not: what is done where it is too little (see `replay`, `conformance`).
"""

from __future__ import annotations

import os


def memory_bytes() -> int:
    """The machine's memory, whoever uses it now."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
