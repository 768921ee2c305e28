/* SPDX-License-Identifier: Apache-2.0
 *
 * http.h - what the files of protocols/http share: the parser, an exchange, a connection, the
 * edge's own state.
 *
 * Two layers.  The parser is a pure byte machine: bytes in, one event at a time out, no socket,
 * clock or actor. The connection drives it, keeps one exchange per request, and writes the answers
 * in request order. Owner worker only, all of it.
 */
#ifndef POSTERN_PROTOCOLS_HTTP_H
#define POSTERN_PROTOCOLS_HTTP_H

#include "protocols/edge.h"

#include <postern/metrics.h>

/* ---- parser.c, head.c, chunk.c ------------------------------------------------------------- */

/* The request headers the edge looks at; all others are checked for form and dropped.  SINGLE: a
 * second one is refused.  LIST: repeated ones are joined by ", ".  LOOSE: a repeated one counts as
 * absent. */
#define HTTP_HEADER_MAP(XX)                                                                        \
    XX(HOST, "host", SINGLE)                                                                       \
    XX(CONTENT_LENGTH, "content-length", SINGLE)                                                   \
    XX(TRANSFER_ENCODING, "transfer-encoding", SINGLE)                                             \
    XX(CONNECTION, "connection", LIST)                                                             \
    XX(UPGRADE, "upgrade", LIST)                                                                   \
    XX(EXPECT, "expect", SINGLE)                                                                   \
    XX(AUTHORIZATION, "authorization", SINGLE)                                                     \
    XX(CONTENT_TYPE, "content-type", SINGLE)                                                       \
    XX(CONTENT_ENCODING, "content-encoding", SINGLE)                                               \
    XX(ACCEPT, "accept", LIST)                                                                     \
    XX(TRACEPARENT, "traceparent", LOOSE)                                                          \
    XX(REQUEST_TIMEOUT, "request-timeout", SINGLE)                                                 \
    XX(IDEMPOTENCY_KEY, "idempotency-key", SINGLE)                                                 \
    XX(IF_MATCH, "if-match", LIST)                                                                 \
    XX(IF_NONE_MATCH, "if-none-match", LIST)                                                       \
    XX(PREFER, "prefer", LIST)                                                                     \
    XX(LAST_EVENT_ID, "last-event-id", SINGLE)                                                     \
    XX(WS_KEY, "sec-websocket-key", SINGLE)                                                        \
    XX(WS_VERSION, "sec-websocket-version", SINGLE)                                                \
    XX(WS_PROTOCOL, "sec-websocket-protocol", LIST)                                                \
    XX(WS_EXTENSIONS, "sec-websocket-extensions", LIST)

enum http_header {
#define XX(id, name, kind) HTTP_H_##id,
    HTTP_HEADER_MAP(XX)
#undef XX
        HTTP_H_COUNT
};
_Static_assert(HTTP_H_COUNT <= 32, "one bit per header in http_request.seen");

struct http_span { /* offsets, so that the bytes may move */
    uint32_t off, len;
};

struct http_request { /* a view of one parsed request */
    const char *base; /* what the spans count from */
    uint32_t head_bytes;
    uint32_t seen; /* bit per enum http_header */
    enum ptn_method method;
    uint8_t minor; /* HTTP/1.minor */
    bool keep_alive;
    bool upgrade_websocket; /* Connection: upgrade and Upgrade: websocket */
    bool expect_continue;
    bool asterisk; /* OPTIONS * */
    struct http_span path, query;
    ptn_bytes body;
    struct http_span headers[HTTP_H_COUNT]; /* last, and without a value where not seen */
};
/* What must be cleared, or copied, of a request whose headers are not to be looked at. */
#define HTTP_REQUEST_SHORT_BYTES offsetof(struct http_request, headers)

