/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_log_test.c - commits whose sync is another thread's: acknowledged later, or taken back.
 */
#include "actors/store_db_testing.h"

#include <sqlite3.h>

static void setup(void) {
    const char *why = "";
    test_dir_open(&dir);
    cr_assert_eq(store_db_open(dir.db, NULL, &db, &why), 0, "%s", why);
    (void)run(STORE_USER_ADD, "sssiSi", "alice", "Alice", "hash", (int64_t)1, NULL, (int64_t)1);
    (void)run(STORE_CONV_ADD, "sSsis[s]", "c1", NULL, "alice", (int64_t)1, "epoch", "alice");
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
    store_db_make_room(db);
}

TestSuite(store_db_log, .init = setup, .fini = teardown, .timeout = 60);

static int64_t append(const char *id) {
    ptn_bytes b = run(STORE_MSG_APPEND, "sssssni", "c1", id, "alice", "text", "x", (int64_t)1);
    return last_type == PTN_MSG_STORE_MSG ? int_of(element(b, 0)) : -1;
}

/* Returns how long the log was before it. */
static uint32_t append_afloat(const char *id, int64_t seq) {
    uint32_t pages = store_db_log_pages(db);
    cr_assert_eq(store_db_begin(db), 0);
    cr_expect_eq(append(id), seq);
    cr_expect_eq(store_db_rows_waiting(db), 1);
    cr_assert(store_db_may_float(db));
    cr_assert_eq(store_db_commit_afloat(db), 0);
    return pages;
}

static int64_t stored(void) {
    return int_of(element(run_buf(PTN_MSG_STORE_STATS, NULL), 2));
}

Test(store_db_log, what_is_synced_later_stays) {
    (void)append_afloat("m1", 1);
    (void)append_afloat("m2", 2);
    cr_assert_eq(store_db_sync(db), 0);
    store_db_afloat_ended(db, 0, 0);
    cr_expect_not(store_db_is_unsettled(db));
    cr_expect_eq(append("m2"), 2, "it is known");
    cr_expect_eq(append("m3"), 3);
    cr_expect_eq(stored(), 3);
}

Test(store_db_log, a_failed_sync_takes_all_back_that_was_committed_since) {
    store_db *reader;
    const store_db_opts reads = {.read_only = true};
    (void)append_afloat("m1", 1);
    cr_assert_eq(store_db_sync(db), 0);
    uint32_t pages = append_afloat("m2", 2);
    (void)append_afloat("m3", 3);
    store_db_afloat_ended(db, -PTN_EIO, pages);
    cr_expect(store_db_is_unsettled(db));
    cr_expect_eq(append("m3"), 2, "neither is there any more");
    cr_expect_not(store_db_is_unsettled(db));
    cr_expect_eq(append("m2"), 3);
    cr_expect_eq(append("m1"), 1, "and this one has stayed");
    cr_assert_eq(store_db_open(dir.db, &reads, &reader, NULL), 0);
    cr_assert_eq(store_db_read_begin(reader), 0);
    uint32_t type;
    ptn_buf *b = store_db_execute(reader, PTN_MSG_STORE_STATS, (ptn_bytes){NULL, 0}, &type);
    cr_expect_eq(int_of(element(ptn_buf_bytes(b), 2)), 3, "others see the same");
    ptn_buf_unref(b);
    store_db_read_end(reader);
    store_db_close(reader);
}

Test(store_db_log, a_transaction_on_top_of_what_failed_can_be_rolled_back) {
    uint32_t pages = append_afloat("m1", 1);
    cr_assert_eq(store_db_begin(db), 0);
    cr_expect_eq(append("m2"), 2);
    store_db_afloat_ended(db, -PTN_EIO, pages);
    store_db_rollback(db);
    cr_expect_eq(append("m2"), 1);
    cr_expect_eq(stored(), 1);
}

Test(store_db_log, what_needs_the_log_for_itself_does_not_float) {
    cr_assert_eq(store_db_begin(db), 0);
    cr_expect(store_db_may_float(db));
    store_db_rollback(db);
    cr_assert_eq(store_db_relax(db, true), 0);
    cr_expect_not(store_db_may_float(db), "nobody would sync it");
    cr_assert_eq(store_db_relax(db, false), 0);
    cr_assert_eq(store_db_checkpoint(db), 0);
    cr_expect_not(store_db_may_float(db), "the log begins anew");
    cr_expect_eq(append("m1"), 1);
    cr_expect(store_db_may_float(db));
}
