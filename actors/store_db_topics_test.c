/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_topics_test.c - the log of durable topics: places, epochs, levels, retention.
 */
#include "actors/store_db_internal.h"
#include "actors/store_db_testing.h"

static struct topic_rule rules[2];
static store_db_opts opts;

static void open_db(void) {
    const char *why = "";
    cr_assert_eq(store_db_open(dir.db, &opts, &db, &why), 0, "%s", why);
    cr_assert_eq(store_db_claim(db), 0);
}

static void setup(void) {
    test_dir_open(&dir);
    opts = (store_db_opts){.retention = {.topics = rules, .n_topics = 2}};
    rules[0] = (struct topic_rule){.pattern = PTN_STR("a.*")};
    rules[1] = (struct topic_rule){.pattern = PTN_STR("b.**")};
    open_db();
}

TestSuite(store_db_topics, .init = setup, .fini = teardown, .timeout = 60);

#define E1 "0123456789abcdef"
#define E2 "fedcba9876543210"

struct opened {
    char epoch[20];
    int64_t base, last;
    uint32_t ids;
};

static struct opened open_topic(const char *topic, const char *epoch) {
    struct opened o = {0};
    ptn_bytes r = run(STORE_TOPIC_OPEN, "ssii", topic, epoch, (int64_t)1000, (int64_t)0);
    cr_assert_eq(last_type, PTN_MSG_STORE_TOPIC);
    ptn_str e = str_of(element(r, 0));
    cr_assert_eq(e.n, 16);
    memcpy(o.epoch, e.p, e.n);
    o.base = int_of(element(r, 1));
    o.last = int_of(element(r, 2));
    o.ids = count_of(element(r, 3));
    return o;
}

/* Appends an event of ten bytes of text; the outcome is in last_type. */
static void append(uint32_t type, const char *topic, const char *epoch, int64_t offset,
                   const char *id, int64_t at_ms) {
    if (id == NULL)
        (void)run_buf(type, packed("ssii[sn]", topic, epoch, offset, at_ms, "ten bytes!"));
    else
        (void)run_buf(type, packed("ssii[sb]", topic, epoch, offset, at_ms, "ten bytes!", id));
}

static void append_many(const char *topic, int64_t from, int64_t to) {
    cr_assert_eq(store_db_begin(db), 0);
    for (int64_t i = from; i <= to; i++) {
        append(PTN_MSG_STORE_EVENTS_APPEND, topic, E1, i, NULL, i);
        cr_assert_eq(last_type, PTN_MSG_OK);
    }
    cr_assert_eq(store_db_commit(db), 0);
}

static int64_t rows_max = 1000;

static uint32_t count_after(const char *topic, int64_t after, int64_t *ret_first) {
    ptn_bytes rows = element(run(STORE_EVENT_RANGE, "sini", topic, after, rows_max), 1);
    uint32_t n = count_of(rows);
    *ret_first = n > 0 ? int_of(element(element(rows, 0), 0)) : 0;
    return n;
}

/* ---- appending ---------------------------------------------------------------------------- */

Test(store_db_topics, offsets_have_no_holes) {
    struct opened o = open_topic("a.x", E1);
    cr_expect_str_eq(o.epoch, E1);
    cr_expect_eq(o.last, 0);
    append(PTN_MSG_STORE_EVENTS_APPEND, "a.x", E1, 1, "i1", 5);
    cr_expect_eq(last_type, PTN_MSG_OK);
    append(PTN_MSG_STORE_EVENTS_APPEND, "a.x", E1, 3, NULL, 5);
    cr_expect_eq(problem_code(), PTN_CODE_OVERLOADED, "2 is next");
    append(PTN_MSG_STORE_EVENTS_APPEND, "a.x", E1, 1, NULL, 5);
    cr_expect_eq(problem_code(), PTN_CODE_OVERLOADED, "1 is taken");
    append(PTN_MSG_STORE_EVENTS_APPEND, "a.x", E2, 2, NULL, 5);
    cr_expect_eq(problem_code(), PTN_CODE_OVERLOADED, "of another life");
    append(PTN_MSG_STORE_EVENTS_APPEND, "a.y", E1, 1, NULL, 5);
    cr_expect_eq(problem_code(), PTN_CODE_INTERNAL, "not opened");
    append(PTN_MSG_STORE_EVENTS_APPEND_WRITTEN, "a.x", E1, 2, NULL, 5);
    cr_expect_eq(last_type, PTN_MSG_OK);
    o = open_topic("a.x", E2);
    cr_expect_str_eq(o.epoch, E1, "it was there");
    cr_expect_eq(o.last, 2);
    cr_expect_eq(o.ids, 1);
}

