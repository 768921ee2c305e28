/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_conversations.c - conversations and their members in the database, and the cache of what
 * an append needs to know of a conversation.
 */
#include "actors/idempotency.h"
#include "actors/store_db_internal.h"

#include <stdlib.h>

/* ---- the cache ---------------------------------------------------------------------------- */

void store_convs_drop(store_db *db) {
    struct store_conv *c, *next;
    HASH_ITER(hh, db->convs, c, next) {
        HASH_DELETE(hh, db->convs, c);
        free(c);
    }
}

/* Loads key and last sequence number.  0, -PTN_ENOTFOUND or an error. */
static int load_conv(store_db *db, ptn_str id, struct store_conv *c) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CONV_KEY);
    if (s == NULL)
        return -PTN_EIO;
    store_bind_str(s, 1, id);
    int rc = sqlite3_step(s);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? -PTN_ENOTFOUND : -PTN_EIO;
    c->key = sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    s = store_sql(db, STORE_SQL_LAST_SEQ);
    if (s == NULL)
        return -PTN_EIO;
    (void)sqlite3_bind_int64(s, 1, c->key);
    if (sqlite3_step(s) != SQLITE_ROW)
        return -PTN_EIO;
    c->last_seq = sqlite3_column_int64(s, 0); /* NULL, an empty conversation, reads as 0 */
    c->total = sqlite3_column_int64(s, 1);    /* a bare column beside max(): of that row */
    (void)sqlite3_reset(s);
    return 0;
}

int store_conv_find(store_db *db, ptn_str id, struct store_conv **ret_c) {
    struct store_conv *c = NULL;
    if (id.n == 0 || id.n > STORE_ID_BYTES_MAX)
        return -PTN_ENOTFOUND;
    HASH_FIND(hh, db->convs, id.p, id.n, c);
    if (c != NULL) {
        /* Move to the young end: the hash keeps insertion order. */
        if (c->hh.next != NULL && HASH_COUNT(db->convs) >= db->convs_max) {
            HASH_DELETE(hh, db->convs, c);
            HASH_ADD(hh, db->convs, id, c->id_bytes, c);
            if (c->hh.tbl == NULL) {
                free(c);
                return -PTN_ENOMEM;
            }
        }
        *ret_c = c;
        return 0;
    }
    c = calloc(1, sizeof *c);
    if (c == NULL)
        return -PTN_ENOMEM;
    int err = load_conv(db, id, c);
    if (err == 0) {
        if (HASH_COUNT(db->convs) >= db->convs_max) {
            struct store_conv *oldest = db->convs;
            HASH_DELETE(hh, db->convs, oldest);
            free(oldest);
        }
        memcpy(c->id, id.p, id.n);
        c->id_bytes = (uint32_t)id.n;
        HASH_ADD(hh, db->convs, id, c->id_bytes, c);
        if (c->hh.tbl == NULL)
            err = -PTN_ENOMEM;
    }
    if (err != 0) {
        free(c);
        if (err == -PTN_ENOMEM && db->in_transaction)
            db->doomed = err;
        return err;
    }
    *ret_c = c;
    return 0;
}

/* ---- reading ------------------------------------------------------------------------------ */

static ptn_buf *no_such_conversation(uint32_t *ret_type) {
    return store_problem(PTN_CODE_NOT_FOUND, "no such conversation", ret_type);
}

int store_is_member(store_db *db, ptn_str conversation, ptn_str user) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_MEMBER_GET);
    if (s == NULL)
        return -PTN_EIO;
    store_bind_str(s, 1, conversation);
    store_bind_str(s, 2, user);
    int rc = sqlite3_step(s);
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : -PTN_EIO;
}

int store_is_sender(store_db *db, struct store_conv *c, ptn_str user) {
    for (uint32_t i = 0; i < STORE_SENDERS; i++)
        if (user.n > 0 && ptn_str_eq(user, (ptn_str){c->sender[i].id, c->sender[i].bytes}))
            return 1;
    int member = store_is_member(db, (ptn_str){c->id, c->id_bytes}, user);
    if (member == 1 && user.n <= STORE_ID_BYTES_MAX) {
        uint32_t at = c->sender_next++ % STORE_SENDERS;
        memcpy(c->sender[at].id, user.p, user.n);
        c->sender[at].bytes = (uint32_t)user.n;
    }
    return member;
}

