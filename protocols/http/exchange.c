/* SPDX-License-Identifier: Apache-2.0
 *
 * exchange.c - the way of one request: parsed head -> auth -> router -> answer.
 *
 * A request without a token is packed straight from the read buffer and leaves for the router in
 * the same call.  One with a token first asks the verifier of its worker; until that answer its
 * bytes are held in the exchange, whose buffers are recycled.  Every ask ends exactly once
 * (runtime.h), and an exchange that goes before that cancels it.
 */
#include "protocols/http/http.h"

#include "protocols/ws/ws.h"

/* ---- trace --------------------------------------------------------------------------------- */

static uint64_t splitmix(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Unique, not secret: two streams seeded once from the environment, instead of a system call per
 * request. */
void http_trace_new(struct http_edge *e, uint8_t trace[16]) {
    uint64_t hi = splitmix(&e->trace_state[0]), lo = splitmix(&e->trace_state[1]) | 1;
    memcpy(trace, &hi, 8);
    memcpy(trace + 8, &lo, 8);
}

/* ---- holding ------------------------------------------------------------------------------- */

/* Copies what must outlive the read buffer.  False: no memory. */
static bool hold(struct http_exchange *x, const struct http_request *r, bool with_body) {
    ptn_out_clear(&x->held);
    ptn_out_put(&x->held, r->base, r->head_bytes);
    x->request.base = (const char *)x->held.p;
    x->request.seen = r->seen;
    memcpy(x->request.headers, r->headers, sizeof r->headers);
    x->request.body = (ptn_bytes){NULL, 0};
    ptn_out_clear(&x->body);
    if (with_body && r->body.n != 0) {
        ptn_out_put(&x->body, r->body.p, r->body.n);
        x->request.body = (ptn_bytes){x->body.p, x->body.len};
        x->held_bytes = x->body.len;
        x->conn->held_bytes += x->held_bytes;
    }
    return x->held.err == 0 && x->body.err == 0;
}

static bool hold_principal(struct http_exchange *x, const ptn_principal *p) {
    ptn_out *o = &x->who;
    ptn_out_clear(o);
    ptn_out_put(o, p->user.p, p->user.n);
    ptn_out_put(o, p->name.p, p->name.n);
    ptn_out_put(o, p->session.p, p->session.n);
    const char *at = (const char *)o->p;
    x->principal = *p;
    if (at == NULL || o->err != 0)
        return false;
    x->principal.user.p = at;
    x->principal.name.p = at + p->user.n;
    x->principal.session.p = at + p->user.n + p->name.n;
    return true;
}

/* ---- to the router ------------------------------------------------------------------------- */

static void on_routed(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)state;
    struct http_exchange *x = arg;
    ptn_response response;
    ptn_problem problem;
    x->corr = 0;
    if (err != 0) {
        http_respond_err(c, x, err);
    } else if (reply->type == PTN_MSG_RESPONSE &&
               ptn_response_unpack(ptn_msg_bytes(reply), &response)) {
        http_respond(c, x, &response);
    } else if (reply->type == PTN_MSG_PROBLEM &&
               ptn_problem_unpack(ptn_msg_bytes(reply), &problem)) {
        struct http_problem p = {
            .code = problem.code, .message = problem.message, .details = problem.details};
        http_respond_problem(c, x, &p);
    } else if (reply->type == PTN_MSG_STREAM) {
        ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
        uint32_t n = 0;
        ptn_str topic;
        ptn_out_clear(&x->body);
        if (ptn_unpack_array(&u, &n) && n >= 1 && ptn_unpack_str(&u, &topic)) {
            ptn_out_put(&x->body, topic.p, topic.n);
            if (x->body.err == 0) {
                x->state = HTTP_X_STREAM;
                x->conn->sealed = true;
            } else {
                http_respond_err(c, x, x->body.err);
            }
        } else {
            http_respond_status(c, x, 500, "An actor answered in an unknown form.");
        }
    } else {
        http_respond_status(c, x, 500, "An actor answered in an unknown form.");
    }
    http_conn_advance(c, x->conn);
}

