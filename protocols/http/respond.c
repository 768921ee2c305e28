/* SPDX-License-Identifier: Apache-2.0
 *
 * respond.c - answers: status line, headers, body.
 *
 * The body is encoded into the edge's scratch first, because its length belongs into the head; the
 * head is appended behind it.  The first exchange of a connection is written at once, by copy into
 * the stream's gathering frame (no allocation here); a later one keeps its answer in a frame until
 * its turn.
 */
#include "protocols/http/http.h"

#include <sodium.h>

#define SCRATCH_KEPT_BYTES (256u << 10)
#define KEPT_ALWAYS_BYTES (32u << 10)
#define KEPT_BYTES_MAX (24u << 20)

ptn_out *http_scratch(struct http_edge *e) {
    ptn_out *o = &e->base.text;
    if (o->cap > SCRATCH_KEPT_BYTES || o->err != 0)
        ptn_out_done(o);
    ptn_out_clear(o);
    return o;
}

int http_code_of_status(unsigned status) {
    switch (status) {
    case 401:
        return PTN_CODE_UNAUTHENTICATED;
    case 405:
    case 501:
        return PTN_CODE_METHOD_NOT_ALLOWED;
    case 408:
        return PTN_CODE_TIMEOUT;
    case 413:
        return PTN_CODE_PAYLOAD_TOO_LARGE;
    case 415:
        return PTN_CODE_UNSUPPORTED_MEDIA_TYPE;
    case 500:
        return PTN_CODE_INTERNAL;
    case 503:
        return PTN_CODE_OVERLOADED;
    default:
        return PTN_CODE_INVALID_REQUEST;
    }
}

/* ---- head --------------------------------------------------------------------------------- */

struct head_extra { /* which of the standing headers the actor has set itself */
    bool cache_control, retry_after, www_authenticate, nosniff;
};

static bool name_is_valid(ptn_str s) {
    for (size_t i = 0; i < s.n; i++)
        if (!http__is_tchar((uint8_t)s.p[i]))
            return false;
    return s.n != 0 && s.n <= 128;
}

static bool value_is_valid(ptn_str s) {
    for (size_t i = 0; i < s.n; i++) {
        uint8_t ch = (uint8_t)s.p[i];
        if ((ch < 0x20 && ch != '\t') || ch == 0x7f)
            return false;
    }
    return true;
}

/* Headers that this file or the connection owns. */
static bool name_is_ours(ptn_str s) {
    static const char *const ours[] = {"content-length",    "content-type", "connection",
                                       "transfer-encoding", "date",         "trace-id",
                                       "keep-alive",        "upgrade",      "trailer"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(ours); i++)
        if (http_equals_nocase(s, ours[i]))
            return true;
    return false;
}

/* The actor's headers; what could break the framing is left out. */
static void put_extra(ptn_out *o, ptn_bytes headers, struct head_extra *seen) {
    ptn_unpack u = ptn_unpack_of(headers);
    uint32_t n = 0;
    if (headers.n == 0 || !ptn_unpack_map(&u, &n))
        return;
    for (uint32_t i = 0; i < n && i < 64; i++) {
        ptn_str name, value;
        if (!ptn_unpack_str(&u, &name))
            return;
        if (!ptn_unpack_str(&u, &value)) {
            if (!ptn_unpack_any(&u, NULL))
                return;
            continue;
        }
        if (!name_is_valid(name) || !value_is_valid(value) || name_is_ours(name))
            continue;
        seen->cache_control |= http_equals_nocase(name, "cache-control");
        seen->retry_after |= http_equals_nocase(name, "retry-after");
        seen->www_authenticate |= http_equals_nocase(name, "www-authenticate");
        seen->nosniff |= http_equals_nocase(name, "x-content-type-options");
        ptn_out_put(o, name.p, name.n);
        ptn_out_put(o, ": ", 2);
        ptn_out_put(o, value.p, value.n);
        ptn_out_put(o, "\r\n", 2);
    }
}

/* Date and Trace-Id.  The wall clock is read when its second has passed by the clock of the turn,
 * which costs nothing to look at; when it is set, Date follows within a second. */
