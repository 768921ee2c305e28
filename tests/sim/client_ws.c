/* SPDX-License-Identifier: Apache-2.0
 *
 * client_ws.c - a simulated WebSocket client (RFC 6455, frames of wire.md section 3), and the
 * oracles that look at what it hears.
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>

#define RESENDS 8u /* at once, when there is nothing else to do */

enum { OP_TEXT = 1, OP_BINARY = 2, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };

/* ---- out ------------------------------------------------------------------------------------- */

static void send_frame(struct client *c, unsigned opcode, const uint8_t *p, size_t n) {
    uint8_t head[14], mask[4], piece[1024];
    size_t h = 0;
    head[h++] = (uint8_t)(0x80 | opcode);
    if (n < 126) {
        head[h++] = (uint8_t)(0x80 | n);
    } else {
        PTN_ASSERT(n < 65536);
        head[h++] = 0x80 | 126;
        head[h++] = (uint8_t)(n >> 8);
        head[h++] = (uint8_t)n;
    }
    for (unsigned i = 0; i < 4; i++)
        head[h++] = mask[i] = (uint8_t)client_below(c, 256);
    client_send(c, head, h);
    for (size_t done = 0; done < n;) {
        size_t part = n - done < sizeof piece ? n - done : sizeof piece;
        for (size_t i = 0; i < part; i++)
            piece[i] = p[done + i] ^ mask[(done + i) % 4];
        client_send(c, piece, part);
        done += part;
    }
}

void ws_send(struct client *c, ptn_pack *w) {
    client_encode(c, w);
    send_frame(c, c->msgpack ? OP_BINARY : OP_TEXT, c->out.p, c->out.len);
}

static void begin(ptn_pack *w, const char *type, uint32_t members) {
    ptn_pack_init(w, 256);
    ptn_pack_map(w, members + 1);
    ptn_pack_key(w, "type");
    ptn_pack_cstr(w, type);
}

void ws_begin_call(ptn_pack *w, const char *type, const struct call *call, uint32_t members) {
    begin(w, type, members + 1);
    ptn_pack_key(w, "id");
    ptn_pack_uint(w, call->id);
}

static void send_auth(struct client *c) {
    ptn_pack w;
    begin(&w, "auth", 1);
    ptn_pack_key(&w, "token");
    ptn_pack_cstr(&w, sim_tokens[c->user]);
    ws_send(c, &w);
}

void ws_upgrade(struct client *c, const char *query, const char *value, const char *bearer) {
    char request[1400];
    int n = snprintf(request, sizeof request,
                     "GET /ws%s%s HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                     "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                     "Sec-WebSocket-Protocol: postern.v1.%s\r\n%s%s%s\r\n",
                     query, value, c->msgpack ? "msgpack" : "json",
                     bearer != NULL ? "Authorization: Bearer " : "", bearer != NULL ? bearer : "",
                     bearer != NULL ? "\r\n" : "");
    c->state = CLIENT_UPGRADING;
    client_send(c, request, (size_t)n);
}

static void opened(struct client *c) {
    const char *token = sim_tokens[c->user];
    switch (client_below(c, 3)) {
    case 0:
        ws_upgrade(c, "", "", token);
        break;
    case 1:
        ws_upgrade(c, "?token=", token, NULL);
        break;
    default:
        ws_upgrade(c, "", "", NULL);
        send_auth(c); /* does not wait for the 101 */
        break;
    }
}

void ws_hang_up(struct client *c) {
    static const uint8_t going_away[] = {0x03, 0xe9};
    send_frame(c, OP_CLOSE, going_away, sizeof going_away);
}

static void send_message(struct client *c, bool again) {
    ptn_pack w;
    int index = c->n_calls < CALLS_MAX ? client_message(c, again) : -1;
    if (index < 0)
        return;
    struct call *call = client_call(c, CALL_MESSAGE, (uint32_t)index, 0);
    ws_begin_call(&w, "message", call, 1);
    ptn_pack_key(&w, "message");
    client_pack_message(c, &w, (uint32_t)index);
    ws_send(c, &w);
}

