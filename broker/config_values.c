/* SPDX-License-Identifier: Apache-2.0
 *
 * config_values.c - from text to values: durations, sizes, addresses; one parser for file,
 * environment and flags.
 */
#include "actors/topics.h"
#include "broker/config_internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <strings.h>

#define SOCKET_PATH_BYTES_MAX 107u /* sun_path, without its terminator */

struct unit {
    const char *name;
    uint64_t factor;
};

/* Digits, then a unit from the table, any case; 0 needs none, and a unit named "" makes it
 * optional.
 */
static int parse_scaled(const char *text, const struct unit *units, size_t n_units,
                        uint64_t *ret_v) {
    if (!isdigit((unsigned char)text[0]))
        return -PTN_EINVAL;
    char *end;
    errno = 0;
    unsigned long long whole = strtoull(text, &end, 10);
    if (errno != 0)
        return -PTN_EINVAL;
    while (*end == ' ')
        end++;
    if (whole == 0 && *end == '\0') {
        *ret_v = 0;
        return 0;
    }
    for (size_t i = 0; i < n_units; i++)
        if (strcasecmp(end, units[i].name) == 0) {
            uint64_t v;
            if (__builtin_mul_overflow((uint64_t)whole, units[i].factor, &v))
                return -PTN_EINVAL;
            *ret_v = v;
            return 0;
        }
    return -PTN_EINVAL;
}

int config_parse_duration(const char *text, uint64_t *ret_ns) {
    static const struct unit units[] = {{"ms", PTN_MS},
                                        {"s", PTN_SEC},
                                        {"m", 60 * PTN_SEC},
                                        {"h", 3600 * PTN_SEC},
                                        {"d", 86400 * PTN_SEC}};
    return parse_scaled(text, units, PTN_ARRAY_LEN(units), ret_ns);
}

int config_parse_size(const char *text, uint64_t *ret_bytes) {
    static const struct unit units[] = {
        {"", 1},          {"B", 1},     {"KiB", 1 << 10}, {"MiB", 1 << 20},
        {"GiB", 1 << 30}, {"KB", 1000}, {"MB", 1000000},  {"GB", 1000000000},
    };
    return parse_scaled(text, units, PTN_ARRAY_LEN(units), ret_bytes);
}

/* ---- addresses ------------------------------------------------------------------------------ */

static bool port_is_valid(const char *p) {
    size_t n = strspn(p, "0123456789");
    return n >= 1 && n <= 5 && p[n] == '\0' && strtoul(p, NULL, 10) <= 65535;
}

/* Splits HOST:PORT; IPv6 hosts stand in brackets.  NULL: not of that form. */
static const char *port_of(const char *address) {
    const char *colon = strrchr(address, ':');
    if (colon == NULL)
        return NULL;
    if (address[0] == '[')
        return colon > address + 2 && colon[-1] == ']' ? colon + 1 : NULL;
    return memchr(address, ':', (size_t)(colon - address)) == NULL ? colon + 1 : NULL;
}

const char *config_http_advice(const char *address) {
    if (strncmp(address, "unix:", 5) == 0) {
        if (address[5] == '\0')
            return "write the path of the socket after unix:";
        return strlen(address + 5) <= SOCKET_PATH_BYTES_MAX
                   ? NULL
                   : "the path of a local socket has at most 107 bytes; use a shorter directory";
    }
    if (strstr(address, "://") != NULL)
        return "write HOST:PORT without a scheme, such as 127.0.0.1:8771";
    const char *port = port_of(address);
    if (port == NULL)
        return "write HOST:PORT, such as 127.0.0.1:8771, [::1]:8771 or unix:/run/postern.sock";
    return port_is_valid(port) ? NULL : "the port is a number from 0 to 65535";
}

static bool is_loopback(const char *host, size_t n) {
    static const char *const names[] = {"localhost", "[::1]", "lo"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(names); i++)
        if (strlen(names[i]) == n && memcmp(host, names[i], n) == 0)
            return true;
    /* 127.0.0.0/8 in digits only: 127.example.org is somebody's name */
    return n > 4 && memcmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") >= n;
}

const char *config_zmq_advice(const char *address) {
    if (strncmp(address, "ipc://", 6) == 0) {
        if (address[6] == '\0' || strcmp(address + 6, "*") == 0)
            return "write the path of the socket after ipc://";
        return strlen(address + 6) <= SOCKET_PATH_BYTES_MAX
                   ? NULL
                   : "the path of a local socket has at most 107 bytes; use a shorter data "
                     "directory";
    }
    if (strncmp(address, "tcp://", 6) != 0)
        return "write ipc://PATH or tcp://127.0.0.1:PORT";
    const char *port = port_of(address + 6);
    if (port == NULL || !(port_is_valid(port) || strcmp(port, "*") == 0))
        return "write tcp://127.0.0.1:PORT with a port from 0 to 65535";
    return is_loopback(address + 6, (size_t)(port - 1 - (address + 6)))
               ? NULL
               : "ZeroMQ over TCP is served on loopback addresses only; use 127.0.0.1 or ipc://";
}