static void put_common(ptn_ctx *c, const struct http_exchange *x, ptn_out *o) {
    struct http_edge *e = x->conn->edge;
    if (ptn_now(c) >= e->date_until) {
        int64_t wall_ms = ptn_wall_ms(c);
        http_date(wall_ms, e->date);
        e->date_until = ptn_now(c) + (ptn_time)(1000 - wall_ms % 1000) * PTN_MS;
    }
    http_out_z(o, "Date: ");
    ptn_out_put(o, e->date, HTTP_DATE_LEN);
    http_out_z(o, "\r\nTrace-Id: ");
    uint8_t *trace = ptn_out_reserve(o, 33);
    if (trace == NULL)
        return;
    http_hex(x->trace, 16, (char *)trace);
    o->len += 32;
    http_out_z(o, "\r\n");
}

static void put_status_line(ptn_out *o, unsigned status) {
    if (status == 200) {
        http_out_z(o, "HTTP/1.1 200 OK\r\n");
        return;
    }
    http_out_z(o, "HTTP/1.1 ");
    http_out_uint(o, status);
    http_out_z(o, " ");
    http_out_z(o, http_reason(status));
    http_out_z(o, "\r\n");
}

struct answer {
    unsigned status;
    ptn_str content_type; /* valid as a header's value; n == 0: none is said */
    ptn_bytes headers;
    ptn_str allow;  /* of a 405 */
    ptn_str digest; /* an ETag that the actor's headers lack */
    bool versioned; /* a value with an ETag: may be kept, and is asked about before each use */
    const char *extra;
};

/* The end of the connection comes with this answer when it was asked for, or when nothing follows
 * it. */
static bool closes(const struct http_exchange *x) {
    const struct http_conn *conn = x->conn;
    return x->close_after || (x->next == NULL && (conn->edge->base.draining || conn->eof));
}

static void put_head(ptn_ctx *c, struct http_exchange *x, const struct answer *a, ptn_out *o,
                     size_t body_bytes) {
    struct head_extra seen = {0};
    put_status_line(o, a->status);
    if (a->content_type.n != 0) {
        http_out_z(o, "Content-Type: ");
        ptn_out_put(o, a->content_type.p, a->content_type.n);
        http_out_z(o, "\r\n");
    }
    if (a->status != 204 && a->status != 304) {
        http_out_z(o, "Content-Length: ");
        http_out_uint(o, body_bytes);
        http_out_z(o, "\r\n");
    }
    put_common(c, x, o);
    put_extra(o, a->headers, &seen);
    if (a->extra != NULL)
        http_out_z(o, a->extra);
    if (a->digest.n != 0) {
        http_out_z(o, "ETag: ");
        ptn_out_put(o, a->digest.p, a->digest.n);
        http_out_z(o, "\r\n");
    }
    if (a->versioned)
        http_out_z(o, "Vary: Accept, Authorization\r\n");
    if (!seen.cache_control)
        http_out_z(o, a->versioned ? "Cache-Control: private, no-cache\r\n"
                                   : "Cache-Control: no-store\r\n");
    if (!seen.nosniff)
        http_out_z(o, "X-Content-Type-Options: nosniff\r\n");
    if (a->status == 401 && !seen.www_authenticate)
        http_out_z(o,
                   x->token_sent
                       ? "WWW-Authenticate: Bearer realm=\"postern\", error=\"invalid_token\"\r\n"
                       : "WWW-Authenticate: Bearer realm=\"postern\"\r\n");
    if (a->status == 405 && a->allow.n > 0) { /* RFC 9110 section 15.5.6 */
        http_out_z(o, "Allow: ");
        ptn_out_put(o, a->allow.p, a->allow.n);
        http_out_z(o, "\r\n");
    }
    if ((a->status == 503 || a->status == 429) && !seen.retry_after)
        http_out_z(o, "Retry-After: 1\r\n");
    if (closes(x)) {
        x->close_after = true;
        http_out_z(o, "Connection: close\r\n");
    } else if (x->request.minor == 0) {
        http_out_z(o, "Connection: keep-alive\r\n");
    }
    http_out_z(o, "\r\n");
}

void http_stream_head(ptn_ctx *c, struct http_exchange *x, ptn_out *o) {
    put_status_line(o, 200);
    http_out_z(o, "Content-Type: text/event-stream\r\n");
    put_common(c, x, o);
    http_out_z(o, "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
                  "X-Accel-Buffering: no\r\nConnection: close\r\n\r\n");
}

/* ---- delivery ----------------------------------------------------------------------------- */