static inline ptn_str http_span_str(const struct http_request *r, struct http_span s) {
    return s.len == 0 ? (ptn_str){"", 0} : (ptn_str){r->base + s.off, s.len};
}
static inline bool http_has(const struct http_request *r, enum http_header h) {
    return (r->seen >> h & 1u) != 0;
}
static inline ptn_str http_header(const struct http_request *r, enum http_header h) {
    return http_has(r, h) ? http_span_str(r, r->headers[h]) : (ptn_str){"", 0};
}
static inline ptn_str http_path(const struct http_request *r) {
    return r->path.len == 0 ? PTN_STR("/") : http_span_str(r, r->path);
}

enum http_event {
    HTTP_EV_MORE,     /* everything is used; feed again */
    HTTP_EV_CONTINUE, /* the head is complete, its sender waits for "100 Continue"; feed again */
    HTTP_EV_REQUEST,  /* request is complete; its view is valid until the next feed */
    HTTP_EV_REFUSED,  /* status and message say why; nothing more can be parsed */
};

struct http_chunked {
    uint64_t left;
    uint32_t ext_bytes, trailer_bytes, n_trailers;
    uint8_t state, digits;
    bool name_seen; /* of the trailer line being read */
};

struct http_parser {
    const edge_limits *limits;
    ptn_out own; /* head and body, once a request spans reads */
    uint64_t body_left;
    uint32_t head_at;  /* start of the head in own */
    uint32_t body_at;  /* start of the body in own; 0: nothing of it there */
    uint32_t repeated; /* bit per enum http_header */
    uint32_t scan, line_at, fields_at, n_headers;
    uint8_t state;
    bool blank_skipped;
    struct http_chunked chunked;
    unsigned status;
    const char *message;
    struct http_request request; /* last: parser_reset() leaves its headers alone */
};

void http_parser_init(struct http_parser *p, const edge_limits *limits);
void http_parser_done(struct http_parser *p);
/* Consumes bytes up to the next event; *ret_used says how many.  The result does not depend on how
 * the bytes are split over calls. */
enum http_event http_parser_feed(struct http_parser *p, const uint8_t *data, size_t n,
                                 size_t *ret_used);
/* True between requests: not one byte of the next one has been seen. */
bool http_parser_is_idle(const struct http_parser *p);
/* True once a head is complete and its body is not. */
bool http_parser_in_body(const struct http_parser *p);
/* Records a refusal; always returns HTTP_EV_REFUSED. */
enum http_event http__refuse(struct http_parser *p, unsigned status, const char *message);

/* Copies the head to p->own when it still lies in the caller's bytes, so that it outlives the feed.
 */
bool http__head_own(struct http_parser *p);

/* head.c.  The request line alone, and one header line, as soon as they are there.  False: refused.
 */
bool http__request_line(struct http_parser *p, const char *line, size_t n);
bool http__field_line(struct http_parser *p, const char *line, size_t n);
/* The whole head through llhttp, then the rules that llhttp does not know; fills p->request. False:
 * refused. */
bool http__head_parse(struct http_parser *p, const char *head, size_t n, bool *ret_chunked);
bool http__is_tchar(uint8_t c);

/* chunk.c.  Decodes into o up to the end of the body or of the input.  1: complete, 0: more, <0:
 * refused. */
int http__chunked_feed(struct http_parser *p, const uint8_t *data, size_t n, size_t *ret_used);
void http__chunked_init(struct http_chunked *k);

/* ---- negotiate.c: header values, pure functions ---------------------------------------------- */

bool http_token_list_has(ptn_str list, const char *token);
/* Whether the answer is to be msgpack rather than JSON. */
bool http_accept_msgpack(ptn_str accept);
enum http_media { HTTP_MEDIA_JSON, HTTP_MEDIA_MSGPACK, HTTP_MEDIA_OTHER, HTTP_MEDIA_CHARSET };
enum http_media http_media_of(ptn_str content_type);
/* W3C Trace Context, version 00 and what later versions must keep compatible. */
bool http_traceparent(ptn_str s, uint8_t trace[16], uint8_t span[8]);
/* Seconds, with up to nine decimals; years of them are cut short.  False: not a positive decimal
 * number. */
