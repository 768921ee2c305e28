/* SPDX-License-Identifier: Apache-2.0
 *
 * driver_http.c - any HTTP/1.1 server (GET of a path), and Postern's REST: topics by POST, events
 * as an event stream (SSE).
 */
#include "bench/load/driver.h"

#include <stdlib.h>
#include <strings.h>

struct http { /* of a link */
    char get[3072];
    size_t get_bytes;
    char head[2600]; /* of a POST, between its first line and the length of its body */
    bool streams;    /* it is an event stream */
    bool in_stream;  /* past the head of the response */
    bool named;      /* the event says what it is: no delivery */
};

static void http_open(struct bench_link *l, const struct bench_target *t, const char *source) {
    struct http *h = calloc(1, sizeof *h);
    if (h == NULL)
        bench_die("out of memory");
    l->user = h;
    l->io = (struct bench_ws){.fd = bench_connect(t->address, source)};
    bool has_token = t->token[0] != '\0';
    int n = snprintf(h->head, sizeof h->head, "HTTP/1.1\r\nHost: %s\r\n%s%s%s", t->address,
                     has_token ? "Authorization: Bearer " : "", t->token, has_token ? "\r\n" : "");
    int m = snprintf(h->get, sizeof h->get, "GET %s %s\r\n", t->path != NULL ? t->path : "/health",
                     h->head);
    if (n < 0 || (size_t)n >= sizeof h->head || m < 0 || (size_t)m >= sizeof h->get)
        bench_die("the token or the path is too long");
    h->get_bytes = (size_t)m;
}

static void http_close(struct bench_link *l) {
    free(l->user);
}

static void http_request(struct bench_link *l, const void *payload, size_t n) {
    struct http *h = l->user;
    (void)payload, (void)n;
    bench_link_queue(l, h->get, h->get_bytes);
}

/* ---- responses ----------------------------------------------------------------------------- */

static size_t content_length(const char *head, const char *end) {
    static const char name[] = "content-length:";
    for (const char *p = head; (p = memchr(p, '\n', (size_t)(end - p))) != NULL;) {
        p++;
        if ((size_t)(end - p) > sizeof name && strncasecmp(p, name, sizeof name - 1) == 0)
            return (size_t)strtoul(p + sizeof name - 1, NULL, 10);
    }
    bench_die("a response without Content-Length: %.*s", (int)(end - head), head);
}

static enum bench_got response(struct bench_link *l, ptn_bytes *ret_body) {
    struct bench_ws *w = &l->io;
    const char *head = (const char *)w->in + w->in_pos;
    size_t have = w->in_len - w->in_pos;
    const char *end = have > 0 ? memmem(head, have, "\r\n\r\n", 4) : NULL;
    if (end == NULL)
        return BENCH_NOTHING;
    end += 4;
    if (strncmp(head, "HTTP/1.1 ", 9) != 0)
        bench_die("not an HTTP response: %.*s", (int)(end - head), head);
    size_t body = content_length(head, end);
    if (have - (size_t)(end - head) < body)
        return BENCH_NOTHING;
    *ret_body = (ptn_bytes){(const uint8_t *)end, body};
    w->in_pos += (size_t)(end - head) + body;
    return head[9] == '2' ? BENCH_ANSWER : BENCH_REFUSAL;
}

static enum bench_got event(struct bench_link *l, ptn_bytes *ret_payload) {
    struct http *h = l->user;
    size_t n = l->target->payload_bytes;
    for (ptn_bytes m; (m = bench_link_line(l)).p != NULL;) {
        const char *p = (const char *)m.p;
        if (m.n == 0) {
            h->in_stream = true;
            h->named = false;
        } else if (!h->in_stream) {
            if (m.n > 12 && memcmp(p, "HTTP/1.1 ", 9) == 0 && p[9] != '2') {
                *ret_payload = m;
                return BENCH_REFUSAL;
            }
        } else if (m.n > 7 && memcmp(p, "event: ", 7) == 0) {
            h->named = true;
            *ret_payload = m;
            if (m.n == 17 && memcmp(p + 7, "subscribed", 10) == 0)
                return BENCH_ANSWER;
            return BENCH_REFUSAL; /* reset, expired, revoked, drain */
        } else if (!h->named && m.n > n + 8 && memcmp(p, "data: ", 6) == 0) {
            *ret_payload = (ptn_bytes){m.p + m.n - 2 - n, n};
            return BENCH_DELIVERY;
        }
    }
    return BENCH_NOTHING;
}

static enum bench_got http_next(struct bench_link *l, ptn_bytes *ret_payload) {
    struct http *h = l->user;
    return h->streams ? event(l, ret_payload) : response(l, ret_payload);
}

/* ---- topics -------------------------------------------------------------------------------- */

static void rest_subscribe(struct bench_link *l, const char *topic) {
    struct http *h = l->user;
    char request[3072];
    ptn_bytes m;
    if (h->streams)
        bench_die("an event stream has one topic");
    h->streams = true;
    int n =
        snprintf(request, sizeof request, "GET /api/v1/topics/%s/events %s\r\n", topic, h->head);
    if (n < 0 || (size_t)n >= sizeof request)
        bench_die("the token is too long");
    bench_link_queue(l, request, (size_t)n);
    if (bench_link_wait(l, &m) != BENCH_ANSWER)
        bench_die("%s: %.*s", topic, (int)m.n, m.p);
}

static void rest_publish(struct bench_link *l, const char *topic, const void *payload, size_t n) {
    struct http *h = l->user;
    char head[3072];
    int k = snprintf(head, sizeof head,
                     "POST /api/v1/topics/%s%s %sContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n\"",
                     topic, l->target->durable ? "?durability=synced" : "", h->head, n + 2);
    if (k < 0 || (size_t)k >= sizeof head)
        bench_die("the token is too long");
    bench_link_queue(l, head, (size_t)k);
    bench_link_queue(l, payload, n);
    bench_link_queue(l, "\"", 1);
}

/* -------------------------------------------------------------------------------------------- */

extern const struct bench_driver bench_http, bench_postern_rest;

const struct bench_driver bench_http = {
    .name = "http",
    .about = "any HTTP/1.1 server: GET of a path",
    .can = BENCH_CAN_REQUEST | BENCH_CAN_HTTP,
    .open = http_open,
    .request = http_request,
    .next = http_next,
    .close = http_close,
};

const struct bench_driver bench_postern_rest = {
    .name = "postern-rest",
    .about = "Postern over REST; subscribers are event streams (SSE)",
    .can = BENCH_CAN_PUBSUB | BENCH_CAN_REQUEST | BENCH_CAN_HTTP | BENCH_CAN_DURABLE |
           BENCH_ANSWERS_PUBLISH | BENCH_IS_POSTERN,
    .open = http_open,
    .subscribe = rest_subscribe,
    .publish = rest_publish,
    .request = http_request,
    .next = http_next,
    .close = http_close,
};