static bool count_members(store_db *db, ptn_str id, uint32_t *ret_n) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_MEMBERS_COUNT);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, id);
    if (sqlite3_step(s) != SQLITE_ROW)
        return false;
    *ret_n = (uint32_t)sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    return true;
}

/* An end of the conversation's messages; 0: it has none. */
static bool end_seq(store_db *db, enum store_statement which, int64_t key, int64_t *ret_seq) {
    sqlite3_stmt *s = store_sql(db, which);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, key);
    if (sqlite3_step(s) != SQLITE_ROW)
        return false;
    *ret_seq = sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    return true;
}

bool store_pack_conv(store_db *db, ptn_pack *w, sqlite3_stmt *row) {
    ptn_str id = store_column_str(row, 1);
    int64_t key = sqlite3_column_int64(row, 0), first, last;
    uint32_t n, packed = 0;
    if (!count_members(db, id, &n) || !end_seq(db, STORE_SQL_FIRST_SEQ, key, &first) ||
        !end_seq(db, STORE_SQL_LAST_SEQ, key, &last))
        return false;
    ptn_pack_array(w, 9);
    ptn_pack_str(w, id);
    ptn_pack_str_or_nil(w, store_column_str(row, 2));
    ptn_pack_str(w, store_column_str(row, 3));
    ptn_pack_int(w, sqlite3_column_int64(row, 4));
    ptn_pack_str(w, store_column_str(row, 5));
    ptn_pack_int(w, last);
    sqlite3_stmt *members = store_sql(db, STORE_SQL_MEMBERS);
    if (members == NULL)
        return false;
    store_bind_str(members, 1, id);
    ptn_pack_array(w, n);
    int rc;
    while ((rc = sqlite3_step(members)) == SQLITE_ROW && packed < n) {
        ptn_pack_str(w, store_column_str(members, 0));
        packed++;
    }
    (void)sqlite3_reset(members);
    ptn_pack_int(w, sqlite3_column_int64(row, 6));
    ptn_pack_int(w, first > 0 ? first - 1 : 0);
    return rc == SQLITE_DONE && packed == n;
}

ptn_buf *store_reply_conv(store_db *db, ptn_str id, uint32_t *ret_type) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CONV_BY_ID);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, id);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_DONE)
        return no_such_conversation(ret_type);
    ptn_pack w;
    ptn_pack_init(&w, 1024);
    if (rc != SQLITE_ROW || !store_pack_conv(db, &w, s)) {
        ptn_pack_abort(&w);
        return store_db_fail(db, ret_type);
    }
    (void)sqlite3_reset(s);
    return store_reply(db, &w, PTN_MSG_STORE_CONV, ret_type);
}

ptn_buf *store_conv_get(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str id;
    if (!ptn_unpack_str(u, &id))
        return store_malformed(ret_type);
    return store_reply_conv(db, id, ret_type);
}

ptn_buf *store_conv_list(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str user, after;
    uint64_t limit;
    if (!ptn_unpack_str(u, &user) || !ptn_unpack_str_or_nil(u, &after) ||
        !ptn_unpack_uint(u, &limit))
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CONV_LIST);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, user);
    store_bind_str(s, 2,
                   after.n > 0 ? after : PTN_STR("\x7f")); /* ids are letters, digits, hyphens */
    (void)sqlite3_bind_int64(s, 3, (int64_t)(limit < STORE_ROWS_MAX ? limit : STORE_ROWS_MAX));
    ptn_pack rows;
    uint32_t n = 0;
    int rc;
    bool ok = true;
    ptn_pack_init(&rows, 4096);
    while (ok && (rc = sqlite3_step(s)) != SQLITE_DONE && ptn_pack_len(&rows) < STORE_PAGE_BYTES) {
        ok = rc == SQLITE_ROW && store_pack_conv(db, &rows, s);
        n += ok;
    }
    if (!ok) {
        ptn_pack_abort(&rows);
        return store_db_fail(db, ret_type);
    }
    (void)sqlite3_reset(s);
    return store_reply_rows(db, &rows, n, PTN_MSG_STORE_CONVS, ret_type);
}

/* ---- changing ----------------------------------------------------------------------------- */

/* Every name in the array at u (not advanced) must be a user: *ret_ok, or the PROBLEM that names
 * the first one that is not.  NULL with *ret_ok false: no memory for it. */
