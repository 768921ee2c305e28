/* SPDX-License-Identifier: Apache-2.0
 *
 * conversation_test.c - conversations: requests, order, events, recovery, members, and crashes.
 */
#include "actors/conversation_internal.h"
#include "actors/domain_testing.h"

static struct fixture *f; /* large: not on the stack */
static unsigned r[64];    /* requests of the test */
static char conv[64];     /* the conversation of the test */

static void setup(void) {
    f = calloc(1, sizeof *f);
    cr_assert_not_null(f);
}
static void teardown(void) {
    fixture_close(f);
    free(f);
}
TestSuite(conversation, .init = setup, .fini = teardown, .timeout = 60);

static void run(unsigned workers, const struct step *steps) {
    fixture_open(f, workers);
    fixture_run(f, steps);
}

static const char *path_of(const char *tail) {
    static char path[160];
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s%s", conv, tail);
    return path;
}

static unsigned send_to(ptn_ctx *c, struct fixture *x, const char *id, const char *content) {
    ptn_buf *b =
        id != NULL ? texts("id", id, "content", content, NULL) : texts("content", content, NULL);
    return request(c, x, PTN_MSG_ROUTE_MSG_SEND_TO, path_of("/messages"), "", b);
}

static unsigned get(ptn_ctx *c, struct fixture *x) {
    return request(c, x, PTN_MSG_ROUTE_CONV_GET, path_of(""), "", NULL);
}

static unsigned history(ptn_ctx *c, struct fixture *x, const char *query) {
    return request(c, x, PTN_MSG_ROUTE_MSG_LIST, path_of("/messages"), query, NULL);
}

static unsigned attach(ptn_ctx *c, struct fixture *x, const char *user, const char *epoch,
                       int64_t offset) {
    char topic[96];
    (void)snprintf(topic, sizeof topic, "conversation.%s", conv);
    ptn_str id = ptn_str_of(conv);
    return ask(c, x, x->d.conversation[ptn_shard(id, x->d.workers)], PTN_MSG_TOPIC_ATTACH,
               packed("ssiSi", topic, user, (int64_t)1, epoch, offset));
}

static void cast(ptn_ctx *c, ptn_addr to, uint32_t type, ptn_buf *take_b) {
    cr_assert_eq(ptn_cast(c, to, type, take_b), 0);
}

/* {title, members} */
static ptn_buf *new_conversation(const char *title, const char *member) {
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_map(&w, 2);
    ptn_pack_key(&w, "title");
    ptn_pack_cstr(&w, title);
    ptn_pack_key(&w, "members");
    ptn_pack_array(&w, member != NULL ? 1 : 0);
    if (member != NULL)
        ptn_pack_cstr(&w, member);
    return ptn_pack_finish(&w);
}

/* alice makes a conversation with bob. */
static void create(ptn_ctx *c, struct fixture *x) {
    r[0] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, "/api/v1/conversations", "",
                   new_conversation("T", "bob"));
}

static void remember(ptn_ctx *c, struct fixture *x) {
    ptn_str id;
    (void)c;
    cr_assert(ptn_map_get_str(data_of(x, r[0], 201), "id", &id));
    (void)snprintf(conv, sizeof conv, "%.*s", (int)id.n, id.p);
}

static int64_t seq_of(ptn_bytes message) {
    int64_t seq = 0;
    cr_assert(ptn_map_get_int(message, "seq", &seq));
    return seq;
}

static bool page_is(unsigned i, const char *key, const char *z) {
    ptn_bytes v;
    cr_assert(ptn_map_get(page_of(f, i), key, &v));
    return z == NULL ? ptn_kind_of(v) == PTN_KIND_NIL : str_is(v, z);
}

/* An id for message i: a ULID that is easy to read. */
static const char *mid(unsigned i) {
    static char id[8][32];
    char *p = id[i % 8];
    (void)snprintf(p, sizeof id[0], "01ARZ3NDEKTSV4RRFFQ69G%04u", i % 10000);
    return p;
}

/* ---- creating and showing ------------------------------------------------------------------- */

static void look(ptn_ctx *c, struct fixture *x) {
    r[1] = get(c, x);
    x->user = "bob";
    r[2] = get(c, x);
    r[3] = request(c, x, PTN_MSG_ROUTE_CONV_LIST, "/api/v1/conversations", "", NULL);
    x->user = "carol";
    r[4] = get(c, x);
    r[5] = send_to(c, x, NULL, "let me in");
    r[6] = history(c, x, "");
    r[7] = request(c, x, PTN_MSG_ROUTE_CONV_LIST, "/api/v1/conversations", "", NULL);
    r[8] = request(c, x, PTN_MSG_ROUTE_CONV_GET, "/api/v1/conversations/01ARZ3NDEKTSV4RRFFQ69G5FAV",
                   "", NULL);
    r[9] = request(c, x, PTN_MSG_ROUTE_CONV_GET, "/api/v1/conversations/nonsense", "", NULL);
}

