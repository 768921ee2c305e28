/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_letters.c - dead letters, which store_db_queue.c writes: listed, replayed and purged.
 */
#include "actors/store_db_internal.h"

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
