/* SPDX-License-Identifier: Apache-2.0
 *
 * disk_test.c - the store on a disk that fails: what it answers, and what is there afterwards.
 */
#include "disk.h"

#include "actors/store_db.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define SEEDS 60u

static store_db *db;

static void open_db(void) {
    const char *why = "";
    int err = store_db_open("test.db", &(store_db_opts){.vfs = DISK_VFS}, &db, &why);
    cr_assert_eq(err, 0, "%s", why);
    cr_assert_eq(store_db_settle(db), 0);
}

static int execute(uint32_t type, ptn_pack *w) {
    uint32_t reply_type;
    ptn_buf *b = ptn_pack_finish(w);
    ptn_buf *r = store_db_execute(db, type, ptn_buf_bytes(b), &reply_type);
    ptn_problem p = {.code = 0};
    cr_assert_not_null(r);
    if (reply_type == PTN_MSG_PROBLEM)
        cr_assert(ptn_problem_unpack(ptn_buf_bytes(r), &p));
    ptn_buf_unref(b);
    ptn_buf_unref(r);
    return p.code;
}

static void populate(void) {
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, "alice");
    ptn_pack_cstr(&w, "Alice");
    ptn_pack_cstr(&w, "");
    ptn_pack_int(&w, 1);
    ptn_pack_nil(&w);
    ptn_pack_int(&w, 1);
    cr_assert_eq(execute(PTN_MSG_STORE_USER_ADD, &w), 0);
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, "c1");
    ptn_pack_nil(&w);
    ptn_pack_cstr(&w, "alice");
    ptn_pack_int(&w, 1);
    ptn_pack_cstr(&w, "epoch");
    ptn_pack_array(&w, 1);
    ptn_pack_cstr(&w, "alice");
    cr_assert_eq(execute(PTN_MSG_STORE_CONV_ADD, &w), 0);
}

/* 0, or the code of the problem.  The content fills some pages. */
static int append(const char *id) {
    static const char content[6000] = {'x'};
    ptn_pack w;
    ptn_pack_init(&w, 8192);
    ptn_pack_array(&w, 7);
    ptn_pack_cstr(&w, "c1");
    ptn_pack_cstr(&w, id);
    ptn_pack_cstr(&w, "alice");
    ptn_pack_cstr(&w, "text");
    ptn_pack_str(&w, (ptn_str){content, sizeof content});
    ptn_pack_nil(&w);
    ptn_pack_int(&w, 1);
    return execute(PTN_MSG_STORE_MSG_APPEND, &w);
}

static int64_t last_seq(void) {
    uint32_t type, n;
    int64_t last = -1;
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 4);
    ptn_pack_cstr(&w, "c1");
    ptn_pack_nil(&w);
    ptn_pack_nil(&w);
    ptn_pack_int(&w, 1);
    ptn_buf *b = ptn_pack_finish(&w);
    ptn_buf *r = store_db_execute(db, PTN_MSG_STORE_MSG_RANGE, ptn_buf_bytes(b), &type);
    cr_assert_eq(type, PTN_MSG_STORE_MSGS);
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(r));
    cr_assert(ptn_unpack_array(&u, &n) && ptn_unpack_int(&u, &last));
    ptn_buf_unref(b);
    ptn_buf_unref(r);
    return last;
}

/* A disk with a populated database, which is open. */
static void start(uint64_t seed) {
    disk_make();
    disk_plug(&(struct disk_opts){.seed = seed});
    open_db();
    populate();
}

/* The process ends as it stands, and perhaps the power with it; the next one finds its disk. */
static void restart(uint64_t seed, bool power) {
    if (power)
        disk_power_loss();
    else
        disk_unplug();
    store_db_close(db);
    disk_plug(&(struct disk_opts){.seed = seed});
    open_db();
}

Test(disk, a_power_loss_takes_what_was_not_committed_and_nothing_else) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        start(seed);
        cr_assert_eq(append("m1"), 0);
        cr_assert_eq(store_db_begin(db), 0);
        cr_assert_eq(append("m2"), 0);
        restart(seed, true);
        cr_expect_eq(last_seq(), 1, "seed %u", (unsigned)seed);
        store_db_close(db);
    }
}

