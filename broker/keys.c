/* SPDX-License-Identifier: Apache-2.0
 *
 * keys.c - the data directory and the key that signs access tokens.
 *
 * The key is written to a temporary file (O_EXCL, 0600), synced, and given its name without
 * replacing anything (RENAME_NOREPLACE), so a crash leaves no half key and of two first starts one
 * wins.
 */
#include "broker/keys.h"

#include "actors/store_salvage.h"

#include <postern/log.h>
#include <postern/metrics.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "broker/config_internal.h"

#define CHECK_BYTES (16u << 20) /* of a database that is read whole after an unclean end */

#define KEY_HEX_BYTES (KEYS_TOKEN_BYTES * 2)

/* ---- directories ----------------------------------------------------------------------------- */

/* mkdir -p; the last one with mode. */
static int make_directories(const char *path, mode_t mode) {
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part)
        return -ENAMETOOLONG;
    memcpy(part, path, n + 1);
    for (size_t i = 1; i < n; i++) {
        if (part[i] != '/')
            continue;
        part[i] = '\0';
        if (mkdir(part, 0777) < 0 && errno != EEXIST)
            return -errno;
        part[i] = '/';
    }
    return mkdir(part, mode) < 0 && errno != EEXIST ? -errno : 0;
}

int keys_prepare_data(const char *data, struct config_error *reterr) {
    struct stat st;
    int err = make_directories(data, 0700);
    if (err < 0)
        return config_fail(reterr, -PTN_EIO,
                           "data: cannot make %.300s: %s; choose another with --data", data,
                           strerror(-err));
    if (stat(data, &st) < 0 || !S_ISDIR(st.st_mode))
        return config_fail(reterr, -PTN_EIO,
                           "data: %.300s is not a directory; choose another with --data", data);
    if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
        return config_fail(reterr, -PTN_EACCESS,
                           "data: others may write to %.300s; run `chmod go-w %.100s`", data, data);
    if (access(data, R_OK | W_OK | X_OK) < 0)
        return config_fail(reterr, -PTN_EACCESS,
                           "data: %.300s is not ours to write: %s; choose another with --data",
                           data, strerror(errno));
    return 0;
}

int keys_lock_data(const char *data, int *ret_fd, struct config_error *reterr) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/lock", data);
    if (n < 0 || (size_t)n >= sizeof path)
        return config_fail(reterr, -PTN_ETOOBIG, "data: the path is too long");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return config_fail(reterr, -PTN_EIO, "%.300s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        bool taken = errno == EWOULDBLOCK;
        const char *why = strerror(errno);
        close(fd);
        return taken ? config_fail(reterr, -PTN_EEXIST,
                                   "data: another broker runs on %.300s; stop it, or choose "
                                   "another directory with --data",
                                   data)
                     : config_fail(reterr, -PTN_EIO, "%.300s: %s", path, why);
    }
    *ret_fd = fd;
    return 0;
}

static int sync_directory(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int err = fsync(fd) < 0 ? -errno : 0;
    close(fd);
    return err;
}

/* ---- the token key --------------------------------------------------------------------------- */

/* The key file at path.  -PTN_ENOTFOUND: there is none. */
static int read_key(const char *path, uint8_t ret_key[KEYS_TOKEN_BYTES],
                    struct config_error *reterr) {
    char text[KEY_HEX_BYTES + 2];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? -PTN_ENOTFOUND
                               : config_fail(reterr, -PTN_EIO, "%.300s: %s", path, strerror(errno));
    bool known = fstat(fd, &st) == 0;
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    int err = 0;
    size_t bytes = 0;
    if (!known || n < 0)
        err = config_fail(reterr, -PTN_EIO, "%.300s: cannot be read", path);
    else if ((st.st_mode & (S_IRWXG | S_IRWXO)) != 0)
        err = config_fail(
            reterr, -PTN_EACCESS,
            "%.200s: others can read the token key; run `chmod 600 %.200s`, and remove the file "
            "if somebody may have seen it",
            path, path);
    else if (n < KEY_HEX_BYTES || (n > KEY_HEX_BYTES && text[KEY_HEX_BYTES] != '\n') ||
             sodium_hex2bin(ret_key, KEYS_TOKEN_BYTES, text, KEY_HEX_BYTES, NULL, &bytes, NULL) !=
                 0 ||
             bytes != KEYS_TOKEN_BYTES)
        err = config_fail(
            reterr, -PTN_EPROTO,
            "%.200s: not a key of 64 hexadecimal digits; restore it, or remove it (everybody "
            "must then log in again)",
            path);
    sodium_memzero(text, sizeof text);
    return err;
}

