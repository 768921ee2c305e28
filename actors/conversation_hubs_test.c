/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_hubs_test.c - hubs that cannot be told what they have to know: they are made to
 * start over, once, as soon as they listen again.
 */
#include "actors/conversation_internal.h"
#include "actors/domain_testing.h"

#define MESSAGES 300 /* more than hub 1 takes at once */

static struct fixture *f; /* large: not on the stack */
static unsigned r[8];
static char conv[64];
static unsigned restarts_before;

static void setup(void) {
    f = calloc(1, sizeof *f);
    cr_assert_not_null(f);
    f->hub_mbox_msgs_max[1] = 32;
    fixture_open(f, 2);
}
static void teardown(void) {
    fixture_close(f);
    free(f);
}
TestSuite(conversation_hubs, .init = setup, .fini = teardown, .timeout = 60);

static void wait(ptn_ctx *c, struct fixture *x) {
    static unsigned waited;
    (void)c;
    if (++waited % 200 != 0)
        x->at--;
}

static void create(ptn_ctx *c, struct fixture *x) {
    r[0] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, "/api/v1/conversations", "", NULL);
}

static void remember(ptn_ctx *c, struct fixture *x) {
    ptn_str id;
    (void)c;
    cr_assert(ptn_map_get_str(data_of(x, r[0], 201), "id", &id));
    (void)snprintf(conv, sizeof conv, "%.*s", (int)id.n, id.p);
}

static void attach(ptn_ctx *c, struct fixture *x) {
    char topic[96];
    (void)snprintf(topic, sizeof topic, "conversation.%s", conv);
    ptn_addr owner = x->d.conversation[ptn_shard(ptn_str_of(conv), x->d.workers)];
    r[1] = ask(c, x, owner, PTN_MSG_TOPIC_ATTACH,
               packed("ssiSi", topic, x->user, (int64_t)1, NULL, (int64_t)0));
}

static void send_many(ptn_ctx *c, struct fixture *x) {
    char path[96];
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/messages", conv);
    for (unsigned i = 0; i < MESSAGES; i++)
        (void)request(c, x, PTN_MSG_ROUTE_MSG_SEND_TO, path, "", texts("content", "x", NULL));
    restarts_before = x->hub[1].restarts_seen;
}

static void send_many_and_add_bob(ptn_ctx *c, struct fixture *x) {
    char path[96];
    send_many(c, x);
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/members", conv);
    r[2] = request(c, x, PTN_MSG_ROUTE_MEMBERS_ADD, path, "", texts("userId", "bob", NULL));
}

/* bob's feed may be there: hub 1 does not hear that he has joined, so it opens all feeds again. */
Test(conversation_hubs, one_that_refuses_to_hear_of_a_member_starts_over) {
    fixture_run(f, (const struct step[]){{0, create},
                                         {0, remember},
                                         {1, attach},
                                         {0, wait},
                                         {0, send_many_and_add_bob},
                                         {0, wait},
                                         {0, NULL}});
    (void)data_of(f, r[2], 200);
    cr_assert_eq(f->hub[1].joined, f->hub[0].joined - 1, "it was to be refused");
    cr_expect_eq(f->hub[1].restarts_seen, restarts_before + 1);
    expect_events(&f->hub[1], 1, MESSAGES);
}

/* As retention does it, in another connection: only the newest message stays. */
static void trim(ptn_ctx *c, struct fixture *x) {
    store_db_opts o = {.retention = {.messages = 1}};
    store_db *db;
    uint32_t type;
    bool more = true;
    cr_assert_eq(store_db_open(x->dir.db, &o, &db, NULL), 0);
    while (more) {
        ptn_buf *b = packed("i", ptn_wall_ms(c));
        ptn_buf *reply = store_db_execute(db, PTN_MSG_STORE_RETAIN, ptn_buf_bytes(b), &type);
        cr_assert_eq(type, PTN_MSG_STORE_RETAINED);
        more = bool_of(element(ptn_buf_bytes(reply), 0));
        ptn_buf_unref(reply);
        ptn_buf_unref(b);
    }
    store_db_close(db);
    x->store_delay_ns = 0;
    x->deadline_ns = 0;
}

static void send_late(ptn_ctx *c, struct fixture *x) {
    x->store_delay_ns = 50 * PTN_MS;
    x->deadline_ns = 10 * PTN_MS;
    send_many(c, x);
}

/* What hub 1 has missed is not there any more: who listens is told so when they come back. */
Test(conversation_hubs, one_that_misses_what_retention_has_removed_starts_over) {
    fixture_run(f, (const struct step[]){{0, create},
                                         {0, remember},
                                         {1, attach},
                                         {0, wait},
                                         {0, send_late},
                                         {0, trim},
                                         {0, wait},
                                         {0, NULL}});
    cr_expect_eq(f->hub[1].restarts_seen, restarts_before + 1);
    expect_events(&f->hub[1], MESSAGES, 1);
}

static void crash_while_full(ptn_ctx *c, struct fixture *x) {
    static const uint8_t nil = 0xc0;
    unsigned shard = ptn_shard(ptn_str_of(conv), x->d.workers);
    send_many(c, x);
    cr_assert_eq(ptn_cast(c, x->d.conversation[shard], PTN_MSG_TOPIC_ATTACH, ptn_buf_copy(&nil, 1)),
                 0);
    for (unsigned i = 0; i < 40; i++) /* no room for the news of the restart */
        (void)ptn_cast(c, x->d.hub[1], PTN_MSG_HUB_JOINED, NULL);
}

Test(conversation_hubs, one_that_is_full_at_a_restart_hears_of_it_later) {
    fixture_run(f, (const struct step[]){{0, create},
                                         {0, remember},
                                         {1, attach},
                                         {0, wait},
                                         {0, crash_while_full},
                                         {0, wait},
                                         {0, NULL}});
    cr_assert_eq(f->rig.crashes, 1);
    cr_expect_eq(f->hub[1].restarts_seen, restarts_before + 1);
}