static void pack_forwarded(ptn_out *o, const struct http_request *r) {
    static const struct {
        const char *name;
        enum http_header h;
    } forwarded[] = {
        {"idempotency-key", HTTP_H_IDEMPOTENCY_KEY}, {"if-match", HTTP_H_IF_MATCH},
        {"if-none-match", HTTP_H_IF_NONE_MATCH},     {"prefer", HTTP_H_PREFER},
        {"last-event-id", HTTP_H_LAST_EVENT_ID},
    };
    uint32_t n = 0;
    for (size_t i = 0; i < PTN_ARRAY_LEN(forwarded); i++)
        n += http_has(r, forwarded[i].h) ? 1 : 0;
    if (n == 0)
        return;
    http_put_map(o, n);
    for (size_t i = 0; i < PTN_ARRAY_LEN(forwarded); i++) {
        if (!http_has(r, forwarded[i].h))
            continue;
        http_put_str(o, ptn_str_of(forwarded[i].name));
        http_put_str(o, http_header(r, forwarded[i].h));
    }
}

/* Appends the body as one value.  False: answered with why not. */
static bool pack_body(ptn_ctx *c, struct http_exchange *x, const struct http_request *r,
                      ptn_pack *w) {
    const struct http_edge *e = x->conn->edge;
    ptn_codec_limits limits = {.bytes_max = e->base.limits.body_bytes_max,
                               .depth_max = e->base.limits.depth_max};
    ptn_codec_error why = {"", 0};
    int err = 0;
    if (r->body.n == 0) {
        ptn_pack_nil(w);
        return true;
    }
    switch (http_media_of(http_header(r, HTTP_H_CONTENT_TYPE))) {
    case HTTP_MEDIA_JSON:
        err = ptn_json_to_msgpack(e->base.json, (ptn_str){(const char *)r->body.p, r->body.n},
                                  &limits, w, &why);
        break;
    case HTTP_MEDIA_MSGPACK:
        err = ptn_msgpack_validate(r->body, &limits, &why);
        if (err == 0)
            ptn_pack_raw(w, r->body);
        break;
    case HTTP_MEDIA_CHARSET:
        http_respond_status(c, x, 415, "The only charset is UTF-8.");
        return false;
    default:
        http_respond_status(c, x, 415, "Send application/json or application/msgpack.");
        return false;
    }
    if (err == 0)
        return true;
    if (err == -PTN_ENOMEM) {
        http_respond_err(c, x, err);
        return false;
    }
    char text[192] = "Body: ";
    size_t n = strlen(text), m = why.what == NULL ? 0 : strlen(why.what);
    m = m < sizeof text - n ? m : sizeof text - n;
    memcpy(text + n, why.what, m);
    uint8_t details[16];
    size_t d = 0;
    details[d++] = 0x81;
    details[d++] = 0xa6;
    memcpy(details + d, "offset", 6);
    d += 6;
    details[d++] = 0xce;
    for (int i = 3; i >= 0; i--)
        details[d++] = (uint8_t)(why.offset >> (8 * i));
    struct http_problem p = {.code = err == -PTN_ETOOBIG ? PTN_CODE_PAYLOAD_TOO_LARGE
                                                         : PTN_CODE_INVALID_REQUEST,
                             .message = {text, n + m},
                             .details = {details, d}};
    http_respond_problem(c, x, &p);
    return false;
}

/* Packs and asks; on any failure the exchange is answered.  r is x->request or its view in the read
 * buffer. */
