/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - postern-actors: runs one program of the actor benchmarks and prints its figures.
 *
 * Usage: postern-actors [--rounds N] [--json] PROGRAM WORKERS SIZE WARM_UP [SPIN_US]
 * SIZE and WARM_UP are the n of basic.c and many.c, of the measured run and of the one before it;
 * the sizes that are published are in bench/actors/run.  SPIN_US: the longest that a worker waits
 * awake; 0: it does not; by default as in the broker.
 * Output, of the measured run: operations, nanoseconds, those of CPU time, resident bytes gained.
 * With --rounds or --json: medians and ranges of as many runs, as postern-bench prints them.  There
 * are no percentiles and no plot: a program has one time, that of all its operations.
 *
 * postern-actors line|wake SIZE is no program but a yardstick: see bare.c.  It prints the round
 * trips of a block and the nanoseconds of the fastest.
 */
#include "bench/actors/rig.h"
#include "bench/load/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SIZE_LIMIT 10000000u

struct job { /* the conductor's argument, and its result */
    const struct program *program;
    struct bench runs[2];
    uint64_t ns, cpu_ns;
    int64_t rss_bytes;
    bool done;
    /* at the start of the run */
    uint64_t t0, cpu0;
    int64_t rss0;
};

static int64_t rss_bytes(void) {
    long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%ld %ld", &total, &resident) != 2)
        resident = 0;
    if (f != NULL)
        (void)fclose(f);
    return (int64_t)resident * sysconf(_SC_PAGESIZE);
}

int seat_init(ptn_ctx *c, void *state, void *arg) {
    (void)c;
    *(const struct seat **)state = arg;
    return 0;
}

int spawn_peers(ptn_ctx *c, struct bench *b, const ptn_actor_ops *ops, unsigned n,
                enum placement where, unsigned total, uint32_t mbox_max) {
    for (unsigned end = b->n_peers + n; b->n_peers < end; b->n_peers++) {
        unsigned i = b->n_peers;
        unsigned worker = where == DEALT ? i % b->workers : i * b->workers / total;
        const ptn_actor_opts o = {.worker = (int)worker, .mbox_msgs_max = mbox_max};
        b->seats[i] = (struct seat){b, i};
        int err = ptn_spawn(c, ops, &o, &b->seats[i], &b->peers[i]);
        if (err < 0)
            return err;
    }
    return 0;
}

int report(ptn_ctx *c, const struct bench *b, uint64_t value) {
    ptn_buf *v = ptn_buf_copy(&value, sizeof(value));
    if (v == NULL)
        return -PTN_ENOMEM;
    int err = ptn_cast(c, b->conductor, MSG_REPORT, v);
    if (err < 0)
        ptn_buf_unref(v);
    return err;
}

/* ---- the conductor ----------------------------------------------------------------------------
 */

struct conductor_state {
    struct job *job;
    unsigned run, reports;
    uint64_t sum;
};

static int run_start(ptn_ctx *c, struct conductor_state *s) {
    struct bench *b = &s->job->runs[s->run];
    b->conductor = ptn_self(c);
    s->reports = 0;
    s->sum = 0;
    int err = s->job->program->start(c, b);
    s->job->rss0 = rss_bytes();
    s->job->cpu0 = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    s->job->t0 = clock_ns(CLOCK_MONOTONIC);
    for (unsigned i = 0; err == 0 && i < b->starters; i++)
        err = ptn_cast(c, b->peers[b->starter_first + i], MSG_START, NULL);
    return err;
}

static int conductor_init(ptn_ctx *c, void *state, void *arg) {
    ((struct conductor_state *)state)->job = arg;
    return ptn_cast(c, ptn_self(c), MSG_START, NULL);
}

static int conductor_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct conductor_state *s = state;
    struct job *job = s->job;
    uint64_t value;
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    if (m->type == MSG_START)
        return run_start(c, s);
    if (m->type != MSG_REPORT)
        return 0;
    PTN_REQUIRE(c, m->len == sizeof(value));
    memcpy(&value, m->data, sizeof(value));
    s->sum += value;
    if (++s->reports < job->runs[s->run].reports)
        return 0;
    job->ns = clock_ns(CLOCK_MONOTONIC) - job->t0;
    job->cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - job->cpu0;
    job->rss_bytes = rss_bytes() - job->rss0;
    PTN_REQUIRE(c, s->sum == job->runs[s->run].sum);
    if (++s->run < PTN_ARRAY_LEN(job->runs))
        return run_start(c, s);
    job->done = true;
    ptn_runtime_stop(ptn_ctx_runtime(c));
    return 0;
}

static const ptn_actor_ops conductor_ops = {.name = "conductor",
                                            .state_size = sizeof(struct conductor_state),
                                            .init = conductor_init,
                                            .handle = conductor_handle};

/* A failed actor of a program would leave the others waiting. */
static void on_trace(const ptn_trace_event *e, void *arg) {
    (void)arg;
    if (e->kind != PTN_TRACE_CRASH)
        return;
    (void)fprintf(stderr, "postern-actors: %s failed: %s %s\n", e->actor, ptn_err_name(e->reason),
                  e->text == NULL ? "" : e->text);
    _exit(1);
}

/* ---- command line -----------------------------------------------------------------------------
 */

