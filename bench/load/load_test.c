/* SPDX-License-Identifier: Apache-2.0
 *
 * load_test.c - what of the benchmark is pure: histogram, pacing, stamps, options, reports.
 */
#include "bench/load/run.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static bool is(double a, double b) {
    return fabs(a - b) < 1e-9;
}

static void run_nothing(const struct options *o) {
    (void)o;
}

const struct scenario scenarios[] = {
    {.name = "flow",
     .about = "",
     .needs = BENCH_CAN_PUBSUB,
     .target = "postern-ws-json",
     .accepts = "bytes subscribers topics window rate overload",
     .usual = {.subscribers = 7},
     .run = run_nothing},
    {.name = "get",
     .about = "",
     .needs = BENCH_CAN_HTTP,
     .target = "postern-rest",
     .accepts = "connections window rate",
     .run = run_nothing},
    {.name = NULL},
};

/* ---- histogram ----------------------------------------------------------------------------- */

Test(histogram, every_value_is_within_a_hundredth_and_never_understated) {
    for (unsigned shift = 0; shift < 64; shift++) {
        static struct histogram h;
        uint64_t v = (UINT64_C(1) << shift) + (shift > 3 ? UINT64_C(5) << (shift - 4) : 0);
        memset(&h, 0, sizeof h);
        histogram_add(&h, v);
        histogram_add(&h, UINT64_MAX); /* so that the greatest value hides nothing */
        uint64_t got = histogram_at(&h, 0.5);
        cr_assert_geq(got, v);
        cr_assert_leq(got - v, v / 100, "%llu became %llu", (unsigned long long)v,
                      (unsigned long long)got);
        cr_assert_eq(histogram_at(&h, 1), UINT64_MAX);
    }
}

Test(histogram, quantiles_count_values) {
    static struct histogram h, other;
    cr_assert_eq(histogram_at(&h, 0.5), 0, "empty");
    for (uint64_t v = 1; v <= 50; v++)
        histogram_add(&h, v);
    for (uint64_t v = 51; v <= 100; v++)
        histogram_add(&other, v);
    histogram_merge(&h, &other);
    cr_assert_eq(h.n, 100);
    cr_assert_eq(histogram_at(&h, 0), 1);
    cr_assert_eq(histogram_at(&h, 0.5), 50);
    cr_assert_eq(histogram_at(&h, 0.99), 99);
    cr_assert_eq(histogram_at(&h, 1), 100);
    cr_assert_eq(h.max, 100);
}

/* ---- pacing -------------------------------------------------------------------------------- */

Test(pace, what_a_stall_delayed_is_due_when_it_was_due) {
    struct pace p;
    uint64_t due = 0;
    pace_init(&p, 1000, 1e6, 10e-6); /* 10 messages, 1 us apart */
    cr_assert(pace_take(&p, 1000, &due));
    cr_assert_eq(due, 1000);
    cr_assert(!pace_take(&p, 1999, &due));
    cr_assert_eq(pace_next(&p), 2000);
    for (uint64_t k = 1; k < 10; k++) { /* after a stall: each with its own time */
        cr_assert(pace_take(&p, 1000000, &due));
        cr_assert_eq(due, 1000 + k * 1000);
    }
    cr_assert(!pace_take(&p, 1000000, &due));
    cr_assert_eq(pace_next(&p), UINT64_MAX);
}

Test(pace, does_not_drift) {
    struct pace p;
    uint64_t due = 0, n = 0;
    pace_init(&p, 0, 3000, 100); /* an interval that is no whole number of nanoseconds */
    while (pace_take(&p, UINT64_MAX - 1, &due))
        n++;
    cr_assert_eq(n, 300000);
    cr_assert_leq(100 * UINT64_C(1000000000) - due, 333334);
}

/* ---- stamps -------------------------------------------------------------------------------- */

Test(stamp, comes_back) {
    char payload[BENCH_STAMP_BYTES];
    uint64_t at = 0;
    uint32_t sequence = 0;
    bench_stamp(payload, UINT64_C(0x0123456789abcdef), 0xfedcba98);
    cr_assert(bench_stamp_read((ptn_bytes){(uint8_t *)payload, sizeof payload}, &at, &sequence));
    cr_assert_eq(at, UINT64_C(0x0123456789abcdef));
    cr_assert_eq(sequence, 0xfedcba98);
}

