/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db.c - opening the database, transactions, statements, and the way from a message to its
 * operation.
 *
 * Durability: WAL with synchronous=FULL, so that a COMMIT that returned is on disk, and a torn tail
 * of the log is ignored by the next open.  No memory-mapped reads: a bad sector would then be a
 * SIGBUS that ends the broker instead of an error that one request hears.
 *
 * Statements are prepared on first use and kept.  Nothing here scans a table when it opens.
 */
#include "actors/store_db_internal.h"
#include "actors/store_salvage.h"

#include <postern/log.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const statement_text[STORE_SQL_COUNT] = {
#define XX(id, sql) sql,
    STORE_STATEMENT_MAP(XX)
#undef XX
};

static _Thread_local char why_text[256];

int store_err_of(int rc) {
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_FULL:
        return -PTN_EFULL;
    case SQLITE_NOMEM:
        return -PTN_ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -PTN_EOVERLOAD;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_AUTH:
        return -PTN_EACCESS;
    default:
        return -PTN_EIO;
    }
}

/* The last error of the handle.  A quota, or room that only a sync finds missing, has no code of
 * its own in SQLite: the errno of the log says it. */
static int last_err(store_db *db) {
    int rc = sqlite3_extended_errcode(db->sql), e = 0;
    sqlite3_file *log =
        rc == SQLITE_IOERR_WRITE || rc == SQLITE_IOERR_FSYNC ? store_log_of(db) : NULL;
    if (log != NULL)
        (void)log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &e);
    if (e == EDQUOT || e == ENOSPC)
        return -PTN_EFULL;
    int err = store_err_of(rc);
    return err != 0 ? err : -PTN_EIO;
}

static void caches_drop(store_db *db) {
    store_convs_drop(db);
    store_topics_drop(db);
    db->change = -1;
}

/* ---- open and close ----------------------------------------------------------------------- */

/* SQLite sees to that for the log only. */
int store_sync_directory_of(const char *path) {
    char dir[4096];
    const char *slash = strrchr(path, '/');
    size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (n >= sizeof dir) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(dir, path, n);
    dir[n] = '\0';
    int fd = open(n > 0 ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int err = fsync(fd) < 0 && errno != EINVAL ? errno : 0; /* EINVAL: not on this file system */
    (void)close(fd);
    errno = err;
    return err == 0 ? 0 : -1;
}

/* Creates the file before SQLite does, readable by its owner only; the log and its index inherit
 * the mode.  An empty one is new: perhaps the last start ended right here. */
static int create_private(const char *path, const char **reterr_why) {
    struct stat st;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd >= 0 && fstat(fd, &st) == 0 && (st.st_size > 0 || store_sync_directory_of(path) == 0)) {
        (void)close(fd);
        return 0;
    }
    int e = errno;
    (void)sqlite3_snprintf(sizeof why_text, why_text, "cannot open %s: %s", path, strerror(e));
    *reterr_why = why_text;
    if (fd >= 0)
        (void)close(fd);
    return e == EACCES || e == EPERM || e == EROFS ? -PTN_EACCESS : -PTN_EIO;
}

/* The mode stands in the file. */
static int enter_wal(store_db *db) {
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(db->sql, "PRAGMA journal_mode = WAL", -1, &s, NULL);
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(s);
        if (rc == SQLITE_ROW)
            rc = ptn_str_eqz(store_column_str(s, 0), "wal") ? SQLITE_OK : SQLITE_CANTOPEN;
    }
    (void)sqlite3_finalize(s);
    return rc;
}

/* After each commit; its return value is the commit's. */
static int note_log(void *arg, sqlite3 *sql, const char *name, int pages) {
    (void)sql;
    (void)name;
    ((store_db *)arg)->log_pages = (uint32_t)pages;
    return SQLITE_OK;
}

