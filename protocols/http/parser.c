/* SPDX-License-Identifier: Apache-2.0
 *
 * parser.c - the request machine: finds heads and bodies in a byte stream, one event at a time.
 *
 * llhttp reads a head only when the whole of it is there and has passed the scan below, line by
 * line: llhttp 8.1 takes bare CR or LF for a line end, skips what follows chunk data unread, and
 * sets no bounds (README.md lists what was tried).  So every byte is judged here first, in order,
 * which also makes the result independent of how the bytes were split.
 *
 * A request that lies in one read is parsed where it lies; only one that spans reads is copied to
 * `own`.
 */
#include "protocols/http/http.h"

enum parser_state { P_HEAD, P_LENGTH, P_CHUNKED, P_DONE, P_REFUSED };

/* Bytes that may stand inside a head line: HTAB, blank, visible ASCII, obs-text. */
static bool is_text(uint8_t c) {
    return (c >= 0x20 && c != 0x7f) || c == '\t';
}

/* The bytes of b[0, 8) that are neither visible nor blank nor obs-text: their high bits, of which
 * the lowest is exact ("Bit Twiddling Hacks", Determine if a word has a byte less than n). */
static inline uint64_t text_misses(const uint8_t *b) {
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t w;
    memcpy(&w, b, sizeof w);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    w = __builtin_bswap64(w);
#endif
    uint64_t del = w ^ (ones * 0x7f);
    return (((w - ones * 0x20) & ~w) | ((del - ones) & ~del)) & (ones * 0x80);
}

/* The first byte of b[i, n) that is not text; n: none. */
static size_t text_end(const uint8_t *b, size_t i, size_t n) {
    while (n - i >= 8) {
        uint64_t misses = text_misses(b + i);
        i += misses == 0 ? 8 : (size_t)__builtin_ctzll(misses) / 8;
        if (misses != 0 && b[i++] != '\t')
            return i - 1;
    }
    while (i < n && is_text(b[i]))
        i++;
    return i;
}

void http_parser_init(struct http_parser *p, const edge_limits *limits) {
    memset(p, 0, sizeof *p);
    p->limits = limits;
}

void http_parser_done(struct http_parser *p) {
    ptn_out_done(&p->own);
}

/* Ready for the next request; an idle connection keeps no buffer. */
static void parser_reset(struct http_parser *p) {
    const edge_limits *limits = p->limits;
    if (p->own.cap != 0)
        ptn_out_done(&p->own);
    memset(p, 0, offsetof(struct http_parser, request) + HTTP_REQUEST_SHORT_BYTES);
    p->limits = limits;
}

bool http_parser_is_idle(const struct http_parser *p) {
    return p->state == P_DONE || (p->state == P_HEAD && p->own.len == 0);
}

bool http_parser_in_body(const struct http_parser *p) {
    return p->state == P_LENGTH || p->state == P_CHUNKED;
}

enum http_event http__refuse(struct http_parser *p, unsigned status, const char *message) {
    p->state = P_REFUSED;
    p->status = status;
    p->message = message;
    return HTTP_EV_REFUSED;
}

bool http__head_own(struct http_parser *p) {
    if (p->own.len == 0) {
        ptn_out_put(&p->own, p->request.base, p->request.head_bytes);
        p->head_at = 0;
    }
    if (p->own.err != 0) {
        http__refuse(p, 503, "Out of memory for this request; try again.");
        return false;
    }
    p->request.base = (const char *)p->own.p + p->head_at;
    return true;
}

/* One complete line at b[line_at, end).  1: it was the empty line that ends the head, 0: more
 * lines, -1: refused. */
static int head_line(struct http_parser *p, const uint8_t *b, size_t end) {
    const char *line = (const char *)b + p->line_at;
    size_t len = end - p->line_at;
    if (p->fields_at == 0) {
        if (len == 0 && !p->blank_skipped) { /* RFC 9112 section 2.2: one empty line is forgiven */
            p->blank_skipped = true;
            return 0;
        }
        if (!http__request_line(p, line, len))
            return -1;
        p->fields_at = (uint32_t)end + 2;
        return 0;
    }
    if (len == 0)
        return 1;
    return http__field_line(p, line, len) ? 0 : -1;
}

static int scan_refuse(struct http_parser *p, uint8_t c) {
    bool first = p->fields_at == 0;
    const char *why;
    if (c == '\n')
        why = "A line ends with a bare LF; HTTP/1.1 lines end with CR LF.";
    else if (c == 0)
        why = first ? "NUL byte in the request line." : "NUL byte in a header.";
    else
        why = first ? "Control byte in the request line; is this TLS on a plain port?"
                    : "Control byte in a header.";
    http__refuse(p, 400, why);
    return -1;
}

/* Goes on judging b[scan, n).  >0: the head ends there, 0: more bytes are needed, <0: refused. */
static int64_t head_scan(struct http_parser *p, const uint8_t *b, size_t n) {
    size_t i = p->scan;
    for (;;) {
        i = text_end(b, i, n);
        p->scan = (uint32_t)i;
        if (p->fields_at == 0 && i - p->line_at > p->limits->request_line_bytes_max) {
            http__refuse(p, 414, "The request line is too long.");
            return -1;
        }
        if (p->fields_at != 0 && i - p->fields_at > p->limits->header_bytes_max) {
            http__refuse(p, 431, "The headers are too large.");
            return -1;
        }
        if (i == n)
            return 0;
        if (b[i] != '\r')
            return scan_refuse(p, b[i]);
        if (i + 1 == n)
            return 0;
        if (b[i + 1] != '\n') {
            http__refuse(p, 400, "A CR is not followed by LF.");
            return -1;
        }
        int line = head_line(p, b, i);
        if (line < 0)
            return -1;
        i += 2;
        p->line_at = (uint32_t)i;
        p->scan = (uint32_t)i;
        if (line > 0)
            return (int64_t)i;
    }
}

