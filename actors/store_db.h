/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db.h - the synchronous core of the store: one SQLite database, one catalogue message at a
 * time.
 *
 * The store actor runs it on its lane; the command line runs it directly, also while a broker has
 * the same database open (WAL, busy timeout).  One handle belongs to one thread at a time.
 */
#ifndef POSTERN_ACTORS_STORE_DB_H
#define POSTERN_ACTORS_STORE_DB_H

#include "actors/store_scrub.h"
#include "actors/topic_rule.h"

#include <stdatomic.h>

typedef struct store_db store_db;

/* Replies with rows stop after this many bytes (they always hold one row, if there is one), so that
 * no answer outgrows a connection; whoever asked goes on from the last row. */
#define STORE_PAGE_BYTES (512u << 10) /* conversations and users */
#define STORE_RANGE_BYTES (1u << 20)  /* messages */
#define STORE_MEMBERS_MAX 1000u
#define STORE_ROWS_MAX 1000
#define STORE_PREFERENCES_BYTES (16u << 10)

typedef struct store_retention { /* 0: kept for ever */
    const struct topic_rule
        *topics; /* outlive the database; topics without a rule are left alone */
    size_t n_topics;
    uint64_t messages_age_ms, messages, messages_bytes; /* of a conversation; its newest stays */
} store_retention;

/* What may wait for one user, in all conversations: a message that any of the devices has not
 * acknowledged counts once.  What is over the limits is passed, as a dead letter of each device
 * that it waited for: of the device that was here last the newest stay, in the newest conversations
 * first, and of the others what there is still room for.  0: no limit; but a limit of bytes is one
 * of STORE_QUEUE_MESSAGES_MAX messages too, which are all that anybody looks at. */
#define STORE_QUEUE_MESSAGES_MAX 65536u
#define STORE_QUEUE_CONVERSATIONS_MAX 1000u
#define STORE_QUEUE_DEVICES_MAX 1000u
typedef struct store_queue {
    uint64_t messages, bytes, ttl_ms;
    uint32_t conversations; /* of one feed, the newest; 0: 1,000, the most */
    uint32_t
        devices; /* of one user; past it the one away longest is forgotten; 0: 32; at most 1,000 */
} store_queue;

/* How the search for damage stands, for STORE_STATS; whoever searches writes it. */
typedef struct store_scrub_view {
    _Atomic(uint32_t) state; /* enum ptn_store_scrub */
    _Atomic(uint64_t) bytes; /* read in this round */
    _Atomic(int64_t) ended_ms;
} store_scrub_view;

typedef struct store_db_opts {
    store_retention retention;  /* enforced by STORE_RETAIN */
    store_queue queue;          /* enforced by STORE_FEED_OPEN and STORE_FEED_TEND */
    uint32_t cache_bytes;       /* of SQLite's page cache; 0: 8 MiB */
    uint32_t busy_ms;           /* waiting for another process that writes; 0: 5,000 */
    uint32_t conversations_max; /* whose last sequence number is kept in memory; 0: 8,192 */
    uint32_t checkpoint_pages;  /* in the log before they move to the database; 0: 4,000 */
    uint32_t dead_letters_max;  /* the oldest go; 0: 10,000 */
    const char *vfs; /* a registered SQLite VFS, which then creates the file; NULL: the system's */
    store_scrub_view *scrub; /* NULL: nobody searches */
    bool read_only;          /* the database is there and current: some other handle made it */
} store_db_opts;

/* Opens or creates the database (mode 0600; its directory must exist) and migrates it in one
 * transaction. -PTN_EPROTO: made by a newer version; -PTN_EIO, -PTN_EACCESS, -PTN_ENOMEM.
 * *reterr_why: one line for people, valid until the next call on this thread. */
int store_db_open(const char *path, const store_db_opts *opts, store_db **ret_db,
                  const char **reterr_why);
void store_db_close(store_db *db); /* accepts NULL; an open transaction is rolled back */

/* Makes durable what the last crash left in the log.  SQLite recovers it from the kernel's cache,
 * where it may never have been synced, and then takes it for durable: a retry of a message found
 * there would be acknowledged before the message is on disk.  Whoever acknowledges writes calls
 * this once after opening.  Errors as store_db_begin() and store_db_commit(). */
int store_db_settle(store_db *db);

/* Whoever serves clients from this database: after a start that follows no clean end, topics whose
 * newest events may be lost get new epochs, and in a copy (store_backup.h) all topics and
 * conversations do.  store_db_close() then notes the clean end. */
int store_db_claim(store_db *db);

