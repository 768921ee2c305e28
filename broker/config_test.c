/* SPDX-License-Identifier: Apache-2.0
 *
 * config_test.c - every key by file, environment and flag; precedence; errors that name the way
 * out.
 */
#include "broker/config_internal.h"
#include "broker/suggest.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct files {
    char dir[64], path[96];
};

static void files_open(struct files *f, const char *text) {
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/postern-config-XXXXXX");
    cr_assert_not_null(mkdtemp(f->dir));
    (void)snprintf(f->path, sizeof f->path, "%s/c.yaml", f->dir);
    FILE *out = fopen(f->path, "w");
    cr_assert_not_null(out);
    fputs(text, out);
    fclose(out);
}

static void files_close(const struct files *f) {
    unlink(f->path);
    rmdir(f->dir);
}

static int load_text(const char *yaml, struct postern_config *c, struct config_error *e) {
    struct files f;
    files_open(&f, yaml);
    e->text[0] = '\0';
    int err = config_load(&(struct config_sources){.file = f.path}, c, e);
    files_close(&f);
    return err;
}

static int load_env(const char *variable, struct postern_config *c, struct config_error *e) {
    char *copy = strdup(variable);
    char *env[] = {"PATH=/bin", copy, NULL};
    int err = config_load(&(struct config_sources){.env = env}, c, e);
    free(copy);
    return err;
}

/* A value for the key that is not its default, and what it must become. */
static const char *sample(const struct config_key *k) {
    switch (k->kind) {
    case CONFIG_HTTP:
        return "127.0.0.1:4711";
    case CONFIG_ZMQ:
        return "tcp://127.0.0.1:4712";
    case CONFIG_RULES:
        return "orders.** age=30d events=5";
    case CONFIG_PATH:
        return "/some/where";
    case CONFIG_COUNT:
        return "33";
    case CONFIG_SIZE:
        return strcmp(k->name, "limits.memory") == 0 ? "67108864" : "65536";
    case CONFIG_DURATION: /* fits every range, and both pairs that depend on each other */
        return strstr(k->name, "refresh") ? "20m" : strstr(k->name, "max") ? "599s" : "9s";
    case CONFIG_LEVEL:
        return "debug";
    default:
        return "json";
    }
}

static void expect_sample(const struct postern_config *c, const struct config_key *k,
                          const char *how) {
    const void *v = (const char *)c + k->offset;
    uint64_t number;
    switch (k->kind) {
    case CONFIG_HTTP:
    case CONFIG_ZMQ:
    case CONFIG_RULES: {
        const struct config_list *l = v;
        cr_assert_eq(l->n, 1, "%s by %s", k->name, how);
        cr_expect_str_eq(l->items[0], sample(k), "%s by %s", k->name, how);
        break;
    }
    case CONFIG_PATH:
        cr_expect_str_eq(*(char *const *)v, sample(k), "%s by %s", k->name, how);
        break;
    case CONFIG_COUNT:
        cr_expect_eq(*(const uint32_t *)v, 33, "%s by %s", k->name, how);
        break;
    case CONFIG_SIZE:
        cr_expect_eq(*(const uint64_t *)v, strtoull(sample(k), NULL, 10), "%s by %s", k->name, how);
        break;
    case CONFIG_DURATION:
        cr_assert_eq(config_parse_duration(sample(k), &number), 0);
        cr_expect_eq(*(const uint64_t *)v, number, "%s by %s", k->name, how);
        break;
    case CONFIG_LEVEL:
        cr_expect_eq(*(const enum ptn_log_level *)v, PTN_LOG_DEBUG, "%s by %s", k->name, how);
        break;
    default:
        cr_expect_eq(*(const enum config_log_format *)v, CONFIG_LOG_JSON, "%s by %s", k->name, how);
    }
}

