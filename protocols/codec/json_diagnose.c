/* SPDX-License-Identifier: Apache-2.0
 *
 * json_diagnose.c - a plain JSON checker that names the first mistake and its place.
 *
 * simdjson says that a text is wrong but not where.  This file runs only after a refusal, one byte
 * at a time, and gives the client a sentence to act on.  It is written from RFC 8259 alone, so the
 * fuzzer can hold it against simdjson: both must accept the same texts.  Containers are kept as one
 * bit each, no recursion.
 */
#include "protocols/codec/json_diagnose.h"

#include "protocols/codec/json_tape.h"
#include "protocols/codec/pack_inline.h"
#include "protocols/codec/text.h"

#define BAD "the body is not JSON: "

struct checker {
    const uint8_t *p;
    size_t n, i;
    const char *what; /* set by the first mistake, which is at i */
    uint32_t depth, depth_max;
    uint8_t is_map[PTN__DEPTH_MAX / 8];
};

static bool fail(struct checker *c, const char *what) {
    c->what = what;
    return false;
}

static bool is_digit(const struct checker *c, size_t i) {
    return i < c->n && c->p[i] >= '0' && c->p[i] <= '9';
}

static void skip_space(struct checker *c) {
    while (c->i < c->n &&
           (c->p[c->i] == ' ' || c->p[c->i] == '\t' || c->p[c->i] == '\n' || c->p[c->i] == '\r'))
        c->i++;
}

/* Four hexadecimal digits at i, or -1. */
static int32_t hex4(const struct checker *c, size_t i) {
    int32_t v = 0;
    if (c->n - i < 4 || i > c->n)
        return -1;
    for (size_t k = i; k < i + 4; k++) {
        uint8_t b = c->p[k];
        uint8_t lower = b | 0x20;
        if (b >= '0' && b <= '9')
            v = v << 4 | (b - '0');
        else if (lower >= 'a' && lower <= 'f')
            v = v << 4 | (lower - 'a' + 10);
        else
            return -1;
    }
    return v;
}

/* i is at a backslash. */
static bool check_escape(struct checker *c) {
    uint8_t b = c->i + 1 < c->n ? c->p[c->i + 1] : 0;
    if (b != 'u') {
        if (b == 0 || strchr("\"\\/bfnrt", b) == NULL)
            return fail(c, BAD "unknown escape in a string; write \\\\ for a backslash");
        c->i += 2;
        return true;
    }
    int32_t v = hex4(c, c->i + 2);
    if (v < 0)
        return fail(c, BAD "\\u without four hexadecimal digits; complete the escape");
    if (v == 0)
        return fail(c, "the body has a string with NUL (\\u0000); remove it");
    if (v >= 0xdc00 && v <= 0xdfff)
        return fail(c, BAD "low surrogate without a high one; write the pair, or plain UTF-8");
    if (v >= 0xd800 && v <= 0xdbff) {
        size_t next = c->i + 6;
        bool is_escape = next + 1 < c->n && c->p[next] == '\\' && c->p[next + 1] == 'u';
        int32_t low = is_escape ? hex4(c, next + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return fail(c, BAD "high surrogate without a low one; write the pair, or plain UTF-8");
        c->i += 6;
    }
    c->i += 6;
    return true;
}

/* i is at the opening quote. */
static bool check_string(struct checker *c) {
    size_t start = c->i++;
    while (c->i < c->n && c->p[c->i] != '"') {
        uint8_t b = c->p[c->i];
        if (b == '\\') {
            if (!check_escape(c))
                return false;
        } else if (b < 0x20) {
            return fail(c, BAD "control character in a string; escape it, for example as \\n");
        } else {
            size_t char_bytes = ptn__utf8_char(c->p + c->i, c->n - c->i);
            if (char_bytes == 0)
                return fail(c, BAD "a string is not UTF-8; encode the body as UTF-8");
            c->i += char_bytes;
        }
    }
    if (c->i == c->n) {
        c->i = start;
        return fail(c, BAD "a string is not closed; send the whole body");
    }
    c->i++;
    return true;
}

/* An integer of n digits without sign at p fits 64 bits: up to 2^64-1, or 2^63 below zero. */
static bool integer_fits(const uint8_t *p, size_t n, bool is_negative) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, p[i] - '0', &v))
            return false;
    return !is_negative || v <= (uint64_t)INT64_MAX + 1;
}

static void skip_digits(struct checker *c) {
    while (is_digit(c, c->i))
        c->i++;
}

