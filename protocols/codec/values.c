/* SPDX-License-Identifier: Apache-2.0
 *
 * values.c - the small values of the catalogue: paths, queries, topics, ULIDs, timestamps.
 *
 * Functions over bytes, any thread.
 */
#include <postern/codec.h>
#include <postern/messages.h>

#include <stdio.h>

/* ---- paths and queries -------------------------------------------------------------------- */

static int hex_value(char ch) {
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    if (ch >= 'a' && ch <= 'f')
        return ch - 'a' + 10;
    if (ch >= 'A' && ch <= 'F')
        return ch - 'A' + 10;
    return -1;
}

/* Percent-decodes in into buf (RFC 3986 section 2.1); plus as blank where asked (form encoding). */
static bool percent_decode(ptn_str in, bool plus, char *buf, size_t buf_bytes, ptn_str *ret_s) {
    size_t n = 0, i = 0;
    if (!plus && in.n > 0 && in.n <= buf_bytes && memchr(in.p, '%', in.n) == NULL &&
        memchr(in.p, '\0', in.n) == NULL) { /* as nearly always */
        memcpy(buf, in.p, in.n);
        n = i = in.n;
    }
    for (; i < in.n; i++) {
        char ch = in.p[i];
        if (ch == '%') {
            if (in.n - i < 3)
                return false;
            int hi = hex_value(in.p[i + 1]), lo = hex_value(in.p[i + 2]);
            if (hi < 0 || lo < 0)
                return false;
            ch = (char)(hi * 16 + lo);
            i += 2;
        } else if (plus && ch == '+') {
            ch = ' ';
        }
        if (ch == '\0' || n == buf_bytes)
            return false;
        buf[n++] = ch;
    }
    if (!ptn_utf8_valid((const uint8_t *)buf, n))
        return false;
    *ret_s = (ptn_str){buf, n};
    return true;
}

bool ptn_path_segment(ptn_str path, unsigned i, char *buf, size_t buf_bytes, ptn_str *ret_s) {
    ptn_str prefix = PTN_STR("/api/v1/");
    if (ptn_str_starts(path, prefix))
        path = (ptn_str){path.p + prefix.n - 1, path.n - prefix.n + 1};
    for (unsigned at = 0; path.n > 0 && path.p[0] == '/'; at++) {
        const char *end = memchr(path.p + 1, '/', path.n - 1);
        size_t n = end != NULL ? (size_t)(end - path.p) : path.n; /* with its leading slash */
        if (at == i)
            return percent_decode((ptn_str){path.p + 1, n - 1}, false, buf, buf_bytes, ret_s);
        path = (ptn_str){path.p + n, path.n - n};
    }
    return false;
}

/* The parameter as it was sent. */
static bool query_find(ptn_str query, const char *key, ptn_str *ret_raw) {
    ptn_str wanted = ptn_str_of(key);
    while (query.n > 0) {
        const char *amp = memchr(query.p, '&', query.n);
        size_t n = amp != NULL ? (size_t)(amp - query.p) : query.n;
        ptn_str pair = {query.p, n};
        query = (ptn_str){query.p + n + (amp != NULL), query.n - n - (amp != NULL)};
        const char *eq = memchr(pair.p, '=', pair.n);
        ptn_str name = {pair.p, eq != NULL ? (size_t)(eq - pair.p) : pair.n};
        if (!ptn_str_eq(name, wanted))
            continue;
        *ret_raw = (ptn_str){"", 0};
        if (eq != NULL)
            *ret_raw = (ptn_str){eq + 1, pair.n - name.n - 1};
        return true;
    }
    return false;
}

bool ptn_query_has(ptn_str query, const char *key) {
    ptn_str raw;
    return query_find(query, key, &raw);
}

bool ptn_query_get(ptn_str query, const char *key, char *buf, size_t buf_bytes, ptn_str *ret_s) {
    ptn_str raw;
    return query_find(query, key, &raw) && percent_decode(raw, true, buf, buf_bytes, ret_s);
}

int ptn_query_int(ptn_str query, const char *key, int64_t min, int64_t max, int64_t *ret_v) {
    char buf[24];
    ptn_str s = {0};
    if (!ptn_query_get(query, key, buf, sizeof buf, &s))
        return ptn_query_has(query, key) ? -PTN_EINVAL : 0;
    bool negative = s.n > 0 && s.p[0] == '-';
    if (s.n == (size_t)negative || s.n - negative > 18)
        return -PTN_EINVAL;
    int64_t v = 0;
    for (size_t i = negative; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return -PTN_EINVAL;
        v = v * 10 + (s.p[i] - '0');
    }
    v = negative ? -v : v;
    if (v < min || v > max)
        return -PTN_EINVAL;
    *ret_v = v;
    return 1;
}

/* ---- topics ------------------------------------------------------------------------------- */

