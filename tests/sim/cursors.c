/* SPDX-License-Identifier: Apache-2.0
 *
 * cursors.c - the oracle `cursor`: how far a device has acknowledged never goes back.
 *
 * It stands between the store's thread and its database: what a committed transaction has said of a
 * cursor is a fact, whoever fails or is killed after it, until its user leaves the conversation.
 * Cursors do not wait for the disk: a loss of power ends it, and so does a sync that fails, because
 * the kernel may forget then what it has not written.
 */
#include "rooms.h"

#include "actors/store_db.h"

#include <postern/messages.h>
#include <sqlite3.h>

struct cursors {
    uint64_t at[DEVICES_MAX][2]; /* by room minus ROOM_OPEN */
};
_Static_assert(sizeof(struct cursors) == sizeof world->cursors, "as the world has them");

static struct cursors pending; /* what the transaction says */

/* The place of a cursor; NULL: it is not one of ours. */
static uint64_t *cursor_of(ptn_str user, ptn_str name, ptn_str conversation) {
    unsigned device = device_of(user, name), room = room_of(conversation);
    return device < DEVICES_MAX && room < ROOMS ? &pending.at[device][room - ROOM_OPEN] : NULL;
}

/* [[user, device, conversation, seq, ..]..] */
static void acknowledged(ptn_bytes payload) {
    ptn_unpack u = ptn_unpack_of(payload);
    uint32_t n, fields;
    ptn_str user, device, conversation;
    uint64_t seq;
    bool ok = ptn_unpack_array(&u, &n) && ptn_unpack_array(&u, &n);
    for (; ok && n > 0; n--) {
        ok = ptn_unpack_array(&u, &fields) && fields == 6 && ptn_unpack_str(&u, &user) &&
             ptn_unpack_str(&u, &device) && ptn_unpack_str(&u, &conversation) &&
             ptn_unpack_uint(&u, &seq) && ptn_unpack_any(&u, NULL) && ptn_unpack_any(&u, NULL);
        uint64_t *at = ok ? cursor_of(user, device, conversation) : NULL;
        if (at != NULL && seq > *at)
            *at = seq;
    }
    ORACLE(ok, "store: a bad list of acknowledgements");
}

/* [user, device, ..], and [[conversation, acked, ..]..] */
static void opened(ptn_bytes payload, ptn_bytes feed) {
    ptn_unpack u = ptn_unpack_of(payload), rows = ptn_unpack_of(feed);
    uint32_t n, fields;
    ptn_str user, device, conversation;
    uint64_t seq;
    bool ok = ptn_unpack_array(&u, &n) && ptn_unpack_str(&u, &user) &&
              ptn_unpack_str(&u, &device) && ptn_unpack_array(&rows, &n);
    for (; ok && n > 0; n--) {
        ok = ptn_unpack_array(&rows, &fields) && fields == 5 &&
             ptn_unpack_str(&rows, &conversation) && ptn_unpack_uint(&rows, &seq) &&
             ptn_unpack_any(&rows, NULL) && ptn_unpack_any(&rows, NULL) &&
             ptn_unpack_any(&rows, NULL);
        uint64_t *at = ok ? cursor_of(user, device, conversation) : NULL;
        if (at == NULL)
            continue;
        ORACLE(seq >= *at,
               "cursor: device %.*s of %.*s was at seq %llu of %.*s, and begins at %llu",
               (int)device.n, device.p, (int)user.n, user.p, (unsigned long long)*at,
               (int)conversation.n, conversation.p, (unsigned long long)seq);
        *at = seq;
    }
    ORACLE(ok, "store: a bad feed");
}

/* [conversation, [user..]] */
static void removed(ptn_bytes payload) {
    ptn_unpack u = ptn_unpack_of(payload);
    uint32_t n;
    ptn_str user, conversation;
    bool ok =
        ptn_unpack_array(&u, &n) && ptn_unpack_str(&u, &conversation) && ptn_unpack_array(&u, &n);
    for (; ok && n > 0 && (ok = ptn_unpack_str(&u, &user)); n--)
        for (unsigned i = 0; i < DEVICES_MAX; i++) {
            uint64_t *at = ptn_str_eqz(user, user_id(device_user(i)))
                               ? cursor_of(user, ptn_str_of(device_name(i)), conversation)
                               : NULL;
            if (at != NULL)
                *at = 0;
        }
    ORACLE(ok, "store: a bad list of members");
}

/* ---- between the store and its database ------------------------------------------------------ */

