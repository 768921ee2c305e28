/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_log.c - SQLite's write-ahead log after a sync that failed (sqlite.org/walformat.html).
 *
 * A kernel may drop what it could not write.  Commits that have not been synced yet then stand in
 * the log's index, in shared memory, and no longer in the log: pages read from there would be
 * anything.  Without its index SQLite reads the log from its beginning and believes frames as far
 * as their checksums hold, which is what it does after a crash.
 *
 * Room ahead.  A commit that makes the file longer waits for the file system's journal, too, and
 * takes twice as long as one that overwrites.  So zeros are written and synced behind the end
 * before commits get there: a checksum does not hold for them, and a log that began anew overwrites
 * itself anyway.
 */
#include "actors/store_db_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    LOG_HEADER_BYTES = 32,
    FRAME_HEADER_BYTES = 24,
    INDEX_REGION_BYTES = 32768,
    INDEX_HEADER_BYTES = 96, /* two copies */
    INDEX_PAGE_SIZE_AT = 14, /* in the byte order of the machine */
    INDEX_MX_FRAME_AT = 16,
    ROOM_BYTES = 512 << 10, /* made at once: a hundred commits of one page */
};

sqlite3_file *store_log_of(store_db *db) {
    sqlite3_file *log = NULL;
    int rc = sqlite3_file_control(db->sql, "main", SQLITE_FCNTL_JOURNAL_POINTER, (void *)&log);
    return rc == SQLITE_OK && log != NULL && log->pMethods != NULL ? log : NULL;
}

/* Reads the log and writes it back: what is in the cache is dirty then, whatever the kernel thought
 * of it before, and the sync means it. */
static int log_rewrite(sqlite3_file *log) {
    enum { CHUNK = 64 << 10 };
    sqlite3_int64 size = 0;
    int rc = log->pMethods->xFileSize(log, &size);
    if (rc != SQLITE_OK || size == 0)
        return rc;
    char *chunk = malloc(CHUNK);
    if (chunk == NULL)
        return SQLITE_NOMEM;
    for (sqlite3_int64 at = 0; at < size && rc == SQLITE_OK; at += CHUNK) {
        int n = size - at < CHUNK ? (int)(size - at) : CHUNK;
        rc = log->pMethods->xRead(log, chunk, n, at);
        if (rc == SQLITE_OK)
            rc = log->pMethods->xWrite(log, chunk, n, at);
    }
    free(chunk);
    return rc == SQLITE_OK ? log->pMethods->xSync(log, SQLITE_SYNC_NORMAL) : rc;
}

int store_log_settle(store_db *db) {
    if (!db->unsettled)
        return 0;
    sqlite3_file *log = store_log_of(db);
    int rc = log != NULL ? log_rewrite(log) : SQLITE_OK;
    db->unsettled = rc != SQLITE_OK;
    db->afloat = db->afloat && db->unsettled;
    return store_err_of(rc);
}

/* The first region of the index; NULL: there is none. */
static volatile char *index_of(store_db *db, sqlite3_file **ret_file) {
    sqlite3_file *file = NULL;
    void volatile *index = NULL;
    int rc = sqlite3_file_control(db->sql, "main", SQLITE_FCNTL_FILE_POINTER, (void *)&file);
    *ret_file = file;
    if (rc != SQLITE_OK || file == NULL || file->pMethods == NULL || file->pMethods->iVersion < 2 ||
        file->pMethods->xShmMap(file, 0, INDEX_REGION_BYTES, 0, &index) != SQLITE_OK)
        return NULL;
    return index;
}

static void index_read(volatile char *index, size_t at, void *ret, size_t n) {
    for (size_t i = 0; i < n; i++)
        ((char *)ret)[i] = index[at + i];
}

uint32_t store_log_frames(store_db *db) {
    sqlite3_file *file;
    volatile char *index = index_of(db, &file);
    uint32_t frames = 0;
    if (index != NULL)
        index_read(index, INDEX_MX_FRAME_AT, &frames, sizeof frames);
    return frames;
}