static int set_pragmas(store_db *db, const store_db_opts *o) {
    char text[512];
    uint32_t cache_bytes = o->cache_bytes != 0 ? o->cache_bytes : 8u << 20;
    db->checkpoint_pages = o->checkpoint_pages != 0 ? o->checkpoint_pages : 4000;
    (void)sqlite3_snprintf(sizeof text, text,
                           "PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
                           "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;"
                           "PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;"
                           "PRAGMA journal_size_limit = 33554432; PRAGMA cache_size = -%u",
                           cache_bytes / 1024u);
    (void)sqlite3_wal_hook(db->sql, note_log, db); /* instead of SQLite's own checkpoints */
    (void)sqlite3_db_config(db->sql, SQLITE_DBCONFIG_DEFENSIVE, 1, (int *)NULL);
    (void)sqlite3_busy_timeout(db->sql, o->busy_ms != 0 ? (int)o->busy_ms : 5000);
    int rc = sqlite3_exec(db->sql, text, NULL, NULL, NULL);
    return rc == SQLITE_OK && !o->read_only ? enter_wal(db) : rc;
}

/* Nobody asks how much memory SQLite has, and the count costs a lock per allocation.  Too late, in
 * a process that has used SQLite before: then it goes on counting. */
static void count_no_memory(void) {
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

/* SQLite says "disk I/O error" when there is no room for the log's index. */
static bool has_no_room(store_db *db, int rc) {
    int e = db->sql != NULL ? sqlite3_system_errno(db->sql) : 0;
    return (rc & 0xff) == SQLITE_FULL ||
           ((rc & 0xff) == SQLITE_IOERR && (e == ENOSPC || e == EDQUOT));
}

int store_db_open(const char *path, const store_db_opts *opts, store_db **ret_db,
                  const char **reterr_why) {
    store_db_opts o = opts != NULL ? *opts : (store_db_opts){0};
    const char *why = NULL;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, count_no_memory);
    store_db *db = calloc(1, sizeof *db);
    int err = db == NULL                     ? -PTN_ENOMEM
              : o.vfs != NULL || o.read_only ? 0
                                             : create_private(path, &why);
    if (err == 0) {
        db->retention.rules = o.retention;
        db->queue.limits = o.queue;
        if (o.queue.conversations == 0)
            db->queue.limits.conversations = 1000;
        if (o.queue.devices == 0)
            db->queue.limits.devices = 32;
        db->foreign = o.vfs != NULL;
        db->scrub = o.scrub;
        db->convs_max = o.conversations_max != 0 ? o.conversations_max : 8192;
        db->dead_letters_max = o.dead_letters_max != 0 ? o.dead_letters_max : 10000;
        int flags = (o.read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE) |
                    SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE |
                    (o.vfs != NULL && !o.read_only ? SQLITE_OPEN_CREATE : 0);
        const char *vfs = o.read_only ? o.vfs : store_gather_open(db, o.vfs);
        int rc =
            o.read_only || vfs != NULL ? sqlite3_open_v2(path, &db->sql, flags, vfs) : SQLITE_NOMEM;
        if (rc == SQLITE_OK)
            rc = set_pragmas(db, &o);
        err = has_no_room(db, rc) ? -PTN_EFULL : store_err_of(rc);
        if (err == 0 && !o.read_only)
            err = store_schema_migrate(db->sql, &why);
        if (err != 0 && why == NULL) {
            (void)sqlite3_snprintf(sizeof why_text, why_text, "cannot use the database %s: %s",
                                   path,
                                   err == -PTN_EFULL ? "the disk is full, make room"
                                   : db->sql != NULL ? sqlite3_errmsg(db->sql)
                                                     : "out of memory");
            why = why_text;
        }
    }
    if (err != 0) {
        if (reterr_why != NULL)
            *reterr_why = why != NULL ? why : ptn_err_text(err);
        store_db_close(db);
        return err;
    }
    *ret_db = db;
    return 0;
}

/* Everything is on disk: positions are worth what they say. */
static int note_clean_end(store_db *db) {
    int err = store_db_relax(db, false);
    if (err == 0)
        err = store_db_begin(db);
    if (err != 0)
        return err;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_TOPICS_TIGHT);
    if (s != NULL)
        (void)(store_run(db, s) && store_meta_set(db, "clean", 1));
    return store_db_commit(db);
}