static int write_all(int fd, const char *p, size_t n) {
    while (n > 0) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -EIO;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

/* Gives the file its name; 0 also when another process was quicker. */
static int name_key(const char *from, const char *to) {
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    int err = errno;
    if (err == EINVAL || err == ENOSYS) /* a file system without the flag */
        return rename(from, to) < 0 ? -errno : 0;
    (void)unlink(from);
    return err == EEXIST ? 0 : -err;
}

static int write_key(const char *directory, const char *path) {
    uint8_t key[KEYS_TOKEN_BYTES];
    char text[KEY_HEX_BYTES + 2], draft[PATH_MAX];
    if (snprintf(draft, sizeof draft, "%s.%ld", path, (long)getpid()) >= (int)sizeof draft)
        return -ENAMETOOLONG;
    (void)unlink(draft); /* left over from a crash, under a process id that is ours now */
    int fd = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    randombytes_buf(key, sizeof key);
    (void)sodium_bin2hex(text, KEY_HEX_BYTES + 1, key, sizeof key);
    text[KEY_HEX_BYTES] = '\n';
    int err = write_all(fd, text, KEY_HEX_BYTES + 1);
    if (err == 0 && fsync(fd) < 0)
        err = -errno;
    if (close(fd) < 0 && err == 0)
        err = -errno;
    sodium_memzero(key, sizeof key);
    sodium_memzero(text, sizeof text);
    if (err == 0)
        err = name_key(draft, path);
    else
        (void)unlink(draft);
    return err < 0 ? err : sync_directory(directory);
}

int keys_load(const char *data, uint8_t ret_key[KEYS_TOKEN_BYTES], struct config_error *reterr) {
    char directory[PATH_MAX - 64], path[PATH_MAX - 32];
    if (snprintf(directory, sizeof directory, "%s/keys", data) >= (int)sizeof directory)
        return config_fail(reterr, -PTN_ETOOBIG,
                           "data: the path is too long; choose another with --data");
    (void)snprintf(path, sizeof path, "%s/token.key", directory);
    if (sodium_init() < 0)
        return config_fail(reterr, -PTN_EIO, "no source of random numbers");
    int err = read_key(path, ret_key, reterr);
    if (err != -PTN_ENOTFOUND)
        return err;
    err = make_directories(directory, 0700);
    if (err == 0)
        err = write_key(directory, path);
    if (err < 0)
        return config_fail(reterr, -PTN_EIO, "%.300s: cannot be written: %s", path, strerror(-err));
    err = read_key(path, ret_key, reterr);
    if (err == -PTN_ENOTFOUND)
        return config_fail(reterr, -PTN_EIO, "%.300s: vanished while starting; start again", path);
    return err;
}

/* ---- secrets from files -----------------------------------------------------------------------
 */

int keys_read_secret(const char *path, char *buf, size_t buf_bytes, struct config_error *reterr) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return config_fail(reterr, -PTN_EIO, "%.300s: %s", path, strerror(errno));
    size_t n = 0;
    ssize_t got = 1;
    while (n < buf_bytes && (got = read(fd, buf + n, buf_bytes - n)) > 0)
        n += (size_t)got;
    close(fd);
    if (got < 0)
        return config_fail(reterr, -PTN_EIO, "%.300s: cannot be read", path);
    const char *end = memchr(buf, '\n', n);
    if (end == NULL && n == buf_bytes)
        return config_fail(reterr, -PTN_ETOOBIG, "%.300s: the first line is longer than %zu bytes",
                           path, buf_bytes - 1);
    n = end == NULL ? n : (size_t)(end - buf);
    if (n > 0 && buf[n - 1] == '\r')
        n--;
    return (int)n;
}