/* ---- setting a key -------------------------------------------------------------------------- */

static void *value_of(struct postern_config *c, const struct config_key *k) {
    return (char *)c + k->offset;
}

/* ---- rules of durable topics ---------------------------------------------------------------- */

/* One "name=value" of n bytes. */
static bool rule_option(const char *text, size_t n, struct topic_rule *rule) {
    static const struct unit plain[] = {{"", 1}};
    char buf[64];
    const char *equals = memchr(text, '=', n);
    if (equals == NULL || n >= sizeof buf)
        return false;
    memcpy(buf, text, n);
    buf[n] = '\0';
    char *value = buf + (equals - text);
    *value++ = '\0';
    if (strcmp(buf, "bytes") == 0)
        return config_parse_size(value, &rule->bytes) == 0 && rule->bytes > 0;
    if (strcmp(buf, "events") == 0)
        return parse_scaled(value, plain, 1, &rule->events) == 0 && rule->events > 0;
    uint64_t ns;
    if (strcmp(buf, "age") != 0 || config_parse_duration(value, &ns) < 0 || ns < PTN_SEC)
        return false;
    rule->age_ms = ns / PTN_MS;
    return true;
}

const char *config_rule_parse(const char *text, struct topic_rule *ret_rule) {
    *ret_rule = (struct topic_rule){.pattern = {text, strcspn(text, " ")}};
    if (!ptn_pattern_is_valid(ret_rule->pattern))
        return "begin with a topic or a pattern, such as orders.**";
    for (const char *at = text + ret_rule->pattern.n; *at != '\0';) {
        at += strspn(at, " ");
        size_t n = strcspn(at, " ");
        if (n > 0 && !rule_option(at, n, ret_rule))
            return "options are age=30d (1s or more), bytes=1GiB and events=1000000";
        at += n;
    }
    return NULL;
}

const char *config_item_advice(enum config_kind kind, const char *text) {
    struct topic_rule rule;
    if (kind == CONFIG_RULES)
        return config_rule_parse(text, &rule);
    return kind == CONFIG_HTTP ? config_http_advice(text) : config_zmq_advice(text);
}

/* ---- setting -------------------------------------------------------------------------------- */

static void list_done(struct config_list *l) {
    for (size_t i = 0; i < l->n; i++)
        free(l->items[i]);
    free(l->items);
    *l = (struct config_list){0};
}

void config_unset(struct postern_config *c, const struct config_key *k) {
    if (config_key_is_list(k)) {
        list_done(value_of(c, k));
    } else if (k->kind == CONFIG_PATH) {
        char **path = value_of(c, k);
        free(*path);
        *path = NULL;
    }
}

static int set_list(struct postern_config *c, const struct config_key *k, const char *const *texts,
                    size_t n, const char *where, struct config_error *reterr) {
    struct config_list list = {0};
    if (n > CONFIG_LIST_MAX)
        return config_fail(reterr, -PTN_EINVAL, "%s: at most %u items", where, CONFIG_LIST_MAX);
    list.items = calloc(n == 0 ? 1 : n, sizeof *list.items);
    for (size_t i = 0; list.items != NULL && i < n; i++) {
        const char *advice = config_item_advice(k->kind, texts[i]);
        if (advice != NULL) {
            list_done(&list);
            return config_fail(reterr, -PTN_EINVAL, "%s: \"%.200s\": %s", where, texts[i], advice);
        }
        list.items[i] = strdup(texts[i]);
        if (list.items[i] == NULL)
            break;
        list.n++;
    }
    if (list.items == NULL || list.n < n) {
        list_done(&list);
        return config_fail(reterr, -PTN_ENOMEM, "%s: out of memory", where);
    }
    config_unset(c, k);
    *(struct config_list *)value_of(c, k) = list;
    return 0;
}

static int set_path(struct postern_config *c, const struct config_key *k, const char *text,
                    const char *where, struct config_error *reterr) {
    size_t n = strlen(text);
    if (n == 0)
        return config_fail(reterr, -PTN_EINVAL, "%s: name a directory", where);
    while (n > 1 && text[n - 1] == '/')
        n--;
    char *copy = strndup(text, n);
    if (copy == NULL)
        return config_fail(reterr, -PTN_ENOMEM, "%s: out of memory", where);
    config_unset(c, k);
    *(char **)value_of(c, k) = copy;
    return 0;
}