void store_db_close(store_db *db) {
    if (db == NULL)
        return;
    if (db->claimed && !db->in_transaction)
        (void)note_clean_end(db); /* without it the next start is a little more careful */
    caches_drop(db);
    for (size_t i = 0; i < STORE_SQL_COUNT; i++)
        (void)sqlite3_finalize(db->statement[i]);
    if (db->unsettled) /* the next start reads it from the log, and makes it durable first */
        (void)sqlite3_db_config(db->sql, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, (int *)NULL);
    (void)sqlite3_close(db->sql);
    store_gather_close(db);
    free(db);
}

/* ---- statements --------------------------------------------------------------------------- */

sqlite3_stmt *store_sql(store_db *db, enum store_statement which) {
    sqlite3_stmt *s = db->statement[which];
    /* SQLite may have ended the transaction with the error: this would be stored by itself. */
    if (PTN_UNLIKELY(db->doomed != 0 && db->in_transaction))
        return NULL;
    if (PTN_LIKELY(s != NULL)) {
        (void)sqlite3_reset(s);
        return s;
    }
    if (sqlite3_prepare_v3(db->sql, statement_text[which], -1, SQLITE_PREPARE_PERSISTENT, &s,
                           NULL) != SQLITE_OK) {
        uint32_t ignored;
        ptn_buf_unref(store_db_fail(db, &ignored));
        return NULL;
    }
    db->statement[which] = s;
    return s;
}

bool store_run(store_db *db, sqlite3_stmt *s) {
    int rc = sqlite3_step(s);
    if (rc == SQLITE_DONE) {
        (void)sqlite3_reset(s);
        return true;
    }
    uint32_t ignored;
    ptn_buf_unref(store_db_fail(db, &ignored));
    (void)sqlite3_reset(s);
    return false;
}

/* SQLITE_STATIC: the bytes outlive the step, and every bound statement is bound anew before its
 * next step. */
void store_bind_str(sqlite3_stmt *s, int at, ptn_str v) {
    (void)sqlite3_bind_text64(s, at, v.n == 0 ? "" : v.p, v.n, SQLITE_STATIC, SQLITE_UTF8);
}

void store_bind_str_or_null(sqlite3_stmt *s, int at, ptn_str v) {
    if (v.n == 0)
        (void)sqlite3_bind_null(s, at);
    else
        store_bind_str(s, at, v);
}

void store_bind_blob(sqlite3_stmt *s, int at, ptn_bytes v) {
    if (v.p == NULL)
        (void)sqlite3_bind_null(s, at);
    else
        (void)sqlite3_bind_blob64(s, at, v.p, v.n, SQLITE_STATIC);
}

ptn_str store_column_str(sqlite3_stmt *s, int at) {
    const char *p = (const char *)sqlite3_column_text(s, at);
    return p == NULL ? (ptn_str){"", 0} : (ptn_str){p, (size_t)sqlite3_column_bytes(s, at)};
}

ptn_bytes store_column_blob(sqlite3_stmt *s, int at) {
    const uint8_t *p = sqlite3_column_blob(s, at);
    return p == NULL ? (ptn_bytes){NULL, 0} : (ptn_bytes){p, (size_t)sqlite3_column_bytes(s, at)};
}

/* ---- replies ------------------------------------------------------------------------------ */

ptn_buf *store_reply(store_db *db, ptn_pack *w, uint32_t type, uint32_t *ret_type) {
    ptn_buf *b = ptn_pack_finish(w);
    if (b == NULL)
        db->doomed =
            -PTN_ENOMEM; /* nobody may be told that the write failed while it is committed */
    *ret_type = type;
    return b;
}

