/* SPDX-License-Identifier: Apache-2.0
 *
 * zmq_gw_test.c - real libzmq clients against the gateway on a running runtime.
 */
#include "protocols/zmq/test_rig.h"
#include "protocols/zmq/zmq_int.h"

static double seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- requests ------------------------------------------------------------------------------ */

Test(zmq_gw, req_and_dealer_in_both_encodings, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/health\"}"), "\"fine\"");
    EXPECT_IN(reply, "\"type\":\"response\"");
    EXPECT_IN(reply, "\"status\":200");
    EXPECT_IN(ask_json(req, "{\"type\":\"ping\",\"timestamp\":12}"), "\"type\":\"pong\"");

    static const uint8_t packed[] = "\x83\xa6method\xa3GET\xa4path\xa7/health\xa2id\x07";
    cr_assert_eq(zmq_send(req, packed, sizeof(packed) - 1, 0), (int)sizeof(packed) - 1);
    int n = zmq_recv(req, reply, sizeof(reply), 0);
    cr_assert_gt(n, 0);
    ptn_bytes answer = {(const uint8_t *)reply, (size_t)n};
    ptn_codec_error e;
    cr_assert_eq(ptn_msgpack_validate(answer, NULL, &e), 0, "answered in msgpack");
    int64_t id = 0, status = 0;
    cr_expect(ptn_map_get_int(answer, "id", &id) && id == 7);
    cr_expect(ptn_map_get_int(answer, "status", &status) && status == 200);

    void *tcp = client(&f, ZMQ_REQ, zmq_gw_request_address(f.gw, 1));
    EXPECT_IN(ask_json(tcp, "{\"method\":\"GET\",\"path\":\"/health\"}"), "\"fine\"");

    void *dealer = requester(&f, ZMQ_DEALER);
    EXPECT_IN(ask_json(dealer, "{\"method\":\"GET\",\"path\":\"/health\",\"id\":\"d1\"}"),
              "\"d1\"");
    cr_expect_not(more(dealer), "no delimiter came, none goes back");
    (void)zmq_send(dealer, "proxy", 5, ZMQ_SNDMORE);
    (void)zmq_send(dealer, "", 0, ZMQ_SNDMORE);
    (void)zmq_send(dealer, "{\"type\":\"ping\"}", 15, 0);
    cr_assert(recv_text(dealer, reply, sizeof(reply)));
    cr_expect_str_eq(reply, "proxy");
    cr_assert(recv_text(dealer, reply, sizeof(reply)));
    cr_expect(reply[0] == '\0' && more(dealer));
    cr_assert(recv_text(dealer, reply, sizeof(reply)));
    EXPECT_IN(reply, "\"pong\"");
    cr_expect_not(more(dealer));
    (void)zmq_close(req), (void)zmq_close(tcp), (void)zmq_close(dealer);
    fixture_stop(&f);
}

Test(zmq_gw, many_requests_of_one_dealer_are_told_apart_by_id, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *dealer = requester(&f, ZMQ_DEALER);
    enum { N = 400 };
    char text[96];
    bool seen[N] = {false};
    for (int i = 0; i < N; i++) {
        int n =
            snprintf(text, sizeof(text), "{\"method\":\"GET\",\"path\":\"/health\",\"id\":%d}", i);
        cr_assert_eq(zmq_send(dealer, text, (size_t)n, 0), n);
    }
    for (int i = 0; i < N; i++) {
        cr_assert(recv_text(dealer, reply, sizeof(reply)), "answer %d", i);
        const char *at = strstr(reply, "\"id\":");
        cr_assert_not_null(at);
        long id = strtol(at + 5, NULL, 10);
        cr_assert(id >= 0 && id < N && !seen[id], "exactly one answer each");
        EXPECT_IN(reply, "\"fine\"");
        seen[id] = true;
    }
    (void)zmq_close(dealer);
    fixture_stop(&f);
}

