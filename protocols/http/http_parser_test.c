/* SPDX-License-Identifier: Apache-2.0
 *
 * http_parser_test.c - the request machine: what it takes, what it refuses and how, and that
 * neither depends on how the bytes were split.
 */
#include "protocols/http/http.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

static const edge_limits *limits(void) {
    static edge_limits l;
    l = (edge_limits){.request_line_bytes_max = 256,
                      .header_bytes_max = 1024,
                      .headers_max = 16,
                      .body_bytes_max = 512};
    edge_limits_defaults(&l);
    return &l;
}

/* Everything that is observable about a run over a stream of bytes. */
struct outcome {
    unsigned requests, continues, status;
    char text[8192]; /* each request, printed */
    size_t n;
};

static void note(struct outcome *o, const char *key, ptn_str v) {
    int n = snprintf(o->text + o->n, sizeof o->text - o->n, "%s=%.*s;", key, (int)v.n, v.p);
    o->n = n < 0 || (size_t)n >= sizeof o->text - o->n ? sizeof o->text - 1 : o->n + (size_t)n;
}

static void note_request(struct outcome *o, const struct http_request *r) {
    o->requests++;
    note(o, "method", ptn_str_of(ptn_method_name(r->method)));
    note(o, "path", http_path(r));
    note(o, "query", http_span_str(r, r->query));
    note(o, "keep", r->keep_alive ? PTN_STR("1") : PTN_STR("0"));
    note(o, "upgrade", r->upgrade_websocket ? PTN_STR("1") : PTN_STR("0"));
    for (int h = 0; h < HTTP_H_COUNT; h++)
        if (http_has(r, (enum http_header)h))
            note(o, "h", http_header(r, (enum http_header)h));
    note(o, "body", (ptn_str){(const char *)r->body.p, r->body.n});
}

/* Feeds from an exact-size heap copy per piece, so that a sanitizer sees reads past the end. */
static void feed(struct http_parser *p, struct outcome *o, const char *data, size_t n) {
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    memcpy(copy, data, n);
    size_t at = 0;
    while (at < n && o->status == 0) {
        size_t used = 0;
        enum http_event ev = http_parser_feed(p, copy + at, n - at, &used);
        at += used;
        cr_assert(used != 0 || ev == HTTP_EV_REFUSED || ev == HTTP_EV_REQUEST, "no progress");
        if (ev == HTTP_EV_REQUEST)
            note_request(o, &p->request);
        else if (ev == HTTP_EV_CONTINUE)
            o->continues++;
        else if (ev == HTTP_EV_REFUSED)
            o->status = p->status;
        else
            cr_assert_eq(at, n, "MORE with bytes left");
    }
    free(copy);
}

static struct outcome run(const char *data, size_t n, size_t split) {
    struct http_parser p;
    struct outcome o = {0};
    http_parser_init(&p, limits());
    feed(&p, &o, data, split);
    feed(&p, &o, data + split, n - split);
    if (o.status != 0)
        cr_assert(p.message != NULL && strlen(p.message) > 8, "a refusal says why");
    http_parser_done(&p);
    return o;
}

static struct outcome run_bytewise(const char *data, size_t n) {
    struct http_parser p;
    struct outcome o = {0};
    http_parser_init(&p, limits());
    for (size_t i = 0; i < n; i++)
        feed(&p, &o, data + i, 1);
    http_parser_done(&p);
    return o;
}

/* The whole, every split in two, and one byte at a time must agree. */
static struct outcome run_all(const char *data, size_t n) {
    struct outcome whole = run(data, n, n);
    for (size_t i = 0; i <= n; i++) {
        struct outcome o = run(data, n, i);
        cr_assert_eq(o.requests, whole.requests, "split at %zu: %u requests, whole %u\n%s", i,
                     o.requests, whole.requests, data);
        cr_assert_eq(o.status, whole.status, "split at %zu: status %u, whole %u\n%s", i, o.status,
                     whole.status, data);
        cr_assert_str_eq(o.text, whole.text, "split at %zu of: %s", i, data);
    }
    struct outcome o = run_bytewise(data, n);
    cr_assert_eq(o.requests, whole.requests);
    cr_assert_eq(o.status, whole.status, "bytewise: status %u, whole %u\n%s", o.status,
                 whole.status, data);
    cr_assert_str_eq(o.text, whole.text);
    return whole;
}

