/* SPDX-License-Identifier: Apache-2.0
 *
 * client_http.c - a simulated HTTP client that keeps its connection and pipelines.
 *
 * Oracles: every answer belongs to the request whose turn it is (the answers of POST name their
 * message), there are never more answers than requests, and no request stays without one.
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>

/* What a call asks for, besides CALL_MESSAGE: its `ref`. */
enum { ASK_HEALTH, ASK_LIST, ASK_PUBLISH, ASK_STREAM, ASK_READ };

#define PIPELINE_MAX 6u

static void opened(struct client *c) {
    c->state = CLIENT_LIVE;
    c->msgpack = false;
    if (!c->settling && client_below(c, 3) == 0) {
        (void)client_call(c, CALL_REQUEST, ASK_STREAM, 0);
        sse_begin(c);
    }
}

void http_send(struct client *c, const char *method, const char *path, const char *token,
               ptn_pack *w) {
    char head[1024];
    ptn_out_clear(&c->out);
    if (w != NULL)
        client_encode(c, w);
    int n = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: sim\r\n%s%s%s", method, path,
                     token != NULL ? "Authorization: Bearer " : "", token != NULL ? token : "",
                     token != NULL ? "\r\n" : "");
    client_send(c, head, (size_t)n);
    n = 0;
    if (w != NULL)
        n = snprintf(head, sizeof head, "Content-Type: application/json\r\nContent-Length: %zu\r\n",
                     c->out.len);
    client_send(c, head, (size_t)n);
    client_send(c, "\r\n", 2);
    if (c->out.len > 0)
        client_send(c, c->out.p, c->out.len);
}

static void send_message(struct client *c, bool again) {
    ptn_pack w;
    char path[96];
    int index = c->n_calls < CALLS_MAX ? client_message(c, again) : -1;
    if (index < 0)
        return;
    bool synced = client_below(c, 3) == 0;
    (void)client_call(c, CALL_MESSAGE, (uint32_t)index, synced);
    ptn_pack_init(&w, 256);
    if (synced) {
        (void)snprintf(path, sizeof path, "/api/v1/sync");
        client_pack_items(&w, (uint32_t)index);
    } else {
        (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/messages",
                       conversation_id(world->sent[index].conversation));
        client_pack_message(c, &w, (uint32_t)index);
    }
    http_send(c, "POST", path, sim_tokens[c->user], &w);
}

static void send_publish(struct client *c) {
    ptn_pack w;
    char path[64];
    unsigned k = client_below(c, TOPICS);
    struct call *call = client_call(c, CALL_REQUEST, ASK_PUBLISH, k);
    call->id = ++c->n_published[k];
    (void)snprintf(path, sizeof path, "/api/v1/topics/%s", subject_name(CONVERSATIONS + k));
    ptn_pack_init(&w, 64);
    ptn_pack_map(&w, 2);
    ptn_pack_key(&w, "session");
    ptn_pack_uint(&w, c->session);
    ptn_pack_key(&w, "n");
    ptn_pack_uint(&w, call->id);
    http_send(c, "POST", path, sim_tokens[c->user], &w);
}

static void send_get(struct client *c, bool health) {
    char path[96] = "/api/v1/health";
    (void)client_call(c, CALL_REQUEST, health ? ASK_HEALTH : ASK_LIST, 0);
    if (!health)
        (void)snprintf(path, sizeof path, "/api/v1/conversations/%s/messages?limit=%u",
                       conversation_id(0), 1 + client_below(c, 60));
    http_send(c, "GET", path, sim_tokens[c->user], NULL);
}

/* One of the messages that this client's user may read. */
static void send_read(struct client *c) {
    char path[96];
    uint32_t i = world->n_sent > 0 ? client_below(c, world->n_sent) : 0;
    if (i == world->n_sent || !world->sent[i].acked ||
        !is_member(world->sent[i].conversation, c->user))
        return;
    struct call *call = client_call(c, CALL_REQUEST, ASK_READ, 0);
    call->subject = i;
    (void)snprintf(path, sizeof path, "/api/v1/messages/%s/read", world->sent[i].id);
    ptn_pack w;
    ptn_pack_init(&w, 16);
    ptn_pack_map(&w, 0);
    http_send(c, "POST", path, sim_tokens[c->user], &w);
}

