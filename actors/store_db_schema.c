/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_schema.c - the tables, and how an older database becomes a current one.
 *
 * PRAGMA user_version counts the migrations that a database has seen.  All missing ones run in one
 * transaction: a crash in the middle leaves the old schema, whole.  Migrations are never edited
 * once released, only added.
 *
 * Layout: whatever is read by its key has no rowid, so that it is one B-tree.  Messages are keyed
 * by (conversation, seq) with an integer for the conversation: a history read is one range of
 * neighbouring rows, the last sequence number is one descent, and an append goes to the end of a
 * run.  They have no foreign keys on purpose: the append has just checked the conversation and the
 * membership that references both.
 */
#include "actors/store_db_internal.h"

static const char schema_1[] =
    "CREATE TABLE totals(name TEXT PRIMARY KEY, n INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "INSERT INTO totals VALUES('users', 0), ('conversations', 0), ('messages', 0);"

    "CREATE TABLE users("
    " id TEXT PRIMARY KEY,"
    " name TEXT NOT NULL UNIQUE,"
    " password_hash TEXT NOT NULL," /* empty: cannot log in with a password */
    " roles INTEGER NOT NULL,"      /* bits of enum ptn_role */
    " household TEXT,"
    " created_ms INTEGER NOT NULL,"
    " preferences BLOB NOT NULL" /* msgpack map */
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX users_by_household ON users(household, name) WHERE household IS NOT NULL;"

    "CREATE TABLE sessions("
    " id TEXT PRIMARY KEY,"
    " user TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE,"
    " refresh_hash BLOB NOT NULL,"
    " expires_ms INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL,"
    " revoked_ms INTEGER"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX sessions_by_user ON sessions(user);"
    "CREATE INDEX sessions_by_expiry ON sessions(expires_ms);"
    "CREATE INDEX sessions_by_revocation ON sessions(revoked_ms) WHERE revoked_ms IS NOT NULL;"

    "CREATE TABLE conversations("
    " key INTEGER PRIMARY KEY,"
    " id TEXT NOT NULL UNIQUE,"
    " title TEXT,"
    " creator TEXT NOT NULL REFERENCES users(id),"
    " created_ms INTEGER NOT NULL,"
    " epoch TEXT NOT NULL"
    ") STRICT;"

    "CREATE TABLE members("
    " conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,"
    " user TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE,"
    " added_ms INTEGER NOT NULL,"
    " PRIMARY KEY(conversation, user)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX members_by_user ON members(user, conversation);"

    "CREATE TABLE messages("
    " conversation INTEGER NOT NULL,"
    " seq INTEGER NOT NULL,"
    " id TEXT NOT NULL UNIQUE,"
    " sender TEXT NOT NULL,"
    " type TEXT NOT NULL,"
    " content TEXT NOT NULL,"
    " metadata BLOB," /* msgpack map */
    " timestamp_ms INTEGER NOT NULL,"
    " PRIMARY KEY(conversation, seq)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE reads(" /* how far each member has read */
    " conversation INTEGER NOT NULL,"
    " user TEXT NOT NULL,"
    " seq INTEGER NOT NULL,"
    " read_ms INTEGER NOT NULL,"
    " PRIMARY KEY(conversation, user)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX reads_by_seq ON reads(conversation, seq);";

static const char schema_2[] =
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;"

    /* Hash of the request that made it, when that had an Idempotency-Key. */
    "ALTER TABLE conversations ADD COLUMN request BLOB;"

    "CREATE TABLE topics("
    " key INTEGER PRIMARY KEY,"
    " name TEXT NOT NULL UNIQUE,"
    " epoch TEXT NOT NULL,"
    " base INTEGER NOT NULL DEFAULT 0," /* newest offset that was removed */
    " loose INTEGER NOT NULL DEFAULT 0" /* took events that were written, not synced */
    ") STRICT;"
    "CREATE TABLE topic_log("
    " place INTEGER PRIMARY KEY," /* topic << 40 | offset */
    " created_ms INTEGER NOT NULL,"
    " id BLOB,"
    " data BLOB NOT NULL,"
    " total INTEGER NOT NULL" /* bytes of data of this topic up to here */
    ") STRICT;"

    /* Synchronisation: what changed carries the number of its transaction (totals, `change`). */
    "INSERT INTO totals VALUES('change', 0);"
    "ALTER TABLE users ADD COLUMN version INTEGER NOT NULL DEFAULT 1;"
    "ALTER TABLE users ADD COLUMN edited_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE users ADD COLUMN change INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE conversations ADD COLUMN version INTEGER NOT NULL DEFAULT 1;"
    "ALTER TABLE conversations ADD COLUMN edited_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE conversations ADD COLUMN change INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE members ADD COLUMN change INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE messages ADD COLUMN change INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE reads ADD COLUMN change INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX reads_by_change ON reads(conversation, change);"
    "CREATE TABLE removals(" /* members who have gone */
    " user TEXT NOT NULL,"
    " conversation TEXT NOT NULL,"
    " change INTEGER NOT NULL,"
    " PRIMARY KEY(user, conversation)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE edits(" /* what became of the newest edits of each user, by the client's id */
    " user TEXT NOT NULL,"
    " n INTEGER NOT NULL,"
    " id TEXT NOT NULL,"
    " print BLOB NOT NULL," /* hash of the edit */
    " outcome INTEGER NOT NULL,"
    " PRIMARY KEY(user, n),"
    " UNIQUE(user, id)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE eras(" /* one per start, so that a restored database is known by its tokens */
    " number INTEGER PRIMARY KEY,"
    " stamp INTEGER NOT NULL," /* random */
    " change INTEGER NOT NULL" /* the last one before it */
    ") STRICT;"

    /* Where a member begins: what was said before is history. */
    "ALTER TABLE members ADD COLUMN joined_seq INTEGER NOT NULL DEFAULT 0;"
    "UPDATE members SET joined_seq = coalesce((SELECT max(m.seq) FROM messages m WHERE"
    " m.conversation = (SELECT key FROM conversations c WHERE c.id = members.conversation)), 0);"

    "CREATE TABLE cursors(" /* how far each device has acknowledged */
    " user TEXT NOT NULL,"
    " conversation INTEGER NOT NULL,"
    " device TEXT NOT NULL,"
    " seq INTEGER NOT NULL,"
    " deliveries INTEGER NOT NULL,"          /* of the message after it */
    " replay_to INTEGER NOT NULL DEFAULT 0," /* up to there it was asked for again: no limits */
    " seen_ms INTEGER NOT NULL,"
    " PRIMARY KEY(user, conversation, device)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE deliveries(" /* how far each member has acknowledged, on whatever device */
    " conversation INTEGER NOT NULL,"
    " user TEXT NOT NULL,"
    " seq INTEGER NOT NULL,"
    " at_ms INTEGER NOT NULL,"
    " PRIMARY KEY(conversation, user)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE INDEX deliveries_by_seq ON deliveries(conversation, seq);"

    "CREATE TABLE dead_letters(" /* what cursors have passed without an acknowledgement */
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " user TEXT NOT NULL,"
    " device TEXT NOT NULL,"
    " conversation TEXT NOT NULL,"
    " from_seq INTEGER NOT NULL,"
    " to_seq INTEGER NOT NULL,"
    " reason TEXT NOT NULL,"
    " created_ms INTEGER NOT NULL"
    ") STRICT;";

