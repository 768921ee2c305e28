/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_users.c - accounts, households and login sessions in the database.
 *
 * Sessions that ended more than a day ago are removed a few at a time by later logins, so the table
 * is bounded by the logins of one refresh lifetime and needs no sweeper.
 */
#include "actors/idempotency.h"
#include "actors/store_db_internal.h"

#define SESSIONS_REVOKED_MAX 100000
#define SESSION_KEEP_MS (INT64_C(24) * 3600 * 1000)

static ptn_buf *no_such_user(uint32_t *ret_type) {
    return store_problem(PTN_CODE_NOT_FOUND, "no such user", ret_type);
}

/* The current row of a SELECT of STORE_USER_COLUMNS. */
static void pack_user(ptn_pack *w, sqlite3_stmt *s) {
    ptn_pack_array(w, 8);
    ptn_pack_str(w, store_column_str(s, 0));
    ptn_pack_str(w, store_column_str(s, 1));
    ptn_pack_str(w, store_column_str(s, 2));
    ptn_pack_int(w, sqlite3_column_int64(s, 3));
    ptn_pack_str_or_nil(w, store_column_str(s, 4));
    ptn_pack_int(w, sqlite3_column_int64(s, 5));
    ptn_bytes preferences = store_column_blob(s, 6);
    if (preferences.n > 0)
        ptn_pack_raw(w, preferences);
    else
        ptn_pack_map(w, 0);
    ptn_pack_int(w, sqlite3_column_int64(s, 7));
}

/* Answers with the one row of s, or not_found. */
static ptn_buf *reply_user(store_db *db, sqlite3_stmt *s, uint32_t *ret_type) {
    int rc = sqlite3_step(s);
    if (rc == SQLITE_DONE) {
        (void)sqlite3_reset(s);
        return no_such_user(ret_type);
    }
    if (rc != SQLITE_ROW)
        return store_db_fail(db, ret_type);
    ptn_pack w;
    ptn_pack_init(&w, 512);
    pack_user(&w, s);
    (void)sqlite3_reset(s);
    return store_reply(db, &w, PTN_MSG_STORE_USER, ret_type);
}

static ptn_buf *user_by(store_db *db, enum store_statement which, ptn_str key, uint32_t *ret_type) {
    sqlite3_stmt *s = store_sql(db, which);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, key);
    return reply_user(db, s, ret_type);
}

ptn_buf *store_reply_user(store_db *db, ptn_str id, uint32_t *ret_type) {
    return user_by(db, STORE_SQL_USER_BY_ID, id, ret_type);
}

int store_user_exists(store_db *db, ptn_str id) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_USER_BY_ID);
    if (s == NULL)
        return -PTN_EIO;
    store_bind_str(s, 1, id);
    int rc = sqlite3_step(s);
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : -PTN_EIO;
}

/* The id or the name is taken.  By the same request, sent twice: the account again.  The password
 * is not compared: nothing of it is kept that a fast answer could be read from. */
static ptn_buf *reply_taken(store_db *db, ptn_str id, ptn_str name, uint64_t roles,
                            ptn_str household, uint32_t *ret_type) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_USER_SAME);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, id);
    store_bind_str(s, 2, name);
    (void)sqlite3_bind_int64(s, 3, (int64_t)(uint32_t)roles);
    store_bind_str_or_null(s, 4, household);
    int rc = sqlite3_step(s);
    bool same = rc == SQLITE_ROW && sqlite3_column_int(s, 0) != 0;
    (void)sqlite3_reset(s);
    if (same)
        return user_by(db, STORE_SQL_USER_BY_ID, id, ret_type);
    if (rc == SQLITE_ROW)
        return store_problem(PTN_CODE_IDEMPOTENCY_MISMATCH, IDEMPOTENCY_MISMATCH_TEXT, ret_type);
    if (rc != SQLITE_DONE)
        return store_db_fail(db, ret_type);
    return store_problem_field(PTN_CODE_CONFLICT, "there is a user of this name already",
                               PTN_STR("username"), "already taken", ret_type);
}

