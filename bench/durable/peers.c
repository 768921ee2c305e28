/* SPDX-License-Identifier: Apache-2.0
 *
 * peers.c - an append and its acknowledgement in the words of Postern, NATS JetStream and Redis.
 *
 * The clients are equally lean: encoded once, and read only as far as it takes to know that an
 * append was accepted.
 */
#include "bench/durable/durable.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#define RAW_BYTES (DURABLE_WINDOW_MAX * 2048u)

const char *const durable_peer_names[PEERS] = {"ws-msgpack", "ws-json", "zmq", "nats", "redis"};

/* ---- plain sockets ------------------------------------------------------------------------ */

static void raw_open(struct bench_ws *w, const char *address) {
    *w = (struct bench_ws){.fd = bench_connect(address, NULL), .out_cap = RAW_BYTES};
    w->out = malloc(w->out_cap);
    if (w->out == NULL)
        bench_die("out of memory");
}

static void raw_queue(struct bench_ws *w, const void *p, size_t n) {
    if (n > w->out_cap - w->out_len)
        bench_die("the peer does not read");
    memcpy(w->out + w->out_len, p, n);
    w->out_len += n;
}

/* The next line that ends in CRLF, without it; p == NULL: not yet here. */
static ptn_bytes raw_line(struct bench_ws *w) {
    const uint8_t *p = w->in + w->in_pos;
    const uint8_t *end = memmem(p, w->in_len - w->in_pos, "\r\n", 2);
    if (end == NULL)
        return (ptn_bytes){NULL, 0};
    w->in_pos += (size_t)(end - p) + 2;
    return (ptn_bytes){p, (size_t)(end - p)};
}

static ptn_bytes raw_line_wait(struct bench_ws *w) {
    for (;;) {
        ptn_bytes line = raw_line(w);
        if (line.p != NULL)
            return line;
        struct pollfd p = {.fd = w->fd, .events = POLLIN};
        if (poll(&p, 1, 10000) != 1 || !bench_ws_read(w))
            bench_die("the server did not answer within 10 s");
    }
}

static bool begins(ptn_bytes b, const char *z) {
    size_t n = strlen(z);
    return b.n >= n && memcmp(b.p, z, n) == 0;
}

/* ---- Postern ------------------------------------------------------------------------------ */

static size_t put_str(uint8_t *p, const char *z, size_t n) {
    size_t head = 0;
    if (n < 32) {
        p[head++] = (uint8_t)(0xa0 | n);
    } else if (n < 256) {
        p[head++] = 0xd9;
        p[head++] = (uint8_t)n;
    } else {
        p[head++] = 0xda;
        p[head++] = (uint8_t)(n >> 8);
        p[head++] = (uint8_t)n;
    }
    memcpy(p + head, z, n);
    return head + n;
}

/* A publish to a durable topic, or a message to a conversation; `id` comes behind, per append. */
static void postern_body(struct durable_conn *c) {
    const struct durable_options *o = c->o;
    bool is_message = o->conversation != NULL;
    const char *where = is_message ? o->conversation : o->topic;
    char payload[1024];
    memset(payload, 'x', o->bytes);
    if (o->peer == PEER_WS_JSON) {
        c->body_bytes = (size_t)snprintf(
            (char *)c->body, sizeof c->body,
            is_message
                ? "{\"type\":\"message\",\"conversationId\":\"%s\",\"content\":\"%.*s\",\"id\":"
                : "{\"type\":\"publish\",\"durability\":\"synced\",\"topic\":\"%s\","
                  "\"data\":\"%.*s\",\"id\":",
            where, (int)o->bytes, payload);
        return;
    }
    const char *pairs[][2] = {
        {"type", is_message ? "message" : "publish"},
        {is_message ? "conversationId" : "topic", where},
        {is_message ? "content" : "data", NULL},
        {"durability", is_message ? "" : "synced"},
        {"token", o->peer == PEER_ZMQ ? o->token : ""},
    };
    uint8_t *p = c->body;
    uint8_t *head = p++;
    unsigned n = 1; /* id */
    for (size_t i = 0; i < PTN_ARRAY_LEN(pairs); i++) {
        const char *value = pairs[i][1];
        if (value != NULL && value[0] == '\0')
            continue;
        p += put_str(p, pairs[i][0], strlen(pairs[i][0]));
        p += value == NULL ? put_str(p, payload, o->bytes) : put_str(p, value, strlen(value));
        n++;
    }
    *head = (uint8_t)(0x80 | n);
    p += put_str(p, "id", 2);
    c->body_bytes = (size_t)(p - c->body);
}