static ptn_buf *check_users(store_db *db, ptn_unpack u, bool *ret_ok, uint32_t *ret_type) {
    uint32_t n;
    *ret_ok = false;
    if (!ptn_unpack_array(&u, &n) || n > STORE_MEMBERS_MAX)
        return store_malformed(ret_type);
    for (uint32_t i = 0; i < n; i++) {
        ptn_str user;
        if (!ptn_unpack_str(&u, &user))
            return store_malformed(ret_type);
        int exists = user.n <= STORE_ID_BYTES_MAX ? store_user_exists(db, user) : 0;
        if (exists < 0)
            return store_db_fail(db, ret_type);
        if (exists == 0) {
            char reason[STORE_ID_BYTES_MAX + 32];
            (void)sqlite3_snprintf(sizeof reason, reason, "no such user: %.*s",
                                   (int)(user.n < STORE_ID_BYTES_MAX ? user.n : STORE_ID_BYTES_MAX),
                                   user.p);
            return store_problem_field(PTN_CODE_VALIDATION_FAILED, "a member does not exist",
                                       PTN_STR("members"), reason, ret_type);
        }
    }
    *ret_ok = true;
    return NULL;
}

/* The record that members see has changed. */
static bool touch(store_db *db, ptn_str id) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CONV_TOUCH);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, id);
    (void)sqlite3_bind_int64(s, 2, store_change(db));
    return store_run(db, s);
}

static bool add_members(store_db *db, ptn_str id, ptn_unpack u, int64_t now_ms, bool *ret_any) {
    uint32_t n;
    ptn_str user;
    *ret_any = false;
    if (!ptn_unpack_array(&u, &n))
        return false;
    for (uint32_t i = 0; i < n && ptn_unpack_str(&u, &user); i++) {
        sqlite3_stmt *s = store_sql(db, STORE_SQL_MEMBER_ADD);
        if (s == NULL)
            return false;
        store_bind_str(s, 1, id);
        store_bind_str(s, 2, user);
        (void)sqlite3_bind_int64(s, 3, now_ms);
        (void)sqlite3_bind_int64(s, 4, store_change(db));
        if (!store_run(db, s))
            return false;
        if (sqlite3_changes(db->sql) == 0)
            continue;
        *ret_any = true;
        s = store_sql(db, STORE_SQL_REMOVAL_END);
        if (s == NULL)
            return false;
        store_bind_str(s, 1, user);
        store_bind_str(s, 2, id);
        if (!store_run(db, s))
            return false;
    }
    return true;
}

/* The id is taken.  By the same request, sent twice: the first result again. */
static ptn_buf *reply_existing(store_db *db, ptn_str id, ptn_unpack *u, uint32_t *ret_type) {
    ptn_bytes hash;
    if (!ptn_unpack_any(u, NULL) || !ptn_unpack_bin(u, &hash))
        return store_reply_conv(db, id, ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CONV_REQUEST);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, id);
    store_bind_blob(s, 2, hash);
    int rc = sqlite3_step(s);
    (void)sqlite3_reset(s);
    if (rc == SQLITE_DONE)
        return store_problem(PTN_CODE_IDEMPOTENCY_MISMATCH, IDEMPOTENCY_MISMATCH_TEXT, ret_type);
    return rc == SQLITE_ROW ? store_reply_conv(db, id, ret_type) : store_db_fail(db, ret_type);
}

/* The member has gone; *ret_any when it was one. */
static bool remove_member(store_db *db, ptn_str id, ptn_str user, bool *ret_any) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_MEMBER_REMOVE);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, id);
    store_bind_str(s, 2, user);
    if (!store_run(db, s))
        return false;
    if (sqlite3_changes(db->sql) == 0)
        return true;
    *ret_any = true;
    s = store_sql(db, STORE_SQL_CURSORS_REMOVE);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, id);
    store_bind_str(s, 2, user);
    if (!store_run(db, s) || (s = store_sql(db, STORE_SQL_REMOVAL_ADD)) == NULL)
        return false;
    store_bind_str(s, 1, user);
    store_bind_str(s, 2, id);
    (void)sqlite3_bind_int64(s, 3, store_change(db));
    return store_run(db, s);
}

