/* SPDX-License-Identifier: Apache-2.0
 *
 * negotiate.c - what single header values mean: media types, deadlines, trace context, entity tags,
 * dates.
 *
 * Pure functions over borrowed text.  Values come from peers, so every one is bounded by the head
 * it came in.
 */
#include "protocols/http/http.h"

#include <stdio.h>

static bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

static ptn_str trim(ptn_str s) {
    while (s.n != 0 && is_blank(s.p[0]))
        s = (ptn_str){s.p + 1, s.n - 1};
    while (s.n != 0 && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

/* Cuts the part before the next sep off *rest, quoted strings kept whole.  False: nothing is left.
 */
static bool next_part(ptn_str *rest, char sep, ptn_str *ret_part) {
    if (rest->p == NULL)
        return false;
    bool quoted = false;
    size_t i = 0;
    for (; i < rest->n && (quoted || rest->p[i] != sep); i++) {
        if (quoted && rest->p[i] == '\\' && i + 1 < rest->n)
            i++;
        else if (rest->p[i] == '"')
            quoted = !quoted;
    }
    *ret_part = trim((ptn_str){rest->p, i});
    *rest = i < rest->n ? (ptn_str){rest->p + i + 1, rest->n - i - 1} : (ptn_str){NULL, 0};
    return true;
}

bool http_token_list_has(ptn_str list, const char *token) {
    ptn_str part;
    while (list.n != 0 && next_part(&list, ',', &part))
        if (http_equals_nocase(part, token))
            return true;
    return false;
}

/* ---- media types -------------------------------------------------------------------------- */

static bool is_msgpack(ptn_str type) {
    return http_equals_nocase(type, "application/msgpack") ||
           http_equals_nocase(type, "application/x-msgpack") ||
           http_equals_nocase(type, "application/vnd.msgpack");
}

static bool is_json(ptn_str type) {
    return http_equals_nocase(type, "application/json") ||
           http_equals_nocase(type, "application/problem+json");
}

/* A weight in thousandths; malformed ones count as 0. */
static int quality(ptn_str v) {
    if (v.n == 0 || v.n > 5 || (v.p[0] != '0' && v.p[0] != '1') || (v.n > 1 && v.p[1] != '.'))
        return 0;
    int q = (v.p[0] - '0') * 1000, unit = 100;
    for (size_t i = 2; i < v.n; i++, unit /= 10) {
        if (v.p[i] < '0' || v.p[i] > '9')
            return 0;
        q += (v.p[i] - '0') * unit;
    }
    return q > 1000 ? 0 : q;
}

bool http_accept_msgpack(ptn_str accept) {
    int msgpack = -1, json = -1, app = -1, any = -1;
    ptn_str range;
    while (accept.n != 0 && next_part(&accept, ',', &range)) {
        ptn_str type, parameter;
        int q = 1000;
        if (!next_part(&range, ';', &type))
            continue;
        while (next_part(&range, ';', &parameter))
            if (parameter.n > 2 && (parameter.p[0] | 32) == 'q' && parameter.p[1] == '=')
                q = quality((ptn_str){parameter.p + 2, parameter.n - 2});
        if (is_msgpack(type))
            msgpack = q > msgpack ? q : msgpack;
        else if (is_json(type))
            json = q > json ? q : json;
        else if (http_equals_nocase(type, "application/*"))
            app = q;
        else if (http_equals_nocase(type, "*/*"))
            any = q;
    }
    if (msgpack <= 0) /* JSON is the default: msgpack only when it is named */
        return false;
    if (json < 0)
        json = app >= 0 ? app : any;
    /* Named beside a wildcard, or at equal weight beside JSON named first, the named one is meant.
     */
    return msgpack >= json;
}

enum http_media http_media_of(ptn_str content_type) {
    ptn_str type = {"", 0}, parameter;
    if (content_type.n == 0)
        return HTTP_MEDIA_JSON;
    next_part(&content_type, ';', &type);
    if (is_msgpack(type))
        return HTTP_MEDIA_MSGPACK;
    bool json = http_equals_nocase(type, "application/json") ||
                http_equals_nocase(type, "application/merge-patch+json");
    if (!json)
        return HTTP_MEDIA_OTHER;
    while (next_part(&content_type, ';', &parameter)) {
        if (parameter.n < 8 || !http_equals_nocase((ptn_str){parameter.p, 8}, "charset="))
            continue;
        ptn_str v = {parameter.p + 8, parameter.n - 8};
        if (v.n >= 2 && v.p[0] == '"' && v.p[v.n - 1] == '"')
            v = (ptn_str){v.p + 1, v.n - 2};
        if (!http_equals_nocase(v, "utf-8") && !http_equals_nocase(v, "utf8"))
            return HTTP_MEDIA_CHARSET;
    }
    return HTTP_MEDIA_JSON;
}

/* ---- trace, deadline, position ------------------------------------------------------------ */

/* Lower-case hexadecimal only, as the specification has it; false also for all zeros. */
static bool hex_decode(const char *s, uint8_t *out, size_t n) {
    uint8_t any = 0;
    for (size_t i = 0; i < n * 2; i++) {
        char c = s[i];
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (v < 0)
            return false;
        out[i / 2] = (uint8_t)(i % 2 == 0 ? v << 4 : out[i / 2] | v);
        any |= (uint8_t)v;
    }
    return any != 0;
}

bool http_traceparent(ptn_str s, uint8_t trace[16], uint8_t span[8]) {
    uint8_t t[16], sp[8], version, flags;
    if (s.n < 55 || s.p[2] != '-' || s.p[35] != '-' || s.p[52] != '-')
        return false;
    bool zero = s.p[0] == '0' && s.p[1] == '0';
    if (!zero && (!hex_decode(s.p, &version, 1) || version == 0xff))
        return false;
    if (zero ? s.n != 55 : s.n > 55 && s.p[55] != '-')
        return false;
    if (!(s.p[53] == '0' && s.p[54] == '0') && !hex_decode(s.p + 53, &flags, 1))
        return false;
    if (!hex_decode(s.p + 3, t, 16) || !hex_decode(s.p + 36, sp, 8))
        return false;
    memcpy(trace, t, 16);
    memcpy(span, sp, 8);
    return true;
}

#define SECONDS_MANY 100000000u /* three years */

bool http_seconds(ptn_str s, ptn_time *ret_ns) {
    ptn_time whole = 0, part = 0, unit = PTN_SEC;
    size_t i = 0;
    for (; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++) /* what is cut off is past any limit */
        whole = whole < SECONDS_MANY ? whole * 10 + (ptn_time)(s.p[i] - '0') : whole;
    if (i == 0)
        return false;
    if (i < s.n) {
        if (s.p[i] != '.' || s.n - i < 2 || s.n - i > 10)
            return false;
        for (i++; i < s.n; i++) {
            if (s.p[i] < '0' || s.p[i] > '9')
                return false;
            unit /= 10;
            part += (ptn_time)(s.p[i] - '0') * unit;
        }
    }
    if (whole == 0 && part == 0)
        return false;
    *ret_ns = whole * PTN_SEC + part;
    return true;
}

bool http_position(ptn_str s, ptn_position *ret_position) {
    size_t colon = s.n;
    while (colon != 0 && s.p[colon - 1] != ':')
        colon--;
    if (colon < 2 || colon == s.n || s.n - colon > 19 || colon > 128)
        return false;
    uint64_t v = 0;
    for (size_t i = colon; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(s.p[i] - '0');
    }
    *ret_position = (ptn_position){.epoch = {s.p, colon - 1}, .offset = v};
    return true;
}

static ptn_str opaque_tag(ptn_str tag) {
    if (tag.n >= 2 && tag.p[0] == 'W' && tag.p[1] == '/')
        return (ptn_str){tag.p + 2, tag.n - 2};
    return tag;
}

bool http_etag_matches(ptn_str if_none_match, ptn_str etag) {
    ptn_str part, opaque = opaque_tag(etag);
    if (if_none_match.n == 1 && if_none_match.p[0] == '*')
        return true;
    while (if_none_match.n != 0 && next_part(&if_none_match, ',', &part))
        if (opaque.n != 0 && ptn_str_eq(opaque_tag(part), opaque))
            return true;
    return false;
}

/* ---- text --------------------------------------------------------------------------------- */

void http_hex(const uint8_t *p, size_t n, char *out) {
#define ROW(h)                                                                                     \
    h "0" h "1" h "2" h "3" h "4" h "5" h "6" h "7" h "8" h "9" h "a" h "b" h "c" h "d" h "e" h "f"
    static const char pairs[] = ROW("0") ROW("1") ROW("2") ROW("3") ROW("4") ROW("5") ROW("6")
        ROW("7") ROW("8") ROW("9") ROW("a") ROW("b") ROW("c") ROW("d") ROW("e") ROW("f");
#undef ROW
    for (size_t i = 0; i < n; i++)
        memcpy(out + 2 * i, pairs + (size_t)2 * p[i], 2);
    out[2 * n] = 0;
}

void http_date(int64_t wall_ms, char out[HTTP_DATE_LEN + 1]) {
    static const char days[] = "ThuFriSatSunMonTueWed";
    static const char months[] = "MarAprMayJunJulAugSepOctNovDecJanFeb";
    int64_t seconds = wall_ms / 1000, day = seconds / 86400;
    unsigned second = (unsigned)(seconds % 86400);
    /* Days to a date in years that begin in March, so that the leap day is the last. */
    int64_t z = day + 719468, era = z / 146097;
    unsigned doe = (unsigned)(z - era * 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned month = (5 * doy + 2) / 153;
    unsigned mday = doy - (153 * month + 2) / 5 + 1;
    unsigned year = (unsigned)(yoe + era * 400) + (month >= 10 ? 1 : 0);
    char text[64];
    snprintf(text, sizeof text, "%.3s, %02u %.3s %04u %02u:%02u:%02u GMT", days + day % 7 * 3, mday,
             months + month * 3, year % 10000, second / 3600, second / 60 % 60, second % 60);
    memcpy(out, text, HTTP_DATE_LEN);
    out[HTTP_DATE_LEN] = 0;
}

const char *http_reason(unsigned status) {
    switch (status) {
#define XX(code, text)                                                                             \
    case code:                                                                                     \
        return text;
        XX(200, "OK")
        XX(201, "Created")
        XX(202, "Accepted")
        XX(204, "No Content")
        XX(304, "Not Modified")
        XX(400, "Bad Request")
        XX(401, "Unauthorized")
        XX(403, "Forbidden")
        XX(404, "Not Found")
        XX(405, "Method Not Allowed")
        XX(408, "Request Timeout")
        XX(409, "Conflict")
        XX(412, "Precondition Failed")
        XX(413, "Content Too Large")
        XX(414, "URI Too Long")
        XX(415, "Unsupported Media Type")
        XX(417, "Expectation Failed")
        XX(422, "Unprocessable Content")
        XX(426, "Upgrade Required")
        XX(429, "Too Many Requests")
        XX(431, "Request Header Fields Too Large")
        XX(500, "Internal Server Error")
        XX(501, "Not Implemented")
        XX(502, "Bad Gateway")
        XX(503, "Service Unavailable")
        XX(504, "Gateway Timeout")
        XX(505, "HTTP Version Not Supported")
        XX(507, "Insufficient Storage")
#undef XX
    default:
        return "Status";
    }
}
