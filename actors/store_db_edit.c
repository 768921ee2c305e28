/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_edit.c - a list of writes of one user: what a client did while it was offline, or one
 * edit made now.
 *
 * All of a list run in one transaction, in order, and each has its own outcome: a refusal changes
 * nothing and keeps nobody else from being applied.
 *
 * Records that can be edited (preferences, the title of a conversation) carry a version and the
 * time of their last edit.  The last writer wins by the time on the client's clock, which the
 * caller has bounded by ours; whoever comes late hears what stands there.  The outcome is
 * remembered under the client's id of the edit: a clock that runs ahead would otherwise let the
 * same edit, sent twice, win over one made in between.
 */
#include "actors/idempotency.h"
#include "actors/merge_patch.h"
#include "actors/store_db_internal.h"

#define EDITS_MAX 10000u /* in one list: the callers have bounds of their own */

struct edit {
    ptn_str user, conversation;
    int64_t now_ms;
    uint64_t kind;
    ptn_str id;          /* n == 0: none, and then nothing is remembered */
    ptn_bytes print;     /* hash of the edit */
    int64_t stamp_ms;    /* of the client's clock */
    uint64_t base;       /* version that the client has seen */
    bool stamped, based; /* these are given */
    bool reject;         /* rather than superseded: conflict */
    ptn_bytes body;
};

static bool unpack_optional_bin(ptn_unpack *u, ptn_bytes *ret_b) {
    *ret_b = (ptn_bytes){(const uint8_t *)"", 0};
    return ptn_unpack_nil(u) || ptn_unpack_bin(u, ret_b);
}

/* One EDIT; e->user .. now_ms stand. */
static bool unpack_edit(ptn_unpack *u, struct edit *e) {
    uint32_t n;
    if (!ptn_unpack_array(u, &n) || n != 7 || !ptn_unpack_uint(u, &e->kind) ||
        !ptn_unpack_str_or_nil(u, &e->id) || !unpack_optional_bin(u, &e->print))
        return false;
    e->stamped = !ptn_unpack_nil(u);
    if (e->stamped && !ptn_unpack_int(u, &e->stamp_ms))
        return false;
    e->based = !ptn_unpack_nil(u);
    if (e->based && !ptn_unpack_uint(u, &e->base))
        return false;
    return ptn_unpack_bool(u, &e->reject) && ptn_unpack_any(u, &e->body);
}

/* ---- results ------------------------------------------------------------------------------ */

static void pack_head(ptn_pack *w, enum ptn_outcome outcome, int64_t version) {
    ptn_pack_array(w, 3);
    ptn_pack_int(w, outcome);
    if (version > 0)
        ptn_pack_int(w, version);
    else
        ptn_pack_nil(w);
}

/* Consumes the PROBLEM.  False: there is none, for lack of memory. */
static bool pack_rejected(ptn_pack *w, ptn_buf *problem) {
    if (problem == NULL)
        return false;
    pack_head(w, PTN_OUTCOME_REJECTED, 0);
    ptn_pack_raw(w, ptn_buf_bytes(problem));
    ptn_buf_unref(problem);
    return true;
}

static bool pack_refusal(ptn_pack *w, int code, const char *message) {
    uint32_t type;
    return pack_rejected(w, store_problem(code, message, &type));
}

/* ---- messages and read marks ---------------------------------------------------------------- */

static bool edit_message(store_db *db, const struct edit *e, ptn_pack *w) {
    uint32_t type, n;
    uint64_t seq;
    bool is_new = false;
    ptn_buf *b = store_db_execute(
        db, e->kind == PTN_EDIT_MESSAGE ? PTN_MSG_STORE_MSG_APPEND : PTN_MSG_STORE_MSG_READ,
        e->body, &type);
    if (b == NULL || type != PTN_MSG_STORE_MSG)
        return pack_rejected(w, b);
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(b));
    (void)(ptn_unpack_array(&u, &n) && ptn_unpack_uint(&u, &seq) && ptn_unpack_bool(&u, &is_new));
    pack_head(w, is_new ? PTN_OUTCOME_APPLIED : PTN_OUTCOME_DUPLICATE, 0);
    ptn_pack_raw(w, ptn_buf_bytes(b));
    ptn_buf_unref(b);
    return true;
}

/* ---- records ------------------------------------------------------------------------------ */

/* As sqlite3_step() of a query; an error dooms the transaction. */
static int stepped(store_db *db, sqlite3_stmt *s) {
    uint32_t ignored;
    int rc = sqlite3_step(s);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        ptn_buf_unref(store_db_fail(db, &ignored));
    return rc;
}

/* The record's row: version, edited_ms, value.  SQLITE_ROW, SQLITE_DONE, or an error.  The caller
 * resets it. */
static int record_row(store_db *db, const struct edit *e, sqlite3_stmt **ret_s) {
    bool title = e->kind == PTN_EDIT_TITLE;
    sqlite3_stmt *s = store_sql(db, title ? STORE_SQL_CONV_EDITED : STORE_SQL_USER_EDITED);
    if (s == NULL)
        return SQLITE_ERROR;
    store_bind_str(s, 1, title ? e->conversation : e->user);
    *ret_s = s;
    return stepped(db, s);
}

