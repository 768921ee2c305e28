/* SPDX-License-Identifier: Apache-2.0
 *
 * fault.c - a disk that fails under one process: preloaded into the broker, told what to do by one
 * byte of the file $FAULT_CONTROL.
 *
 *   '-'  all is well
 *   'f'  no room: writes and growth of database files fail with ENOSPC
 *   's'  the next sync of the log (-wal) fails with EIO, and the byte becomes 't'
 *
 * A failed sync is as on Linux: the kernel marks the pages clean, later syncs say that all is well,
 * and what was written since the last good one may never reach the disk.  Those ranges are listed
 * in $FAULT_LOST, one "offset length" per line, until they are written again; the test then takes
 * them away, as a power cut would.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#define RANGES_MAX 65536

struct range {
    off_t at, n;
};

static volatile char *control;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct range dirty[RANGES_MAX], lost[RANGES_MAX];
static size_t n_dirty, n_lost;

__attribute__((constructor)) static void begin(void) {
    static char none[1] = "-";
    control = none;
    const char *path = getenv("FAULT_CONTROL");
    int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED)
        control = p;
}

static int is_file(int fd, const char *what) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    return strstr(path, what) != NULL;
}

static void tell_lost(void) {
    const char *path = getenv("FAULT_LOST");
    FILE *f = path != NULL ? fopen(path, "we") : NULL;
    for (size_t i = 0; f != NULL && i < n_lost; i++)
        fprintf(f, "%lld %lld\n", (long long)lost[i].at, (long long)lost[i].n);
    if (f != NULL)
        fclose(f);
}

/* A write covers what was lost before, wholly or in part: the parts that remain stay lost. */
static void written(off_t at, off_t n) {
    size_t kept = 0, had = n_lost;
    if (n_dirty < RANGES_MAX)
        dirty[n_dirty++] = (struct range){at, n};
    for (size_t i = 0; i < had; i++) {
        off_t a = lost[i].at, b = a + lost[i].n;
        if (b <= at || a >= at + n) {
            lost[kept++] = lost[i];
            continue;
        }
        if (a < at)
            lost[kept++] = (struct range){a, at - a};
        else if (b > at + n)
            lost[kept++] = (struct range){at + n, b - at - n};
    }
    n_lost = kept;
    if (had > 0)
        tell_lost();
}

static int full(int fd) {
    return *control == 'f' && is_file(fd, "postern.db") ? (errno = ENOSPC, 1) : 0;
}

static ssize_t write_at(ssize_t (*real)(int, const void *, size_t, off_t), int fd, const void *p,
                        size_t n, off_t at) {
    if (full(fd))
        return -1;
    ssize_t done = real(fd, p, n, at);
    if (done > 0 && is_file(fd, "-wal")) {
        pthread_mutex_lock(&lock);
        written(at, done);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

#define REAL(name) (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    static __typeof__(pwrite) *real;
    if (real == NULL)
        real = REAL(pwrite);
    return write_at(real, fd, p, n, at);
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at) {
    static __typeof__(pwrite) *real;
    if (real == NULL)
        real = REAL(pwrite);
    return write_at(real, fd, p, n, at);
}

int ftruncate(int fd, off_t n) {
    static __typeof__(ftruncate) *real;
    if (real == NULL)
        real = REAL(ftruncate);
    return full(fd) ? -1 : real(fd, n);
}

static int synced(int (*real)(int), int fd) {
    if (!is_file(fd, "-wal"))
        return real(fd);
    pthread_mutex_lock(&lock);
    int failed = *control == 's';
    if (failed) {
        *control = 't';
        for (size_t i = 0; i < n_dirty && n_lost < RANGES_MAX; i++)
            lost[n_lost++] = dirty[i];
        tell_lost();
    }
    n_dirty = 0;
    pthread_mutex_unlock(&lock);
    if (!failed)
        return real(fd);
    errno = EIO;
    return -1;
}

int fsync(int fd) {
    static __typeof__(fsync) *real;
    if (real == NULL)
        real = REAL(fsync);
    return synced(real, fd);
}

int fdatasync(int fd) {
    static __typeof__(fdatasync) *real;
    if (real == NULL)
        real = REAL(fdatasync);
    return synced(real, fd);
}