Test(conversation, members_see_it_and_nobody_else) {
    static const struct step steps[] = {{0, create}, {0, remember}, {0, look}, {0, NULL}};
    run(2, steps);
    ptn_bytes v = data_of(f, r[1], 200), m;
    cr_expect(map_str_is(v, "title", "T"));
    cr_expect(map_str_is(v, "creatorId", "alice"));
    cr_assert(ptn_map_get(v, "members", &m));
    cr_expect_eq(count_of(m), 2);
    (void)data_of(f, r[2], 200);
    cr_expect_eq(count_of(data_of(f, r[3], 200)), 1);
    for (unsigned i = 4; i <= 9; i++)
        if (i != 7)
            cr_expect_eq(code_of(f, r[i]), PTN_CODE_NOT_FOUND, "request %u", i);
    cr_expect_eq(count_of(data_of(f, r[7], 200)), 0);
    unsigned added = 0;
    for (unsigned i = 0; i < f->n_published; i++) {
        ptn_bytes p = ptn_buf_bytes(f->published[i].buf);
        cr_expect(map_str_is(element(p, 1), "type", "conversation.added"));
        added += (str_is(element(p, 0), "user.alice") ? 1u : 0u) +
                 (str_is(element(p, 0), "user.bob") ? 2u : 0u);
    }
    cr_expect_eq(added, 3, "both heard of it");
}

static void create_badly(ptn_ctx *c, struct fixture *x) {
    const char *path = "/api/v1/conversations";
    char title[402];
    r[0] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, path, "", new_conversation("x", "ghost"));
    for (int i = 0; i < 201; i++)
        memcpy(title + 2 * (size_t)i, "\xc3\xa9", 2);
    title[400] = '\0';
    r[1] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, path, "", new_conversation(title, NULL));
    title[400] = 'x';
    title[401] = '\0';
    r[2] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, path, "", new_conversation(title, NULL));
    r[3] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, path, "", packed("s", "array"));
    r[4] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, path, "", texts("members", "bob", NULL));
    r[5] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, path, "", texts("title", "a\nb", NULL));
    r[6] = request(c, x, PTN_MSG_ROUTE_CONV_CREATE, path, "", NULL);
    r[7] = request(c, x, PTN_MSG_ROUTE_CONV_LIST, path, "limit=0", NULL);
}

Test(conversation, creation_is_validated) {
    static const struct step steps[] = {{0, create_badly}, {0, NULL}};
    run(1, steps);
    cr_expect_eq(code_of(f, r[0]), PTN_CODE_VALIDATION_FAILED);
    cr_expect(map_str_is(details_of(f, r[0]), "members", "no such user: ghost"));
    (void)data_of(f, r[1], 201); /* 200 characters, 400 bytes */
    for (unsigned i = 2; i <= 5; i++)
        cr_expect_eq(code_of(f, r[i]), PTN_CODE_VALIDATION_FAILED, "request %u", i);
    (void)data_of(f, r[6], 201); /* everything is optional */
    cr_expect_eq(code_of(f, r[7]), PTN_CODE_VALIDATION_FAILED);
}

static void create_many(ptn_ctx *c, struct fixture *x) {
    for (int i = 0; i < 7; i++)
        (void)request(c, x, PTN_MSG_ROUTE_CONV_CREATE, "/api/v1/conversations", "", NULL);
}

static void list_first(ptn_ctx *c, struct fixture *x) {
    r[1] = request(c, x, PTN_MSG_ROUTE_CONV_LIST, "/api/v1/conversations", "limit=4", NULL);
}

static void list_next(ptn_ctx *c, struct fixture *x) {
    char query[64];
    ptn_str next;
    cr_assert(ptn_map_get_str(page_of(x, r[1]), "next", &next));
    (void)snprintf(query, sizeof query, "limit=4&after=%.*s", (int)next.n, next.p);
    r[2] = request(c, x, PTN_MSG_ROUTE_CONV_LIST, "/api/v1/conversations", query, NULL);
}

Test(conversation, lists_come_in_pages) {
    static const struct step steps[] = {
        {0, create_many}, {0, list_first}, {0, list_next}, {0, NULL}};
    run(1, steps);
    cr_expect_eq(count_of(data_of(f, r[1], 200)), 4);
    cr_expect_eq(count_of(data_of(f, r[2], 200)), 3);
    cr_expect(page_is(r[2], "next", NULL));
}

/* ---- the default conversation --------------------------------------------------------------- */

