/* SPDX-License-Identifier: Apache-2.0
 *
 * store_db_queue_test.c - cursors of devices, the limits of what waits for them, dead letters.
 */
#include "actors/store_db_internal.h"
#include "actors/store_db_testing.h"

#define NOW_MS INT64_C(86400000)

static void say(const char *sender, int64_t at_ms) {
    static unsigned n;
    char id[16];
    (void)snprintf(id, sizeof id, "m%u", n++);
    (void)run(STORE_MSG_APPEND, "sssssni", "c1", id, sender, "text", "0123456789", at_ms);
    cr_assert_eq(last_type, PTN_MSG_STORE_MSG);
}

/* alice, bob and carol; c1 with alice and bob, where alice says n things. */
static void setup(void) {
    static const char *const names[] = {"alice", "bob", "carol"};
    const char *why = "";
    test_dir_open(&dir);
    cr_assert_eq(store_db_open(dir.db, &(store_db_opts){.dead_letters_max = 3}, &db, &why), 0, "%s",
                 why);
    for (size_t i = 0; i < PTN_ARRAY_LEN(names); i++)
        (void)run(STORE_USER_ADD, "sssiSi", names[i], names[i], "hash", (int64_t)1, NULL,
                  (int64_t)1000);
    (void)run(STORE_CONV_ADD, "sssis[ss]", "c1", "First", "alice", (int64_t)5, "epoch1", "alice",
              "bob");
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
}

TestSuite(store_db_queue, .init = setup, .fini = teardown, .timeout = 60);

/* Opens a feed and returns the row of c1: [conversation, acked, deliveries, gapFrom, reason?]. */
static ptn_bytes feed(const char *user, const char *device, int64_t messages, int64_t bytes,
                      int64_t ttl_ms) {
    db->queue.limits.messages = (uint64_t)messages;
    db->queue.limits.bytes = (uint64_t)bytes;
    db->queue.limits.ttl_ms = (uint64_t)ttl_ms;
    ptn_bytes b = run(STORE_FEED_OPEN, "ssi", user, device, NOW_MS);
    cr_assert_eq(last_type, PTN_MSG_STORE_FEED);
    return element(b, 0);
}

static int64_t acked(const char *user, const char *device) {
    return int_of(element(feed(user, device, 0, 0, 0), 1));
}

/* Returns how many conversations have news of it. */
static uint32_t ack(const char *user, const char *device, int64_t seq, int64_t deliveries,
                    int64_t got) {
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 2);
    ptn_pack_array(&w, 1);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, user);
    ptn_pack_cstr(&w, device);
    ptn_pack_cstr(&w, "c1");
    ptn_pack_int(&w, seq);
    ptn_pack_int(&w, deliveries);
    ptn_pack_int(&w, got);
    ptn_pack_int(&w, NOW_MS);
    ptn_bytes b = run_buf(PTN_MSG_STORE_FEED_ACK, ptn_pack_finish(&w));
    cr_assert_eq(last_type, PTN_MSG_STORE_FEED_ACKED);
    return count_of(b);
}

static const char *status_of(int64_t seq) {
    static char text[16];
    ptn_str s = {"", 0};
    ptn_bytes b = run(STORE_MSG_RANGE, "siii", "c1", seq - 1, seq + 1, (int64_t)1);
    (void)ptn_map_get_str(element(element(element(b, 1), 0), 1), "status", &s);
    (void)snprintf(text, sizeof text, "%.*s", (int)s.n, s.p);
    return text;
}

Test(store_db_queue, cursors_only_move_on) {
    for (int i = 0; i < 5; i++)
        say("alice", NOW_MS);
    cr_expect_eq(acked("bob", "phone"), 0);
    (void)ack("bob", "phone", 3, 1, 3);
    (void)ack("bob", "phone", 2, 0, 2);
    ptn_bytes row = feed("bob", "phone", 0, 0, 0);
    cr_expect_eq(int_of(element(row, 1)), 3);
    cr_expect_eq(int_of(element(row, 2)), 1, "deliveries of the next one");
    (void)ack("bob", "phone", 3, 4, 0);
    cr_expect_eq(int_of(element(feed("bob", "phone", 0, 0, 0), 2)), 4);
}