Test(store_db_topics, events_of_one_message_are_stored_together) {
    (void)open_topic("a.x", E1);
    int64_t first;
    cr_assert_eq(store_db_begin(db), 0);
    (void)run_buf(PTN_MSG_STORE_EVENTS_APPEND, packed("ssii[snsbsn]", "a.x", E1, (int64_t)1,
                                                      (int64_t)5, "one", "two", "i2", "three"));
    cr_expect_eq(last_type, PTN_MSG_OK);
    (void)run_buf(PTN_MSG_STORE_EVENTS_APPEND,
                  packed("ssii[snsn]", "a.x", E1, (int64_t)3, (int64_t)5, "again", "four"));
    cr_expect_eq(problem_code(), PTN_CODE_OVERLOADED, "3 is taken: neither");
    cr_assert_eq(store_db_commit(db), 0);
    cr_expect_eq(store_db_rows_committed(db), 3);
    cr_expect_eq(count_after("a.x", 0, &first), 3);
    struct opened o = open_topic("a.x", E2);
    cr_expect_eq(o.last, 3);
    cr_expect_eq(o.ids, 1);
    (void)run_buf(PTN_MSG_STORE_EVENTS_APPEND,
                  packed("ssii[snss]", "a.x", E1, (int64_t)4, (int64_t)5, "four", "five", "no id"));
    cr_expect_eq(problem_code(), PTN_CODE_INTERNAL, "what cannot be read to its end is not begun");
    cr_expect_eq(count_after("a.x", 0, &first), 3);
    append_many("a.x", 4, 4);
}

/* Offsets from `from` on, which say it themselves; every third has an id. */
static void append_together(const char *topic, int64_t from, int64_t n) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 5);
    ptn_pack_cstr(&w, topic);
    ptn_pack_cstr(&w, E1);
    ptn_pack_int(&w, from);
    ptn_pack_int(&w, 5);
    ptn_pack_array(&w, (uint32_t)(2 * n));
    for (int64_t i = from; i < from + n; i++) {
        ptn_pack_int(&w, i);
        if (i % 3 == 0)
            ptn_pack_bin(&w, (ptn_bytes){(const uint8_t *)&i, sizeof i});
        else
            ptn_pack_nil(&w);
    }
    (void)run_buf(PTN_MSG_STORE_EVENTS_APPEND, ptn_pack_finish(&w));
    cr_assert_eq(last_type, PTN_MSG_OK);
}

/* Whatever the bounds, and whichever events share a row, one sees each as if it stood alone. */
Test(store_db_topics, a_range_begins_and_ends_inside_of_a_row) {
    (void)open_topic("a.x", E1);
    (void)open_topic("a.y", E1);
    append_together("a.x", 1, 7);
    append_together("a.x", 8, 1);
    append_together("a.y", 1, 3);
    append_together("a.x", 9, 2);
    const int64_t last_offset = 10;
    for (int64_t after = 0; after <= last_offset; after++)
        for (int64_t before = after; before <= last_offset + 2; before++)
            for (int64_t limit = 0; limit <= last_offset; limit++) {
                ptn_bytes rows =
                    element(run(STORE_EVENT_RANGE, "siii", "a.x", after, before, limit), 1);
                int64_t n = (before <= last_offset ? before - 1 : last_offset) - after;
                n = n < 0 ? 0 : n < limit ? n : limit;
                cr_assert_eq(count_of(rows), n, "%d..%d", (int)after, (int)before);
                for (uint32_t i = 0; i < n; i++) {
                    cr_assert_eq(int_of(element(element(rows, i), 0)), after + 1 + i);
                    cr_assert_eq(int_of(element(element(rows, i), 1)), after + 1 + i);
                }
            }
    close_db();
    open_db();
    ptn_bytes ids = element(run(STORE_TOPIC_OPEN, "ssii", "a.x", E1, (int64_t)6, (int64_t)0), 3);
    cr_assert_eq(count_of(ids), 2, "of 5 to 10");
    for (uint32_t i = 0; i < 2; i++)
        cr_expect_eq(int_of(element(element(ids, i), 1)), 6 + 3 * i);
    cr_expect_eq(open_topic("a.x", E1).ids, 3);
    cr_expect_eq(open_topic("a.x", E1).last, last_offset);
}