static void route(ptn_ctx *c, struct http_exchange *x, const struct http_request *r,
                  const ptn_principal *who) {
    struct http_edge *e = x->conn->edge;
    const edge_config *config = e->base.config;
    ptn_out *headers = http_scratch(e);
    pack_forwarded(headers, r);
    ptn_request q = {
        .method = r->method == PTN_HEAD ? PTN_GET : r->method,
        .path = http_path(r),
        .query = http_span_str(r, r->query),
        .headers = {headers->p, headers->len},
        .trace_id = {x->trace, 16},
        .parent_span = {x->parent_span, x->has_parent ? 8 : 0},
        .protocol = PTN_PROTO_HTTP,
        .flags = config->admin ? PTN_REQ_ADMIN_LISTENER : 0,
    };
    if (who != NULL)
        q.principal = *who;
    ptn_pack w;
    ptn_pack_init(&w, 192 + q.path.n + q.query.n + headers->len + r->body.n);
    ptn_request_begin(&w, &q);
    if (!pack_body(c, x, r, &w)) {
        ptn_pack_abort(&w);
        return;
    }
    ptn_buf *payload = ptn_pack_finish(&w);
    if (payload == NULL) {
        http_respond_err(c, x, -PTN_ENOMEM);
        return;
    }
    int err = ptn_ask(c, config->directory->router[e->base.worker], PTN_MSG_REQUEST, payload,
                      x->deadline, on_routed, x, &x->corr);
    if (err != 0) {
        ptn_buf_unref(payload);
        x->corr = 0;
        http_respond_err(c, x, err);
    }
}

/* ---- auth ---------------------------------------------------------------------------------- */

static void on_principal(ptn_ctx *c, void *state, int err, const ptn_msg *reply, void *arg) {
    (void)state;
    struct http_exchange *x = arg;
    ptn_problem problem;
    ptn_principal who;
    x->corr = 0;
    if (err != 0) {
        http_respond_err(c, x, err);
    } else if (reply->type == PTN_MSG_PROBLEM &&
               ptn_problem_unpack(ptn_msg_bytes(reply), &problem)) {
        struct http_problem p = {
            .code = problem.code, .message = problem.message, .details = problem.details};
        http_respond_problem(c, x, &p);
    } else {
        ptn_unpack u = ptn_unpack_of(ptn_msg_bytes(reply));
        if (reply->type != PTN_MSG_PRINCIPAL || !ptn_principal_unpack(&u, &who)) {
            http_respond_status(c, x, 500, "The verifier answered in an unknown form.");
        } else if (!hold_principal(x, &who)) {
            http_respond_err(c, x, -PTN_ENOMEM);
        } else if (x->request.upgrade_websocket) {
            x->state = HTTP_X_UPGRADE;
        } else {
            route(c, x, &x->request, &x->principal);
        }
    }
    http_exchange_release_body(x);
    http_conn_advance(c, x->conn);
}

/* The token of "Bearer <token>"; false: not of that form. */
static bool bearer_token(ptn_str authorization, ptn_str *ret_token) {
    if (authorization.n < 8 || !http_equals_nocase((ptn_str){authorization.p, 7}, "bearer "))
        return false;
    ptn_str t = {authorization.p + 7, authorization.n - 7};
    while (t.n != 0 && t.p[0] == ' ')
        t = (ptn_str){t.p + 1, t.n - 1};
    for (size_t i = 0; i < t.n; i++)
        if (t.p[i] <= 0x20 || t.p[i] == 0x7f || t.p[i] == ',')
            return false;
    *ret_token = t;
    return t.n != 0;
}

static void authenticate(ptn_ctx *c, struct http_exchange *x, const struct http_request *r) {
    struct http_edge *e = x->conn->edge;
    ptn_str token;
    x->token_sent = true;
    if (!bearer_token(http_header(r, HTTP_H_AUTHORIZATION), &token)) {
        http_respond_status(c, x, 401, "Authorization must be: Bearer, one blank, the token.");
        return;
    }
    if (!hold(x, r, true)) {
        http_respond_err(c, x, -PTN_ENOMEM);
        return;
    }
    ptn_pack w;
    ptn_pack_init(&w, token.n + 8);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, token);
    ptn_buf *payload = ptn_pack_finish(&w);
    int err = payload == NULL
                  ? -PTN_ENOMEM
                  : ptn_ask(c, e->base.config->directory->auth[e->base.worker], PTN_MSG_AUTH_TOKEN,
                            payload, x->deadline, on_principal, x, &x->corr);
    if (err != 0) {
        ptn_buf_unref(payload);
        x->corr = 0;
        http_respond_err(c, x, err);
    }
}

