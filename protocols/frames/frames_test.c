/* SPDX-License-Identifier: Apache-2.0
 *
 * frames_test.c - the frame language against fake owners: one frame in, the frames that come back.
 */
#include "protocols/frames/internal.h"

#include "protocols/frames/test_rig.h"

#include <stdio.h>

#define OUT_MAX 256
#define MSG_FRAME (PTN_MSG_TYPE_END + 1)
#define MSG_END (PTN_MSG_TYPE_END + 2)   /* frames_session_done */
#define MSG_BATCH (PTN_MSG_TYPE_END + 3) /* an array of frames, handled in one turn */
#define MSG_TICKET 42u

/* The adapter under test: an actor with one session. */
struct adapter {
    struct rig rig;
    ptn_addr addr;
    frames_config config;
    frames_session session;
    enum ptn_protocol protocol;
    bool one_answer, no_hub;
    uint32_t pending_max;
    /* under the rig's lock */
    char *out[OUT_MAX]; /* JSON */
    bool full_at[OUT_MAX], room_at[OUT_MAX];
    unsigned n_out;
    unsigned n_authenticated, n_ended;
    unsigned n_closed, close_code;
    int close_problem;
};

static void adapter_send(ptn_ctx *c, void *self, uint64_t ticket, ptn_bytes frame) {
    struct adapter *a = self;
    ptn_out o = {0};
    (void)c;
    cr_assert(ticket == MSG_TICKET || ticket == 0);
    cr_assert_eq(ptn_msgpack_validate(frame, &(ptn_codec_limits){0}, &(ptn_codec_error){0}), 0,
                 "every frame is valid msgpack");
    cr_assert_eq(ptn_msgpack_to_json(frame, &o), 0);
    ptn_out_put(&o, "", 1);
    cr_assert_lt(a->n_out, OUT_MAX);
    a->out[a->n_out] = (char *)o.p; /* freed by adapter_stop */
    a->full_at[a->n_out] = frames_is_full(&a->session);
    a->room_at[a->n_out] = frames_has_room(&a->session);
    rig_count(&a->rig, &a->n_out);
}

static void adapter_authenticated(ptn_ctx *c, void *self) {
    struct adapter *a = self;
    (void)c;
    rig_count(&a->rig, &a->n_authenticated);
}

static void adapter_close(ptn_ctx *c, void *self, unsigned ws_code, int code) {
    struct adapter *a = self;
    (void)c;
    a->close_code = ws_code;
    a->close_problem = code;
    rig_count(&a->rig, &a->n_closed);
}

static void sink_subscribed(ptn_ctx *c, void *self, const ptn_subscribed *r) {
    frames_subscribed(c, &((struct adapter *)self)->session, r);
}

static enum ptn_sink_load sink_deliver(ptn_ctx *c, void *self, ptn_event *e) {
    ptn_pack w;
    ptn_pack_init(&w, 0);
    frames_event_pack(&w, e);
    ptn_buf *b = ptn_pack_finish(&w);
    adapter_send(c, self, 0, ptn_buf_bytes(b));
    ptn_buf_unref(b);
    return PTN_SINK_FREE;
}

static void sink_reset(ptn_ctx *c, void *self) {
    (void)c;
    ((struct adapter *)self)->session.sink = PTN_SINK_NONE;
}

static const ptn_sink_ops sink_ops = {
    .subscribed = sink_subscribed, .deliver = sink_deliver, .reset = sink_reset};

static int adapter_open_sink(ptn_ctx *c, void *self) {
    struct adapter *a = self;
    (void)c;
    return ptn_hub_sink_open(a->rig.hub, &sink_ops, a, frames_principal(&a->session).user,
                             &a->session.sink);
}

static const frames_ops ops = {.send = adapter_send,
                               .authenticated = adapter_authenticated,
                               .close = adapter_close,
                               .open_sink = adapter_open_sink};

static int adapter_init(ptn_ctx *c, void *state, void *arg) {
    struct adapter *a = arg;
    *(struct adapter **)state = a;
    (void)c;
    a->config = (frames_config){.ops = &ops,
                                .directory = &a->rig.directory,
                                .protocol = a->protocol,
                                .hub = a->no_hub ? NULL : a->rig.hub,
                                .one_answer = a->one_answer,
                                .pending_max = a->pending_max == 0 ? 8 : a->pending_max,
                                .heartbeat_ms = 25000,
                                .request_ns = 10 * PTN_SEC,
                                .request_ns_max = 20 * PTN_SEC};
    frames_session_init(&a->session, &a->config, a);
    return 0;
}