static void send_publish(struct client *c) {
    ptn_pack w;
    char unheard[16];
    unsigned k = client_below(c, TOPICS + 1); /* the last one: a topic to which nobody listens */
    uint32_t n = k < TOPICS ? c->n_published[k] + 1 : 0;
    struct call *call = client_call(c, CALL_PUBLISH, n, k);
    if (call == NULL)
        return;
    if (k < TOPICS)
        c->n_published[k] = n;
    (void)snprintf(unheard, sizeof unheard, "x.%u", client_below(c, 64));
    ws_begin_call(&w, "publish", call, 2);
    ptn_pack_key(&w, "topic");
    ptn_pack_cstr(&w, k < TOPICS ? subject_name(CONVERSATIONS + k) : unheard);
    ptn_pack_key(&w, "data");
    ptn_pack_map(&w, 2);
    ptn_pack_key(&w, "session");
    ptn_pack_uint(&w, c->session);
    ptn_pack_key(&w, "n");
    ptn_pack_uint(&w, call->ref);
    ws_send(c, &w);
}

static void send_subscribe(struct client *c, unsigned subject) {
    ptn_pack w;
    bool is_pattern = subject == SUBJECTS;
    struct call *call = client_call(c, CALL_SUBSCRIBE, subject, 0);
    if (call == NULL)
        return;
    struct position none = {{0}, 0};
    struct position since = is_pattern ? none : world->remembered[c->index][subject];
    ws_begin_call(&w, "subscribe", call, since.epoch[0] != '\0' ? 2 : 1);
    ptn_pack_key(&w, "topic");
    ptn_pack_cstr(&w, is_pattern ? "t.*" : subject_name(subject));
    if (since.epoch[0] != '\0') {
        ptn_pack_key(&w, "since");
        ptn_pack_map(&w, 2);
        ptn_pack_key(&w, "epoch");
        ptn_pack_cstr(&w, since.epoch);
        ptn_pack_key(&w, "offset");
        ptn_pack_uint(&w, since.offset);
    }
    if (is_pattern)
        c->pattern_state = SUB_ASKED;
    else
        c->subs[subject] = (struct subscription){
            .state = SUB_ASKED, .left = c->subs[subject].left, .since = since};
    ws_send(c, &w);
}

static void send_unsubscribe(struct client *c, unsigned subject) {
    ptn_pack w;
    struct call *call = client_call(c, CALL_OTHER, subject, 1);
    if (call == NULL)
        return;
    c->subs[subject].state = SUB_LEAVING;
    c->subs[subject].left = true;
    ws_begin_call(&w, "unsubscribe", call, 1);
    ptn_pack_key(&w, "topics");
    ptn_pack_array(&w, 1);
    ptn_pack_cstr(&w, subject_name(subject));
    ws_send(c, &w);
}

static void send_request(struct client *c) {
    ptn_pack w;
    char path[96];
    bool health = client_below(c, 2) == 0;
    struct call *call = client_call(c, CALL_REQUEST, health, 0);
    if (call == NULL)
        return;
    (void)snprintf(path, sizeof path,
                   health ? "/api/v1/health"
                          : "/api/v1/conversations/%s/messages?limit=20&after=%u",
                   conversation_id(0), client_below(c, 50));
    ws_begin_call(&w, "request", call, 3);
    ptn_pack_key(&w, "method");
    ptn_pack_cstr(&w, "GET");
    ptn_pack_key(&w, "path");
    ptn_pack_cstr(&w, path);
    ptn_pack_key(&w, "timeoutMs");
    ptn_pack_uint(&w, 1 + client_below(c, 12000));
    ws_send(c, &w);
}

static void send_ping(struct client *c) {
    ptn_pack w;
    struct call *call = client_call(c, CALL_OTHER, 0, 0);
    if (call == NULL)
        return;
    ws_begin_call(&w, "ping", call, 0);
    ws_send(c, &w);
}

/* Asks for every subscription that it should have and has not. */
static bool subscribe_missing(struct client *c) {
    bool any = false;
    for (unsigned i = 0; i < SUBJECTS; i++) {
        bool wanted = i < CONVERSATIONS ? is_member(i, c->user) : !c->pattern;
        if (!wanted || c->subs[i].state != SUB_NONE)
            continue;
        send_subscribe(c, i);
        any = true;
    }
    if (c->pattern && c->pattern_state == SUB_NONE) {
        send_subscribe(c, SUBJECTS);
        any = true;
    }
    return any;
}

static void act_busy(struct client *c) {
    unsigned subject = client_below(c, SUBJECTS);
    switch (client_below(c, 16)) {
    case 0:
        send_request(c);
        break;
    case 1:
        send_ping(c);
        break;
    case 2:
        if (c->subs[subject].state == SUB_ON)
            send_unsubscribe(c, subject);
        break;
    case 3:
        send_message(c, true);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
        send_publish(c);
        break;
    default:
        send_message(c, false);
        break;
    }
}