ptn_buf *store_reply_rows(store_db *db, ptn_pack *rows, uint32_t n, uint32_t type,
                          uint32_t *ret_type) {
    ptn_pack w;
    ptn_buf *encoded = ptn_pack_finish(rows);
    if (encoded == NULL && n > 0)
        return NULL;
    ptn_pack_init(&w, ptn_buf_bytes(encoded).n + 8);
    ptn_pack_array(&w, n);
    if (n > 0)
        ptn_pack_raw(&w, ptn_buf_bytes(encoded));
    ptn_buf_unref(encoded);
    return store_reply(db, &w, type, ret_type);
}

static void pack_problem(ptn_pack *w, int code, const char *message) {
    ptn_pack_init(w, 160);
    ptn_pack_array(w, 3);
    ptn_pack_int(w, code);
    ptn_pack_cstr(w, message);
}

ptn_buf *store_problem(int code, const char *message, uint32_t *ret_type) {
    ptn_pack w;
    pack_problem(&w, code, message);
    ptn_pack_nil(&w);
    *ret_type = PTN_MSG_PROBLEM;
    return ptn_pack_finish(&w);
}

ptn_buf *store_problem_field(int code, const char *message, ptn_str field, const char *reason,
                             uint32_t *ret_type) {
    ptn_pack w;
    pack_problem(&w, code, message);
    ptn_pack_map(&w, 1);
    ptn_pack_str(&w, field);
    ptn_pack_cstr(&w, reason);
    *ret_type = PTN_MSG_PROBLEM;
    return ptn_pack_finish(&w);
}

ptn_buf *store_malformed(uint32_t *ret_type) {
    return store_problem(PTN_CODE_INTERNAL, "the store got a message that it cannot read",
                         ret_type);
}

ptn_buf *store_ok(uint32_t *ret_type) {
    static const uint8_t nil = 0xc0;
    *ret_type = PTN_MSG_OK;
    return ptn_buf_copy(&nil, 1);
}

ptn_buf *store_db_problem_of(int err) {
    const char *message;
    uint32_t type;
    int code = ptn_code_of_err(err, &message);
    return store_problem(code, message, &type);
}

/* The next start sees to it: a database cannot be exchanged while others read it. */
void store_db_note_damage(store_db *db, const char *found) {
    if (db->damage_noted)
        return;
    db->damage_noted = true;
    PTN_LOG(PTN_LOG_ERROR, "store.damaged", PTN_F_Z("error", found));
    if (!db->foreign)
        store_salvage_request(sqlite3_db_filename(db->sql, "main"), found);
}

/* Of commits that nobody has synced the disk may have kept anything (store_db_log.c): wait and see.
 */
static void note_damage(store_db *db) {
    int rc = sqlite3_errcode(db->sql);
    if (rc != SQLITE_CORRUPT && rc != SQLITE_NOTADB)
        return;
    if (db->afloat)
        (void)sqlite3_snprintf(sizeof db->doubt, db->doubt, "%s", sqlite3_errmsg(db->sql));
    else
        store_db_note_damage(db, sqlite3_errmsg(db->sql));
}

ptn_buf *store_db_fail(store_db *db, uint32_t *ret_type) {
    note_damage(db);
    bool known = store_err_of(sqlite3_extended_errcode(db->sql)) != 0;
    int err = !known && db->doomed != 0 ? db->doomed : last_err(db);
    if (db->in_transaction && db->doomed == 0)
        db->doomed = err;
    caches_drop(db);
    /* A cursor left open would keep an old snapshot alive and the log from shrinking. */
    for (sqlite3_stmt *s = sqlite3_next_stmt(db->sql, NULL); s != NULL;
         s = sqlite3_next_stmt(db->sql, s))
        (void)sqlite3_reset(s);
    *ret_type = PTN_MSG_PROBLEM;
    return store_db_problem_of(err);
}

/* ---- transactions ------------------------------------------------------------------------- */

/* Forgets what the caches know when another process has written since. */
static bool check_data_version(store_db *db) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DATA_VERSION);
    if (s == NULL || sqlite3_step(s) != SQLITE_ROW)
        return false;
    int64_t version = sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    db->version_changed = version != db->data_version;
    if (db->version_changed)
        caches_drop(db);
    db->data_version = version;
    return true;
}