Test(config, every_key_by_file) {
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *k = &config_keys[i];
        struct postern_config c;
        struct config_error e;
        char yaml[256];
        (void)snprintf(yaml, sizeof yaml, k->section[0] == '\0' ? "%s%s: %s\n" : "%s:\n  %s: %s\n",
                       k->section, k->key, sample(k));
        cr_assert_eq(load_text(yaml, &c, &e), 0, "%s: %s", yaml, e.text);
        expect_sample(&c, k, "file");
        config_done(&c);
    }
}

Test(config, every_key_by_environment_in_any_case) {
    for (size_t i = 0; i < CONFIG_KEYS * 2; i++) {
        const struct config_key *k = &config_keys[i / 2];
        struct postern_config c;
        struct config_error e;
        char variable[256] = "POSTERN_";
        size_t at = strlen(variable);
        for (const char *p = k->name; *p != '\0'; p++) {
            variable[at++] = (char)(*p == '.' ? '_' : i % 2 == 0 ? toupper(*p) : *p);
            if (*p == '.')
                variable[at++] = '_';
        }
        (void)snprintf(variable + at, sizeof variable - at, "=%s", sample(k));
        cr_assert_eq(load_env(variable, &c, &e), 0, "%s: %s", variable, e.text);
        expect_sample(&c, k, variable);
        config_done(&c);
    }
}

Test(config, every_key_by_flag) {
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *k = &config_keys[i];
        struct postern_config c;
        struct config_error e;
        struct config_flag flag = {k->name, sample(k)};
        cr_assert_eq(config_load(&(struct config_sources){.flags = &flag, .n_flags = 1}, &c, &e), 0,
                     "%s", e.text);
        expect_sample(&c, k, "flag");
        config_done(&c);
    }
}

Test(config, defaults_are_those_of_the_contract) {
    struct postern_config c;
    struct config_error e;
    edge_limits l;
    cr_assert_eq(config_load(&(struct config_sources){0}, &c, &e), 0, "%s", e.text);
    cr_expect_str_eq(c.listen.http.items[0], "127.0.0.1:8771");
    cr_expect_str_eq(c.listen.admin.items[0], "127.0.0.1:8772");
    cr_expect_str_eq(c.listen.zmq.items[0], "ipc://./data/postern.ipc");
    cr_expect_str_eq(c.listen.zmq_events.items[0], "ipc://./data/postern-events.ipc");
    cr_expect_str_eq(c.data, "./data");
    cr_expect_eq(c.auth.access_ttl_ns, 900 * PTN_SEC);
    cr_expect_eq(c.log.level, PTN_LOG_INFO);
    config_edge_limits(&c, &l);
    cr_expect_eq(l.connections_max, 10000);
    cr_expect_eq(l.body_bytes_max, 1 << 20);
    cr_expect_eq(l.first_byte_ns, 60 * PTN_SEC);
    cr_expect_eq(l.ws_ping_ns, 25 * PTN_SEC);
    cr_expect_eq(l.request_ns_max, 60 * PTN_SEC);
    config_done(&c);
}

Test(config, flags_win_over_environment_over_file) {
    struct files f;
    struct postern_config c;
    struct config_error e;
    char *env[] = {"POSTERN_LIMITS__BODY=2MiB", "POSTERN_LIMITS__DEPTH=20", "POSTERN_DATA=", NULL};
    struct config_flag flag = {"limits.body", "3MiB"};
    files_open(&f, "limits: {body: 1KiB, depth: 10, headers: 50}\ndata: /d\n");
    struct config_sources s = {.file = f.path, .env = env, .flags = &flag, .n_flags = 1};
    cr_assert_eq(config_load(&s, &c, &e), 0, "%s", e.text);
    cr_expect_eq(c.limits.body_bytes, 3 << 20);
    cr_expect_eq(c.limits.depth, 20);
    cr_expect_eq(c.limits.headers, 50);
    cr_expect_str_eq(c.data, "/d", "an empty variable counts as unset");
    cr_expect_str_eq(c.listen.zmq.items[0], "ipc:///d/postern.ipc");
    config_done(&c);
    files_close(&f);
}