Test(zmq_gw, tokens_are_verified_and_go_no_further, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/me\"}"), "\"status\":401");
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/me\",\"token\":\"s3cret\"}"),
              "\"ann\"");
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/saw-token\",\"token\":\"s3cret\"}"),
              "\"no\"");
    EXPECT_IN(
        ask_json(req, "{\"method\":\"GET\",\"path\":\"/me\",\"token\":\"bad\",\"id\":\"q7\"}"),
        "\"unauthenticated\"");
    EXPECT_IN(reply, "\"type\":\"error\"");
    EXPECT_IN(reply, "\"id\":\"q7\"");
    EXPECT_IN(ask_json(req, "{\"type\":\"auth\",\"token\":\"s3cret\"}"), "\"type\":\"welcome\"");
    EXPECT_IN(ask_json(req, "{\"type\":\"auth\",\"token\":\"bad\"}"), "\"unauthenticated\"");
    EXPECT_IN(ask_json(req, "{\"type\":\"publish\",\"topic\":\"a.b\",\"data\":1}"),
              "\"unauthenticated\"");
    EXPECT_IN(
        ask_json(req, "{\"type\":\"ack\",\"conversationId\":\"c\",\"seq\":1,\"token\":\"s3cret\"}"),
        "\"type\":\"ok\"");
    EXPECT_IN(ask_json(req, "{\"type\":\"subscribe\",\"topic\":\"a.b\",\"token\":\"s3cret\"}"),
              "\"type\":\"error\"");
    (void)zmq_close(req);
    fixture_stop(&f);
}

Test(zmq_gw, whatever_comes_is_answered, .timeout = 60) {
    static const struct {
        const char *body;
        size_t n;
        const char *says;
    } cases[] = {
        {"", 0, "invalid_request"},
        {"{", 1, "invalid_request"},
        {"{}", 2, "invalid_request"},
        {"[]", 2, "invalid_request"},
        {"null", 4, "invalid_request"},
        {"\x00\x01\x02\x03", 4, "invalid_request"},
        {"\xff\xff\xff\xff", 4, "invalid_request"},
        {"\xc1", 1, "invalid_request"},
        {"{\"a\":\"\xc3\x28\"}", 9, "invalid_request"},
        {"{\"type\":\"nonsense\"}", 19, "invalid_request"},
        {"{\"type\":7}", 10, "validation_failed"},
        {"{\"token\":7}", 11, "unauthenticated"},
        {"GET /health HTTP/1.1\r\n\r\n", 24, "invalid_request"},
    };
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        EXPECT_IN(ask(req, cases[i].body, cases[i].n), cases[i].says);
        EXPECT_IN(reply, "\"type\":\"error\"");
    }
    static char big[(1 << 20) + 10];
    memset(big, ' ', sizeof(big));
    big[0] = '{';
    EXPECT_IN(ask(req, big, sizeof(big)), "payload_too_large");
    static const uint8_t bad_map[] = "\x82\xa4type";
    cr_assert_eq(zmq_send(req, bad_map, sizeof(bad_map) - 1, 0), (int)sizeof(bad_map) - 1);
    int n = zmq_recv(req, reply, sizeof(reply), 0);
    ptn_str code;
    cr_expect(n > 0 && ptn_map_get_str((ptn_bytes){(uint8_t *)reply, (size_t)n}, "code", &code) &&
                  ptn_str_eqz(code, "invalid_request"),
              "an error about msgpack is msgpack");
    void *dealer = requester(&f, ZMQ_DEALER);
    static const char *const mdp[] = {"MDPC02", "MDPW02"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(mdp); i++) {
        (void)zmq_send(dealer, "", 0, ZMQ_SNDMORE);
        (void)zmq_send(dealer, mdp[i], 6, ZMQ_SNDMORE);
        (void)zmq_send(dealer, "\1", 1, ZMQ_SNDMORE);
        (void)zmq_send(dealer, "echo", 4, 0);
        cr_assert(recv_text(dealer, reply, sizeof(reply)) && reply[0] == '\0');
        cr_assert(recv_text(dealer, reply, sizeof(reply)));
        EXPECT_IN(reply, "Majordomo");
    }
    for (int i = 0; i < 50; i++)
        (void)zmq_send(dealer, "part", 4, i < 49 ? ZMQ_SNDMORE : 0);
    cr_assert(recv_text(dealer, reply, sizeof(reply)));
    EXPECT_IN(reply, "too many parts");
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/health\"}"), "\"fine\"");
    (void)zmq_close(req), (void)zmq_close(dealer);
    fixture_stop(&f);
}

