/* SPDX-License-Identifier: Apache-2.0
 *
 * config.c - the table of keys, the layers, the checks across keys, and the printed defaults.
 *
 * Every layer sets keys through config_set(), so a value means the same wherever it comes from.
 */
#include "broker/config_internal.h"

#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

#include "broker/suggest.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

#define KEY(name_, section_, key_, kind_, def_, min_, max_, help_, path_)                          \
    {.name = name_,                                                                                \
     .section = section_,                                                                          \
     .key = key_,                                                                                  \
     .def = def_,                                                                                  \
     .help = help_,                                                                                \
     .kind = CONFIG_##kind_,                                                                       \
     .min = min_,                                                                                  \
     .max = max_,                                                                                  \
     .offset = offsetof(struct postern_config, path_),                                             \
     .bytes = sizeof(((struct postern_config *)0)->path_)},
#define XX(s, k, field, kind, def, min, max, help)                                                 \
    KEY(#s "." #k, #s, #k, kind, def, min, max, help, s.field)
#define TOP(s, k, field, kind, def, min, max, help)                                                \
    KEY(#k, "", #k, kind, def, min, max, help, field)
#define SS(section, map, help) map(XX, section)
const struct config_key config_keys[CONFIG_KEYS] = {CONFIG_TOP_MAP(TOP, ) CONFIG_SECTION_MAP(SS)};
#undef SS
#undef TOP
#undef XX
#undef KEY

int config_fail(struct config_error *e, int err, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(e->text, sizeof e->text, fmt, args);
    va_end(args);
    return err;
}

/* ---- keys ----------------------------------------------------------------------------------- */

const struct config_key *config_key_find(const char *name) {
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const char *known = config_keys[i].name;
        size_t at = 0;
        while (name[at] != '\0' && (name[at] == known[at] || (name[at] == '-' && known[at] == '_')))
            at++;
        if (name[at] == '\0' && known[at] == '\0')
            return &config_keys[i];
    }
    return NULL;
}

const char *config_key_nearest(const char *name) {
    const char *names[CONFIG_KEYS];
    for (size_t i = 0; i < CONFIG_KEYS; i++)
        names[i] = config_keys[i].name;
    return suggest_nearest(name, names, CONFIG_KEYS);
}

/* ---- layers --------------------------------------------------------------------------------- */

static int apply_defaults(struct postern_config *c, struct config_error *reterr) {
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        int err =
            config_set_text(c, &config_keys[i], config_keys[i].def, config_keys[i].name, reterr);
        if (err < 0)
            return err;
    }
    return 0;
}

static int apply_flags(struct postern_config *c, const struct config_flag *flags, size_t n,
                       struct config_error *reterr) {
    for (size_t i = 0; i < n; i++) {
        char where[160];
        (void)snprintf(where, sizeof where, "--%s", flags[i].key);
        const struct config_key *k = config_key_find(flags[i].key);
        if (k == NULL)
            return config_fail(reterr, -PTN_EINVAL, "%s: no such key; did you mean %s?", where,
                               config_key_nearest(flags[i].key));
        int err = config_set_text(c, k, flags[i].value, where, reterr);
        if (err < 0)
            return err;
    }
    return 0;
}

/* Puts the data directory in for <data>, and checks the address again: it may have become too long.
 */
static int resolve_address(const struct config_key *k, const char *data, char **address,
                           struct config_error *reterr) {
    static const char mark[] = "<data>";
    char *at = strstr(*address, mark);
    if (at == NULL)
        return 0;
    size_t before = (size_t)(at - *address), bytes = strlen(*address) + strlen(data) + 1;
    char *whole = malloc(bytes);
    if (whole == NULL)
        return config_fail(reterr, -PTN_ENOMEM, "%s: out of memory", k->name);
    (void)snprintf(whole, bytes, "%.*s%s%s", (int)before, *address, data, at + sizeof mark - 1);
    free(*address);
    *address = whole;
    const char *advice = config_item_advice(k->kind, whole);
    return advice == NULL
               ? 0
               : config_fail(reterr, -PTN_EINVAL, "%s: \"%.300s\": %s", k->name, whole, advice);
}

