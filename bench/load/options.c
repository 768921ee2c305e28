/* SPDX-License-Identifier: Apache-2.0
 *
 * options.c - one table says what there is: it is parsed, checked and printed from there.
 */
#include "bench/load/options.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

enum kind { TEXT, COUNT, NUMBER, FLAG, DRIVER };

static const struct option {
    const char *name, *value, *about;
    enum kind kind;
    size_t at;
    double min, max;
    bool everywhere; /* else only where the scenario accepts it */
} table[] = {
#define AT(member) offsetof(struct options, member)
    {"target", "DRIVER", "what is spoken (below)", DRIVER, AT(driver), 0, 0, true},
    {"address", "A", "of a running server; without, a broker is started", TEXT, AT(address), 0, 0,
     true},
    {"events", "A", "where deliveries come from, when that is another address", TEXT, AT(events), 0,
     0, true},
    {"token", "T", "access token", TEXT, AT(token), 0, 0, true},
    {"server-pid", "PID", "reads CPU time and memory of that process", COUNT, AT(server_pid), 1,
     4194304, true},
    {"program", "PATH", "the broker to start; usually `postern` beside this tool", TEXT,
     AT(program), 0, 0, true},
    {"workers", "N", "of the broker that is started (1)", TEXT, AT(workers), 0, 0, true},
    {"seconds", "S", "of one round", NUMBER, AT(seconds), 0.01, 86400, true},
    {"warmup", "S", "before the first round", NUMBER, AT(warmup), 0, 3600, true},
    {"rounds", "N", "readings; their median and range are shown", COUNT, AT(rounds), 1, ROUNDS_MAX,
     true},
    {"bytes", "N", "of a message", COUNT, AT(bytes), BENCH_STAMP_BYTES, BENCH_PAYLOAD_MAX, false},
    {"prose", NULL, "messages are words, as compressible as speech, each different", FLAG,
     AT(prose), 0, 0, false},
    {"discard", NULL, "only every 64th subscriber looks at what it gets, the others count bytes",
     FLAG, AT(discard), 0, 0, false},
    {"json", NULL, "one JSON object instead of the table", FLAG, AT(json), 0, 0, true},
    {"svg", "FILE", "a plot of the percentiles", TEXT, AT(svg), 0, 0, true},
    {"help", NULL, "this", FLAG, AT(help), 0, 0, true},
    {"subscribers", "N", "connections that receive", COUNT, AT(subscribers), 1, 60000, false},
    {"publishers", "N", "connections that send", COUNT, AT(publishers), 1, 200, false},
    {"topics", "N", "publishers go through all, a subscriber has one", COUNT, AT(topics), 1, 60000,
     false},
    {"topic", "NAME", "prefix of the topics", TEXT, AT(topic), 0, 0, false},
    {"connections", "N", "that ask, or that idle", COUNT, AT(connections), 1, 60000, false},
    {"window", "N", "in flight: of the publisher, or of each connection", COUNT, AT(window), 1,
     65536, false},
    {"rate", "R", "open loop: so many per second, whatever comes back", NUMBER, AT(rate), 0.01, 1e8,
     false},
    {"stalled", "N", "more subscribers, who never read", COUNT, AT(stalled), 1, 60000, false},
    {"overload", "X", "open loop at X times the highest rate that was kept up", NUMBER,
     AT(overload), 0.1, 100, false},
    {"path", "P", "of the requests", TEXT, AT(path), 0, 0, false},
};