/* Hands [head][body] over: to the stream when it is this exchange's turn, else into a frame. */
static void deliver(struct http_exchange *x, const uint8_t *head, size_t head_bytes,
                    const uint8_t *body, size_t body_bytes) {
    struct http_conn *conn = x->conn;
    x->state = HTTP_X_READY;
    if (conn->finishing)
        return;
    if (conn->first == x &&
        ptn_stream_queued(conn->stream) <= conn->edge->base.limits.out_bytes_max) {
        ptn_stream_write(conn->stream, head, head_bytes);
        if (body_bytes != 0)
            ptn_stream_write(conn->stream, body, body_bytes);
        return;
    }
    x->frame = ptn_frame_new(head_bytes + body_bytes);
    if (x->frame ==
        NULL) { /* an answer that cannot be given: the peer must not mistake the next for it */
        conn->finishing = true;
        ptn_stream_close(conn->stream, -PTN_ENOMEM);
        return;
    }
    memcpy(x->frame->data, head, head_bytes);
    if (body_bytes != 0)
        memcpy(x->frame->data + head_bytes, body, body_bytes);
    x->frame->len = (uint32_t)(head_bytes + body_bytes);
    conn->kept_bytes += x->frame->len;
}

/* A pipeline of large answers to a peer that does not read must not become our memory: past the
 * first, what is kept is at most KEPT_BYTES_MAX, and nothing while memory is short.  Small ones are
 * let through, and answers to requests that changed something: those must be told. */
static bool may_keep(const struct http_exchange *x, size_t body_bytes) {
    const struct http_conn *conn = x->conn;
    if (x->request.method != PTN_GET || body_bytes <= KEPT_ALWAYS_BYTES)
        return true;
    if (conn->first != x && edge_sheds(&conn->edge->base))
        return false;
    if (conn->kept_bytes == 0)
        return true;
    return conn->kept_bytes + body_bytes <= KEPT_BYTES_MAX;
}

/* Body: the first body_bytes of the scratch when body is NULL, otherwise body. */
static void answer(ptn_ctx *c, struct http_exchange *x, const struct answer *a, ptn_bytes body) {
    struct http_edge *e = x->conn->edge;
    ptn_out *o = &e->base.text;
    size_t head_at = o->len;
    bool in_scratch = body.p == NULL;
    size_t body_bytes = in_scratch ? head_at : body.n;
    if (!may_keep(x, body_bytes)) {
        http_respond_status(
            c, x, 503, "Too many unread answers on this connection; read them, then ask again.");
        return;
    }
    put_head(c, x, a, o, body_bytes);
    if (o->err != 0) {
        x->state = HTTP_X_READY;
        x->conn->finishing = true;
        ptn_stream_close(x->conn->stream, o->err);
        return;
    }
    ptn_observe_request(PTN_PROTO_HTTP, a->status, ptn_now(c) - x->started);
    bool sends_body = x->request.method != PTN_HEAD && a->status != 304 && a->status != 204;
    deliver(x, o->p + head_at, o->len - head_at, in_scratch ? o->p : body.p,
            sends_body ? body_bytes : 0);
}

/* ---- the kinds of answers ----------------------------------------------------------------- */

void http_respond_problem(ptn_ctx *c, struct http_exchange *x, const struct http_problem *problem) {
    struct http_problem p = *problem;
    char trace[33];
    ptn_out *o = http_scratch(x->conn->edge);
    http_hex(x->trace, 16, trace);
    if (p.status == 0)
        p.status = (unsigned)ptn_code_info_of(p.code)->status;
    http_encode_problem(o, &p, trace, x->msgpack);
    if (o->err != 0 && p.details.n != 0) { /* details that do not encode are not worth the answer */
        o = http_scratch(x->conn->edge);
        p.details = (ptn_bytes){NULL, 0};
        http_encode_problem(o, &p, trace, x->msgpack);
    }
    struct answer a = {.status = p.status,
                       .content_type = x->msgpack ? PTN_STR("application/msgpack")
                                                  : PTN_STR("application/problem+json"),
                       .extra = p.extra};
    ptn_str allow;
    if (p.code == PTN_CODE_METHOD_NOT_ALLOWED && ptn_map_get_str(p.details, "allow", &allow) &&
        value_is_valid(allow))
        a.allow = allow;
    answer(c, x, &a, (ptn_bytes){NULL, 0});
}