Test(store_db_queue, nobody_acknowledges_what_does_not_exist) {
    say("alice", NOW_MS);
    (void)acked("bob", "phone");
    cr_expect_eq(ack("bob", "phone", INT64_MAX, 0, INT64_MAX), 1);
    cr_expect_eq(acked("bob", "phone"), 1);
    say("alice", NOW_MS);
    cr_expect_str_eq(status_of(2), "sent");
}

Test(store_db_queue, no_device_begins_behind_the_end) {
    say("alice", NOW_MS);
    (void)acked("bob", "phone");
    cr_assert_eq(sqlite3_exec(db->sql, "UPDATE cursors SET seq = 9", NULL, NULL, NULL), SQLITE_OK);
    cr_expect_eq(acked("bob", "phone"), 1, "or it would miss what comes next");
}

Test(store_db_queue, a_known_device_begins_where_the_member_joined) {
    (void)run(STORE_CONV_ADD, "sssis[s]", "c0", "Before", "bob", (int64_t)5, "epoch0", "bob");
    (void)run(STORE_MEMBERS_REMOVE, "s[s]", "c1", "bob");
    (void)run(STORE_FEED_OPEN, "ssi", "bob", "phone", NOW_MS);
    (void)run(STORE_FEED_OPEN, "ssi", "bob", "tablet", NOW_MS);
    say("alice", NOW_MS);
    (void)run(STORE_MEMBERS_ADD, "s[s]i", "c1", "bob", NOW_MS);
    say("alice", NOW_MS);
    say("alice", NOW_MS);
    (void)ack("bob", "tablet", 3, 0, 3);
    cr_expect_eq(acked("bob", "phone"), 1, "whatever another device has acknowledged");
    cr_expect_eq(acked("bob", "watch"), 3, "a new one");
}

Test(store_db_queue, a_new_device_begins_where_the_furthest_is) {
    for (int i = 0; i < 5; i++)
        say("alice", NOW_MS);
    (void)acked("bob", "phone");
    (void)ack("bob", "phone", 4, 0, 4);
    cr_expect_eq(acked("bob", "tablet"), 4);
    (void)ack("bob", "phone", 5, 0, 5);
    cr_expect_eq(acked("bob", "tablet"), 4, "and stays there");
}

/* Opened as the store does, and something is delivered: whether that is on disk. */
static bool opens_synced(const char *device, int64_t deliveries) {
    cr_assert_eq(store_db_relax(db, true), 0);
    cr_assert_eq(store_db_begin(db), 0);
    (void)acked("bob", device);
    (void)ack("bob", device, 0, deliveries, 0);
    cr_assert_eq(store_db_commit(db), 0);
    bool synced = !db->afloat;
    cr_assert_eq(store_db_relax(db, false), 0);
    return synced;
}

Test(store_db_queue, a_loss_of_power_forgets_no_device) {
    say("alice", NOW_MS);
    cr_expect(opens_synced("phone", 1), "or it begins where the tablet is, the next time");
    cr_expect_not(opens_synced("phone", 2), "it is known");
    cr_expect(opens_synced("tablet", 1));
}

Test(store_db_queue, members_begin_where_they_joined_and_leave_nothing) {
    say("alice", NOW_MS);
    say("alice", NOW_MS);
    (void)run(STORE_MEMBERS_ADD, "s[s]i", "c1", "carol", NOW_MS);
    cr_assert_eq(last_type, PTN_MSG_STORE_CONV);
    cr_expect_eq(acked("carol", ""), 2);
    say("alice", NOW_MS);
    (void)ack("carol", "", 3, 0, 3);
    (void)run(STORE_MEMBERS_REMOVE, "s[s]", "c1", "carol");
    (void)ack("carol", "", 3, 0, 3);
    (void)run(STORE_FEED_OPEN, "ssi", "carol", "", NOW_MS);
    cr_expect_eq(count_of(ptn_buf_bytes(last)), 0);
    say("alice", NOW_MS);
    (void)run(STORE_MEMBERS_ADD, "s[s]i", "c1", "carol", NOW_MS);
    cr_expect_eq(acked("carol", ""), 4);
}

