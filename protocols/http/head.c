/* SPDX-License-Identifier: Apache-2.0
 *
 * head.c - what a request head means: request line, header lines, and the rules for both.
 *
 * The scan in parser.c hands over single lines early, so that a bad request is refused at its first
 * bad line. The complete head then goes through llhttp, which splits it, and through the rules of
 * RFC 9112 that decide where a body ends: whatever two implementations could read in two ways is
 * refused.
 */
#include "protocols/http/http.h"

#include <llhttp.h>

enum header_kind { KIND_SINGLE, KIND_LIST, KIND_LOOSE };

static const struct {
    const char *name;
    uint8_t len, kind;
} headers_known[HTTP_H_COUNT] = {
#define XX(id, name, kind) [HTTP_H_##id] = {name, sizeof(name) - 1, KIND_##kind},
    HTTP_HEADER_MAP(XX)
#undef XX
};

/* What a byte may stand in: a token (RFC 9110 section 5.6.2); a host's name; a path, without what
 * means something there (%, ?, #).  Rows of 16, from blank to DEL; nothing else stands in any. */
enum { IN_TOKEN = 1, IN_HOST = 2, IN_PATH = 4 };
/* clang-format off */
static const uint8_t in_what[256] = {
    [0x20] =
    0, 5, 4, 1, 5, 1, 5, 5, 4, 4, 5, 5, 4, 7, 7, 4, /* 0x20 */
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 4, 4, 4, 4, 4, 0, /* 0x30 */
    4, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, /* 0x40 */
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 4, 4, 4, 5, 7, /* 0x50 */
    5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, /* 0x60 */
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 4, 5, 4, 7, 0, /* 0x70 */
};
/* clang-format on */

static inline bool is_in(char c, uint8_t what) {
    return (in_what[(uint8_t)c] & what) != 0;
}