static void act(struct client *c) {
    if (subscribe_missing(c))
        return;
    if (c->settling) {
        if (c->last_words > 0) {
            c->last_words--;
            send_message(c, false);
            send_publish(c);
        } else {
            for (unsigned i = 0; i < RESENDS; i++)
                send_message(c, true);
        }
        return;
    }
    uint32_t n = client_chance(c, world->plan.burst_ppm) ? 10 + client_below(c, 90) : 1;
    while (n-- > 0)
        act_busy(c);
}

/* ---- in: positions --------------------------------------------------------------------------- */

static void copy_epoch(char out[EPOCH_MAX], ptn_str s) {
    ORACLE(s.n > 0 && s.n < EPOCH_MAX, "position: an epoch of %zu bytes", s.n);
    memcpy(out, s.p, s.n);
    out[s.n] = '\0';
}

void client_saw_published(struct client *c, unsigned topic, const char *epoch, uint64_t offset,
                          ptn_bytes data) {
    uint64_t session, n;
    ORACLE(ptn_map_get_uint(data, "session", &session) && ptn_map_get_uint(data, "n", &n) &&
               session < SESSIONS_MAX,
           "content: an event that nobody has published");
    saw_place(topic, epoch, offset, (uint32_t)session, (uint32_t)n);
    uint32_t *last = &world->heard[c->index][topic][session];
    ORACLE(n > *last, "fifo: client %u hears event %llu of session %llu on t.%u after event %u",
           c->index, (unsigned long long)n, (unsigned long long)session, topic, *last);
    *last = (uint32_t)n;
}

/* Through the pattern: a topic may start a new life, but within one nothing is missing. */
static void pattern_event(struct client *c, unsigned topic, const char *epoch, uint64_t offset) {
    struct position *p = &c->seen[topic];
    if (p->epoch[0] != '\0' && strcmp(p->epoch, epoch) == 0)
        ORACLE(offset == p->offset + 1,
               "contiguous: pattern of client %u: t.%u goes from %llu to %llu", c->index, topic,
               (unsigned long long)p->offset, (unsigned long long)offset);
    else if (p->epoch[0] != '\0')
        ORACLE(offset == 1, "contiguous: pattern of client %u: a new life of t.%u begins at %llu",
               c->index, topic, (unsigned long long)offset);
    (void)snprintf(p->epoch, sizeof p->epoch, "%s", epoch);
    p->offset = offset;
}

static void on_event(struct client *c, ptn_bytes frame) {
    ptn_str topic, raw_epoch;
    uint64_t offset;
    ptn_bytes data;
    char epoch[EPOCH_MAX];
    ORACLE(ptn_map_get_str(frame, "topic", &topic) && ptn_map_get_str(frame, "epoch", &raw_epoch) &&
               ptn_map_get_uint(frame, "offset", &offset) && ptn_map_get(frame, "data", &data),
           "wire: an event without topic, epoch, offset or data");
    copy_epoch(epoch, raw_epoch);
    unsigned subject = subject_of(topic);
    ORACLE(subject < SUBJECTS, "wire: an event of %.*s", (int)topic.n, topic.p);
    struct subscription *s = &c->subs[subject];
    world->tally.events++;
    bool on = s->state == SUB_ON || s->state == SUB_LEAVING; /* leaving may be refused */
    if (s->left && !on)
        return; /* sent before the broker had heard of it; `at` stays where we left */
    if (subject >= CONVERSATIONS)
        client_saw_published(c, subject - CONVERSATIONS, epoch, offset, data);
    else
        (void)saw_message(subject, offset, data);
    if (c->pattern && subject >= CONVERSATIONS) {
        pattern_event(c, subject - CONVERSATIONS, epoch, offset);
        return;
    }
    ORACLE(on, "wire: client %u hears of %s and has not subscribed", c->index,
           subject_name(subject));
    ORACLE(strcmp(s->epoch, epoch) == 0, "contiguous: client %u, %s: from epoch %s to %s", c->index,
           subject_name(subject), s->epoch, epoch);
    ORACLE(offset == s->at + 1, "contiguous: client %u, %s: from %llu to %llu", c->index,
           subject_name(subject), (unsigned long long)s->at, (unsigned long long)offset);
    s->at = offset;
    world->remembered[c->index][subject].offset = offset;
}