Test(disk, a_failed_sync_stores_nothing_and_the_next_one_only_its_own) {
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        start(seed);
        disk_faults_set(&(struct disk_faults){.sync_ppm = 1000000, .forgetful = seed % 2 == 0});
        cr_expect_eq(append("m1"), PTN_CODE_INTERNAL);
        disk_faults_set(NULL);
        cr_expect_eq(last_seq(), 0);
        cr_expect_eq(append("m2"), 0);
        restart(seed, true);
        cr_expect_eq(last_seq(), 1, "seed %u", (unsigned)seed);
        cr_expect_eq(append("m2"), 0); /* a duplicate */
        cr_expect_eq(last_seq(), 1, "seed %u: m2 is the one", (unsigned)seed);
        store_db_close(db);
    }
}

/* The log has a commit that was never synced, and the kernel takes its pages for clean. */
Test(disk, what_a_restart_finds_survives_a_power_loss) {
    unsigned found = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        start(seed);
        disk_faults_set(&(struct disk_faults){.sync_ppm = 1000000});
        cr_expect_eq(append("m1"), PTN_CODE_INTERNAL);
        restart(seed, false);
        int64_t seen = last_seq();
        found += seen == 1;
        restart(seed, true);
        cr_expect_geq(last_seq(), seen, "seed %u", (unsigned)seed);
        store_db_close(db);
    }
    cr_expect_gt(found, 0, "the case that is tested happens");
}

Test(disk, a_full_disk_and_a_quota_are_named_and_pass) {
    for (uint64_t seed = 1; seed <= 8; seed++) {
        start(seed);
        disk_faults_set(
            &(struct disk_faults){.full_ppm = 1000000, .full_ops = 1000, .quota = seed % 2 == 0});
        cr_expect_eq(append("m1"), PTN_CODE_STORAGE_FULL, "seed %u", (unsigned)seed);
        cr_expect_eq(last_seq(), 0, "reading goes on");
        disk_faults_set(NULL);
        cr_expect_eq(append("m1"), 0, "there is room again");
        restart(seed, true);
        cr_expect_eq(last_seq(), 1);
        store_db_close(db);
    }
}

Test(disk, an_end_in_the_middle_of_any_operation_leaves_a_whole_database) {
    for (uint64_t at = 1; at < 120; at++) {
        disk_make();
        disk_plug(&(struct disk_opts){.seed = at});
        open_db();
        populate();
        restart(at, false);
        disk_unplug();
        store_db_close(db);
        disk_plug(&(struct disk_opts){.seed = at, .end_at = at, .end_power = at % 2 == 0});
        const char *why;
        int err = store_db_open("test.db", &(store_db_opts){.vfs = DISK_VFS}, &db, &why);
        unsigned acknowledged = 0;
        char id[8];
        for (; err == 0 && acknowledged < 20; acknowledged++) {
            (void)snprintf(id, sizeof id, "m%u", acknowledged);
            if (append(id) != 0)
                break;
        }
        disk_unplug();
        if (err == 0)
            store_db_close(db);
        disk_plug(&(struct disk_opts){.seed = at});
        open_db();
        int64_t last = last_seq();
        cr_expect(last >= (int64_t)acknowledged && last <= (int64_t)acknowledged + 1,
                  "end at %u: %u acknowledged, %lld there", (unsigned)at, acknowledged,
                  (long long)last);
        store_db_close(db);
    }
}

static int64_t total_of_messages(void) {
    static const uint8_t nil = 0xc0;
    uint32_t type, n;
    int64_t total = -1;
    ptn_buf *r = store_db_execute(db, PTN_MSG_STORE_STATS, (ptn_bytes){&nil, 1}, &type);
    cr_assert_eq(type, PTN_MSG_STORE_STATS_REPLY);
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(r));
    cr_assert(ptn_unpack_array(&u, &n));
    for (unsigned i = 0; i < 3; i++)
        cr_assert(ptn_unpack_int(&u, &total));
    ptn_buf_unref(r);
    return total;
}

/* An error may make SQLite end the transaction in the middle of an operation; what this would go on
 * to write must not be stored by itself. */
Test(disk, what_a_failed_transaction_leaves_behind_is_nothing) {
    const struct disk_faults rough = {.read_ppm = 60000, .write_ppm = 60000, .sync_ppm = 60000};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        const char *why = "";
        char id[8];
        start(seed);
        store_db_close(db);
        cr_assert_eq(store_db_open("test.db",
                                   &(store_db_opts){.vfs = DISK_VFS, .cache_bytes = 16 << 10}, &db,
                                   &why),
                     0);
        disk_faults_set(&rough);
        for (unsigned i = 0; i < 60; i++) {
            (void)snprintf(id, sizeof id, "m%u", i);
            (void)append(id);
        }
        disk_faults_set(NULL);
        cr_expect_eq(total_of_messages(), last_seq(), "seed %u", (unsigned)seed);
        store_db_close(db);
    }
}