ptn_buf *store_user_add(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str id, name, hash, household;
    uint64_t roles;
    int64_t created_ms;
    if (!ptn_unpack_str(u, &id) || !ptn_unpack_str(u, &name) || !ptn_unpack_str_or_nil(u, &hash) ||
        !ptn_unpack_uint(u, &roles) || !ptn_unpack_str_or_nil(u, &household) ||
        !ptn_unpack_int(u, &created_ms) || id.n == 0 || id.n > STORE_ID_BYTES_MAX || name.n == 0)
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_USER_ADD);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, id);
    store_bind_str(s, 2, name);
    store_bind_str(s, 3, hash);
    (void)sqlite3_bind_int64(s, 4, (int64_t)(uint32_t)roles);
    store_bind_str_or_null(s, 5, household);
    (void)sqlite3_bind_int64(s, 6, created_ms);
    (void)sqlite3_bind_int64(s, 7, store_change(db));
    int rc = sqlite3_step(s);
    (void)sqlite3_reset(s);
    if ((rc & 0xff) == SQLITE_CONSTRAINT)
        return reply_taken(db, id, name, roles, household, ret_type);
    if (rc != SQLITE_DONE)
        return store_db_fail(db, ret_type);
    db->users_added++;
    return store_reply_user(db, id, ret_type);
}

ptn_buf *store_user_by_name(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str name;
    if (!ptn_unpack_str(u, &name))
        return store_malformed(ret_type);
    return user_by(db, STORE_SQL_USER_BY_NAME, name, ret_type);
}

ptn_buf *store_user_by_id(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str id;
    if (!ptn_unpack_str(u, &id))
        return store_malformed(ret_type);
    return user_by(db, STORE_SQL_USER_BY_ID, id, ret_type);
}

/* [USER, ..] from s (already bound), at most STORE_PAGE_BYTES and one row. */
static ptn_buf *reply_users(store_db *db, sqlite3_stmt *s, uint32_t *ret_type) {
    ptn_pack rows, w;
    uint32_t n = 0;
    int rc;
    ptn_pack_init(&rows, 4096);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        pack_user(&rows, s);
        n++;
        if (ptn_pack_len(&rows) >= STORE_PAGE_BYTES) {
            rc = SQLITE_DONE;
            break;
        }
    }
    if (rc != SQLITE_DONE) {
        ptn_pack_abort(&rows);
        return store_db_fail(db, ret_type);
    }
    (void)sqlite3_reset(s);
    ptn_buf *encoded = ptn_pack_finish(&rows);
    ptn_pack_init(&w, ptn_buf_bytes(encoded).n + 8);
    ptn_pack_array(&w, n);
    if (n > 0)
        ptn_pack_raw(&w, ptn_buf_bytes(encoded));
    bool lost = n > 0 && encoded == NULL;
    ptn_buf_unref(encoded);
    if (lost) {
        ptn_pack_abort(&w);
        return NULL;
    }
    return store_reply(db, &w, PTN_MSG_STORE_USERS, ret_type);
}

static ptn_buf *list_users(store_db *db, enum store_statement which, ptn_str key, uint64_t limit,
                           uint32_t *ret_type) {
    sqlite3_stmt *s = store_sql(db, which);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, key);
    (void)sqlite3_bind_int64(s, 2, (int64_t)(limit < STORE_ROWS_MAX ? limit : STORE_ROWS_MAX));
    return reply_users(db, s, ret_type);
}

ptn_buf *store_user_list(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str after;
    uint64_t limit;
    if (!ptn_unpack_str_or_nil(u, &after) || !ptn_unpack_uint(u, &limit))
        return store_malformed(ret_type);
    return list_users(db, STORE_SQL_USER_LIST, after, limit, ret_type);
}

ptn_buf *store_household(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str household;
    uint64_t limit;
    if (!ptn_unpack_str(u, &household) || !ptn_unpack_uint(u, &limit))
        return store_malformed(ret_type);
    return list_users(db, STORE_SQL_HOUSEHOLD, household, limit, ret_type);
}