bool http__is_tchar(uint8_t c) {
    return (in_what[c] & IN_TOKEN) != 0;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_hex(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool refuse(struct http_parser *p, unsigned status, const char *message) {
    http__refuse(p, status, message);
    return false;
}

/* ---- request line ------------------------------------------------------------------------- */

static bool version_check(struct http_parser *p, const char *v, size_t n) {
    if (n != 8 || memcmp(v, "HTTP/", 5) != 0 || !is_digit(v[5]) || v[6] != '.' || !is_digit(v[7]))
        return refuse(p, 400, "The request line must be: method, target, HTTP/1.1.");
    if (v[5] != '1' || (v[7] != '0' && v[7] != '1'))
        return refuse(p, 505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.");
    return true;
}

bool http__request_line(struct http_parser *p, const char *line, size_t n) {
    size_t method = 0;
    while (method < n && is_in(line[method], IN_TOKEN))
        method++;
    if (method == 0 || method == n || line[method] != ' ')
        return refuse(p, 400, "The request line must be: method, target, HTTP/1.1.");
    if (method > 32)
        return refuse(p, 501, "This method is not known.");
    size_t at = method + 1, end = at;
    while (end < n && (uint8_t)line[end] > 0x20 && (uint8_t)line[end] < 0x7f)
        end++;
    if (end < n && line[end] != ' ')
        return refuse(p, 400, "The request target has a byte that must be percent-encoded.");
    if (end == at || end == n)
        return refuse(p, 400, "The request line must be: method, target, HTTP/1.1.");
    return version_check(p, line + end + 1, n - end - 1);
}

bool http__field_line(struct http_parser *p, const char *line, size_t n) {
    if (line[0] == ' ' || line[0] == '\t')
        return refuse(p, 400, "A header line begins with whitespace (line folding is obsolete).");
    size_t i = 0;
    while (i < n && is_in(line[i], IN_TOKEN))
        i++;
    if (i == n)
        return refuse(p, 400, "A header line has no colon.");
    if (line[i] != ':' && (line[i] == ' ' || line[i] == '\t'))
        return refuse(p, 400, "Whitespace in or after a header name.");
    if (line[i] != ':')
        return refuse(p, 400, "A header name has an invalid byte.");
    if (i == 0)
        return refuse(p, 400, "A header line has no name.");
    if (++p->n_headers > p->limits->headers_max)
        return refuse(p, 431, "There are too many headers.");
    return true;
}

/* ---- target and host ---------------------------------------------------------------------- */

static bool port_is_valid(const char *s, size_t n) {
    if (n > 5)
        return false;
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_digit(s[i]))
            return false;
        v = v * 10 + (uint32_t)(s[i] - '0');
    }
    return v <= 65535;
}

/* uri-host [ ":" port ], without user information and stricter than the grammar on reg-name. */
static bool authority_is_valid(const char *s, size_t n) {
    size_t i = 0;
    if (n == 0)
        return false;
    if (s[0] == '[') {
        for (i = 1; i < n && (is_hex(s[i]) || s[i] == ':' || s[i] == '.'); i++)
            ;
        if (i < 4 || i == n || s[i] != ']')
            return false;
        i++;
    } else {
        while (i < n && is_in(s[i], IN_HOST))
            i++;
        if (i == 0 || i > 255)
            return false;
    }
    return i == n || (s[i] == ':' && port_is_valid(s + i + 1, n - i - 1));
}

static char lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

/* z in lower case. */
bool http_equals_nocase(ptn_str a, const char *z) {
    for (size_t i = 0; i < a.n; i++)
        if (z[i] == 0 || lower(a.p[i]) != z[i])
            return false;
    return z[a.n] == 0;
}

static bool same_nocase(ptn_str a, ptn_str b) {
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (lower(a.p[i]) != lower(b.p[i]))
            return false;
    return true;
}

/* scheme://authority of an absolute-form target: its length, or 0 when it is none. */
static size_t absolute_prefix(ptn_str t, ptn_str *ret_authority) {
    size_t scheme = 0;
    if (t.n > 7 && http_equals_nocase((ptn_str){t.p, 7}, "http://"))
        scheme = 7;
    else if (t.n > 8 && http_equals_nocase((ptn_str){t.p, 8}, "https://"))
        scheme = 8;
    if (scheme == 0)
        return 0;
    size_t i = scheme;
    while (i < t.n && t.p[i] != '/' && t.p[i] != '?' && t.p[i] != '#')
        i++;
    *ret_authority = (ptn_str){t.p + scheme, i - scheme};
    return i;
}

/* Goes from the start of a path to its end.  False: a broken percent-encoding. */
static bool path_end(ptn_str t, size_t *at) {
    size_t i = *at;
    for (;; i += 3) {
        while (i < t.n && is_in(t.p[i], IN_PATH))
            i++;
        if (i == t.n || t.p[i] != '%')
            break;
        if (t.n - i < 3 || !is_hex(t.p[i + 1]) || !is_hex(t.p[i + 2]))
            return false;
    }
    *at = i;
    return true;
}

/* Splits the target into path and query; absolute-form loses its origin, which must be the Host. */
static bool target_parse(struct http_parser *p, struct http_span target) {
    struct http_request *r = &p->request;
    ptn_str t = http_span_str(r, target);
    if (t.n == 1 && t.p[0] == '*') {
        r->asterisk = true;
        r->path = target;
        return r->method == PTN_OPTIONS || refuse(p, 400, "The target '*' is for OPTIONS only.");
    }
    size_t at = 0;
    if (t.n == 0 || t.p[0] != '/') {
        ptn_str authority = {"", 0};
        at = absolute_prefix(t, &authority);
        if (at == 0)
            return refuse(p, 400, "The request target must begin with '/'.");
        if (!authority_is_valid(authority.p, authority.n))
            return refuse(p, 400, "The request target names an invalid host.");
        if (http_has(r, HTTP_H_HOST) && !same_nocase(authority, http_header(r, HTTP_H_HOST)))
            return refuse(p, 400, "Host and the request target name different hosts.");
    }
    size_t end = at;
    if (!path_end(t, &end))
        return refuse(p, 400, "The request target has a broken percent-encoding.");
    if (end < t.n && memchr(t.p + end, '#', t.n - end) != NULL)
        return refuse(p, 400, "A request target has no fragment.");
    r->path = (struct http_span){target.off + (uint32_t)at, (uint32_t)(end - at)};
    if (end < t.n)
        r->query = (struct http_span){target.off + (uint32_t)end + 1, (uint32_t)(t.n - end - 1)};
    return true;
}

static bool host_check(struct http_parser *p) {
    const struct http_request *r = &p->request;
    if (!http_has(r, HTTP_H_HOST))
        return r->minor == 0 || refuse(p, 400, "HTTP/1.1 requires a Host header.");
    ptn_str host = http_header(r, HTTP_H_HOST);
    return authority_is_valid(host.p, host.n) || refuse(p, 400, "The Host header is not valid.");
}

/* ---- llhttp ------------------------------------------------------------------------------- */

struct head_walk { /* what the callbacks fill */
    struct http_parser *p;
    struct http_span target, name, value;
    bool complete;
};

static void span_extend(struct head_walk *w, struct http_span *s, const char *at, size_t n) {
    if (s->len == 0)
        s->off = (uint32_t)(at - w->p->request.base);
    s->len = (uint32_t)((size_t)(at - w->p->request.base) + n) - s->off;
}

static int on_url(llhttp_t *l, const char *at, size_t n) {
    struct head_walk *w = l->data;
    span_extend(w, &w->target, at, n);
    return 0;
}

static int on_header_field(llhttp_t *l, const char *at, size_t n) {
    struct head_walk *w = l->data;
    span_extend(w, &w->name, at, n);
    return 0;
}

static int on_header_value(llhttp_t *l, const char *at, size_t n) {
    struct head_walk *w = l->data;
    if (n != 0)
        span_extend(w, &w->value, at, n);
    return 0;
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

static struct http_span trim(const char *base, struct http_span s) {
    while (s.len != 0 && is_blank(base[s.off]))
        s = (struct http_span){s.off + 1, s.len - 1};
    while (s.len != 0 && is_blank(base[s.off + s.len - 1]))
        s.len--;
    return s;
}

static int header_find(ptn_str name) {
    for (int i = 0; i < HTTP_H_COUNT; i++)
        if (headers_known[i].len == name.n && headers_known[i].name[0] == lower(name.p[0]) &&
            http_equals_nocase(name, headers_known[i].name))
            return i;
    return -1;
}

static bool is_ascii(const char *p, size_t n) {
    uint64_t w, high = 0;
    for (; n >= sizeof w; p += sizeof w, n -= sizeof w) {
        memcpy(&w, p, sizeof w);
        high |= w;
    }
    for (; n != 0; p++, n--)
        high |= (uint8_t)*p;
    return (high & UINT64_C(0x8080808080808080)) == 0;
}

static int on_header_value_complete(llhttp_t *l) {
    struct head_walk *w = l->data;
    struct http_parser *p = w->p;
    struct http_request *r = &p->request;
    int h = header_find(http_span_str(r, w->name));
    struct http_span value = trim(r->base, w->value);
    w->name.len = 0;
    w->value.len = 0;
    if (h < 0)
        return 0;
    if (!is_ascii(r->base + value.off, value.len)) {
        http__refuse(p, 400, "A header that matters here has a byte outside ASCII.");
        return HPE_USER;
    }
    if (http_has(r, (enum http_header)h)) {
        p->repeated |= 1u << h;
        if (headers_known[h].kind == KIND_SINGLE) {
            http__refuse(p, 400,
                         h == HTTP_H_HOST ? "There is more than one Host header."
                                          : "A header appears twice that may appear once.");
            return HPE_USER;
        }
        return 0;
    }
    r->seen |= 1u << h;
    r->headers[h] = value;
    return 0;
}

static int on_headers_complete(llhttp_t *l) {
    struct head_walk *w = l->data;
    w->complete = true;
    return HPE_PAUSED; /* bodies are ours: chunk.c and parser.c */
}

static const llhttp_settings_t walk_settings = {
    .on_url = on_url,
    .on_header_field = on_header_field,
    .on_header_value = on_header_value,
    .on_header_value_complete = on_header_value_complete,
    .on_headers_complete = on_headers_complete,
};

static enum ptn_method method_of(const llhttp_t *l) {
    switch (l->method) {
    case HTTP_GET:
        return PTN_GET;
    case HTTP_HEAD:
        return PTN_HEAD;
    case HTTP_POST:
        return PTN_POST;
    case HTTP_PUT:
        return PTN_PUT;
    case HTTP_PATCH:
        return PTN_PATCH;
    case HTTP_DELETE:
        return PTN_DELETE;
    case HTTP_OPTIONS:
        return PTN_OPTIONS;
    default:
        return PTN_METHOD_OTHER;
    }
}

static bool walk(struct http_parser *p, const char *head, size_t n, struct http_span *ret_target) {
    struct head_walk w = {.p = p};
    llhttp_t l;
    llhttp_init(&l, HTTP_REQUEST, &walk_settings);
    l.data = &w;
    llhttp_errno_t err = llhttp_execute(&l, head, n);
    if (p->status != 0)
        return false;
    if (err == HPE_INVALID_METHOD)
        return refuse(p, 501, "This method is not known.");
    if (!w.complete) {
        const char *why = llhttp_get_error_reason(&l); /* a literal of llhttp's, or NULL */
        return refuse(p, 400, why != NULL && why[0] != 0 ? why : "The request head is malformed.");
    }
    if (l.method == HTTP_CONNECT)
        return refuse(p, 400, "CONNECT is for proxies; this is none.");
    *ret_target = w.target;
    p->request.method = method_of(&l);
    p->request.minor = l.http_minor;
    return true;
}

/* ---- after the walk ----------------------------------------------------------------------- */

/* The value of one line of the head if it is header h, else false. */
static bool line_value(const char *line, size_t n, enum http_header h, ptn_str *ret_value) {
    const char *colon = memchr(line, ':', n);
    if (colon == NULL ||
        !http_equals_nocase((ptn_str){line, (size_t)(colon - line)}, headers_known[h].name))
        return false;
    struct http_span s = {(uint32_t)(colon - line) + 1, (uint32_t)(line + n - colon) - 1};
    s = trim(line, s);
    *ret_value = (ptn_str){line + s.off, s.len};
    return true;
}

/* All values of header h, joined by ", ", behind the head. */
static bool join(struct http_parser *p, enum http_header h) {
    struct http_request *r = &p->request;
    if (!http__head_own(p))
        return false;
    size_t head = r->head_bytes, at = p->own.len, i = 0;
    /* The joined form is no longer than the head itself, so that nothing moves while it is written.
     */
    if (ptn_out_reserve(&p->own, head + 2) == NULL)
        return refuse(p, 503, "Out of memory for this request; try again.");
    const char *base = (const char *)p->own.p + p->head_at;
    while (i < head) {
        const char *cr = memchr(base + i, '\r', head - i);
        size_t end = cr == NULL ? head : (size_t)(cr - base);
        ptn_str value;
        if (line_value(base + i, end - i, h, &value)) {
            if (p->own.len != at)
                ptn_out_put(&p->own, ", ", 2);
            ptn_out_put(&p->own, value.p, value.n);
        }
        i = end + 2;
    }
    r->base = (const char *)p->own.p + p->head_at;
    r->headers[h] = (struct http_span){(uint32_t)(at - p->head_at), (uint32_t)(p->own.len - at)};
    return true;
}

static bool join_repeated(struct http_parser *p) {
    for (uint32_t left = p->repeated; left != 0; left &= left - 1) {
        int h = __builtin_ctz(left);
        if (headers_known[h].kind == KIND_LOOSE)
            p->request.seen &= ~(1u << h);
        else if (!join(p, (enum http_header)h))
            return false;
    }
    if (p->repeated != 0 && p->own.len != 0)
        p->request.head_bytes = (uint32_t)(p->own.len - p->head_at);
    return true;
}

/* Where the body ends. */
static bool framing(struct http_parser *p, bool *ret_chunked) {
    const struct http_request *r = &p->request;
    *ret_chunked = false;
    if (http_has(r, HTTP_H_TRANSFER_ENCODING)) {
        if (http_has(r, HTTP_H_CONTENT_LENGTH))
            return refuse(p, 400, "Content-Length and Transfer-Encoding exclude each other.");
        if (r->minor == 0)
            return refuse(p, 400, "HTTP/1.0 has no Transfer-Encoding.");
        if (!http_equals_nocase(http_header(r, HTTP_H_TRANSFER_ENCODING), "chunked"))
            return refuse(p, 400, "The only Transfer-Encoding is 'chunked'.");
        *ret_chunked = true;
        return true;
    }
    if (!http_has(r, HTTP_H_CONTENT_LENGTH))
        return true;
    ptn_str s = http_header(r, HTTP_H_CONTENT_LENGTH);
    if (s.n == 0)
        return refuse(p, 400, "Content-Length must be one decimal number.");
    uint64_t v = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (!is_digit(s.p[i]))
            return refuse(p, 400, "Content-Length must be one decimal number.");
        if (v <= UINT32_MAX)
            v = v * 10 + (uint64_t)(s.p[i] - '0');
    }
    if (s.n > 19)
        return refuse(p, 400, "Content-Length has too many digits.");
    if (v > p->limits->body_bytes_max)
        return refuse(p, 413, "The body is larger than this server accepts.");
    p->body_left = v;
    return true;
}

static bool connection_rules(struct http_parser *p) {
    struct http_request *r = &p->request;
    ptn_str connection = http_header(r, HTTP_H_CONNECTION);
    r->keep_alive = r->minor == 1 ? !http_token_list_has(connection, "close")
                                  : http_token_list_has(connection, "keep-alive") &&
                                        !http_token_list_has(connection, "close");
    r->upgrade_websocket = r->minor == 1 && http_token_list_has(connection, "upgrade") &&
                           http_token_list_has(http_header(r, HTTP_H_UPGRADE), "websocket");
    if (r->minor == 0 || !http_has(r, HTTP_H_EXPECT))
        return true;
    if (!http_equals_nocase(http_header(r, HTTP_H_EXPECT), "100-continue"))
        return refuse(p, 417, "The only expectation met here is 100-continue.");
    r->expect_continue = true;
    return true;
}

bool http__head_parse(struct http_parser *p, const char *head, size_t n, bool *ret_chunked) {
    struct http_request *r = &p->request;
    r->base = head;
    r->head_bytes = (uint32_t)n;
    struct http_span target = {0, 0};
    if (!walk(p, head, n, &target))
        return false;
    return join_repeated(p) && host_check(p) && target_parse(p, target) &&
           framing(p, ret_chunked) && connection_rules(p);
}