/* i is at a minus sign or a digit. */
static bool check_number(struct checker *c) {
    size_t start = c->i;
    bool is_negative = c->p[start] == '-', is_integer = true;
    c->i += is_negative ? 1 : 0;
    size_t digits = c->i;
    if (!is_digit(c, digits))
        return fail(c, BAD "a minus sign without a number; write digits after it");
    if (c->p[digits] == '0' && is_digit(c, digits + 1))
        return fail(c, BAD "a number starts with 0; leave the zero out, or quote the number");
    skip_digits(c);
    size_t digits_end = c->i;
    if (c->i < c->n && c->p[c->i] == '.') {
        is_integer = false;
        c->i++;
        if (!is_digit(c, c->i))
            return fail(c, BAD "no digit after a decimal point; write at least one");
        skip_digits(c);
    }
    if (c->i < c->n && (c->p[c->i] | 0x20) == 'e') {
        is_integer = false;
        c->i++;
        if (c->i < c->n && (c->p[c->i] == '+' || c->p[c->i] == '-'))
            c->i++;
        if (!is_digit(c, c->i))
            return fail(c, BAD "no digit in an exponent; write at least one");
        skip_digits(c);
    }
    size_t end = c->i;
    c->i = start;
    if (is_integer && !integer_fits(c->p + digits, digits_end - digits, is_negative))
        return fail(c, "the body has an integer beyond 64 bits; send it as a string");
    if (!is_integer && ptn__double_overflows((const char *)c->p + start, end - start))
        return fail(c, "the body has a number beyond the range of a double; send it as a string");
    c->i = end;
    return true;
}

static bool check_literal(struct checker *c, const char *word) {
    size_t n = strlen(word);
    if (c->n - c->i < n || memcmp(c->p + c->i, word, n) != 0)
        return fail(c, BAD "unknown word; only true, false and null go without quotes");
    c->i += n;
    return true;
}

static bool in_map(const struct checker *c) {
    uint32_t top = c->depth - 1;
    return (c->is_map[top / 8] >> (top % 8) & 1) != 0;
}

static bool push(struct checker *c, bool is_map) {
    if (c->depth == c->depth_max)
        return fail(c, "the body is nested too deeply; flatten it");
    uint32_t top = c->depth++;
    uint8_t bit = (uint8_t)(1u << (top % 8));
    c->is_map[top / 8] = (uint8_t)(is_map ? c->is_map[top / 8] | bit : c->is_map[top / 8] & ~bit);
    c->i++;
    return true;
}

/* A member's name and its colon. */
static bool check_key(struct checker *c) {
    skip_space(c);
    if (c->i == c->n)
        return fail(c, BAD "an object is not closed; send the whole body");
    if (c->p[c->i] != '"')
        return fail(c, BAD "a member name must be a string in double quotes");
    if (!check_string(c))
        return false;
    skip_space(c);
    if (c->i == c->n || c->p[c->i] != ':')
        return fail(c, BAD "no colon after a member name; write \"name\": value");
    c->i++;
    return true;
}

/* A scalar, or the opening of a container; *ret_opened says which. */
static bool check_value(struct checker *c, bool *ret_opened) {
    *ret_opened = false;
    skip_space(c);
    if (c->i == c->n)
        return fail(c, BAD "it ends where a value was expected; send the whole body");
    uint8_t b = c->p[c->i];
    if (b == '{' || b == '[') {
        *ret_opened = true;
        return push(c, b == '{');
    }
    if (b == '"')
        return check_string(c);
    if (b == '-' || is_digit(c, c->i))
        return check_number(c);
    if (b == 't')
        return check_literal(c, "true");
    if (b == 'f')
        return check_literal(c, "false");
    if (b == 'n')
        return check_literal(c, "null");
    return fail(c, BAD "unexpected character; send one JSON value");
}

/* After a value: closes what ends here and takes the comma.  *ret_done: the outermost value is
 * complete. */
static bool check_after(struct checker *c, bool *ret_done) {
    for (;;) {
        *ret_done = c->depth == 0;
        if (*ret_done)
            return true;
        skip_space(c);
        if (c->i == c->n)
            return fail(c, BAD "an array or object is not closed; send the whole body");
        uint8_t b = c->p[c->i];
        if (b == ',') {
            c->i++;
            return true;
        }
        if (b != (in_map(c) ? '}' : ']'))
            return fail(c, in_map(c) ? BAD "expected a comma or } after a member"
                                     : BAD "expected a comma or ] after an element");
        c->i++;
        c->depth--;
    }
}

/* Just after an opening bracket: true when the container closes at once. */
static bool closes_at_once(struct checker *c) {
    skip_space(c);
    if (c->i == c->n || c->p[c->i] != (in_map(c) ? '}' : ']'))
        return false;
    c->i++;
    c->depth--;
    return true;
}

static bool check_text(struct checker *c) {
    if (c->n >= 3 && memcmp(c->p, "\xef\xbb\xbf", 3) == 0)
        return fail(c, "the body starts with a byte order mark; send plain UTF-8 without it");
    skip_space(c);
    if (c->i == c->n)
        return fail(c, "the body is empty; send one JSON value");
    bool is_done = false, has_opened;
    do {
        if (c->depth > 0 && in_map(c) && !check_key(c))
            return false;
        if (!check_value(c, &has_opened))
            return false;
        if (has_opened && !closes_at_once(c))
            continue;
        if (!check_after(c, &is_done))
            return false;
    } while (!is_done);
    skip_space(c);
    return c->i == c->n || fail(c, BAD "something follows the value; send exactly one JSON value");
}

bool ptn__json_diagnose(ptn_str json, uint32_t depth_max, ptn_codec_error *ret_error) {
    struct checker c = {.p = (const uint8_t *)json.p, .n = json.n, .depth_max = depth_max};
    if (check_text(&c))
        return false;
    *ret_error = (ptn_codec_error){.what = c.what, .offset = c.i};
    return true;
}
