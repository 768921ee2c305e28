/* SPDX-License-Identifier: Apache-2.0
 *
 * extension.c - Sec-WebSocket-Extensions (RFC 6455 section 9.1): which offer of permessage-deflate
 * (RFC 7692 section 7.1) we take.
 *
 * An offer is taken as it stands or declined; what is not understood in it declines it, and the
 * next one is looked at.  A header that is no list of extensions at all fails the handshake.
 */
#include "protocols/ws/internal.h"

#define BITS_MIN 8u
#define BITS_MAX 15u

enum { SERVER_NO_TAKEOVER = 1, CLIENT_NO_TAKEOVER = 2, SERVER_BITS = 4, CLIENT_BITS = 8 };

struct scan {
    const char *p, *end;
};

static bool is_token_char(char ch) {
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
           (ch != '\0' && strchr("!#$%&'*+-.^_`|~", ch) != NULL);
}

static void skip_blanks(struct scan *s) {
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t'))
        s->p++;
}

/* Takes ch and the blanks around it. */
static bool take(struct scan *s, char ch) {
    skip_blanks(s);
    if (s->p == s->end || *s->p != ch)
        return false;
    s->p++;
    skip_blanks(s);
    return true;
}

static bool take_token(struct scan *s, ptn_str *ret_token) {
    const char *from = s->p;
    while (s->p < s->end && is_token_char(*s->p))
        s->p++;
    *ret_token = (ptn_str){from, (size_t)(s->p - from)};
    return ret_token->n > 0;
}

/* A token, bare or in quotes.  One with an escape stands as it is written: it is none of ours. */
static bool take_value(struct scan *s, ptn_str *ret_value) {
    if (s->p == s->end || *s->p != '"')
        return take_token(s, ret_value);
    const char *from = ++s->p;
    while (s->p < s->end && *s->p != '"') {
        if (*s->p == '\\' && ++s->p == s->end)
            return false;
        if (!is_token_char(*s->p++))
            return false;
    }
    if (s->p == s->end || s->p == from)
        return false;
    *ret_value = (ptn_str){from, (size_t)(s->p++ - from)};
    return true;
}

/* 8 to 15 without leading zeros; 0: anything else. */
static unsigned bits_of(ptn_str value) {
    unsigned bits = 0;
    if (value.n == 0 || value.n > 2 || value.p[0] == '0')
        return 0;
    for (size_t i = 0; i < value.n; i++) {
        if (value.p[i] < '0' || value.p[i] > '9')
            return 0;
        bits = bits * 10 + (unsigned)(value.p[i] - '0');
    }
    return bits >= BITS_MIN && bits <= BITS_MAX ? bits : 0;
}

/* Looks at one parameter.  False: the offer is declined. */
static bool parameter(ptn_str name, bool has_value, ptn_str value, unsigned *seen) {
    const unsigned bits = bits_of(value);
    unsigned which = 0;
    bool good = false;
    if (ptn_str_eqz(name, "server_no_context_takeover")) {
        which = SERVER_NO_TAKEOVER;
        good = !has_value;
    } else if (ptn_str_eqz(name, "client_no_context_takeover")) {
        which = CLIENT_NO_TAKEOVER;
        good = !has_value;
    } else if (ptn_str_eqz(name, "server_max_window_bits")) {
        which = SERVER_BITS;
        good = bits >= WS_DEFLATE_WINDOW_BITS; /* all share what one stream makes */
    } else if (ptn_str_eqz(name, "client_max_window_bits")) {
        which = CLIENT_BITS; /* whatever it chooses: we inflate all of them */
        good = !has_value || bits != 0;
    }
    good = good && (*seen & which) == 0;
    *seen |= which;
    return good;
}

/* One extension with its parameters.  False: no extension. */
static bool extension(struct scan *s, enum ws_deflate_answer *ret_answer) {
    ptn_str name, value = {0};
    unsigned seen = 0;
    if (!take_token(s, &name))
        return false;
    bool good = ptn_str_eqz(name, "permessage-deflate");
    while (take(s, ';')) {
        if (!take_token(s, &name))
            return false;
        const bool has_value = take(s, '=');
        if (has_value && !take_value(s, &value))
            return false;
        good = parameter(name, has_value, has_value ? value : (ptn_str){0}, &seen) && good;
    }
    *ret_answer = !good                       ? WS_DEFLATE_OFF
                  : (seen & SERVER_BITS) != 0 ? WS_DEFLATE_ON_BITS
                                              : WS_DEFLATE_ON;
    return true;
}

bool ws__extensions(ptn_str list, enum ws_deflate_answer *ret_answer) {
    struct scan s = {list.p, list.p + list.n};
    enum ws_deflate_answer first = WS_DEFLATE_OFF, answer;
    skip_blanks(&s);
    while (s.p < s.end) {
        if (take(&s, ','))
            continue; /* empty elements are allowed (RFC 9110 section 5.6.1) */
        if (!extension(&s, &answer))
            return false;
        if (first == WS_DEFLATE_OFF)
            first = answer;
        skip_blanks(&s);
        if (s.p < s.end && *s.p != ',')
            return false;
    }
    *ret_answer = first;
    return true;
}
