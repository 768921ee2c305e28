/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_queue.c - how far each device has acknowledged.
 *
 * A cursor is one row per user, conversation and device; a message waiting for a device is a row
 * between its cursor and the end of the conversation, never a copy.  Cursors are written without
 * waiting for the disk: losing one only means that messages are delivered again.
 *
 * A message is delivered when a device of a member other than its sender has acknowledged it.  As
 * for read marks, one row per member and conversation says so.
 */
#include "actors/store_db_internal.h"

#include <postern/metrics.h>

/* ---- dead letters ------------------------------------------------------------------------- */

struct dead {
    ptn_str user, device, conversation, reason;
    int64_t from, to, now_ms;
};

static bool dead_add(store_db *db, const struct dead *d) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DEAD_ADD);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, d->user);
    store_bind_str(s, 2, d->device);
    store_bind_str(s, 3, d->conversation);
    (void)sqlite3_bind_int64(s, 4, d->from);
    (void)sqlite3_bind_int64(s, 5, d->to);
    store_bind_str(s, 6, d->reason);
    (void)sqlite3_bind_int64(s, 7, d->now_ms);
    if (!store_run(db, s))
        return false;
    ptn_count(PTN_C_DEAD_LETTERS, (uint64_t)(d->to - d->from + 1));
    s = store_sql(db, STORE_SQL_DEAD_TRIM);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, sqlite3_last_insert_rowid(db->sql));
    (void)sqlite3_bind_int64(s, 2, db->dead_letters_max);
    if (!store_run(db, s))
        return false;
    ptn_count(PTN_C_DEAD_LETTERS_PURGED, (uint64_t)sqlite3_changes(db->sql));
    return true;
}

/* ---- opening a feed ----------------------------------------------------------------------- */

struct cursor {
    int64_t seq, deliveries, replay_to;
    bool known; /* this device has one */
};

/* The device's cursor; a new device begins where the furthest one is, the first one where the
 * member joined. */
static bool cursor_load(store_db *db, ptn_str user, ptn_str device, int64_t key, int64_t joined,
                        struct cursor *ret_k) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CURSORS);
    *ret_k = (struct cursor){.seq = joined};
    if (s == NULL)
        return false;
    store_bind_str(s, 1, user);
    (void)sqlite3_bind_int64(s, 2, key);
    int rc;
    while (!ret_k->known && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t seq = sqlite3_column_int64(s, 1);
        ret_k->known = ptn_str_eq(store_column_str(s, 0), device);
        if (ret_k->known) {
            ret_k->deliveries = sqlite3_column_int64(s, 2);
            ret_k->replay_to = sqlite3_column_int64(s, 3);
        }
        if (ret_k->known || seq > ret_k->seq)
            ret_k->seq = seq;
    }
    bool ok = ret_k->known || rc == SQLITE_DONE;
    if (ok)
        (void)sqlite3_reset(s);
    return ok;
}

/* 1: the cursor has moved or is new, 0: it stands at seq or further, or there is no such member,
 * <0: failed. */
static int cursor_set(store_db *db, ptn_str user, ptn_str conversation, ptn_str device,
                      const struct cursor *k, int64_t now_ms) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_CURSOR_SET);
    if (s == NULL)
        return -1;
    store_bind_str(s, 1, user);
    store_bind_str(s, 2, conversation);
    store_bind_str(s, 3, device);
    (void)sqlite3_bind_int64(s, 4, k->seq);
    (void)sqlite3_bind_int64(s, 5, k->deliveries);
    (void)sqlite3_bind_int64(s, 6, now_ms);
    return store_run(db, s) ? sqlite3_changes(db->sql) > 0 : -1;
}

struct opening { /* one feed; 0: without that limit */
    ptn_str user, device;
    int64_t now_ms, ttl_ms;
    uint64_t conversations, messages, bytes; /* the last two: what is left of them */
    bool limit_messages, limit_bytes;
};

/* The first seq in (after, last + 1] that is young enough: sent times grow with seq, nearly. */
static bool find_young(store_db *db, int64_t key, int64_t after, int64_t last, int64_t oldest_ms,
                       int64_t *ret_seq) {
    int64_t low = after + 1, high = last + 1;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        sqlite3_stmt *s = store_sql(db, STORE_SQL_MSG_TIME);
        if (s == NULL)
            return false;
        (void)sqlite3_bind_int64(s, 1, key);
        (void)sqlite3_bind_int64(s, 2, middle);
        int rc = sqlite3_step(s);
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            return false;
        if (rc == SQLITE_DONE || sqlite3_column_int64(s, 0) >= oldest_ms)
            high = middle;
        else
            low = middle + 1;
        (void)sqlite3_reset(s);
    }
    *ret_seq = low;
    return true;
}