/* Head bytes: from the caller's buffer when all of it is there, otherwise gathered in own.
 * True: complete and parsed; false: *ret_ev is the event. */
static bool feed_head(struct http_parser *p, const uint8_t *data, size_t n, size_t *ret_used,
                      enum http_event *ret_ev) {
    size_t before = p->own.len;
    const uint8_t *b = data;
    size_t have = n;
    if (before != 0) {
        /* Past this many bytes the scan has refused. */
        size_t room =
            (size_t)p->limits->request_line_bytes_max + p->limits->header_bytes_max + 64 - before;
        ptn_out_put(&p->own, data, n < room ? n : room);
        b = p->own.p;
        have = p->own.len;
    }
    int64_t end = p->own.err != 0 ? 0 : head_scan(p, b, have);
    if (end == 0) {
        if (before == 0 && n != 0)
            ptn_out_put(&p->own, data, n);
        *ret_used = n;
        *ret_ev = p->own.err == 0
                      ? HTTP_EV_MORE
                      : http__refuse(p, 503, "Out of memory for this request; try again.");
        return false;
    }
    bool chunked = false;
    size_t at = p->blank_skipped ? 2 : 0;
    if (end > 0) {
        *ret_used = (size_t)end - before;
        p->head_at = (uint32_t)at;
        if (before != 0)
            p->own.len = (size_t)end;
    }
    if (end < 0 || !http__head_parse(p, (const char *)b + at, (size_t)end - at, &chunked)) {
        *ret_ev = HTTP_EV_REFUSED;
        return false;
    }
    p->state = chunked ? P_CHUNKED : P_LENGTH;
    http__chunked_init(&p->chunked);
    return true;
}

static enum http_event request_complete(struct http_parser *p) {
    p->state = P_DONE;
    if (p->body_at != 0) {
        p->request.body = (ptn_bytes){p->own.p + p->body_at, p->own.len - p->body_at};
        p->request.base = (const char *)p->own.p + p->head_at;
    }
    return HTTP_EV_REQUEST;
}

/* A body of known length: a view when it lies in one read, else gathered behind the head. */
static enum http_event feed_length(struct http_parser *p, const uint8_t *data, size_t n,
                                   size_t *ret_used) {
    *ret_used = 0;
    if (p->body_at == 0 && n >= p->body_left) {
        p->request.body = (ptn_bytes){data, (size_t)p->body_left};
        *ret_used = (size_t)p->body_left;
        return request_complete(p);
    }
    if (!http__head_own(p))
        return HTTP_EV_REFUSED;
    if (p->body_at == 0)
        p->body_at = (uint32_t)p->own.len;
    size_t take = n < p->body_left ? n : (size_t)p->body_left;
    ptn_out_put(&p->own, data, take);
    if (p->own.err != 0)
        return http__refuse(p, 503, "Out of memory for this request; try again.");
    p->request.base = (const char *)p->own.p + p->head_at;
    p->body_left -= take;
    *ret_used = take;
    return p->body_left == 0 ? request_complete(p) : HTTP_EV_MORE;
}

static enum http_event feed_chunked(struct http_parser *p, const uint8_t *data, size_t n,
                                    size_t *ret_used) {
    *ret_used = 0;
    if (!http__head_own(p))
        return HTTP_EV_REFUSED;
    if (p->body_at == 0)
        p->body_at = (uint32_t)p->own.len;
    int got = http__chunked_feed(p, data, n, ret_used);
    if (got < 0)
        return HTTP_EV_REFUSED;
    p->request.base = (const char *)p->own.p + p->head_at;
    return got > 0 ? request_complete(p) : HTTP_EV_MORE;
}

enum http_event http_parser_feed(struct http_parser *p, const uint8_t *data, size_t n,
                                 size_t *ret_used) {
    *ret_used = 0;
    if (p->state == P_REFUSED)
        return HTTP_EV_REFUSED;
    if (p->state == P_DONE)
        parser_reset(p);
    size_t used = 0;
    if (p->state == P_HEAD) {
        enum http_event ev = HTTP_EV_MORE;
        bool complete = feed_head(p, data, n, &used, &ev);
        *ret_used = used;
        if (!complete)
            return ev;
        bool has_body = p->state == P_CHUNKED || p->body_left != 0;
        p->request.expect_continue = p->request.expect_continue && has_body;
        if (p->request.expect_continue)
            return http__head_own(p) ? HTTP_EV_CONTINUE : HTTP_EV_REFUSED;
    }
    size_t body_used = 0;
    enum http_event ev = p->state == P_CHUNKED ? feed_chunked(p, data + used, n - used, &body_used)
                                               : feed_length(p, data + used, n - used, &body_used);
    *ret_used = used + body_used;
    return ev;
}