static const struct program *program_find(const char *name) {
    for (size_t i = 0; i < n_programs_basic; i++) {
        if (strcmp(programs_basic[i].name, name) == 0)
            return &programs_basic[i];
    }
    for (size_t i = 0; i < n_programs_many; i++) {
        if (strcmp(programs_many[i].name, name) == 0)
            return &programs_many[i];
    }
    return NULL;
}

static bool parse(const char *text, uint64_t min, uint64_t max, uint64_t *ret_n) {
    char *end;
    uint64_t n = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || n < min || n > max)
        return false;
    *ret_n = n;
    return true;
}

/* Both runs of a program in a runtime of their own; false: it said why. */
static bool run(struct job *job, const ptn_runtime_opts *o) {
    ptn_runtime *rt;
    if (ptn_runtime_new(o, &rt) < 0)
        return false;
    ptn_runtime_on_trace(rt, on_trace, NULL);
    const ptn_actor_opts at = {.worker = 0};
    int err = ptn_runtime_spawn(rt, &conductor_ops, &at, job, PTN_TEMPORARY, &(ptn_addr){0});
    err = err < 0 ? err : ptn_runtime_run(rt);
    ptn_runtime_free(rt);
    if (err < 0 || !job->done)
        (void)fprintf(stderr, "postern-actors: %s did not finish\n", job->program->name);
    return err >= 0 && job->done;
}

static int yardstick(const char *name, const char *size) {
    bool sleeps = strcmp(name, "wake") == 0;
    uint64_t n, least_ns, all_ns;
    if (!sleeps && strcmp(name, "line") != 0)
        return -1;
    if (!parse(size, 2 * BARE_BLOCK, SIZE_LIMIT, &n) || !bare_run(sleeps, n, &least_ns, &all_ns)) {
        (void)fputs("postern-actors: a yardstick needs a size and two cores\n", stderr);
        return 1;
    }
    (void)printf("%llu %llu %llu %llu\n", (unsigned long long)BARE_BLOCK,
                 (unsigned long long)least_ns, (unsigned long long)n, (unsigned long long)all_ns);
    return 0;
}

struct words { /* the command line */
    const struct program *program;
    uint64_t workers, size, warm_up, spin_us;
    bool spins; /* SPIN_US was given */
    uint64_t rounds;
    bool json, report;
};

static bool parse_words(int argc, char **argv, struct words *w) {
    int i = 1;
    *w = (struct words){.rounds = 1};
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--json") == 0)
            w->json = true;
        else if (strcmp(argv[i], "--rounds") != 0 || ++i == argc ||
                 !parse(argv[i], 1, ROUNDS_MAX, &w->rounds))
            return false;
        w->report = true;
    }
    argc -= i;
    argv += i;
    w->spins = argc == 5;
    w->program = argc < 4 || argc > 5 ? NULL : program_find(argv[0]);
    return w->program != NULL && parse(argv[1], 1, PTN_WORKERS_MAX, &w->workers) &&
           parse(argv[2], 1, SIZE_LIMIT, &w->size) && parse(argv[3], 1, SIZE_LIMIT, &w->warm_up) &&
           (!w->spins || parse(argv[4], 0, 1000000, &w->spin_us));
}

static void tell(struct report *p, const struct words *w) {
    p->scenario = "actors";
    p->target = w->program->name;
    p->rounds = (unsigned)w->rounds;
    report_parameter(p, "workers", (double)w->workers);
    report_parameter(p, "size", (double)w->size);
    report_parameter(p, "warm_up", (double)w->warm_up);
}

static void put(struct report *p, const struct job *job) {
    const double ops = (double)job->runs[1].ops;
    report_put(p, "operations", ops);
    report_put(p, "seconds", (double)job->ns / 1e9);
    report_put(p, "rate", ops * 1e9 / (double)job->ns);
    report_put(p, "ns_per_op", (double)job->ns / ops);
    report_put(p, "cpu_ns_per_op", (double)job->cpu_ns / ops);
    report_put(p, "rss_grown_bytes", (double)job->rss_bytes);
}

int main(int argc, char **argv) {
    static struct report figures;
    struct words w;
    int rc = argc == 3 ? yardstick(argv[1], argv[2]) : -1;
    if (rc >= 0)
        return rc;
    if (!parse_words(argc, argv, &w)) {
        (void)fputs("usage: postern-actors [--rounds N] [--json] PROGRAM WORKERS SIZE WARM_UP "
                    "[SPIN_US], or line|wake SIZE\n"
                    "       ./dev bench actors runs all programs, beside other runtimes\n",
                    stderr);
        return 2;
    }
    const ptn_runtime_opts o = {.workers = (unsigned)w.workers,
                                .spin_ns =
                                    w.spins && w.spin_us == 0 ? PTN_NEVER : w.spin_us * 1000};
    tell(&figures, &w);
    for (uint64_t i = 0; i < w.rounds; i++) {
        struct job job = {
            .program = w.program,
            .runs = {{.workers = o.workers, .n = w.warm_up}, {.workers = o.workers, .n = w.size}}};
        if (!run(&job, &o))
            return 1;
        put(&figures, &job);
        if (!w.report)
            (void)printf("%llu %llu %llu %lld\n", (unsigned long long)job.runs[1].ops,
                         (unsigned long long)job.ns, (unsigned long long)job.cpu_ns,
                         (long long)job.rss_bytes);
    }
    if (w.report)
        (w.json ? report_json : report_table)(stdout, &figures);
    return 0;
}