static size_t postern_encode(struct durable_conn *c) {
    uint8_t *end = c->body + c->body_bytes;
    if (c->o->peer == PEER_WS_JSON)
        return c->body_bytes +
               (size_t)snprintf((char *)end, 24, "%llu}", (unsigned long long)c->sent);
    end[0] = 0xce;
    for (int i = 0; i < 4; i++)
        end[1 + i] = (uint8_t)(c->sent >> (24 - 8 * i));
    return c->body_bytes + 5;
}

/* `type` is the first member of every frame. */
static bool postern_is_ack(ptn_bytes m) {
    if (m.n > 16 && memmem(m.p, 16, "ack", 3) != NULL)
        return true;
    if (m.n > 16 && memmem(m.p, 16, "error", 5) != NULL)
        bench_die("refused: %.*s", (int)(m.n < 400 ? m.n : 400), m.p);
    return false; /* welcome */
}

static size_t zmq_acks(struct durable_conn *c) {
    size_t n = 0;
    for (;;) {
        uint8_t m[2048];
        int got = zmq_recv(c->zmq, m, sizeof m, ZMQ_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return n;
        if (got < 0)
            bench_die("zmq_recv: %s", zmq_strerror(errno));
        if (got > 0)
            n += postern_is_ack((ptn_bytes){m, (size_t)got < sizeof m ? (size_t)got : sizeof m});
    }
}

/* ---- NATS JetStream ----------------------------------------------------------------------- */

static void nats_open(struct durable_conn *c) {
    static unsigned conns;
    char hello[160];
    int n = snprintf(c->inbox, sizeof c->inbox, "_INBOX.%d-%u", (int)getpid(), conns++);
    n = snprintf(hello, sizeof hello,
                 "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB %s.* 1\r\n", c->inbox);
    static const char config[] = "{\"name\":\"LOG\",\"subjects\":[\"log.1\"],\"storage\":\"file\","
                                 "\"retention\":\"limits\",\"num_replicas\":1}";
    raw_open(&c->ws, c->o->address);
    raw_queue(&c->ws, hello, (size_t)n);
    char request[512];
    n = snprintf(request, sizeof request, "PUB $JS.API.STREAM.CREATE.LOG %s.make %zu\r\n%s\r\n",
                 c->inbox, sizeof config - 1, config);
    raw_queue(&c->ws, request, (size_t)n);
    bench_ws_flush(&c->ws);
    for (ptn_bytes line = {NULL, 0}; !begins(line, "MSG _INBOX.");)
        line = raw_line_wait(&c->ws);
    ptn_bytes answer = raw_line_wait(&c->ws);
    if (memmem(answer.p, answer.n, "\"error\"", 7) != NULL)
        bench_die("no stream: %.*s", (int)answer.n, answer.p);
    memset(c->body, 'x', c->o->bytes);
}

static void nats_append(struct durable_conn *c) {
    char head[96];
    int n = snprintf(head, sizeof head, "PUB log.1 %s.%llu %u\r\n", c->inbox,
                     (unsigned long long)c->sent, c->o->bytes);
    raw_queue(&c->ws, head, (size_t)n);
    raw_queue(&c->ws, c->body, c->o->bytes);
    raw_queue(&c->ws, "\r\n", 2);
}

static size_t nats_acks(struct bench_ws *w) {
    size_t n = 0;
    for (;;) {
        size_t before = w->in_pos;
        ptn_bytes line = raw_line(w);
        if (line.p == NULL)
            return n;
        if (begins(line, "PING"))
            raw_queue(w, "PONG\r\n", 6);
        if (begins(line, "-ERR"))
            bench_die("refused: %.*s", (int)line.n, line.p);
        if (!begins(line, "MSG "))
            continue;
        ptn_bytes body = raw_line(w);
        if (body.p == NULL) {
            w->in_pos = before;
            return n;
        }
        if (memmem(body.p, body.n, "\"seq\"", 5) == NULL)
            bench_die("refused: %.*s", (int)body.n, body.p);
        n++;
    }
}

/* ---- Redis -------------------------------------------------------------------------------- */

static void redis_open(struct durable_conn *c) {
    raw_open(&c->ws, c->o->address);
    int n =
        snprintf((char *)c->body, sizeof c->body,
                 "*5\r\n$4\r\nXADD\r\n$5\r\nlog.1\r\n$1\r\n*\r\n$1\r\nd\r\n$%u\r\n", c->o->bytes);
    memset(c->body + n, 'x', c->o->bytes);
    c->body_bytes = (size_t)n + c->o->bytes;
    memcpy(c->body + c->body_bytes, "\r\n", 2);
    c->body_bytes += 2;
}

/* "$15", then the id: two lines per append. */
static size_t redis_acks(struct bench_ws *w) {
    size_t n = 0;
    for (;;) {
        size_t before = w->in_pos;
        ptn_bytes head = raw_line(w);
        if (head.p != NULL && !begins(head, "$"))
            bench_die("refused: %.*s", (int)head.n, head.p);
        if (head.p == NULL || raw_line(w).p == NULL) {
            w->in_pos = before;
            return n;
        }
        n++;
    }
}

/* ---- all ---------------------------------------------------------------------------------- */

void durable_open(struct durable_conn *c, const struct durable_options *o, void *zmq_context) {
    int zero = 0;
    *c = (struct durable_conn){.o = o, .ws = {.fd = -1}};
    switch (o->peer) {
    case PEER_NATS:
        nats_open(c);
        return;
    case PEER_REDIS:
        redis_open(c);
        return;
    case PEER_ZMQ:
        c->zmq = zmq_socket(zmq_context, ZMQ_DEALER);
        if (c->zmq == NULL || zmq_setsockopt(c->zmq, ZMQ_LINGER, &zero, sizeof zero) != 0 ||
            zmq_connect(c->zmq, o->address) != 0)
            bench_die("zmq %s: %s", o->address, zmq_strerror(errno));
        break;
    default:
        bench_ws_open(&c->ws, o->address, NULL, o->token,
                      o->peer == PEER_WS_JSON ? "postern.v1.json" : "postern.v1.msgpack");
    }
    postern_body(c);
}

void durable_close(struct durable_conn *c) {
    if (c->zmq != NULL)
        zmq_close(c->zmq);
    else
        bench_ws_close(&c->ws);
}

void durable_append(struct durable_conn *c) {
    c->at_ns[c->sent % DURABLE_WINDOW_MAX] = bench_now_ns();
    switch (c->o->peer) {
    case PEER_NATS:
        nats_append(c);
        break;
    case PEER_REDIS:
        raw_queue(&c->ws, c->body, c->body_bytes);
        break;
    case PEER_ZMQ: {
        size_t n = postern_encode(c);
        if (zmq_send(c->zmq, "", 0, ZMQ_SNDMORE) < 0 || zmq_send(c->zmq, c->body, n, 0) < 0)
            bench_die("zmq_send: %s", zmq_strerror(errno));
        break;
    }
    default:
        bench_ws_queue(&c->ws, c->o->peer == PEER_WS_JSON ? 1 : 2, c->body, postern_encode(c));
    }
    c->sent++;
}

void durable_flush(struct durable_conn *c) {
    if (c->zmq == NULL)
        bench_ws_flush(&c->ws);
}

size_t durable_acks(struct durable_conn *c) {
    if (c->zmq != NULL)
        return zmq_acks(c);
    if (!bench_ws_read(&c->ws))
        bench_die("the server closed the connection");
    if (c->o->peer == PEER_NATS)
        return nats_acks(&c->ws);
    if (c->o->peer == PEER_REDIS)
        return redis_acks(&c->ws);
    size_t n = 0;
    ptn_bytes m;
    while (bench_ws_next(&c->ws, &m))
        n += postern_is_ack(m);
    return n;
}