static void use_current(ptn_ctx *c, struct fixture *x) {
    (void)snprintf(conv, sizeof conv, "current");
    r[0] = get(c, x);
    r[1] = request(c, x, PTN_MSG_ROUTE_MSG_SEND, "/api/v1/conversations/messages", "",
                   texts("content", "to myself", NULL));
    r[2] = request(c, x, PTN_MSG_ROUTE_MSG_SEND, "/api/v1/conversations/messages", "",
                   texts("content", "again", "conversationId", "current", NULL));
    r[3] = send_to(c, x, NULL, "third");
    r[4] = history(c, x, "");
    x->user = "bob";
    (void)snprintf(conv, sizeof conv, "alice");
    r[5] = get(c, x);
    x->user = "ghost";
    (void)snprintf(conv, sizeof conv, "current");
    r[6] = get(c, x);
    x->user = "alice";
    r[7] = request(c, x, PTN_MSG_ROUTE_MEMBERS_REMOVE, path_of("/members"), "userId=alice", NULL);
}

Test(conversation, everybody_has_a_default_one) {
    static const struct step steps[] = {{0, use_current}, {0, NULL}};
    run(2, steps);
    cr_expect(map_str_is(data_of(f, r[0], 200), "id", "alice"));
    for (unsigned i = 1; i <= 3; i++)
        cr_expect_eq(seq_of(data_of(f, r[i], 201)), i);
    cr_expect_leq(count_of(data_of(f, r[4], 200)), 3);
    cr_expect_eq(code_of(f, r[5]), PTN_CODE_NOT_FOUND, "it is nobody else's");
    cr_expect_eq(code_of(f, r[6]), PTN_CODE_NOT_FOUND, "an account that does not exist has none");
    cr_expect_eq(code_of(f, r[7]), PTN_CODE_CONFLICT);
}

/* ---- messages ------------------------------------------------------------------------------- */

static void attach_bob(ptn_ctx *c, struct fixture *x) {
    r[60] = attach(c, x, "bob", NULL, 0);
}

static void send_100(ptn_ctx *c, struct fixture *x) {
    for (unsigned i = 0; i < 50; i++) {
        x->user = i % 2 == 0 ? "alice" : "bob";
        r[1 + i] = send_to(c, x, NULL, "x");
    }
}

Test(conversation, events_follow_the_order_of_seq) {
    static const struct step steps[] = {{0, create},     {0, remember}, {0, attach_bob},
                                        {1, attach_bob}, {0, send_100}, {0, NULL}};
    run(2, steps);
    for (unsigned i = 0; i < 50; i++)
        cr_expect_eq(seq_of(data_of(f, r[1 + i], 201)), i + 1);
    expect_events(&f->hub[0], 1, 50);
    expect_events(&f->hub[1], 1, 50);
    ptn_bytes e = ptn_buf_bytes(f->hub[1].note[0].buf);
    char topic[96];
    (void)snprintf(topic, sizeof topic, "conversation.%s", conv);
    cr_expect(str_is(element(e, 0), topic));
    cr_expect(map_str_is(element(e, 3), "senderId", "alice"));
    cr_expect_eq(str_of(element(e, 1)).n, CONVERSATION_EPOCH_BYTES);
}

static void send_twice(ptn_ctx *c, struct fixture *x) {
    r[1] = send_to(c, x, mid(1), "one");
    r[2] = send_to(c, x, mid(1), "one");
    r[7] = send_to(c, x, mid(1), "another one");
    x->user = "bob";
    r[3] = send_to(c, x, mid(1), "mine");
    x->user = "alice";
    x->idempotency_key = "order 66";
    r[4] = send_to(c, x, NULL, "keyed");
    r[5] = send_to(c, x, NULL, "keyed");
    x->user = "bob";
    r[6] = send_to(c, x, NULL, "keyed");
    r[8] = send_to(c, x, NULL, "another body");
    x->idempotency_key = NULL;
}

Test(conversation, sending_twice_is_safe) {
    static const struct step steps[] = {
        {0, create}, {0, remember}, {0, attach_bob}, {0, send_twice}, {0, NULL}};
    run(1, steps);
    cr_expect_eq(seq_of(data_of(f, r[1], 201)), 1);
    cr_expect_eq(seq_of(data_of(f, r[2], 201)), 1);
    cr_expect(map_str_is(data_of(f, r[2], 201), "content", "one"));
    cr_expect_eq(code_of(f, r[3]), PTN_CODE_CONFLICT);
    cr_expect_eq(seq_of(data_of(f, r[4], 201)), 2);
    cr_expect_eq(seq_of(data_of(f, r[5], 201)), 2, "the key stands for the id");
    cr_expect_eq(seq_of(data_of(f, r[6], 201)), 3, "another user's key is another key");
    cr_expect_eq(code_of(f, r[7]), PTN_CODE_IDEMPOTENCY_MISMATCH);
    cr_expect_eq(code_of(f, r[8]), PTN_CODE_IDEMPOTENCY_MISMATCH);
    expect_events(&f->hub[0], 1, 3);
}