static int adapter_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct adapter *a = *(struct adapter **)state;
    ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(m));
    uint32_t n = 0;
    ptn_bytes frame;
    switch (m->type) {
    case MSG_FRAME:
        frames_handle(c, &a->session, MSG_TICKET, ptn_msg_bytes(m));
        return 0;
    case MSG_BATCH:
        cr_assert(ptn_unpack_array(&u, &n));
        while (n-- > 0 && ptn_unpack_any(&u, &frame))
            frames_handle(c, &a->session, MSG_TICKET, frame);
        return 0;
    case PTN_MSG_STOPPING:
    case MSG_END:
        if (a->session.sink != PTN_SINK_NONE)
            ptn_hub_sink_close(c, a->rig.hub, a->session.sink);
        a->session.sink = PTN_SINK_NONE;
        frames_session_done(c, &a->session);
        if (m->type == PTN_MSG_STOPPING)
            ptn_exit(c, 0);
        else
            rig_count(&a->rig, &a->n_ended);
        return 0;
    default:
        return 0;
    }
}

static const ptn_actor_ops adapter_ops = {.name = "adapter",
                                          .state_size = sizeof(struct adapter *),
                                          .init = adapter_init,
                                          .handle = adapter_handle};

static void adapter_start(struct adapter *a) {
    const ptn_actor_opts ao = {.worker = 0};
    rig_init(&a->rig);
    cr_assert_eq(ptn_runtime_spawn(a->rig.rt, &adapter_ops, &ao, a, PTN_TRANSIENT, &a->addr), 0);
    rig_start(&a->rig);
}

static void adapter_stop(struct adapter *a) {
    rig_stop(&a->rig);
    cr_assert_eq(a->session.n_pending, 0);
    rig_done(&a->rig);
    for (unsigned i = 0; i < a->n_out; i++)
        free(a->out[i]);
}

static void post(struct adapter *a, uint32_t type, const char *json) {
    ptn_buf *b = rig_msgpack(json);
    cr_assert_eq(ptn_port_send(a->rig.port, a->addr, type, b), 0);
}

/* The i-th frame that came out, once it is there. */
static const char *out_at(struct adapter *a, unsigned i) {
    rig_wait(&a->rig, &a->n_out, i + 1);
    return a->out[i];
}

/* Sends one frame, returns the next one that comes out. */
static const char *ask(struct adapter *a, const char *json) {
    pthread_mutex_lock(&a->rig.lock);
    unsigned at = a->n_out;
    pthread_mutex_unlock(&a->rig.lock);
    post(a, MSG_FRAME, json);
    return out_at(a, at);
}

#define HAS(text, part)                                                                            \
    do {                                                                                           \
        const char *has_text = (text);                                                             \
        cr_expect(strstr(has_text, (part)) != NULL, "%s lacks %s", has_text, (part));              \
    } while (0)

static void log_in(struct adapter *a) {
    HAS(ask(a, "{\"type\":\"auth\",\"token\":\"good\"}"), "\"type\":\"welcome\"");
}

#define WS_ADAPTER(name) struct adapter name = {.protocol = PTN_PROTO_WS}

/* ---- form ----------------------------------------------------------------------------------- */

Test(frames, what_is_not_a_frame_is_told_so) {
    WS_ADAPTER(a);
    adapter_start(&a);
    HAS(ask(&a, "[1,2]"), "\"code\":\"invalid_request\"");
    HAS(ask(&a, "[1,2]"), "\"retryable\":false,\"details\":{}}");
    HAS(ask(&a, "7"), "one of: ping auth");
    HAS(ask(&a, "{}"), "one of: ping auth");
    HAS(ask(&a, "{\"type\":\"nope\",\"id\":\"x\"}"), "{\"type\":\"error\",\"id\":\"x\"");
    HAS(ask(&a, "{\"type\":\"nope\"}"), "known: ping auth resume subscribe");
    HAS(ask(&a, "{\"type\":5}"), "\"details\":{\"type\":");
    HAS(ask(&a, "{\"type\":\"ping\",\"id\":{}}"), "\"details\":{\"id\":");
    HAS(ask(&a, "{\"type\":\"ping\",\"id\":1.5}"), "validation_failed");
    adapter_stop(&a);
}

