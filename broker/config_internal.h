/* SPDX-License-Identifier: Apache-2.0
 *
 * config_internal.h - what the files config*.c share: the table of keys, and setting one of them
 * from text.
 */
#ifndef POSTERN_BROKER_CONFIG_INTERNAL_H
#define POSTERN_BROKER_CONFIG_INTERNAL_H

#include "broker/config.h"

enum config_kind {
    CONFIG_HTTP,
    CONFIG_ZMQ,
    CONFIG_RULES,
    CONFIG_PATH,
    CONFIG_COUNT,
    CONFIG_SIZE,
    CONFIG_DURATION,
    CONFIG_LEVEL,
    CONFIG_FORMAT
};

struct config_key {
    const char *name; /* "listen.http" */
    const char *section, *key, *def, *help;
    enum config_kind kind;
    uint64_t min, max;
    size_t offset, bytes; /* in struct postern_config */
};

#define CONFIG_KEY_ONE(...) +1
#define CONFIG_KEY_SECTION(section, map, help) map(CONFIG_KEY_ONE, )
#define CONFIG_KEYS                                                                                \
    ((size_t)(0 CONFIG_TOP_MAP(CONFIG_KEY_ONE, ) CONFIG_SECTION_MAP(CONFIG_KEY_SECTION)))
#define CONFIG_TEXT_BYTES_MAX 4096u

extern const struct config_key config_keys[CONFIG_KEYS];

static inline bool config_key_is_list(const struct config_key *k) {
    return k->kind == CONFIG_HTTP || k->kind == CONFIG_ZMQ || k->kind == CONFIG_RULES;
}

/* NULL: no such key.  Exact; dashes do for underscores. */
const struct config_key *config_key_find(const char *name);
/* The known key that is nearest to name; never NULL. */
const char *config_key_nearest(const char *name);

/* Fills the text; returns err, for `return config_fail(...)`. */
int config_fail(struct config_error *e, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Replaces the key's value by texts[0..n) (one, but for lists).  where says who asks:
 * "postern.yaml:3: listen.http", "POSTERN_LISTEN__HTTP", "--listen.http". */
int config_set(struct postern_config *c, const struct config_key *k, const char *const *texts,
               size_t n, const char *where, struct config_error *reterr);
/* The same from one text; lists split at commas, and an empty text is the empty list. */
int config_set_text(struct postern_config *c, const struct config_key *k, const char *text,
                    const char *where, struct config_error *reterr);
void config_unset(struct postern_config *c, const struct config_key *k);

/* Units: "250ms" "5s" "1m" "1h" "30d"; "1MiB" "64KiB" "1GB" "512"; "0" is both.  0 or -PTN_EINVAL.
 */
int config_parse_duration(const char *text, uint64_t *ret_ns);
int config_parse_size(const char *text, uint64_t *ret_bytes);

/* Checks one address; NULL when it is good, otherwise static advice. */
const char *config_http_advice(const char *address);
const char *config_zmq_advice(const char *address);

/* The same for one item of a list of that kind. */
const char *config_item_advice(enum config_kind kind, const char *text);

int config_apply_file(struct postern_config *c, const char *path, struct config_error *reterr);
int config_apply_env(struct postern_config *c, char *const *env, struct config_error *reterr);

#endif