/* What a cursor has passed and its device has not been told of: from gap_from up to its seq. */
static const char schema_3[] =
    "ALTER TABLE cursors ADD COLUMN gap_from INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE cursors ADD COLUMN gap_reason TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE cursors ADD COLUMN gap_letter INTEGER NOT NULL DEFAULT 0;" /* its newest one */

    "ALTER TABLE deliveries ADD COLUMN change INTEGER NOT NULL DEFAULT 0;"

    "ALTER TABLE users ADD COLUMN not_before_ms INTEGER NOT NULL DEFAULT 0;" /* older tokens are
                                                                                over */
    "CREATE INDEX users_by_cut ON users(not_before_ms) WHERE not_before_ms > 0;";

/* Events that came together: place is the newest one's, data holds [data, id or nil] of each, one
 * behind the other, and id is empty, or NULL when none has one. */
static const char schema_4[] = "ALTER TABLE topic_log ADD COLUMN n INTEGER NOT NULL DEFAULT 1;";

/* seq may be further than what was acknowledged: behind acked, up to it, are own messages only. */
static const char schema_5[] = "ALTER TABLE cursors ADD COLUMN acked INTEGER NOT NULL DEFAULT 0;"
                               "UPDATE cursors SET acked = seq;";

/* Bytes of content and metadata of its conversation up to here; of older messages nothing counts.
 */
static const char schema_6[] = "ALTER TABLE messages ADD COLUMN total INTEGER NOT NULL DEFAULT 0;";

static const char *const migrations[] = {schema_1, schema_2, schema_3,
                                         schema_4, schema_5, schema_6};
#define SCHEMA_VERSION ((int)PTN_ARRAY_LEN(migrations))

static int read_version(sqlite3 *sql, int *ret_version) {
    sqlite3_stmt *s = NULL;
    int rc = sqlite3_prepare_v2(sql, "PRAGMA user_version", -1, &s, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        *ret_version = sqlite3_column_int(s, 0);
        rc = SQLITE_OK;
    }
    (void)sqlite3_finalize(s);
    return rc;
}

static int run_from(sqlite3 *sql, int version) {
    char set_version[48];
    int rc = SQLITE_OK;
    for (int i = version; i < SCHEMA_VERSION && rc == SQLITE_OK; i++)
        rc = sqlite3_exec(sql, migrations[i], NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return rc;
    (void)sqlite3_snprintf(sizeof set_version, set_version, "PRAGMA user_version = %d",
                           SCHEMA_VERSION);
    return sqlite3_exec(sql, set_version, NULL, NULL, NULL);
}

int store_schema_migrate(sqlite3 *sql, const char **reterr_why) {
    int version = 0;
    int rc = read_version(sql, &version);
    if (rc == SQLITE_OK && version == SCHEMA_VERSION)
        return 0;
    /* The lock first, then the version again: two processes may start at the same time. */
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(sql, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return -PTN_EIO;
    rc = read_version(sql, &version);
    if (rc == SQLITE_OK && version > SCHEMA_VERSION) {
        (void)sqlite3_exec(sql, "ROLLBACK", NULL, NULL, NULL);
        *reterr_why =
            "the database was made by a newer version of this program; use that version, or "
            "restore a backup from before the upgrade";
        return -PTN_EPROTO;
    }
    if (rc == SQLITE_OK)
        rc = run_from(sql, version);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(sql, "COMMIT", NULL, NULL, NULL);
    if (rc != SQLITE_OK && sqlite3_get_autocommit(sql) == 0) {
        int why = sqlite3_errcode(sql);
        (void)sqlite3_exec(sql, "ROLLBACK", NULL, NULL, NULL);
        return why == SQLITE_FULL ? -PTN_EFULL : -PTN_EIO;
    }
    return rc == SQLITE_OK ? 0 : -PTN_EIO;
}