Test(frames, ids_are_echoed_as_they_came) {
    WS_ADAPTER(a);
    char json[256], id[132];
    adapter_start(&a);
    HAS(ask(&a, "{\"type\":\"ping\",\"id\":-7}"), "\"id\":-7");
    HAS(ask(&a, "{\"type\":\"ping\",\"id\":18446744073709551615}"), "\"id\":18446744073709551615");
    HAS(ask(&a, "{\"type\":\"ping\",\"id\":\"\"}"), "\"id\":\"\"");
    cr_expect_null(strstr(ask(&a, "{\"type\":\"ping\",\"id\":null}"), "\"id\""));
    memset(id, 'i', sizeof id);
    snprintf(json, sizeof json, "{\"type\":\"ping\",\"id\":\"%.128s\"}", id);
    HAS(ask(&a, json), "pong");
    snprintf(json, sizeof json, "{\"type\":\"ping\",\"id\":\"%.129s\"}", id);
    HAS(ask(&a, json), "at most 128 bytes");
    adapter_stop(&a);
}

Test(frames, ping) {
    WS_ADAPTER(a);
    int64_t ms;
    adapter_start(&a);
    const char *pong = ask(&a, "{\"type\":\"ping\",\"timestamp\":{\"any\":[1]}}");
    HAS(pong, "{\"type\":\"pong\",\"timestamp\":{\"any\":[1]},\"serverTime\":\"");
    const char *time = strstr(pong, "serverTime") + strlen("serverTime\":\"");
    cr_expect(ptn_timestamp_parse((ptn_str){time, PTN_TIMESTAMP_LEN}, &ms));
    HAS(ask(&a, "{\"type\":\"ping\"}"), "\"timestamp\":null");
    adapter_stop(&a);
}

/* ---- authentication ------------------------------------------------------------------------- */

Test(frames, everything_but_ping_auth_and_resume_needs_authentication) {
    WS_ADAPTER(a);
    static const char *const types[] = {"subscribe", "unsubscribe", "publish",
                                        "message",   "ack",         "request"};
    char json[128];
    adapter_start(&a);
    for (size_t i = 0; i < PTN_ARRAY_LEN(types); i++) {
        snprintf(json, sizeof json, "{\"type\":\"%s\",\"id\":%zu}", types[i], i);
        const char *answer = ask(&a, json);
        HAS(answer, "\"code\":\"unauthenticated\"");
        HAS(answer, "\"id\":");
    }
    cr_expect_eq(a.n_closed, 0);
    adapter_stop(&a);
}

Test(frames, welcome) {
    WS_ADAPTER(a);
    adapter_start(&a);
    const char *w = ask(&a, "{\"type\":\"auth\",\"token\":\"good\",\"id\":1}");
    HAS(w, "{\"type\":\"welcome\",\"id\":1,\"session\":\"");
    HAS(w, "\"user\":{\"id\":\"u1\",\"username\":\"ada\",\"roles\":[\"user\"]}");
    HAS(w, "\"heartbeatMs\":25000,\"resumed\":false");
    rig_wait(&a.rig, &a.n_authenticated, 1);
    adapter_stop(&a);
}

Test(frames, resume) {
    WS_ADAPTER(a);
    adapter_start(&a);
    HAS(ask(&a, "{\"type\":\"resume\",\"id\":1}"), "validation_failed");
    HAS(ask(&a, "{\"type\":\"resume\",\"session\":\"good\",\"positions\":[]}"), "positions");
    HAS(ask(&a, "{\"type\":\"resume\",\"session\":\"good\",\"positions\":{\"t\":{}}}"),
        "validation_failed");
    const char *w = ask(&a, "{\"type\":\"resume\",\"session\":\"good\",\"id\":2}");
    HAS(w, "{\"type\":\"welcome\",\"id\":2,\"session\":\"ticket\"");
    HAS(w, "\"resumed\":true");
    w = ask(&a, "{\"type\":\"resume\",\"session\":\"good\",\"id\":3}");
    HAS(w, "\"resumed\":false");
    HAS(ask(&a, "{\"type\":\"resume\",\"session\":\"bad\",\"id\":4}"),
        "\"id\":4,\"code\":\"unauthenticated\"");
    adapter_stop(&a);
}