Test(store_db_topics, ids_come_back_by_their_age) {
    (void)open_topic("a.x", E1);
    cr_assert_eq(store_db_begin(db), 0);
    for (int64_t offset = 1; offset <= 1200; offset++)
        append(PTN_MSG_STORE_EVENTS_APPEND, "a.x", E1, offset, "0123", offset);
    cr_assert_eq(store_db_commit(db), 0);
    ptn_bytes ids =
        element(run(STORE_TOPIC_OPEN, "ssii", "a.x", E1, INT64_C(5000), INT64_C(101)), 3);
    cr_expect_eq(count_of(ids), 1100);
    ids = element(run(STORE_TOPIC_OPEN, "ssii", "a.x", E1, INT64_C(5000), INT64_C(1150)), 3);
    cr_expect_eq(count_of(ids), 1000, "the newest, whatever the clock says");
    ids = element(run(STORE_TOPIC_OPEN, "ssii", "a.x", E1, INT64_C(1050), INT64_C(0)), 3);
    cr_expect_eq(count_of(ids), 1050);
}

/* n events of 1 MiB in one message, each with an id. */
static void append_large(const char *topic, int64_t from, int64_t n) {
    static uint8_t data[1 << 20];
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_array(&w, 5);
    ptn_pack_cstr(&w, topic);
    ptn_pack_cstr(&w, E1);
    ptn_pack_int(&w, from);
    ptn_pack_int(&w, 5);
    ptn_pack_array(&w, (uint32_t)(2 * n));
    for (int64_t i = from; i < from + n; i++) {
        ptn_pack_bin(&w, (ptn_bytes){data, sizeof data});
        ptn_pack_bin(&w, (ptn_bytes){(const uint8_t *)&i, sizeof i});
    }
    (void)run_buf(PTN_MSG_STORE_EVENTS_APPEND, ptn_pack_finish(&w));
    cr_assert_eq(last_type, PTN_MSG_OK);
}

static int pages_read(void) {
    int n = 0, high;
    (void)sqlite3_db_status(db->sql, SQLITE_DBSTATUS_CACHE_MISS, &n, &high, /* reset= */ 1);
    return n;
}

Test(store_db_topics, large_events_do_not_make_an_open_long) {
    (void)open_topic("a.single", E1);
    (void)open_topic("a.many", E1);
    for (int64_t offset = 1; offset <= 20; offset++)
        append_large("a.single", offset, 1);
    for (int64_t offset = 1; offset <= 24; offset += 2)
        append_large("a.many", offset, 2);
    close_db();
    open_db();
    (void)pages_read();
    cr_expect_eq(open_topic("a.single", E1).ids, 20);
    int read = pages_read();
    cr_expect_leq(read, 400, "%d: what events say is not read, but for the newest", read);
    ptn_bytes ids =
        element(run(STORE_TOPIC_OPEN, "ssii", "a.many", E1, INT64_C(1000), INT64_C(0)), 3);
    cr_assert_eq(count_of(ids), 16, "of the newest 16 MiB");
    for (uint32_t i = 0; i < 16; i++)
        cr_expect_eq(int_of(element(element(ids, i), 1)), 9 + i);
}