static void send_hold(void *s, int id, int timeout_ms) {
    char text[128];
    int n = snprintf(text, sizeof(text),
                     "{\"method\":\"GET\",\"path\":\"/hold\",\"id\":%d,\"timeoutMs\":%d}", id,
                     timeout_ms);
    cr_assert_eq(zmq_send(s, text, (size_t)n, 0), n);
}

Test(zmq_gw, requests_in_flight_are_bounded_per_peer_and_in_all, .timeout = 60) {
    struct fixture f;
    const zmq_gw_limits limits = {.requests_max = 6, .peer_requests_max = 4};
    fixture_start(&f, &limits);
    void *a = requester(&f, ZMQ_DEALER);
    void *b = requester(&f, ZMQ_DEALER);
    void *req = requester(&f, ZMQ_REQ);
    for (int i = 0; i < 6; i++)
        send_hold(a, i, 4000);
    for (int i = 4; i < 6; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "\"id\":%d", i);
        cr_assert(recv_text(a, reply, sizeof(reply)));
        EXPECT_IN(reply, "\"overloaded\"");
        EXPECT_IN(reply, id);
    }
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/health\"}"), "\"fine\"");
    for (int i = 0; i < 3; i++)
        send_hold(b, i, 4000);
    cr_assert(recv_text(b, reply, sizeof(reply)));
    EXPECT_IN(reply, "\"overloaded\"");
    EXPECT_IN(reply, "\"id\":2");
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/health\"}"), "\"overloaded\"");
    for (int i = 0; i < 6; i++) { /* the held ones end by their deadline, and make room */
        cr_assert(recv_text(i < 4 ? a : b, reply, sizeof(reply)));
        EXPECT_IN(reply, "504");
    }
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/health\"}"), "\"fine\"");
    (void)zmq_close(a), (void)zmq_close(b), (void)zmq_close(req);
    fixture_stop(&f);
}

Test(zmq_gw, peer_that_never_reads_does_not_stop_the_others, .timeout = 120) {
    struct fixture f;
    const zmq_gw_limits limits = {.hwm_msgs = 100};
    fixture_start(&f, &limits);
    void *flood = zmq_socket(f.context, ZMQ_DEALER);
    int zero = 0, one = 1;
    (void)zmq_setsockopt(flood, ZMQ_LINGER, &zero, sizeof(zero));
    (void)zmq_setsockopt(flood, ZMQ_RCVHWM, &one, sizeof(one));
    cr_assert_eq(zmq_connect(flood, zmq_gw_request_address(f.gw, 0)), 0);
    void *req = requester(&f, ZMQ_REQ);
    const char *body = "{\"method\":\"GET\",\"path\":\"/health\"}";
    double worst = 0;
    uint64_t n_sent = 0;
    double end = seconds() + 60;
    int rounds = 0;
    /* As long as it takes until answers are dropped, and then a while. */
    for (int after = 0; after < 50 && seconds() < end; rounds++) {
        for (int i = 0; i < 500; i++)
            n_sent += zmq_send(flood, body, strlen(body), ZMQ_DONTWAIT) > 0;
        double begin = seconds();
        EXPECT_IN(ask_json(req, body), "\"fine\"");
        double took = seconds() - begin;
        worst = took > worst ? took : worst;
        after += counter(PTN_C_DROPPED_ZMQ_PEER) > 0;
    }
    cr_expect_gt(counter(PTN_C_DROPPED_ZMQ_PEER), 0, "after %d rounds, %llu sent", rounds,
                 (unsigned long long)n_sent);
    cr_expect_lt(worst, 5.0, "slowest answer to the other client: %.3f s", worst);
    (void)zmq_close(flood), (void)zmq_close(req);
    fixture_stop(&f);
}