Test(frames, refused_tokens_close) {
    WS_ADAPTER(a);
    adapter_start(&a);
    HAS(ask(&a, "{\"type\":\"auth\",\"token\":\"bad\",\"id\":9}"),
        "\"id\":9,\"code\":\"unauthenticated\"");
    rig_wait(&a.rig, &a.n_closed, 1);
    cr_expect_eq(a.close_code, 4501);
    cr_expect_eq(a.close_problem, PTN_CODE_UNAUTHENTICATED);
    HAS(ask(&a, "{\"type\":\"auth\",\"token\":\"expired\"}"), "token_expired");
    rig_wait(&a.rig, &a.n_closed, 2);
    cr_expect_eq(a.close_problem, PTN_CODE_TOKEN_EXPIRED);
    adapter_stop(&a);
}

Test(frames, a_busy_verifier_does_not_close) {
    WS_ADAPTER(a);
    adapter_start(&a);
    HAS(ask(&a, "{\"type\":\"auth\",\"token\":\"busy\"}"), "\"code\":\"overloaded\"");
    HAS(ask(&a, "{\"type\":\"auth\"}"), "\"details\":{\"token\":");
    HAS(ask(&a, "{\"type\":\"auth\",\"token\":7}"), "validation_failed");
    log_in(&a);
    cr_expect_eq(a.n_closed, 0);
    adapter_stop(&a);
}

Test(frames, a_session_is_full_while_a_token_is_verified) {
    WS_ADAPTER(a);
    adapter_start(&a);
    post(&a, MSG_BATCH,
         "[{\"type\":\"auth\",\"token\":\"slow\"},"
         "{\"type\":\"ping\",\"id\":\"now\"},"
         "{\"type\":\"auth\",\"token\":\"good\",\"id\":\"second\"},"
         "{\"type\":\"subscribe\",\"topic\":\"a\",\"id\":1}]");
    /* an adapter that cannot wait gets answers at once */
    HAS(out_at(&a, 0), "\"id\":\"now\"");
    HAS(out_at(&a, 1), "\"id\":\"second\",\"code\":\"conflict\"");
    HAS(out_at(&a, 2), "\"id\":1,\"code\":\"unauthenticated\"");
    cr_expect(a.full_at[0] && !a.room_at[0]);
    rig_wait(&a.rig, &a.rig.n_waiting, 1);
    cr_assert_eq(ptn_port_send(a.rig.port, a.rig.directory.auth[0], PTN_MSG_OK, NULL), 0);
    HAS(out_at(&a, 3), "welcome");
    cr_expect(!a.full_at[3] && a.room_at[3]);
    adapter_stop(&a);
}

Test(frames, zeromq_requests_need_no_authentication) {
    struct adapter a = {.protocol = PTN_PROTO_ZMQ, .one_answer = true, .no_hub = true};
    adapter_start(&a);
    HAS(ask(&a, "{\"method\":\"GET\",\"path\":\"/health\"}"),
        "\"type\":\"response\",\"status\":200");
    HAS(ask(&a, "{\"type\":\"publish\",\"topic\":\"a\",\"data\":1}"), "unauthenticated");
    log_in(&a);
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topic\":\"a\",\"id\":4}"),
        "\"id\":4,\"code\":\"invalid_request\"");
    HAS(ask(&a, "{\"type\":\"ack\",\"conversationId\":\"c\",\"seq\":4,\"id\":5}"),
        "{\"type\":\"ok\",\"id\":5}");
    HAS(ask(&a, "{\"type\":\"ack\",\"conversationId\":\"c\",\"seq\":4,\"device\":7,\"id\":6}"),
        "validation_failed");
    adapter_stop(&a);
}

/* ---- topics --------------------------------------------------------------------------------- */

Test(frames, subscribe_answers_each_topic) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    post(&a, MSG_FRAME,
         "{\"type\":\"subscribe\",\"topics\":[\"news\",\"secret\",\"bad topic\"],\"id\":\"s\"}");
    char all[4096] = "";
    for (unsigned i = 1; i <= 3; i++) {
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s\n", out_at(&a, i));
    }
    HAS(all, "{\"type\":\"subscribed\",\"id\":\"s\",\"topic\":\"news\",\"epoch\":\"e1\",\"offset\":"
             "0,\"recovered\":");
    HAS(all, "{\"type\":\"error\",\"id\":\"s\",\"code\":\"forbidden\"");
    HAS(all, "\"details\":{\"topic\":\"secret\"}");
    HAS(all, "\"details\":{\"topic\":\"bad topic\"}");
    rig_event(&a.rig, "news", 1, "hi");
    HAS(out_at(&a, 4),
        "{\"type\":\"event\",\"topic\":\"news\",\"epoch\":\"e1\",\"offset\":1,\"data\":\"hi\"}");
    HAS(ask(&a, "{\"type\":\"unsubscribe\",\"topic\":\"news\",\"id\":6}"),
        "{\"type\":\"unsubscribed\",\"id\":6,\"topics\":[\"news\"]}");
    adapter_stop(&a);
}