Test(stamp, anything_else_is_none) {
    char payload[BENCH_STAMP_BYTES];
    uint64_t at;
    uint32_t sequence;
    bench_stamp(payload, 1, 1);
    cr_assert(
        !bench_stamp_read((ptn_bytes){(uint8_t *)payload, sizeof payload - 1}, &at, &sequence));
    for (unsigned byte = 0; byte < 256; byte++) {
        bool digit = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f');
        for (size_t i = 0; i < sizeof payload; i += 23) {
            bench_stamp(payload, 1, 1);
            payload[i] = (char)byte;
            bool got =
                bench_stamp_read((ptn_bytes){(uint8_t *)payload, sizeof payload}, &at, &sequence);
            cr_assert_eq(got, digit, "byte %u at %zu", byte, i);
        }
    }
}

/* ---- options ------------------------------------------------------------------------------- */

/* Words of one command line; the reason, or NULL when it is accepted. */
static const char *refusal(const char *words, struct options *ret_o) {
    static char text[300], why[300];
    char *argv[20] = {(char *)(uintptr_t) "postern-bench"}, *rest = NULL;
    int argc = 1;
    (void)snprintf(text, sizeof text, "%s", words);
    for (char *w = strtok_r(text, " ", &rest); w != NULL && argc < 20;
         w = strtok_r(NULL, " ", &rest))
        argv[argc++] = w;
    return options_parse(argc, argv, ret_o, why, sizeof why) ? NULL : why;
}

Test(options, defaults_are_the_scenarios_then_those_of_all) {
    struct options o;
    cr_assert_null(refusal("flow --seconds 0.5 --topics=2", &o));
    cr_assert_str_eq(o.scenario->name, "flow");
    cr_assert_str_eq(o.driver->name, "postern-ws-json");
    cr_assert_eq(o.subscribers, 7);
    cr_assert_eq(o.topics, 2);
    cr_assert_eq(o.window, 1);
    cr_assert_eq(o.bytes, 128);
    cr_assert(is(o.seconds, 0.5));
    cr_assert(is(o.warmup, 0.3));
    cr_assert_null(refusal("get --rate 100 --warmup 0 --target http --address 127.0.0.1:1", &o));
    cr_assert_eq(o.window, 0, "an open loop has none");
    cr_assert(is(o.warmup, 0));
}

Test(options, what_makes_no_sense_is_refused_with_the_reason) {
    static const char *const wrong[][2] = {
        {"", "which scenario"},
        {"fly", "no scenario `fly`"},
        {"flow get", "one scenario"},
        {"flow --fast", "no option `--fast`"},
        {"flow --connections 3", "means nothing to flow"},
        {"flow --window", "wants a value"},
        {"flow --json=yes", "takes no value"},
        {"flow --window 0", "from 1 to"},
        {"flow --window 1.5", "whole number"},
        {"flow --window 7x", "whole number"},
        {"flow --window -3", "whole number"},
        {"flow --seconds nan", "number from"},
        {"flow --rate inf", "number from"},
        {"flow --bytes 23", "from 24"},
        {"flow --target telnet", "no target `telnet`"},
        {"flow --target http --address a", "cannot do flow"},
        {"get --target postern-ws-json", "cannot do get"},
        {"get --target http", "--address"},
        {"get --server-pid 3", "--server-pid"},
        {"get --rate 3 --window 2", "exclude each other"},
        {"flow --overload 2 --rate 3", "leave --rate out"},
        {"flow --topics 8", "more topics than subscribers"},
    };
    struct options o;
    for (size_t i = 0; i < PTN_ARRAY_LEN(wrong); i++) {
        const char *why = refusal(wrong[i][0], &o);
        cr_assert_not_null(why, "`%s` was accepted", wrong[i][0]);
        cr_assert_not_null(strstr(why, wrong[i][1]), "`%s`: %s", wrong[i][0], why);
        cr_assert_null(strchr(why, '\n'));
    }
}

Test(options, help_needs_nothing_else) {
    struct options o;
    cr_assert_null(refusal("--help", &o));
    cr_assert(o.help);
    cr_assert_null(refusal("flow --help", &o));
    cr_assert_str_eq(o.scenario->name, "flow");
}

