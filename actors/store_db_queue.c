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

/* ---- opening a feed ----------------------------------------------------------------------- */

struct cursor {
    int64_t seq, deliveries;
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
        if (ret_k->known)
            ret_k->deliveries = sqlite3_column_int64(s, 2);
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

/* The current row of FEED_LIST. */
static bool pack_feed_row(store_db *db, ptn_pack *w, sqlite3_stmt *row, ptn_str user,
                          ptn_str device, int64_t now_ms) {
    struct cursor k;
    ptn_str id = store_column_str(row, 1);
    if (!cursor_load(db, user, device, sqlite3_column_int64(row, 0), sqlite3_column_int64(row, 2),
                     &k))
        return false;
    if (!k.known && cursor_set(db, user, id, device, &k, now_ms) < 0)
        return false;
    ptn_pack_array(w, 5);
    ptn_pack_str(w, id);
    ptn_pack_int(w, k.seq);
    ptn_pack_int(w, k.deliveries);
    ptn_pack_int(w, 0);
    ptn_pack_nil(w);
    return true;
}

ptn_buf *store_feed_open(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    ptn_str user, device;
    uint64_t limit;
    int64_t now_ms;
    if (!ptn_unpack_str(u, &user) || !ptn_unpack_str(u, &device) || !ptn_unpack_uint(u, &limit) ||
        !ptn_unpack_int(u, &now_ms) || device.n > STORE_ID_BYTES_MAX)
        return store_malformed(ret_type);
    sqlite3_stmt *s = store_sql(db, STORE_SQL_FEED_LIST);
    if (s == NULL)
        return store_db_fail(db, ret_type);
    store_bind_str(s, 1, user);
    (void)sqlite3_bind_int64(s, 2, (int64_t)limit);
    ptn_pack rows, w;
    uint32_t n = 0;
    int rc;
    ptn_pack_init(&rows, 1024);
    while ((rc = sqlite3_step(s)) == SQLITE_ROW &&
           pack_feed_row(db, &rows, s, user, device, now_ms))
        n++;
    if (rc != SQLITE_DONE) {
        ptn_pack_abort(&rows);
        return store_db_fail(db, ret_type);
    }
    (void)sqlite3_reset(s);
    ptn_buf *encoded = ptn_pack_finish(&rows);
    if (encoded == NULL && n > 0)
        return NULL;
    ptn_pack_init(&w, ptn_buf_bytes(encoded).n + 8);
    ptn_pack_array(&w, n);
    if (n > 0)
        ptn_pack_raw(&w, ptn_buf_bytes(encoded));
    ptn_buf_unref(encoded);
    return store_reply(db, &w, PTN_MSG_STORE_FEED, ret_type);
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
    ptn_pack rows, w;
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
    ptn_buf *encoded = ptn_pack_finish(&rows);
    if (encoded == NULL && news > 0)
        return NULL;
    ptn_pack_init(&w, ptn_buf_bytes(encoded).n + 8);
    ptn_pack_array(&w, news);
    if (news > 0)
        ptn_pack_raw(&w, ptn_buf_bytes(encoded));
    ptn_buf_unref(encoded);
    return store_reply(db, &w, PTN_MSG_STORE_FEED_ACKED, ret_type);
}

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
    return store_run(db, s);
}

ptn_buf *store_dead_add(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    struct dead d;
    if (!ptn_unpack_str(u, &d.user) || !ptn_unpack_str(u, &d.device) ||
        !ptn_unpack_str(u, &d.conversation) || !ptn_unpack_int(u, &d.from) ||
        !ptn_unpack_int(u, &d.to) || !ptn_unpack_str(u, &d.reason) || !ptn_unpack_int(u, &d.now_ms))
        return store_malformed(ret_type);
    return dead_add(db, &d) ? store_ok(ret_type) : store_db_fail(db, ret_type);
}
