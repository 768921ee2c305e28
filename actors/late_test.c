/* SPDX-License-Identifier: Apache-2.0
 *
 * late_test.c - changes whose answer comes from the store when nobody waits for it any more: those
 * whom they concern hear of them all the same.
 */
#include "actors/domain_testing.h"
#include "actors/offline_queue.h"

static struct fixture *f; /* large: not on the stack */
static unsigned r[8];
static char conv[64];
static offline_queue_config queue;

static void setup(void) {
    f = calloc(1, sizeof *f);
    cr_assert_not_null(f);
    fixture_open(f, 2);
    queue.directory = &f->d;
    for (unsigned i = 0; i < 2; i++)
        f->d.queue[i] = fixture_spawn(f, &offline_queue_actor, &queue, (int)i, 64);
}
static void teardown(void) {
    fixture_close(f);
    free(f);
}
TestSuite(late, .init = setup, .fini = teardown, .timeout = 60);

static void late(struct fixture *x, bool on) {
    x->store_delay_ns = on ? 50 * PTN_MS : 0;
    x->deadline_ns = on ? 10 * PTN_MS : 0;
}

/* The request of the step before. */
static void until_the_answer(ptn_ctx *c, struct fixture *x) {
    static unsigned waited;
    (void)c;
    late(x, false);
    if (++waited % 100 != 0) {
        x->at--;
        return;
    }
    const struct answer *a = &x->answer[r[1]];
    cr_assert(a->ended);
    cr_expect_eq(a->err == -PTN_EDEADLINE || code_of(x, r[1]) == PTN_CODE_TIMEOUT, true,
                 "it was to be in vain");
}

/* How many events of this type a user was sent. */
static unsigned told(const char *user, const char *type) {
    char topic[80];
    unsigned n = 0;
    (void)snprintf(topic, sizeof topic, "user.%s", user);
    for (unsigned i = 0; i < f->n_published; i++) {
        ptn_bytes p = ptn_buf_bytes(f->published[i].buf);
        n += str_is(element(p, 0), topic) && map_str_is(element(p, 1), "type", type);
    }
    return n;
}

/* alice, with bob */
static void create(ptn_ctx *c, struct fixture *x) {
    ptn_pack w;
    ptn_pack_init(&w, 64);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "members");
    ptn_pack_array(&w, 1);
    ptn_pack_cstr(&w, "bob");
    r[1] =
        request(c, x, PTN_MSG_ROUTE_CONV_CREATE, "/api/v1/conversations", "", ptn_pack_finish(&w));
}

static void create_late(ptn_ctx *c, struct fixture *x) {
    late(x, true);
    create(c, x);
}

Test(late, members_of_a_new_conversation_hear_of_it) {
    fixture_run(f, (const struct step[]){{0, create_late}, {0, until_the_answer}, {0, NULL}});
    cr_expect(f->hub[0].joined == 2 && f->hub[1].joined == 2, "feeds: %u and %u", f->hub[0].joined,
              f->hub[1].joined);
    cr_expect_eq(told("alice", "conversation.added"), 1);
    cr_expect_eq(told("bob", "conversation.added"), 1);
}

static void default_late(ptn_ctx *c, struct fixture *x) {
    late(x, true);
    r[1] = request(c, x, PTN_MSG_ROUTE_CONV_GET, "/api/v1/conversations/current", "", NULL);
}

Test(late, feeds_hear_of_a_default_conversation) {
    fixture_run(f, (const struct step[]){{0, default_late}, {0, until_the_answer}, {0, NULL}});
    cr_expect(f->hub[0].joined == 1 && f->hub[1].joined == 1);
}

static void remember(ptn_ctx *c, struct fixture *x) {
    ptn_str id;
    (void)c;
    cr_assert(ptn_map_get_str(data_of(x, r[1], 201), "id", &id));
    (void)snprintf(conv, sizeof conv, "%.*s", (int)id.n, id.p);
}

static const char *path_of(const char *tail) {
    static char path[160];
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s%s", conv, tail);
    return path;
}

static void title_late(ptn_ctx *c, struct fixture *x) {
    late(x, true);
    r[1] = request(c, x, PTN_MSG_ROUTE_CONV_PATCH, path_of(""), "", texts("title", "New", NULL));
}

Test(late, members_hear_of_a_new_title) {
    fixture_run(f,
                (const struct step[]){
                    {0, create}, {0, remember}, {0, title_late}, {0, until_the_answer}, {0, NULL}});
    cr_expect_eq(told("alice", "conversation.updated"), 1);
    cr_expect_eq(told("bob", "conversation.updated"), 1);
}

#define MESSAGE "01ARZ3NDEKTSV4RRFFQ69G0001"