/* ---- events -------------------------------------------------------------------------------- */

static void emit_event(void *req, const char *topic, const char *data) {
    char text[256];
    (void)snprintf(
        text, sizeof(text),
        "{\"method\":\"POST\",\"path\":\"/emit\",\"body\":{\"topic\":\"%s\",\"data\":\"%s\"}}",
        topic, data);
    EXPECT_IN(ask_json(req, text), "\"emitted\"");
}

struct event {
    char topic[256];
    char data[256];
    uint64_t offset;
};

/* One event within wait_ms.  False: none. */
static bool recv_event(void *sub, int wait_ms, struct event *ret_e) {
    zmq_pollitem_t item = {.socket = sub, .events = ZMQ_POLLIN};
    if (zmq_poll(&item, 1, wait_ms) <= 0)
        return false;
    static char body[65536];
    cr_assert(recv_text(sub, ret_e->topic, sizeof(ret_e->topic)) && more(sub));
    int n = zmq_recv(sub, body, sizeof(body), 0);
    cr_assert(n > 0 && n <= (int)sizeof(body) && !more(sub), "two parts");
    ptn_bytes map = {(const uint8_t *)body, (size_t)n};
    ptn_codec_error e;
    cr_assert_eq(ptn_msgpack_validate(map, NULL, &e), 0);
    ptn_str type, topic, epoch, data;
    cr_assert(ptn_map_get_str(map, "type", &type) && ptn_str_eqz(type, "event"));
    cr_assert(ptn_map_get_str(map, "topic", &topic) && ptn_str_eqz(topic, ret_e->topic));
    cr_assert(ptn_map_get_str(map, "epoch", &epoch) && ptn_str_eqz(epoch, "e1"));
    cr_assert(ptn_map_get_uint(map, "offset", &ret_e->offset));
    cr_assert(ptn_map_get_str(map, "data", &data));
    (void)snprintf(ret_e->data, sizeof(ret_e->data), "%.*s", (int)(data.n < 200 ? data.n : 200),
                   data.p);
    return true;
}

static void *subscriber(struct fixture *f, const char *address, const char *prefix) {
    void *s = client(f, ZMQ_SUB, address);
    (void)zmq_setsockopt(s, ZMQ_SUBSCRIBE, prefix, strlen(prefix));
    return s;
}

/* A subscription takes a moment to get through: emits until the first event arrives, then empties
 * the queue. */
static void wait_subscribed(void *req, void *sub, const char *topic) {
    struct event e;
    for (int i = 0; i < 400; i++) {
        emit_event(req, topic, "sync");
        if (recv_event(sub, 25, &e)) {
            emit_event(req, topic, "synced");
            while (strcmp(e.data, "synced") != 0)
                cr_assert(recv_event(sub, CLIENT_TIMEOUT_MS, &e));
            return;
        }
    }
    cr_assert(false, "the subscription never took effect");
}

Test(zmq_gw, subscribers_get_their_prefixes_in_order, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    void *all = subscriber(&f, zmq_gw_event_address(f.gw, 0), "");
    void *some = subscriber(&f, zmq_gw_event_address(f.gw, 0), "a.");
    wait_subscribed(req, all, "b.sync");
    wait_subscribed(req, some, "a.sync");
    struct event e;
    for (int i = 0; i < 20; i++) {
        emit_event(req, i % 2 == 0 ? "a.x" : "b.x", "n");
        emit_event(req, "conversation.c1", "m");
    }
    uint64_t last = 0;
    int n_all = 0, n_some = 0;
    while (n_all < 40 && recv_event(all, CLIENT_TIMEOUT_MS, &e)) {
        if (strcmp(e.data, "n") != 0 && strcmp(e.data, "m") != 0)
            continue; /* left over from getting subscribed */
        cr_expect(last == 0 || e.offset == last + 1, "in order, without a hole");
        last = e.offset;
        n_all++;
    }
    cr_expect_eq(n_all, 40);
    for (last = 0; n_some < 10 && recv_event(some, CLIENT_TIMEOUT_MS, &e);) {
        if (strcmp(e.data, "n") != 0)
            continue;
        cr_expect_str_eq(e.topic, "a.x");
        cr_expect(last == 0 || e.offset == last + 4);
        last = e.offset;
        n_some++;
    }
    cr_expect_eq(n_some, 10);
    (void)zmq_close(req), (void)zmq_close(all), (void)zmq_close(some);
    fixture_stop(&f);
}