/* Walks from the newest back while there is room; *ret_seq: the oldest that has some. */
static bool find_fitting(store_db *db, struct opening *o, int64_t key, int64_t after, int64_t last,
                         int64_t *ret_seq) {
    uint64_t n = (uint64_t)(last - after);
    if (o->limit_messages && n > o->messages)
        n = o->messages;
    *ret_seq = last + 1 - (int64_t)n;
    o->messages -= o->limit_messages ? n : 0;
    if (!o->limit_bytes || n == 0)
        return true;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_MSG_SIZES);
    int rc = SQLITE_ERROR;
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, key);
    (void)sqlite3_bind_int64(s, 2, *ret_seq - 1);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        uint64_t size = (uint64_t)sqlite3_column_int64(s, 1);
        if (size > o->bytes) {
            *ret_seq = sqlite3_column_int64(s, 0) + 1;
            o->bytes = 0;
            break;
        }
        o->bytes -= size;
    }
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* Passes what is too old, or over the limits of the user: dead letters.  *ret_why: NULL, or why the
 * cursor has moved. */
static bool cursor_limit(store_db *db, struct opening *o, ptn_str conversation, int64_t key,
                         int64_t last, struct cursor *k, const char **ret_why) {
    int64_t seq = k->seq + 1, fitting;
    *ret_why = NULL;
    if (k->seq >= last || k->seq < k->replay_to)
        return true;
    if (o->ttl_ms > 0 && !find_young(db, key, k->seq, last, o->now_ms - o->ttl_ms, &seq))
        return false;
    if (seq > k->seq + 1)
        *ret_why = "expired";
    if (!find_fitting(db, o, key, seq - 1, last, &fitting))
        return false;
    if (fitting > seq) {
        *ret_why = "overflow";
        seq = fitting;
    }
    if (*ret_why == NULL)
        return true;
    struct dead d = {.user = o->user,
                     .device = o->device,
                     .conversation = conversation,
                     .reason = ptn_str_of(*ret_why),
                     .from = k->seq + 1,
                     .to = seq - 1,
                     .now_ms = o->now_ms};
    k->seq = seq - 1;
    k->deliveries = 0;
    return dead_add(db, &d);
}

/* The current row of FEED_LIST. */
static bool pack_feed_row(store_db *db, ptn_pack *w, sqlite3_stmt *row, struct opening *o) {
    struct cursor k;
    int64_t key = sqlite3_column_int64(row, 0), last = sqlite3_column_int64(row, 3);
    ptn_str id = store_column_str(row, 1);
    const char *why;
    if (!cursor_load(db, o->user, o->device, key, sqlite3_column_int64(row, 2), &k))
        return false;
    int64_t before = k.seq;
    if (!cursor_limit(db, o, id, key, last, &k, &why) ||
        ((!k.known || why != NULL) && cursor_set(db, o->user, id, o->device, &k, o->now_ms) < 0))
        return false;
    ptn_pack_array(w, 5);
    ptn_pack_str(w, id);
    ptn_pack_int(w, k.seq);
    ptn_pack_int(w, k.deliveries);
    ptn_pack_int(w, before + 1);
    ptn_pack_cstr(w, why);
    return true;
}

ptn_buf *store_feed_open(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct opening o = {0};
    if (!ptn_unpack_str(u, &o.user) || !ptn_unpack_str(u, &o.device) ||
        !ptn_unpack_uint(u, &o.conversations) || !ptn_unpack_uint(u, &o.messages) ||
        !ptn_unpack_uint(u, &o.bytes) || !ptn_unpack_int(u, &o.ttl_ms) ||
        !ptn_unpack_int(u, &o.now_ms) || o.device.n > STORE_ID_BYTES_MAX)
        return store_malformed(ret_type);
    o.limit_messages = o.messages > 0;
    o.limit_bytes = o.bytes > 0;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_FEED_LIST);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, o.user);
    (void)sqlite3_bind_int64(s, 2, (int64_t)o.conversations);
    ptn_pack rows;
    uint32_t n = 0;
    int rc;
    ptn_pack_init(&rows, 1024);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW && pack_feed_row(db, &rows, s, &o))
        n++;
    if (rc != SQLITE_DONE) {
        ptn_pack_abort(&rows);
        return store_db_fail(db, ret_type);
    }
    (void)sqlite3_reset(s);
    return store_reply_rows(db, &rows, n, PTN_MSG_STORE_FEED, ret_type);
}