void http_respond_status(ptn_ctx *c, struct http_exchange *x, unsigned status,
                         const char *message) {
    struct http_problem p = {
        .status = status, .code = http_code_of_status(status), .message = ptn_str_of(message)};
    http_respond_problem(c, x, &p);
}

void http_respond_err(ptn_ctx *c, struct http_exchange *x, int err) {
    const char *message = "";
    struct http_problem p = {.code = ptn_code_of_err(err, &message)};
    p.message = ptn_str_of(message);
    http_respond_problem(c, x, &p);
}

void http_respond_empty(ptn_ctx *c, struct http_exchange *x, unsigned status, const char *extra) {
    struct answer a = {.status = status, .extra = extra};
    http_scratch(x->conn->edge);
    answer(c, x, &a, (ptn_bytes){NULL, 0});
}

/* ---- entity tags --------------------------------------------------------------------------- */

#define DIGEST_BYTES 16
#define TAG_BYTES (2 * DIGEST_BYTES + sizeof "W/\"\"")

/* Of the value, not of the bytes that are sent: the same for JSON and msgpack, and therefore weak
 * (RFC 9110 section 8.8.1), and known before anything is encoded. */
static ptn_str digest_of(const ptn_response *r, char out[TAG_BYTES]) {
    uint8_t digest[DIGEST_BYTES];
    crypto_generichash_state h;
    (void)crypto_generichash_init(&h, NULL, 0, sizeof digest);
    (void)crypto_generichash_update(&h, r->page.p, r->page.n);
    (void)crypto_generichash_update(&h, r->data.p, r->data.n);
    (void)crypto_generichash_final(&h, digest, sizeof digest);
    memcpy(out, "W/\"", 3);
    http_hex(digest, sizeof digest, out + 3);
    memcpy(out + TAG_BYTES - 2, "\"", 2);
    return (ptn_str){out, TAG_BYTES - 1};
}

/* The tag of what a GET shows: the actor's own, or a digest when the actor has no word to say about
 * it.  n == 0: none.  What anybody may ask for, probes above all, is not worth one. */
static ptn_str etag_of(const struct http_exchange *x, const ptn_response *r, char digest[TAG_BYTES],
                       struct answer *a) {
    ptn_str etag = {"", 0};
    if (r->status != 200 || (x->request.method != PTN_GET && x->request.method != PTN_HEAD))
        return etag;
    if (r->headers.n != 0 &&
        (ptn_map_get_str(r->headers, "etag", &etag) || ptn_map_get_str(r->headers, "ETag", &etag)))
        a->versioned = r->content_type.n == 0;
    else if (r->headers.n == 0 && r->content_type.n == 0 && x->token_sent) {
        etag = a->digest = digest_of(r, digest);
        a->versioned = true;
    }
    return etag;
}

void http_respond(ptn_ctx *c, struct http_exchange *x, const ptn_response *r) {
    struct answer a = {.status = r->status, .headers = r->headers};
    char tag[TAG_BYTES];
    ptn_bytes body = {NULL, 0};
    ptn_out *o = http_scratch(x->conn->edge);
    if (r->status < 200 || r->status > 599) {
        http_respond_status(c, x, 500, "An actor answered with an impossible status.");
        return;
    }
    ptn_str etag = etag_of(x, r, tag, &a);
    if (etag.n != 0 && http_has(&x->request, HTTP_H_IF_NONE_MATCH) &&
        http_etag_matches(http_header(&x->request, HTTP_H_IF_NONE_MATCH), etag))
        a.status = 304;
    if (a.status == 204 || a.status == 304) {
        answer(c, x, &a, body);
        return;
    }
    if (r->content_type.n != 0) {
        ptn_unpack u = ptn_unpack_of(r->data);
        ptn_str text = {"", 0};
        if (!ptn_unpack_str(&u, &text) && ptn_unpack_bin(&u, &body))
            text = (ptn_str){(const char *)body.p, body.n};
        body = (ptn_bytes){text.p == NULL ? (const uint8_t *)"" : (const uint8_t *)text.p, text.n};
        if (value_is_valid(r->content_type))
            a.content_type = r->content_type;
    } else {
        edge_encode_success(o, r, x->msgpack);
        a.content_type = x->msgpack ? PTN_STR("application/msgpack") : PTN_STR("application/json");
        if (o->err != 0) {
            http_respond_status(c, x, 500, "The answer could not be encoded.");
            return;
        }
    }
    answer(c, x, &a, body);
}
