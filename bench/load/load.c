/* SPDX-License-Identifier: Apache-2.0
 *
 * load.c - what all scenarios share: signals, waiting until a message is due, meters of both ends.
 */
#include "bench/load/load.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LAG_MAX_NS 1000000u /* an open loop that is later than this has not kept the rate */
#define PROGRESS_NS 200000000u

static volatile sig_atomic_t interrupted;
static uint64_t awake_ns; /* CPU time of waiting awake */

static void on_interrupt(int signal) {
    interrupted = signal;
}

void load_init(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sigaction interrupt = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    (void)sigaction(SIGINT, &interrupt, NULL); /* so that the broker is stopped */
    (void)sigaction(SIGTERM, &interrupt, NULL);
    (void)prctl(PR_SET_TIMERSLACK, 1); /* an open loop wakes when it should, not 50 us later */
}

/* ---- waiting ------------------------------------------------------------------------------- */

static int sleep_until(int epoll, struct epoll_event *events, int max, uint64_t until_ns) {
    uint64_t now = bench_now_ns(), left = until_ns > now ? until_ns - now : 0;
    struct timespec t = {.tv_sec = (time_t)(left / 1000000000u),
                         .tv_nsec = (long)(left % 1000000000u)};
    int n = epoll_pwait2(epoll, events, max, &t, NULL);
    if (n < 0 &&
        errno == ENOSYS) /* before Linux 5.11: a round down to milliseconds spins the rest */
        n = epoll_wait(epoll, events, max, (int)(left / 1000000u));
    if (interrupted != 0)
        bench_die("interrupted");
    if (n < 0 && errno != EINTR)
        bench_die("epoll: %s", strerror(errno));
    return n < 0 ? 0 : n;
}

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int load_wait(int epoll, struct epoll_event *events, int max, uint64_t until_ns, bool due) {
    uint64_t now = bench_now_ns();
    if (!due || until_ns <= now || until_ns == UINT64_MAX)
        return sleep_until(epoll, events, max, until_ns);
    if (until_ns - now > LOAD_AWAKE_NS)
        return sleep_until(epoll, events, max, until_ns - LOAD_AWAKE_NS);
    int n = sleep_until(epoll, events, max, 0);
    if (n > 0)
        return n;
    uint64_t begin = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    while (n == 0 && bench_now_ns() < until_ns)
        n = sleep_until(epoll, events, max, 0);
    awake_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin;
    return n;
}

void load_progress(const char *scenario, const char *target, const char *what, uint64_t n) {
    static int terminal = -1;
    static uint64_t last_ns;
    if (terminal < 0)
        terminal = isatty(2);
    if (!terminal)
        return;
    uint64_t now = bench_now_ns();
    if (now - last_ns < PROGRESS_NS)
        return;
    last_ns = now;
    fprintf(stderr, "\r\033[K%s, %s: %s, %llu so far", scenario, target, what,
            (unsigned long long)n);
}

void load_progress_end(void) {
    if (isatty(2))
        fputs("\r\033[K", stderr);
}

/* ---- meters -------------------------------------------------------------------------------- */

/* Of ourselves.  Run time by the clock: schedstat has it as of the last tick. */
static void read_client(uint64_t *ret_run_ns, uint64_t *ret_wait_ns) {
    static struct bench_thread threads[BENCH_THREADS_MAX];
    *ret_run_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    *ret_wait_ns = 0;
    for (unsigned n = bench_threads(getpid(), threads); n > 0; n--)
        *ret_wait_ns += threads[n - 1].wait_ns;
}

void meter_begin(struct meter *m, pid_t server) {
    m->server = server;
    m->rss_bytes = server != 0 ? bench_rss_bytes(server) : 0;
    m->n_threads = server != 0 ? bench_threads(server, m->threads) : 0;
    m->stolen_ns = bench_stolen_ns();
    m->awake_ns = awake_ns;
    read_client(&m->client_run_ns, &m->client_wait_ns);
    m->begin_ns = bench_now_ns();
}

static void put_server(const struct meter *m, struct report *p, uint64_t ops, double ns) {
    static struct bench_thread now[BENCH_THREADS_MAX];
    unsigned n = bench_threads(m->server, now);
    double used = 0, busiest = 0, waited = 0, rss = (double)bench_rss_bytes(m->server);
    if (n == 0)
        bench_die("the server (process %d) has ended", (int)m->server);
    for (unsigned i = 0; i < n; i++) {
        struct bench_thread t = now[i];
        for (unsigned k = 0; k < m->n_threads; k++)
            if (m->threads[k].tid == t.tid) {
                t.run_ns -= m->threads[k].run_ns;
                t.wait_ns -= m->threads[k].wait_ns;
            }
        used += (double)t.run_ns;
        waited += (double)t.wait_ns;
        busiest = (double)t.run_ns > busiest ? (double)t.run_ns : busiest;
    }
    if (ops > 0)
        report_put(p, "cpu_us_per_op", used / 1000 / (double)ops);
    report_put(p, "server_cpu", used / ns);
    report_put(p, "server_busiest_cpu", busiest / ns);
    report_put(p, "server_wait", waited / ns);
    report_put(p, "server_rss_bytes", rss);
    report_put(p, "server_rss_grown_bytes", rss - (double)m->rss_bytes);
}

void meter_end(struct meter *m, struct report *p, const char *op, uint64_t ops,
               const struct histogram *latency, const struct histogram *lag) {
    uint64_t run_ns, wait_ns;
    double ns = (double)(bench_now_ns() - m->begin_ns);
    read_client(&run_ns, &wait_ns);
    double awake = (double)(awake_ns - m->awake_ns);
    double client = ((double)(run_ns - m->client_run_ns) - awake) / ns;
    report_put(p, op, (double)ops);
    report_put(p, "seconds", ns / 1e9);
    report_put(p, "rate", (double)ops / (ns / 1e9));
    if (m->server != 0)
        put_server(m, p, ops, ns);
    report_put(p, "client_cpu", client);
    report_put(p, "client_wait", (double)(wait_ns - m->client_wait_ns) / ns);
    report_put(p, "stolen_cpu", (double)(bench_stolen_ns() - m->stolen_ns) / ns);
    report_latency(p, latency);
    if (lag->n > 0)
        report_put(p, "lag_p99_us", (double)histogram_at(lag, 0.99) / 1000);
    p->generator_limits |= client > 0.9 || histogram_at(lag, 0.99) > LAG_MAX_NS;
}