/* Read ahead of every write: a statement that fails in the middle of one may end the transaction,
 * and what came behind it would be stored by itself. */
static bool load_change(store_db *db) {
    sqlite3_stmt *s = db->change < 0 ? store_sql(db, STORE_SQL_CHANGE) : NULL;
    if (db->change >= 0)
        return true;
    if (s != NULL && sqlite3_step(s) == SQLITE_ROW)
        db->change = sqlite3_column_int64(s, 0);
    if (s != NULL)
        (void)sqlite3_reset(s);
    return db->change >= 0;
}

static bool run_plain(store_db *db, enum store_statement which) {
    sqlite3_stmt *s = store_sql(db, which);
    return s != NULL && store_run(db, s);
}

static int begin_write(store_db *db) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_BEGIN);
    int err = s != NULL && sqlite3_step(s) == SQLITE_DONE ? 0 : last_err(db);
    if (s != NULL)
        (void)sqlite3_reset(s);
    db->in_transaction = err == 0;
    return err;
}

/* Inside a transaction.  What a failed sync took out of the log, its index still knows: the log is
 * read once more, and ends where its checksums end.  A topic may go back by that. */
static int begin_anew(store_db *db) {
    uint32_t known = db->log_pages;
    bool alone = check_data_version(db) && !db->version_changed;
    int err = store_log_forget_index(db, alone ? known : 0);
    store_db_rollback(db);
    if (err == 0 && (err = begin_write(db)) == 0) {
        db->log_pages = store_log_frames(db);
        db->renew_topics = db->renew_topics || db->log_pages < known;
    }
    return err; /* afloat until store_log_settle() has succeeded: its sync may fail, too */
}

int store_db_begin(store_db *db) {
    PTN_ASSERT(!db->in_transaction);
    db->doomed = 0;
    db->rows_committed = 0;
    db->must_sync = false;
    db->changes_before = sqlite3_total_changes(db->sql);
    db->changes = false;
    db->users_added = db->conversations_added = db->messages_added = db->events_added =
        db->messages_removed = 0;
    int err = begin_write(db);
    if (err == 0 && db->unsettled && db->afloat)
        err = begin_anew(db);
    if (err == 0)
        err = check_data_version(db) ? store_log_settle(db) : last_err(db);
    if (err == 0 &&
        (!load_change(db) || (db->renew_topics && !run_plain(db, STORE_SQL_TOPICS_RENEW))))
        err = last_err(db);
    if (err != 0 && db->in_transaction)
        store_db_rollback(db);
    return err;
}

int store_db_settle(store_db *db) {
    db->unsettled = true;
    int err = store_db_begin(db); /* nobody else writes to the log meanwhile */
    if (err == 0)
        store_db_rollback(db);
    return err;
}

/* ---- commits that do not wait ------------------------------------------------------------- */

int store_db_relax(store_db *db, bool on) {
    PTN_ASSERT(!db->in_transaction);
    if (db->relaxed == on)
        return 0;
    sqlite3_stmt *s = store_sql(db, on ? STORE_SQL_SYNC_NORMAL : STORE_SQL_SYNC_FULL);
    if (s == NULL || !store_run(db, s))
        return last_err(db);
    db->relaxed = on;
    return 0;
}

void store_db_unsettle(store_db *db) {
    db->unsettled = true;
    db->doubt[0] = '\0';
    caches_drop(db);
}

/* ---- clean ends --------------------------------------------------------------------------- */

/* A new database has nothing to be careful about. */
static void renew_epochs(store_db *db) {
    int64_t clean = 0, copied = 0;
    if (!store_meta_get(db, "clean", 1, &clean) || !store_meta_get(db, "copied", 0, &copied))
        return;
    if (copied != 0)
        (void)(run_plain(db, STORE_SQL_TOPICS_RENEW_ALL) &&
               run_plain(db, STORE_SQL_CONVS_RENEW_ALL) && run_plain(db, STORE_SQL_ERAS_CLEAR) &&
               store_meta_set(db, "copied", 0) && store_scrub_forget(db));
    else if (clean == 0)
        (void)(run_plain(db, STORE_SQL_TOPICS_RENEW) && store_scrub_again(db));
}

