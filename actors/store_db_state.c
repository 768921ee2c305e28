/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_state.c - what the database knows about itself: its numbers, and what people should do.
 */
#include "actors/store_db_internal.h"
#include "actors/store_salvage.h"

bool store_meta_set(store_db *db, const char *name, int64_t value) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_META_SET);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, ptn_str_of(name));
    (void)sqlite3_bind_int64(s, 2, value);
    return store_run(db, s);
}

bool store_meta_get(store_db *db, const char *name, int64_t def, int64_t *ret_value) {
    sqlite3_stmt *s = store_sql(db, STORE_SQL_META);
    if (s == NULL)
        return false;
    store_bind_str(s, 1, ptn_str_of(name));
    int rc = sqlite3_step(s);
    *ret_value = rc == SQLITE_ROW ? sqlite3_column_int64(s, 0) : def;
    (void)sqlite3_reset(s);
    return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* ---- the search for damage ---------------------------------------------------------------- */

static bool plan_get(store_db *db, store_scrub_plan *ret_plan) {
    store_scrub_plan p;
    bool ok = store_meta_get(db, "scrub_rounds", 0, &p.rounds) &&
              store_meta_get(db, "scrub_tree", 0, &p.at.tree) &&
              store_meta_get(db, "scrub_key_0", 0, &p.at.key[0]) &&
              store_meta_get(db, "scrub_key_1", 0, &p.at.key[1]) &&
              store_meta_get(db, "scrub_ended_ms", 0, &p.ended_ms);
    if (ok)
        *ret_plan = p;
    return ok;
}

static bool plan_set(store_db *db, const store_scrub_plan *p) {
    return store_meta_set(db, "scrub_rounds", p->rounds) &&
           store_meta_set(db, "scrub_tree", p->at.tree) &&
           store_meta_set(db, "scrub_key_0", p->at.key[0]) &&
           store_meta_set(db, "scrub_key_1", p->at.key[1]) &&
           store_meta_set(db, "scrub_ended_ms", p->ended_ms);
}

int store_db_scrub_plan(store_db *db, store_scrub_plan *ret_plan) {
    return plan_get(db, ret_plan) ? 0 : -PTN_EIO;
}

bool store_scrub_again(store_db *db) {
    store_scrub_plan p;
    if (!plan_get(db, &p))
        return false;
    p.rounds = p.rounds > 0 && p.at.tree != 0 ? 2 : 1;
    return plan_set(db, &p);
}

bool store_scrub_forget(store_db *db) {
    return plan_set(db, &(store_scrub_plan){.rounds = 0});
}

ptn_buf *store_scrub_note(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    store_scrub_plan p;
    if (!ptn_unpack_int(u, &p.rounds) || !ptn_unpack_int(u, &p.at.tree) ||
        !ptn_unpack_int(u, &p.at.key[0]) || !ptn_unpack_int(u, &p.at.key[1]) ||
        !ptn_unpack_int(u, &p.ended_ms))
        return store_malformed(ret_type);
    return plan_set(db, &p) ? store_ok(ret_type) : store_db_fail(db, ret_type);
}

/* ---- state -------------------------------------------------------------------------------- */

static void pack_scrub(ptn_pack *w, store_scrub_view *v) {
    /* relaxed: each is worth something by itself */
    ptn_pack_array(w, 3);
    ptn_pack_uint(w, v != NULL ? atomic_load_explicit(&v->state, memory_order_relaxed)
                               : (uint32_t)PTN_SCRUB_NONE);
    ptn_pack_uint(w, v != NULL ? atomic_load_explicit(&v->bytes, memory_order_relaxed) : 0);
    ptn_pack_int(w, v != NULL ? atomic_load_explicit(&v->ended_ms, memory_order_relaxed) : 0);
}

/* NULL: nothing is wrong. */
static const char *note_of(const store_db *db, int64_t salvaged) {
    if (db->full)
        return "the disk is full: writers are refused (storage_full); make room, nothing else is "
               "needed";
    return db->foreign ? NULL : store_salvage_note(sqlite3_db_filename(db->sql, "main"), salvaged);
}

ptn_buf *store_stats(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    (void)u;
    int64_t users = 0, conversations = 0, messages = 0;
    sqlite3_stmt *s = store_sql(db, STORE_SQL_TOTALS);
    int rc = SQLITE_ERROR;
    while (s != NULL && (rc = sqlite3_step(s)) == SQLITE_ROW) {
        ptn_str name = store_column_str(s, 0);
        int64_t n = sqlite3_column_int64(s, 1);
        if (ptn_str_eqz(name, "users"))
            users = n;
        else if (ptn_str_eqz(name, "conversations"))
            conversations = n;
        else if (ptn_str_eqz(name, "messages"))
            messages = n;
    }
    sqlite3_stmt *pages = rc == SQLITE_DONE ? store_sql(db, STORE_SQL_PAGES) : NULL;
    int64_t salvaged = 0;
    if (pages == NULL || !store_meta_get(db, "salvaged", 0, &salvaged) ||
        sqlite3_step(pages) != SQLITE_ROW)
        return store_db_fail(db, ret_type);
    const char *note = note_of(db, salvaged);
    ptn_pack w;
    ptn_pack_init(&w, 192);
    ptn_pack_array(&w, 6);
    ptn_pack_int(&w, users);
    ptn_pack_int(&w, conversations);
    ptn_pack_int(&w, messages);
    ptn_pack_int(&w, sqlite3_column_int64(pages, 0));
    ptn_pack_str_or_nil(&w, ptn_str_of(note));
    pack_scrub(&w, db->scrub);
    (void)sqlite3_reset(pages);
    return store_reply(db, &w, PTN_MSG_STORE_STATS_REPLY, ret_type);
}

/* One row: whoever commits it knows whether there is room again. */
ptn_buf *store_probe(store_db *db, ptn_unpack *u, uint32_t *ret_type) {
    int64_t n;
    (void)u;
    if (!store_meta_get(db, "probe", 0, &n) || !store_meta_set(db, "probe", n + 1))
        return store_db_fail(db, ret_type);
    return store_ok(ret_type);
}