Test(zmq_gw, tcp_carries_public_topics_only, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    void *ipc = subscriber(&f, zmq_gw_event_address(f.gw, 0), "");
    void *tcp = subscriber(&f, zmq_gw_event_address(f.gw, 1), "");
    wait_subscribed(req, ipc, "a.sync");
    wait_subscribed(req, tcp, "a.sync");
    static const char *const reserved[] = {"conversation.c1", "user.u1", "system.update.requested"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(reserved); i++)
        emit_event(req, reserved[i], "private");
    emit_event(req, "a.end", "end");
    struct event e;
    size_t n_private = 0;
    do {
        cr_assert(recv_event(ipc, CLIENT_TIMEOUT_MS, &e));
        n_private += strcmp(e.data, "private") == 0;
    } while (strcmp(e.topic, "a.end") != 0);
    cr_expect_eq(n_private, 3, "the file mode authorizes ipc");
    do {
        cr_assert(recv_event(tcp, CLIENT_TIMEOUT_MS, &e));
        cr_expect_str_neq(e.data, "private", "%s must not leave through tcp", e.topic);
    } while (strcmp(e.topic, "a.end") != 0);
    (void)zmq_close(req), (void)zmq_close(ipc), (void)zmq_close(tcp);
    fixture_stop(&f);
}

Test(zmq_gw, hub_is_bothered_only_while_somebody_listens, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    const char *watching = "{\"method\":\"GET\",\"path\":\"/watching\"}";
    EXPECT_IN(ask_json(req, watching), "\"no\"");
    void *sub = subscriber(&f, zmq_gw_event_address(f.gw, 0), "a.");
    wait_subscribed(req, sub, "a.sync");
    EXPECT_IN(ask_json(req, watching), "\"yes\"");
    uint64_t before = counter(PTN_C_DELIVERED_ZMQ);
    for (int i = 0; i < 10; i++)
        emit_event(req, "b.unwanted", "x");
    emit_event(req, "a.end", "end");
    struct event e;
    do {
        cr_assert(recv_event(sub, CLIENT_TIMEOUT_MS, &e));
    } while (strcmp(e.data, "end") != 0);
    cr_expect_eq(counter(PTN_C_DELIVERED_ZMQ), before + 1, "unwanted events are not even encoded");
    (void)zmq_close(sub);
    bool off = false;
    for (int i = 0; i < 2000 && !off; i++) /* each turn of the loop waits for an answer */
        off = strstr(ask_json(req, watching), "\"no\"") != NULL;
    cr_expect(off, "the last subscriber gone, the owners stop sending");
    (void)zmq_close(req);
    fixture_stop(&f);
}

Test(zmq_gw, large_event_is_shared_not_copied_and_arrives_whole, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    void *one = subscriber(&f, zmq_gw_event_address(f.gw, 0), "");
    void *two = subscriber(&f, zmq_gw_event_address(f.gw, 1), "");
    wait_subscribed(req, one, "a.sync");
    wait_subscribed(req, two, "a.sync");
    static char text[60000];
    int n = snprintf(
        text, sizeof(text),
        "{\"method\":\"POST\",\"path\":\"/emit\",\"body\":{\"topic\":\"a.big\",\"data\":\"");
    memset(text + n, 'x', 50000);
    memcpy(text + n + 50000, "\"}}", 4);
    EXPECT_IN(ask(req, text, (size_t)n + 50003), "\"emitted\"");
    static char body[65536];
    void *const subs[] = {one, two};
    for (size_t i = 0; i < PTN_ARRAY_LEN(subs); i++) {
        char topic[64];
        int len;
        do {
            cr_assert(recv_text(subs[i], topic, sizeof(topic)));
            len = zmq_recv(subs[i], body, sizeof(body), 0);
        } while (strcmp(topic, "a.big") != 0);
        ptn_str data;
        cr_assert(ptn_map_get_str((ptn_bytes){(uint8_t *)body, (size_t)len}, "data", &data));
        cr_assert_eq(data.n, 50000);
        for (size_t k = 0; k < data.n; k++)
            cr_assert_eq(data.p[k], 'x');
    }
    (void)zmq_close(req), (void)zmq_close(one), (void)zmq_close(two);
    fixture_stop(&f);
}

