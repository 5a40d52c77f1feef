# SPDX-License-Identifier: Apache-2.0
"""Notices a fork without a system call, by memory that the kernel clears in a child process.

os.register_at_fork does not tell of every fork: uWSGI forks in C, without Python's knowledge. To
ask for the process id each time takes a few per cent of what it takes to send a record.
"""

import mmap

MADV_WIPEONFORK = 18
"""madvise(2), since Linux 4.14; Python has no name for it."""


def fork_mark() -> bytes | mmap.mmap:
    """A sequence whose first item is 1 in this process and 0 in every child that is forked later.

    Where the kernel cannot do that, it is always 0.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(MADV_WIPEONFORK)
    except OSError:
        page.close()
        return bytes(1)
    page[0] = 1
    return page
