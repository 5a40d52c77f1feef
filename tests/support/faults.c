/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded into a process: ends it at a system call that changes a file, or lets it fail. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, KILL_BEFORE, KILL_AFTER, KILL_WITHIN, FAIL_ONCE, FAIL_FROM_HERE };

static int mode;
static int failure;
static long left;
static long syncs;
static int read_failure;
static int header_failure;

enum { LARGE = 65536 };

/* Let something happen at a call: the next one is number 1. */
void faults_arm(int new_mode, long number, int error)
{
    mode = new_mode;
    left = number;
    failure = error;
}

/* Return whether the call was reached. */
int faults_disarm(void)
{
    mode = OFF;
    return left <= 0;
}

/* Return how often a file was synchronised. */
long faults_syncs(void)
{
    return syncs;
}

/* Let reading large files fail: for read(), and for pread(), by which SQLite reads; 0 for not. */
void faults_fail_reads(int header, int other)
{
    header_failure = header;
    read_failure = other;
}

static int fails(int fd, int error)
{
    struct stat status;

    if (!error || fstat(fd, &status) || status.st_size < LARGE)
        return 0;
    errno = error;
    return 1;
}

static int reached(void)
{
    return mode != OFF && --left <= 0 && (left == 0 || mode == FAIL_FROM_HERE);
}

static void end(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

#define CALL(partial, complete)                          \
    do {                                                 \
        int now = reached();                             \
        long result;                                     \
        if (now && mode >= FAIL_ONCE) {                  \
            errno = failure;                             \
            return -1;                                   \
        }                                                \
        if (now && mode == KILL_WITHIN)                  \
            partial;                                     \
        if (now && mode != KILL_AFTER)                   \
            end();                                       \
        result = (complete);                             \
        if (now)                                         \
            end();                                       \
        return result;                                   \
    } while (0)

ssize_t write(int fd, const void *data, size_t size)
{
    CALL(syscall(SYS_write, fd, data, size / 2), syscall(SYS_write, fd, data, size));
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    CALL(syscall(SYS_pwrite64, fd, data, size / 2, at), syscall(SYS_pwrite64, fd, data, size, at));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    CALL(syscall(SYS_pwrite64, fd, data, size / 2, at), syscall(SYS_pwrite64, fd, data, size, at));
}

int ftruncate64(int fd, off64_t size)
{
    CALL((void)0, syscall(SYS_ftruncate, fd, size));
}

int ftruncate(int fd, off_t size)
{
    CALL((void)0, syscall(SYS_ftruncate, fd, size));
}

int fsync(int fd)
{
    syncs++;
    CALL((void)0, syscall(SYS_fsync, fd));
}

int fdatasync(int fd)
{
    syncs++;
    CALL((void)0, syscall(SYS_fdatasync, fd));
}

int rename(const char *from, const char *to)
{
    CALL((void)0, syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to));
}

int unlink(const char *path)
{
    CALL((void)0, syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

ssize_t read(int fd, void *data, size_t size)
{
    return fails(fd, header_failure) ? -1 : syscall(SYS_read, fd, data, size);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t at)
{
    return fails(fd, read_failure) ? -1 : syscall(SYS_pread64, fd, data, size, at);
}

ssize_t pread(int fd, void *data, size_t size, off_t at)
{
    return fails(fd, read_failure) ? -1 : syscall(SYS_pread64, fd, data, size, at);
}