Test(config, lists) {
    struct postern_config c;
    struct config_error e;
    cr_assert_eq(
        load_text("listen:\n  http:\n    - 127.0.0.1:1\n    - \"[::1]:2\"\n    - unix:/tmp/p.sock\n"
                  "  zmq: []\n  admin: localhost:0\n",
                  &c, &e),
        0, "%s", e.text);
    cr_assert_eq(c.listen.http.n, 3);
    cr_expect_str_eq(c.listen.http.items[1], "[::1]:2");
    cr_expect_eq(c.listen.zmq.n, 0);
    cr_expect_str_eq(c.listen.admin.items[0], "localhost:0");
    config_done(&c);
    cr_assert_eq(load_env("POSTERN_LISTEN__HTTP=127.0.0.1:1, :2", &c, &e), 0, "%s", e.text);
    cr_assert_eq(c.listen.http.n, 2);
    cr_expect_str_eq(c.listen.http.items[1], ":2");
    config_done(&c);
    struct config_flag off = {"listen.zmq", ""};
    cr_assert_eq(config_load(&(struct config_sources){.flags = &off, .n_flags = 1}, &c, &e), 0);
    cr_expect_eq(c.listen.zmq.n, 0);
    config_done(&c);
}

Test(config, default_config_is_accepted_and_changes_nothing) {
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    config_print_default(out);
    fclose(out);
    struct postern_config a, b;
    struct config_error e;
    cr_assert_eq(load_text(text, &a, &e), 0, "%s", e.text);
    cr_assert_eq(config_load(&(struct config_sources){0}, &b, &e), 0);
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *k = &config_keys[i];
        cr_expect_not_null(strstr(text, k->help), "%s is explained", k->name);
        const char *va = (const char *)&a + k->offset, *vb = (const char *)&b + k->offset;
        if (k->kind == CONFIG_SIZE || k->kind == CONFIG_DURATION)
            cr_expect_eq(memcmp(va, vb, sizeof(uint64_t)), 0, "%s", k->name);
        if (!config_key_is_list(k))
            continue;
        const struct config_list *la = (const void *)va, *lb = (const void *)vb;
        cr_assert_eq(la->n, lb->n, "%s", k->name);
        for (size_t j = 0; j < la->n; j++)
            cr_expect_str_eq(la->items[j], lb->items[j]);
    }
    config_done(&a);
    config_done(&b);
    free(text);
}

Test(config, empty_files_and_empty_sections_mean_defaults) {
    static const char *const texts[] = {"",
                                        "# nothing\n",
                                        "---\n",
                                        "{}",
                                        "null\n",
                                        "listen:\nlog: {}\nlimits: ~\n",
                                        "listen:\n  http:\n"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(texts); i++) {
        struct postern_config c;
        struct config_error e;
        cr_assert_eq(load_text(texts[i], &c, &e), 0, "%s: %s", texts[i], e.text);
        cr_expect_str_eq(c.listen.http.items[0], "127.0.0.1:8771");
        config_done(&c);
    }
}