Test(frames, a_subscription_that_is_taken_back_is_an_error_frame) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topic\":\"a.b\"}"), "\"type\":\"subscribed\"");
    unsigned at = a.n_out;
    rig_evict(&a.rig, "a.b", "u1");
    const char *told = out_at(&a, at);
    HAS(told, "\"code\":\"forbidden\"");
    HAS(told, "\"topic\":\"a.b\"");
    rig_event(&a.rig, "a.b", 1, "secret");
    HAS(ask(&a, "{\"type\":\"ping\"}"), "\"type\":\"pong\"");
    adapter_stop(&a);
}

/* Otherwise what one user was granted would outlive that user's removal and logout. */
Test(frames, a_connection_never_changes_hands) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    HAS(ask(&a, "{\"type\":\"auth\",\"id\":1,\"token\":\"other\"}"), "\"code\":\"forbidden\"");
    HAS(ask(&a, "{\"type\":\"request\",\"id\":2,\"method\":\"GET\",\"path\":\"/echo\"}"),
        "\"user\":\"u1\"");
    HAS(ask(&a, "{\"type\":\"auth\",\"id\":3,\"token\":\"good\"}"), "\"type\":\"welcome\"");
    cr_expect_eq(a.n_closed, 0);
    adapter_stop(&a);
}

/* Each pair leaked one of the calls that pending_max allows. */
Test(frames, unsubscribing_at_once_leaves_nothing_pending) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    for (int i = 0; i < 10; i++) {
        unsigned at = a.n_out;
        post(&a, MSG_BATCH,
             "[{\"type\":\"subscribe\",\"topic\":\"a.b\"},"
             "{\"type\":\"unsubscribe\",\"topic\":\"a.b\"},"
             "{\"type\":\"subscribe\",\"topic\":\"a.*\"},"
             "{\"type\":\"unsubscribe\",\"topic\":\"a.*\"}]");
        (void)out_at(&a, at + 3);
        for (unsigned k = at; k < at + 4; k++)
            cr_expect(strstr(a.out[k], "overloaded") == NULL, "%s", a.out[k]);
    }
    adapter_stop(&a);
}

Test(frames, subscribe_checks_its_members) {
    WS_ADAPTER(a);
    char many[2048] = "{\"type\":\"subscribe\",\"topics\":[\"t\"";
    adapter_start(&a);
    log_in(&a);
    HAS(ask(&a, "{\"type\":\"subscribe\"}"), "\"details\":{\"topics\":");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topics\":[]}"), "1 to 100");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topics\":\"a\"}"), "1 to 100");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topics\":[\"a\",1]}"), "each topic");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topic\":\"\"}"), "each topic");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topic\":\"a\",\"policy\":\"hope\"}"),
        "\"details\":{\"policy\":\"must be one of: disconnect,");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topic\":\"a\",\"policy\":\"latest\",\"maxRate\":0}"),
        "\"details\":{\"maxRate\":\"must be a number");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topic\":\"a\",\"maxRate\":5}"), "needs the policy");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topic\":\"a\",\"since\":5}"), "\"details\":{\"since\":");
    HAS(ask(&a,
            "{\"type\":\"subscribe\",\"topic\":\"a\",\"since\":{\"epoch\":\"e\",\"offset\":-1}}"),
        "\"since\"");
    for (int i = 0; i < 100; i++)
        strncat(many, ",\"t\"", sizeof many - strlen(many) - 1);
    strncat(many, "]}", sizeof many - strlen(many) - 1);
    HAS(ask(&a, many), "1 to 100");
    HAS(ask(&a, "{\"type\":\"subscribe\",\"topic\":\"a\",\"policy\":\"disconnect\",\"since\":{"
                "\"epoch\":\"e1\",\"offset\":0}}"),
        "subscribed");
    HAS(ask(&a, "{\"type\":\"unsubscribe\",\"topics\":[\"never.there\"]}"), "unsubscribed");
    adapter_stop(&a);
}

