/* SPDX-License-Identifier: Apache-2.0
 *
 * common_replay.c - sends, receives and compares; dies at the first difference, with its name.
 */
#include "bench/common_replay.h"

#include <errno.h>
#include <stdlib.h>
#include <zmq.h>

#define RETRY_NS (50 * PTN_MS)
#define TRIES_MAX 100u

/* ---- small helpers ------------------------------------------------------------------------ */

void *replay_zeroed(size_t n, size_t bytes) {
    void *p = calloc(n > 0 ? n : 1, bytes);
    if (p == NULL)
        bench_die("out of memory");
    return p;
}

enum replay_protocol replay_protocol_of(uint32_t person) {
    return (enum replay_protocol)(person % PROTOCOLS);
}

void replay_put(ptn_out *o, const char *z) {
    ptn_out_put(o, z, strlen(z));
}

void replay_put_member(ptn_out *o, const char *before, ptn_str value) {
    replay_put(o, before);
    ptn_json_string(o, value);
}

ptn_str replay_out_str(const ptn_out *o) {
    if (o->err != 0)
        bench_die("out of memory");
    return (ptn_str){(const char *)o->p, o->len};
}

/* A JSON text as msgpack; dies when it is none. */
ptn_buf *replay_decoded(struct replay *r, ptn_bytes json) {
    ptn_pack w;
    ptn_codec_error e = {NULL, 0};
    const ptn_codec_limits limits = {.bytes_max = 64u << 20};
    ptn_pack_init(&w, json.n + 16);
    if (ptn_json_to_msgpack(r->json, (ptn_str){(const char *)json.p, json.n}, &limits, &w, &e) < 0)
        bench_die("the broker sent no JSON (%s): %.*s", e.what, (int)(json.n < 300 ? json.n : 300),
                  (const char *)json.p);
    return ptn_pack_finish(&w);
}

/* The id of a message is a UUID that holds its index. */
static void message_id(uint32_t message, char out[40]) {
    (void)snprintf(out, 40, "00000000-0000-4000-8000-%012x", message);
}

static bool message_of(ptn_str id, uint32_t *ret_message) {
    char text[40], again[40];
    if (id.n != 36)
        return false;
    memcpy(text, id.p, 36);
    text[36] = '\0';
    *ret_message = (uint32_t)strtoul(text + 24, NULL, 16);
    message_id(*ret_message, again);
    return strcmp(text, again) == 0;
}

int replay_compare_conversations(const void *a, const void *b) {
    return strcmp(((const struct replay_conversation *)a)->id,
                  ((const struct replay_conversation *)b)->id);
}

void replay_watch(struct replay *r, int fd, enum replay_source source, size_t index) {
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = (uint64_t)source << 32 | index};
    if (epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &e) < 0)
        bench_die("epoll_ctl: %s", strerror(errno));
}

/* ---- sending ------------------------------------------------------------------------------- */

static struct bench_http *idle_http(struct replay *r, size_t *ret_index) {
    for (size_t i = 0; i < r->o.window; i++) {
        if (!r->http[i].busy) {
            *ret_index = i;
            return &r->http[i];
        }
    }
    return NULL;
}

void replay_http_request(struct replay *r, const char *path, const char *token, ptn_str body,
                         uint64_t tag) {
    size_t i = 0;
    struct bench_http *h = idle_http(r, &i);
    PTN_ASSERT(h != NULL); /* as many connections as the window is wide */
    if (bench_http_send(h, "POST", path, token, body, tag))
        replay_watch(r, h->fd, SOURCE_HTTP, i);
}

static void send_rest(struct replay *r, const struct chat_message *m, const char *id) {
    char path[160];
    (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/messages",
                   r->conversations[m->day].id);
    replay_put_member(&r->text, "{\"id\":", ptn_str_of(id));
    replay_put_member(&r->text,
                      ",\"type\":\"text\",\"content\":", (ptn_str){m->text, m->text_bytes});
    replay_put(&r->text, "}");
    replay_http_request(r, path, r->people[m->person].token, replay_out_str(&r->text),
                        (uint64_t)(m - r->chat.messages));
}

/* token: NULL for a connection that is authenticated already. */
static void message_frame(struct replay *r, const struct chat_message *m, const char *id,
                          const char *token) {
    replay_put(&r->text, "{\"type\":\"message\"");
    replay_put_member(&r->text, ",\"conversationId\":", ptn_str_of(r->conversations[m->day].id));
    replay_put_member(&r->text, ",\"id\":", ptn_str_of(id));
    replay_put_member(&r->text, ",\"content\":", (ptn_str){m->text, m->text_bytes});
    if (token != NULL)
        replay_put_member(&r->text, ",\"token\":", ptn_str_of(token));
    replay_put(&r->text, "}");
}