Test(config, errors_name_line_key_and_remedy) {
    static const struct {
        const char *yaml, *parts[3];
    } cases[] = {
        {"listen:\n  htpp: x\n", {":2:", "listen.htpp", "did you mean listen.http?"}},
        {"lisen:\n  http: x\n", {":1:", "lisen", "did you mean listen?"}},
        {"\n\nwrkers: 2\n", {":3:", "wrkers", "did you mean workers?"}},
        {"limits:\n  bdoy: 1\n", {":2:", "limits.bdoy", "limits.body"}},
        {"workers: two\n", {":1: workers", "two", "whole number"}},
        {"workers: 65\n", {"workers", "between 0 and 64", ""}},
        {"drain: 5\n", {"drain", "duration", "5s"}},
        {"drain: 5 s s\n", {"drain", "duration", ""}},
        {"limits:\n  body: 1Mib5\n", {":2: limits.body", "size", "1MiB"}},
        {"limits:\n  body: 99999999999999999999\n", {"limits.body", "size", ""}},
        {"limits:\n  body: 18014398509481984KiB\n", {"limits.body", "size", ""}},
        {"limits:\n  body: 1GiB\n", {"limits.body", "bytes", "between"}},
        {"log:\n  level: loud\n", {"log.level", "loud", "error, warn, info, debug"}},
        {"log: info\n", {":1: log", "key: value", ""}},
        {"- a\n", {":1: top level", "", ""}},
        {"listen:\n  http: 8771\n", {"listen.http", "HOST:PORT", ""}},
        {"listen:\n  http: 127.0.0.1:99999\n", {"listen.http", "65535", ""}},
        {"listen:\n  http: http://127.0.0.1:80\n", {"listen.http", "without a scheme", ""}},
        {"listen:\n  zmq: tcp://0.0.0.0:5555\n", {"listen.zmq", "loopback", ""}},
        {"listen:\n  zmq: tcp://127.evil.example:5555\n", {"listen.zmq", "loopback", ""}},
        {"listen:\n  zmq: inproc://x\n", {"listen.zmq", "ipc://PATH", ""}},
        {"listen:\n  http: [a:1, [b:2]]\n", {"listen.http", "plain value", ""}},
        {"listen:\n  http: {a: 1}\n", {"listen.http", "plain value", ""}},
        {"data: [a, b]\n", {"data", "plain value", ""}},
        {"data: ''\n", {"data", "directory", ""}},
        {"data: a\ndata: b\n", {":2:", "data", "twice"}},
        {"log:\n  level: info\nlog:\n  format: text\n", {":4:", "log", "twice"}},
        {"data: &a x\nworkers: *a\n", {":2:", "alias", ""}},
        {"data: b: c\n", {":1:", "YAML", ""}},
        {"data: \"a\\0b\"\n", {"data", "NUL", ""}},
        {"---\ndata: a\n---\ndata: b\n", {"one document", "", ""}},
        {"limits:\n  request_timeout: 60s\n  request_timeout_max: 5s\n",
         {"limits.request_timeout", "raise", ""}},
        {"auth:\n  access_ttl: 1h\n  refresh_ttl: 1m\n", {"auth.access_ttl", "raise", ""}},
    };
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        struct postern_config c;
        struct config_error e;
        int err = load_text(cases[i].yaml, &c, &e);
        cr_expect_eq(err, -PTN_EINVAL, "accepted: %s", cases[i].yaml);
        cr_expect_null(strchr(e.text, '\n'), "one line: %s", e.text);
        for (size_t j = 0; j < 3; j++)
            cr_expect_not_null(strstr(e.text, cases[i].parts[j]), "\"%s\" is not in: %s",
                               cases[i].parts[j], e.text);
        if (err == 0)
            config_done(&c);
    }
}

Test(config, local_socket_paths_have_a_limit) {
    struct postern_config c;
    struct config_error e;
    char data[120];
    memset(data, 'd', sizeof data);
    data[0] = '/';
    struct config_flag flags[] = {
        {"data", data}, {"listen.zmq", "ipc://<data>/z"}, {"listen.zmq_events", ""}};
    struct config_sources s = {.flags = flags, .n_flags = 3};
    data[105] = '\0'; /* 105 + "/z" */
    cr_assert_eq(config_load(&s, &c, &e), 0, "%s", e.text);
    config_done(&c);
    data[105] = 'd';
    data[106] = '\0';
    cr_assert_eq(config_load(&s, &c, &e), -PTN_EINVAL);
    cr_expect_not_null(strstr(e.text, "107 bytes"), "%s", e.text);
}

