/* SPDX-License-Identifier: Apache-2.0
 *
 * watchdog_test.c - handlers that do not return, and processes that end badly: each in a process of
 * its own, on the real environment, with the record that it leaves.
 */
#include <postern/runtime.h>

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOW_NS (40 * PTN_MS)
#define STUCK_NS (200 * PTN_MS)
#define SECRET "correct horse battery staple"

enum { MSG_POKE = PTN_MSG_USER + 5 };

static ptn_time cpu_ns(clockid_t id) {
    struct timespec t;
    (void)clock_gettime(id, &t);
    return (ptn_time)t.tv_sec * PTN_SEC + (ptn_time)t.tv_nsec;
}

/* ---- handlers that should not be ------------------------------------------------------------- */

static void burn(ptn_time ns) {
    for (ptn_time t0 = cpu_ns(CLOCK_THREAD_CPUTIME_ID); cpu_ns(CLOCK_THREAD_CPUTIME_ID) - t0 < ns;)
        continue;
}

static void hang(void) {
    burn(60 * PTN_SEC);
}

static void slow(void) {
    burn(3 * SLOW_NS);
}

static void block(void) {
    const struct timespec t = {.tv_nsec = (long)(12 * SLOW_NS)};
    (void)nanosleep(&t, NULL);
}

static void wait_for_ever(void) {
    for (;;)
        (void)pause();
}

static int *volatile nowhere = (int *)(uintptr_t)0x10;

static void fault(void) {
    *nowhere = 1;
}

static void assertion(void) {
    PTN_ASSERT(nowhere == NULL);
}

#pragma GCC diagnostic push
#ifdef __clang__
#pragma GCC diagnostic ignored "-Winfinite-recursion"
#elif __GNUC__ >= 12
#pragma GCC diagnostic ignored "-Winfinite-recursion"
#endif
__attribute__((noinline)) static int deeper(volatile int *above) {
    volatile int frame[512];
    frame[0] = above != NULL ? *above + 1 : 0;
    return deeper(frame) + frame[0];
}
#pragma GCC diagnostic pop

static void overflow(void) {
    (void)deeper(NULL);
}

static void nothing(void) {
}

/* ---- the process ---------------------------------------------------------------------------- */

static void (*deed)(void);

static int victim_handle(ptn_ctx *c, void *state, const ptn_msg *m) {
    (void)state;
    if (m->type == MSG_POKE) {
        deed();
        ptn_runtime_stop(ptn_ctx_runtime(c));
    } else if (m->type == PTN_MSG_STOPPING) {
        ptn_exit(c, 0);
    }
    return 0;
}
static const ptn_actor_ops victim_ops = {.name = "victim", .handle = victim_handle};

static int poker_init(ptn_ctx *c, void *state, void *arg) {
    (void)state;
    static bool failed;
    if (!failed) { /* something for the events */
        failed = true;
        return -PTN_EIO;
    }
    return ptn_cast(c, *(const ptn_addr *)arg, MSG_POKE, ptn_buf_copy(SECRET, sizeof SECRET));
}
static const ptn_actor_ops poker_ops = {
    .name = "poker", .init = poker_init, .handle = victim_handle};

static unsigned slows, blocks;
static atomic_bool victim_told; /* BLOCKED with actor, kind and stack */
static char slow_stack[64];
static uint32_t slow_type;

/* In a signal handler for SLOW, and for BLOCKED with an actor. */
static void on_trace(const ptn_trace_event *e, void *arg) {
    (void)arg;
    slows += e->kind == PTN_TRACE_SLOW;
    blocks += e->kind == PTN_TRACE_BLOCKED;
    if (e->kind == PTN_TRACE_BLOCKED && strcmp(e->actor, "victim") == 0 && e->wait_ns >= STUCK_NS &&
        e->msg_type == MSG_POKE && strstr(e->text, "0x") != NULL)
        atomic_store(&victim_told, true);
    if (e->kind == PTN_TRACE_SLOW) {
        slow_type = e->msg_type;
        for (size_t i = 0; i + 1 < sizeof slow_stack && e->text[i] != '\0'; i++)
            slow_stack[i] = e->text[i];
    }
}