static void act(struct client *c) {
    uint32_t n = 1 + client_below(c, 3);
    if (c->stream != SUBJECTS) { /* listens, and at some time has heard enough */
        if (client_below(c, 60) == 0)
            client_hang_up(c, client_below(c, 2) == 0);
        return;
    }
    if (c->settling) {
        bool again = c->last_words == 0;
        if (!again)
            c->last_words--;
        do
            send_message(c, again);
        while (again && ++n < PIPELINE_MAX && c->n_calls < PIPELINE_MAX);
        return;
    }
    while (n-- > 0 && c->n_calls < PIPELINE_MAX) {
        switch (client_below(c, 9)) {
        case 8:
            send_read(c);
            break;
        case 0:
            send_get(c, true);
            break;
        case 1:
            send_get(c, false);
            break;
        case 2:
            send_publish(c);
            break;
        case 3:
            send_message(c, true);
            break;
        default:
            send_message(c, false);
            break;
        }
    }
}

/* ---- answers --------------------------------------------------------------------------------- */

static void on_list(ptn_bytes data) {
    ptn_unpack u = ptn_unpack_of(data);
    uint32_t n;
    uint64_t seq, last = 0;
    ptn_bytes message;
    ORACLE(ptn_unpack_array(&u, &n), "wire: a list of messages that is none");
    for (uint32_t i = 0; i < n; i++) {
        ORACLE(ptn_unpack_any(&u, &message) && ptn_map_get_uint(message, "seq", &seq) &&
                   (last == 0 || seq == last + 1),
               "order: a page of messages with a hole");
        (void)saw_message(0, seq, message);
        last = seq;
    }
}

/* Of the message that was in the list twice. */
static void on_results(struct client *c, const struct call *call, ptn_bytes data) {
    ptn_bytes results = {0}, one, message;
    ptn_str outcome;
    bool retryable = false;
    uint32_t n = 0;
    (void)ptn_map_get(data, "results", &results);
    ptn_unpack u = ptn_unpack_of(results);
    ORACLE(ptn_unpack_array(&u, &n) && n == 2, "wire: %u results for two items", n);
    for (uint32_t i = 0; i < n; i++) {
        ORACLE(ptn_unpack_any(&u, &one) && ptn_map_get_str(one, "outcome", &outcome),
               "wire: a result without outcome");
        if (ptn_str_eqz(outcome, "rejected")) {
            ORACLE((ptn_map_get_bool(one, "retryable", &retryable) && retryable) || may_fail(),
                   "wire: a good item is rejected for good");
            world->tally.refusals++;
            (void)snprintf(c->refusal, sizeof c->refusal, "a rejected item");
            continue;
        }
        ORACLE(ptn_str_eqz(outcome, i == 0 ? "applied" : "duplicate") ||
                   ptn_str_eqz(outcome, "duplicate"),
               "exactly once: item %u of two that are the same is %.*s", i, (int)outcome.n,
               outcome.p);
        ORACLE(ptn_map_get(one, "data", &message), "wire: a result without data");
        saw_ack(world->sent[call->ref].conversation, message, call->ref, 0);
    }
}

static void on_data(struct client *c, const struct call *call, ptn_bytes data) {
    ptn_str epoch;
    uint64_t offset;
    char text[EPOCH_MAX];
    if (call->kind == CALL_MESSAGE && call->subject) {
        on_results(c, call, data);
    } else if (call->kind == CALL_MESSAGE) {
        saw_ack(world->sent[call->ref].conversation, data, call->ref, 0);
    } else if (call->ref == ASK_LIST) {
        on_list(data);
    } else if (call->ref == ASK_READ) {
        const struct sent *s = &world->sent[call->subject];
        ORACLE(saw_message(s->conversation, s->seq, data) == call->subject,
               "content: another message than %u is marked as read", call->subject);
        world->tally.reads++;
    } else if (call->ref == ASK_PUBLISH) {
        ORACLE(ptn_map_get_str(data, "epoch", &epoch) && epoch.n < EPOCH_MAX &&
                   ptn_map_get_uint(data, "offset", &offset),
               "wire: a publication without position");
        (void)snprintf(text, sizeof text, "%.*s", (int)epoch.n, epoch.p);
        saw_place(call->subject, text, offset, c->session, call->id);
        world->tally.publishes++;
    }
}