Test(config, unknown_variables) {
    static const struct {
        const char *variable, *suggestion;
    } bad[] = {{"POSTERN_LISTEN__HTPP=x", "POSTERN_LISTEN__HTTP"},
               {"POSTERN_LISTEN_HTTP=x", "POSTERN_LISTEN__HTTP"},
               {"POSTERN_ADMIN_PASWORD=x", "POSTERN_ADMIN_PASSWORD"},
               {"POSTERN_LOGLEVEL=x", "POSTERN_LOG__LEVEL"}};
    static const char *const good[] = {"POSTERN_ADMIN_PASSWORD=x", "POSTERN_CONFIG=/x",
                                       "POSTERN_SERVICE_HOST=1", "POSTERN_PORT_8771_TCP=tcp://x",
                                       "OTHER=1"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++) {
        struct postern_config c;
        struct config_error e;
        cr_expect_eq(load_env(bad[i].variable, &c, &e), -PTN_EINVAL, "%s", bad[i].variable);
        cr_expect_not_null(strstr(e.text, bad[i].suggestion), "%s", e.text);
    }
    for (size_t i = 0; i < PTN_ARRAY_LEN(good); i++) {
        struct postern_config c;
        struct config_error e;
        cr_assert_eq(load_env(good[i], &c, &e), 0, "%s: %s", good[i], e.text);
        config_done(&c);
    }
}

Test(config, missing_and_huge_files) {
    struct postern_config c;
    struct config_error e;
    cr_expect_eq(config_load(&(struct config_sources){.file = "/nonexistent/c.yaml"}, &c, &e),
                 -PTN_EIO);
    cr_expect_not_null(strstr(e.text, "--config"));
    size_t n = (256u << 10) + 2;
    char *huge = malloc(n);
    memset(huge, '#', n - 1);
    huge[n - 1] = '\0';
    cr_expect_eq(load_text(huge, &c, &e), -PTN_EIO);
    free(huge);
}

Test(config, durations_and_sizes) {
    static const struct {
        const char *text;
        uint64_t ns;
    } durations[] = {{"250ms", 250 * PTN_MS},
                     {"5s", 5 * PTN_SEC},
                     {"1m", 60 * PTN_SEC},
                     {"1h", 3600 * PTN_SEC},
                     {"30d", 2592000 * PTN_SEC},
                     {"0s", 0},
                     {"0", 0}};
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {{"0", 0},          {"512", 512},        {"64KiB", 65536},
                 {"1MiB", 1 << 20}, {"1GB", 1000000000}, {"2GiB", UINT64_C(2) << 30},
                 {"3MB", 3000000},  {"7B", 7},           {"1kib", 1024}};
    static const char *const bad[] = {"",
                                      " ",
                                      "-1s",
                                      "s",
                                      "1.5s",
                                      "1y",
                                      "0x10",
                                      "1 s 2",
                                      "+5s",
                                      "99999999999999999999d",
                                      "18446744073709551615h"};
    uint64_t v;
    for (size_t i = 0; i < PTN_ARRAY_LEN(durations); i++)
        cr_expect(config_parse_duration(durations[i].text, &v) == 0 && v == durations[i].ns, "%s",
                  durations[i].text);
    for (size_t i = 0; i < PTN_ARRAY_LEN(sizes); i++)
        cr_expect(config_parse_size(sizes[i].text, &v) == 0 && v == sizes[i].bytes, "%s",
                  sizes[i].text);
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++) {
        cr_expect_eq(config_parse_duration(bad[i], &v), -PTN_EINVAL, "%s", bad[i]);
        cr_expect_eq(config_parse_size(bad[i], &v), -PTN_EINVAL, "%s", bad[i]);
    }
}

