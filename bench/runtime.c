/* SPDX-License-Identifier: Apache-2.0
 *
 * runtime.c - postern-runtime: what a message between actors costs, on the production environment.
 *
 * Each figure is the median of five runs, in nanoseconds per message, with the mailbox bounds on,
 * deadlines and statistics included.  Cross-worker figures depend on the machine's idle exits and
 * cache transfers; same-worker ones do not.  The shapes follow Savina's counting, ping-pong, thread
 * ring and fan-in programs.
 *
 * Usage: postern-runtime [--json] [--quick] [--only TEXT]   (rows whose name contains TEXT)
 */
#include <postern/runtime.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RUNS 5
#define BURST 64u
#define SENDERS 16u
#define RING 100u

enum { MSG_GO = PTN_MSG_USER, MSG_DATA };

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* One run.  Every actor's argument points into it. */
struct run {
    uint64_t want; /* messages to count */
    uint64_t t0, t1;
    uint64_t got; /* written by the one actor that counts */
    ptn_addr peers[RING];
    unsigned n_peers;
    size_t payload_bytes;
};

struct node {
    struct run *run;
    unsigned index;
    uint64_t sent;
};

struct node_arg {
    struct run *run;
    unsigned index;
};

static int node_init(ptn_ctx *c, void *state, void *arg) {
    const struct node_arg *a = arg;
    struct node *n = state;
    n->run = a->run;
    n->index = a->index;
    if (a->index != 0)
        return 0;
    /* The first actor starts the clock, once all the others are there. */
    return ptn_cast(c, ptn_self(c), MSG_GO, NULL);
}

static int system_message(ptn_ctx *c, const ptn_msg *m) {
    if (m->type == PTN_MSG_STOPPING)
        ptn_exit(c, 0);
    return 0;
}

static void count_one(ptn_ctx *c, struct run *r) {
    if (++r->got == r->want) {
        r->t1 = now_ns();
        ptn_runtime_stop(ptn_ctx_runtime(c));
    }
}

static ptn_buf *payload_of(const struct run *r) {
    static const char zeros[4096];
    return r->payload_bytes == 0 ? NULL : ptn_buf_copy(zeros, r->payload_bytes);
}

/* ---- counting: senders to one sink; actor 0 is the sink ---------------------------------------
 */

/* A sender sends a burst and waits for the sink's credit, so the figure is the cost of delivery and
 * not that of refused messages. */
static int send_burst(ptn_ctx *c, struct node *n) {
    struct run *r = n->run;
    for (unsigned i = 0; i < BURST; i++) {
        ptn_buf *b = payload_of(r);
        int err = ptn_cast(c, r->peers[0], MSG_DATA, b);
        if (err < 0) {
            ptn_buf_unref(b);
            return err;
        }
    }
    return 0;
}

static int count_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct node *n = state;
    struct run *r = n->run;
    if (m->type == MSG_DATA) {
        count_one(c, r);
        if (++n->sent % BURST == 0) /* one credit per burst: what is outstanding stays constant */
            return ptn_cast(c, m->from, MSG_GO, NULL);
        return 0;
    }
    if (m->type != MSG_GO)
        return system_message(c, m);
    if (n->index != 0)
        return send_burst(c, n);
    r->t0 = now_ns();
    for (unsigned i = 1; i < r->n_peers; i++)
        (void)ptn_cast(c, r->peers[i], MSG_GO, NULL);
    return 0;
}

/* ---- ring: one token goes round; two actors are a ping-pong -----------------------------------
 */

static int ring_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct node *n = state;
    struct run *r = n->run;
    if (m->type < PTN_MSG_USER)
        return system_message(c, m);
    if (m->type == MSG_GO)
        r->t0 = now_ns();
    else if (++r->got >= r->want) {
        r->t1 = now_ns();
        ptn_runtime_stop(ptn_ctx_runtime(c));
        return 0;
    }
    return ptn_cast(c, r->peers[(n->index + 1) % r->n_peers], MSG_DATA, NULL);
}

/* ---- ask: a round trip at a time ---------------------------------------------------------- */

static int ask_next(ptn_ctx *c, struct run *r);

static void ask_answered(ptn_ctx *c, void *state, int err, const ptn_msg *m, void *arg) {
    struct run *r = arg;
    (void)state;
    (void)m;
    count_one(c, r);
    if (err == 0 && r->got < r->want)
        (void)ask_next(c, r);
}

static int ask_next(ptn_ctx *c, struct run *r) {
    return ptn_ask(c, r->peers[1], MSG_DATA, NULL, ptn_now(c) + PTN_SEC, ask_answered, r, NULL);
}

static int ask_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    struct run *r = ((struct node *)state)->run;
    if (m->type < PTN_MSG_USER)
        return system_message(c, m);
    if (m->type == MSG_GO) {
        r->t0 = now_ns();
        return ask_next(c, r);
    }
    return ptn_reply(c, (ptn_reply_to){.to = m->from, .corr = m->corr}, MSG_DATA, NULL);
}

/* ---- scenarios ---------------------------------------------------------------------------- */