static void on_subscribed(struct client *c, ptn_bytes frame, const struct call *call) {
    ptn_str topic, epoch;
    uint64_t offset;
    bool recovered;
    if (call->ref == SUBJECTS) {
        c->pattern_state = SUB_ON;
        return;
    }
    struct subscription *s = &c->subs[call->ref];
    ORACLE(ptn_map_get_str(frame, "topic", &topic) && subject_of(topic) == call->ref &&
               ptn_map_get_str(frame, "epoch", &epoch) &&
               ptn_map_get_uint(frame, "offset", &offset) &&
               ptn_map_get_bool(frame, "recovered", &recovered),
           "wire: subscribed without topic, epoch, offset or recovered");
    struct position *p = &world->remembered[c->index][call->ref];
    s->state = SUB_ON;
    copy_epoch(s->epoch, epoch);
    if (recovered) {
        ORACLE(strcmp(s->since.epoch, s->epoch) == 0 && offset >= s->since.offset,
               "recovery: client %u, %s: recovered from %s %llu to %s %llu", c->index,
               subject_name(call->ref), s->since.epoch, (unsigned long long)s->since.offset,
               s->epoch, (unsigned long long)offset);
        s->at = s->since.offset;
        world->tally.resumed++;
    } else {
        s->at = offset;
        world->tally.not_recovered += s->since.epoch[0] != '\0';
    }
    memcpy(p->epoch, s->epoch, sizeof p->epoch);
    p->offset = s->at;
}

/* ---- in: answers ----------------------------------------------------------------------------- */

struct call *ws_find_call(struct client *c, ptn_bytes frame) {
    uint64_t id;
    if (!ptn_map_get_uint(frame, "id", &id))
        return NULL;
    for (uint32_t i = 0; i < c->n_calls; i++)
        if (c->calls[i].id == id)
            return &c->calls[i];
    oracle_failed("one answer: client %u gets an answer to frame %llu, which is not open", c->index,
                  (unsigned long long)id);
}

static void on_publish_ack(struct client *c, ptn_bytes frame, const struct call *call) {
    ptn_str epoch;
    uint64_t offset;
    struct position p;
    unsigned k = call->subject;
    ORACLE(ptn_map_get_str(frame, "epoch", &epoch) && ptn_map_get_uint(frame, "offset", &offset),
           "wire: an ack without position");
    copy_epoch(p.epoch, epoch);
    p.offset = offset;
    world->tally.publishes++;
    if (k == TOPICS)
        return;
    saw_place(k, p.epoch, offset, c->session, call->ref);
    if (strcmp(c->acked_at[k].epoch, p.epoch) == 0)
        ORACLE((call->ref > c->acked_n[k]) == (offset > c->acked_at[k].offset),
               "fifo: session %u published %u and %u on t.%u, at %llu and %llu", c->session,
               c->acked_n[k], call->ref, k, (unsigned long long)c->acked_at[k].offset,
               (unsigned long long)offset);
    c->acked_at[k] = p;
    c->acked_n[k] = call->ref;
    struct position *last = &world->published[k];
    if (strcmp(last->epoch, p.epoch) != 0 || last->offset < offset)
        *last = p;
}

static void on_ack(struct client *c, ptn_bytes frame, const struct call *call) {
    ptn_bytes message;
    if (call->kind == CALL_PUBLISH) {
        on_publish_ack(c, frame, call);
        return;
    }
    ORACLE(call->kind == CALL_MESSAGE && ptn_map_get(frame, "message", &message),
           "wire: an ack without message, or to something else");
    saw_ack(world->sent[call->ref].conversation, message, call->ref, c->session);
}

static void on_response(ptn_bytes frame, const struct call *call) {
    uint64_t status, seq, last = 0;
    uint32_t n;
    ptn_bytes body, data, message;
    ORACLE(call->kind == CALL_REQUEST && ptn_map_get_uint(frame, "status", &status),
           "wire: a response without status, or to something else");
    ORACLE(status == 200 || status >= 500, "wire: a good request is answered %llu",
           (unsigned long long)status);
    if (status != 200 || call->ref == 1)
        return;
    ORACLE(ptn_map_get(frame, "body", &body) && ptn_map_get(body, "data", &data),
           "wire: a list of messages without data");
    ptn_unpack u = ptn_unpack_of(data);
    ORACLE(ptn_unpack_array(&u, &n), "wire: a list of messages that is none");
    for (uint32_t i = 0; i < n; i++) {
        ORACLE(ptn_unpack_any(&u, &message) && ptn_map_get_uint(message, "seq", &seq) && seq > last,
               "order: a list of messages that does not ascend");
        (void)saw_message(0, seq, message);
        last = seq;
    }
}