static int set_word(struct postern_config *c, const struct config_key *k, const char *text,
                    const char *where, struct config_error *reterr) {
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    static const char *const formats[] = {"auto", "text", "json"};
    bool level = k->kind == CONFIG_LEVEL;
    const char *const *words = level ? levels : formats;
    unsigned n = level ? PTN_ARRAY_LEN(levels) : PTN_ARRAY_LEN(formats);
    for (unsigned i = 0; i < n; i++)
        if (strcasecmp(text, words[i]) == 0) {
            if (level)
                *(enum ptn_log_level *)value_of(c, k) = (enum ptn_log_level)i;
            else
                *(enum config_log_format *)value_of(c, k) = (enum config_log_format)i;
            return 0;
        }
    return config_fail(reterr, -PTN_EINVAL, "%s: \"%.100s\" is not one of %s", where, text,
                       level ? "error, warn, info, debug" : "auto, text, json");
}

static int set_number(struct postern_config *c, const struct config_key *k, const char *text,
                      const char *where, struct config_error *reterr) {
    static const struct unit plain[] = {{"", 1}};
    uint64_t v = 0;
    int err;
    const char *form;
    if (k->kind == CONFIG_DURATION) {
        err = config_parse_duration(text, &v);
        form = "a duration such as 250ms, 5s, 1m, 1h or 30d";
    } else if (k->kind == CONFIG_SIZE) {
        err = config_parse_size(text, &v);
        form = "a size such as 64KiB, 1MiB, 1GB or a number of bytes";
    } else {
        err = parse_scaled(text, plain, 1, &v);
        form = "a whole number";
    }
    if (err < 0)
        return config_fail(reterr, err, "%s: \"%.100s\" is not %s", where, text, form);
    if (v < k->min || v > k->max) {
        bool duration = k->kind == CONFIG_DURATION;
        uint64_t unit = duration ? PTN_MS : 1;
        return config_fail(reterr, -PTN_EINVAL, "%s: \"%.100s\" is not between %llu and %llu%s",
                           where, text, (unsigned long long)(k->min / unit),
                           (unsigned long long)(k->max / unit),
                           duration                 ? " ms"
                           : k->kind == CONFIG_SIZE ? " bytes"
                                                    : "");
    }
    if (k->kind == CONFIG_COUNT)
        *(uint32_t *)value_of(c, k) = (uint32_t)v;
    else
        *(uint64_t *)value_of(c, k) = v;
    return 0;
}

int config_set(struct postern_config *c, const struct config_key *k, const char *const *texts,
               size_t n, const char *where, struct config_error *reterr) {
    for (size_t i = 0; i < n; i++)
        if (strlen(texts[i]) > CONFIG_TEXT_BYTES_MAX)
            return config_fail(reterr, -PTN_EINVAL, "%s: longer than %u bytes", where,
                               CONFIG_TEXT_BYTES_MAX);
    if (config_key_is_list(k))
        return set_list(c, k, texts, n, where, reterr);
    if (n != 1)
        return config_fail(reterr, -PTN_EINVAL, "%s: takes one value, not a list", where);
    switch (k->kind) {
    case CONFIG_PATH:
        return set_path(c, k, texts[0], where, reterr);
    case CONFIG_LEVEL:
    case CONFIG_FORMAT:
        return set_word(c, k, texts[0], where, reterr);
    default:
        return set_number(c, k, texts[0], where, reterr);
    }
}

int config_set_text(struct postern_config *c, const struct config_key *k, const char *text,
                    const char *where, struct config_error *reterr) {
    if (!config_key_is_list(k))
        return config_set(c, k, &text, 1, where, reterr);
    char *copy = strdup(text);
    if (copy == NULL)
        return config_fail(reterr, -PTN_ENOMEM, "%s: out of memory", where);
    const char
        *items[CONFIG_LIST_MAX + 1]; /* one more than allowed, so that config_set() can refuse */
    size_t n = 0;
    char *rest = copy, *item;
    while (text[0] != '\0' && n < PTN_ARRAY_LEN(items) && (item = strsep(&rest, ",")) != NULL) {
        while (*item == ' ')
            item++;
        size_t length = strlen(item);
        while (length > 0 && item[length - 1] == ' ')
            item[--length] = '\0';
        items[n++] = item;
    }
    int err = config_set(c, k, items, n, where, reterr);
    free(copy);
    return err;
}