int store_db_claim(store_db *db) {
    int err = store_db_begin(db);
    if (err != 0)
        return err;
    renew_epochs(db);
    (void)(store_meta_set(db, "clean", 0) && store_era_begin(db));
    err = store_db_commit(db);
    db->claimed = err == 0;
    return err;
}

static bool add_total(store_db *db, const char *name, int64_t n) {
    if (n == 0)
        return true;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_TOTALS_ADD);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, ptn_str_of(name));
    (void)sqlite3_bind_int64(s, 2, n);
    return store_run(db, s);
}

int64_t store_change(store_db *db) {
    PTN_ASSERT(db->in_transaction); /* store_db_begin() has read the last one */
    db->changes = true;
    return db->change + 1;
}

int store_db_commit(store_db *db) {
    PTN_ASSERT(db->in_transaction);
    if (db->doomed == 0) {
        (void)(add_total(db, "users", db->users_added) &&
               add_total(db, "conversations", db->conversations_added) &&
               add_total(db, "messages", db->messages_added - db->messages_removed) &&
               add_total(db, "change", db->changes));
    }
    sqlite3_stmt *s = db->doomed == 0 ? store_sql(db, STORE_SQL_COMMIT) : NULL;
    if (s != NULL && (db->relaxed ? store_run(db, s) : store_gather_commit(db, s, db->floats))) {
        db->in_transaction = false;
        db->change += db->changes;
        db->renew_topics = false;
        db->rows_committed = (uint32_t)(db->messages_added + db->events_added);
        if (sqlite3_total_changes(db->sql) != db->changes_before) {
            db->full = false;
            if (db->relaxed || db->floats)
                db->afloat = true;
            else
                store_db_synced(db); /* the whole log was */
        }
        return db->relaxed && db->must_sync ? store_db_flush(db) : 0;
    }
    /* A sync that failed has made the kernel forget the commits before it, too; a write for which
     * there was no room has not. */
    int rc = sqlite3_extended_errcode(db->sql);
    if (s != NULL && db->afloat && (db->doomed != -PTN_EFULL || rc == SQLITE_IOERR_FSYNC))
        db->unsettled = true;
    int err = db->doomed != 0 ? db->doomed : -PTN_EIO;
    db->full = err == -PTN_EFULL;
    store_db_rollback(db);
    return err;
}

bool store_db_is_full(const store_db *db) {
    return db->full;
}

void store_db_rollback(store_db *db) {
    caches_drop(db);
    db->in_transaction = false;
    db->doomed = 0;
    if (sqlite3_get_autocommit(db->sql) == 0) { /* some errors have rolled back already */
        sqlite3_stmt *s = store_sql(db, STORE_SQL_ROLLBACK);
        if (s != NULL) {
            (void)sqlite3_step(s);
            (void)sqlite3_reset(s);
        }
    }
}

int store_db_read_begin(store_db *db) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_BEGIN_READ);
    if (s == NULL || !store_run(db, s))
        return last_err(db);
    if (check_data_version(db)) /* the first read: from here on the state stands */
        return 0;
    int err = last_err(db);
    store_db_read_end(db);
    return err;
}

void store_db_read_end(store_db *db) {
    sqlite3_stmt *s =
        sqlite3_get_autocommit(db->sql) == 0 ? store_sql(db, STORE_SQL_ROLLBACK) : NULL;
    if (s != NULL)
        (void)store_run(db, s);
}

uint64_t store_db_log_bytes(const store_db *db) {
    return (uint64_t)db->log_pages * STORE_PAGE;
}

bool store_db_checkpoint_is_due(const store_db *db) {
    return db->log_pages >= db->checkpoint_pages;
}