/* ---- acknowledgements --------------------------------------------------------------------- */

struct ack {
    ptn_str user, device, conversation;
    struct cursor cursor;
    int64_t got;
};

static bool unpack_ack(ptn_unpack *u, struct ack *ret_a) {
    uint32_t n;
    return ptn_unpack_array(u, &n) && n == 6 && ptn_unpack_str(u, &ret_a->user) &&
           ptn_unpack_str(u, &ret_a->device) && ptn_unpack_str(u, &ret_a->conversation) &&
           ptn_unpack_int(u, &ret_a->cursor.seq) && ptn_unpack_int(u, &ret_a->cursor.deliveries) &&
           ptn_unpack_int(u, &ret_a->got);
}

/* Moves the member's mark.  *ret_news: for some sender it is the first to come so far.  The sender
 * may be one of the two who were further, so the second counts. */
static bool mark_delivered(store_db *db, const struct ack *a, int64_t now_ms, bool *ret_news) {
    struct store_conv *c;
    int64_t seq[2] = {0};
    int rc, n = 0;
    *ret_news = false;
    if (store_conv_find(db, a->conversation, &c) != 0)
        return false;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DELIVERED_BY_OTHERS);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, c->key);
    store_bind_str(s, 2, a->user);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW && n < 2)
        seq[n++] = sqlite3_column_int64(s, 0);
    (void)sqlite3_reset(s);
    if (rc != SQLITE_DONE && rc != SQLITE_ROW)
        return false;
    s = store_sql(db, STORE_SQL_DELIVERED_SET);
    if (s == NULL)
        return false;
    (void)sqlite3_bind_int64(s, 1, c->key);
    store_bind_str(s, 2, a->user);
    (void)sqlite3_bind_int64(s, 3, a->got);
    (void)sqlite3_bind_int64(s, 4, now_ms);
    if (!store_run(db, s))
        return false;
    *ret_news = sqlite3_changes(db->sql) > 0 && a->got > seq[1];
    return true;
}

ptn_buf *store_feed_ack(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    uint32_t n, news = 0;
    int64_t now_ms;
    ptn_unpack list = *u;
    if (!ptn_unpack_array(&list, &n) || !ptn_unpack_any(u, NULL) || !ptn_unpack_int(u, &now_ms))
        return store_malformed(ret_type);
    ptn_pack rows;
    ptn_pack_init(&rows, 1024);
    for (uint32_t i = 0; i < n; i++) {
        struct ack a;
        bool is_news = false;
        if (!unpack_ack(&list, &a)) {
            ptn_pack_abort(&rows);
            return store_malformed(ret_type);
        }
        int moved = cursor_set(db, a.user, a.conversation, a.device, &a.cursor, now_ms);
        if (moved < 0 || (moved > 0 && a.got > 0 && !mark_delivered(db, &a, now_ms, &is_news))) {
            ptn_pack_abort(&rows);
            return store_db_fail(db, ret_type);
        }
        if (!is_news)
            continue;
        ptn_pack_array(&rows, 3);
        ptn_pack_str(&rows, a.conversation);
        ptn_pack_str(&rows, a.user);
        ptn_pack_int(&rows, a.got);
        news++;
    }
    return store_reply_rows(db, &rows, news, PTN_MSG_STORE_FEED_ACKED, ret_type);
}

/* ---- dead letters: operations -------------------------------------------------------------- */

ptn_buf *store_dead_add(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct dead d;
    if (!ptn_unpack_str(u, &d.user) || !ptn_unpack_str(u, &d.device) ||
        !ptn_unpack_str(u, &d.conversation) || !ptn_unpack_int(u, &d.from) ||
        !ptn_unpack_int(u, &d.to) || !ptn_unpack_str(u, &d.reason) || !ptn_unpack_int(u, &d.now_ms))
        return store_malformed(ret_type);
    return dead_add(db, &d) ? store_ok(ret_type) : store_db_fail(db, ret_type);
}

