/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_internal.h - what the files store_db*.c share: the handle, its statements, its small
 * helpers.
 *
 * Errors inside a transaction: a statement that refuses (constraint, no such row) is answered with
 * PROBLEM and leaves the transaction intact, because every operation checks before its first write.
 * Any other SQLite error goes through store_db_fail(), which dooms the transaction.
 */
#ifndef POSTERN_ACTORS_STORE_DB_INTERNAL_H
#define POSTERN_ACTORS_STORE_DB_INTERNAL_H

#include "actors/store_db.h"

#include <sqlite3.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#define STORE_PAGE 4096 /* of the database: SQLite's default */
#define STORE_ID_BYTES_MAX 64
#define STORE_SENDERS 4

/* clang-format off */
#define STORE_STATEMENT_MAP(XX)                                                                            \
    XX(BEGIN, "BEGIN IMMEDIATE")                                                                           \
    XX(BEGIN_READ, "BEGIN")                                                                                \
    XX(COMMIT, "COMMIT")                                                                                   \
    XX(ROLLBACK, "ROLLBACK")                                                                               \
    XX(DATA_VERSION, "PRAGMA data_version")                                                                \
    XX(TOTALS_ADD, "UPDATE totals SET n = n + ?2 WHERE name = ?1")                                         \
    XX(TOTALS, "SELECT name, n FROM totals")                                                               \
    XX(USER_ADD, "INSERT INTO users(id, name, password_hash, roles, household, created_ms, preferences,"   \
                 " change) VALUES(?1, ?2, ?3, ?4, ?5, ?6, x'80', ?7)")                                     \
    XX(USER_BY_NAME, "SELECT " STORE_USER_COLUMNS " FROM users WHERE name = ?1")                           \
    XX(USER_BY_ID, "SELECT " STORE_USER_COLUMNS " FROM users WHERE id = ?1")                               \
    XX(USER_SAME, "SELECT name = ?2 AND roles = ?3 AND household IS ?4 FROM users WHERE id = ?1")          \
    XX(USER_LIST, "SELECT " STORE_USER_COLUMNS " FROM users WHERE name > ?1 ORDER BY name LIMIT ?2")       \
    XX(HOUSEHOLD, "SELECT " STORE_USER_COLUMNS " FROM users WHERE household = ?1 ORDER BY name LIMIT ?2")  \
    XX(USER_PASSWORD, "UPDATE users SET password_hash = ?2, not_before_ms = ?3 WHERE id = ?1")             \
    XX(USERS_CUT, "SELECT id, not_before_ms FROM users WHERE not_before_ms > 0 AND not_before_ms >= ?1"    \
                  " ORDER BY not_before_ms DESC LIMIT ?2")                                                 \
    XX(USER_EDITED, "SELECT version, edited_ms, preferences FROM users WHERE id = ?1")                     \
    XX(USER_PREFERENCES, "UPDATE users SET preferences = ?2, edited_ms = max(edited_ms, ?3), change = ?4," \
                         " version = version + 1 WHERE id = ?1")                                           \
    XX(SESSION_ADD, "INSERT INTO sessions(id, user, refresh_hash, expires_ms, created_ms)"                 \
                    " VALUES(?1, ?2, ?3, ?4, ?5)")                                                         \
    XX(SESSION_GET, "SELECT user, refresh_hash, expires_ms, revoked_ms FROM sessions WHERE id = ?1")       \
    XX(SESSION_ROTATE, "UPDATE sessions SET refresh_hash = ?2, expires_ms = ?3 WHERE id = ?1")             \
    XX(SESSIONS_OF_USER_REVOKE, "UPDATE sessions SET revoked_ms = ?2 WHERE user = ?1 AND revoked_ms IS NULL") \
    XX(SESSION_REVOKE, "UPDATE sessions SET revoked_ms = ?2 WHERE id = ?1 AND revoked_ms IS NULL")         \
    XX(SESSIONS_REVOKED, "SELECT id FROM sessions WHERE revoked_ms >= ?1 ORDER BY revoked_ms DESC LIMIT ?2") \
    XX(SESSIONS_PURGE, "DELETE FROM sessions WHERE id IN"                                                  \
                       " (SELECT id FROM sessions WHERE expires_ms < ?1 ORDER BY expires_ms LIMIT 16)")    \
    XX(CONV_ADD, "INSERT INTO conversations(id, title, creator, created_ms, epoch, request, change)"       \
                 " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")                                                    \
    XX(CONV_REQUEST, "SELECT 1 FROM conversations WHERE id = ?1 AND request IS ?2")                        \
    XX(CONV_BY_ID, "SELECT " STORE_CONV_COLUMNS " FROM conversations c WHERE c.id = ?1")                   \
    XX(CONV_EDITED, "SELECT version, edited_ms, title FROM conversations WHERE id = ?1")                   \
    XX(CONV_TITLE, "UPDATE conversations SET title = ?2, edited_ms = max(edited_ms, ?3), change = ?4,"     \
                   " version = version + 1 WHERE id = ?1")                                                 \
    XX(CONV_TOUCH, "UPDATE conversations SET change = ?2, version = version + 1 WHERE id = ?1")            \
    XX(CONV_KEY, "SELECT key FROM conversations WHERE id = ?1")                                            \
    XX(CONV_LIST, "SELECT " STORE_CONV_COLUMNS " FROM members m"                                           \
                  " JOIN conversations c ON c.id = m.conversation"                                         \
                  " WHERE m.user = ?1 AND m.conversation < ?2 ORDER BY m.conversation DESC LIMIT ?3")      \
    XX(MEMBERS, "SELECT user FROM members WHERE conversation = ?1 ORDER BY user")                          \
    XX(MEMBERS_COUNT, "SELECT count(*) FROM members WHERE conversation = ?1")                              \
    XX(MEMBER_GET, "SELECT 1 FROM members WHERE conversation = ?1 AND user = ?2")                          \
    XX(MEMBER_ADD, "INSERT OR IGNORE INTO members(conversation, user, added_ms, change, joined_seq)"       \
                   " VALUES(?1, ?2, ?3, ?4, coalesce((SELECT max(seq) FROM messages WHERE conversation ="  \
                   " (SELECT key FROM conversations WHERE id = ?1)), 0))")                                 \
    XX(MEMBER_REMOVE, "DELETE FROM members WHERE conversation = ?1 AND user = ?2")                         \
    XX(REMOVAL_ADD, "INSERT INTO removals(user, conversation, change) VALUES(?1, ?2, ?3)"                  \
                    " ON CONFLICT DO UPDATE SET change = excluded.change")                                 \
    XX(REMOVAL_END, "DELETE FROM removals WHERE user = ?1 AND conversation = ?2")                          \
    XX(CURSORS_REMOVE, "DELETE FROM cursors WHERE user = ?2"                                               \
                       " AND conversation = (SELECT key FROM conversations WHERE id = ?1)")                \
    XX(FEED_LIST, "SELECT c.key, c.id, m.joined_seq,"                                                      \
                  " coalesce((SELECT max(seq) FROM messages WHERE conversation = c.key), 0),"              \
                  " coalesce((SELECT min(seq) FROM messages WHERE conversation = c.key), 1) - 1"           \
                  " FROM members m JOIN conversations c ON c.id = m.conversation"                          \
                  " WHERE m.user = ?1 ORDER BY m.conversation DESC LIMIT ?2")                              \
    XX(CURSORS, "SELECT device, seq, deliveries, replay_to, gap_from, gap_reason, gap_letter FROM cursors" \
                " WHERE user = ?1 AND conversation = ?2")                                                  \
    XX(CURSOR_SET, "INSERT INTO cursors(user, conversation, device, seq, deliveries, seen_ms, acked)"      \
                   " SELECT ?1, c.key, ?3, ?4, ?5, ?6, ?4 FROM conversations c JOIN members m"             \
                   " ON m.conversation = c.id AND m.user = ?1 WHERE c.id = ?2"                             \
                   " ON CONFLICT DO UPDATE SET gap_from = iif(excluded.acked > acked, 0, gap_from),"       \
                   " seq = max(seq, excluded.seq), acked = excluded.acked,"                                \
                   " deliveries = excluded.deliveries, seen_ms = excluded.seen_ms"                         \
                   " WHERE excluded.acked >= acked")                                                       \
    XX(CURSOR_PASS, "UPDATE cursors SET seq = ?4, acked = ?4, deliveries = 0, gap_from = ?5,"             \
                    " gap_reason = ?6, gap_letter = ?7 WHERE user = ?1 AND conversation = ?2 AND device = ?3")              \
    XX(CURSOR_SEEN, "UPDATE cursors SET seen_ms = ?4 WHERE user = ?1 AND conversation = ?2"                \
                    " AND device = ?3 AND seen_ms < ?4 - 60000")                                           \
    XX(USER_NEXT, "SELECT min(user) FROM cursors WHERE user > ?1")                                         \
    XX(DEVICES, "SELECT device FROM cursors WHERE user = ?1 GROUP BY device"                               \
                " ORDER BY max(seen_ms) DESC, device LIMIT ?2")                                            \
    XX(DEVICE_OVER, "SELECT device FROM cursors WHERE user = ?1 AND device IS NOT ?2 GROUP BY device"      \
                    " ORDER BY max(seen_ms) DESC, device LIMIT 1 OFFSET ?3")                               \
    XX(DEVICE_KNOWN, "SELECT 1 FROM cursors WHERE user = ?1 AND device = ?2 LIMIT 1")                      \
    XX(DEVICE_FORGET, "DELETE FROM cursors WHERE user = ?1 AND device = ?2")                               \
    XX(DELIVERED_BY_OTHERS, "SELECT seq FROM deliveries WHERE conversation = ?1 AND user <> ?2"            \
                            " ORDER BY seq DESC LIMIT 2")                                                  \
    XX(DELIVERED_SET, "INSERT INTO deliveries(conversation, user, seq, at_ms, change)"                     \
                      " VALUES(?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET seq = excluded.seq,"          \
                      " at_ms = excluded.at_ms, change = excluded.change WHERE excluded.seq > seq")        \
    XX(DELIVERED_TOP, "SELECT user, seq FROM deliveries WHERE conversation = ?1 ORDER BY seq DESC LIMIT 2") \
    XX(MSG_TIME, "SELECT timestamp_ms FROM messages WHERE conversation = ?1 AND seq >= ?2"                 \
                 " ORDER BY seq LIMIT 1")                                                                  \
    XX(MSG_SIZES, "SELECT seq, iif(sender = ?3, NULL, length(CAST(content AS BLOB))"                       \
                  " + coalesce(length(metadata), 0)) FROM messages"                                        \
                  " WHERE conversation = ?1 AND seq > ?2 AND seq < ?4 ORDER BY seq DESC")                  \
    XX(MSGS_OF_OTHERS, "SELECT count(*), min(seq), max(seq) FROM messages"                                 \
                       " WHERE conversation = ?1 AND seq > ?2 AND seq <= ?3 AND sender <> ?4")             \
    XX(CURSOR_SKIP, "UPDATE cursors SET seq = ?4 WHERE user = ?1 AND conversation = ?2 AND device = ?3")   \
    XX(CURSOR_REWIND, "UPDATE cursors SET seq = min(seq, ?4), acked = min(acked, ?4), deliveries = 0,"       \
                      " replay_to = ?5, gap_from = 0"                                                      \
                      " WHERE user = ?1 AND device = ?3 AND conversation ="                                \
                      " (SELECT key FROM conversations WHERE id = ?2)")                                    \
    XX(DEAD_LIST, "SELECT " STORE_DEAD_COLUMNS " FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2")    \
    XX(DEAD_GET, "SELECT " STORE_DEAD_COLUMNS " FROM dead_letters WHERE id = ?1")                          \
    XX(DEAD_REMOVE, "DELETE FROM dead_letters WHERE id = ?1")                                              \
    XX(DEAD_CLEAR, "DELETE FROM dead_letters")                                                             \
    XX(DEAD_TRIM, "DELETE FROM dead_letters WHERE id <= ?1 - ?2")                                          \
    XX(DEAD_ADD, "INSERT INTO dead_letters(user, device, conversation, from_seq, to_seq, reason,"          \
                 " created_ms) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)")                                        \
    XX(DEAD_EXTEND, "UPDATE dead_letters SET to_seq = ?2, created_ms = ?3"                                 \
                    " WHERE id = ?1 AND to_seq < ?4 AND reason = ?5")                                      \
    XX(LAST_SEQ, "SELECT max(seq), total FROM messages WHERE conversation = ?1")                           \
    XX(FIRST_SEQ, "SELECT min(seq) FROM messages WHERE conversation = ?1")                                 \
    XX(MSG_ADD, "INSERT INTO messages(conversation, seq, id, sender, type, content, metadata,"             \
                " timestamp_ms, change, total) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")           \
    XX(MSG_BY_ID, "SELECT m.seq, m.id, m.sender, m.type, m.content, m.metadata, m.timestamp_ms,"           \
                  " m.conversation, c.id FROM messages m JOIN conversations c ON c.key = m.conversation"   \
                  " WHERE m.id = ?1")                                                                      \
    XX(MSG_AFTER, "SELECT seq, id, sender, type, content, metadata, timestamp_ms FROM messages"            \
                  " WHERE conversation = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq LIMIT ?4")              \
    XX(MSG_BEFORE, "SELECT seq, id, sender, type, content, metadata, timestamp_ms FROM messages"           \
                   " WHERE conversation = ?1 AND seq > ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4")        \
    XX(READ_SET, "INSERT INTO reads(conversation, user, seq, read_ms, change) VALUES(?1, ?2, ?3, ?4, ?5)"  \
                 " ON CONFLICT DO UPDATE SET seq = excluded.seq, read_ms = excluded.read_ms,"              \
                 " change = excluded.change WHERE excluded.seq > seq")                                     \
    XX(READ_TOP, "SELECT user, seq FROM reads WHERE conversation = ?1 ORDER BY seq DESC LIMIT 2")          \
    XX(TOPIC, "SELECT key, epoch, base, loose FROM topics WHERE name = ?1")                                \
    XX(TOPIC_ADD, "INSERT INTO topics(name, epoch) SELECT ?1, ?2"                                          \
                  " WHERE coalesce((SELECT max(key) FROM topics), 0) < ?3 - 1")                            \
    XX(TOPIC_LOOSE, "UPDATE topics SET loose = 1 WHERE key = ?1")                                          \
    XX(EVENT_LAST, "SELECT place, total FROM topic_log WHERE place > ?1 AND place <= ?2"                   \
                   " ORDER BY place DESC LIMIT 1")                                                         \
    XX(EVENTS_ADD, "INSERT INTO topic_log(place, created_ms, id, data, total, n)"                          \
                   " VALUES(?1, ?2, ?3, ?4, ?5, ?6)")                                                      \
    XX(EVENTS_SHORTEN, "UPDATE topic_log SET data = ?2, n = ?3, id = iif(?3 = 1, ?4, id) WHERE place = ?1") \
    XX(EVENTS_OLDEST, "SELECT place, data, n, created_ms, total FROM topic_log"                            \
                      " WHERE place > ?1 AND place <= ?2"                                                  \
                      " ORDER BY place LIMIT ?3")                                                          \
    XX(EVENTS_REMOVE, "DELETE FROM topic_log WHERE place > ?1 AND place <= ?2")                            \
    XX(TOPIC_BASE, "UPDATE topics SET base = ?2 WHERE key = ?1")                                           \
    XX(TOPIC_NEXT, "SELECT key, name FROM topics WHERE key > ?1 ORDER BY key LIMIT 1")                     \
    XX(CONV_NEXT, "SELECT key, id FROM conversations WHERE key > ?1 ORDER BY key LIMIT 1")                 \
    XX(MSGS_OLDEST, "SELECT seq, timestamp_ms, total FROM messages WHERE conversation = ?1"                \
                    " ORDER BY seq LIMIT ?2")                                                              \
    XX(MSGS_REMOVE, "DELETE FROM messages WHERE conversation = ?1 AND seq <= ?2")                          \
    XX(EVENT_BYTES, "SELECT place, iif(n > 1, length(data), min(length(data), ?3)) FROM topic_log"         \
                    " WHERE place > ?1 AND place <= ?2 ORDER BY place DESC")                               \
    XX(EVENT_IDS, "SELECT place, iif(n > 1, data, NULL), n, id FROM topic_log"                             \
                  " WHERE place > ?1 AND place <= ?2"                                                      \
                  " AND (created_ms >= ?3 OR place > ?4) AND id IS NOT NULL ORDER BY place")               \
    XX(EVENTS, "SELECT place, data, n FROM topic_log WHERE place > ?1 AND place <= ?2"                     \
               " ORDER BY place LIMIT ?3")                                                                 \
    XX(EDIT_GET, "SELECT print, outcome FROM edits WHERE user = ?1 AND id = ?2")                           \
    XX(EDIT_ADD, "INSERT INTO edits(user, n, id, print, outcome)"                                          \
                 " SELECT ?1, coalesce(max(n), 0) + 1, ?2, ?3, ?4 FROM edits WHERE user = ?1")             \
    XX(EDITS_PURGE, "DELETE FROM edits WHERE user = ?1"                                                    \
                    " AND n <= (SELECT max(n) FROM edits WHERE user = ?1) - ?2")                           \
    XX(USER_CHANGED, "SELECT version, edited_ms, preferences FROM users WHERE id = ?1 AND change > ?2")    \
    XX(REMOVALS, "SELECT conversation, change FROM removals WHERE user = ?1 AND conversation > ?2"         \
                 " ORDER BY conversation")                                                                 \
    XX(SYNC_CONVS, "SELECT " STORE_CONV_COLUMNS ", c.change, m.change FROM members m"                      \
                   " JOIN conversations c ON c.id = m.conversation"                                        \
                   " WHERE m.user = ?1 AND m.conversation >= ?2 ORDER BY m.conversation")                  \
    XX(READS_CHANGED, "SELECT user, seq, read_ms FROM reads WHERE conversation = ?1 AND change > ?2")      \
    XX(DELIVERIES_CHANGED, "SELECT user, seq, at_ms FROM deliveries WHERE conversation = ?1 AND change > ?2") \
    XX(MSG_CHANGE, "SELECT seq, change FROM messages WHERE conversation = ?1 AND seq >= ?2"                \
                   " ORDER BY seq LIMIT 1")                                                                \
    XX(ERA_ADD, "INSERT INTO eras(stamp, change) SELECT random() & 0x3fffffffffffffff | 0x4000000000000000," \
                " n FROM totals WHERE name = 'change'")                                                    \
    XX(ERAS_PURGE, "DELETE FROM eras WHERE number <= (SELECT max(number) FROM eras) - ?1")                 \
    XX(ERAS_CLEAR, "DELETE FROM eras")                                                                     \
    XX(ERA, "SELECT stamp, (SELECT change FROM eras WHERE number = ?1 + 1) FROM eras WHERE number = ?1")   \
    XX(ERA_LAST, "SELECT number, stamp FROM eras ORDER BY number DESC LIMIT 1")                            \
    XX(CHANGE, "SELECT n FROM totals WHERE name = 'change'")                                               \
    XX(META, "SELECT value FROM meta WHERE name = ?1")                                                     \
    XX(META_SET, "INSERT INTO meta(name, value) VALUES(?1, ?2)"                                            \
                 " ON CONFLICT DO UPDATE SET value = excluded.value")                                      \
    XX(TOPICS_RENEW, "UPDATE topics SET epoch = lower(hex(randomblob(8))), loose = 0 WHERE loose = 1")     \
    XX(TOPICS_RENEW_ALL, "UPDATE topics SET epoch = lower(hex(randomblob(8))), loose = 0")                  \
    XX(CONVS_RENEW_ALL, "UPDATE conversations SET epoch = lower(hex(randomblob(8)))")                      \
    XX(TOPICS_TIGHT, "UPDATE topics SET loose = 0 WHERE loose = 1")                                        \
    XX(SYNC_FULL, "PRAGMA synchronous = FULL")                                                             \
    XX(SYNC_NORMAL, "PRAGMA synchronous = NORMAL")                                                         \
    XX(PAGES, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
/* clang-format on */
#define STORE_DEAD_COLUMNS "id, user, device, conversation, from_seq, to_seq, reason, created_ms"
#define STORE_USER_COLUMNS                                                                         \
    "id, name, password_hash, roles, household, created_ms, preferences, version"
#define STORE_CONV_COLUMNS "c.key, c.id, c.title, c.creator, c.created_ms, c.epoch, c.version"

enum store_statement {
#define XX(id, sql) STORE_SQL_##id,
    STORE_STATEMENT_MAP(XX)
#undef XX
        STORE_SQL_COUNT
};

/* What an append needs to know of a conversation; a cache, dropped whenever it may be wrong. */
struct store_conv {
    UT_hash_handle hh; /* the hash keeps insertion order: oldest first */
    int64_t key, last_seq;
    int64_t total; /* bytes of its messages, those that have gone included */
    uint32_t id_bytes;
    char id[STORE_ID_BYTES_MAX];
    uint32_t sender_next;
    struct { /* members who wrote lately; emptied when members go */
        uint32_t bytes;
        char id[STORE_ID_BYTES_MAX];
    } sender[STORE_SENDERS];
};

#define STORE_EPOCH_BYTES 16

struct store_topic { /* what an append needs to know of a durable topic; a cache likewise */
    UT_hash_handle hh;
    int64_t key, base, last; /* newest offset that was removed, newest of all */
    int64_t total;           /* bytes of data up to the last one, since some beginning */
    bool loose;              /* has taken events that were not synced */
    char epoch[STORE_EPOCH_BYTES];
    uint32_t name_bytes;
    char name[];
};

/* Where an event lies in topic_log, when it is the newest of its row. */
#define STORE_OFFSET_BITS 40
#define STORE_OFFSET_MAX ((INT64_C(1) << STORE_OFFSET_BITS) - 1)
static inline int64_t store_place(const struct store_topic *t, int64_t offset) {
    return t->key << STORE_OFFSET_BITS | offset;
}

struct store_event {
    int64_t offset;
    ptn_bytes data, id; /* id.n == 0: none */
};

struct store_event_row { /* events that came together, and how far they have been read */
    int64_t offset;      /* of the newest */
    uint32_t n, left;
    ptn_bytes id; /* of a single one */
    ptn_unpack data;
};

struct retention { /* and how far its round has come */
    store_retention rules;
    int64_t topic, conversation; /* the last key that was looked at */
    bool topics_done;
};

struct queue { /* and the user that its round has come to */
    store_queue limits;
    uint32_t user_bytes;
    char user[STORE_ID_BYTES_MAX];
    uint32_t n_devices, n_visited; /* of the user; the one that was here last comes first */
    struct {
        uint8_t bytes;
        char name[STORE_ID_BYTES_MAX];
    } device[STORE_QUEUE_DEVICES_MAX];
    uint64_t messages, bytes; /* what these have left of the user's limits */
    uint32_t n_counted;
    struct { /* the messages of a conversation that wait for one of them */
        int64_t key, from;
    } counted[STORE_QUEUE_CONVERSATIONS_MAX];
    int64_t waiting, devices; /* counted so far */
};

struct store_gather;

struct store_db {
    sqlite3 *sql;
    struct store_gather *gather; /* NULL: it only reads */
    sqlite3_stmt *statement[STORE_SQL_COUNT];
    struct store_conv *convs;
    struct store_topic *topics;
    uint32_t convs_max, dead_letters_max;
    int64_t data_version;               /* changes when another process has written */
    int64_t auth_version, auth_changes; /* the same for store_sessions_revoked() */
    bool in_transaction;
    bool relaxed;   /* commits do not wait for the disk */
    bool floats;    /* this one is synced by another thread */
    bool must_sync; /* this one does */
    bool claimed;   /* store_db_claim() */
    bool foreign;   /* on a VFS that is not the system's */
    bool damage_noted;
    bool full;            /* there was no room for what was to be committed last */
    bool afloat;          /* the log holds commits that nobody has synced yet */
    char doubt[160];      /* what looked like damage meanwhile */
    bool unsettled;       /* the log may hold what the disk does not */
    bool renew_topics;    /* unsynced commits may be gone: positions of loose topics are not true */
    bool version_changed; /* another process has written since the last transaction */
    int changes_before;   /* sqlite3_total_changes() when the transaction began */
    int doomed;           /* 0, or the negative error that the commit will return */
    int64_t users_added, conversations_added, messages_added, events_added,
        messages_removed; /* by the open transaction */
    int64_t change; /* number of the last transaction that changed what is synchronised; <0: ask */
    bool changes;   /* the open one does */
    uint32_t rows_committed, log_pages, checkpoint_pages;
    int64_t log_room; /* the log's file ends there, or we have tried */
    struct retention retention;
    struct queue queue;
    store_scrub_view *scrub;
};

/* ---- store_db.c --------------------------------------------------------------------------- */

/* All of the log is on disk. */
void store_db_synced(store_db *db);
/* A sync of the log has failed: the next transaction puts it right before anything else. */
void store_db_unsettle(store_db *db);

/* The statement, reset; bind every parameter, they keep what they had.  NULL: it cannot be
 * prepared, and store_db_fail() was called. */
sqlite3_stmt *store_sql(store_db *db, enum store_statement which);
/* Records a SQLite error (rc, or the handle's own) and dooms the transaction.  Returns the PROBLEM.
 */
ptn_buf *store_db_fail(store_db *db, uint32_t *ret_type);
/* Steps a statement that returns no rows.  False: failed (not a constraint), and the transaction is
 * doomed. */
bool store_run(store_db *db, sqlite3_stmt *s);

/* The number that the open transaction gives to what it changes. */
int64_t store_change(store_db *db);

/* Replies.  They set *ret_type and return NULL without memory. */
ptn_buf *store_reply(store_db *db, ptn_pack *w, uint32_t type, uint32_t *ret_type);
/* An array of n values that stand one behind the other in rows, which is finished. */
ptn_buf *store_reply_rows(store_db *db, ptn_pack *rows, uint32_t n, uint32_t type,
                          uint32_t *ret_type);
ptn_buf *store_problem(int code, const char *message, uint32_t *ret_type);
ptn_buf *store_problem_field(int code, const char *message, ptn_str field, const char *reason,
                             uint32_t *ret_type);
ptn_buf *store_ok(uint32_t *ret_type);
ptn_buf *store_malformed(uint32_t *ret_type);

/* The runtime's error for a result code of SQLite; 0 for OK, ROW and DONE. */
int store_err_of(int rc);
/* The name of a file is durable when its directory is.  -1 and errno. */
int store_sync_directory_of(const char *path);
int store_sync_file(const char *path);

void store_bind_str(sqlite3_stmt *s, int at, ptn_str v);         /* n == 0: the empty string */
void store_bind_str_or_null(sqlite3_stmt *s, int at, ptn_str v); /* n == 0: NULL */
void store_bind_blob(sqlite3_stmt *s, int at, ptn_bytes v);      /* p == NULL: NULL */
ptn_str store_column_str(sqlite3_stmt *s, int at); /* NULL: empty; valid until the next step */
ptn_bytes store_column_blob(sqlite3_stmt *s, int at);

/* ---- store_db_state.c --------------------------------------------------------------------- */

/* A number that the database keeps about itself; absent: def.  False: it cannot be read. */
bool store_meta_get(store_db *db, const char *name, int64_t def, int64_t *ret_value);
bool store_meta_set(store_db *db, const char *name, int64_t value);
/* In a transaction: one more round, or none at all. */
bool store_scrub_again(store_db *db);
bool store_scrub_forget(store_db *db);

/* ---- store_db_schema.c -------------------------------------------------------------------- */

/* Brings an open database to the current schema, in one transaction. */
int store_schema_migrate(sqlite3 *sql, const char **reterr_why);

/* ---- operations: payload in, reply out ----------------------------------------------------- */

typedef ptn_buf *(*store_op)(store_db *db, ptn_unpack *u, uint32_t *ret_type);

/* store_db_state.c */
ptn_buf *store_stats(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_probe(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_scrub_note(store_db *db, ptn_unpack *u, uint32_t *ret_type);

/* store_db_users.c */
ptn_buf *store_user_add(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_user_by_name(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_user_by_id(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_user_list(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_household(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_user_password(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_session_add(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_session_rotate(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_session_revoke(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_sessions_revoked(store_db *db, ptn_unpack *u, uint32_t *ret_type);
/* STORE_USER, or not_found. */
ptn_buf *store_reply_user(store_db *db, ptn_str id, uint32_t *ret_type);
/* 1 exists, 0 does not, <0 failed. */
int store_user_exists(store_db *db, ptn_str id);

/* store_db_conversations.c */
ptn_buf *store_conv_add(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_conv_get(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_conv_list(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_members_add(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_members_remove(store_db *db, ptn_unpack *u, uint32_t *ret_type);
/* The current row of a SELECT of STORE_CONV_COLUMNS as CONV.  False: failed. */
bool store_pack_conv(store_db *db, ptn_pack *w, sqlite3_stmt *row);
ptn_buf *store_reply_conv(store_db *db, ptn_str id, uint32_t *ret_type);
/* 1 member, 0 not, <0 failed. */
int store_is_member(store_db *db, ptn_str conversation, ptn_str user);
/* The same, through the cache of recent senders. */
int store_is_sender(store_db *db, struct store_conv *c, ptn_str user);
/* The cached or loaded entry.  0, -PTN_ENOTFOUND, or another error (transaction doomed). */
int store_conv_find(store_db *db, ptn_str id, struct store_conv **ret_c);
void store_convs_drop(store_db *db);

/* store_db_log.c */
/* The log of the open database; NULL: none yet. */
sqlite3_file *store_log_of(store_db *db);
/* Inside a transaction.  After a failed flush, and once after opening: what stands in the log may
 * not be on disk, and the kernel takes it for clean. */
int store_log_settle(store_db *db);
/* As the log's index has it. */
uint32_t store_log_frames(store_db *db);
/* Inside a transaction that writes, which must be rolled back then: the next one reads the log from
 * its beginning.  frames: cut off what comes after so many; 0: nothing. */
int store_log_forget_index(store_db *db, uint32_t frames);

/* store_db_gather.c */
/* The name of a VFS for this handle, over the one of that name (NULL: the default); its log takes a
 * commit in one write.  NULL: no memory, or no such VFS. */
const char *store_gather_open(store_db *db, const char *base);
/* After sqlite3_close(). */
void store_gather_close(store_db *db);
/* Runs COMMIT, which has to sync the log; as store_run().  defers: store_db_sync() does that. */
bool store_gather_commit(store_db *db, sqlite3_stmt *s, bool defers);

/* store_db_topics.c */
ptn_buf *store_topic_open(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_events_append(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_events_append_written(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_event_range(store_db *db, ptn_unpack *u, uint32_t *ret_type);
void store_topics_drop(store_db *db);
/* The current row of a SELECT of place, data, n. */
struct store_event_row store_event_row_of(sqlite3_stmt *s, ptn_bytes id);
/* The next event, oldest first.  False: that was all, or bits have flipped and the rest cannot be
 * told apart: it is missing then, as if retention had taken it. */
bool store_event_next(struct store_event_row *r, struct store_event *ret_e);
/* Removes those behind t->base, up to cut.  False: failed. */
bool store_events_remove(store_db *db, const struct store_topic *t, int64_t cut);
/* The cached or loaded entry.  0, -PTN_ENOTFOUND, or another error (transaction doomed). */
int store_topic_find(store_db *db, ptn_str name, struct store_topic **ret_t);

/* store_db_retention.c */
ptn_buf *store_retain(store_db *db, ptn_unpack *u, uint32_t *ret_type);

/* store_db_edit.c */
#define STORE_EDITS_KEPT 1000 /* newest of each user whose outcome is remembered */
ptn_buf *store_edit(store_db *db, ptn_unpack *u, uint32_t *ret_type);

/* store_db_sync.c */
ptn_buf *store_sync(store_db *db, ptn_unpack *u, uint32_t *ret_type);
/* In a transaction: from here on tokens name this start. */
bool store_era_begin(store_db *db);

/* store_db_queue.c */
ptn_buf *store_feed_open(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_feed_tend(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_feed_ack(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_dead_add(store_db *db, ptn_unpack *u, uint32_t *ret_type);

/* store_db_letters.c */
ptn_buf *store_dead_list(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_dead_replay(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_dead_purge(store_db *db, ptn_unpack *u, uint32_t *ret_type);

/* store_db_messages.c */
/* MESSAGE after MESSAGE, of those between the two, at most `limit` and about STORE_PAGE_BYTES in w;
 * *ret_last: the last one's seq.  False: failed. */
bool store_pack_messages(store_db *db, ptn_str conversation, int64_t key, int64_t after,
                         int64_t before, uint32_t limit, ptn_pack *w, uint32_t *ret_n,
                         int64_t *ret_last);
ptn_buf *store_msg_append(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_msg_range(store_db *db, ptn_unpack *u, uint32_t *ret_type);
ptn_buf *store_msg_read(store_db *db, ptn_unpack *u, uint32_t *ret_type);

#endif