/* ---- the database -----------------------------------------------------------------------------
 */

int keys_database_path(const char *data, char *out, size_t out_bytes) {
    int n = snprintf(out, out_bytes, "%s/postern.db", data);
    return n < 0 || (size_t)n >= out_bytes ? -PTN_ETOOBIG : 0;
}

int keys_open_database(const char *data, store_db **ret_db, struct config_error *reterr) {
    char path[PATH_MAX];
    const char *why = NULL;
    if (keys_database_path(data, path, sizeof path) < 0)
        return config_fail(reterr, -PTN_ETOOBIG,
                           "data: the path is too long; choose another with --data");
    static const store_db_opts opts = {0};
    int err = store_db_open(path, &opts, ret_db, &why);
    return err == 0 ? 0
                    : config_fail(reterr, err, "%.200s: %.250s", path,
                                  why != NULL ? why : ptn_err_text(err));
}

int keys_salvage_database(const char *data, struct config_error *reterr) {
    char path[PATH_MAX];
    const char *why = "";
    store_salvage s;
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (keys_database_path(data, path, sizeof path) < 0)
        return config_fail(reterr, -PTN_ETOOBIG, "data: the path is too long");
    int r = store_salvage_if_damaged(path, now.tv_sec, CHECK_BYTES, &s, &why);
    if (r == -PTN_EFULL) {
        store_salvage_request(path, s.found);
        PTN_LOG(PTN_LOG_ERROR, "store.salvage_put_off", PTN_F_Z("found", s.found),
                PTN_F_Z("error", "the disk is full"));
        return config_fail(reterr, r,
                           "the database is damaged (%.100s), and the disk is full: make as much "
                           "room as the database takes twice, and start again",
                           s.found);
    }
    if (r < 0)
        return config_fail(reterr, r, "%.250s", why);
    if (r == 1) {
        ptn_count(PTN_C_STORE_SALVAGES, 1);
        PTN_LOG(PTN_LOG_ERROR, "store.salvaged", PTN_F_Z("found", s.found),
                PTN_F_INT("rows", s.rows), PTN_F_INT("holes", s.holes),
                PTN_F_Z("kept_as", s.kept_as));
    }
    return 0;
}

/* ---- room for a start ------------------------------------------------------------------------ */

#define RESERVE_BYTES (1 << 20)
#define RESERVE_FREE_MIN (16 * (uint64_t)RESERVE_BYTES) /* it is never what others miss */

static int reserve_path(const char *data, char *out, size_t out_bytes) {
    int n = snprintf(out, out_bytes, "%s/reserve", data);
    return n < 0 || (size_t)n >= out_bytes ? -PTN_ETOOBIG : 0;
}

void keys_reserve_release(const char *data) {
    char path[PATH_MAX];
    if (reserve_path(data, path, sizeof path) == 0)
        (void)unlink(path);
}

void keys_reserve_make(const char *data, bool last) {
    char path[PATH_MAX];
    struct statvfs fs;
    if (reserve_path(data, path, sizeof path) < 0 || access(path, F_OK) == 0)
        return;
    if (!last && (statvfs(data, &fs) < 0 || (uint64_t)fs.f_bavail * fs.f_frsize < RESERVE_FREE_MIN))
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    if (posix_fallocate(fd, 0, RESERVE_BYTES) != 0)
        (void)unlink(path);
    (void)close(fd);
}