/* What no key can tell by itself. */
static int finish(struct postern_config *c, struct config_error *reterr) {
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *k = &config_keys[i];
        if (!config_key_is_list(k))
            continue;
        struct config_list *l = (struct config_list *)(void *)((char *)c + k->offset);
        for (size_t j = 0; j < l->n; j++) {
            int err = resolve_address(k, c->data, &l->items[j], reterr);
            if (err < 0)
                return err;
        }
    }
    if (c->limits.request_timeout_ns > c->limits.request_timeout_max_ns)
        return config_fail(
            reterr, -PTN_EINVAL,
            "limits.request_timeout: longer than limits.request_timeout_max; raise the "
            "latter or lower the former");
    if (c->limits.memory_bytes > 0 && c->limits.memory_bytes < CONFIG_MEMORY_MIN)
        return config_fail(reterr, -PTN_EINVAL,
                           "limits.memory: less than 32MiB, which the broker needs to work at all; "
                           "raise it, or write 0 for a share of what there is");
    if (c->auth.access_ttl_ns > c->auth.refresh_ttl_ns)
        return config_fail(
            reterr, -PTN_EINVAL,
            "auth.access_ttl: longer than auth.refresh_ttl; a session would end before "
            "its token; raise the latter or lower the former");
    return 0;
}

int config_load(const struct config_sources *sources, struct postern_config *ret_config,
                struct config_error *reterr) {
    struct postern_config c = {0};
    int err = apply_defaults(&c, reterr);
    if (err == 0 && sources->file != NULL)
        err = config_apply_file(&c, sources->file, reterr);
    if (err == 0 && sources->env != NULL)
        err = config_apply_env(&c, sources->env, reterr);
    if (err == 0)
        err = apply_flags(&c, sources->flags, sources->n_flags, reterr);
    if (err == 0)
        err = finish(&c, reterr);
    if (err < 0) {
        config_done(&c);
        return err;
    }
    *ret_config = c;
    return 0;
}

void config_done(struct postern_config *c) {
    for (size_t i = 0; i < CONFIG_KEYS; i++)
        config_unset(c, &config_keys[i]);
}

/* ---- comparing ------------------------------------------------------------------------------ */

static bool key_differs(const struct config_key *k, const void *a, const void *b) {
    if (k->kind == CONFIG_PATH)
        return strcmp(*(char *const *)a, *(char *const *)b) != 0;
    if (!config_key_is_list(k))
        return memcmp(a, b, k->bytes) != 0;
    const struct config_list *la = a, *lb = b;
    bool differs = la->n != lb->n;
    for (size_t i = 0; !differs && i < la->n; i++)
        differs = strcmp(la->items[i], lb->items[i]) != 0;
    return differs;
}

void config_changes(const struct postern_config *a, const struct postern_config *b, char *buf,
                    size_t buf_bytes) {
    size_t n = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *k = &config_keys[i];
        const size_t need = strlen(k->name) + (n > 0);
        if (n + need >= buf_bytes ||
            !key_differs(k, (const char *)a + k->offset, (const char *)b + k->offset))
            continue;
        (void)snprintf(buf + n, buf_bytes - n, "%s%s", n > 0 ? " " : "", k->name);
        n += need;
    }
}

/* ---- printing ------------------------------------------------------------------------------- */

void config_print_default(FILE *out) {
    static const struct {
        const char *name, *help;
    } sections[] = {
#define SS(section, map, help) {#section, help},
        CONFIG_SECTION_MAP(SS)
#undef SS
    };
    fputs(
        "# Postern configuration: every key with its default.\n"
        "# Precedence: flags (--listen.http=...), environment (POSTERN_LISTEN__HTTP), this file.\n"
        "# Durations: 250ms 5s 1m 1h 30d.  Sizes: 64KiB 1MiB 1GB, or bytes.\n",
        out);
    const char *section = "";
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *k = &config_keys[i];
        if (strcmp(k->section, section) != 0) {
            section = k->section;
            for (size_t j = 0; j < PTN_ARRAY_LEN(sections); j++)
                if (strcmp(sections[j].name, section) == 0)
                    fprintf(out, "\n# %s\n%s:\n", sections[j].help, section);
        }
        bool none = config_key_is_list(k) && k->def[0] == '\0';
        const char *indent = section[0] == '\0' ? "" : "  ",
                   *quote = none || k->kind == CONFIG_COUNT ? "" : "\"";
        fprintf(out, "%s%s# %s\n%s%s: %s%s%s\n", section[0] == '\0' ? "\n" : "", indent, k->help,
                indent, k->key, quote, none ? "[]" : k->def, quote);
    }
}

/* ---- derived values ------------------------------------------------------------------------- */

/* Whole processors of a cgroup v2 quota ("200000 100000", "max 100000"), rounded up; 0: no quota.
 */