/* Every second message as msgpack. */
static void send_zmq(struct replay *r, const struct chat_message *m, const char *id) {
    message_frame(r, m, id, r->people[m->person].token);
    ptn_str json = replay_out_str(&r->text);
    ptn_bytes body = {(const uint8_t *)json.p, json.n};
    ptn_buf *packed = NULL;
    if ((m - r->chat.messages) % 2 == 1) {
        packed = replay_decoded(r, body);
        body = ptn_buf_bytes(packed);
    }
    if (zmq_send(r->dealer, body.p, body.n, ZMQ_DONTWAIT) < 0)
        bench_die("zmq_send: %s", zmq_strerror(zmq_errno()));
    (void)ptn_buf_unref(packed);
}

static void send_message(struct replay *r, uint32_t message) {
    const struct chat_message *m = &r->chat.messages[message];
    struct replay_person *who = &r->people[m->person];
    char id[40];
    message_id(message, id);
    ptn_out_clear(&r->text);
    struct replay_flight *f = &r->flights[message];
    if (f->tries++ == 0)
        f->sent_ns = f->due_ns != 0 ? f->due_ns : bench_now_ns();
    switch (replay_protocol_of(m->person)) {
    case BY_REST:
        send_rest(r, m, id);
        break;
    case BY_WS: {
        message_frame(r, m, id, NULL);
        ptn_str frame = replay_out_str(&r->text);
        bench_ws_send(&who->ws, 1, frame.p, frame.n);
        break;
    }
    default:
        send_zmq(r, m, id);
        break;
    }
}

/* Whether there is a message to send, and the window lets it go. */
static bool has_room(const struct replay *r) {
    return r->next < r->chat.n_messages && r->next - r->n_acknowledged < r->o.window;
}

/* Sends what the window allows; what was refused as retryable goes first. */
static void fill_window(struct replay *r) {
    uint64_t now = bench_now_ns();
    for (size_t i = 0; i < r->n_retries;) {
        uint32_t message = r->retries[i];
        if (r->flights[message].retry_ns > now) {
            i++;
            continue;
        }
        r->retries[i] = r->retries[--r->n_retries];
        r->n_retried++;
        send_message(r, message);
    }
    while (has_room(r) && r->flights[r->next].due_ns <= now) {
        const uint64_t due = r->flights[r->next].due_ns;
        if (due != 0)
            histogram_add(&r->lag, now - (due > r->full_ns ? due : r->full_ns));
        send_message(r, (uint32_t)r->next++);
    }
    if (!has_room(r))
        r->full_ns = now;
}

/* ---- acknowledgements ---------------------------------------------------------------------- */

static void acknowledged(struct replay *r, uint32_t message, ptn_bytes stored) {
    const struct chat_message *m = &r->chat.messages[message];
    uint64_t seq = 0;
    if (r->flights[message].acknowledged)
        bench_die("message %u was acknowledged twice", message);
    if (!ptn_map_get_uint(stored, "seq", &seq))
        bench_die("the acknowledgement of message %u has no seq", message);
    const char *why = proof_acknowledged(&r->proof, m->day, seq, message);
    if (why != NULL)
        bench_die("acknowledgement: %s", why);
    r->flights[message].acknowledged = true;
    r->n_acknowledged++;
    r->n_by[replay_protocol_of(m->person)]++;
}

/* problem: an `error` frame or a problem body, both say the same. */
static void refused(struct replay *r, uint32_t message, ptn_bytes problem) {
    bool retryable = false;
    ptn_str code = PTN_STR("?"), text = PTN_STR("");
    (void)ptn_map_get_bool(problem, "retryable", &retryable);
    (void)ptn_map_get_str(problem, "code", &code);
    (void)ptn_map_get_str(problem, "message", &text);
    if (!retryable || r->flights[message].tries >= TRIES_MAX || r->n_retries >= REPLAY_WINDOW_MAX)
        bench_die("message %u of day %s was refused: %.*s: %.*s", message,
                  r->chat.days[r->chat.messages[message].day].name, (int)code.n, code.p,
                  (int)text.n, text.p);
    r->flights[message].retry_ns = bench_now_ns() + RETRY_NS;
    r->retries[r->n_retries++] = message;
}

void replay_on_message_response(struct replay *r, uint64_t tag, unsigned status, ptn_bytes body) {
    ptn_buf *b = replay_decoded(r, body);
    ptn_bytes data;
    if (status >= 200 && status < 300 && ptn_map_get(ptn_buf_bytes(b), "data", &data))
        acknowledged(r, (uint32_t)tag, data);
    else
        refused(r, (uint32_t)tag, ptn_buf_bytes(b));
    (void)ptn_buf_unref(b);
}