int store_db_checkpoint(store_db *db) {
    PTN_ASSERT(!db->in_transaction);
    int all = 0, moved = 0;
    /* What stands in the log may not be what its index says; and a checkpoint before a flush that
     * is still to come would sync the log itself and keep a failure to itself. */
    if (db->unsettled || db->afloat)
        return 0;
    int rc = sqlite3_wal_checkpoint_v2(db->sql, "main", SQLITE_CHECKPOINT_PASSIVE, &all, &moved);
    if (rc == SQLITE_OK && moved == all)
        db->log_pages = 0; /* the next write begins it anew, unless somebody still reads there */
    return rc == SQLITE_BUSY ? 0 : store_err_of(rc);
}

uint32_t store_db_rows_committed(const store_db *db) {
    return db->rows_committed;
}

uint32_t store_db_rows_waiting(const store_db *db) {
    return (uint32_t)(db->messages_added + db->events_added);
}

/* ---- dispatch ----------------------------------------------------------------------------- */

static ptn_buf *op_flush(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    (void)u;
    int err = store_db_flush(db);
    if (err == 0)
        return store_ok(ret_type);
    *ret_type = PTN_MSG_PROBLEM;
    return store_db_problem_of(err);
}

static const struct operation {
    uint32_t type;
    /* PAGE: a read whose answer may be large; OWN: one in order with answers to writes */
    enum { READ, PAGE, OWN, WRITE } kind;
    uint8_t n_fields; /* of the payload; 0: nil, or it looks itself */
    store_op run;
} operations[] = {
    {PTN_MSG_STORE_MSG_APPEND, WRITE, 7, store_msg_append},
    {PTN_MSG_STORE_MSG_RANGE, PAGE, 4, store_msg_range},
    {PTN_MSG_STORE_MSG_OWN_RANGE, OWN, 4, store_msg_range},
    {PTN_MSG_STORE_MSG_READ, WRITE, 3, store_msg_read},
    {PTN_MSG_STORE_CONV_ADD, WRITE, 0, store_conv_add},
    {PTN_MSG_STORE_CONV_GET, READ, 1, store_conv_get},
    {PTN_MSG_STORE_CONV_LIST, PAGE, 3, store_conv_list},
    {PTN_MSG_STORE_MEMBERS_ADD, WRITE, 3, store_members_add},
    {PTN_MSG_STORE_MEMBERS_REMOVE, WRITE, 2, store_members_remove},
    {PTN_MSG_STORE_USER_ADD, WRITE, 6, store_user_add},
    {PTN_MSG_STORE_USER_BY_NAME, READ, 1, store_user_by_name},
    {PTN_MSG_STORE_USER_BY_ID, READ, 1, store_user_by_id},
    {PTN_MSG_STORE_USER_LIST, PAGE, 2, store_user_list},
    {PTN_MSG_STORE_HOUSEHOLD, PAGE, 2, store_household},
    {PTN_MSG_STORE_USER_PASSWORD, WRITE, 3, store_user_password},
    {PTN_MSG_STORE_EDIT, WRITE, 4, store_edit},
    {PTN_MSG_STORE_SYNC, PAGE, 3, store_sync},
    {PTN_MSG_STORE_SESSION_ADD, WRITE, 5, store_session_add},
    {PTN_MSG_STORE_SESSION_ROTATE, WRITE, 5, store_session_rotate},
    {PTN_MSG_STORE_SESSION_REVOKE, WRITE, 2, store_session_revoke},
    {PTN_MSG_STORE_SESSIONS_REVOKED, READ, 3, store_sessions_revoked},
    {PTN_MSG_STORE_STATS, READ, 0, store_stats},
    {PTN_MSG_STORE_EVENTS_APPEND, WRITE, 5, store_events_append},
    {PTN_MSG_STORE_EVENTS_APPEND_WRITTEN, WRITE, 5, store_events_append_written},
    {PTN_MSG_STORE_EVENT_RANGE, PAGE, 4, store_event_range},
    {PTN_MSG_STORE_TOPIC_OPEN, WRITE, 4, store_topic_open},
    {PTN_MSG_STORE_RETAIN, WRITE, 1, store_retain},
    {PTN_MSG_STORE_FEED_OPEN, WRITE, 3, store_feed_open},
    {PTN_MSG_STORE_FEED_TEND, WRITE, 1, store_feed_tend},
    {PTN_MSG_STORE_FEED_ACK, WRITE, 2, store_feed_ack},
    {PTN_MSG_STORE_DEAD_ADD, WRITE, 7, store_dead_add},
    {PTN_MSG_STORE_DEAD_LIST, PAGE, 2, store_dead_list},
    {PTN_MSG_STORE_DEAD_REPLAY, WRITE, 2, store_dead_replay},
    {PTN_MSG_STORE_DEAD_PURGE, WRITE, 2, store_dead_purge},
    {PTN_MSG_STORE_FLUSH, READ, 0, op_flush},
    {PTN_MSG_STORE_PROBE, WRITE, 0, store_probe},
    {PTN_MSG_STORE_SCRUB_NOTE, WRITE, 5, store_scrub_note},
};