bool http_seconds(ptn_str s, ptn_time *ret_ns);
/* Weak comparison of If-None-Match with one entity tag (RFC 9110 section 13.1.2). */
bool http_etag_matches(ptn_str if_none_match, ptn_str etag);
/* "<epoch>:<offset>" */
bool http_position(ptn_str s, ptn_position *ret_position);
#define HTTP_DATE_LEN 29
void http_date(int64_t wall_ms, char out[HTTP_DATE_LEN + 1]); /* IMF-fixdate */
const char *http_reason(unsigned status);
void http_hex(const uint8_t *p, size_t n, char *out); /* terminated */
bool http_equals_nocase(ptn_str a, const char *z);    /* z in lower case */

/* ---- the edge and its connections --------------------------------------------------------------
 */

enum http_exchange_state {
    HTTP_X_PENDING, /* auth, router or hub is being asked */
    HTTP_X_READY,   /* answered: written when it was the first, otherwise waiting in frame */
    HTTP_X_UPGRADE, /* becomes a WebSocket when it is first */
    HTTP_X_STREAM,  /* becomes an event stream when it is first */
};

struct http_conn;
struct http_sse;
struct http_edge;

struct http_exchange { /* one request and its answer; recycled through http_edge.free_exchanges */
    struct http_exchange *next;
    struct http_conn *conn;
    uint64_t corr; /* of the outstanding ask; 0: none */
    ptn_time started, deadline;
    ptn_frame *frame;
    struct http_request request; /* its base is held.p once the bytes are held */
    ptn_out held;                /* the head, when it is needed after the read it came in */
    ptn_out body;                /* the body while auth is asked; later the topic of a stream */
    ptn_out who;                 /* strings of the principal */
    size_t held_bytes;           /* share of conn->held_bytes */
    ptn_principal principal;
    uint8_t trace[16], parent_span[8];
    uint8_t state;
    bool has_parent, msgpack, token_sent, close_after;
    bool revoked; /* its session ended meanwhile: nothing that lasts begins */
};

/* What a connection waits for.  FLUSH: its output has reached the bound within one turn; whether
 * the kernel takes it at once, and then nobody calls back, shows after the turn. */
enum http_wait { HTTP_WAIT_NONE, HTTP_WAIT_IDLE, HTTP_WAIT_HEAD, HTTP_WAIT_BODY, HTTP_WAIT_FLUSH };

struct http_conn {
    struct http_conn *next, **pprev; /* edge->http_conns */
    struct http_edge *edge;
    ptn_stream *stream;
    struct http_exchange *first, **last;
    struct http_sse *sse;
    ptn_timer timer;
    ptn_time due;
    size_t pending_at;
    ptn_out pending;     /* read but not parsed: the pipeline is full, or an upgrade waits */
    uint64_t held_bytes; /* bodies that wait for the verifier */
    uint64_t kept_bytes; /* answers that wait for their turn */
    uint32_t n_exchanges;
    uint8_t wait;
    bool sealed;    /* no further request is parsed */
    bool eof;       /* the peer has sent its FIN */
    bool finishing; /* ptn_stream_finish() or _close() was called */
    bool reading;   /* reads are enabled */
    bool busy;      /* inside http_conn_run(): do not re-enter */
    bool owes_100;  /* "100 Continue" waits for earlier answers */
    struct http_parser parser;
};

struct http_edge {
    edge base; /* first: ws sees this part */
    struct http_exchange *free_exchanges;
    uint32_t n_free_exchanges;
    uint32_t n_refusing; /* streams over connections_max that are being told so */
    uint64_t watches[3]; /* of the pressure of router, auth and topics; 0: none */
    uint8_t pressed;     /* bit per watch */
    ptn_listener *listeners[8];
    size_t n_listeners;
    uint64_t trace_state[2];
    ptn_time date_until;
    char date[HTTP_DATE_LEN + 1]; /* until then */
    ptn_timer stop_timer;
    ptn_timer drain_timer;
    ptn_reply_to drain_reply; /* corr 0: nobody waits for the end of the drain */
    bool stopping;
};
_Static_assert(offsetof(struct http_edge, base) == 0, "an edge is the start of an http_edge");