/* ---- begin --------------------------------------------------------------------------------- */

/* Probes answer whoever asks, whatever token is sent along. */
static bool ignores_token(const struct http_request *r) {
    static const char *const probes[] = {"/health", "/api/v1/health", "/livez",
                                         "/readyz", "/startupz",      "/metrics"};
    if (r->method != PTN_GET && r->method != PTN_HEAD)
        return false;
    for (size_t i = 0; i < PTN_ARRAY_LEN(probes); i++)
        if (ptn_str_eqz(http_path(r), probes[i]))
            return true;
    return false;
}

static bool is_ws_path(const struct http_exchange *x, const struct http_request *r) {
    ptn_str path = http_path(r);
    return !x->conn->edge->base.config->admin && r->method == PTN_GET &&
           (ptn_str_eqz(path, "/ws") || ptn_str_eqz(path, "/api/v1/ws"));
}

/* The checks that need no actor.  False: answered. */
static bool acceptable(ptn_ctx *c, struct http_exchange *x, const struct http_request *r) {
    const edge_limits *limits = &x->conn->edge->base.limits;
    ptn_time after = limits->request_ns;
    if (r->asterisk) {
        http_respond_empty(c, x, 204, "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n");
        return false;
    }
    if (http_has(r, HTTP_H_CONTENT_ENCODING) && r->body.n != 0 &&
        !http_equals_nocase(http_header(r, HTTP_H_CONTENT_ENCODING), "identity")) {
        http_respond_status(c, x, 415, "Content-Encoding is not supported; send the body plain.");
        return false;
    }
    if (http_has(r, HTTP_H_REQUEST_TIMEOUT)) {
        if (!http_seconds(http_header(r, HTTP_H_REQUEST_TIMEOUT), &after)) {
            http_respond_status(c, x, 400, "Request-Timeout must be a number of seconds above 0.");
            return false;
        }
        if (after > limits->request_ns_max)
            after = limits->request_ns_max;
    }
    x->deadline = x->started + after;
    return true;
}

/* A request for /ws. */
static void begin_upgrade(ptn_ctx *c, struct http_exchange *x, const struct http_request *r) {
    if (!r->upgrade_websocket || r->body.n != 0) {
        struct http_problem p = {
            .status = 426,
            .code = PTN_CODE_INVALID_REQUEST,
            .message = PTN_STR("This is a WebSocket address: send Connection: Upgrade and Upgrade: "
                               "websocket, without a body."),
            .extra = "Upgrade: websocket\r\n"};
        http_respond_problem(c, x, &p);
        return;
    }
    x->conn->sealed = true;
    if (http_has(r, HTTP_H_AUTHORIZATION)) {
        authenticate(c, x, r);
    } else if (hold(x, r, false)) {
        x->state = HTTP_X_UPGRADE;
    } else {
        http_respond_err(c, x, -PTN_ENOMEM);
    }
}

void http_exchange_begin(ptn_ctx *c, struct http_exchange *x, const struct http_request *r) {
    x->started = ptn_now(c);
    memcpy(&x->request, r, HTTP_REQUEST_SHORT_BYTES); /* the headers when they are held */
    x->request.base = NULL;
    x->request.seen = 0;
    x->request.body = (ptn_bytes){NULL, 0};
    x->state = HTTP_X_PENDING;
    x->msgpack = http_has(r, HTTP_H_ACCEPT) && http_accept_msgpack(http_header(r, HTTP_H_ACCEPT));
    x->has_parent = http_has(r, HTTP_H_TRACEPARENT) &&
                    http_traceparent(http_header(r, HTTP_H_TRACEPARENT), x->trace, x->parent_span);
    if (!x->has_parent)
        http_trace_new(x->conn->edge, x->trace);
    if (!r->keep_alive) {
        x->close_after = true;
        x->conn->sealed = true;
    }
    ptn_count(PTN_C_RECEIVED_HTTP, 1);
    if (!acceptable(c, x, r))
        return;
    if (is_ws_path(x, r)) {
        begin_upgrade(c, x, r);
        return;
    }
    x->request.upgrade_websocket = false; /* an offer that is declined */
    bool probe = ignores_token(r);
    if (!probe && edge_sheds(&x->conn->edge->base)) {
        http_respond_err(c, x, -PTN_EOVERLOAD);
        return;
    }
    if (http_has(r, HTTP_H_AUTHORIZATION) && !probe) {
        authenticate(c, x, r);
        return;
    }
    bool keeps =
        r->query.len != 0 || http_has(r, HTTP_H_IF_NONE_MATCH) || http_has(r, HTTP_H_LAST_EVENT_ID);
    if (keeps && !hold(x, r, false))
        http_respond_err(c, x, -PTN_ENOMEM);
    else
        route(c, x, r, NULL);
}