static unsigned quota_of(const char *path) {
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    char line[64] = "";
    char *got = fgets(line, sizeof line, f);
    fclose(f);
    char *end;
    if (got == NULL || line[0] < '0' || line[0] > '9')
        return 0;
    unsigned long long quota = strtoull(line, &end, 10), period = strtoull(end, NULL, 10);
    if (quota == 0 || period == 0 || quota / period >= PTN_WORKERS_MAX)
        return 0;
    return (unsigned)((quota + period - 1) / period);
}

unsigned config_workers_of(const char *cgroup_dir, unsigned processors) {
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/cpu.max", cgroup_dir);
    unsigned quota = quota_of(path), n = processors;
    if (quota > 0 && quota < n)
        n = quota;
    return n == 0 ? 1 : n > PTN_WORKERS_MAX ? PTN_WORKERS_MAX : n;
}

uint64_t config_memory_of(const char *cgroup_dir, uint64_t host_bytes) {
    char path[PATH_MAX], line[64] = "";
    (void)snprintf(path, sizeof path, "%s/memory.max", cgroup_dir);
    FILE *f = fopen(path, "re");
    if (f != NULL) {
        if (fgets(line, sizeof line, f) == NULL)
            line[0] = '\0';
        fclose(f);
    }
    if (line[0] < '0' || line[0] > '9') /* "max", or no such file */
        return host_bytes;
    uint64_t bytes = strtoull(line, NULL, 10);
    return bytes < host_bytes ? bytes : host_bytes;
}

static uint64_t workers_step(const char *dir, uint64_t n) {
    return config_workers_of(dir, (unsigned)n);
}

/* The smallest limit from the process's own cgroup up to the root.  In a container the root is the
 * container's group; in a systemd unit the path of the unit counts. */
static uint64_t smallest_by_cgroup(uint64_t (*step)(const char *dir, uint64_t n), uint64_t n) {
    char line[PATH_MAX / 2], path[PATH_MAX];
    n = step(CGROUP_ROOT, n);
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "0::/", 4) != 0) /* version 2 only */
            continue;
        line[strcspn(line, "\n")] = '\0';
        for (char *end = line + strlen(line); end > line + 4; end = strrchr(line + 3, '/')) {
            *end = '\0';
            (void)snprintf(path, sizeof path, CGROUP_ROOT "%s", line + 3);
            n = step(path, n);
        }
    }
    if (f != NULL)
        fclose(f);
    return n;
}

unsigned config_workers(const struct postern_config *c) {
    if (c->workers > 0)
        return c->workers;
    cpu_set_t set;
    CPU_ZERO(&set);
    unsigned processors = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        processors = (unsigned)CPU_COUNT(&set);
    return (unsigned)smallest_by_cgroup(workers_step, processors);
}

uint64_t config_memory(const struct postern_config *c) {
    if (c->limits.memory_bytes > 0)
        return c->limits.memory_bytes;
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t host = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    uint64_t half = smallest_by_cgroup(config_memory_of, host) / 2;
    return half > CONFIG_MEMORY_MIN ? half : CONFIG_MEMORY_MIN;
}

void config_edge_limits(const struct postern_config *c, edge_limits *ret_limits) {
    *ret_limits = (edge_limits){
        .connections_max = c->limits.connections,
        .request_line_bytes_max = (uint32_t)c->limits.request_line_bytes,
        .header_bytes_max = (uint32_t)c->limits.header_bytes,
        .headers_max = c->limits.headers,
        .body_bytes_max = (uint32_t)c->limits.body_bytes,
        .message_bytes_max = (uint32_t)c->limits.message_bytes,
        .depth_max = c->limits.depth,
        .pipeline_max = c->limits.pipeline,
        .ws_deflate_bytes_min = (uint32_t)c->ws.deflate_bytes,
        .ws_requests_max = c->limits.ws_requests,
        .out_bytes_max = (uint32_t)c->limits.out_queue_bytes,
        .first_byte_ns = c->limits.keep_alive_ns,
        .headers_ns = c->limits.headers_timeout_ns,
        .body_ns = c->limits.body_timeout_ns,
        .request_ns = c->limits.request_timeout_ns,
        .request_ns_max = c->limits.request_timeout_max_ns,
        .ws_auth_ns = c->limits.ws_auth_ns,
        .ws_ping_ns = c->limits.ws_ping_ns,
        .ws_pong_ns = c->limits.ws_pong_ns,
        .stall_ns = c->limits.stall_ns,
    };
}