/* Cuts the first segment off *rest.  False at the end. */
static bool next_segment(ptn_str *rest, ptn_str *ret_segment) {
    if (rest->p == NULL)
        return false;
    const char *dot = rest->n > 0 ? memchr(rest->p, '.', rest->n) : NULL;
    if (dot == NULL) {
        *ret_segment = *rest;
        *rest = (ptn_str){NULL, 0};
        return true;
    }
    size_t n = (size_t)(dot - rest->p);
    *ret_segment = (ptn_str){rest->p, n};
    *rest = (ptn_str){dot + 1, rest->n - n - 1};
    return true;
}

static bool segment_is_plain(ptn_str s) {
    if (s.n == 0)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        uint8_t ch = (uint8_t)s.p[i];
        if (ch <= 0x20 || ch == 0x7f || ch == '*')
            return false;
    }
    return true;
}

bool ptn_pattern_is_valid(ptn_str name) {
    if (name.n == 0 || name.n > PTN_TOPIC_BYTES_MAX ||
        !ptn_utf8_valid((const uint8_t *)name.p, name.n))
        return false;
    ptn_str rest = name, s;
    while (next_segment(&rest, &s)) {
        if (segment_is_plain(s))
            continue;
        bool one = ptn_str_eqz(s, "*"), many = ptn_str_eqz(s, "**");
        if (!one && !(many && rest.p == NULL))
            return false;
    }
    return true;
}

/* In one pass: every publication comes by here. */
bool ptn_topic_is_valid(ptn_str topic) {
    bool begins = true; /* a segment, which is not empty */
    uint8_t any = 0;
    if (topic.n > PTN_TOPIC_BYTES_MAX)
        return false;
    for (size_t i = 0; i < topic.n; i++) {
        const uint8_t ch = (uint8_t)topic.p[i];
        if (ch <= 0x20 || ch == 0x7f || ch == '*' || (begins && ch == '.'))
            return false;
        begins = ch == '.';
        any |= ch;
    }
    return !begins && (any < 0x80 || ptn_utf8_valid((const uint8_t *)topic.p, topic.n));
}

bool ptn_pattern_has_wildcard(ptn_str pattern) {
    return pattern.n > 0 && memchr(pattern.p, '*', pattern.n) != NULL;
}

bool ptn_topic_is_reserved(ptn_str topic) {
    ptn_str rest = topic, first;
    if (!next_segment(&rest, &first))
        return false;
    return ptn_str_eqz(first, "conversation") || ptn_str_eqz(first, "user") ||
           ptn_str_eqz(first, "system");
}

bool ptn_pattern_matches(ptn_str pattern, ptn_str topic) {
    if (pattern.n > 0 && pattern.p[0] == '*' && ptn_topic_is_reserved(topic))
        return false;
    ptn_str p, t;
    for (;;) {
        bool more_p = next_segment(&pattern, &p), more_t = next_segment(&topic, &t);
        if (more_p && ptn_str_eqz(p, "**"))
            return more_t; /* the rest is at least one segment */
        if (!more_p || !more_t)
            return more_p == more_t;
        if (!ptn_str_eqz(p, "*") && !ptn_str_eq(p, t))
            return false;
    }
}

/* ---- ids and times ------------------------------------------------------------------------ */

void ptn_ulid_make(int64_t wall_ms, const uint8_t random[10], char out[PTN_ULID_LEN + 1]) {
    static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"; /* Crockford base 32 */
    uint64_t t = (uint64_t)wall_ms & UINT64_C(0xffffffffffff);
    for (int i = 9; i >= 0; i--, t >>= 5)
        out[i] = alphabet[t & 31];
    for (int half = 0; half < 2; half++) { /* 40 random bits make 8 characters */
        uint64_t v = 0;
        for (int i = 0; i < 5; i++)
            v = v << 8 | random[half * 5 + i];
        for (int i = 7; i >= 0; i--, v >>= 5)
            out[10 + half * 8 + i] = alphabet[v & 31];
    }
    out[PTN_ULID_LEN] = '\0';
}

void ptn_ulid(ptn_ctx *c, char out[PTN_ULID_LEN + 1]) {
    uint8_t random[10];
    ptn_random(c, random, sizeof random);
    ptn_ulid_make(ptn_wall_ms(c), random, out);
}

static bool is_alnum(char ch) {
    return (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z');
}

bool ptn_id_is_valid(ptn_str id) {
    if (id.n == PTN_ULID_LEN) {
        for (size_t i = 0; i < id.n; i++) {
            char upper = (char)(id.p[i] & ~0x20);
            if (!is_alnum(id.p[i]) || upper == 'I' || upper == 'L' || upper == 'O' || upper == 'U')
                return false;
        }
        return id.p[0] <= '7'; /* 128 bits */
    }
    if (id.n != 36)
        return false;
    for (size_t i = 0; i < id.n; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? id.p[i] != '-' : hex_value(id.p[i]) < 0)
            return false;
    }
    return true;
}

/* Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": days since 1970-01-01 to civil and
 * back. */