void ws_refused(struct client *c, ptn_bytes frame) {
    static const char *const expected[] = {"overloaded", "timeout", "draining", "conflict"};
    ptn_str code = {"", 0};
    (void)ptn_map_get_str(frame, "code", &code);
    bool ok = false;
    for (size_t i = 0; i < PTN_ARRAY_LEN(expected); i++)
        ok = ok || ptn_str_eqz(code, expected[i]);
    if (ptn_str_eqz(code, "internal"))
        ok = may_fail();
    else if (ptn_str_eqz(code, "storage_full"))
        ok = disk_may_be_full();
    ptn_str message = {"", 0};
    (void)ptn_map_get_str(frame, "message", &message);
    ORACLE(ok, "wire: client %u did nothing wrong and hears %.*s: %.*s", c->index, (int)code.n,
           code.p, (int)message.n, message.p);
    world->tally.refusals++;
    (void)snprintf(c->refusal, sizeof c->refusal, "%.*s: %.*s", (int)code.n, code.p, (int)message.n,
                   message.p);
}

static void on_error(struct client *c, ptn_bytes frame, const struct call *call) {
    ws_refused(c, frame);
    if (call == NULL)
        return;
    if (call->kind == CALL_SUBSCRIBE && call->ref == SUBJECTS)
        c->pattern_state = SUB_NONE;
    else if (call->kind == CALL_SUBSCRIBE)
        c->subs[call->ref].state = SUB_NONE;
    else if (call->kind == CALL_OTHER && call->subject == 1)
        c->subs[call->ref].state = SUB_ON;
}

static void on_answer(struct client *c, ptn_bytes frame, ptn_str type, struct call *call) {
    struct call copy = *call;
    client_call_end(c, call);
    if (ptn_str_eqz(type, "ack"))
        on_ack(c, frame, &copy);
    else if (ptn_str_eqz(type, "subscribed"))
        on_subscribed(c, frame, &copy);
    else if (ptn_str_eqz(type, "response"))
        on_response(frame, &copy);
    else if (ptn_str_eqz(type, "error"))
        on_error(c, frame, &copy);
    else if (ptn_str_eqz(type, "unsubscribed"))
        c->subs[copy.ref].state = SUB_NONE;
    else
        ORACLE(ptn_str_eqz(type, "pong"), "wire: a frame of type %.*s", (int)type.n, type.p);
}

static void on_frame(struct client *c, ptn_bytes frame) {
    ptn_str type;
    ORACLE(ptn_map_get_str(frame, "type", &type), "wire: a frame without type");
    if (ptn_str_eqz(type, "event")) {
        on_event(c, frame);
    } else if (ptn_str_eqz(type, "welcome")) {
        c->state = CLIENT_LIVE;
    } else if (!ptn_str_eqz(type, "drain") && !ptn_str_eqz(type, "message") &&
               !ptn_str_eqz(type, "gap")) {
        struct call *call = ws_find_call(c, frame);
        if (call != NULL)
            on_answer(c, frame, type, call);
        else if (ptn_str_eqz(type, "error"))
            on_error(c, frame, NULL);
        else
            oracle_failed("one answer: an answer of type %.*s to nothing", (int)type.n, type.p);
    }
}

/* ---- what it waits for ----------------------------------------------------------------------- */

static const char *behind(const struct client *c, unsigned subject) {
    const struct subscription *s = &c->subs[subject];
    if (subject < CONVERSATIONS)
        return s->at < world->last_seq[subject] ? "events of a conversation" : NULL;
    const struct position *p = &world->published[subject - CONVERSATIONS];
    return strcmp(p->epoch, s->epoch) == 0 && s->at < p->offset ? "events of a topic" : NULL;
}

static const char *waits_for(const struct client *c) {
    const char *why = NULL;
    for (unsigned i = 0; i < SUBJECTS && why == NULL; i++) {
        bool wanted = i < CONVERSATIONS ? is_member(i, c->user) : !c->pattern;
        if (wanted && c->subs[i].state != SUB_ON)
            why = "a subscription";
        else if (wanted)
            why = behind(c, i);
    }
    if (why == NULL && c->pattern && c->pattern_state != SUB_ON)
        why = "its pattern";
    return why;
}