Test(store_db_queue, the_first_acknowledgement_of_another_member_is_news) {
    (void)run(STORE_MEMBERS_ADD, "s[s]i", "c1", "carol", NOW_MS);
    for (int i = 0; i < 3; i++)
        say("alice", NOW_MS);
    cr_expect_str_eq(status_of(1), "sent");
    cr_expect_eq(ack("bob", "", 2, 0, 2), 1);
    cr_expect_str_eq(status_of(2), "delivered");
    cr_expect_str_eq(status_of(3), "sent");
    cr_expect_eq(ack("bob", "", 2, 0, 2), 0);
    cr_expect_eq(ack("bob", "tablet", 1, 0, 1), 0, "another device of the same member is behind");
    cr_expect_eq(ack("carol", "", 3, 0, 3), 1);
    cr_expect_eq(ack("alice", "", 3, 0, 0), 0, "passed, not got");
    cr_expect_str_eq(status_of(3), "delivered");
}

static void expect_gap(ptn_bytes row, int64_t from, int64_t to, const char *reason) {
    cr_expect_eq(int_of(element(row, 3)), from);
    cr_expect_eq(int_of(element(row, 1)), to);
    cr_expect(str_is(element(row, 4), reason));
}

Test(store_db_queue, what_is_over_a_limit_is_passed) {
    for (int i = 0; i < 10; i++)
        say("alice", i < 4 ? 1000 : NOW_MS);
    cr_expect_eq(ptn_kind_of(element(feed("bob", "a", 10, 100, 0), 4)), PTN_KIND_NIL);
    expect_gap(feed("bob", "a", 0, 0, 3600000), 1, 4, "expired");
    cr_expect_eq(acked("bob", "a"), 4);
    expect_gap(feed("bob", "a", 5, 0, 3600000), 1, 5, "overflow");
    expect_gap(feed("bob", "a", 5, 30, 0), 1, 7, "overflow");
    expect_gap(feed("bob", "a", 3, 30, 3600000), 1, 7, "overflow");
    (void)ack("bob", "a", 7, 1, 0);
    expect_gap(feed("bob", "a", 0, 0, 0), 1, 7, "overflow");
    cr_expect_str_eq(status_of(1), "sent", "passed is not delivered");
    (void)ack("bob", "a", 8, 0, 8); /* it is here, and has been told */
    cr_expect_eq(ptn_kind_of(element(feed("bob", "a", 3, 30, 3600000), 4)), PTN_KIND_NIL);
}

Test(store_db_queue, dead_letters_are_listed_replayed_and_purged) {
    for (int i = 0; i < 10; i++)
        say("alice", NOW_MS);
    (void)feed("bob", "a", 0, 0, 0);
    (void)ack("bob", "a", 5, 0, 0);
    for (int64_t seq = 1; seq <= 5; seq++) /* five letters, of which three are kept */
        (void)run(STORE_DEAD_ADD, "sssiisi", "bob", "a", "c1", seq, seq, "max_deliveries", NOW_MS);
    ptn_bytes b = run(STORE_DEAD_LIST, "ii", (int64_t)0, (int64_t)10);
    cr_assert_eq(count_of(b), 3);
    ptn_bytes first = element(b, 0);
    int64_t id = int_of(element(first, 0));
    cr_expect(str_is(element(first, 1), "bob"));
    cr_expect(str_is(element(first, 2), "a"));
    cr_expect(str_is(element(first, 3), "c1"));
    cr_expect_eq(int_of(element(first, 4)), 3);
    cr_expect_eq(int_of(element(first, 5)), 3);
    cr_expect(str_is(element(first, 6), "max_deliveries"));
    cr_expect_eq(count_of(run(STORE_DEAD_REPLAY, "ii", id, NOW_MS)), 1);
    ptn_bytes row = feed("bob", "a", 1, 0, 0);
    cr_expect_eq(int_of(element(row, 1)), 2, "back, and free of limits");
    cr_expect_eq(ptn_kind_of(element(row, 4)), PTN_KIND_NIL);
    (void)run(STORE_DEAD_REPLAY, "ii", id, NOW_MS);
    cr_expect_eq(last_type, PTN_MSG_PROBLEM);
    (void)run(STORE_DEAD_PURGE, "fi", id + 1);
    cr_expect_eq(last_type, PTN_MSG_STORE_DEADS);
    (void)run(STORE_DEAD_PURGE, "fi", id + 1);
    cr_expect_eq(last_type, PTN_MSG_PROBLEM);
    (void)run(STORE_DEAD_PURGE, "ti", (int64_t)0);
    cr_expect_eq(count_of(run(STORE_DEAD_LIST, "ii", (int64_t)0, (int64_t)10)), 0);
}