static void page(ptn_ctx *c, struct fixture *x) {
    r[51] = history(c, x, "limit=10");
    r[52] = history(c, x, "before=41&limit=10");
    r[53] = history(c, x, "after=0&limit=10");
    r[54] = history(c, x, "after=50");
    r[55] = history(c, x, "limit=201");
    r[56] = history(c, x, "after=x");
    r[57] = history(c, x, "before=-1");
}

Test(conversation, history_comes_in_pages) {
    static const struct step steps[] = {
        {0, create}, {0, remember}, {0, send_100}, {0, page}, {0, NULL}};
    run(1, steps);
    ptn_bytes l = data_of(f, r[51], 200);
    cr_assert_eq(count_of(l), 10);
    cr_expect_eq(seq_of(element(l, 0)), 41);
    cr_expect(page_is(r[51], "next", NULL));
    cr_expect(page_is(r[51], "prev", "41"));
    l = data_of(f, r[52], 200);
    cr_expect_eq(seq_of(element(l, 0)), 31);
    cr_expect(page_is(r[52], "next", "40"));
    l = data_of(f, r[53], 200);
    cr_expect_eq(seq_of(element(l, 9)), 10);
    cr_expect(page_is(r[53], "next", "10"));
    cr_expect(page_is(r[53], "prev", NULL));
    cr_expect_eq(count_of(data_of(f, r[54], 200)), 0);
    for (unsigned i = 55; i <= 57; i++)
        cr_expect_eq(code_of(f, r[i]), PTN_CODE_VALIDATION_FAILED);
}

static void read_it(ptn_ctx *c, struct fixture *x) {
    char path[96];
    (void)snprintf(path, sizeof path, "/api/v1/messages/%s/read", mid(1));
    x->user = "bob";
    r[10] = request(c, x, PTN_MSG_ROUTE_MSG_READ, path, "", NULL);
    x->user = "carol";
    r[11] = request(c, x, PTN_MSG_ROUTE_MSG_READ, path, "", NULL);
    r[12] = request(c, x, PTN_MSG_ROUTE_MSG_READ, "/api/v1/messages/zzz/read", "", NULL);
}

static void wait(ptn_ctx *c, struct fixture *x) {
    (void)c, (void)x;
}

Test(conversation, members_mark_messages_read) {
    static struct step steps[50] = {{0, create}, {0, remember}, {0, send_twice}, {0, read_it}};
    for (unsigned i = 4; i < 49; i++)
        steps[i] = (struct step){0, wait}; /* marks are collected for a moment */
    run(2, steps);
    cr_expect(map_str_is(data_of(f, r[10], 200), "status", "read"));
    cr_expect_eq(code_of(f, r[11]), PTN_CODE_NOT_FOUND);
    cr_expect_eq(code_of(f, r[12]), PTN_CODE_NOT_FOUND);
    ptn_bytes p = ptn_buf_bytes(f->published[f->n_published - 1].buf);
    cr_expect(str_is(element(p, 0), "user.alice"), "the sender hears of it");
    cr_expect(map_str_is(element(p, 1), "type", "message.read"));
    cr_expect(map_str_is(element(p, 1), "userId", "bob"));
    cr_expect(map_str_is(element(p, 1), "messageId", mid(1)));
}

/* ---- attaching ------------------------------------------------------------------------------ */

static void send_10(ptn_ctx *c, struct fixture *x) {
    for (unsigned i = 1; i <= 10; i++)
        (void)send_to(c, x, mid(i), "x");
}

static void attach_all_ways(ptn_ctx *c, struct fixture *x) {
    ptn_str epoch;
    cr_assert(ptn_map_get_str(data_of(x, r[0], 201), "epoch", &epoch));
    char e[32];
    (void)snprintf(e, sizeof e, "%.*s", (int)epoch.n, epoch.p);
    r[1] = attach(c, x, "bob", NULL, 0);
    r[2] = attach(c, x, "bob", e, 4);
    r[3] = attach(c, x, "bob", e, 10);
    r[4] = attach(c, x, "bob", e, 11);
    r[5] = attach(c, x, "bob", "another epoch", 4);
    r[6] = attach(c, x, "carol", e, 4);
    r[7] = attach(c, x, "bob", e, 0);
}

static void expect_attached(unsigned i, int64_t offset, bool recovered) {
    cr_assert_eq(f->answer[i].type, PTN_MSG_TOPIC_ATTACHED, "attach %u", i);
    ptn_bytes b = ptn_buf_bytes(f->answer[i].buf);
    cr_expect_eq(int_of(element(b, 1)), offset);
    cr_expect_eq(bool_of(element(b, 2)), recovered, "attach %u", i);
    cr_expect(bool_of(element(b, 3)), "the hub reads the rest from the store");
    cr_expect_eq(count_of(element(b, 4)), 0);
}