#define H "Host: a\r\n"

struct good {
    const char *text;
    unsigned requests;
    const char *has; /* part of the printed outcome */
};

static const struct good goods[] = {
    {"GET / HTTP/1.1\r\n" H "\r\n", 1, "method=GET;path=/;query=;keep=1;"},
    {"\r\nGET / HTTP/1.1\r\n" H "\r\n", 1, "path=/;"},
    {"GET /a%20b?x=1&y=%zz?/ HTTP/1.1\r\n" H "\r\n", 1, "path=/a%20b;query=x=1&y=%zz?/;"},
    {"GET / HTTP/1.0\r\n\r\n", 1, "keep=0;"},
    {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", 1, "keep=1;"},
    {"GET / HTTP/1.1\r\n" H "Connection: close\r\n\r\n", 1, "keep=0;"},
    {"GET / HTTP/1.1\r\n" H "Connection: x, Close ,y\r\n\r\n", 1, "keep=0;"},
    {"GET / HTTP/1.1\r\n" H "Connection: x\r\nConnection: close\r\n\r\n", 1, "keep=0;"},
    {"HEAD /h HTTP/1.1\r\n" H "\r\n", 1, "method=HEAD;path=/h;"},
    {"OPTIONS * HTTP/1.1\r\n" H "\r\n", 1, "method=OPTIONS;path=*;"},
    {"PROPFIND / HTTP/1.1\r\n" H "\r\n", 1, "path=/;"},
    {"GET http://a/b?c HTTP/1.1\r\n" H "\r\n", 1, "path=/b;query=c;"},
    {"GET HTTP://a HTTP/1.1\r\n" H "\r\n", 1, "path=/;query=;"},
    {"GET https://a:80?q HTTP/1.1\r\nHost: a:80\r\n\r\n", 1, "path=/;query=q;"},
    {"GET / HTTP/1.1\r\nHost: [::1]:8771\r\n\r\n", 1, "h=[::1]:8771;"},
    {"GET / HTTP/1.1\r\nHOST:\t example.org:80 \t\r\n\r\n", 1, "h=example.org:80;"},
    {"GET / HTTP/1.1\r\n" H "X-Obs: \xe4\xb8\xad\r\n\r\n", 1, "path=/;"},
    {"GET / HTTP/1.1\r\n" H "X-Empty:\r\nX-Blank: \t \r\n\r\n", 1, "path=/;"},
    {"GET / HTTP/1.1\r\n" H "Accept: a\r\nX: y\r\naccept:  b\r\n\r\n", 1, "h=a, b;"},
    {"GET / HTTP/1.1\r\n" H "Accept: a\r\nAccept: b\r\nPrefer: p\r\nPrefer: q\r\n\r\n", 1,
     "h=a, b;h=p, q;"},
    {"GET / HTTP/1.1\r\n" H "traceparent: x\r\ntraceparent: y\r\n\r\n", 1, "h=a;body="},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nhello", 1, "body=hello;"},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 005\r\n\r\nhello", 1, "body=hello;"},
    {"POST /p HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n", 1, "body=;"},
    {"POST /p HTTP/1.1\r\n" H "Accept: a\r\nAccept: b\r\nContent-Length: 5\r\n\r\nhello", 1,
     "h=a, b;body=hello;"},
    {"POST /p HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1,
     "body=hello;"},
    {"POST /p HTTP/1.1\r\n" H "transfer-encoding: CHUNKED\r\n\r\n0\r\n\r\n", 1, "body=;"},
    {"POST /p HTTP/1.1\r\n" H "Accept: a\r\nAccept: b\r\nTransfer-Encoding: chunked\r\n\r\n"
     "3;n=v;s=\"q\"\r\nabc\r\n00A\r\n0123456789\r\n000\r\nT: v\r\nEmpty:\r\n\r\n",
     1, "h=a, b;body=abc0123456789;"},
    {"POST /p HTTP/1.1\r\n" H "Expect: 100-Continue\r\nContent-Length: 2\r\n\r\nok", 1, "body=ok;"},
    {"GET /1 HTTP/1.1\r\n" H "\r\nGET /2 HTTP/1.1\r\n" H "\r\n", 2, "path=/2;"},
    {"POST /1 HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc\r\nGET /2 HTTP/1.1\r\n" H
     "\r\nPOST /3 HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1\r\nz\r\n0\r\n\r\n"
     "GET /4 HTTP/1.1\r\n" H "\r\n",
     4, "path=/4;"},
    {"GET /ws HTTP/1.1\r\n" H "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n", 1,
     "upgrade=1;"},
    {"GET /ws HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 1, "upgrade=0;"},
    {"GET / HTTP/1.1\r\n" H "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
     "HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
     1, "upgrade=0;"},
};

Test(http_parser, takes_what_is_right) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(goods); i++) {
        const struct good *g = &goods[i];
        struct outcome o = run_all(g->text, strlen(g->text));
        cr_assert_eq(o.status, 0, "refused with %u: %s", o.status, g->text);
        cr_assert_eq(o.requests, g->requests, "%u requests in: %s", o.requests, g->text);
        cr_assert(strstr(o.text, g->has) != NULL, "%s\nis not in %s", g->has, o.text);
    }
}