Test(store_db_queue, a_device_hears_of_what_was_delivered_in_vain_until_it_acknowledges) {
    for (int i = 0; i < 6; i++)
        say("alice", NOW_MS);
    (void)acked("bob", "a");
    (void)run(STORE_DEAD_ADD, "sssiisi", "bob", "a", "c1", INT64_C(2), INT64_C(3), "max_deliveries",
              NOW_MS); /* the acknowledgement of 1 is on its way */
    (void)ack("bob", "a", 1, 0, 1);
    (void)ack("bob", "a", 3, 0, 1);
    expect_gap(feed("bob", "a", 0, 0, 0), 2, 3, "max_deliveries");
    cr_expect_str_eq(status_of(1), "delivered");
    (void)run(STORE_DEAD_ADD, "sssiisi", "bob", "a", "c1", INT64_C(4), INT64_C(4), "max_deliveries",
              NOW_MS);
    expect_gap(feed("bob", "a", 0, 0, 0), 2, 4, "max_deliveries");
    cr_expect_eq(count_of(run(STORE_DEAD_LIST, "ii", (int64_t)0, (int64_t)10)), 1, "one letter");
    (void)ack("bob", "a", 5, 0, 5);
    (void)run(STORE_DEAD_ADD, "sssiisi", "bob", "a", "c1", INT64_C(5), INT64_C(5), "max_deliveries",
              NOW_MS); /* late */
    (void)run(STORE_DEAD_ADD, "sssiisi", "bob", "b", "c1", INT64_C(1), INT64_C(1), "max_deliveries",
              NOW_MS); /* a device that was forgotten meanwhile */
    cr_expect_eq(ptn_kind_of(element(feed("bob", "a", 0, 0, 0), 4)), PTN_KIND_NIL);
    cr_expect_eq(acked("bob", "b"), 5);
}

/* ---- devices that are away ------------------------------------------------------------------ */

static int64_t waiting, devices;
static uint32_t passed;

/* A round; returns its number of steps. */
static unsigned tend(void) {
    unsigned steps = 0;
    bool more = true;
    for (passed = 0; more; steps++) {
        ptn_bytes b = run(STORE_FEED_TEND, "i", NOW_MS);
        cr_assert_eq(last_type, PTN_MSG_STORE_FEED_TENDED);
        more = bool_of(element(b, 0));
        waiting = int_of(element(b, 2));
        devices = int_of(element(b, 3));
        passed += count_of(element(b, 4));
        cr_assert_lt(steps, 1000);
    }
    return steps;
}

static ptn_bytes only_letter(void) {
    ptn_bytes b = run(STORE_DEAD_LIST, "ii", (int64_t)0, (int64_t)10);
    cr_assert_eq(count_of(b), 1, "%u letters", count_of(b));
    return element(b, 0);
}

Test(store_db_queue, limits_hold_while_a_device_is_away) {
    cr_expect_eq(tend(), 1);
    cr_expect_eq(devices, 0);
    (void)acked("bob", "a");
    db->queue.limits.messages = 6;
    for (int i = 0; i < 20; i++) {
        say("alice", NOW_MS);
        (void)tend();
        cr_expect_eq(waiting, i < 6 ? i + 1 : 6);
        cr_expect_eq(passed, i < 6 ? 0 : 1);
    }
    ptn_bytes letter = only_letter(); /* not fourteen */
    cr_expect_eq(int_of(element(letter, 4)), 1);
    cr_expect_eq(int_of(element(letter, 5)), 14);
    expect_gap(feed("bob", "a", 6, 0, 0), 1, 14, "overflow");
    db->queue.limits.bytes = 25;
    (void)tend();
    cr_expect_eq(waiting, 2);
    db->queue.limits.ttl_ms = 1000;
    (void)run(STORE_FEED_TEND, "i", NOW_MS + 2000);
    cr_expect_eq(int_of(element(ptn_buf_bytes(last), 2)), 0);
    expect_gap(feed("bob", "a", 0, 0, 0), 1, 20, "expired");
}