Test(conversation, attaching_recovers_or_says_so) {
    static const struct step steps[] = {
        {0, create}, {0, remember}, {0, send_10}, {0, attach_all_ways}, {0, NULL}};
    run(1, steps);
    expect_attached(r[1], 10, false);
    expect_attached(r[2], 10, true);
    expect_attached(r[3], 10, true);
    expect_attached(r[4], 10, false);
    expect_attached(r[5], 10, false);
    cr_expect_eq(code_of(f, r[6]), PTN_CODE_FORBIDDEN);
    expect_attached(r[7], 10, true);
    expect_events(&f->hub[0], 1, 0);
}

/* Retention removes everything up to `base`, here without a rule. */
static void trim(ptn_ctx *c, struct fixture *x, int64_t base) {
    char topic[96];
    (void)snprintf(topic, sizeof topic, "conversation.%s", conv);
    cast(c, x->d.conversation[ptn_shard(ptn_str_of(conv), x->d.workers)], PTN_MSG_TOPIC_TRIMMED,
         packed("si", topic, base));
}

static void attach_trimmed(ptn_ctx *c, struct fixture *x) {
    ptn_str epoch;
    char e[32];
    cr_assert(ptn_map_get_str(data_of(x, r[0], 201), "epoch", &epoch));
    (void)snprintf(e, sizeof e, "%.*s", (int)epoch.n, epoch.p);
    trim(c, x, 6);
    trim(c, x, 5); /* late */
    r[1] = attach(c, x, "bob", e, 5);
    r[2] = attach(c, x, "bob", e, 6);
}

Test(conversation, a_position_that_retention_has_passed_is_not_recovered) {
    static const struct step steps[] = {
        {0, create}, {0, remember}, {0, send_10}, {0, attach_trimmed}, {0, NULL}};
    run(1, steps);
    expect_attached(r[1], 10, false);
    expect_attached(r[2], 10, true);
}

/* bob is removed while his subscription is granted: the hub hears of it after the grant. */
static void attach_and_remove(ptn_ctx *c, struct fixture *x) {
    ptn_str epoch;
    char e[32];
    cr_assert(ptn_map_get_str(data_of(x, r[0], 201), "epoch", &epoch));
    (void)snprintf(e, sizeof e, "%.*s", (int)epoch.n, epoch.p);
    (void)request(c, x, PTN_MSG_ROUTE_MEMBERS_REMOVE, path_of("/members"), "userId=bob", NULL);
    r[1] = attach(c, x, "bob", e, 4);
}

Test(conversation, a_removal_follows_a_subscription) {
    static const struct step steps[] = {
        {0, create}, {0, remember}, {0, send_10}, {0, attach_and_remove}, {0, NULL}};
    run(1, steps);
    expect_attached(r[1], 10, true);
    unsigned evictions = 0;
    for (unsigned i = 0; i < f->hub[0].n_notes; i++)
        evictions += f->hub[0].note[i].type == PTN_MSG_HUB_EVICT;
    cr_expect_eq(evictions, 1);
}

/* Messages are on their way while a hub attaches: position and events meet without hole or overlap.
 */
static void attach_in_the_middle(ptn_ctx *c, struct fixture *x) {
    ptn_str epoch;
    char e[32];
    cr_assert(ptn_map_get_str(data_of(x, r[0], 201), "epoch", &epoch));
    (void)snprintf(e, sizeof e, "%.*s", (int)epoch.n, epoch.p);
    for (unsigned i = 11; i <= 20; i++)
        (void)send_to(c, x, mid(i), "x");
    r[1] = attach(c, x, "bob", e, 4);
    for (unsigned i = 21; i <= 30; i++)
        (void)send_to(c, x, mid(i), "x");
}

Test(conversation, position_and_live_events_join) {
    static const struct step steps[] = {
        {0, create}, {0, remember}, {0, send_10}, {0, attach_in_the_middle}, {0, NULL}};
    run(1, steps);
    cr_assert_eq(f->answer[r[1]].type, PTN_MSG_TOPIC_ATTACHED);
    int64_t offset = int_of(element(ptn_buf_bytes(f->answer[r[1]].buf), 1));
    expect_attached(r[1], offset, true);
    cr_expect_geq(offset, 10);
    cr_expect_leq(offset, 30);
    /* The hub drops what it got before the answer; all of it together is 11 to 30, once. */
    unsigned n = events_of(&f->hub[0]);
    expect_events(&f->hub[0], 31 - n, n);
    cr_expect_geq(offset + n, 30, "nothing is missing between position and events");
}

static void detach(ptn_ctx *c, struct fixture *x) {
    char topic[96];
    (void)snprintf(topic, sizeof topic, "conversation.%s", conv);
    cast(c, x->d.conversation[0], PTN_MSG_TOPIC_DETACH, packed("s", topic));
}

static void send_1(ptn_ctx *c, struct fixture *x) {
    (void)send_to(c, x, NULL, "x");
}

static void watch_all(ptn_ctx *c, struct fixture *x) {
    r[20] = ask(c, x, x->d.conversation[0], PTN_MSG_TOPIC_WATCH_ALL, packed("t"));
}

