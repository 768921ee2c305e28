/* SPDX-License-Identifier: Apache-2.0
 *
 * store_backup.c - copies of the database that are whole or not there.
 *
 * A copy is made by SQLite's backup interface, a bounded number of pages at a time, under one read
 * transaction: without that, every commit of a broker would make it begin again.  It grows under a
 * name of its own (.part), is checked and synced, and is then renamed.
 *
 * The names of one database and its log cannot be changed in one step.  So what comes in stands
 * complete beside it first (.fresh), and as long as it stands there, the exchange is not over:
 * store_swap_finish() goes on with it.
 */
#include "actors/store_backup.h"

#include "actors/store_db_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define PATH_BYTES 4352
#define STEP_PAGES 1024u
#define BUSY_MS 5000
#define FINDINGS_MAX 100

static _Thread_local char why_text[512];

static int fail(int err, const char **reterr_why, const char *path, const char *what) {
    (void)snprintf(why_text, sizeof why_text, "%.300s: %.200s", path, what);
    *reterr_why = why_text;
    return err;
}

static int fail_errno(const char **reterr_why, const char *path) {
    int e = errno;
    return fail(e == ENOSPC || e == EDQUOT  ? -PTN_EFULL
                : e == EACCES || e == EPERM ? -PTN_EACCESS
                : e == EEXIST               ? -PTN_EEXIST
                                            : -PTN_EIO,
                reterr_why, path, strerror(e));
}

static int fail_sql(const char **reterr_why, const char *path, sqlite3 *sql, int rc) {
    int err = (rc & 0xff) == SQLITE_NOTADB || (rc & 0xff) == SQLITE_CORRUPT ? -PTN_EPROTO
                                                                            : store_err_of(rc);
    return fail(err, reterr_why, path, sql != NULL ? sqlite3_errmsg(sql) : "out of memory");
}

static int name_of(char out[PATH_BYTES], const char *path, const char *suffix,
                   const char **reterr_why) {
    int n = snprintf(out, PATH_BYTES, "%s%s", path, suffix);
    return n < 0 || n >= PATH_BYTES ? fail(-PTN_ETOOBIG, reterr_why, path, "the path is too long")
                                    : 0;
}

/* ---- copying ------------------------------------------------------------------------------ */