Test(store_db_queue, what_waits_for_two_devices_counts_once) {
    (void)acked("bob", "a");
    (void)acked("bob", "b");
    (void)acked("alice", "");
    for (int i = 0; i < 10; i++)
        say("alice", NOW_MS);
    (void)ack("bob", "b", 7, 0, 7);
    db->queue.limits.messages = 4;
    (void)tend();
    cr_expect_eq(devices, 3);
    cr_expect_eq(waiting, 4, "what alice has said waits for nobody of hers");
    cr_expect_eq(passed, 1);
    expect_gap(feed("bob", "a", 0, 0, 0), 1, 6, "overflow");
    cr_expect_eq(acked("bob", "b"), 7);
    (void)ack("bob", "a", 9, 0, 9);
    (void)tend();
    cr_expect_eq(waiting, 3, "b has not acknowledged these");
}

static void seen(const char *device, int64_t at_ms) {
    char sql[128];
    (void)snprintf(sql, sizeof sql, "UPDATE cursors SET seen_ms = %lld WHERE device = '%s'",
                   (long long)at_ms, device);
    cr_assert_eq(sqlite3_exec(db->sql, sql, NULL, NULL, NULL), SQLITE_OK);
}

/* Bob's devices a and b: three messages of c2 wait for a, three of c1 for b. */
static void two_devices_behind(void) {
    (void)run(STORE_CONV_ADD, "sssis[ss]", "c2", "Second", "alice", (int64_t)5, "epoch2", "alice",
              "bob");
    (void)run(STORE_FEED_OPEN, "ssi", "bob", "a", NOW_MS);
    (void)run(STORE_FEED_OPEN, "ssi", "bob", "b", NOW_MS);
    for (int i = 0; i < 3; i++) {
        say("alice", NOW_MS);
        char id[16];
        (void)snprintf(id, sizeof id, "c2-%d", i);
        (void)run(STORE_MSG_APPEND, "sssssni", "c2", id, "alice", "text", "0123456789", NOW_MS);
    }
    cr_assert_eq(sqlite3_exec(db->sql,
                              "UPDATE cursors SET seq = 3, acked = 3 WHERE (device = 'a') ="
                              " (conversation = (SELECT key FROM conversations WHERE id = 'c1'))",
                              NULL, NULL, NULL),
                 SQLITE_OK);
    (void)tend();
    cr_assert_eq(waiting, 6);
}

static int64_t cursor_of(const char *device, const char *conversation) {
    char *sql = sqlite3_mprintf("SELECT seq FROM cursors WHERE device = %Q AND conversation ="
                                " (SELECT key FROM conversations WHERE id = %Q)",
                                device, conversation);
    sqlite3_stmt *s = NULL;
    (void)sqlite3_prepare_v2(db->sql, sql, -1, &s, NULL);
    cr_assert_eq(sqlite3_step(s), SQLITE_ROW);
    int64_t seq = sqlite3_column_int64(s, 0);
    (void)sqlite3_finalize(s);
    sqlite3_free(sql);
    return seq;
}

Test(store_db_queue, the_devices_of_a_user_share_the_limits) {
    two_devices_behind();
    db->queue.limits.messages = 4;
    seen("b", NOW_MS + 1);
    (void)tend();
    cr_expect_eq(waiting, 4);
    cr_expect_eq(passed, 1);
    cr_expect_eq(cursor_of("b", "c1"), 0, "the last one here keeps all of its own");
    cr_expect_eq(cursor_of("a", "c2"), 2);
    db->queue.limits.messages = 0;
    db->queue.limits.bytes = 25;
    seen("a", NOW_MS + 2);
    (void)tend();
    cr_expect_eq(waiting, 2);
    cr_expect_eq(cursor_of("a", "c2"), 2);
    cr_expect_eq(cursor_of("b", "c1"), 2);
    (void)tend();
    cr_expect_eq(passed, 0);
}