/* NULL: not for the store. */
static const struct operation *find_operation(uint32_t type) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(operations); i++)
        if (operations[i].type == type)
            return &operations[i];
    return NULL;
}

bool store_db_is_write(uint32_t type) {
    const struct operation *o = find_operation(type);
    return o != NULL && o->kind == WRITE;
}

bool store_db_is_append(uint32_t type) {
    return type == PTN_MSG_STORE_MSG_APPEND || type == PTN_MSG_STORE_EVENTS_APPEND ||
           type == PTN_MSG_STORE_EVENTS_APPEND_WRITTEN || type == PTN_MSG_STORE_MSG_READ ||
           type == PTN_MSG_STORE_FEED_ACK;
}

bool store_db_is_page(uint32_t type) {
    const struct operation *o = find_operation(type);
    return o != NULL && (o->kind == PAGE || o->kind == OWN);
}

bool store_db_is_read_aside(uint32_t type) {
    const struct operation *o = find_operation(type);
    return o != NULL && o->kind == PAGE;
}

bool store_db_is_relaxed(uint32_t type) {
    return type == PTN_MSG_STORE_EVENTS_APPEND_WRITTEN || type == PTN_MSG_STORE_FEED_OPEN ||
           type == PTN_MSG_STORE_FEED_ACK || type == PTN_MSG_STORE_FEED_TEND ||
           type == PTN_MSG_STORE_SCRUB_NOTE;
}

static ptn_buf *run_operation(store_db *db, const struct operation *o, ptn_bytes payload,
                              uint32_t *ret_type) {
    ptn_unpack u = ptn_unpack_of(payload);
    uint32_t n;
    if (o->n_fields > 0 && (!ptn_unpack_array(&u, &n) || n != o->n_fields))
        return store_malformed(ret_type);
    if (db->doomed != 0 && db->in_transaction) { /* it cannot be stored any more: do not even try */
        *ret_type = PTN_MSG_PROBLEM;
        return store_db_problem_of(db->doomed);
    }
    ptn_buf *b = o->run(db, &u, ret_type);
    if (b == NULL && db->in_transaction)
        db->doomed = -PTN_ENOMEM;
    return b;
}

ptn_buf *store_db_execute(store_db *db, uint32_t type, ptn_bytes payload, uint32_t *ret_type) {
    const struct operation *o = find_operation(type);
    *ret_type = PTN_MSG_PROBLEM;
    if (o == NULL)
        return store_malformed(ret_type);
    if (db->in_transaction || o->kind != WRITE)
        return run_operation(db, o, payload, ret_type);
    int err = store_db_begin(db);
    if (err != 0)
        return store_db_problem_of(err);
    ptn_buf *b = run_operation(db, o, payload, ret_type);
    err = store_db_commit(db);
    if (err != 0) {
        ptn_buf_unref(b);
        *ret_type = PTN_MSG_PROBLEM;
        return store_db_problem_of(err);
    }
    return b;
}