static void say(ptn_ctx *c, struct fixture *x) {
    r[2] = request(c, x, PTN_MSG_ROUTE_MSG_SEND_TO, path_of("/messages"), "",
                   texts("id", MESSAGE, "content", "x", NULL));
}

static void read_late(ptn_ctx *c, struct fixture *x) {
    late(x, true);
    x->user = "bob";
    r[1] = request(c, x, PTN_MSG_ROUTE_MSG_READ, "/api/v1/messages/" MESSAGE "/read", "", NULL);
}

Test(late, the_sender_hears_that_a_message_was_read) {
    fixture_run(f, (const struct step[]){{0, create},
                                         {0, remember},
                                         {0, say},
                                         {0, read_late},
                                         {0, until_the_answer},
                                         {0, NULL}});
    cr_expect_eq(told("alice", "message.read"), 1);
}

static void preferences_late(ptn_ctx *c, struct fixture *x) {
    late(x, true);
    r[1] = request(c, x, PTN_MSG_ROUTE_USERS_PREFS, "/api/v1/users/me/preferences", "",
                   texts("theme", "dark", NULL));
}

Test(late, other_clients_hear_of_new_preferences) {
    fixture_run(f, (const struct step[]){{0, preferences_late}, {0, until_the_answer}, {0, NULL}});
    cr_expect_eq(told("alice", "preferences.updated"), 1);
}

/* The answer comes in time, without the result. */
static void push_late(ptn_ctx *c, struct fixture *x) {
    ptn_buf *preferences = texts("theme", "dark", NULL);
    ptn_pack w;
    late(x, true);
    x->deadline_ns = 16 * PTN_MS;
    ptn_pack_init(&w, 256);
    ptn_pack_map(&w, 1);
    ptn_pack_key(&w, "items");
    ptn_pack_array(&w, 1);
    ptn_pack_map(&w, 4);
    ptn_pack_key(&w, "id");
    ptn_pack_cstr(&w, "p1");
    ptn_pack_key(&w, "kind");
    ptn_pack_cstr(&w, "preferences");
    ptn_pack_key(&w, "timestamp");
    ptn_pack_cstr(&w, "1970-01-01T00:00:00.001Z");
    ptn_pack_key(&w, "preferences");
    ptn_pack_raw(&w, ptn_buf_bytes(preferences));
    ptn_buf_unref(preferences);
    r[1] = request(c, x, PTN_MSG_ROUTE_SYNC_PUSH, "/sync", "", ptn_pack_finish(&w));
}

static void until_told(ptn_ctx *c, struct fixture *x) {
    static unsigned waited;
    (void)c;
    late(x, false);
    if (told("alice", "preferences.updated") == 0 && ++waited < 1000)
        x->at--;
}

Test(late, other_clients_hear_of_preferences_in_a_list) {
    ptn_bytes results;
    fixture_run(f, (const struct step[]){{0, push_late}, {0, until_told}, {0, NULL}});
    cr_assert(ptn_map_get(data_of(f, r[1], 200), "results", &results));
    cr_expect(map_str_is(element(results, 0), "outcome", "rejected"));
    cr_expect(map_str_is(element(results, 0), "code", "timeout"));
    cr_expect_eq(told("alice", "preferences.updated"), 1);
}

static void open_feed(ptn_ctx *c, struct fixture *x) {
    r[3] = ask_store(c, x, PTN_MSG_STORE_FEED_OPEN, packed("ssi", "bob", "phone", (int64_t)1));
}

static void bury(ptn_ctx *c, struct fixture *x) {
    r[3] = ask_store(
        c, x, PTN_MSG_STORE_DEAD_ADD,
        packed("sssiisi", "bob", "phone", conv, (int64_t)1, (int64_t)1, "why", (int64_t)1));
}

static void replay_late(ptn_ctx *c, struct fixture *x) {
    cr_assert_eq(x->answer[r[3]].type, PTN_MSG_OK);
    late(x, true);
    r[1] =
        request(c, x, PTN_MSG_ROUTE_DEAD_REPLAY, "/api/v1/admin/dead-letters/1/replay", "", NULL);
}

Test(late, an_open_feed_goes_back_to_a_letter) {
    fixture_run(f, (const struct step[]){{0, create},
                                         {0, remember},
                                         {0, open_feed},
                                         {0, say},
                                         {0, bury},
                                         {0, replay_late},
                                         {0, until_the_answer},
                                         {0, NULL}});
    for (unsigned i = 0; i < 2; i++) {
        const struct fake_hub *h = &f->hub[i];
        cr_assert_gt(h->n_notes, 0);
        cr_expect_eq(h->note[h->n_notes - 1].type, PTN_MSG_HUB_CURSOR);
    }
}