Test(store_db_topics, topics_lie_side_by_side) {
    (void)open_topic("a.x", E1);
    (void)open_topic("a.y", E1);
    append_many("a.x", 1, 600);
    append_many("a.y", 1, 3);
    int64_t first;
    cr_expect_eq(count_after("a.x", 597, &first), 3);
    cr_expect_eq(first, 598);
    cr_expect_eq(count_after("a.y", 0, &first), 3);
    cr_expect_eq(count_after("a.y", 3, &first), 0);
    cr_expect_eq(count_after("a.x", 0, &first), 600);
    rows_max = STORE_ROWS_MAX + 1;
    append_many("a.x", 601, STORE_ROWS_MAX + 2);
    cr_expect_eq(count_after("a.x", 0, &first), STORE_ROWS_MAX, "a page is bounded");
    (void)run(STORE_EVENT_RANGE, "sini", "a.z", (int64_t)0, (int64_t)10);
    cr_expect_eq(problem_code(), PTN_CODE_NOT_FOUND);
}

Test(store_db_topics, a_transaction_that_fails_takes_its_offsets_back) {
    (void)open_topic("a.x", E1);
    append_many("a.x", 1, 2);
    cr_assert_eq(store_db_begin(db), 0);
    append(PTN_MSG_STORE_EVENTS_APPEND, "a.x", E1, 3, NULL, 5);
    cr_expect_eq(last_type, PTN_MSG_OK);
    store_db_rollback(db);
    cr_expect_eq(open_topic("a.x", E1).last, 2);
    append_many("a.x", 3, 3);
}

/* ---- epochs ------------------------------------------------------------------------------- */

/* Copies the files as a crash would leave them, and goes on with the copy. */
static void crash(void) {
    char command[320];
    (void)snprintf(command, sizeof command,
                   "cd %s && for f in postern.db postern.db-wal; do cp $f $f.x; done", dir.path);
    cr_assert_eq(system(command), 0);
    close_db();
    (void)snprintf(command, sizeof command,
                   "cd %s && for f in postern.db postern.db-wal; do mv $f.x $f; done; "
                   "rm -f postern.db-shm",
                   dir.path);
    cr_assert_eq(system(command), 0);
    open_db();
}

Test(store_db_topics, written_events_cost_the_epoch_when_there_is_no_clean_end) {
    (void)open_topic("a.synced", E1);
    (void)open_topic("a.written", E1);
    append_many("a.synced", 1, 2);
    append(PTN_MSG_STORE_EVENTS_APPEND_WRITTEN, "a.written", E1, 1, NULL, 5);
    close_db();
    open_db();
    cr_expect_str_eq(open_topic("a.written", E2).epoch, E1, "a clean end");
    append(PTN_MSG_STORE_EVENTS_APPEND_WRITTEN, "a.written", E1, 2, NULL, 5);
    cr_assert_eq(last_type, PTN_MSG_OK);
    crash();
    struct opened o = open_topic("a.written", E2);
    cr_expect_str_neq(o.epoch, E1);
    cr_expect_eq(o.last, 2);
    cr_expect_str_eq(open_topic("a.synced", E2).epoch, E1);
    char epoch[20];
    memcpy(epoch, o.epoch, sizeof epoch);
    crash();
    cr_expect_str_eq(open_topic("a.written", E2).epoch, epoch, "nothing written since");
}

/* ---- retention ---------------------------------------------------------------------------- */

static int64_t removed, removed_messages;

/* One round; returns its number of steps. */
static int retain(int64_t now_ms) {
    int steps = 0;
    bool more = true;
    removed = removed_messages = 0;
    while (more) {
        ptn_bytes r = run(STORE_RETAIN, "i", now_ms);
        cr_assert_eq(last_type, PTN_MSG_STORE_RETAINED);
        more = bool_of(element(r, 0));
        removed += int_of(element(r, 1));
        removed_messages += int_of(element(r, 2));
        cr_assert_lt(steps++, 1000);
    }
    return steps;
}