static void civil_of_days(int64_t days, int64_t *ret_y, unsigned *ret_m, unsigned *ret_d) {
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned doe = (unsigned)(days - era * 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned mp = (5 * doy + 2) / 153;
    *ret_d = doy - (153 * mp + 2) / 5 + 1;
    *ret_m = mp < 10 ? mp + 3 : mp - 9;
    *ret_y = (int64_t)yoe + era * 400 + (*ret_m <= 2);
}

static int64_t days_of_civil(int64_t y, unsigned m, unsigned d) {
    y -= m <= 2;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (m > 2 ? m - 3 : m + 9) + 2) / 5 + d - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    return era * 146097 + (int64_t)doe - 719468;
}

#define SECOND_TEXT_LEN 20u /* "2026-11-22T04:30:00." */

static void second_format(int64_t second, char out[SECOND_TEXT_LEN]) {
    int64_t y;
    unsigned of_day = (unsigned)(second % 86400), m, d;
    civil_of_days(second / 86400, &y, &m, &d);
    unsigned parts[] = {(unsigned)y / 100, (unsigned)y % 100, m,          d,
                        of_day / 3600,     of_day / 60 % 60,  of_day % 60};
    static const char after[] = {0, '-', '-', 'T', ':', ':', '.'};
    char *p = out;
    for (size_t i = 0; i < PTN_ARRAY_LEN(parts); i++) {
        *p++ = (char)('0' + parts[i] / 10);
        *p++ = (char)('0' + parts[i] % 10);
        if (after[i] != 0)
            *p++ = after[i];
    }
}

/* Most times that a thread writes are of the second of the one before. */
void ptn_timestamp_format(int64_t wall_ms, char out[PTN_TIMESTAMP_LEN + 1]) {
    static _Thread_local struct {
        int64_t second;
        char text[SECOND_TEXT_LEN];
    } last = {.second = -1};
    if (wall_ms < 0 || wall_ms > INT64_C(253402300799999)) /* years 1970 to 9999 */
        wall_ms = 0;
    const int64_t second = wall_ms / 1000;
    const unsigned ms = (unsigned)(wall_ms % 1000);
    if (second != last.second) {
        second_format(second, last.text);
        last.second = second;
    }
    memcpy(out, last.text, SECOND_TEXT_LEN);
    out[20] = (char)('0' + ms / 100);
    out[21] = (char)('0' + ms / 10 % 10);
    out[22] = (char)('0' + ms % 10);
    out[23] = 'Z';
    out[24] = '\0';
}

static bool digits(ptn_str s, size_t at, size_t n, unsigned *ret_v) {
    unsigned v = 0;
    if (at + n > s.n)
        return false;
    for (size_t i = at; i < at + n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        v = v * 10 + (unsigned)(s.p[i] - '0');
    }
    *ret_v = v;
    return true;
}

/* "Z" or "+hh:mm" / "-hh:mm" at the end; minutes east of UTC. */
static bool parse_offset(ptn_str s, size_t at, int *ret_minutes) {
    unsigned h, m;
    if (at + 1 == s.n && (s.p[at] == 'Z' || s.p[at] == 'z')) {
        *ret_minutes = 0;
        return true;
    }
    if (at + 6 != s.n || (s.p[at] != '+' && s.p[at] != '-') || s.p[at + 3] != ':' ||
        !digits(s, at + 1, 2, &h) || !digits(s, at + 4, 2, &m) || h > 23 || m > 59)
        return false;
    *ret_minutes = (s.p[at] == '-' ? -1 : 1) * (int)(h * 60 + m);
    return true;
}

bool ptn_timestamp_parse(ptn_str s, int64_t *ret_wall_ms) {
    unsigned y, mo, d, h, mi, sec, ms = 0;
    static const unsigned char month_days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    if (s.n < 20 || !digits(s, 0, 4, &y) || s.p[4] != '-' || !digits(s, 5, 2, &mo) ||
        s.p[7] != '-' || !digits(s, 8, 2, &d) || (s.p[10] != 'T' && s.p[10] != 't') ||
        !digits(s, 11, 2, &h) || s.p[13] != ':' || !digits(s, 14, 2, &mi) || s.p[16] != ':' ||
        !digits(s, 17, 2, &sec))
        return false;
    bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    if (mo < 1 || mo > 12 || d < 1 || d > month_days[mo - 1] || (mo == 2 && d == 29 && !leap) ||
        h > 23 || mi > 59 || sec > 59)
        return false;
    size_t at = 19;
    if (s.p[at] == '.') {
        unsigned weight = 100, digit;
        size_t first = ++at;
        for (; at < s.n && digits(s, at, 1, &digit); at++, weight /= 10)
            ms += digit * weight; /* beyond milliseconds weight is 0 */
        if (at == first)
            return false;
    }
    int offset;
    if (!parse_offset(s, at, &offset))
        return false;
    int64_t seconds = days_of_civil(y, mo, d) * 86400 + h * 3600 + mi * 60 + sec - offset * 60;
    *ret_wall_ms = seconds * 1000 + ms;
    return true;
}

void ptn_pack_timestamp(ptn_pack *w, int64_t wall_ms) {
    char text[PTN_TIMESTAMP_LEN + 1];
    ptn_timestamp_format(wall_ms, text);
    ptn_pack_str(w, (ptn_str){text, PTN_TIMESTAMP_LEN});
}