/* What is left to be searched for damage (store_scrub.h).  A start that follows no clean end wants
 * one round over all of it: what was read before that end may have been damaged by it, so a round
 * that is under way is finished, and then comes another one. */
typedef struct store_scrub_plan {
    int64_t rounds; /* 0: nothing to do */
    store_scrub_place at;
    int64_t ended_ms; /* when the last one was; 0: never */
} store_scrub_plan;
/* After store_db_claim().  0 or an error. */
int store_db_scrub_plan(store_db *db, store_scrub_plan *ret_plan);
/* Damage that was found beside the database's own reading: in the log, and the next start salvages.
 */
void store_db_note_damage(store_db *db, const char *found);

/* True for kinds that change the database. */
bool store_db_is_write(uint32_t type);
/* True for writes that need not wait for the disk. */
bool store_db_is_relaxed(uint32_t type);
/* True for writes whose answers are small, and that clients send one after the other. */
bool store_db_is_append(uint32_t type);
/* True for reads whose answers may be large: pages of messages, conversations, users. */
bool store_db_is_page(uint32_t type);
/* True for those of them that a handle of its own may answer at any time: whoever asks builds
 * nothing on the order of its answer and of answers to writes. */
bool store_db_is_read_aside(uint32_t type);

/* A transaction around any number of executes.  begin: -PTN_EOVERLOAD when another process holds
 * the lock for longer than busy_ms.  commit: 0, or the error that everybody in the transaction must
 * hear (-PTN_EFULL, -PTN_EIO, -PTN_ENOMEM, -PTN_EOVERLOAD), and then nothing of it was stored. */
int store_db_begin(store_db *db);
/* Between transactions: whether commits from now on wait for the disk (default), or are durable at
 * the next flush or waiting commit only. */
int store_db_relax(store_db *db, bool on);
int store_db_flush(store_db *db);
int store_db_commit(store_db *db);
void store_db_rollback(store_db *db);

/* Commits that leave their sync to another thread, so that the next transactions can be filled
 * meanwhile.  Until that thread's store_db_sync() has succeeded they are not to be acknowledged,
 * and whoever else reads them may see them go; there is one sync at a time, and no commit of
 * another kind before store_db_afloat_ended().  may_float: between begin and commit, whether one
 * can. commit_afloat: as commit. */
bool store_db_may_float(const store_db *db);
int store_db_commit_afloat(store_db *db);
int store_db_sync(store_db *db); /* any thread */
/* err: of a sync; then the next begin takes the log back to so many pages: what it had before the
 * first commit that was not synced. */
void store_db_afloat_ended(store_db *db, int err, uint32_t pages);
uint32_t store_db_log_pages(const store_db *db);
/* A sync has failed, and no transaction since has put the log right: what is read may be anything.
 */
bool store_db_is_unsettled(const store_db *db);

/* The last transaction that wanted to change something found no room, and none has since. */
bool store_db_is_full(const store_db *db);

/* Reads between these two see one state of the database: all that was committed before.  0 or an
 * error, and then there is nothing to end.  It keeps the log from being reset: keep it short. */
int store_db_read_begin(store_db *db);
void store_db_read_end(store_db *db);

/* Runs one STORE_* message.  Returns the reply's payload and kind; NULL: no memory, and then an
 * open transaction cannot commit any more.  A refusal (PROBLEM) never harms the transaction; a
 * failure of the storage dooms it: see store_db_commit().  A write outside a transaction gets one
 * of its own. */
ptn_buf *store_db_execute(store_db *db, uint32_t type, ptn_bytes payload, uint32_t *ret_type);

/* PROBLEM payload for a runtime error, as ptn_problem_pass() would send it.  NULL: no memory. */
ptn_buf *store_db_problem_of(int err);

/* Moving the log to the database, between transactions: whoever commits does it when it is due and
 * nobody waits for an answer; the last handle that is closed does it, too.  Readers keep pages in
 * the log that they still need: then the rest moves with a later one.  Errors as begin; nothing is
 * lost by one. */
bool store_db_checkpoint_is_due(const store_db *db);
int store_db_checkpoint(store_db *db);
uint64_t store_db_log_bytes(const store_db *db); /* of what has not been moved */

/* Between transactions, when nobody waits for an answer: makes the file of the log longer before
 * the next commits have to, which is cheaper for them.  What fails, fails in silence: they do it
 * themselves then. */
void store_db_make_room(store_db *db);

/* Messages and events stored by the transaction that committed last: for metrics. */
uint32_t store_db_rows_committed(const store_db *db);
uint32_t store_db_rows_waiting(const store_db *db); /* ...by the open one so far */

#endif