/* ---- restart ------------------------------------------------------------------------------- */

Test(zmq_gw, restarted_gateway_keeps_addresses_and_subscribers, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    void *sub = subscriber(&f, zmq_gw_event_address(f.gw, 0), "a.");
    wait_subscribed(req, sub, "a.sync");
    for (int i = 0; i < 3; i++) {
        void *killer = requester(&f, ZMQ_DEALER);
        const char *crash = "{\"method\":\"GET\",\"path\":\"/crash\",\"id\":2}";
        send_hold(killer, 1, 60000);
        cr_assert_eq(zmq_send(killer, crash, strlen(crash), 0), (int)strlen(crash));
        bool held_told = false;
        for (int k = 0; k < 2; k++) { /* the crash may or may not overtake its own answer */
            cr_assert(recv_text(killer, reply, sizeof(reply)));
            if (strstr(reply, "\"id\":1") != NULL) {
                EXPECT_IN(reply, "\"internal\"");
                held_told = true;
            }
        }
        cr_expect(held_told, "what was in flight is not left without an answer");
        EXPECT_IN(ask_json(killer, "{\"type\":\"ping\"}"), "\"pong\"");
        (void)zmq_close(killer);
    }
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/health\"}"), "\"fine\"");
    wait_subscribed(req, sub, "a.sync");
    cr_expect_eq(atomic_load(&n_crashes), 3);
    (void)zmq_close(req), (void)zmq_close(sub);
    fixture_stop(&f);
}

Test(zmq_gw, draining_gateway_says_so, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *req = requester(&f, ZMQ_REQ);
    EXPECT_IN(ask_json(req, "{\"method\":\"GET\",\"path\":\"/health\"}"), "\"fine\"");
    ptn_port *port;
    cr_assert_eq(ptn_port_open(f.rt, &port), 0);
    cr_assert_eq(ptn_port_send(port, f.gw_addr, PTN_MSG_DRAIN, NULL), 0);
    ptn_port_close(port);
    bool draining = false;
    for (int i = 0; i < 2000 && !draining; i++)
        draining = strstr(ask_json(req, "{\"type\":\"ping\",\"id\":3}"), "\"draining\"") != NULL;
    cr_expect(draining);
    EXPECT_IN(reply, "\"id\":3");
    EXPECT_IN(reply, "\"retryable\":true");
    (void)zmq_close(req);
    fixture_stop(&f);
}

/* Its call knows no id yet: the frame waits for its token. */
Test(zmq_gw, crash_names_the_question_whose_token_is_being_verified, .timeout = 60) {
    struct fixture f;
    fixture_start(&f, NULL);
    void *dealer = requester(&f, ZMQ_DEALER);
    const char *slow = "{\"type\":\"ping\",\"token\":\"slow\",\"id\":\"mine\"}";
    const char *crash = "{\"method\":\"GET\",\"path\":\"/crash\",\"id\":2}";
    cr_assert_gt(zmq_send(dealer, slow, strlen(slow), 0), 0);
    cr_assert_gt(zmq_send(dealer, crash, strlen(crash), 0), 0);
    bool named = false;
    for (int k = 0; k < 2; k++) { /* the other one is about the crash itself */
        cr_assert(recv_text(dealer, reply, sizeof(reply)));
        named = named ||
                (strstr(reply, "\"id\":\"mine\"") != NULL && strstr(reply, "\"internal\"") != NULL);
    }
    cr_expect(named);
    (void)zmq_close(dealer);
    fixture_stop(&f);
}