Test(frames, publish) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    HAS(ask(&a, "{\"type\":\"publish\",\"topic\":\"a.b/c%\xc3\xa9\",\"data\":{\"x\":1},\"id\":3}"),
        "{\"type\":\"ack\",\"id\":3,\"epoch\":\"a.b/c%\xc3\xa9\",\"offset\":4,"
        "\"durability\":\"memory\"}");
    HAS(ask(&a, "{\"type\":\"publish\",\"topic\":\"a\",\"data\":null,\"durability\":\"written\"}"),
        "{\"type\":\"ack\",\"epoch\":\"a\",\"offset\":0,\"durability\":\"written\"}");
    HAS(ask(&a, "{\"type\":\"publish\",\"topic\":\"a\",\"data\":null,\"durability\":null}"),
        "\"type\":\"ack\"");
    HAS(ask(&a, "{\"type\":\"publish\",\"topic\":\"a\",\"data\":1,"
                "\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\"}"),
        "\"epoch\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\"");
    HAS(ask(&a, "{\"type\":\"publish\",\"topic\":\"a\",\"data\":1,\"durability\":\"hope\"}"),
        "\"details\":{\"durability\":");
    HAS(ask(&a, "{\"type\":\"publish\",\"topic\":\"a\"}"), "\"details\":{\"data\":");
    HAS(ask(&a, "{\"type\":\"publish\",\"topic\":\"a.*\",\"data\":1}"), "\"details\":{\"topic\":");
    HAS(ask(&a, "{\"type\":\"publish\",\"data\":1}"), "\"details\":{\"topic\":");
    const char *refused =
        ask(&a, "{\"type\":\"publish\",\"topic\":\"forbidden\",\"data\":1,\"id\":8}");
    HAS(refused, "{\"type\":\"error\",\"id\":8,\"code\":\"forbidden\"");
    HAS(refused, "\"traceId\":\"");
    adapter_stop(&a);
}

/* ---- messages ------------------------------------------------------------------------------- */

Test(frames, message_flat_and_nested) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    HAS(ask(&a,
            "{\"type\":\"message\",\"conversationId\":\"c\",\"content\":\"hi\",\"messageType\":"
            "\"image\","
            "\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"token\":\"secret\",\"metadata\":{\"k\":1}}"),
        "{\"type\":\"ack\",\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"message\":{\"conversationId\":"
        "\"c\",\"content\":\"hi\","
        "\"type\":\"image\",\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"metadata\":{\"k\":1}}}");
    /* an id that is no message id correlates, and is not sent on */
    HAS(ask(&a, "{\"type\":\"message\",\"conversationId\":\"c\",\"content\":\"hi\",\"id\":12}"),
        "{\"type\":\"ack\",\"id\":12,\"message\":{\"conversationId\":\"c\",\"content\":\"hi\"}}");
    HAS(ask(&a, "{\"type\":\"message\",\"id\":\"n\",\"message\":{\"id\":\"x\",\"type\":\"text\","
                "\"content\":\"yo\"}}"),
        "{\"type\":\"ack\",\"id\":\"n\",\"message\":{\"id\":\"x\",\"type\":\"text\",\"content\":"
        "\"yo\"}}");
    HAS(ask(&a, "{\"type\":\"message\",\"message\":[]}"), "\"details\":{\"message\":");
    /* without a conversation: the route knows the caller's default one */
    HAS(ask(&a, "{\"type\":\"message\",\"content\":\"x\"}"),
        "{\"type\":\"ack\",\"message\":{\"content\":\"x\"}}");
    HAS(ask(&a, "{\"type\":\"message\",\"conversationId\":\"c\",\"messageType\":1}"),
        "\"details\":{\"messageType\":");
    adapter_stop(&a);
}

Test(frames, ack_is_checked_and_silent) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    HAS(ask(&a, "{\"type\":\"ack\",\"seq\":1}"), "\"details\":{\"conversationId\":");
    HAS(ask(&a, "{\"type\":\"ack\",\"conversationId\":\"c\",\"seq\":-1}"), "\"details\":{\"seq\":");
    post(&a, MSG_FRAME, "{\"type\":\"ack\",\"conversationId\":\"c\",\"seq\":1}");
    HAS(ask(&a, "{\"type\":\"ping\",\"id\":\"next\"}"), "\"id\":\"next\"");
    adapter_stop(&a);
}

/* ---- requests ------------------------------------------------------------------------------- */