static void watch_off(ptn_ctx *c, struct fixture *x) {
    r[21] = ask(c, x, x->d.conversation[0], PTN_MSG_TOPIC_WATCH_ALL, packed("f"));
}

Test(conversation, detached_hubs_hear_nothing_and_watching_ones_everything) {
    static const struct step steps[] = {{0, create},    {0, remember}, {0, attach_bob}, {0, send_1},
                                        {0, detach},    {0, send_1},   {0, watch_all},  {0, send_1},
                                        {0, watch_off}, {0, send_1},   {0, NULL}};
    run(1, steps);
    cr_expect_eq(f->answer[r[20]].type, PTN_MSG_OK);
    cr_assert_eq(events_of(&f->hub[0]), 2);
    cr_expect_eq(int_of(element(ptn_buf_bytes(f->hub[0].note[0].buf), 2)), 1);
    cr_expect_eq(int_of(element(ptn_buf_bytes(f->hub[0].note[1].buf), 2)), 3);
}

/* ---- members -------------------------------------------------------------------------------- */

static unsigned change(ptn_ctx *c, struct fixture *x, bool add, const char *user) {
    return request(c, x, add ? PTN_MSG_ROUTE_MEMBERS_ADD : PTN_MSG_ROUTE_MEMBERS_REMOVE,
                   path_of("/members"), "", texts("userId", user, NULL));
}

static void change_members(ptn_ctx *c, struct fixture *x) {
    x->user = "bob";
    r[1] = change(c, x, true, "carol");
    r[2] = change(c, x, true, "ghost");
    x->user = "dave";
    r[3] = change(c, x, true, "dave");
    x->user = "alice";
    r[4] = request(c, x, PTN_MSG_ROUTE_MEMBERS_ADD, path_of("/members"), "", NULL);
}

static void remove_members(ptn_ctx *c, struct fixture *x) {
    x->user = "carol";
    r[5] = get(c, x);
    r[6] = change(c, x, false, "bob");
    x->user = "alice";
    r[7] = change(c, x, false, "bob");
    x->user = "carol";
    r[8] = request(c, x, PTN_MSG_ROUTE_MEMBERS_REMOVE, path_of("/members"), "userId=carol", NULL);
}

static void after_removal(ptn_ctx *c, struct fixture *x) {
    r[9] = get(c, x);
    x->user = "bob";
    r[10] = send_to(c, x, NULL, "still here?");
    r[11] = attach(c, x, "bob", NULL, 0);
}

static unsigned evictions(const char *user) {
    unsigned n = 0;
    for (unsigned i = 0; i < f->hub[0].n_notes; i++)
        n += f->hub[0].note[i].type == PTN_MSG_HUB_EVICT &&
             str_is(element(ptn_buf_bytes(f->hub[0].note[i].buf), 1), user);
    return n;
}

Test(conversation, members_come_and_go) {
    static const struct step steps[] = {
        {0, create},         {0, remember},      {0, attach_bob}, {0, change_members},
        {0, remove_members}, {0, after_removal}, {0, NULL}};
    run(1, steps);
    ptn_bytes m;
    cr_assert(ptn_map_get(data_of(f, r[1], 200), "members", &m));
    cr_expect_eq(count_of(m), 3);
    cr_expect_eq(code_of(f, r[2]), PTN_CODE_VALIDATION_FAILED);
    cr_expect_eq(code_of(f, r[3]), PTN_CODE_NOT_FOUND, "a stranger cannot add themselves");
    cr_expect_eq(code_of(f, r[4]), PTN_CODE_VALIDATION_FAILED);
    (void)data_of(f, r[5], 200);
    cr_expect_eq(code_of(f, r[6]), PTN_CODE_FORBIDDEN, "only the creator removes others");
    (void)data_of(f, r[7], 200);
    (void)data_of(f, r[8], 200);
    cr_expect_eq(code_of(f, r[9]), PTN_CODE_NOT_FOUND);
    cr_expect_eq(code_of(f, r[10]), PTN_CODE_NOT_FOUND);
    cr_expect_eq(code_of(f, r[11]), PTN_CODE_FORBIDDEN);
    cr_expect(evictions("bob") == 1 && evictions("carol") == 1, "their subscriptions end");
}

/* ---- what goes wrong ------------------------------------------------------------------------ */

static void slow_store(ptn_ctx *c, struct fixture *x) {
    (void)c;
    x->store_delay_ns = 50 * PTN_MS;
    x->deadline_ns = 10 * PTN_MS;
}

static void quick_store(ptn_ctx *c, struct fixture *x) {
    (void)c;
    x->store_delay_ns = 0;
    x->deadline_ns = 0;
}

static void send_late(ptn_ctx *c, struct fixture *x) {
    r[1] = send_to(c, x, mid(1), "late");
    r[2] = send_to(c, x, mid(2), "late too");
}