static const char *msg_name(uint32_t type) {
    return type == MSG_POKE ? "test.poke" : "other";
}

/* The exit code tells what the trace has heard: 10 * slow + blocked. */
static int live(const char *path) {
    const ptn_crash_opts crash = {.path = path, .version = "1.2.3 (test)", .msg_name = msg_name};
    const ptn_runtime_opts o = {.workers = 2, .slow_ns = SLOW_NS, .stuck_ns = STUCK_NS};
    const ptn_actor_opts on[2] = {{.worker = 0}, {.worker = 1}};
    ptn_runtime *rt;
    ptn_addr victim, poker;
    if (ptn_crash_install(&crash) < 0 || ptn_runtime_new(&o, &rt) < 0)
        return 99;
    ptn_runtime_on_trace(rt, on_trace, NULL);
    if (ptn_runtime_spawn(rt, &victim_ops, &on[1], NULL, PTN_PERMANENT, &victim) < 0 ||
        ptn_runtime_spawn(rt, &poker_ops, &on[0], &victim, PTN_PERMANENT, &poker) < 0 ||
        ptn_runtime_run(rt) < 0)
        return 98;
    ptn_worker_stats st;
    ptn_worker_stats_read(rt, 1, &st);
    bool told = slows == st.slow_handlers &&
                (slows == 0 || (slow_type == MSG_POKE && strstr(slow_stack, "+0x") != NULL));
    ptn_runtime_free(rt);
    return told ? (int)(10 * slows + blocks) : 97;
}

static char record[65536];

/* Its wait status; fills `record`, empty when there is none. */
static int run(void (*what)(void), int (*main)(const char *path)) {
    char dir[] = "/tmp/ptn-crash-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/record", dir);
    deed = what;
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        const struct rlimit none = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &none);
        int null = open("/dev/null", O_WRONLY);
        (void)dup2(null, STDERR_FILENO);
        _exit(main(path));
    }
    int status = -1;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    memset(record, 0, sizeof record);
    FILE *f = fopen(path, "r");
    if (f != NULL) {
        struct stat st;
        cr_expect_eq(fstat(fileno(f), &st), 0);
        cr_expect_eq(st.st_mode & 0777, 0600);
        (void)!fread(record, 1, sizeof record - 1, f);
        (void)fclose(f);
    }
    (void)unlink(path);
    (void)rmdir(dir);
    return status;
}

static void expect_line(const char *text) {
    cr_expect_not_null(strstr(record, text), "no \"%s\" in:\n%s", text, record);
}

/* A sanitizer that was there before takes the signal after us, and exits. */
static void expect_death(int status, int sig) {
#ifdef PTN_SANITIZE
    bool dead = WIFSIGNALED(status) || WEXITSTATUS(status) == 66;
#else
    bool dead = WIFSIGNALED(status) && WTERMSIG(status) == sig;
#endif
    cr_expect(dead, "status %x, not signal %d", (unsigned)status, sig);
    expect_line("postern crash record\nversion: 1.2.3 (test)\nbuild: ");
    expect_line("end of record\n");
    expect_line("  restarted actor poker ");
    cr_expect_null(strstr(record, SECRET), "a record holds no payload");
}

static unsigned stack_lines(void) {
    const char *p = strstr(record, "stack:\n");
    unsigned n = 0;
    for (p = p != NULL ? strchr(p, '\n') : NULL; p != NULL && strncmp(p, "\n  ", 3) == 0;
         p = strchr(p + 1, '\n'))
        n++;
    return n;
}

static const char in_victim[] = "thread: ptn-w1: worker 1, actor victim 0x100000000000001, message "
                                "69 test.poke\nstack:\n  ";