static int open_source(const char *from, sqlite3 **ret_sql, const char **reterr_why) {
    sqlite3 *sql = NULL;
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
    int rc = sqlite3_open_v2(from, &sql, flags | SQLITE_OPEN_READWRITE, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(sql, BUSY_MS);
    if (rc == SQLITE_OK) /* a database of ours, and from here on one state of it */
        rc = sqlite3_exec(sql, "PRAGMA query_only = ON; BEGIN; SELECT n FROM totals", NULL, NULL,
                          NULL);
    if (rc != SQLITE_OK) {
        int err = fail_sql(reterr_why, from, sql, rc);
        (void)sqlite3_close(sql);
        return err;
    }
    *ret_sql = sql;
    return 0;
}

static int copy_pages(sqlite3 *source, sqlite3 *copy, const store_backup_opts *o,
                      const char **reterr_why, const char *to) {
    sqlite3_backup *b = sqlite3_backup_init(copy, "main", source, "main");
    if (b == NULL)
        return fail_sql(reterr_why, to, copy, sqlite3_errcode(copy));
    int rc = SQLITE_OK;
    bool go_on = true;
    while (rc == SQLITE_OK && go_on) {
        rc = sqlite3_backup_step(b, (int)(o->step_pages != 0 ? o->step_pages : STEP_PAGES));
        int total = sqlite3_backup_pagecount(b), left = sqlite3_backup_remaining(b);
        if (o->on_step != NULL && (rc == SQLITE_OK || rc == SQLITE_DONE))
            go_on = o->on_step(o->arg, (uint32_t)(total - left), (uint32_t)total);
    }
    (void)sqlite3_backup_finish(b);
    if (!go_on)
        return fail(-PTN_ESTOPPING, reterr_why, to, "interrupted");
    return rc == SQLITE_DONE ? 0 : fail_sql(reterr_why, to, copy, rc);
}

struct findings {
    void (*tell)(void *arg, const char *text);
    void *arg;
    int n;
    char first[200];
};

static int note_finding(void *arg, int n, char **values, char **names) {
    struct findings *f = arg;
    (void)names;
    if (n < 1 || values[0] == NULL || strcmp(values[0], "ok") == 0)
        return 0;
    if (f->n++ == 0)
        (void)snprintf(f->first, sizeof f->first, "%s", values[0]);
    if (f->tell != NULL)
        f->tell(f->arg, values[0]);
    return 0;
}

/* As a file of its own, without a log; current, and known for a copy. */
static int finish_copy(sqlite3 *copy, const char *to, const char **reterr_why) {
    struct findings f = {.n = 0};
    int rc = sqlite3_exec(copy, "PRAGMA journal_mode = DELETE", NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(copy, "PRAGMA quick_check(1)", note_finding, &f, NULL);
    if (rc == SQLITE_OK && f.n > 0)
        return fail(-PTN_EPROTO, reterr_why, to, f.first);
    int err = rc == SQLITE_OK ? store_schema_migrate(copy, reterr_why) : 0;
    if (err != 0)
        return err;
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(
            copy, "INSERT INTO meta VALUES('copied', 1) ON CONFLICT DO UPDATE SET value = 1", NULL,
            NULL, NULL);
    return rc == SQLITE_OK ? 0 : fail_sql(reterr_why, to, copy, rc);
}

int store_sync_file(const char *path) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int e = fsync(fd) < 0 ? errno : 0;
    (void)close(fd);
    errno = e;
    return e == 0 ? 0 : -1;
}

/* The whole copy, synced, at `part`; what is left of one after a failure is the caller's. */
static int make_copy(const char *from, const char *part, const store_backup_opts *o,
                     const char **reterr_why) {
    sqlite3 *source = NULL, *copy = NULL;
    int err = open_source(from, &source, reterr_why);
    if (err != 0)
        return err;
    int fd = open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        err = fail_errno(reterr_why, part);
    else
        (void)close(fd);
    if (err == 0) {
        int rc = sqlite3_open_v2(
            part, &copy, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
        err = rc == SQLITE_OK ? copy_pages(source, copy, o, reterr_why, part)
                              : fail_sql(reterr_why, part, copy, rc);
    }
    (void)sqlite3_close(source); /* the broker's log may be reset again */
    if (err == 0)
        err = finish_copy(copy, part, reterr_why);
    if (sqlite3_close(copy) != SQLITE_OK && err == 0)
        err = fail(-PTN_EIO, reterr_why, part, "cannot be closed");
    if (err == 0 && store_sync_file(part) < 0)
        err = fail_errno(reterr_why, part);
    return err;
}

static void part_remove(const char *part) {
    static const char *const suffix[] = {"", "-journal", "-wal", "-shm"};
    char name[PATH_BYTES];
    const char *ignored;
    for (size_t i = 0; i < PTN_ARRAY_LEN(suffix); i++)
        if (name_of(name, part, suffix[i], &ignored) == 0)
            (void)unlink(name);
}

int store_backup(const char *from, const char *to, const store_backup_opts *opts,
                 const char **reterr_why) {
    char part[PATH_BYTES];
    store_backup_opts o = opts != NULL ? *opts : (store_backup_opts){0};
    int err = name_of(part, to, ".part", reterr_why);
    if (err == 0 && access(to, F_OK) == 0)
        err = fail(-PTN_EEXIST, reterr_why, to, "is there already; choose another name");
    if (err != 0)
        return err;
    part_remove(part); /* of one that was interrupted */
    err = make_copy(from, part, &o, reterr_why);
    if (err == 0 && (rename(part, to) < 0 || store_sync_directory_of(to) < 0))
        err = fail_errno(reterr_why, to);
    if (err != 0)
        part_remove(part);
    return err;
}

/* ---- taking the place of a database -------------------------------------------------------- */

int store_swap(const char *path, const char *why, int64_t now_s, const char **reterr_why) {
    static const char *const suffix[] = {"", "-wal"};
    char fresh[PATH_BYTES], from[PATH_BYTES], to[PATH_BYTES], kept[96];
    int err = name_of(fresh, path, ".fresh", reterr_why);
    for (size_t i = 0; i < PTN_ARRAY_LEN(suffix) && err == 0; i++) {
        (void)snprintf(kept, sizeof kept, ".%.32s-%lld%s", why, (long long)now_s, suffix[i]);
        err = name_of(from, path, suffix[i], reterr_why);
        if (err == 0)
            err = name_of(to, path, kept, reterr_why);
        if (err == 0 && rename(from, to) < 0 && errno != ENOENT)
            err = fail_errno(reterr_why, from);
    }
    if (err == 0)
        err = name_of(from, path, "-shm", reterr_why);
    if (err != 0)
        return err;
    (void)unlink(from); /* an index, made anew from the log */
    /* The old names have to be gone before the new one comes: a log beside a file that it does not
     * belong to would be believed. */
    if (store_sync_directory_of(path) < 0 || rename(fresh, path) < 0 ||
        store_sync_directory_of(path) < 0)
        return fail_errno(reterr_why, path);
    return 0;
}

int store_swap_finish(const char *path, const char *why, int64_t now_s, const char **reterr_why) {
    char fresh[PATH_BYTES];
    int err = name_of(fresh, path, ".fresh", reterr_why);
    if (err != 0)
        return err;
    if (access(fresh, F_OK) < 0)
        return errno == ENOENT ? 0 : fail_errno(reterr_why, fresh);
    err = store_swap(path, why, now_s, reterr_why);
    return err == 0 ? 1 : err;
}

int store_restore(const char *from, const char *path, int64_t now_s, const char **reterr_why) {
    char fresh[PATH_BYTES];
    int err = name_of(fresh, path, ".fresh", reterr_why);
    if (err == 0)
        err = store_swap_finish(path, "old", now_s, reterr_why) < 0 ? -PTN_EIO : 0;
    if (err == 0)
        err = store_backup(from, fresh, NULL, reterr_why);
    return err == 0 ? store_swap(path, "old", now_s, reterr_why) : err;
}

/* ---- inspection ---------------------------------------------------------------------------- */

int store_check(const char *path, void (*finding)(void *arg, const char *text), void *arg,
                const char **reterr_why) {
    struct findings f = {.tell = finding, .arg = arg};
    char text[64];
    sqlite3 *sql = NULL;
    int err = open_source(path, &sql, reterr_why);
    if (err != 0)
        return err;
    (void)snprintf(text, sizeof text, "PRAGMA integrity_check(%d)", FINDINGS_MAX);
    int rc = sqlite3_exec(sql, text, note_finding, &f, NULL);
    if (rc != SQLITE_OK)
        err = fail_sql(reterr_why, path, sql, rc);
    (void)sqlite3_close(sql);
    if (err == -PTN_EPROTO && f.n == 0 && finding != NULL)
        finding(arg, *reterr_why);
    return err == -PTN_EPROTO ? f.n + 1 : err != 0 ? err : f.n;
}