ptn_buf *store_conv_add(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str id, title, creator, epoch;
    ptn_bytes hash;
    int64_t created_ms;
    uint32_t n;
    bool ok;
    if (!ptn_unpack_array(u, &n) || (n != 6 && n != 7) || !ptn_unpack_str(u, &id) ||
        !ptn_unpack_str_or_nil(u, &title) || !ptn_unpack_str(u, &creator) ||
        !ptn_unpack_int(u, &created_ms) || !ptn_unpack_str(u, &epoch) || id.n == 0 ||
        id.n > STORE_ID_BYTES_MAX)
        return store_malformed(ret_type);
    struct store_conv *existing;
    int err = store_conv_find(db, id, &existing);
    if (err == 0)
        return reply_existing(db, id, u, ret_type);
    if (err != -PTN_ENOTFOUND)
        return store_db_fail(db, ret_type);
    ptn_unpack members = *u;
    ptn_buf *refusal = check_users(db, members, &ok, ret_type);
    if (!ok)
        return refusal;
    if (!ptn_unpack_any(u, NULL) || !ptn_unpack_bin(u, &hash))
        hash = (ptn_bytes){NULL, 0};
    int exists = store_user_exists(db, creator);
    if (exists <= 0)
        return exists == 0
                   ? store_problem_field(PTN_CODE_VALIDATION_FAILED, "the creator does not exist",
                                         PTN_STR("creatorId"), "no such user", ret_type)
                   : store_db_fail(db, ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CONV_ADD);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, id);
    store_bind_str_or_null(s, 2, title);
    store_bind_str(s, 3, creator);
    (void)sqlite3_bind_int64(s, 4, created_ms);
    store_bind_str(s, 5, epoch);
    store_bind_blob(s, 6, hash);
    (void)sqlite3_bind_int64(s, 7, store_change(db));
    bool any;
    if (!store_run(db, s) || !add_members(db, id, members, created_ms, &any))
        return store_db_fail(db, ret_type);
    db->conversations_added++;
    return store_reply_conv(db, id, ret_type);
}

/* How many of the array at u are not members yet. */
static bool count_new(store_db *db, ptn_str id, ptn_unpack u, uint32_t *ret_n) {
    uint32_t n;
    ptn_str user;
    *ret_n = 0;
    if (!ptn_unpack_array(&u, &n))
        return false;
    for (uint32_t i = 0; i < n && ptn_unpack_str(&u, &user); i++) {
        int member = store_is_member(db, id, user);
        if (member < 0)
            return false;
        *ret_n += member == 0;
    }
    return true;
}

ptn_buf *store_members_add(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str id;
    ptn_unpack users;
    int64_t now_ms;
    bool ok;
    uint32_t members, added;
    if (!ptn_unpack_str(u, &id))
        return store_malformed(ret_type);
    users = *u;
    if (!ptn_unpack_any(u, NULL) || !ptn_unpack_int(u, &now_ms))
        return store_malformed(ret_type);
    struct store_conv *c;
    int err = store_conv_find(db, id, &c);
    if (err != 0)
        return err == -PTN_ENOTFOUND ? no_such_conversation(ret_type) : store_db_fail(db, ret_type);
    ptn_buf *refusal = check_users(db, users, &ok, ret_type);
    if (!ok)
        return refusal;
    if (!count_members(db, id, &members) || !count_new(db, id, users, &added))
        return store_db_fail(db, ret_type);
    if (members + added > STORE_MEMBERS_MAX)
        return store_problem_field(PTN_CODE_VALIDATION_FAILED, "the conversation is full",
                                   PTN_STR("members"), "at most 1000 members", ret_type);
    bool any;
    if (!add_members(db, id, users, now_ms, &any) || (any && !touch(db, id)))
        return store_db_fail(db, ret_type);
    return store_reply_conv(db, id, ret_type);
}

ptn_buf *store_members_remove(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str id, user;
    uint32_t n;
    if (!ptn_unpack_str(u, &id) || !ptn_unpack_array(u, &n) || n > STORE_MEMBERS_MAX)
        return store_malformed(ret_type);
    ptn_unpack check = *u;
    for (uint32_t i = 0; i < n; i++)
        if (!ptn_unpack_str(&check, &user))
            return store_malformed(ret_type);
    struct store_conv *c;
    int err = store_conv_find(db, id, &c);
    if (err != 0)
        return err == -PTN_ENOTFOUND ? no_such_conversation(ret_type) : store_db_fail(db, ret_type);
    memset(c->sender, 0, sizeof c->sender);
    bool any = false;
    for (uint32_t i = 0; i < n && ptn_unpack_str(u, &user); i++)
        if (!remove_member(db, id, user, &any))
            return store_db_fail(db, ret_type);
    if (any && !touch(db, id))
        return store_db_fail(db, ret_type);
    return store_reply_conv(db, id, ret_type);
}