Test(watchdog, a_fault_in_a_handler_is_recorded) {
    expect_death(run(fault, live), SIGSEGV);
    expect_line("why: SIGSEGV, address 0x10, code 1\n");
    expect_line(in_victim);
    expect_line("\n  ptn-w0: worker 0, ");
    cr_expect_gt(stack_lines(), 3, "%s", record);
}

Test(watchdog, a_stack_overflow_is_recorded) {
    expect_death(run(overflow, live), SIGSEGV);
    expect_line("why: SIGSEGV, address 0x");
    expect_line(in_victim);
}

Test(watchdog, a_failed_assertion_is_recorded) {
    expect_death(run(assertion, live), SIGABRT);
    expect_line("why: SIGABRT, nowhere == NULL, watchdog_test.c:");
    expect_line(in_victim);
}

Test(watchdog, a_handler_that_does_not_return_ends_the_process) {
    expect_death(run(hang, live), SIGABRT);
    expect_line("why: SIGABRT, a handler did not return: 2");
    expect_line("thread: ptn-w1: worker 1, actor victim 0x100000000000001, message 69 test.poke\n");
    expect_line("\n  ptn-w0: worker 0, ");
    expect_line("  slow handler actor victim ");
}

Test(watchdog, a_slow_handler_is_reported_once) {
    int status = run(slow, live);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 10, "%x\n%s", (unsigned)status, record);
    cr_expect_eq(record[0], 0);
}

/* Longer than stuck_ns, but asleep: the wall's clock only reports. */
Test(watchdog, a_blocked_handler_is_reported_and_survives) {
    int status = run(block, live);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 1, "%x\n%s", (unsigned)status, record);
    cr_expect_eq(record[0], 0);
}

Test(watchdog, a_handler_that_returns_is_left_alone) {
    int status = run(nothing, live);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x\n%s", (unsigned)status, record);
}

/* ---- a worker that does not come back ---------------------------------------------------------
 */

enum how { ASK, TICK, SLEEP };

struct looker {
    ptn_timer timer;
    enum how how;
    unsigned rounds;
};

/* The exit code: 1 when it says stuck, 2 when the victim has told, 4 when that was counted once. */
static void looker_end(ptn_runtime *rt, bool stuck) {
    ptn_worker_stats st;
    ptn_worker_stats_read(rt, 1, &st);
    _exit(stuck | atomic_load(&victim_told) << 1 | (int)(st.blocked_turns == 1) << 2);
}

/* ASK looks, again and again; TICK only works, and looks in the end; SLEEP looks for a while. */
static void looker_look(ptn_ctx *c, void *state, ptn_timer *t, void *arg) {
    (void)arg;
    struct looker *k = state;
    ptn_runtime *rt = ptn_ctx_runtime(c);
    bool stuck = k->how != TICK && ptn_worker_stuck(rt, 1) > 0;
    if (k->how == TICK)
        burn(5 * PTN_MS);
    if (atomic_load(&victim_told) || (k->how == SLEEP && ++k->rounds * 10 * PTN_MS > 2 * STUCK_NS))
        looker_end(rt, stuck || ptn_worker_stuck(rt, 1) > 0);
    ptn_timer_start(c, t, 10 * PTN_MS, looker_look, NULL);
}

static int looker_init(ptn_ctx *c, void *state, void *arg) {
    struct looker *k = state;
    k->how = *(const enum how *)arg;
    ptn_timer_start(c, &k->timer, 0, looker_look, NULL);
    return 0;
}
static const ptn_actor_ops looker_ops = {.name = "looker",
                                         .state_size = sizeof(struct looker),
                                         .init = looker_init,
                                         .handle = victim_handle};

