/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_testing.h - one database of a test's own, and its operations run one by one.
 */
#ifndef POSTERN_ACTORS_STORE_DB_TESTING_H
#define POSTERN_ACTORS_STORE_DB_TESTING_H

#include "actors/store_testing.h"

static struct test_dir dir;
static store_db *db;
static ptn_buf *last; /* the reply of the last run() */
static uint32_t last_type;

/* Executes one message and returns its reply, which lives until the next run(). */
static inline ptn_bytes run_buf(uint32_t type, ptn_buf *take_b) {
    ptn_buf_unref(last);
    last = store_db_execute(db, type, ptn_buf_bytes(take_b), &last_type);
    cr_assert_not_null(last);
    ptn_buf_unref(take_b);
    return ptn_buf_bytes(last);
}
#define run(kind, ...) run_buf(PTN_MSG_##kind, packed(__VA_ARGS__))

/* Of the last reply; -1: it is none. */
static inline int problem_code(void) {
    ptn_problem p;
    if (last_type != PTN_MSG_PROBLEM)
        return -1;
    cr_assert(ptn_problem_unpack(ptn_buf_bytes(last), &p));
    return p.code;
}

static inline void close_db(void) {
    last = ptn_buf_unref(last);
    store_db_close(db);
}

static inline void teardown(void) {
    close_db();
    test_dir_close(&dir);
    uint64_t live, pooled;
    ptn_buf_stats(&live, &pooled);
    cr_expect_eq(live, 0, "buffers leaked");
}

#endif