Test(frames, request_carries_what_rest_carries) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    const char *r = ask(
        &a,
        "{\"type\":\"request\",\"id\":1,\"method\":\"POST\",\"path\":\"/echo?a=b\",\"body\":[1,{}],"
        "\"headers\":{\"Idempotency-Key\":\"k\",\"Cookie\":\"no\"}}");
    HAS(r, "{\"type\":\"response\",\"id\":1,\"status\":200,\"headers\":{\"trace-id\":\"");
    HAS(r, "\"body\":{\"success\":true,\"data\":{\"method\":\"POST\",\"path\":\"/"
           "echo\",\"query\":\"a=b\",\"user\":\"u1\",\"protocol\":1,"
           "\"headers\":{\"idempotency-key\":\"k\"},\"trace\":16,\"span\":0,\"body\":[1,{}]},"
           "\"message\":null}");
    r = ask(&a, "{\"method\":\"GET\",\"path\":\"/x\",\"headers\":{\"traceparent\":"
                "\"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}}");
    HAS(r, "\"trace-id\":\"0af7651916cd43dd8448eb211c80319c\"");
    HAS(r, "\"span\":8,\"body\":null");
    HAS(ask(&a, "{\"method\":\"GET\",\"path\":\"/x\",\"headers\":{\"traceparent\":\"00-zz\"}}"),
        "\"span\":0");
    HAS(ask(&a, "{\"method\":\"HEAD\",\"path\":\"/x\"}"), "\"body\":null}");
    adapter_stop(&a);
}

Test(frames, request_outcomes) {
    WS_ADAPTER(a);
    adapter_start(&a);
    log_in(&a);
    HAS(ask(&a, "{\"method\":\"GET\",\"path\":\"/raw\"}"),
        "\"content-type\":\"text/plain\"},\"body\":\"plain words\"");
    HAS(ask(&a, "{\"method\":\"GET\",\"path\":\"/raw\"}"), "\"etag\":\"\\\"1\\\"\"");
    HAS(ask(&a, "{\"method\":\"GET\",\"path\":\"/page\"}"),
        "\"data\":[],\"message\":null,\"page\":{\"next\":\"n\",\"prev\":null}");
    HAS(ask(&a, "{\"method\":\"GET\",\"path\":\"/stream\"}"), "use a subscribe frame");
    const char *p = ask(&a, "{\"method\":\"GET\",\"path\":\"/problem\",\"id\":2}");
    HAS(p, "{\"type\":\"response\",\"id\":2,\"status\":422");
    HAS(p, "\"body\":{\"success\":false,\"type\":\"urn:postern:error:validation_failed\",\"title\":"
           "\"Validation failed\",\"status\":422,"
           "\"code\":\"validation_failed\",\"message\":\"no\",\"retryable\":false,\"details\":{"
           "\"name\":\"too short\"},\"traceId\":\"");
    p = ask(&a, "{\"method\":\"GET\",\"path\":\"/busy\"}");
    HAS(p, "\"status\":503");
    HAS(p, "\"retry-after\":\"1\"");
    HAS(ask(&a, "{\"method\":\"GET\",\"path\":\"/never\",\"timeoutMs\":30}"), "\"status\":504");
    adapter_stop(&a);
}

Test(frames, request_checks_its_members) {
    WS_ADAPTER(a);
    static const struct {
        const char *json, *field;
    } bad[] = {
        {"{\"type\":\"request\",\"path\":\"/x\"}", "method"},
        {"{\"type\":\"request\",\"method\":7,\"path\":\"/x\"}", "method"},
        {"{\"type\":\"request\",\"method\":\"GET\"}", "path"},
        {"{\"method\":\"GET\",\"path\":\"x\"}", "path"},
        {"{\"method\":\"GET\",\"path\":\"\"}", "path"},
        {"{\"method\":\"GET\",\"path\":\"/a b\"}", "path"},
        {"{\"method\":\"GET\",\"path\":\"/a\\r\\nx\"}", "path"},
        {"{\"method\":\"GET\",\"path\":\"/a#b\"}", "path"},
        {"{\"method\":\"GET\",\"path\":\"/\xc3\xa9\"}", "path"},
        {"{\"method\":\"GET\",\"path\":\"/a\",\"headers\":[]}", "headers"},
        {"{\"method\":\"GET\",\"path\":\"/a\",\"headers\":{\"prefer\":1}}", "headers"},
        {"{\"method\":\"GET\",\"path\":\"/a\",\"headers\":{\"prefer\":\"a\\nb\"}}", "headers"},
        {"{\"method\":\"GET\",\"path\":\"/a\",\"timeoutMs\":0}", "timeoutMs"},
        {"{\"method\":\"GET\",\"path\":\"/a\",\"timeoutMs\":-5}", "timeoutMs"},
        {"{\"method\":\"GET\",\"path\":\"/a\",\"timeoutMs\":\"5\"}", "timeoutMs"},
    };
    char part[64];
    adapter_start(&a);
    log_in(&a);
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++) {
        const char *e = ask(&a, bad[i].json);
        snprintf(part, sizeof part, "\"details\":{\"%s\":", bad[i].field);
        HAS(e, "\"code\":\"validation_failed\"");
        HAS(e, part);
    }
    adapter_stop(&a);
}