Test(store_db_queue, a_message_is_looked_at_once_for_all_devices) {
    (void)acked("bob", "a");
    (void)acked("bob", "b");
    (void)acked("bob", "c");
    for (int i = 0; i < 200; i++)
        say("alice", NOW_MS);
    (void)ack("bob", "b", 100, 0, 100);
    db->queue.limits.messages = 200;
    (void)tend();
    cr_expect_eq(waiting, 200);
    ptn_bytes b = run(STORE_FEED_TEND, "i", NOW_MS);
    cr_expect_eq(int_of(element(b, 1)), 200 + 2 * 3);
}

Test(store_db_queue, own_messages_push_nothing_out) {
    (void)acked("alice", "a");
    say("bob", NOW_MS);
    for (int i = 0; i < 6; i++)
        say("alice", NOW_MS);
    db->queue.limits.messages = 5;
    (void)tend();
    cr_expect_eq(waiting, 1);
    cr_expect_eq(passed, 0);
    ptn_bytes row = feed("alice", "a", 5, 30, 3600000);
    cr_expect_eq(int_of(element(row, 1)), 0, "and the first is the next");
    cr_expect_eq(ptn_kind_of(element(row, 4)), PTN_KIND_NIL);
    row = feed("alice", "a", 0, 5, 0);
    expect_gap(row, 1, 1, "overflow");
    (void)ack("alice", "a", 7, 0, 0);
    for (int i = 0; i < 3; i++)
        say("bob", NOW_MS);
    say("alice", NOW_MS);
    expect_gap(feed("alice", "a", 2, 0, 0), 8, 8, "overflow");
    say("alice", NOW_MS);
    say("bob", NOW_MS);
    expect_gap(feed("alice", "a", 2, 0, 0), 8, 9, "overflow");
}

Test(store_db_queue, one_letter_whatever_stands_between) {
    (void)acked("alice", "a");
    for (int i = 0; i < 8; i++)
        say(i % 2 == 0 ? "bob" : "alice", NOW_MS);
    expect_gap(feed("alice", "a", 3, 0, 0), 1, 1, "overflow");
    expect_gap(feed("alice", "a", 1, 0, 0), 1, 5, "overflow");
    cr_expect_eq(int_of(element(only_letter(), 5)), 5);
}

Test(store_db_queue, cursors_go_over_own_messages_in_silence) {
    (void)acked("alice", "a");
    (void)acked("alice", "b");
    for (int i = 0; i < 12; i++)
        say("alice", i < 6 ? 1000 : NOW_MS);
    db->queue.limits.messages = 5;
    db->queue.limits.ttl_ms = 3600000;
    (void)tend();
    cr_expect_eq(waiting, 0);
    cr_expect_eq(passed, 0);
    ptn_bytes row = feed("alice", "a", 5, 0, 0);
    cr_expect_eq(int_of(element(row, 1)), 12);
    cr_expect_eq(ptn_kind_of(element(row, 4)), PTN_KIND_NIL);
    cr_expect_eq(count_of(run(STORE_DEAD_LIST, "ii", (int64_t)0, (int64_t)10)), 0);
    say("bob", NOW_MS);
    (void)tend();
    cr_expect_eq(waiting, 1);
    cr_expect_eq(int_of(element(feed("alice", "b", 5, 0, 0), 1)), 12);
}

Test(store_db_queue, deliveries_count_behind_own_messages_that_were_passed) {
    (void)acked("alice", "a");
    say("alice", NOW_MS);
    say("alice", NOW_MS);
    say("bob", NOW_MS);
    (void)feed("alice", "a", 5, 0, 0); /* the cursor goes over the two */
    (void)ack("alice", "a", 0, 2, 0);  /* a session that had not heard of it has sent the third */
    ptn_bytes row = feed("alice", "a", 5, 0, 0);
    cr_expect_eq(int_of(element(row, 1)), 2);
    cr_expect_eq(int_of(element(row, 2)), 2);
    (void)ack("alice", "a", 3, 0, 3);
    (void)ack("alice", "a", 2, 7, 0); /* too late */
    say("bob", NOW_MS);
    row = feed("alice", "a", 5, 0, 0);
    cr_expect_eq(int_of(element(row, 1)), 3);
    cr_expect_eq(int_of(element(row, 2)), 0);
}