Test(config, changes_are_named) {
    struct postern_config a, b;
    struct config_error e;
    char names[CONFIG_CHANGES_BYTES];
    size_t room = 1;
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *k = &config_keys[i];
        room += strlen(k->name) + 1;
        if (k->kind == CONFIG_PATH)
            continue; /* stands in the addresses of ipc, too */
        const struct config_flag flag = {k->name, sample(k)};
        cr_assert_eq(config_load(&(struct config_sources){0}, &a, &e), 0, "%s", e.text);
        cr_assert_eq(config_load(&(struct config_sources){.flags = &flag, .n_flags = 1}, &b, &e), 0,
                     "%s", e.text);
        config_changes(&a, &a, names, sizeof names);
        cr_expect_str_eq(names, "");
        config_changes(&a, &b, names, sizeof names);
        cr_expect_str_eq(names, k->name);
        config_done(&a);
        config_done(&b);
    }
    cr_expect_leq(room, sizeof names, "all names have room");
    const struct config_flag flags[] = {{"data", "/tmp/x"}, {"listen.http", "127.0.0.1:1,[::1]:1"}};
    cr_assert_eq(config_load(&(struct config_sources){0}, &a, &e), 0, "%s", e.text);
    cr_assert_eq(config_load(&(struct config_sources){.flags = flags, .n_flags = 2}, &b, &e), 0,
                 "%s", e.text);
    config_changes(&a, &b, names, sizeof names);
    cr_expect_str_eq(names, "data listen.http listen.zmq listen.zmq_events");
    config_changes(&a, &b, names, 10);
    cr_expect_str_eq(names, "data", "cut at a name");
    config_done(&a);
    config_done(&b);
}

Test(config, workers_follow_the_cgroup) {
    static const struct {
        const char *quota;
        unsigned processors, expected;
    } cases[] = {{"max 100000\n", 8, 8},
                 {"200000 100000\n", 8, 2},
                 {"150000 100000\n", 8, 2},
                 {"50000 100000\n", 8, 1},
                 {"800000 100000\n", 2, 2},
                 {"garbage\n", 3, 3},
                 {"", 3, 3},
                 {"100000 0\n", 3, 3},
                 {"max 100000\n", 500, 64},
                 {"max 100000\n", 0, 1}};
    char dir[] = "/tmp/postern-cgroup-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/cpu.max", dir);
    cr_expect_eq(config_workers_of(dir, 5), 5, "no cgroup file");
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        FILE *f = fopen(path, "w");
        fputs(cases[i].quota, f);
        fclose(f);
        cr_expect_eq(config_workers_of(dir, cases[i].processors), cases[i].expected, "%s",
                     cases[i].quota);
    }
    unlink(path);
    rmdir(dir);
}

Test(config, memory_follows_the_cgroup) {
    static const struct {
        const char *max;
        uint64_t host, expected;
    } cases[] = {{"max\n", 1000, 1000},
                 {"400\n", 1000, 400},
                 {"4000\n", 1000, 1000},
                 {"garbage\n", 7, 7},
                 {"", 7, 7}};
    char dir[] = "/tmp/postern-cgroup-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/memory.max", dir);
    cr_expect_eq(config_memory_of(dir, 5), 5, "no cgroup file");
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        FILE *f = fopen(path, "w");
        fputs(cases[i].max, f);
        fclose(f);
        cr_expect_eq(config_memory_of(dir, cases[i].host), cases[i].expected, "%s", cases[i].max);
    }
    unlink(path);
    rmdir(dir);
    struct postern_config c = {.limits = {.memory_bytes = 64 << 20}};
    cr_expect_eq(config_memory(&c), 64 << 20);
    c.limits.memory_bytes = 0;
    cr_expect_geq(config_memory(&c), CONFIG_MEMORY_MIN, "a share of what there is");
}

Test(suggest, nearest_by_edit_distance) {
    static const char *const words[] = {"listen.http", "listen.zmq", "workers"};
    cr_expect_eq(suggest_distance("", "abc"), 3);
    cr_expect_eq(suggest_distance("kitten", "sitting"), 3);
    cr_expect_eq(suggest_distance("htpp", "http"), 1, "one transposition");
    cr_expect_eq(suggest_distance("same", "SAME"), 0);
    cr_expect_str_eq(suggest_nearest("listen.htpp", words, 3), "listen.http");
    cr_expect_str_eq(suggest_nearest("wokers", words, 3), "workers");
    cr_expect_null(suggest_nearest("x", words, 0));
}