static void pack_dead(ptn_pack *w, sqlite3_stmt *row) {
    ptn_pack_array(w, 8);
    ptn_pack_int(w, sqlite3_column_int64(row, 0));
    for (int i = 1; i <= 3; i++)
        ptn_pack_str(w, store_column_str(row, i));
    ptn_pack_int(w, sqlite3_column_int64(row, 4));
    ptn_pack_int(w, sqlite3_column_int64(row, 5));
    ptn_pack_str(w, store_column_str(row, 6));
    ptn_pack_int(w, sqlite3_column_int64(row, 7));
}

ptn_buf *store_dead_list(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    int64_t after;
    uint64_t limit;
    if (!ptn_unpack_int(u, &after) || !ptn_unpack_uint(u, &limit))
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DEAD_LIST);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    (void)sqlite3_bind_int64(s, 1, after);
    (void)sqlite3_bind_int64(s, 2, (int64_t)(limit < STORE_ROWS_MAX ? limit : STORE_ROWS_MAX));
    ptn_pack rows;
    uint32_t n = 0;
    int rc;
    ptn_pack_init(&rows, 4096);
    for (; (rc = sqlite3_step(s)) == SQLITE_ROW; n++)
        pack_dead(&rows, s);
    if (rc != SQLITE_DONE) {
        ptn_pack_abort(&rows);
        return store_db_fail(db, ret_type);
    }
    (void)sqlite3_reset(s);
    return store_reply_rows(db, &rows, n, PTN_MSG_STORE_DEADS, ret_type);
}

static ptn_buf *no_such_letter(uint32_t *ret_type) {
    return store_problem(PTN_CODE_NOT_FOUND, "no such dead letter", ret_type);
}

/* Its cursor goes back before it, and what it holds is free of limits until it is acknowledged. */
ptn_buf *store_dead_replay(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    int64_t id, now_ms;
    if (!ptn_unpack_int(u, &id) || !ptn_unpack_int(u, &now_ms))
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_DEAD_GET);
    sqlite3_stmt *back = s != NULL ? store_sql(db, STORE_SQL_CURSOR_REWIND) : NULL;
    sqlite3_stmt *gone = back != NULL ? store_sql(db, STORE_SQL_DEAD_REMOVE) : NULL;
    if (gone == NULL)
        return store_db_fail(db, ret_type);
    (void)sqlite3_bind_int64(s, 1, id);
    int rc = sqlite3_step(s);
    if (rc == SQLITE_DONE)
        return no_such_letter(ret_type);
    if (rc != SQLITE_ROW)
        return store_db_fail(db, ret_type);
    ptn_pack rows;
    ptn_pack_init(&rows, 256);
    pack_dead(&rows, s);
    store_bind_str(back, 1, store_column_str(s, 1));
    store_bind_str(back, 2, store_column_str(s, 3));
    store_bind_str(back, 3, store_column_str(s, 2));
    (void)sqlite3_bind_int64(back, 4, sqlite3_column_int64(s, 4) - 1);
    (void)sqlite3_bind_int64(back, 5, sqlite3_column_int64(s, 5));
    (void)sqlite3_bind_int64(gone, 1, id);
    if (!store_run(db, back) || !store_run(db, gone)) {
        ptn_pack_abort(&rows);
        return store_db_fail(db, ret_type);
    }
    (void)sqlite3_reset(s);
    return store_reply_rows(db, &rows, 1, PTN_MSG_STORE_DEADS, ret_type);
}

ptn_buf *store_dead_purge(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    int64_t id = 0;
    bool all;
    if (!ptn_unpack_bool(u, &all) || !ptn_unpack_int(u, &id))
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, all ? STORE_SQL_DEAD_CLEAR : STORE_SQL_DEAD_REMOVE);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    if (!all)
        (void)sqlite3_bind_int64(s, 1, id);
    if (!store_run(db, s))
        return store_db_fail(db, ret_type);
    if (!all && sqlite3_changes(db->sql) == 0)
        return no_such_letter(ret_type);
    ptn_pack w;
    ptn_pack_init(&w, 8);
    ptn_pack_array(&w, 0);
    return store_reply(db, &w, PTN_MSG_STORE_DEADS, ret_type);
}