/* The result with the record as it stands now. */
static bool pack_record(store_db *db, const struct edit *e, enum ptn_outcome outcome, ptn_pack *w) {
    sqlite3_stmt *s;
    if (record_row(db, e, &s) != SQLITE_ROW)
        return false;
    pack_head(w, outcome, sqlite3_column_int64(s, 0));
    ptn_bytes preferences = store_column_blob(s, 2);
    if (e->kind == PTN_EDIT_TITLE)
        ptn_pack_str_or_nil(w, store_column_str(s, 2));
    else if (preferences.n > 0)
        ptn_pack_raw(w, preferences);
    else
        ptn_pack_map(w, 0);
    (void)sqlite3_reset(s);
    return true;
}

enum known { UNKNOWN, KNOWN, MISMATCH, FAILED };

/* What became of the edit with this id; *ret_outcome when it is known. */
static enum known look_up(store_db *db, const struct edit *e, enum ptn_outcome *ret_outcome) {
    if (e->id.n == 0)
        return UNKNOWN;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EDIT_GET);
    if (s == NULL)
        return FAILED;
    store_bind_str(s, 1, e->user);
    store_bind_str(s, 2, e->id);
    int rc = stepped(db, s);
    enum known known = rc == SQLITE_DONE ? UNKNOWN : FAILED;
    if (rc == SQLITE_ROW) {
        ptn_bytes print = store_column_blob(s, 0);
        bool same =
            print.n == e->print.n && (print.n == 0 || memcmp(print.p, e->print.p, print.n) == 0);
        known = same ? KNOWN : MISMATCH;
        *ret_outcome = sqlite3_column_int(s, 1) == PTN_OUTCOME_APPLIED ? PTN_OUTCOME_DUPLICATE
                                                                       : PTN_OUTCOME_SUPERSEDED;
    }
    (void)sqlite3_reset(s);
    return known;
}

static bool remember(store_db *db, const struct edit *e, enum ptn_outcome outcome) {
    if (e->id.n == 0)
        return true;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_EDIT_ADD);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, e->user);
    store_bind_str(s, 2, e->id);
    store_bind_blob(s, 3, e->print);
    (void)sqlite3_bind_int(s, 4, (int)outcome);
    if (!store_run(db, s))
        return false;
    s = store_sql(db, STORE_SQL_EDITS_PURGE);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, e->user);
    (void)sqlite3_bind_int64(s, 2, STORE_EDITS_KEPT);
    return store_run(db, s);
}

static enum ptn_outcome decide(const struct edit *e, int64_t version, int64_t edited_ms) {
    if (e->based)
        return e->base == (uint64_t)version ? PTN_OUTCOME_APPLIED : PTN_OUTCOME_CONFLICT;
    if (!e->stamped || e->stamp_ms >= edited_ms)
        return PTN_OUTCOME_APPLIED;
    return e->reject ? PTN_OUTCOME_CONFLICT : PTN_OUTCOME_SUPERSEDED;
}

static ptn_buf *merge_refused(int err) {
    uint32_t type;
    if (err == -PTN_ENOMEM)
        return NULL;
    if (err == -PTN_ETOOBIG)
        return store_problem(
            PTN_CODE_PAYLOAD_TOO_LARGE,
            "preferences hold at most 16 KiB, 256 members per object and 16 levels", &type);
    return store_problem(PTN_CODE_INVALID_REQUEST, "preferences are changed by an object", &type);
}

/* The patched map.  NULL: *ret_refusal is the PROBLEM, or NULL when there is no memory. */
static ptn_buf *merged(ptn_bytes preferences, ptn_bytes patch, ptn_buf **ret_refusal) {
    ptn_pack w;
    *ret_refusal = NULL;
    ptn_pack_init(&w, 1024);
    int err = merge_patch(preferences, patch, &w);
    if (err == 0 && ptn_pack_len(&w) > STORE_PREFERENCES_BYTES)
        err = -PTN_ETOOBIG;
    if (err == 0)
        return ptn_pack_finish(&w);
    ptn_pack_abort(&w);
    *ret_refusal = merge_refused(err);
    return NULL;
}

static bool store_value(store_db *db, const struct edit *e, ptn_bytes preferences) {
    bool title = e->kind == PTN_EDIT_TITLE;
    ptn_str text = {0};
    ptn_unpack u = ptn_unpack_of(e->body);
    if (title)
        (void)ptn_unpack_str_or_nil(&u, &text);
    sqlite3_stmt *s = store_sql(db, title ? STORE_SQL_CONV_TITLE : STORE_SQL_USER_PREFERENCES);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, title ? e->conversation : e->user);
    if (title)
        store_bind_str_or_null(s, 2, text);
    else
        store_bind_blob(s, 2, preferences);
    (void)sqlite3_bind_int64(s, 3, e->stamped ? e->stamp_ms : e->now_ms);
    (void)sqlite3_bind_int64(s, 4, store_change(db));
    return store_run(db, s);
}