/* ---- upgrade ------------------------------------------------------------------------------- */

void http_exchanges_revoked(struct http_conn *conn, ptn_str session, ptn_str user) {
    for (struct http_exchange *x = conn->first; x != NULL; x = x->next)
        if (ptn_principal_is_revoked(&x->principal, session, user))
            x->revoked = true;
}

/* Absent is empty.  False: it is there and cannot be read. */
static bool query_text(ptn_str query, const char *key, char *buf, size_t buf_bytes,
                       ptn_str *ret_s) {
    *ret_s = (ptn_str){"", 0};
    return ptn_query_get(query, key, buf, buf_bytes, ret_s) || !ptn_query_has(query, key);
}

bool http_exchange_upgrade(ptn_ctx *c, struct http_exchange *x) {
    struct http_conn *conn = x->conn;
    struct http_edge *e = conn->edge;
    const struct http_request *r = &x->request;
    if (x->revoked) {
        x->close_after = true;
        http_respond_status(c, x, 401, "The session was revoked.");
        return false;
    }
    char token[4096], device[PTN_DEVICE_BYTES_MAX], trace[33];
    http_hex(x->trace, 16, trace);
    ws_upgrade u = {.key = http_header(r, HTTP_H_WS_KEY),
                    .version = http_header(r, HTTP_H_WS_VERSION),
                    .protocols = http_header(r, HTTP_H_WS_PROTOCOL),
                    .extensions = http_header(r, HTTP_H_WS_EXTENSIONS),
                    .trace = {trace, 32},
                    .principal = x->token_sent ? &x->principal : NULL};
    const char *message = "";
    ptn_str query = http_span_str(r, r->query);
    bool readable = query_text(query, "token", token, sizeof token, &u.query_token) &&
                    query_text(query, "device", device, sizeof device, &u.device);
    x->close_after = true; /* a refused handshake ends the connection */
    int status = readable ? ws_upgrade_check(&u, &message) : 400;
    if (!readable)
        message = "token and device in the query are texts of at most 4096 and 64 bytes";
    if (status != 0 || e->base.draining) {
        struct http_problem p = {
            .status = status != 0 ? (unsigned)status : 503,
            .code = status != 0 ? PTN_CODE_INVALID_REQUEST : PTN_CODE_DRAINING,
            .message = status != 0 ? ptn_str_of(message)
                                   : PTN_STR("This server is draining; connect again."),
            .extra = status == 426 ? "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" : NULL};
        http_respond_problem(c, x, &p);
        return false;
    }
    ptn_stream_limits(conn->stream, e->base.limits.out_bytes_max, e->base.limits.stall_ns);
    ptn_bytes early = {conn->pending.p == NULL ? NULL : conn->pending.p + conn->pending_at,
                       conn->pending.len - conn->pending_at};
    /* The reader may be off because bytes had to wait; the new machine starts with it on. */
    ptn_stream_read_enable(conn->stream, true);
    int err = ws_conn_open(c, &e->base, conn->stream, &u, early);
    if (err != 0) {
        http_respond_err(c, x, err);
        return false;
    }
    conn->stream = NULL;
    http_conn_free(c, conn);
    e->base.n_connections--; /* ws has counted it as its own */
    return true;
}
