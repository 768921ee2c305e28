/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_gather.c - what a commit writes to the log, in one piece.
 *
 * SQLite writes each page of a commit in two pieces, a head of 24 bytes and the page, and syncs
 * them all at the end.  Each piece is a system call: 38 of them for 19 pages take several times the
 * CPU time of one write of the same bytes.  So the handle that writes opens its log through a VFS
 * (sqlite.org/vfs.html) that keeps what stands one behind the other, and hands it on when SQLite
 * syncs, reads, or writes elsewhere.
 *
 * Nobody can miss what is kept: it is kept during a COMMIT that syncs, and the index of the log,
 * through which everybody finds a page, is written behind the sync.  A write that fails then fails
 * the sync, and so the commit.
 */
#include "actors/store_db_internal.h"

#include <stdlib.h>

enum { GATHER_BYTES = 128 << 10 }; /* 31 pages; more go in several pieces */

struct store_gather {
    sqlite3_vfs vfs; /* first: SQLite hands it back */
    sqlite3_vfs *base;
    sqlite3_file *log; /* behind the log's file; NULL: not open */
    char name[40];
    bool on;
    bool defers; /* somebody else syncs what is written */
    int n;       /* bytes kept, for this place in the log */
    sqlite3_int64 at;
    char bytes[GATHER_BYTES];
};

struct log_file {
    sqlite3_file file; /* first, likewise */
    struct store_gather *g;
    sqlite3_file *base; /* behind this one */
};

static int hand_on(struct log_file *l) {
    struct store_gather *g = l->g;
    int n = g->n;
    g->n = 0;
    return n > 0 ? l->base->pMethods->xWrite(l->base, g->bytes, n, g->at) : SQLITE_OK;
}

static int log_close(sqlite3_file *f) {
    struct log_file *l = (struct log_file *)f;
    l->g->n = 0; /* of a commit that failed */
    l->g->log = NULL;
    return l->base->pMethods->xClose(l->base);
}

static int log_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
    struct log_file *l = (struct log_file *)f;
    int rc = hand_on(l);
    return rc == SQLITE_OK ? l->base->pMethods->xRead(l->base, p, n, at) : rc;
}

static int log_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
    struct log_file *l = (struct log_file *)f;
    struct store_gather *g = l->g;
    bool keep = g->on && n <= GATHER_BYTES;
    if (g->n > 0 && !(keep && at == g->at + g->n && n <= GATHER_BYTES - g->n)) {
        int rc = hand_on(l);
        if (rc != SQLITE_OK)
            return rc;
    }
    if (!keep)
        return l->base->pMethods->xWrite(l->base, p, n, at);
    if (g->n == 0)
        g->at = at;
    memcpy(g->bytes + g->n, p, (size_t)n);
    g->n += n;
    return SQLITE_OK;
}

static int log_truncate(sqlite3_file *f, sqlite3_int64 size) {
    struct log_file *l = (struct log_file *)f;
    int rc = hand_on(l);
    return rc == SQLITE_OK ? l->base->pMethods->xTruncate(l->base, size) : rc;
}

/* The head of a log that begins anew has to be on disk before its pages, and two syncs at a time
 * cannot both hear of an error: then nothing is deferred, and the commit fails. */
static int log_sync(sqlite3_file *f, int flags) {
    struct log_file *l = (struct log_file *)f;
    if (l->g->defers && l->g->n > 0 && l->g->at == 0) {
        l->g->n = 0;
        return SQLITE_IOERR_FSYNC;
    }
    int rc = hand_on(l);
    return rc != SQLITE_OK || l->g->defers ? rc : l->base->pMethods->xSync(l->base, flags);
}

static int log_file_size(sqlite3_file *f, sqlite3_int64 *ret_size) {
    struct log_file *l = (struct log_file *)f;
    int rc = hand_on(l);
    return rc == SQLITE_OK ? l->base->pMethods->xFileSize(l->base, ret_size) : rc;
}

static int log_file_control(sqlite3_file *f, int op, void *arg) {
    struct log_file *l = (struct log_file *)f;
    return l->base->pMethods->xFileControl(l->base, op, arg);
}

static int log_sector_size(sqlite3_file *f) {
    struct log_file *l = (struct log_file *)f;
    return l->base->pMethods->xSectorSize(l->base);
}

static int log_device_characteristics(sqlite3_file *f) {
    struct log_file *l = (struct log_file *)f;
    return l->base->pMethods->xDeviceCharacteristics(l->base);
}

/* Nobody locks a log: SQLite's locks are on the database. */
static const sqlite3_io_methods log_methods = {
    .iVersion = 1,
    .xClose = log_close,
    .xRead = log_read,
    .xWrite = log_write,
    .xTruncate = log_truncate,
    .xSync = log_sync,
    .xFileSize = log_file_size,
    .xFileControl = log_file_control,
    .xSectorSize = log_sector_size,
    .xDeviceCharacteristics = log_device_characteristics,
};

static int gather_open(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags,
                       int *ret_flags) {
    struct store_gather *g = (struct store_gather *)vfs;
    if ((flags & SQLITE_OPEN_WAL) == 0)
        return g->base->xOpen(g->base, name, f, flags, ret_flags);
    struct log_file *l = (struct log_file *)f;
    *l = (struct log_file){.g = g, .base = (sqlite3_file *)(l + 1)};
    int rc = g->base->xOpen(g->base, name, l->base, flags, ret_flags);
    if (l->base->pMethods != NULL) /* also after a failure: then SQLite closes it */
        l->file.pMethods = &log_methods;
    if (rc == SQLITE_OK)
        g->log = l->base;
    return rc;
}

const char *store_gather_open(store_db *db, const char *base) {
    sqlite3_vfs *under = sqlite3_vfs_find(base);
    struct store_gather *g = under != NULL ? calloc(1, sizeof *g) : NULL;
    if (g == NULL)
        return NULL;
    g->base = under;
    g->vfs = *under; /* all but opening files is the other's own */
    g->vfs.pNext = NULL;
    g->vfs.szOsFile += (int)sizeof(struct log_file);
    g->vfs.zName = g->name;
    g->vfs.xOpen = gather_open;
    (void)sqlite3_snprintf(sizeof g->name, g->name, "postern-%p", (void *)g);
    if (sqlite3_vfs_register(&g->vfs, 0) != SQLITE_OK) {
        free(g);
        return NULL;
    }
    db->gather = g;
    return g->name;
}

void store_gather_close(store_db *db) {
    if (db->gather == NULL)
        return;
    (void)sqlite3_vfs_unregister(&db->gather->vfs);
    free(db->gather);
}

int store_db_sync(store_db *db) {
    sqlite3_file *log = db->gather->log;
    return log != NULL ? store_err_of(log->pMethods->xSync(log, SQLITE_SYNC_NORMAL)) : -PTN_EIO;
}

bool store_gather_commit(store_db *db, sqlite3_stmt *s, bool defers) {
    struct store_gather *g = db->gather;
    g->on = true;
    g->defers = defers;
    bool ok = store_run(db, s);
    g->on = g->defers = false;
    PTN_ASSERT(!ok || g->n == 0); /* a sync was the last thing that happened to the log */
    g->n = 0;
    return ok;
}