static void send_in_time(ptn_ctx *c, struct fixture *x) {
    r[3] = send_to(c, x, mid(3), "in time");
}

/* The answer comes after the deadline: the sender hears `timeout`, yet the message is stored, so it
 * must be published, before everything after it. */
Test(conversation, a_message_whose_answer_is_late_is_published_in_order) {
    static struct step steps[96] = {{0, create},      {0, remember},  {0, attach_bob},
                                    {0, slow_store},  {0, send_late}, {0, quick_store},
                                    {0, send_in_time}};
    for (unsigned i = 7; i < 95; i++)
        steps[i] = (struct step){0, wait};
    run(1, steps);
    cr_expect_eq(f->answer[r[1]].err == -PTN_EDEADLINE || code_of(f, r[1]) == PTN_CODE_TIMEOUT,
                 true);
    cr_expect_eq(seq_of(data_of(f, r[3], 201)), 3);
    expect_events(&f->hub[0], 1, 3);
}

static void remove_late(ptn_ctx *c, struct fixture *x) {
    r[1] = change(c, x, false, "bob");
}

/* Nobody heard that bob was removed; yet he is, so he must be shown out. */
Test(conversation, a_removal_whose_answer_is_late_counts) {
    static struct step steps[96] = {{0, create},     {0, remember},    {0, attach_bob},
                                    {0, slow_store}, {0, remove_late}, {0, quick_store}};
    for (unsigned i = 6; i < 94; i++)
        steps[i] = (struct step){0, wait};
    run(1, steps);
    cr_expect_eq(evictions("bob"), 1);
}

static void flood(ptn_ctx *c, struct fixture *x) {
    for (unsigned i = 0; i < 300; i++)
        (void)send_to(c, x, NULL, "x");
}

/* Hub 1 takes 32 messages at a time: the rest is refused and must come again, in order. */
Test(conversation, a_hub_that_refuses_events_catches_up) {
    static struct step steps[128] = {
        {0, create}, {0, remember}, {1, attach_bob}, {0, attach_bob}, {0, flood}};
    for (unsigned i = 5; i < 127; i++)
        steps[i] = (struct step){0, wait};
    f->hub_mbox_msgs_max[1] = 32;
    run(2, steps);
    expect_events(&f->hub[0], 1, 300);
    expect_events(&f->hub[1], 1, 300);
}

static unsigned restarts_before, restarts_at_answer;

static void flood_and_remove(ptn_ctx *c, struct fixture *x) {
    restarts_before = x->hub[1].restarts_seen;
    flood(c, x);
    r[1] = change(c, x, false, "bob");
}

static void await_removal(ptn_ctx *c, struct fixture *x) {
    (void)c;
    if (x->answer[r[1]].ended && restarts_at_answer == 0)
        restarts_at_answer = x->hub[1].restarts_seen;
}

/* Who is told that bob is gone may rely on it: hub 1 refuses to hear it at first. */
Test(conversation, a_removal_is_answered_when_every_hub_has_heard) {
    static struct step steps[128] = {
        {0, create}, {0, remember}, {1, attach_bob}, {0, flood_and_remove}};
    for (unsigned i = 4; i < 127; i++)
        steps[i] = (struct step){0, await_removal};
    f->hub_mbox_msgs_max[1] = 32;
    run(2, steps);
    (void)data_of(f, r[1], 200);
    for (unsigned i = 0; i < f->hub[1].n_notes; i++)
        cr_expect_neq(f->hub[1].note[i].type, PTN_MSG_HUB_EVICT, "it was to be refused");
    cr_expect_gt(restarts_at_answer, restarts_before);
}

static unsigned first_sent;

/* 60 messages, and in their middle something that fails the shard. */
static void send_and_crash(ptn_ctx *c, struct fixture *x) {
    static const uint8_t nil = 0xc0;
    first_sent = x->n_answers;
    for (unsigned i = 0; i < 60; i++) {
        if (i == 20 || i == 40)
            cast(c, x->d.conversation[0], PTN_MSG_TOPIC_ATTACH, ptn_buf_copy(&nil, 1));
        (void)send_to(c, x, mid(i), "x");
    }
}

static void crash(ptn_ctx *c, struct fixture *x) {
    static const uint8_t nil = 0xc0;
    cast(c, x->d.conversation[0], PTN_MSG_TOPIC_ATTACH, ptn_buf_copy(&nil, 1));
}

static unsigned acknowledged;

static void send_rest_again(ptn_ctx *c, struct fixture *x) {
    acknowledged = 0;
    for (unsigned i = 0; i < 60; i++) {
        const struct answer *a = &x->answer[first_sent + i];
        cr_assert(a->ended);
        if (a->err == 0 && a->type == PTN_MSG_RESPONSE)
            acknowledged++;
        else
            (void)send_to(c, x, mid(i), "x");
    }
}