int store_log_forget_index(store_db *db, uint32_t frames) {
    sqlite3_file *file, *log = store_log_of(db);
    volatile char *index = index_of(db, &file);
    uint16_t page = 0;
    if (log == NULL || index == NULL)
        return -PTN_EIO;
    index_read(index, INDEX_PAGE_SIZE_AT, &page, sizeof page);
    uint32_t frame = FRAME_HEADER_BYTES + (page == 1 ? 65536u : page);
    sqlite3_int64 size = 0, end = LOG_HEADER_BYTES + (sqlite3_int64)frames * frame;
    int rc = log->pMethods->xFileSize(log, &size);
    if (rc == SQLITE_OK && frames > 0 &&
        size > end) /* a commit that was refused must not come back */
        rc = log->pMethods->xTruncate(log, end);
    db->log_room = 0;
    if (rc != SQLITE_OK)
        return store_err_of(rc);
    for (size_t i = 0; i < INDEX_HEADER_BYTES; i++)
        index[i] = 0;
    file->pMethods->xShmBarrier(file);
    return 0;
}

static sqlite3_int64 end_of(uint32_t frames) {
    return LOG_HEADER_BYTES + (sqlite3_int64)frames * (FRAME_HEADER_BYTES + STORE_PAGE);
}

static bool wants_room(const store_db *db) {
    return end_of(db->log_pages) + ROOM_BYTES / 2 >= db->log_room &&
           db->log_room < end_of(db->checkpoint_pages) && db->log_pages > 0;
}

/* ---- syncs of all that was committed ------------------------------------------------------ */

uint32_t store_db_log_pages(const store_db *db) {
    return db->log_pages;
}

void store_db_synced(store_db *db) {
    db->afloat = false;
    if (db->doubt[0] != '\0')
        store_db_note_damage(db, db->doubt);
    db->doubt[0] = '\0';
}

int store_db_flush(store_db *db) {
    sqlite3_file *log = store_log_of(db);
    int rc = log != NULL ? log->pMethods->xSync(log, SQLITE_SYNC_NORMAL) : SQLITE_OK;
    if (rc == SQLITE_OK) {
        store_db_synced(db);
        return 0;
    }
    store_db_unsettle(db);
    return store_err_of(rc);
}

bool store_db_is_unsettled(const store_db *db) {
    return db->unsettled;
}

/* ---- commits that another thread syncs ---------------------------------------------------- */

/* A log that is about to begin anew has nothing to go back to; and these other commits sync more
 * than their own, or nothing. */
bool store_db_may_float(const store_db *db) {
    return db->log_pages > 0 && !db->relaxed && !db->renew_topics && !db->unsettled &&
           !store_db_checkpoint_is_due(db) && !wants_room(db);
}

int store_db_commit_afloat(store_db *db) {
    PTN_ASSERT(store_db_may_float(db));
    db->floats = true;
    int err = store_db_commit(db);
    db->floats = false;
    return err;
}

void store_db_afloat_ended(store_db *db, int err, uint32_t pages) {
    if (err == 0) {
        store_db_synced(db);
        return;
    }
    db->log_pages = pages; /* the writers of the rest have heard that it failed */
    store_db_unsettle(db);
}

/* ---- room ahead --------------------------------------------------------------------------- */

static int zeros_write(sqlite3_file *log, sqlite3_int64 from, sqlite3_int64 to) {
    static const char zeros[64 << 10];
    int rc = SQLITE_OK;
    for (sqlite3_int64 at = from; at < to && rc == SQLITE_OK; at += (int)sizeof zeros) {
        int n = to - at < (int)sizeof zeros ? (int)(to - at) : (int)sizeof zeros;
        rc = log->pMethods->xWrite(log, zeros, n, at);
    }
    return rc == SQLITE_OK ? log->pMethods->xSync(log, SQLITE_SYNC_NORMAL) : rc;
}

/* Inside a transaction: nobody else makes the log longer. */
static int room_make(store_db *db, sqlite3_int64 end) {
    sqlite3_file *log = store_log_of(db);
    sqlite3_int64 size = 0, to = end + ROOM_BYTES, most = end_of(db->checkpoint_pages);
    if (log == NULL)
        return SQLITE_OK;
    to = to < most ? to : most;
    int rc = log->pMethods->xFileSize(log, &size);
    if (rc == SQLITE_OK && size >= end && size < to)
        rc = zeros_write(log, size, to);
    if (rc == SQLITE_OK)
        db->log_room = size > to ? size : to;
    return rc;
}

void store_db_make_room(store_db *db) {
    if (!wants_room(db) || db->in_transaction || db->unsettled || db->afloat)
        return;
    db->log_room =
        end_of(db->log_pages) + ROOM_BYTES; /* a failure is not looked at again before that */
    if (store_db_begin(db) != 0)
        return;
    (void)room_make(db, end_of(store_log_frames(db)));
    (void)store_db_commit(db); /* of nothing: a rollback would forget what is cached */
}