/* ---- what a visit may cost ------------------------------------------------------------------ */

/* Seqs from..to of a conversation, as if its sender had said them one by one. */
static void fill(const char *conversation, int64_t from, int64_t to, const char *sender,
                 int64_t at_ms) {
    char *sql = sqlite3_mprintf(
        "WITH RECURSIVE n(i) AS (SELECT %lld UNION ALL SELECT i + 1 FROM n WHERE i < %lld)"
        " INSERT INTO messages(conversation, seq, id, sender, type, content, timestamp_ms)"
        " SELECT c.key, i, c.id || '-' || i, %Q, 'text', 'x', %lld FROM n, conversations c"
        " WHERE c.id = %Q",
        (long long)from, (long long)to, sender, (long long)at_ms, conversation);
    cr_assert_eq(sqlite3_exec(db->sql, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_free(sql);
}

static int steps_of(enum store_statement which) {
    return sqlite3_stmt_status(db->statement[which], SQLITE_STMTSTATUS_VM_STEP, 1);
}

Test(store_db_queue, a_first_device_long_after_its_member_costs_no_more_than_its_limits) {
    fill("c1", 1, 1, "alice", NOW_MS);
    fill("c1", 2, 65541, "bob", NOW_MS);
    expect_gap(feed("alice", "exact", 5, 0, 0), 2, 65536, "overflow");
    cr_expect_gt(steps_of(STORE_SQL_MSGS_OF_OTHERS), 65536);
    fill("c1", 65542, 65542, "bob", NOW_MS);
    (void)run(STORE_MEMBERS_ADD, "s[s]i", "c1", "carol", NOW_MS);
    cr_assert_eq(sqlite3_exec(db->sql, "UPDATE members SET joined_seq = 0", NULL, NULL, NULL), 0);
    expect_gap(feed("carol", "first", 5, 0, 0), 1, 65537, "overflow");
    cr_expect_eq(steps_of(STORE_SQL_MSGS_OF_OTHERS), 0, "nobody looks whose they are");
    cr_expect_eq(acked("carol", "first"), 65537);
}

static int64_t rows_of_a_round(void) {
    int64_t rows = 0;
    bool more = true;
    while (more) {
        ptn_bytes b = run(STORE_FEED_TEND, "i", NOW_MS);
        cr_assert_eq(last_type, PTN_MSG_STORE_FEED_TENDED);
        more = bool_of(element(b, 0));
        rows += int_of(element(b, 1));
    }
    return rows;
}

Test(store_db_queue, one_visit_has_one_allowance) {
    (void)run(STORE_CONV_ADD, "sssis[ss]", "c2", "Second", "alice", (int64_t)5, "epoch2", "alice",
              "bob");
    (void)acked("alice", "a");
    static const char *const conversations[] = {"c1", "c2"};
    for (int i = 0; i < 2; i++) {
        fill(conversations[i], 1, 1, "bob", NOW_MS);
        fill(conversations[i], 2, 50001, "alice", NOW_MS);
    }
    db->queue.limits.messages = 5;
    cr_expect_leq(rows_of_a_round(), 65536 + 10);
    db->queue.limits.ttl_ms = 1000;
    (void)sqlite3_exec(db->sql, "UPDATE messages SET timestamp_ms = 1", NULL, NULL, NULL);
    cr_expect_leq(rows_of_a_round(), 65536 + 10, "of what is passed, too");
    cr_expect_leq(rows_of_a_round(), 65536 + 10);
    cr_expect_leq(rows_of_a_round(), 10, "and none is looked at for ever");
}

Test(store_db_queue, a_limit_of_bytes_bounds_the_walk_too) {
    (void)acked("bob", "a");
    fill("c1", 1, 65540, "alice", NOW_MS);
    cr_expect_leq(rows_of_a_round(), 10, "without limits nobody counts");
    db->queue.limits.bytes = UINT64_C(1) << 40;
    cr_expect_leq(rows_of_a_round(), 65536 + 10);
    ptn_bytes letter = only_letter();
    cr_expect_eq(int_of(element(letter, 5)), 4);
    cr_expect(str_is(element(letter, 6), "overflow"));
    cr_expect_leq(rows_of_a_round(), 65536 + 10);
    (void)only_letter();
}

Test(store_db_queue, own_messages_behind_removed_ones_are_passed) {
    (void)acked("alice", "a");
    fill("c1", 11, 2010, "alice", 1000);
    db->queue.limits.messages = 5;
    db->queue.limits.ttl_ms = 3600000;
    cr_expect_gt(rows_of_a_round(), 2000);
    expect_gap(feed("alice", "a", 5, 0, 0), 1, 2010, "expired");
    cr_expect_leq(rows_of_a_round(), 10);
    ptn_bytes letter = only_letter();
    cr_expect_eq(int_of(element(letter, 4)), 1);
    cr_expect_eq(int_of(element(letter, 5)), 10, "nobody knows whose these were");
}

Test(store_db_queue, a_replayed_letter_is_free_of_limits) {
    (void)acked("bob", "a");
    for (int i = 0; i < 10; i++)
        say("alice", NOW_MS);
    db->queue.limits.messages = 4;
    (void)tend();
    (void)run(STORE_DEAD_REPLAY, "ii", int_of(element(only_letter(), 0)), NOW_MS);
    (void)tend();
    cr_expect_eq(passed, 0);
    cr_expect_eq(waiting, 10);
    cr_expect_eq(ptn_kind_of(element(feed("bob", "a", 4, 0, 0), 4)), PTN_KIND_NIL);
}

Test(store_db_queue, a_step_is_bounded) {
    char name[16];
    db->queue.limits.devices = 1000;
    for (unsigned i = 0; i < 700; i++) {
        (void)snprintf(name, sizeof name, "d%u", i);
        (void)acked("bob", name);
    }
    cr_expect_eq(tend(), 3, "500 rows are two for each of 250 devices");
    cr_expect_eq(devices, 700);
    say("alice", NOW_MS);
    say("alice", NOW_MS);
    db->queue.limits.messages = 1;
    cr_expect_gt(tend(), 3);
    cr_expect_eq(waiting, 1);
    cr_expect_eq(devices, 700);
}

static bool is_known(const char *device) {
    sqlite3_stmt *s = NULL;
    (void)sqlite3_prepare_v2(db->sql, "SELECT 1 FROM cursors WHERE device = ?1", -1, &s, NULL);
    (void)sqlite3_bind_text(s, 1, device, -1, SQLITE_STATIC);
    bool known = sqlite3_step(s) == SQLITE_ROW;
    (void)sqlite3_finalize(s);
    return known;
}

static void come(const char *device, int64_t at_ms) {
    (void)run(STORE_FEED_OPEN, "ssi", "bob", device, at_ms);
    cr_assert_eq(last_type, PTN_MSG_STORE_FEED);
}

Test(store_db_queue, the_device_away_longest_is_forgotten) {
    db->queue.limits.devices = 3;
    come("a", NOW_MS);
    come("b", NOW_MS + 1000);
    come("c", NOW_MS + 2000);
    come("a", NOW_MS + 100000); /* back */
    cr_expect(is_known("b"));
    come("d", NOW_MS + 200000);
    cr_expect(is_known("a") && !is_known("b") && is_known("c") && is_known("d"));
    come("c", NOW_MS + 300000);
    cr_expect(is_known("a") && is_known("c") && is_known("d"), "an old one displaces nobody");
    db->queue.limits.devices = 1; /* a new configuration */
    (void)tend();
    cr_expect_eq(devices, 1);
    cr_expect(is_known("c"));
}

Test(store_db_queue, a_new_device_that_is_over_a_limit_at_once_counts) {
    db->queue.limits.devices = 1;
    come("a", NOW_MS);
    db->queue.limits.messages = 2;
    for (int i = 0; i < 5; i++)
        say("alice", NOW_MS);
    come("b", NOW_MS + 1000);
    cr_expect(!is_known("a") && is_known("b"));
}