static void read_all(ptn_ctx *c, struct fixture *x) {
    r[1] = history(c, x, "after=0&limit=200");
}

Test(conversation, a_crash_loses_nothing_that_was_acknowledged) {
    static struct step steps[96] = {
        {0, create}, {0, remember}, {0, attach_bob}, {0, send_and_crash}};
    for (unsigned i = 4; i < 95; i++) /* the second and third restart come after a backoff */
        steps[i] = (struct step){0, wait};
    steps[30] = (struct step){0, crash};
    steps[90] = (struct step){0, send_rest_again};
    steps[94] = (struct step){0, read_all};
    run(1, steps);
    cr_expect_eq(f->rig.crashes, 3);
    cr_expect_eq(f->rig.restarts, 3);
    cr_expect_gt(acknowledged, 0, "some were acknowledged");
    cr_expect_lt(acknowledged, 60, "the crash hit some in flight");
    cr_expect_eq(f->hub[0].restarts_seen, 4, "the hub hears of every start");
    ptn_bytes l = data_of(f, r[1], 200);
    cr_assert_eq(count_of(l), 60, "every message is there, once");
    bool seen[60] = {false};
    for (uint32_t i = 0; i < 60; i++) {
        ptn_bytes m = element(l, i);
        ptn_str id;
        cr_expect_eq(seq_of(m), i + 1);
        cr_assert(ptn_map_get_str(m, "id", &id) && id.n == PTN_ULID_LEN);
        unsigned k = (unsigned)(id.p[24] - '0') * 10 + (unsigned)(id.p[25] - '0');
        cr_assert_lt(k, 60);
        cr_expect_not(seen[k]);
        seen[k] = true;
    }
    for (unsigned i = 0; i < 60; i++) {
        const struct answer *a = &f->answer[first_sent + i];
        if (a->err == 0 && a->type == PTN_MSG_RESPONSE)
            cr_expect(seen[i], "acknowledged message %u is lost", i);
    }
}

/* ---- the cache ------------------------------------------------------------------------------ */

static char many[12][32];

static void remember_many(ptn_ctx *c, struct fixture *x) {
    ptn_str id;
    (void)c;
    for (unsigned i = 0; i < 12; i++) {
        cr_assert(ptn_map_get_str(data_of(x, i, 201), "id", &id));
        (void)snprintf(many[i], sizeof many[i], "%.*s", (int)id.n, id.p);
    }
}

static void create_12(ptn_ctx *c, struct fixture *x) {
    for (unsigned i = 0; i < 12; i++)
        (void)request(c, x, PTN_MSG_ROUTE_CONV_CREATE, "/api/v1/conversations", "", NULL);
}

static void use_12(ptn_ctx *c, struct fixture *x) {
    for (unsigned i = 0; i < 12; i++) {
        (void)snprintf(conv, sizeof conv, "%s", many[i]);
        r[i] = send_to(c, x, NULL, "x");
        if (i < 3)
            r[20 + i] = attach(c, x, "alice", NULL, 0);
    }
}

static void attach_beyond(ptn_ctx *c, struct fixture *x) {
    for (unsigned i = 3; i < 6; i++) {
        (void)snprintf(conv, sizeof conv, "%s", many[i]);
        r[20 + i] = attach(c, x, "alice", NULL, 0);
    }
    (void)snprintf(conv, sizeof conv, "%s", many[0]);
    r[30] = get(c, x);
}

Test(conversation, the_cache_is_bounded_and_attached_ones_stay) {
    static const struct step steps[] = {{0, create_12}, {0, remember_many}, {0, use_12},
                                        {0, use_12},    {0, attach_beyond}, {0, NULL}};
    f->conversation[0].cache_max = 2;
    f->conversation[0].attached_max = 12;
    run(1, steps);
    for (unsigned i = 0; i < 12; i++)
        cr_expect_eq(seq_of(data_of(f, r[i], 201)), 2);
    cr_expect_eq(events_of(&f->hub[0]) >= 3, true);
    (void)data_of(f, r[30], 200);
    for (unsigned i = 3; i < 6; i++)
        cr_expect_eq(f->answer[r[20 + i]].type, PTN_MSG_TOPIC_ATTACHED);
}

Test(conversation, too_many_in_use_is_an_answer) {
    static const struct step steps[] = {
        {0, create_12}, {0, remember_many}, {0, use_12}, {0, attach_beyond}, {0, NULL}};
    f->conversation[0].cache_max = 2;
    f->conversation[0].attached_max = 4;
    run(1, steps);
    unsigned refused = 0;
    for (unsigned i = 0; i < 12; i++)
        refused += code_of(f, r[i]) == PTN_CODE_OVERLOADED;
    cr_expect_gt(refused, 0);
    cr_expect_lt(refused, 12);
    (void)data_of(f, r[30], 200);
}