/* ---- waiting ------------------------------------------------------------------------------- */

Test(load, waits_until_the_time_that_was_said) {
    struct epoll_event e;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    cr_assert_geq(epoll, 0);
    for (int due = 0; due < 2; due++) {
        uint64_t until = bench_now_ns() + 2 * LOAD_AWAKE_NS;
        for (unsigned n = 0; bench_now_ns() < until; n++) { /* the last of it awake */
            cr_assert_lt(n, 20u, "it returns again and again");
            cr_assert_eq(load_wait(epoll, &e, 1, until, due != 0), 0);
        }
    }
}

/* ---- report -------------------------------------------------------------------------------- */

static struct report *of_three_rounds(const struct options *o) {
    struct report *r = calloc(1, sizeof *r);
    static const double rates[] = {300, 100, 200.5};
    cr_assert_not_null(r);
    options_tell(o, r);
    for (size_t i = 0; i < PTN_ARRAY_LEN(rates); i++) {
        struct histogram *h = calloc(1, sizeof *h);
        cr_assert_not_null(h);
        histogram_add(h, 1000 * (i + 1));
        report_put(r, "rate", rates[i]);
        report_latency(r, h);
        free(h);
    }
    return r;
}

static char *printed(void (*print)(FILE *, const struct report *), const struct report *r) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    cr_assert_not_null(f);
    print(f, r);
    cr_assert_eq(fclose(f), 0);
    return text;
}

Test(report, shows_median_and_range) {
    struct options o;
    cr_assert_null(refusal("flow --rounds 3 --window 4", &o));
    struct report *r = of_three_rounds(&o);
    cr_assert(is(report_median(r, "rate"), 200.5));
    cr_assert(is(report_median(r, "nothing"), 0));
    cr_assert_eq(r->latency.n, 3);
    char *json = printed(report_json, r), *table = printed(report_table, r);
    cr_assert_not_null(strstr(json, "\"scenario\":\"flow\",\"target\":\"postern-ws-json\""));
    cr_assert_not_null(strstr(json, ",\"subscribers\":7,"));
    cr_assert_not_null(strstr(json, ",\"window\":4,"));
    cr_assert_not_null(strstr(json, ",\"rate\":200.5,"));
    cr_assert_not_null(strstr(json, ",\"p50_us\":2,"));
    cr_assert_not_null(strstr(json, "\"range\":{\"rate\":[100,300],"));
    cr_assert_not_null(strstr(json, "\"confidence\":0.7500,"));
    cr_assert_null(strstr(json, "limit"));
    cr_assert_null(strstr(json, "connections"), "flow has none");
    cr_assert_not_null(strstr(table, "(100 to 300)"));
    free(json);
    free(table);
    r->generator_limits = true;
    json = printed(report_json, r);
    cr_assert_not_null(strstr(json, "\"limit\":\"generator\""));
    free(json);
    free(r);
}

Test(report, says_how_sure_a_median_is) {
    static const struct {
        unsigned rounds;
        const char *confidence;
    } cases[] = {{1, "\"confidence\":0.0000,\"median_within\":{\"rate\":[1,1]}"},
                 {2, "\"confidence\":0.5000,\"median_within\":{\"rate\":[1,2]}"},
                 {5, "\"confidence\":0.9375,\"median_within\":{\"rate\":[1,5]}"},
                 {6, "\"confidence\":0.9688,\"median_within\":{\"rate\":[1,6]}"},
                 {9, "\"confidence\":0.9609,\"median_within\":{\"rate\":[2,8]}"},
                 {20, "\"confidence\":0.9586,\"median_within\":{\"rate\":[6,15]}"}};
    struct options o;
    cr_assert_null(refusal("flow --rounds 3", &o));
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++) {
        struct report *r = calloc(1, sizeof *r);
        cr_assert_not_null(r);
        options_tell(&o, r);
        for (unsigned k = cases[i].rounds; k > 0; k--)
            report_put(r, "rate", k);
        char *json = printed(report_json, r);
        cr_expect_not_null(strstr(json, cases[i].confidence), "%u rounds: %s", cases[i].rounds,
                           json);
        free(json);
        free(r);
    }
}