/* conn.c */
void http_conn_accept(ptn_ctx *c, void *edge_arg, ptn_stream *s);
/* An answer has become ready: writes what is due, in order, then goes on parsing.  May free conn.
 */
void http_conn_advance(ptn_ctx *c, struct http_conn *conn);
/* Ends the connection after the answers that are due (drain). */
void http_conn_drain(ptn_ctx *c, struct http_conn *conn);
void http_conn_finish(ptn_ctx *c, struct http_conn *conn);
/* Unlinks and frees; the stream is no longer ours. */
void http_conn_free(ptn_ctx *c, struct http_conn *conn);
/* After a crash of the actor: memory only. */
void http_conns_abandon(struct http_edge *e);
void http_exchange_free(ptn_ctx *c, struct http_exchange *x);
void http_exchange_release_body(struct http_exchange *x);

/* exchange.c: from a parsed request to its answer */
void http_exchange_begin(ptn_ctx *c, struct http_exchange *x, const struct http_request *r);
/* The WebSocket handshake of an exchange that has become the first.  True: conn is gone. */
bool http_exchange_upgrade(ptn_ctx *c, struct http_exchange *x);
/* The session has ended: what waits on this connection must not become a stream or a WebSocket. */
void http_exchanges_revoked(struct http_conn *conn, ptn_str session, ptn_str user);
void http_trace_new(struct http_edge *e, uint8_t trace[16]);

/* respond.c: an answer into its exchange, or onto the wire when the exchange is the first */
struct http_problem {
    unsigned status; /* 0: the code's */
    int code;
    ptn_str message;
    ptn_bytes details;
    const char *extra; /* literal header lines, each with CR LF; may be NULL */
};
void http_respond_problem(ptn_ctx *c, struct http_exchange *x, const struct http_problem *problem);
void http_respond_status(ptn_ctx *c, struct http_exchange *x, unsigned status, const char *message);
void http_respond_err(ptn_ctx *c, struct http_exchange *x, int err);
void http_respond(ptn_ctx *c, struct http_exchange *x, const ptn_response *r);
void http_respond_empty(ptn_ctx *c, struct http_exchange *x, unsigned status, const char *extra);
/* The head of an event stream, appended to o. */
void http_stream_head(ptn_ctx *c, struct http_exchange *x, ptn_out *o);
int http_code_of_status(unsigned status);
/* Scratch for one encoding; cleared, and given back when it has grown large. */
ptn_out *http_scratch(struct http_edge *e);

/* envelope.c */
void http_encode_problem(ptn_out *o, const struct http_problem *p, const char *trace, bool msgpack);
void http_put_str(ptn_out *o, ptn_str s);  /* as msgpack */
void http_put_map(ptn_out *o, uint32_t n); /* header of at most 15 pairs */
/* Plain text.  Inline, because nearly all of it is literals: the compiler knows their lengths. */
static inline void http_out_z(ptn_out *o, const char *z) {
    ptn_out_put(o, z, strlen(z));
}
void http_out_uint(ptn_out *o, uint64_t v); /* decimal text */

/* sse.c */
/* The exchange is the first and its answer was STREAM: asks the hub, or answers with a problem. */
void http_sse_begin(ptn_ctx *c, struct http_exchange *x);
void http_sse_free(ptn_ctx *c, struct http_conn *conn); /* c NULL: after a crash */
void http_sse_drain(ptn_ctx *c, struct http_conn *conn);
void http_sse_drained(ptn_ctx *c, struct http_conn *conn); /* the out-queue is empty again */
void http_sse_session_revoked(ptn_ctx *c, struct http_conn *conn, ptn_str session, ptn_str user);

#endif