/* What a sender's WebSocket or the DEALER receives. */
static void on_sender_frame(struct replay *r, ptn_bytes frame) {
    ptn_str type, id;
    ptn_bytes stored;
    uint32_t message = 0;
    if (!ptn_map_get_str(frame, "type", &type))
        bench_die("a frame without type");
    bool is_ack = ptn_str_eqz(type, "ack");
    if (!is_ack && !ptn_str_eqz(type, "error"))
        return; /* welcome */
    if (!ptn_map_get_str(frame, "id", &id) || !message_of(id, &message) ||
        message >= r->chat.n_messages) {
        ptn_str text = PTN_STR("");
        (void)ptn_map_get_str(frame, "message", &text);
        bench_die("an answer to no message of ours: %.*s", (int)text.n, text.p);
    }
    if (!is_ack)
        refused(r, message, frame);
    else if (ptn_map_get(frame, "message", &stored))
        acknowledged(r, message, stored);
    else
        bench_die("an ack without its message");
}

/* ---- deliveries ---------------------------------------------------------------------------- */

static bool is_probe(struct replay *r, ptn_str conversation) {
    for (size_t i = 0; i < REPLAY_PROBES; i++) {
        if (ptn_str_eqz(conversation, r->probes[i])) {
            r->probe_seen[i] = true;
            return true;
        }
    }
    return false;
}

static void check_content(struct replay *r, uint32_t subscriber, uint32_t message, ptn_bytes data) {
    const struct chat_message *m = &r->chat.messages[message];
    ptn_str content, sender;
    if (!ptn_map_get_str(data, "content", &content) || content.n != m->text_bytes ||
        memcmp(content.p, m->text, content.n) != 0)
        bench_die("subscriber %u: message %u (day %s, line %u) came with another text", subscriber,
                  message, r->chat.days[m->day].name, m->line);
    if (!ptn_map_get_str(data, "senderId", &sender) ||
        !ptn_str_eqz(sender, r->people[m->person].id))
        bench_die("subscriber %u: message %u came with another sender", subscriber, message);
}

static void on_event(struct replay *r, uint32_t subscriber, ptn_bytes frame) {
    static const ptn_str prefix = {"conversation.", 13};
    ptn_str topic, id;
    ptn_bytes data;
    uint64_t seq = 0, offset = 0;
    uint32_t message = 0;
    uint64_t now = bench_now_ns();
    if (!ptn_map_get_str(frame, "topic", &topic) || !ptn_map_get(frame, "data", &data) ||
        !ptn_map_get_uint(frame, "offset", &offset) || !ptn_str_starts(topic, prefix))
        bench_die("subscriber %u: an event that is none of a conversation", subscriber);
    ptn_str name = {topic.p + prefix.n, topic.n - prefix.n};
    if (is_probe(r, name))
        return;
    struct replay_conversation key = {.index = 0};
    (void)snprintf(key.id, sizeof key.id, "%.*s", (int)(name.n < 60 ? name.n : 60), name.p);
    const struct replay_conversation *found =
        bsearch(&key, r->by_id, r->chat.n_days, sizeof key, replay_compare_conversations);
    if (found == NULL || !ptn_map_get_uint(data, "seq", &seq) ||
        !ptn_map_get_str(data, "id", &id) || !message_of(id, &message) ||
        message >= r->chat.n_messages || r->chat.messages[message].day != found->index)
        bench_die("subscriber %u: a message in %s that nobody sent there", subscriber, key.id);
    const char *why = proof_delivered(&r->proof, subscriber, found->index, seq, message);
    if (why != NULL)
        bench_die("%s (day %s)", why, r->chat.days[found->index].name);
    check_content(r, subscriber, message, data);
    if (r->subscribers[0].fenced)
        bench_die("subscriber %u: message %u came after the end", subscriber, message);
    histogram_add(&r->latency, now - r->flights[message].sent_ns);
    r->n_deliveries++;
}

static void on_subscriber_frame(struct replay *r, uint32_t subscriber, ptn_bytes frame) {
    ptn_str type = PTN_STR(""), text = PTN_STR("");
    (void)ptn_map_get_str(frame, "type", &type);
    if (ptn_str_eqz(type, "event")) {
        on_event(r, subscriber, frame);
    } else if (ptn_str_eqz(type, "subscribed")) {
        r->subscribers[subscriber].n_subscribed++;
    } else if (ptn_str_eqz(type, "pong")) {
        r->subscribers[subscriber].fenced = true;
    } else if (!ptn_str_eqz(type, "welcome")) {
        (void)ptn_map_get_str(frame, "message", &text);
        bench_die("subscriber %u got a frame `%.*s`: %.*s", subscriber, (int)type.n, type.p,
                  (int)text.n, text.p);
    }
}

/* ---- one turn of the loop ------------------------------------------------------------------ */