/* The edit that has won, on row s, which is reset. */
static bool apply(store_db *db, const struct edit *e, sqlite3_stmt *s, ptn_pack *w) {
    ptn_buf *map = NULL, *refusal = NULL;
    if (e->kind == PTN_EDIT_PREFERENCES)
        map = merged(store_column_blob(s, 2), e->body, &refusal);
    (void)sqlite3_reset(s);
    if (e->kind == PTN_EDIT_PREFERENCES && map == NULL)
        return pack_rejected(w, refusal);
    bool ok = store_value(db, e, ptn_buf_bytes(map)) && remember(db, e, PTN_OUTCOME_APPLIED);
    ptn_buf_unref(map);
    return ok && pack_record(db, e, PTN_OUTCOME_APPLIED, w);
}

static bool edit_record(store_db *db, const struct edit *e, ptn_pack *w) {
    enum ptn_outcome outcome = PTN_OUTCOME_APPLIED;
    int member = e->kind == PTN_EDIT_TITLE ? store_is_member(db, e->conversation, e->user) : 1;
    if (member == 0)
        return pack_refusal(w, PTN_CODE_NOT_FOUND, "no such conversation");
    enum known known = member < 0 ? FAILED : look_up(db, e, &outcome);
    if (known == FAILED)
        return false;
    if (known == MISMATCH)
        return pack_refusal(w, PTN_CODE_IDEMPOTENCY_MISMATCH, IDEMPOTENCY_MISMATCH_TEXT);
    if (known == KNOWN)
        return pack_record(db, e, outcome, w);
    sqlite3_stmt *s;
    int rc = record_row(db, e, &s);
    if (rc == SQLITE_DONE)
        return pack_refusal(w, PTN_CODE_NOT_FOUND, "no such user");
    if (rc != SQLITE_ROW)
        return false;
    outcome = decide(e, sqlite3_column_int64(s, 0), sqlite3_column_int64(s, 1));
    if (outcome == PTN_OUTCOME_APPLIED)
        return apply(db, e, s, w);
    (void)sqlite3_reset(s);
    if (outcome == PTN_OUTCOME_SUPERSEDED && !remember(db, e, outcome))
        return false;
    return pack_record(db, e, outcome, w);
}

/* ---- the list ----------------------------------------------------------------------------- */

/* The record that the edits were about, as STORE_CONV or STORE_USER say it; nil when there is none,
 * or nothing but messages and marks. */
static bool pack_subject(store_db *db, const struct edit *e, bool records, ptn_pack *w) {
    uint32_t type = PTN_MSG_PROBLEM;
    ptn_buf *b = NULL;
    if (records)
        b = e->conversation.n > 0 ? store_reply_conv(db, e->conversation, &type)
                                  : store_reply_user(db, e->user, &type);
    if (records && b == NULL)
        return false;
    if (type == PTN_MSG_STORE_CONV || type == PTN_MSG_STORE_USER)
        ptn_pack_raw(w, ptn_buf_bytes(b));
    else
        ptn_pack_nil(w);
    ptn_buf_unref(b);
    return true;
}

ptn_buf *store_edit(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct edit e = {0};
    uint32_t n;
    bool records = false, ok = true;
    if (!ptn_unpack_str(u, &e.user) || !ptn_unpack_str_or_nil(u, &e.conversation) ||
        !ptn_unpack_int(u, &e.now_ms) || !ptn_unpack_array(u, &n) || n > EDITS_MAX)
        return store_malformed(ret_type);
    ptn_pack results, w;
    ptn_pack_init(&results, 1024);
    for (uint32_t i = 0; i < n && ok; i++) {
        ok = unpack_edit(u, &e);
        bool message = e.kind == PTN_EDIT_MESSAGE || e.kind == PTN_EDIT_READ;
        ok = ok && (message ? edit_message(db, &e, &results) : edit_record(db, &e, &results));
        records = records || !message;
    }
    ptn_pack_init(&w, 1024 + ptn_pack_len(&results));
    ptn_pack_array(&w, 2);
    ok = ok && pack_subject(db, &e, records, &w);
    ptn_pack_array(&w, n);
    ptn_buf *encoded = n > 0 ? ptn_pack_finish(&results) : NULL;
    if (n == 0)
        ptn_pack_abort(&results);
    else
        ptn_pack_raw(&w, ptn_buf_bytes(encoded));
    ok = ok && (n == 0 || encoded != NULL);
    ptn_buf_unref(encoded);
    if (ok)
        return store_reply(db, &w, PTN_MSG_STORE_EDITED, ret_type);
    ptn_pack_abort(&w);
    if (db->doomed == 0)
        db->doomed = -PTN_ENOMEM; /* part of it may have been written: nothing may stay */
    *ret_type = PTN_MSG_PROBLEM;
    return store_db_problem_of(db->doomed);
}