static bool wrong(char *why, size_t bytes, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static bool wrong(char *why, size_t bytes, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(why, bytes, fmt, ap);
    va_end(ap);
    return false;
}

/* `name` as a whole word of `words`. */
static bool has_word(const char *words, const char *name) {
    size_t n = strlen(name);
    for (const char *p = words; (p = strstr(p, name)) != NULL; p += n)
        if ((p == words || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
            return true;
    return false;
}

static const struct option *find(const char *arg, const char **ret_inline) {
    size_t n = strcspn(arg, "=");
    *ret_inline = arg[n] == '=' ? arg + n + 1 : NULL;
    for (size_t i = 0; i < PTN_ARRAY_LEN(table); i++)
        if (strlen(table[i].name) == n && strncmp(table[i].name, arg, n) == 0)
            return &table[i];
    return NULL;
}

static bool set(struct options *o, const struct option *t, const char *value, char *why,
                size_t bytes) {
    char *at = (char *)o + t->at, *end;
    if (t->kind == FLAG) {
        memcpy(at, &(bool){true}, sizeof(bool));
    } else if (t->kind == TEXT) {
        memcpy(at, &value, sizeof value);
    } else if (t->kind == DRIVER) {
        for (size_t i = 0; bench_drivers[i] != NULL; i++)
            if (strcmp(bench_drivers[i]->name, value) == 0)
                o->driver = bench_drivers[i];
        if (o->driver == NULL)
            return wrong(why, bytes, "no target `%s`; --help lists them", value);
    } else {
        double v = strtod(value, &end);
        bool whole = t->kind == NUMBER || strspn(value, "0123456789") == strlen(value);
        if (end == value || *end != '\0' || !whole || !(v >= t->min && v <= t->max))
            return wrong(why, bytes, "--%s %s: wants a %snumber from %g to %g", t->name, value,
                         t->kind == COUNT ? "whole " : "", t->min, t->max);
        if (t->kind == NUMBER)
            memcpy(at, &v, sizeof v);
        else
            memcpy(at, &(unsigned){(unsigned)v}, sizeof(unsigned));
    }
    return true;
}

/* What was not said: the scenario's own default, or that of all. */
static void fill(struct options *o, const struct options *usual) {
#define FILL(member, common)                                                                       \
    if (o->member == 0)                                                                            \
        o->member = usual->member != 0 ? usual->member : (common);
    FILL(subscribers, 1)
    FILL(publishers, 1)
    FILL(topics, 1)
    FILL(connections, 1)
    if (o->rate == 0 && o->window == 0)
        o->window = usual->window != 0 ? usual->window : 1;
    FILL(bytes, 128)
    FILL(rounds, 3)
    FILL(seconds, 1)
    if (o->warmup < 0)
        o->warmup = 0.3;
#undef FILL
    if (o->topic == NULL)
        o->topic = "bench";
    if (o->workers == NULL)
        o->workers = "1";
    if (o->token == NULL)
        o->token = "";
}

/* Whether what was said makes sense together. */
static bool check(const struct options *o, char *why, size_t bytes) {
    const struct bench_driver *d = o->driver;
    const char *scenario = o->scenario->name;
    if ((d->can & o->scenario->needs) == 0)
        return wrong(why, bytes, "%s cannot do %s: %s", d->name, scenario, d->about);
    if (o->path != NULL && (d->can & BENCH_CAN_HTTP) == 0)
        return wrong(why, bytes, "--path means nothing to target %s", d->name);
    if (o->address == NULL && !(d->can & BENCH_IS_POSTERN))
        return wrong(why, bytes, "--target %s wants the --address of a running server", d->name);
    if (o->address == NULL && o->server_pid != 0)
        return wrong(why, bytes, "--server-pid belongs to a server at --address");
    if (o->rate > 0 && o->window > 0)
        return wrong(why, bytes, "--rate and --window exclude each other: open or closed loop");
    if (o->overload > 0 && o->rate > 0)
        return wrong(why, bytes, "--overload finds the rate by itself; leave --rate out");
    if (o->discard && (o->rate > 0 || o->overload > 0))
        return wrong(why, bytes, "--discard goes with --window: bytes have no time of their own");
    if (o->topics > o->subscribers)
        return wrong(why, bytes, "more topics than subscribers: nobody would hear the rest");
    if (strlen(o->topic) > 64)
        return wrong(why, bytes, "--topic is longer than 64 bytes");
    return true;
}

bool options_parse(int argc, char **argv, struct options *ret_o, char *ret_why, size_t why_bytes) {
    struct options o = {.warmup = -1};
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value;
        if (strncmp(arg, "--", 2) != 0) {
            if (o.scenario != NULL)
                return wrong(ret_why, why_bytes, "`%s`: only one scenario at a time", arg);
            for (const struct scenario *s = scenarios; s->name != NULL; s++)
                if (strcmp(s->name, arg) == 0)
                    o.scenario = s;
            if (o.scenario == NULL)
                return wrong(ret_why, why_bytes, "no scenario `%s`; --help lists them", arg);
            continue;
        }
        const struct option *t = find(arg + 2, &value);
        if (t == NULL)
            return wrong(ret_why, why_bytes, "no option `%s`; --help lists them", arg);
        if (t->kind != FLAG && value == NULL && ++i < argc)
            value = argv[i];
        if ((t->kind == FLAG) != (value == NULL))
            return wrong(ret_why, why_bytes,
                         t->kind == FLAG ? "--%s takes no value" : "--%s wants a value", t->name);
        if (o.scenario != NULL && !t->everywhere && !has_word(o.scenario->accepts, t->name))
            return wrong(ret_why, why_bytes, "--%s means nothing to %s", t->name, o.scenario->name);
        if (!set(&o, t, value, ret_why, why_bytes))
            return false;
    }
    if (!o.help && o.scenario == NULL)
        return wrong(ret_why, why_bytes, "which scenario? --help lists them");
    if (!o.help) {
        for (size_t i = 0; o.driver == NULL && bench_drivers[i] != NULL; i++)
            if (strcmp(bench_drivers[i]->name, o.scenario->target) == 0)
                o.driver = bench_drivers[i];
        fill(&o, &o.scenario->usual);
        if (!check(&o, ret_why, why_bytes))
            return false;
    }
    *ret_o = o;
    return true;
}

void options_tell(const struct options *o, struct report *r) {
    const struct {
        const char *name, *option;
        double value;
    } all[] = {{"subscribers", "subscribers", o->subscribers},
               {"publishers", "publishers", o->publishers},
               {"topics", "topics", o->topics},
               {"connections", "connections", o->connections},
               {"window", "window", o->window},
               {"rate_wanted", "rate", o->rate},
               {"stalled", "stalled", o->stalled},
               {"overload", "overload", o->overload}};
    r->scenario = o->scenario->name;
    r->target = o->driver->name;
    r->rounds = o->rounds;
    for (size_t i = 0; i < PTN_ARRAY_LEN(all); i++)
        if (has_word(o->scenario->accepts, all[i].option))
            report_parameter(r, all[i].name, all[i].value);
    report_parameter(r, "bytes", o->bytes);
}

void options_help(FILE *f, const struct scenario *scenario) {
    fprintf(f, "usage: postern bench %s [options]\n",
            scenario != NULL ? scenario->name : "SCENARIO");
    if (scenario == NULL)
        fputs("\nscenarios (`postern bench SCENARIO --help` says what each accepts):\n", f);
    for (const struct scenario *s = scenarios; s->name != NULL; s++)
        if (scenario == NULL || scenario == s)
            fprintf(f, "  %-14s %s\n", s->name, s->about);
    fputs("\noptions:\n", f);
    for (size_t i = 0; i < PTN_ARRAY_LEN(table); i++) {
        const struct option *t = &table[i];
        char left[48];
        if (scenario != NULL && !t->everywhere && !has_word(scenario->accepts, t->name))
            continue;
        (void)snprintf(left, sizeof left, "--%s%s%s", t->name, t->value != NULL ? " " : "",
                       t->value != NULL ? t->value : "");
        fprintf(f, "  %-18s %s\n", left, t->about);
    }
    fputs("\ntargets:\n", f);
    for (size_t i = 0; bench_drivers[i] != NULL; i++)
        if (scenario == NULL || (bench_drivers[i]->can & scenario->needs) != 0)
            fprintf(f, "  %-18s %s\n", bench_drivers[i]->name, bench_drivers[i]->about);
}