const struct client_kind ws_kind = {
    .opened = opened, .act = act, .frame = on_frame, .waits_for = waits_for};

/* ---- in: bytes ------------------------------------------------------------------------------- */

static void on_payload(struct client *c, unsigned opcode, ptn_bytes p) {
    if (opcode == OP_BINARY) {
        ptn_codec_error why;
        ORACLE(c->msgpack && ptn_msgpack_validate(p, NULL, &why) == 0, "wire: bad msgpack");
        c->kind->frame(c, p);
        return;
    }
    ptn_pack w;
    ptn_codec_error why = {0};
    ORACLE(opcode == OP_TEXT && !c->msgpack, "wire: opcode %u", opcode);
    ptn_pack_init(&w, p.n + 64);
    ORACLE(ptn_json_to_msgpack(c->json, (ptn_str){(const char *)p.p, p.n}, NULL, &w, &why) == 0,
           "wire: bad JSON: %s", why.what);
    ptn_buf *b = ptn_pack_finish(&w);
    PTN_ASSERT(b != NULL);
    c->kind->frame(c, ptn_buf_bytes(b));
    ptn_buf_unref(b);
}

/* True: the connection is over. */
static bool on_close_frame(struct client *c, ptn_bytes p) {
    unsigned code = p.n >= 2 ? (unsigned)p.p[0] << 8 | p.p[1] : 1005;
    ORACLE((c->kind->denied != NULL && c->kind->denied(c, code)) || code == 1001 ||
               (code >= 1011 && code <= 1013) || code == 4401,
           "wire: client %u did nothing wrong and is closed with %u", c->index, code);
    uint8_t copy[2] = {(uint8_t)(code >> 8), (uint8_t)code};
    send_frame(c, OP_CLOSE, copy, sizeof copy);
    client_hang_up(c, false);
    return true;
}

/* One frame from the front of the input; false: not all of it is there, or it is over. */
static bool take_frame(struct client *c) {
    const uint8_t *p = c->in;
    size_t head = 2, n;
    if (c->in_len < 2)
        return false;
    n = p[1] & 0x7f;
    ORACLE((p[1] & 0x80) == 0 && (p[0] & 0xf0) == 0x80, "wire: a frame head of %02x %02x", p[0],
           p[1]);
    if (n == 126)
        head = 4;
    else if (n == 127)
        head = 10;
    if (c->in_len < head)
        return false;
    if (head > 2) {
        n = 0;
        for (size_t i = 2; i < head; i++)
            n = n << 8 | p[i];
    }
    if (c->in_len - head < n)
        return false;
    unsigned opcode = p[0] & 15;
    ptn_bytes payload = {p + head, n};
    if (opcode == OP_CLOSE)
        return !on_close_frame(c, payload);
    if (opcode == OP_PING)
        send_frame(c, OP_PONG, payload.p, payload.n);
    else
        on_payload(c, opcode, payload);
    if (c->peer == NULL)
        return false;
    c->in_len -= head + n;
    memmove(c->in, c->in + head + n, c->in_len);
    return true;
}

static void take_upgrade(struct client *c) {
    const uint8_t *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (end == NULL)
        return;
    ORACLE(c->in_len > 12 && memcmp(c->in, "HTTP/1.1 ", 9) == 0, "wire: no HTTP answer");
    char digits[4] = {(char)c->in[9], (char)c->in[10], (char)c->in[11], '\0'};
    unsigned long status = strtoul(digits, NULL, 10);
    ORACLE(status == 101 || status == 408 || status >= 500 ||
               (c->kind->denied != NULL && c->kind->denied(c, (unsigned)status)),
           "wire: a good upgrade is answered %lu", status);
    if (status != 101) {
        world->tally.refusals++;
        client_hang_up(c, false);
        return;
    }
    size_t used = (size_t)(end - c->in) + 4;
    c->in_len -= used;
    memmove(c->in, c->in + used, c->in_len);
    c->state = CLIENT_WELCOMING;
}

void ws_input(struct client *c) {
    if (c->state == CLIENT_UPGRADING)
        take_upgrade(c);
    while ((c->state == CLIENT_WELCOMING || c->state == CLIENT_LIVE) && take_frame(c))
        continue;
}
