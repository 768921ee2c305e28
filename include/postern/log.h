/* SPDX-License-Identifier: Apache-2.0
 *
 * log.h - structured log lines: an event name and typed fields.
 *
 *     PTN_LOG(PTN_LOG_WARN, "listener.failed", PTN_F_Z("address", where), PTN_F_INT("errno", e));
 *
 * Any thread.  The sink (broker/log.c: text on a terminal, JSON otherwise) writes one line per
 * call.  Never pass a secret: no tokens, passwords, keys, message contents.
 */
#ifndef POSTERN_LOG_H
#define POSTERN_LOG_H

#include <postern/base.h>

enum ptn_log_level { PTN_LOG_ERROR, PTN_LOG_WARN, PTN_LOG_INFO, PTN_LOG_DEBUG };

typedef struct ptn_field {
    const char *key;
    ptn_str s; /* used when s.p is set */
    int64_t i;
} ptn_field;
#define PTN_F_STR(k, v) ((ptn_field){.key = (k), .s = (v)})
#define PTN_F_Z(k, v) ((ptn_field){.key = (k), .s = ptn_str_of((v) != NULL ? (v) : "")})
#define PTN_F_INT(k, v) ((ptn_field){.key = (k), .i = (int64_t)(v)})

typedef void (*ptn_log_sink)(enum ptn_log_level level, const char *event, const ptn_field *f,
                             size_t n, void *arg);
/* Before threads start; NULL: lines are dropped. */
void ptn_log_set_sink(ptn_log_sink sink, void *arg);
/* Any time. */
void ptn_log_set_level(enum ptn_log_level level);
enum ptn_log_level ptn_log_get_level(void);
void ptn_log_write(enum ptn_log_level level, const char *event, const ptn_field *f, size_t n);

#define PTN_LOG(level, event, ...)                                                                 \
    do {                                                                                           \
        if ((level) <= ptn_log_get_level()) {                                                      \
            const ptn_field ptn_log_fields[] = {__VA_ARGS__};                                      \
            ptn_log_write((level), (event), ptn_log_fields, PTN_ARRAY_LEN(ptn_log_fields));        \
        }                                                                                          \
    } while (0)

#endif