/* Whoever knew the old password may have a session: a new password ends them all. */
ptn_buf *store_user_password(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str id, hash;
    int64_t now_ms;
    if (!ptn_unpack_str(u, &id) || !ptn_unpack_str_or_nil(u, &hash) || !ptn_unpack_int(u, &now_ms))
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_USER_PASSWORD);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, id);
    store_bind_str(s, 2, hash);
    (void)sqlite3_bind_int64(s, 3, now_ms);
    if (!store_run(db, s))
        return store_db_fail(db, ret_type);
    if (sqlite3_changes(db->sql) == 0)
        return no_such_user(ret_type);
    db->auth_changes++;
    s = store_sql(db, STORE_SQL_SESSIONS_OF_USER_REVOKE);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, id);
    (void)sqlite3_bind_int64(s, 2, now_ms);
    return store_run(db, s) ? store_ok(ret_type) : store_db_fail(db, ret_type);
}

/* ---- sessions ----------------------------------------------------------------------------- */

ptn_buf *store_session_add(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str session, user;
    ptn_bytes hash;
    int64_t expires_ms, created_ms;
    if (!ptn_unpack_str(u, &session) || !ptn_unpack_str(u, &user) || !ptn_unpack_bin(u, &hash) ||
        !ptn_unpack_int(u, &expires_ms) || !ptn_unpack_int(u, &created_ms) || session.n == 0 ||
        hash.n == 0)
        return store_malformed(ret_type);
    int exists = store_user_exists(db, user);
    if (exists <= 0)
        return exists == 0 ? no_such_user(ret_type) : store_db_fail(db, ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_SESSION_ADD);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, session);
    store_bind_str(s, 2, user);
    store_bind_blob(s, 3, hash);
    (void)sqlite3_bind_int64(s, 4, expires_ms);
    (void)sqlite3_bind_int64(s, 5, created_ms);
    int rc = sqlite3_step(s);
    (void)sqlite3_reset(s);
    if ((rc & 0xff) == SQLITE_CONSTRAINT)
        return store_problem(PTN_CODE_CONFLICT, "there is a session with this id already",
                             ret_type);
    if (rc != SQLITE_DONE)
        return store_db_fail(db, ret_type);
    s = store_sql(db, STORE_SQL_SESSIONS_PURGE);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    (void)sqlite3_bind_int64(s, 1, created_ms - SESSION_KEEP_MS);
    return store_run(db, s) ? store_ok(ret_type) : store_db_fail(db, ret_type);
}

/* Same time for equal and unequal, so that a hash cannot be found byte by byte. */
static bool hash_equal(ptn_bytes a, ptn_bytes b) {
    unsigned diff = 0;
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        diff |= (unsigned)(a.p[i] ^ b.p[i]);
    return diff == 0;
}

static bool revoke(store_db *db, ptn_str session, int64_t now_ms) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_SESSION_REVOKE);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, session);
    (void)sqlite3_bind_int64(s, 2, now_ms);
    return store_run(db, s);
}

/* The session was ended before (reused: by this token), which not every verifier may have heard. */
static ptn_buf *session_revoked(store_db *db, bool reused, const char *message,
                                uint32_t *ret_type) {
    ptn_pack w;
    ptn_pack_init(&w, 160);
    ptn_pack_array(&w, 3);
    ptn_pack_int(&w, PTN_CODE_UNAUTHENTICATED);
    ptn_pack_cstr(&w, message);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, reused ? "revoked" : "ended");
    ptn_pack_bool(&w, true);
    return store_reply(db, &w, PTN_MSG_PROBLEM, ret_type);
}

/* A refresh token that was used before is in two hands: nobody keeps the session. */
static ptn_buf *reuse_detected(store_db *db, ptn_str session, int64_t now_ms, uint32_t *ret_type) {
    if (!revoke(db, session, now_ms))
        return store_db_fail(db, ret_type);
    return session_revoked(
        db, true, "this refresh token was used before; the session is revoked, log in again",
        ret_type);
}

