# SPDX-License-Identifier: Apache-2.0
"""Fork detection without a system call, by a page that the kernel clears in child processes.

``os.register_at_fork`` misses forks made in C, as by uWSGI. Calling ``getpid`` for each record
would add a few percent to the cost of sending it.
"""

import mmap

MADV_WIPEONFORK = 18
"""Advice for madvise(2), since Linux 4.14; Python defines no constant for it."""


def fork_mark() -> bytes | mmap.mmap:
    """Return a sequence whose first item is 1 in this process and 0 in children forked later.

    If the kernel does not support ``MADV_WIPEONFORK``, the item is always 0.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(MADV_WIPEONFORK)
    except OSError:
        page.close()
        return bytes(1)
    page[0] = 1
    return page