struct scenario {
    const char *name;
    int (*handle)(ptn_ctx *c, void *state, const ptn_msg *m);
    unsigned actors, workers;
    uint64_t messages;
    size_t payload_bytes;
    uint64_t spin_ns;
};

static const struct scenario scenarios[] = {
    {"cast, same worker", count_handle, 2, 1, 4000000, 0, 0},
    {"cast, same worker, 128 B payload", count_handle, 2, 1, 4000000, 128, 0},
    {"16 senders to one mailbox, 1 worker", count_handle, 1 + SENDERS, 1, 4000000, 0, 0},
    {"16 senders to one mailbox, 2 workers", count_handle, 1 + SENDERS, 2, 4000000, 0, 0},
    {"ring of 100, 1 worker", ring_handle, RING, 1, 2000000, 0, 0},
    {"ring of 100, 2 workers, in blocks", ring_handle, RING, 2, 500000, 0, 0},
    {"ping-pong, 1 worker", ring_handle, 2, 1, 2000000, 0, 0},
    {"ping-pong, 2 workers, sleeping", ring_handle, 2, 2, 20000, 0, PTN_NEVER},
    {"ping-pong, 2 workers", ring_handle, 2, 2, 100000, 0, 0},
    {"ask round trip, 1 worker", ask_handle, 2, 1, 1000000, 0, 0},
};

/* Nanoseconds per message; negative: it failed. */
static double run_once(const struct scenario *s, unsigned shrink) {
    struct run r = {.want = s->messages / shrink / SENDERS * SENDERS,
                    .n_peers = s->actors,
                    .payload_bytes = s->payload_bytes};
    struct node_arg args[RING];
    const ptn_actor_ops ops = {
        .name = "bench", .state_size = sizeof(struct node), .init = node_init, .handle = s->handle};
    const ptn_runtime_opts o = {.workers = s->workers, .spin_ns = s->spin_ns};
    ptn_runtime *rt;
    if (ptn_runtime_new(&o, &rt) < 0)
        return -1;
    for (unsigned i = 0; i < s->actors; i++) {
        args[i] = (struct node_arg){&r, i};
        const ptn_actor_opts at = {.worker = (int)(i * s->workers / s->actors),
                                   .mbox_msgs_max = 4096};
        if (ptn_runtime_spawn(rt, &ops, &at, &args[i], PTN_TEMPORARY, &r.peers[i]) < 0)
            r.want = 0;
    }
    int err = r.want > 0 ? ptn_runtime_run(rt) : -1;
    ptn_runtime_free(rt);
    return err < 0 || r.got < r.want ? -1 : (double)(r.t1 - r.t0) / (double)r.want;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void cpu_model(char *ret_text, size_t n) {
    (void)snprintf(ret_text, n, "unknown CPU");
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            (void)snprintf(ret_text, n, "%.*s", (int)strcspn(colon + 2, "\"\\\n"), colon + 2);
            break;
        }
    }
    if (f != NULL)
        (void)fclose(f);
}

static bool report(const struct scenario *s, bool json, bool last, unsigned shrink) {
    double ns[RUNS];
    for (unsigned i = 0; i < RUNS; i++) {
        ns[i] = run_once(s, shrink);
        if (ns[i] < 0) {
            (void)fprintf(stderr, "postern-runtime: \"%s\" failed\n", s->name);
            return false;
        }
    }
    qsort(ns, RUNS, sizeof(ns[0]), by_value);
    if (json)
        (void)printf(
            "    {\"name\": \"%s\", \"workers\": %u, \"messages\": %llu, \"ns_median\": %.1f, "
            "\"ns_min\": %.1f, \"ns_max\": %.1f}%s\n",
            s->name, s->workers, (unsigned long long)(s->messages / shrink), ns[RUNS / 2], ns[0],
            ns[RUNS - 1], last ? "" : ",");
    else
        (void)printf("%-40s %10.1f %10.1f %10.1f\n", s->name, ns[RUNS / 2], ns[0], ns[RUNS - 1]);
    (void)fflush(stdout);
    return true;
}

int main(int argc, char **argv) {
    bool json = false;
    unsigned shrink = 1;
    const char *only = "";
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--quick") == 0) {
            shrink = 20;
        } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
            only = argv[++i];
        } else {
            (void)fprintf(stderr, "usage: postern-runtime [--json] [--quick] [--only TEXT]\n");
            return 2;
        }
    }
    char cpu[128];
    cpu_model(cpu, sizeof(cpu));
    if (json)
        (void)printf("{\n  \"cpu\": \"%s\",\n  \"runs\": %d,\n  \"results\": [\n", cpu, RUNS);
    else
        (void)printf("%s; ns per message, %d runs\n%-40s %10s %10s %10s\n", cpu, RUNS, "", "median",
                     "min", "max");
    bool ok = true;
    size_t n = PTN_ARRAY_LEN(scenarios);
    for (size_t i = 0; ok && i < n; i++) {
        if (strstr(scenarios[i].name, only) != NULL)
            ok = report(&scenarios[i], json, i + 1 == n, shrink);
    }
    if (json)
        (void)printf("  ]\n}\n");
    return ok ? 0 : 1;
}