void replay_read_subscriber(struct replay *r, uint32_t i) {
    struct replay_subscriber *s = &r->subscribers[i];
    if (!bench_ws_read(&s->ws))
        bench_die("the broker closed subscriber %u", i);
    for (ptn_bytes m; bench_ws_next(&s->ws, &m);) {
        if (s->msgpack) {
            ptn_codec_error e;
            if (ptn_msgpack_validate(m, NULL, &e) < 0)
                bench_die("subscriber %u: not msgpack: %s", i, e.what);
            on_subscriber_frame(r, i, m);
        } else {
            ptn_buf *b = replay_decoded(r, m);
            on_subscriber_frame(r, i, ptn_buf_bytes(b));
            (void)ptn_buf_unref(b);
        }
    }
}

static void read_sender(struct replay *r, uint32_t i) {
    struct bench_ws *ws = &r->people[i].ws;
    if (!bench_ws_read(ws))
        bench_die("the broker closed the connection of %s", r->chat.people[i]);
    for (ptn_bytes m; bench_ws_next(ws, &m);) {
        ptn_buf *b = replay_decoded(r, m);
        on_sender_frame(r, ptn_buf_bytes(b));
        (void)ptn_buf_unref(b);
    }
    (void)bench_ws_flush(ws);
}

static void read_http(struct replay *r, uint32_t i) {
    unsigned status = 0;
    ptn_bytes body;
    struct bench_http *h = &r->http[i];
    bool was_busy = h->busy;
    (void)bench_http_flush(h);
    int got = bench_http_read(h, &status, &body);
    if (got > 0)
        r->on_http(r, h->tag, status, body);
    else if (got < 0 && was_busy)
        bench_die("the broker closed a connection before it answered");
}

/* Receives one message of one or two parts; false: nothing there. */
static bool zmq_take(void *socket, zmq_msg_t *ret_last) {
    (void)zmq_msg_init(ret_last);
    if (zmq_msg_recv(ret_last, socket, ZMQ_DONTWAIT) < 0)
        return false;
    while (zmq_msg_more(ret_last)) {
        (void)zmq_msg_close(ret_last);
        (void)zmq_msg_init(ret_last);
        if (zmq_msg_recv(ret_last, socket, 0) < 0)
            bench_die("zmq_msg_recv: %s", zmq_strerror(zmq_errno()));
    }
    return true;
}

static void read_zmq(struct replay *r) {
    zmq_msg_t m;
    ptn_codec_error e;
    while (zmq_take(r->dealer, &m)) {
        ptn_bytes body = {zmq_msg_data(&m), zmq_msg_size(&m)};
        ptn_buf *b = NULL;
        if (body.n > 0 && body.p[0] == '{')
            b = replay_decoded(r, body);
        else if (ptn_msgpack_validate(body, NULL, &e) < 0)
            bench_die("ZeroMQ: not msgpack: %s", e.what);
        on_sender_frame(r, b != NULL ? ptn_buf_bytes(b) : body);
        (void)ptn_buf_unref(b);
        (void)zmq_msg_close(&m);
    }
    while (zmq_take(r->sub, &m)) {
        ptn_bytes body = {zmq_msg_data(&m), zmq_msg_size(&m)};
        if (ptn_msgpack_validate(body, NULL, &e) < 0)
            bench_die("ZeroMQ event: not msgpack: %s", e.what);
        on_event(r, r->o.subscribers, body);
        (void)zmq_msg_close(&m);
    }
}

void replay_progress(const char *what, uint64_t n) {
    load_progress("mixed", "postern", what, n);
}

/* Waits for input, until the next retry or message is due, or timeout_ms. */
static int wait_for_events(const struct replay *r, struct epoll_event *events, int max,
                           int timeout_ms) {
    uint64_t until =
        bench_now_ns() + (uint64_t)(r->n_retries > 0 && timeout_ms > 5 ? 5 : timeout_ms) * PTN_MS;
    bool due = r->running && has_room(r) && r->flights[r->next].due_ns < until;
    return load_wait(r->epoll, events, max, due ? r->flights[r->next].due_ns : until, due);
}

void replay_turn(struct replay *r, int timeout_ms) {
    struct epoll_event events[256];
    /* libzmq announces input once: whatever sending has consumed is looked for before we sleep. */
    read_zmq(r);
    if (r->running)
        fill_window(r);
    int n = wait_for_events(r, events, PTN_ARRAY_LEN(events), timeout_ms);
    for (int i = 0; i < n; i++) {
        uint32_t index = (uint32_t)events[i].data.u64;
        switch ((enum replay_source)(events[i].data.u64 >> 32)) {
        case SOURCE_HTTP:
            read_http(r, index);
            break;
        case SOURCE_SENDER:
            read_sender(r, index);
            break;
        case SOURCE_SUBSCRIBER:
            replay_read_subscriber(r, index);
            break;
        default: /* SOURCE_ZMQ */
            break;
        }
    }
    read_zmq(r);
}