Test(frames, pending_is_bounded_and_ends_with_the_session) {
    struct adapter a = {.protocol = PTN_PROTO_WS, .pending_max = 3};
    adapter_start(&a);
    log_in(&a);
    for (int i = 0; i < 3; i++)
        post(&a, MSG_FRAME, "{\"method\":\"GET\",\"path\":\"/never\"}");
    rig_wait(&a.rig, &a.rig.n_never, 3);
    HAS(ask(&a, "{\"method\":\"GET\",\"path\":\"/echo\",\"id\":4}"),
        "\"id\":4,\"code\":\"overloaded\"");
    HAS(ask(&a, "{\"type\":\"ping\"}"), "pong");
    cr_expect(a.full_at[a.n_out - 1]);
    unsigned before = a.n_out;
    post(&a, MSG_END, "null");
    rig_wait(&a.rig, &a.n_ended, 1);
    post(&a, MSG_FRAME, "{\"type\":\"ping\"}"); /* a session that has ended says nothing */
    post(&a, MSG_END, "null");
    rig_wait(&a.rig, &a.n_ended, 2);
    cr_expect_eq(a.n_out, before);
    adapter_stop(&a);
}

static void nothing_sent(ptn_ctx *c, void *self, uint64_t ticket, ptn_bytes frame) {
    (void)c, (void)ticket;
    cr_expect_eq(frame.n, 0);
    ((struct adapter *)self)->n_out++;
}

Test(frames, out_of_memory_is_still_an_answer) {
    struct adapter a = {0};
    ptn_pack w;
    pthread_mutex_init(&a.rig.lock, NULL);
    pthread_cond_init(&a.rig.cond, NULL);
    const frames_ops one_answer_ops = {.send = nothing_sent};
    a.config = (frames_config){.ops = &one_answer_ops, .directory = &a.rig.directory};
    frames_session_init(&a.session, &a.config, &a);
    ptn_pack_init(&w, 0);
    w.err = -PTN_ENOMEM;
    frames__send(NULL, &a.session, MSG_TICKET, &w);
    cr_assert_eq(a.n_out, 1);
    /* Of many questions on one connection nobody could say which stays unanswered. */
    a.config.ops = &ops;
    ptn_pack_init(&w, 0);
    w.err = -PTN_ENOMEM;
    frames__send(NULL, &a.session, MSG_TICKET, &w);
    cr_expect_eq(a.n_out, 1);
    cr_expect_eq(a.n_closed, 1);
    cr_expect_eq(a.close_code, 1011);
}

/* ---- values --------------------------------------------------------------------------------- */

Test(frames, identity_has_memory_of_its_own) {
    frames_session s = {0};
    char user[65];
    memset(user, 'u', sizeof user);
    ptn_principal p = {.user = {user, 64},
                       .name = PTN_STR("n"),
                       .session = PTN_STR("s"),
                       .roles = 3,
                       .expires_ms = 5};
    cr_assert_eq(frames_principal(&s).user.n, 0);
    cr_assert_eq(frames_identify(&s, &p), 0);
    user[0] = 'x';
    ptn_principal i = frames_principal(&s);
    cr_assert_eq(i.user.p[0], 'u');
    cr_assert_eq(frames_identify(&s, &i), 0, "it may be set from itself");
    i = frames_principal(&s);
    cr_assert_eq(i.user.n, 64);
    cr_assert_eq(i.user.p[0], 'u');
    cr_assert(ptn_str_eqz(i.name, "n") && ptn_str_eqz(i.session, "s"));
    cr_assert(i.roles == 3 && i.expires_ms == 5);
    p.user.n = 65;
    cr_assert_eq(frames_identify(&s, &p), -PTN_ETOOBIG);
    cr_assert_eq(frames_principal(&s).user.n, 64);
    frames_session_done(NULL, &s);
    cr_assert_eq(frames_principal(&s).user.n, 0);
}