static int live_looked_at(enum how how) {
    const ptn_runtime_opts o = {.workers = 2, .slow_ns = SLOW_NS, .stuck_ns = STUCK_NS};
    const ptn_actor_opts on[2] = {{.worker = 0}, {.worker = 1}};
    ptn_runtime *rt;
    ptn_addr a;
    (void)alarm(30);
    if (ptn_runtime_new(&o, &rt) < 0)
        return 99;
    ptn_runtime_on_trace(rt, on_trace, NULL);
    if (ptn_runtime_spawn(rt, &victim_ops, &on[1], NULL, PTN_PERMANENT, &a) < 0 ||
        (how != SLEEP &&
         ptn_runtime_spawn(rt, &poker_ops, &on[0], &a, PTN_PERMANENT, &(ptn_addr){0}) < 0) ||
        ptn_runtime_spawn(rt, &looker_ops, &on[0], &how, PTN_PERMANENT, &(ptn_addr){0}) < 0)
        return 98;
    return ptn_runtime_run(rt) < 0 ? 97 : 96;
}

static int live_asked(const char *path) {
    (void)path;
    return live_looked_at(ASK);
}

static int live_ticking(const char *path) {
    (void)path;
    return live_looked_at(TICK);
}

static int live_asleep(const char *path) {
    (void)path;
    return live_looked_at(SLEEP);
}

Test(watchdog, a_handler_that_waits_for_ever_is_seen_by_who_asks) {
    int status = run(wait_for_ever, live_asked);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 7, "%x", (unsigned)status);
}

Test(watchdog, a_handler_that_waits_for_ever_is_seen_by_workers_that_work) {
    int status = run(wait_for_ever, live_ticking);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 7, "%x", (unsigned)status);
}

Test(watchdog, a_worker_that_sleeps_is_not_stuck) {
    int status = run(nothing, live_asleep);
    cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%x", (unsigned)status);
}

/* ---- other threads --------------------------------------------------------------------------- */

static void lane_run(ptn_lane *l, void *arg, ptn_lane_job **jobs, size_t n) {
    (void)l;
    (void)arg;
    (void)jobs;
    (void)n;
    deed();
}

static ptn_lane *lane;

static int clerk_init(ptn_ctx *c, void *state, void *arg) {
    const ptn_msg m = {.type = MSG_POKE};
    (void)state;
    (void)arg;
    return ptn_lane_send(c, lane, &m);
}
static const ptn_actor_ops clerk_ops = {
    .name = "clerk", .init = clerk_init, .handle = victim_handle};

static int live_with_lane(const char *path) {
    const ptn_crash_opts crash = {.path = path};
    const ptn_lane_opts o = {.name = "ledger", .run = lane_run};
    ptn_runtime *rt;
    ptn_addr a;
    if (ptn_crash_install(&crash) < 0 || ptn_runtime_new(NULL, &rt) < 0 ||
        ptn_lane_open(rt, &o, &lane) < 0 ||
        ptn_runtime_spawn(rt, &clerk_ops, NULL, NULL, PTN_PERMANENT, &a) < 0)
        return 99;
    return ptn_runtime_run(rt) < 0 ? 98 : 0;
}

Test(watchdog, a_fault_on_a_lane_is_recorded) {
    int status = run(overflow, live_with_lane);
    cr_expect(WIFSIGNALED(status) || WEXITSTATUS(status) == 66);
    expect_line("why: SIGSEGV, address 0x");
    expect_line("thread: ledger\n");
    expect_line("\n  ptn-w0: worker 0, ");
    expect_line("end of record\n");
}

static int no_runtime(const char *path) {
    const ptn_crash_opts crash = {.path = path};
    char much[8192];
    memset(much, 'x', sizeof much - 1);
    much[sizeof much - 1] = '\0';
    const ptn_crash_opts too_long = {.path = much};
    if (ptn_crash_install(&too_long) != -PTN_EINVAL || ptn_crash_install(&crash) < 0)
        return 99;
    deed();
    return 0;
}

Test(watchdog, a_fault_outside_of_the_runtime_is_recorded) {
    (void)run(fault, no_runtime);
    expect_line("why: SIGSEGV, address 0x10");
    expect_line("thread: not one of the runtime's\n");
    expect_line("events, oldest first: none\n");
}