Test(store_db_topics, nothing_goes_without_a_limit) {
    (void)open_topic("a.x", E1);
    (void)open_topic("c.x", E1);
    append_many("a.x", 1, 10);
    append_many("c.x", 1, 10);
    rules[1] = (struct topic_rule){PTN_STR("b.**"), 1, 1, 1};
    cr_expect_eq(retain(INT64_C(1) << 50), 1);
    cr_expect_eq(removed, 0);
}

Test(store_db_topics, the_newest_events_stay) {
    rules[0].events = 4;
    (void)open_topic("a.x", E1);
    append_many("a.x", 1, 10);
    (void)retain(0);
    cr_expect_eq(removed, 6);
    struct opened o = open_topic("a.x", E1);
    cr_expect_eq(o.base, 6);
    cr_expect_eq(o.last, 10);
    int64_t first;
    cr_expect_eq(count_after("a.x", 0, &first), 4);
    cr_expect_eq(first, 7);
    (void)retain(0);
    cr_expect_eq(removed, 0, "there is nothing more to remove");
    append_many("a.x", 11, 11);
    (void)retain(0);
    cr_expect_eq(removed, 1);
}

/* Whichever share a row. */
Test(store_db_topics, retention_takes_single_events) {
    int64_t first;
    rules[0].events = 4;
    rules[1].bytes = 3;
    (void)open_topic("a.x", E1);
    append_together("a.x", 1, 5);
    append_together("a.x", 6, 3);
    append_many("a.x", 9, 9);
    (void)retain(0);
    cr_expect_eq(removed, 5);
    cr_expect_eq(open_topic("a.x", E1).base, 5);
    for (int64_t last_offset = 10; last_offset < 14; last_offset++) {
        append_together("a.x", last_offset, 1);
        (void)retain(0);
        cr_expect_eq(removed, 1);
        cr_expect_eq(count_after("a.x", 0, &first), 4);
        cr_expect_eq(first, last_offset - 3);
    }
    append_together("a.x", 14, 9);
    (void)retain(0);
    cr_expect_eq(removed, 9);
    struct opened o = open_topic("a.x", E1);
    cr_expect_eq(o.base, 18);
    cr_expect_eq(o.ids, 1, "21");
    (void)open_topic("b.x", E1);
    append_together("b.x", 1, 9); /* of one byte each */
    (void)retain(0);
    cr_expect_eq(removed, 6);
    cr_expect_eq(count_after("b.x", 0, &first), 3);
    cr_expect_eq(first, 7);
    cr_expect_eq(open_topic("b.x", E1).ids, 1, "9");
}

Test(store_db_topics, bytes_of_data_count) {
    rules[0].bytes = 35; /* three of eleven: one byte says text */
    (void)open_topic("a.x", E1);
    append_many("a.x", 1, 10);
    (void)retain(0);
    int64_t first;
    (void)count_after("a.x", 0, &first);
    cr_expect_geq(first, 7);
    cr_expect_leq(first, 8);
    close_db();
    open_db();
    append_many("a.x", 11, 12);
    (void)retain(0);
    cr_expect_eq(removed, 2, "the total goes on behind a restart");
}

Test(store_db_topics, what_is_old_goes_and_the_position_stays) {
    rules[0].age_ms = 100;
    (void)open_topic("a.x", E1);
    append_many("a.x", 1, 10); /* at 1 .. 10 ms */
    (void)retain(105);
    cr_expect_eq(removed, 4, "older than 5");
    (void)retain(1000);
    cr_expect_eq(removed, 6);
    close_db();
    open_db();
    struct opened o = open_topic("a.x", E2);
    cr_expect_str_eq(o.epoch, E1);
    cr_expect_eq(o.base, 10);
    cr_expect_eq(o.last, 10, "an empty log still knows where it stands");
    append_many("a.x", 11, 11);
}