ptn_buf *store_session_rotate(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str session;
    ptn_bytes old_hash, new_hash;
    int64_t expires_ms, now_ms;
    if (!ptn_unpack_str(u, &session) || !ptn_unpack_bin(u, &old_hash) ||
        !ptn_unpack_bin(u, &new_hash) || !ptn_unpack_int(u, &expires_ms) ||
        !ptn_unpack_int(u, &now_ms) || new_hash.n == 0)
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_SESSION_GET);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, session);
    int rc = sqlite3_step(s);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return store_db_fail(db, ret_type);
    bool revoked = rc == SQLITE_ROW && sqlite3_column_type(s, 3) != SQLITE_NULL;
    bool over = rc == SQLITE_DONE || sqlite3_column_int64(s, 2) <= now_ms || revoked;
    bool matches = !over && hash_equal(store_column_blob(s, 1), old_hash);
    ptn_str user = over ? (ptn_str){"", 0} : store_column_str(s, 0);
    char user_id[STORE_ID_BYTES_MAX];
    size_t user_bytes = user.n < sizeof user_id ? user.n : sizeof user_id;
    memcpy(user_id, user.p, user_bytes);
    (void)sqlite3_reset(s);
    if (revoked)
        return session_revoked(db, false, "the session has ended; log in again", ret_type);
    if (over)
        return store_problem(PTN_CODE_UNAUTHENTICATED, "the session has ended; log in again",
                             ret_type);
    if (!matches)
        return reuse_detected(db, session, now_ms, ret_type);
    s = store_sql(db, STORE_SQL_SESSION_ROTATE);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, session);
    store_bind_blob(s, 2, new_hash);
    (void)sqlite3_bind_int64(s, 3, expires_ms);
    if (!store_run(db, s))
        return store_db_fail(db, ret_type);
    return user_by(db, STORE_SQL_USER_BY_ID, (ptn_str){user_id, user_bytes}, ret_type);
}

ptn_buf *store_session_revoke(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str session;
    int64_t now_ms;
    if (!ptn_unpack_str(u, &session) || !ptn_unpack_int(u, &now_ms))
        return store_malformed(ret_type);
    return revoke(db, session, now_ms) ? store_ok(ret_type) : store_db_fail(db, ret_type);
}

/* Counts what other processes write: the command line changes passwords while a broker runs. */
static bool count_changes(store_db *db) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DATA_VERSION);
    if (s == NULL || sqlite3_step(s) != SQLITE_ROW)
        return false;
    int64_t version = sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    db->auth_changes += version != db->auth_version;
    db->auth_version = version;
    return true;
}

/* An array of what is over since then.  False: failed. */
static bool pack_over(store_db *db, ptn_pack *w, enum store_statement which, int64_t since_ms) {
    sqlite3_stmt *s = store_sql(db, which);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, since_ms);
    (void)sqlite3_bind_int64(s, 2, SESSIONS_REVOKED_MAX);
    size_t at = ptn_pack_array_open(w);
    uint32_t n = 0;
    int rc;
    for (; (rc = sqlite3_step(s)) == SQLITE_ROW; n++) {
        if (which == STORE_SQL_USERS_CUT)
            ptn_pack_array(w, 2);
        ptn_pack_str(w, store_column_str(s, 0));
        if (which == STORE_SQL_USERS_CUT)
            ptn_pack_int(w, sqlite3_column_int64(s, 1));
    }
    ptn_pack_array_close(w, at, n);
    (void)sqlite3_reset(s);
    return rc == SQLITE_DONE;
}

ptn_buf *store_sessions_revoked(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    int64_t seen, since_ms, cut_since_ms;
    if (!ptn_unpack_int(u, &seen) || !ptn_unpack_int(u, &since_ms) ||
        !ptn_unpack_int(u, &cut_since_ms))
        return store_malformed(ret_type);
    if (!count_changes(db))
        return store_db_fail(db, ret_type);
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 3);
    ptn_pack_int(&w, db->auth_changes);
    if (seen == db->auth_changes) {
        ptn_pack_array(&w, 0);
        ptn_pack_array(&w, 0);
    } else if (!pack_over(db, &w, STORE_SQL_SESSIONS_REVOKED, since_ms) ||
               !pack_over(db, &w, STORE_SQL_USERS_CUT, cut_since_ms)) {
        ptn_pack_abort(&w);
        return store_db_fail(db, ret_type);
    }
    return store_reply(db, &w, PTN_MSG_STORE_SESSIONS, ret_type);
}
