/* SPDX-License-Identifier: Apache-2.0
 *
 * log.c - log lines to standard error, one write(2) each, so that lines of several threads never
 * mix.
 *
 * Lines are built in a fixed buffer on the stack, without the C library's formatter: no allocation,
 * bounded however long a field is, and allowed in a signal handler, where the watchdog writes.
 * Control characters and quotes are escaped in both forms, so a peer cannot forge lines.
 */
#include "broker/log.h"

#include <postern/codec.h>
#include <postern/messages.h>

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define TAIL_BYTES 32 /* kept free for what ends a line */

static const char *const level_names[] = {"error", "warn", "info", "debug"};

struct line {
    char *p;
    size_t n, max;
    bool full;
};

static void put(struct line *l, const char *s, size_t n) {
    if (l->full || n > l->max - l->n) {
        l->full = true;
        return;
    }
    memcpy(l->p + l->n, s, n);
    l->n += n;
}

static void put_z(struct line *l, const char *z) {
    put(l, z, strlen(z));
}

static void put_number(struct line *l, int64_t v) {
    char digits[24];
    size_t i = sizeof digits;
    uint64_t left = v < 0 ? -(uint64_t)v : (uint64_t)v;
    do {
        digits[--i] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (v < 0)
        digits[--i] = '-';
    put(l, digits + i, sizeof digits - i);
}

/* Quoted as JSON does it; invalid UTF-8 becomes '?'. */
static void put_quoted(struct line *l, ptn_str s) {
    bool valid = ptn_utf8_valid((const uint8_t *)s.p, s.n);
    put(l, "\"", 1);
    for (size_t i = 0; i < s.n && !l->full; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\') {
            put(l, c == '"' ? "\\\"" : "\\\\", 2);
        } else if (c < 0x20 || c == 0x7f) {
            const char code[] = {
                '\\', 'u', '0', '0', "01234567"[c >> 4], "0123456789abcdef"[c & 15]};
            put(l, code, sizeof code);
        } else if (c >= 0x80 && !valid) {
            put(l, "?", 1);
        } else {
            put(l, s.p + i, 1);
        }
    }
    put(l, "\"", 1);
}

static bool is_plain(ptn_str s) {
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= 0x20 || (unsigned char)s.p[i] >= 0x7f || s.p[i] == '"' ||
            s.p[i] == '\\' || s.p[i] == '=')
            return false;
    return s.n > 0;
}

static void put_field(struct line *l, bool json, const ptn_field *f) {
    put_z(l, json ? "," : " ");
    if (json)
        put_quoted(l, ptn_str_of(f->key));
    else
        put_z(l, f->key);
    put_z(l, json ? ":" : "=");
    if (f->s.p == NULL) {
        put_number(l, f->i);
    } else if (!json && is_plain(f->s)) {
        put(l, f->s.p, f->s.n);
    } else {
        put_quoted(l, f->s);
    }
}

size_t log_format_line(bool json, int64_t wall_ms, enum ptn_log_level level, const char *event,
                       const ptn_field *f, size_t n, char out[LOG_LINE_BYTES]) {
    struct line l = {.p = out, .max = LOG_LINE_BYTES - TAIL_BYTES};
    char ts[PTN_TIMESTAMP_LEN + 1];
    ptn_timestamp_format(wall_ms, ts);
    const char *name = level_names[level <= PTN_LOG_DEBUG ? level : PTN_LOG_DEBUG];
    put_z(&l, json ? "{\"ts\":\"" : "");
    put_z(&l, ts);
    put_z(&l, json ? "\",\"level\":\"" : " ");
    put_z(&l, name);
    put_z(&l, json ? "\",\"event\":" : strlen(name) == 4 ? "  " : " ");
    if (json)
        put_quoted(&l, ptn_str_of(event));
    else
        put_z(&l, event);
    bool cut = false;
    for (size_t i = 0; i < n && !cut; i++) {
        size_t before = l.n;
        put_field(&l, json, &f[i]);
        cut = l.full;
        if (cut)
            l.n = before;
    }
    l.full = false;
    l.max = LOG_LINE_BYTES;
    if (cut)
        put_z(&l, json ? ",\"cut\":true" : " cut=true");
    put_z(&l, json ? "}\n" : "\n");
    return l.n;
}

static void sink(enum ptn_log_level level, const char *event, const ptn_field *f, size_t n,
                 void *arg) {
    const bool *json = arg;
    char text[LOG_LINE_BYTES];
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    int64_t wall_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    size_t bytes = log_format_line(*json, wall_ms, level, event, f, n, text);
    /* A full pipe or a closed terminal must not stop the broker: at most one retry, after a signal.
     */
    if (write(STDERR_FILENO, text, bytes) < 0 && errno == EINTR &&
        write(STDERR_FILENO, text, bytes) < 0)
        return;
}

void log_install(enum config_log_format format, enum ptn_log_level level) {
    static bool json;
    json = format == CONFIG_LOG_JSON || (format == CONFIG_LOG_AUTO && isatty(STDERR_FILENO) == 0);
    ptn_log_set_level(level);
    ptn_log_set_sink(sink, &json);
}
