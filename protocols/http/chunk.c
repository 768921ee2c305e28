/* SPDX-License-Identifier: Apache-2.0
 *
 * chunk.c - the chunked transfer coding (RFC 9112 section 7.1), strict.
 *
 * Size in hexadecimal digits and nothing else, extensions bounded and ignored, every line ended by
 * CR LF, trailer fields checked for form and ignored.  What a proxy before us could read
 * differently is refused.
 */
#include "protocols/http/http.h"

enum chunk_state {
    K_SIZE,
    K_EXT,
    K_SIZE_LF,
    K_DATA,
    K_DATA_CR,
    K_DATA_LF,
    K_LINE,  /* first byte of a trailer line */
    K_FIELD, /* inside one */
    K_FIELD_LF,
    K_END_LF,
};

#define CHUNK_EXT_BYTES_MAX 256u /* all extensions of one body */
#define CHUNK_SIZE_DIGITS_MAX 16u

void http__chunked_init(struct http_chunked *k) {
    memset(k, 0, sizeof *k);
}

static int refuse(struct http_parser *p, unsigned status, const char *message) {
    http__refuse(p, status, message);
    return -1;
}

static int hex_value(uint8_t c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int size_byte(struct http_parser *p, uint8_t c) {
    struct http_chunked *k = &p->chunked;
    int v = hex_value(c);
    if (v >= 0) {
        if (++k->digits > CHUNK_SIZE_DIGITS_MAX)
            return refuse(p, 400, "A chunk size has too many digits.");
        k->left = k->left << 4 | (uint64_t)v;
        return 0;
    }
    if (k->digits == 0)
        return refuse(p, 400, "A chunk does not begin with its size in hexadecimal.");
    if (c == ';')
        k->state = K_EXT;
    else if (c == '\r')
        k->state = K_SIZE_LF;
    else
        return refuse(p, 400, "A chunk size is followed by something other than CR LF or ';'.");
    uint64_t have = p->own.len - p->body_at;
    if (k->left > p->limits->body_bytes_max || have + k->left > p->limits->body_bytes_max)
        return refuse(p, 413, "The body is larger than this server accepts.");
    return 0;
}

static int ext_byte(struct http_parser *p, uint8_t c) {
    if (c == '\r') {
        p->chunked.state = K_SIZE_LF;
        return 0;
    }
    if (c != '\t' && (c < 0x20 || c >= 0x7f))
        return refuse(p, 400, "Invalid byte in a chunk extension.");
    if (++p->chunked.ext_bytes > CHUNK_EXT_BYTES_MAX)
        return refuse(p, 400, "The chunk extensions are too long.");
    return 0;
}

/* Bytes of the trailer section. */
static int trailer_byte(struct http_parser *p, uint8_t c) {
    struct http_chunked *k = &p->chunked;
    if (++k->trailer_bytes > p->limits->header_bytes_max)
        return refuse(p, 431, "The trailer fields are too large.");
    if (k->state == K_LINE) {
        if (c == '\r') {
            k->state = K_END_LF;
            return 0;
        }
        if (++k->n_trailers > p->limits->headers_max)
            return refuse(p, 431, "There are too many trailer fields.");
        if (!http__is_tchar(c))
            return refuse(p, 400, "A trailer field does not begin with its name.");
        k->name_seen = false;
        k->state = K_FIELD;
        return 0;
    }
    if (c == '\r') {
        if (!k->name_seen)
            return refuse(p, 400, "A trailer field has no colon.");
        k->state = K_FIELD_LF;
    } else if (!k->name_seen) {
        if (c == ':')
            k->name_seen = true;
        else if (!http__is_tchar(c))
            return refuse(p, 400, "Invalid byte in the name of a trailer field.");
    } else if (c == 0x7f || (c < 0x20 && c != '\t')) {
        return refuse(p, 400, "Control byte in a trailer field.");
    }
    return 0;
}

static int line_feed(struct http_parser *p, uint8_t c) {
    struct http_chunked *k = &p->chunked;
    if (c != '\n')
        return refuse(p, 400, "A CR is not followed by LF in the chunked body.");
    if (k->state == K_SIZE_LF) {
        k->state = k->left == 0 ? K_LINE : K_DATA;
    } else if (k->state == K_DATA_LF) {
        k->state = K_SIZE;
        k->digits = 0;
    } else {
        k->state = K_LINE;
    }
    return 0;
}

/* One byte of framing.  1: the body is complete. */
static int framing_byte(struct http_parser *p, uint8_t c) {
    switch (p->chunked.state) {
    case K_SIZE:
        return size_byte(p, c);
    case K_EXT:
        return ext_byte(p, c);
    case K_DATA_CR:
        if (c != '\r')
            return refuse(p, 400, "A chunk is longer than its size says.");
        p->chunked.state = K_DATA_LF;
        return 0;
    case K_LINE:
    case K_FIELD:
        return trailer_byte(p, c);
    case K_END_LF:
        return c == '\n' ? 1 : refuse(p, 400, "A CR is not followed by LF in the chunked body.");
    default:
        return line_feed(p, c);
    }
}

int http__chunked_feed(struct http_parser *p, const uint8_t *data, size_t n, size_t *ret_used) {
    struct http_chunked *k = &p->chunked;
    size_t i = 0;
    int got = 0;
    while (i < n && got == 0) {
        if (k->state != K_DATA) {
            got = framing_byte(p, data[i++]);
            continue;
        }
        size_t take = n - i < k->left ? n - i : (size_t)k->left;
        ptn_out_put(&p->own, data + i, take);
        if (p->own.err != 0)
            got = refuse(p, 503, "Out of memory for this request; try again.");
        i += take;
        k->left -= take;
        if (k->left == 0)
            k->state = K_DATA_CR;
    }
    *ret_used = i;
    return got;
}
