/* SPDX-License-Identifier: Apache-2.0
 *
 * http_fuzz.c - the request machine under libFuzzer.
 *
 * Three properties: nothing is read or written out of bounds; the result does not depend on how the
 * bytes are split (the splits come from the input's first bytes); and whatever this parser accepts,
 * llhttp on its own reads as the same requests with the same bodies, so that no proxy built on it
 * sees other boundaries.
 */
#include "protocols/http/http.h"

#include <llhttp.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(e) ((e) ? (void)0 : abort())

struct digest {
    uint64_t hash;
    uint64_t bodies; /* of method and body bytes alone: what llhttp can confirm */
    unsigned requests, status;
    size_t end; /* behind the last request */
};

static void mix(uint64_t *hash, const void *p, size_t n) {
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++)
        *hash = (*hash ^ b[i]) * UINT64_C(1099511628211);
}

static void mix_str(uint64_t *hash, ptn_str s) {
    mix(hash, s.p, s.n);
    mix(hash, "|", 1);
}

static void take_request(struct digest *d, const struct http_request *r) {
    d->requests++;
    mix_str(&d->hash, http_path(r));
    mix_str(&d->hash, http_span_str(r, r->query));
    for (int h = 0; h < HTTP_H_COUNT; h++)
        mix_str(&d->hash, http_header(r, (enum http_header)h));
    mix(&d->hash, &r->keep_alive, sizeof r->keep_alive);
    mix_str(&d->bodies, (ptn_str){(const char *)r->body.p, r->body.n});
}

/* Feeds one piece from memory of its own, so that a read past its end is caught. */
static void feed(struct http_parser *p, struct digest *d, const uint8_t *data, size_t n,
                 size_t base) {
    uint8_t *piece = malloc(n == 0 ? 1 : n);
    CHECK(piece != NULL);
    memcpy(piece, data, n);
    size_t at = 0;
    while (at < n && d->status == 0) {
        size_t used = 0;
        enum http_event ev = http_parser_feed(p, piece + at, n - at, &used);
        CHECK(used <= n - at);
        at += used;
        if (ev == HTTP_EV_REQUEST) {
            take_request(d, &p->request);
            d->end = base + at;
        } else if (ev == HTTP_EV_REFUSED) {
            CHECK(p->status >= 400 && p->status < 600 && p->message != NULL);
            d->status = p->status;
        } else {
            CHECK(ev == HTTP_EV_CONTINUE || at == n);
        }
    }
    free(piece);
}

static struct digest run(const edge_limits *limits, const uint8_t *data, size_t n,
                         const uint8_t *splits, size_t n_splits) {
    struct http_parser p;
    struct digest d = {0};
    http_parser_init(&p, limits);
    size_t at = 0;
    for (size_t i = 0; at < n; i++) {
        size_t take = n_splits == 0 ? n - at : (size_t)splits[i % n_splits] % 37 + 1;
        take = take < n - at ? take : n - at;
        feed(&p, &d, data + at, take, at);
        at += take;
    }
    http_parser_done(&p);
    return d;
}

/* ---- what llhttp makes of it ---------------------------------------------------------------- */

static int on_body(llhttp_t *l, const char *at, size_t n) {
    struct digest *d = l->data;
    mix(&d->bodies, at, n);
    return 0;
}

static int on_message_complete(llhttp_t *l) {
    struct digest *d = l->data;
    d->requests++;
    mix(&d->bodies, "|", 1);
    return 0;
}

static int on_headers_complete(llhttp_t *l) {
    l->upgrade = 0; /* offers of other protocols do not end the stream of requests */
    return 0;
}

static const llhttp_settings_t settings = {.on_body = on_body,
                                           .on_message_complete = on_message_complete,
                                           .on_headers_complete = on_headers_complete};

static void confirm(const struct digest *ours, const uint8_t *data) {
    struct digest theirs = {0};
    llhttp_t l;
    llhttp_init(&l, HTTP_REQUEST, &settings);
    llhttp_set_lenient_keep_alive(&l, 1); /* bytes after "Connection: close" are ours to drop */
    l.data = &theirs;
    llhttp_errno_t err = llhttp_execute(&l, (const char *)data, ours->end);
    while (err == HPE_PAUSED_UPGRADE) {
        llhttp_resume_after_upgrade(&l);
        const char *at = llhttp_get_error_pos(&l);
        err = llhttp_execute(&l, at, (size_t)((const char *)data + ours->end - at));
    }
    /* It may be stricter (about the grammar of chunk extensions), never of another mind about
     * boundaries. */
    CHECK(theirs.requests <= ours->requests);
    if (err != HPE_OK)
        return;
    CHECK(theirs.requests == ours->requests);
    CHECK(theirs.bodies == ours->bodies);
}

static void values(const uint8_t *data, size_t n) {
    ptn_str s = {(const char *)data, n};
    uint8_t trace[16], span[8];
    ptn_time t;
    ptn_position position;
    (void)http_accept_msgpack(s);
    (void)http_media_of(s);
    (void)http_traceparent(s, trace, span);
    (void)http_seconds(s, &t);
    (void)http_position(s, &position);
    (void)http_etag_matches(s, PTN_STR("\"a\""));
    (void)http_token_list_has(s, "close");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    edge_limits limits = {.request_line_bytes_max = 300,
                          .header_bytes_max = 600,
                          .headers_max = 20,
                          .body_bytes_max = 4096};
    if (size < 4)
        return 0;
    edge_limits_defaults(&limits);
    const uint8_t *text = data + 4;
    size_t n = size - 4;
    struct digest whole = run(&limits, text, n, NULL, 0);
    struct digest split = run(&limits, text, n, data, 4);
    CHECK(whole.hash == split.hash && whole.bodies == split.bodies);
    CHECK(whole.requests == split.requests && whole.status == split.status);
    CHECK(whole.end == split.end);
    confirm(&whole, text);
    values(text, n);
    return 0;
}