/* What it asked before is still unread then, and its identity in use.  Answers to its earlier self
 * may reach it; the one to its own question must. */
Test(zmq_gw, a_peer_may_come_back_under_its_name_at_once, .timeout = 120) {
    struct fixture f;
    fixture_start_at(&f, NULL, 1);
    for (int round = 0; round < 20; round++) {
        char ping[64], mark[16];
        (void)snprintf(mark, sizeof(mark), "\"r%d\"", round);
        (void)snprintf(ping, sizeof(ping), "{\"type\":\"ping\",\"id\":%s}", mark);
        void *before = named_dealer(&f, "again");
        int forever = -1;
        (void)zmq_setsockopt(before, ZMQ_LINGER, &forever, sizeof(forever));
        cr_assert_gt(zmq_send(before, "{\"type\":\"ping\"}", 15, 0), 0);
        cr_assert(recv_text(before, reply, sizeof(reply))); /* it has the name first, then */
        for (int i = 0; i < 400; i++)
            cr_assert_gt(zmq_send(before, "{\"type\":\"ping\"}", 15, 0), 0);
        (void)zmq_close(before);
        void *after = named_dealer(&f, "again");
        cr_assert_gt(zmq_send(after, ping, strlen(ping), 0), 0);
        do
            cr_assert(recv_text(after, reply, sizeof(reply)), "round %d: no answer", round);
        while (strstr(reply, mark) == NULL);
        (void)zmq_close(after);
    }
    fixture_stop(&f);
}

Test(zmq_gw, what_cannot_be_encoded_is_an_error_with_its_id, .timeout = 60) {
    static const uint8_t number[] = "\x2a",
                         text[] = "\xa4"
                                  "a\"b\n",
                         pong[] = "\x81\xa4type\xa4pong";
    static const struct {
        ptn_bytes frame, id;
        const char *says;
    } cases[] = {
        {{NULL, 0}, {number, 1}, "{\"type\":\"error\",\"id\":42,\"code\":\"overloaded\","},
        {{NULL, 0}, {text, 5}, "{\"type\":\"error\",\"id\":\"a\\\"b\\n\",\"code\":\"overloaded\","},
        {{NULL, 0}, {NULL, 0}, "{\"type\":\"error\",\"code\":\"overloaded\","},
        {{pong, 11}, {number, 1}, "{\"id\":42,\"type\":\"pong\"}"},
        {{pong, 11}, {NULL, 0}, "{\"type\":\"pong\"}"},
    };
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER),
         *dealer = zmq_socket(context, ZMQ_DEALER);
    uint8_t name[64];
    cr_assert_eq(zmq_bind(router, "inproc://answers"), 0);
    cr_assert_eq(zmq_connect(dealer, "inproc://answers"), 0);
    cr_assert_eq(zmq_send(dealer, "", 0, 0), 0);
    const ptn_bytes peer = {name, (size_t)zmq_recv(router, name, sizeof name, 0)};
    zmq_gw gw = {.router = router};
    zmq_gw_state st = {.gw = &gw};
    cr_assert(zmq_gw_answer_init(&st));
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        zmq_gw_answer(&st, &peer, 1, /* msgpack= */ false, cases[i].frame, cases[i].id);
        int n = zmq_recv(dealer, reply, sizeof(reply) - 1, 0);
        cr_assert_gt(n, 0);
        reply[n] = '\0';
        cr_expect_eq(strncmp(reply, cases[i].says, strlen(cases[i].says)), 0, "%s", reply);
        zmq_gw_answer(&st, &peer, 1, /* msgpack= */ true, cases[i].frame, cases[i].id);
        n = zmq_recv(dealer, reply, sizeof(reply), 0);
        cr_expect_eq(ptn_msgpack_validate((ptn_bytes){(uint8_t *)reply, (size_t)n}, NULL, NULL), 0);
    }
    ptn_out_done(&st.text);
    ptn_out_done(&st.spare);
    (void)zmq_close(router), (void)zmq_close(dealer);
    (void)zmq_ctx_term(context);
}