Test(store_db_topics, a_step_is_bounded) {
    rules[0].events = rules[1].events = 1;
    (void)open_topic("a.x", E1);
    append_many("a.x", 1, 2500);
    char name[16];
    for (int i = 0; i < 150; i++) {
        (void)snprintf(name, sizeof name, "b.%d", i);
        (void)open_topic(name, E1);
        append_many(name, 1, 2);
    }
    cr_expect_geq(retain(0), 3 + 2, "by rows, then by topics");
    cr_expect_eq(removed, 2499 + 150);
}

Test(store_db_topics, conversations_keep_so_many_bytes) {
    (void)run(STORE_USER_ADD, "sssiSi", "u", "u", "", (int64_t)1, NULL, (int64_t)1);
    (void)run(STORE_CONV_ADD, "sSsis[s]", "c0", NULL, "u", (int64_t)5, E1, "u");
    for (int64_t k = 1; k <= 5; k++) {
        char id[8];
        (void)snprintf(id, sizeof id, "m%d", (int)k);
        (void)run(STORE_MSG_APPEND, "sssssni", "c0", id, "u", "text", "ten bytes!", k);
    }
    close_db();
    opts.retention.messages_bytes = 25;
    open_db();
    (void)retain(0);
    cr_expect_eq(removed_messages, 2, "behind the second are thirty, behind the third twenty");
    (void)run(STORE_MSG_APPEND, "sssssni", "c0", "m6", "u", "text", "", (int64_t)6);
    (void)retain(0);
    cr_expect_eq(removed_messages, 0);
    (void)run(STORE_MSG_APPEND, "sssssni", "c0", "m7", "u", "text",
              "more than is kept of a conversation", (int64_t)7);
    (void)retain(0);
    cr_expect_eq(removed_messages, 4, "all but the newest");
    cr_expect_eq(int_of(element(run_buf(PTN_MSG_STORE_STATS, NULL), 2)), 1);
}

Test(store_db_topics, conversations_keep_their_newest_messages) {
    (void)run(STORE_USER_ADD, "sssiSi", "u", "u", "", (int64_t)1, NULL, (int64_t)1);
    for (int i = 0; i < 2; i++) {
        (void)run(STORE_CONV_ADD, "sSsis[s]", i == 0 ? "c0" : "c1", NULL, "u", (int64_t)5, E1, "u");
        for (int64_t k = 1; k <= 5; k++) {
            char id[32];
            (void)snprintf(id, sizeof id, "m%d%d", i, (int)k);
            (void)run(STORE_MSG_APPEND, "sssssni", i == 0 ? "c0" : "c1", id, "u", "text", "x", k);
        }
    }
    (void)retain(INT64_C(1) << 50);
    cr_expect_eq(removed_messages, 0, "off unless it is asked for");
    close_db();
    opts.retention.messages = 3;
    open_db();
    ptn_bytes moved = element(run(STORE_RETAIN, "i", (int64_t)0), 3);
    cr_assert_eq(count_of(moved), 2, "their owners hear of it");
    cr_expect(str_is(element(element(moved, 1), 0), "conversation.c1"));
    cr_expect_eq(int_of(element(element(moved, 1), 1)), 2);
    cr_expect_eq(int_of(element(ptn_buf_bytes(last), 2)), 4);
    close_db();
    opts.retention.messages_age_ms = 10;
    open_db();
    (void)retain(INT64_C(1) << 50);
    cr_expect_eq(removed_messages, 4, "the newest stays: it says where the conversation stands");
    ptn_bytes r = run(STORE_MSG_RANGE, "sini", "c1", (int64_t)0, (int64_t)10);
    cr_expect_eq(int_of(element(r, 0)), 5);
    cr_expect_eq(count_of(element(r, 1)), 1);
    cr_expect_eq(int_of(element(run_buf(PTN_MSG_STORE_STATS, NULL), 2)), 2);
    cr_expect_eq(int_of(element(run(STORE_CONV_GET, "s", "c1"), 8)), 4, "and where it begins");
    (void)run(STORE_MSG_APPEND, "sssssni", "c1", "m9", "u", "text", "x", (int64_t)9);
    cr_expect_eq(int_of(element(ptn_buf_bytes(last), 0)), 6);
}