int __real_store_db_settle(store_db *db);
int __wrap_store_db_settle(store_db *db);
int __real_store_db_begin(store_db *db);
int __wrap_store_db_begin(store_db *db);
int __real_store_db_commit(store_db *db);
int __wrap_store_db_commit(store_db *db);
void __real_store_db_afloat_ended(store_db *db, int err, uint32_t pages);
void __wrap_store_db_afloat_ended(store_db *db, int err, uint32_t pages);
ptn_buf *__real_store_db_execute(store_db *db, uint32_t type, ptn_bytes payload,
                                 uint32_t *ret_type);
ptn_buf *__wrap_store_db_execute(store_db *db, uint32_t type, ptn_bytes payload,
                                 uint32_t *ret_type);

void cursors_lost(void) {
    memset(world->cursors, 0, sizeof world->cursors);
}

static int unless_failed(int err) {
    if (err != 0)
        cursors_lost();
    return err;
}

int __wrap_store_db_settle(store_db *db) {
    return unless_failed(__real_store_db_settle(db));
}

int __wrap_store_db_begin(store_db *db) {
    int err = unless_failed(__real_store_db_begin(db));
    memcpy(&pending, world->cursors, sizeof pending);
    return err;
}

int __wrap_store_db_commit(store_db *db) {
    int err = unless_failed(__real_store_db_commit(db));
    if (err == 0)
        memcpy(world->cursors, &pending, sizeof pending);
    return err;
}

void __wrap_store_db_afloat_ended(store_db *db, int err, uint32_t pages) {
    (void)unless_failed(err);
    __real_store_db_afloat_ended(db, err, pages);
}

ptn_buf *__wrap_store_db_execute(store_db *db, uint32_t type, ptn_bytes payload,
                                 uint32_t *ret_type) {
    ptn_buf *reply = __real_store_db_execute(db, type, payload, ret_type);
    if (reply == NULL && type != PTN_MSG_STORE_FLUSH)
        return NULL;
    if (type == PTN_MSG_STORE_FEED_ACK && *ret_type == PTN_MSG_STORE_FEED_ACKED)
        acknowledged(payload);
    else if (type == PTN_MSG_STORE_FEED_OPEN && *ret_type == PTN_MSG_STORE_FEED)
        opened(payload, ptn_buf_bytes(reply));
    else if (type == PTN_MSG_STORE_MEMBERS_REMOVE && *ret_type == PTN_MSG_STORE_CONV)
        removed(payload);
    else if (type == PTN_MSG_STORE_FLUSH && *ret_type != PTN_MSG_OK)
        cursors_lost();
    return reply;
}

/* ---- the end --------------------------------------------------------------------------------- */

static const char cursors_sql[] =
    "SELECT k.user, k.device, c.id, k.seq, coalesce(d.seq, 0),"
    " max(k.seq) OVER (PARTITION BY k.user, k.conversation)"
    " FROM cursors k JOIN conversations c ON c.key = k.conversation"
    " LEFT JOIN deliveries d ON d.user = k.user AND d.conversation = k.conversation";

static ptn_str column(sqlite3_stmt *s, int i) {
    return (ptn_str){(const char *)sqlite3_column_text(s, i), (size_t)sqlite3_column_bytes(s, i)};
}

void check_cursors(void) {
    sqlite3 *sql = NULL;
    sqlite3_stmt *s = NULL;
    memcpy(&pending, world->cursors, sizeof pending);
    int rc = sqlite3_open_v2(DATABASE, &sql, SQLITE_OPEN_READWRITE, DISK_VFS);
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(sql, cursors_sql, -1, &s, NULL);
    ORACLE(rc == SQLITE_OK, "store: the cursors cannot be read: %s", sqlite3_errmsg(sql));
    while ((rc = sqlite3_step(s)) == SQLITE_ROW) {
        uint64_t *at = cursor_of(column(s, 0), column(s, 1), column(s, 2));
        if (at == NULL)
            continue;
        sqlite3_int64 seq = sqlite3_column_int64(s, 3), delivered = sqlite3_column_int64(s, 4);
        ORACLE((uint64_t)seq >= *at,
               "cursor: device %s of %s was at seq %llu, and the store has it at %lld",
               (const char *)sqlite3_column_text(s, 1), (const char *)sqlite3_column_text(s, 0),
               (unsigned long long)*at, (long long)seq);
        ORACLE(delivered <= sqlite3_column_int64(s, 5),
               "cursor: seq %lld is delivered to %s, and no device has it", (long long)delivered,
               (const char *)sqlite3_column_text(s, 0));
    }
    ORACLE(rc == SQLITE_DONE, "store: the cursors cannot be read: %s", sqlite3_errmsg(sql));
    (void)sqlite3_finalize(s);
    (void)sqlite3_close(sql);
}