void http_refused(struct client *c, unsigned long status, ptn_bytes envelope) {
    ptn_str code = {"", 0}, message = {"", 0};
    (void)ptn_map_get_str(envelope, "code", &code);
    (void)ptn_map_get_str(envelope, "message", &message);
    ORACLE(status == 408 || status >= 500, "wire: a good request is answered %lu %.*s: %.*s",
           status, (int)code.n, code.p, (int)message.n, message.p);
    ORACLE((status != 500 || may_fail()) && (status != 507 || disk_may_be_full()),
           "wire: %lu %.*s: %.*s", status, (int)code.n, code.p, (int)message.n, message.p);
    world->tally.refusals++;
    (void)snprintf(c->refusal, sizeof c->refusal, "HTTP %lu", status);
}

static void answered(struct client *c, const struct call *call, unsigned long status,
                     ptn_bytes envelope) {
    ptn_bytes data;
    if (status >= 200 && status < 300) {
        ORACLE(ptn_map_get(envelope, "data", &data), "wire: success without data");
        on_data(c, call, data);
    } else {
        http_refused(c, status, envelope);
    }
}

const struct client_kind http_kind = {
    .http = true, .opened = opened, .act = act, .answered = answered};

static void on_response(struct client *c, unsigned long status, ptn_str body) {
    ptn_pack w;
    ptn_codec_error why = {0};
    ORACLE(c->n_calls > 0 || status == 408 || status == 503,
           "one answer: client %u gets HTTP %lu and has asked nothing", c->index, status);
    if (c->n_calls == 0)
        return;
    struct call call = c->calls[0];
    client_call_end(c, &c->calls[0]);
    ptn_pack_init(&w, body.n + 64);
    ORACLE(ptn_json_to_msgpack(c->json, body, NULL, &w, &why) == 0, "wire: bad JSON: %s", why.what);
    ptn_buf *b = ptn_pack_finish(&w);
    PTN_ASSERT(b != NULL);
    c->kind->answered(c, &call, status, ptn_buf_bytes(b));
    ptn_buf_unref(b);
}

static size_t content_length(const uint8_t *head, size_t n) {
    static const char name[] = "content-length:";
    for (size_t i = 0; i + sizeof name - 1 < n; i++)
        if (strncasecmp((const char *)head + i, name, sizeof name - 1) == 0)
            return (size_t)strtoul((const char *)head + i + sizeof name - 1, NULL, 10);
    oracle_failed("wire: an answer without Content-Length");
}

static bool head_has(const uint8_t *head, size_t n, const char *text) {
    size_t len = strlen(text);
    for (size_t i = 0; i + len <= n; i++)
        if (strncasecmp((const char *)head + i, text, len) == 0)
            return true;
    return false;
}

static bool stream_begins(struct client *c, size_t head) {
    ORACLE(!c->streaming && c->n_calls == 1, "one answer: a stream begins twice");
    client_call_end(c, &c->calls[0]);
    c->streaming = true;
    c->in_len -= head;
    memmove(c->in, c->in + head, c->in_len);
    return true;
}

static bool take_response(struct client *c) {
    const uint8_t *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (end == NULL)
        return false;
    size_t head = (size_t)(end - c->in) + 4;
    if (c->stream != SUBJECTS && head_has(c->in, head, "text/event-stream"))
        return stream_begins(c, head);
    size_t n = content_length(c->in, head);
    if (c->in_len - head < n)
        return false;
    ORACLE(head > 16 && memcmp(c->in, "HTTP/1.1 ", 9) == 0, "wire: no HTTP answer");
    char digits[4] = {(char)c->in[9], (char)c->in[10], (char)c->in[11], '\0'};
    bool last = head_has(c->in, head, "connection: close");
    on_response(c, strtoul(digits, NULL, 10), (ptn_str){(const char *)c->in + head, n});
    c->in_len -= head + n;
    memmove(c->in, c->in + head + n, c->in_len);
    if (last)
        client_hang_up(c, false);
    return !last;
}

void http_input(struct client *c) {
    while (c->state == CLIENT_LIVE && (c->streaming ? sse_take(c) : take_response(c)))
        continue;
}