struct bad {
    unsigned status;
    const char *text;
};

#define P "POST / HTTP/1.1\r\n" H
#define G "GET / HTTP/1.1\r\n" H
#define C P "Transfer-Encoding: chunked\r\n\r\n"

static const struct bad bads[] = {
    /* line ends */
    {400, "GET / HTTP/1.1\n" H "\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a\r\n\n"},
    {400, "GET / HTTP/1.1\rHost: a\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"},
    {400, G "X: a\r\n\rY: b\r\n\r\n"},
    {400, "\n\nGET / HTTP/1.1\r\n" H "\r\n"},
    {400, "\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n"},
    /* request line */
    {400, " GET / HTTP/1.1\r\n" H "\r\n"},
    {400, "GET  / HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /  HTTP/1.1\r\n" H "\r\n"},
    {400, "GET / HTTP/1.1 \r\n" H "\r\n"},
    {400, "GET\t/ HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /\r\n\r\n"},
    {400, "GET\r\n\r\n"},
    {400, "G(T / HTTP/1.1\r\n" H "\r\n"},
    {501, "get / HTTP/1.1\r\n" H "\r\n"},
    {501, "FROB / HTTP/1.1\r\n" H "\r\n"},
    {501, "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGH / HTTP/1.1\r\n" H "\r\n"},
    {400, "GET / http/1.1\r\n" H "\r\n"},
    {400, "GET / HTTP/11\r\n" H "\r\n"},
    {400, "GET / HTTP/1.1x\r\n" H "\r\n"},
    {400, "GET / RTSP/1.0\r\n" H "\r\n"},
    {505, "GET / HTTP/1.2\r\n" H "\r\n"},
    {505, "GET / HTTP/0.9\r\n" H "\r\n"},
    {505, "GET / HTTP/2.0\r\n" H "\r\n"},
    {505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
    {400, "\x16\x03\x01\x02\x00\x01\x00"},
    /* target */
    {400, "GET a HTTP/1.1\r\n" H "\r\n"},
    {400, "GET * HTTP/1.1\r\n" H "\r\n"},
    {400, "GET a:80 HTTP/1.1\r\n" H "\r\n"},
    {400, "CONNECT a:80 HTTP/1.1\r\n" H "\r\n"},
    {400, "CONNECT / HTTP/1.1\r\n" H "\r\n"},
    {400, "GET ftp://a/ HTTP/1.1\r\n" H "\r\n"},
    {400, "GET http:/// HTTP/1.1\r\n" H "\r\n"},
    {400, "GET http://b/ HTTP/1.1\r\n" H "\r\n"},
    {400, "GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n\r\n"},
    {400, "GET /#f HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /\xc3\xa4 HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /\x7f HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /\x01 HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /%4 HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /%gg HTTP/1.1\r\n" H "\r\n"},
    /* headers */
    {400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n"},
    {400, G " folded\r\n\r\n"},
    {400, G "X: a\r\n\tfolded\r\n\r\n"},
    {400, G "X : a\r\n\r\n"},
    {400, G "X\t: a\r\n\r\n"},
    {400, G "X Y: a\r\n\r\n"},
    {400, G ": a\r\n\r\n"},
    {400, G "X\r\n\r\n"},
    {400, G "X\x01: a\r\n\r\n"},
    {400, G "X[]: a\r\n\r\n"},
    {400, G "X\xe4: a\r\n\r\n"},
    {400, G "X: a\x01z\r\n\r\n"},
    {400, G "X: a\x7f\r\n\r\n"},
    {400, G "X: a\x0b\r\n\r\n"},
    {400, G "Authorization: Bearer \xe4\r\n\r\n"},
    {400, G "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n"},
    {400, G "Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n"},
    {417, P "Expect: tea\r\nContent-Length: 1\r\n\r\nx"},
    /* host */
    {400, "GET / HTTP/1.1\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
    {400, G "Host: a\r\n\r\n"},
    {400, G "host: b\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n"},
    {400, "GET / HTTP/1.0\r\nHost: a b\r\n\r\n"},
    /* framing */
    {400, P "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"},
    {400, P "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"},
    {400, P "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"},
    {400, P "Content-Length: 5, 5\r\n\r\nhello"},
    {400, P "Content-Length: +5\r\n\r\nhello"},
    {400, P "Content-Length: -5\r\n\r\nhello"},
    {400, P "Content-Length: 0x5\r\n\r\nhello"},
    {400, P "Content-Length: 5 0\r\n\r\nhello"},
    {400, P "Content-Length: five\r\n\r\nhello"},
    {400, P "Content-Length:\r\n\r\n"},
    {400, P "Content-Length: 5;\r\n\r\nhello"},
    {400, P "Content-Length: 99999999999999999999999\r\n\r\nhello"},
    {413, P "Content-Length: 513\r\n\r\nhello"},
    {413, P "Content-Length: 4294967301\r\n\r\nhello"},
    {413, P "Expect: 100-continue\r\nContent-Length: 9999\r\n\r\n"},
    {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding: gzip\r\n\r\n"},
    {400, P "Transfer-Encoding: identity\r\n\r\n"},
    {400, P "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding:\r\n\r\n0\r\n\r\n"},
    {400, P "Transfer-Encoding:\x0b"
            "chunked\r\n\r\n0\r\n\r\n"},
    /* chunks */
    {400, C "x\r\n"},
    {400, C "\r\n"},
    {400, C "-1\r\n"},
    {400, C "0x5\r\nhello\r\n0\r\n\r\n"},
    {400, C "5 \r\nhello\r\n0\r\n\r\n"},
    {400, C " 5\r\nhello\r\n0\r\n\r\n"},
    {400, C "5\nhello\r\n0\r\n\r\n"},
    {400, C "5\rhello\r\n0\r\n\r\n"},
    {400, C "5\r\nhello!\r\n0\r\n\r\n"},
    {400, C "5\r\nhello\n0\r\n\r\n"},
    {400, C "5\r\nhelloXX0\r\n\r\n"},
    {400, C "5\r\nhello\rX0\r\n\r\n"},
    {400, C "5;a\x01\r\nhello\r\n0\r\n\r\n"},
    {400, C "5;a\nhello\r\n0\r\n\r\n"},
    {400, C "10000000000000000\r\nhello\r\n0\r\n\r\n"},
    {400, C "00000000000000005\r\nhello\r\n0\r\n\r\n"},
    {413, C "ffffffffffffffff\r\nhello\r\n0\r\n\r\n"},
    {413, C "201\r\nhello\r\n0\r\n\r\n"},
    {413, C "5\r\nhello\r\n1fc\r\n"},
    {400, C "0\r\nbad\r\n\r\n"},
    {400, C "0\r\n folded: x\r\n\r\n"},
    {400, C "0\r\nA : x\r\n\r\n"},
    {400, C "0\r\nA: \x01\r\n\r\n"},
    {400, C "0\r\nA: b\n\r\n"},
    {400, C "0\r\n\rX"},
    {400, C "0\r\n\n"},
};

Test(http_parser, refuses_what_is_wrong) {
    _Static_assert(PTN_ARRAY_LEN(bads) >= 60, "the smuggling family is large");
    for (size_t i = 0; i < PTN_ARRAY_LEN(bads); i++) {
        struct outcome o = run_all(bads[i].text, strlen(bads[i].text));
        cr_assert_eq(o.status, bads[i].status, "status %u, not %u, for: %s", o.status,
                     bads[i].status, bads[i].text);
        cr_assert_eq(o.requests, 0, "a request came out of: %s", bads[i].text);
    }
}

Test(http_parser, refuses_nul) {
    static const char line[] = "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n";
    static const char name[] = "GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n\r\n";
    static const char value[] = "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n";
    cr_assert_eq(run_all(line, sizeof line - 1).status, 400);
    cr_assert_eq(run_all(name, sizeof name - 1).status, 400);
    cr_assert_eq(run_all(value, sizeof value - 1).status, 400);
}

/* Head, n times one byte, tail. */
static struct outcome run_long(const char *head, char c, size_t n, const char *tail) {
    size_t a = strlen(head), b = strlen(tail);
    char *text = malloc(a + n + b + 1);
    memcpy(text, head, a);
    memset(text + a, c, n);
    memcpy(text + a + n, tail, b + 1);
    struct outcome o = run_all(text, a + n + b);
    free(text);
    return o;
}

Test(http_parser, request_line_bound) {
    const char *head = "GET /", *tail = " HTTP/1.1\r\n" H "\r\n";
    size_t room = 256 - strlen("GET / HTTP/1.1");
    cr_assert_eq(run_long(head, 'a', room, tail).requests, 1);
    cr_assert_eq(run_long(head, 'a', room + 1, tail).status, 414);
    cr_assert_eq(run_long(head, 'a', 4000, "").status, 414);
}

Test(http_parser, header_bounds) {
    size_t room = 1024 - strlen(H) - strlen("X: ");
    cr_assert_eq(run_long(G "X: ", 'a', room - 2, "\r\n\r\n").requests, 1);
    cr_assert_eq(run_long(G "X: ", 'a', room + 1, "\r\n\r\n").status, 431);
    cr_assert_eq(run_long(G "X: ", 'a', 4000, "").status, 431);
    char text[1024] = "GET / HTTP/1.1\r\n" H;
    for (int i = 0; i < 15; i++)
        strncat(text, "X: y\r\n", sizeof text - strlen(text) - 1);
    char more[1024];
    snprintf(more, sizeof more, "%sX: y\r\n\r\n", text);
    strncat(text, "\r\n", sizeof text - strlen(text) - 1);
    cr_assert_eq(run_all(text, strlen(text)).requests, 1);
    cr_assert_eq(run_all(more, strlen(more)).status, 431);
}

Test(http_parser, chunk_bounds) {
    cr_assert_eq(run_long(C "1;", 'e', 256, "\r\nx\r\n0\r\n\r\n").requests, 1);
    cr_assert_eq(run_long(C "1;", 'e', 257, "\r\nx\r\n0\r\n\r\n").status, 400);
    cr_assert_eq(run_long(C "0\r\nT: ", 'e', 2000, "\r\n\r\n").status, 431);
    cr_assert_eq(run_long(P "Content-Length: 512\r\n\r\n", 'b', 512, "").requests, 1);
    cr_assert_eq(run_long(C "200\r\n", 'b', 512, "\r\n0\r\n\r\n").requests, 1);
}

Test(http_parser, continue_is_announced_once_and_only_for_a_body) {
    const char *with = P "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok";
    const char *chunked = P "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    const char *without = P "Expect: 100-continue\r\n\r\n";
    const char *old = "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok";
    cr_assert_eq(run_all(with, strlen(with)).continues, 1);
    cr_assert_eq(run_all(chunked, strlen(chunked)).continues, 1);
    cr_assert_eq(run_all(without, strlen(without)).continues, 0);
    cr_assert_eq(run_all(old, strlen(old)).continues, 0);
}

Test(http_parser, a_request_in_one_read_is_not_copied) {
    static const char text[] = P "Content-Length: 5\r\n\r\nhello";
    struct http_parser p;
    size_t used = 0;
    http_parser_init(&p, limits());
    cr_assert(http_parser_is_idle(&p));
    cr_assert_eq(http_parser_feed(&p, (const uint8_t *)text, sizeof text - 1, &used),
                 HTTP_EV_REQUEST);
    cr_assert_eq(used, sizeof text - 1);
    cr_assert_eq(p.own.cap, 0, "no memory was taken");
    cr_assert_eq((const char *)p.request.body.p, text + sizeof text - 6);
    cr_assert(http_parser_is_idle(&p));
    http_parser_done(&p);
}

Test(http_parser, phases) {
    struct http_parser p;
    size_t used = 0;
    http_parser_init(&p, limits());
    http_parser_feed(&p, (const uint8_t *)"GE", 2, &used);
    cr_assert(!http_parser_is_idle(&p) && !http_parser_in_body(&p));
    const char *rest = "T / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na";
    http_parser_feed(&p, (const uint8_t *)rest, strlen(rest), &used);
    cr_assert(!http_parser_is_idle(&p) && http_parser_in_body(&p));
    cr_assert_eq(http_parser_feed(&p, (const uint8_t *)"bc", 2, &used), HTTP_EV_REQUEST);
    cr_assert(http_parser_is_idle(&p) && !http_parser_in_body(&p));
    http_parser_done(&p);
}

/* ---- header values ------------------------------------------------------------------------- */

Test(http_negotiate, accept) {
    static const struct {
        const char *accept;
        bool msgpack;
    } t[] = {
        {"", false},
        {"*/*", false},
        {"application/*", false},
        {"application/json", false},
        {"application/msgpack", true},
        {"Application/X-MsgPack", true},
        {"application/vnd.msgpack;q=0.5, */*;q=0.1", true},
        {"application/msgpack;q=0.5, application/json", false},
        {"application/msgpack;q=0.5, application/json;q=0.4", true},
        {"application/msgpack;q=0", false},
        {"application/msgpack;q=junk", false},
        {"text/html, application/msgpack;q=0.9, */*;q=0.8", true},
        {"application/msgpack;q=0.2, */*;q=0.8", false},
        {",,;;q=,", false},
    };
    for (size_t i = 0; i < PTN_ARRAY_LEN(t); i++)
        cr_assert_eq(http_accept_msgpack(ptn_str_of(t[i].accept)), t[i].msgpack, "%s", t[i].accept);
}

Test(http_negotiate, media) {
    cr_assert_eq(http_media_of(PTN_STR("")), HTTP_MEDIA_JSON);
    cr_assert_eq(http_media_of(PTN_STR("application/json")), HTTP_MEDIA_JSON);
    cr_assert_eq(http_media_of(PTN_STR("Application/JSON; Charset=\"UTF-8\"")), HTTP_MEDIA_JSON);
    cr_assert_eq(http_media_of(PTN_STR("application/json;charset=latin1")), HTTP_MEDIA_CHARSET);
    cr_assert_eq(http_media_of(PTN_STR("application/merge-patch+json")), HTTP_MEDIA_JSON);
    cr_assert_eq(http_media_of(PTN_STR("application/x-msgpack")), HTTP_MEDIA_MSGPACK);
    cr_assert_eq(http_media_of(PTN_STR("text/plain")), HTTP_MEDIA_OTHER);
    cr_assert_eq(http_media_of(PTN_STR("application/jsonx")), HTTP_MEDIA_OTHER);
}

Test(http_negotiate, traceparent) {
    uint8_t trace[16], span[8];
    ptn_str good = PTN_STR("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    cr_assert(http_traceparent(good, trace, span));
    cr_assert_eq(trace[0], 0x4b);
    cr_assert_eq(trace[15], 0x36);
    cr_assert_eq(span[7], 0xb7);
    cr_assert(http_traceparent(
        PTN_STR("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-what"), trace, span));
    static const char *const bad[] = {
        "",
        "00",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
    };
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++)
        cr_assert(!http_traceparent(ptn_str_of(bad[i]), trace, span), "%s", bad[i]);
}

Test(http_negotiate, seconds) {
    ptn_time t = 0;
    cr_assert(http_seconds(PTN_STR("5"), &t));
    cr_assert_eq(t, 5 * PTN_SEC);
    cr_assert(http_seconds(PTN_STR("0.25"), &t));
    cr_assert_eq(t, 250 * PTN_MS);
    cr_assert(http_seconds(PTN_STR("999999999.999999999"), &t));
    cr_assert(http_seconds(PTN_STR("99999999999999999999"), &t));
    cr_assert_eq(t, 999999999 * PTN_SEC, "more than any limit");
    static const char *const bad[] = {"",    "0",    "0.0", "-1",  "+1",  "1.",
                                      ".5",  "1e3",  "inf", " 1",  "1 ",  "1.0000000001",
                                      "1,5", "0x10", "1s",  "NaN", "1..2"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++)
        cr_assert(!http_seconds(ptn_str_of(bad[i]), &t), "%s", bad[i]);
}

Test(http_negotiate, etag) {
    cr_assert(http_etag_matches(PTN_STR("*"), PTN_STR("\"a\"")));
    cr_assert(http_etag_matches(PTN_STR("\"b\", W/\"a\""), PTN_STR("\"a\"")));
    cr_assert(http_etag_matches(PTN_STR("\"x,y\""), PTN_STR("W/\"x,y\"")));
    cr_assert(!http_etag_matches(PTN_STR("\"b\""), PTN_STR("\"a\"")));
    cr_assert(!http_etag_matches(PTN_STR("a"), PTN_STR("\"a\"")));
    cr_assert(!http_etag_matches(PTN_STR(""), PTN_STR("\"a\"")));
}

Test(http_negotiate, position) {
    ptn_position p;
    cr_assert(http_position(PTN_STR("01J:42"), &p));
    cr_assert(ptn_str_eqz(p.epoch, "01J") && p.offset == 42);
    static const char *const bad[] = {"", ":", "a:", ":1", "a", "a:x", "a:99999999999999999999"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++)
        cr_assert(!http_position(ptn_str_of(bad[i]), &p), "%s", bad[i]);
}

Test(http_negotiate, date) {
    char out[HTTP_DATE_LEN + 1];
    http_date(784111777000, out);
    cr_assert_str_eq(out, "Sun, 06 Nov 1994 08:49:37 GMT");
    http_date(0, out);
    cr_assert_str_eq(out, "Thu, 01 Jan 1970 00:00:00 GMT");
    http_date(951782400000, out);
    cr_assert_str_eq(out, "Tue, 29 Feb 2000 00:00:00 GMT");
    http_date(1735689599999, out);
    cr_assert_str_eq(out, "Tue, 31 Dec 2024 23:59:59 GMT");
    http_date(4102444800000, out);
    cr_assert_str_eq(out, "Fri, 01 Jan 2100 00:00:00 GMT");
}
