/* SPDX-License-Identifier: Apache-2.0
 *
 * sweep.c - torture (after curl's): a test runs again and again, each time with another of its
 * allocations failing.  What it asserts may well not hold then.  What must hold: no signal, no
 * report of a sanitizer, no leak, no hang.
 *
 *     --torture RUNS
 *         A first run, in which nothing fails, shows the ways to an allocation: its innermost
 *         frames of the product, twelve at most.  Of each way RUNS of its allocations fail, one in
 *         each run: the first, the last, and those between at equal distances.  0: every
 *         allocation.
 *
 *     --torture-ways
 *         The same for the ways of all tests together: the first allocation of each way fails, in
 *         the first test that has it.
 *
 *     --torture-brief
 *         So too, but ways differ by three frames only, so that each place that allocates fails
 *         once; and a test that takes long gives so few of its ways that they take two seconds of
 *         a processor.  For every day.
 *
 *     --fail K suite::test
 *         One test, with allocation K failing.  Which one that is may differ from run to run when
 *         a test has threads; a sweep goes by ways, which do not.
 *
 * A client that gets neither an answer nor the end of its connection is counted, with a replay: an
 * answer may have been lost, or the test waits for what the failure has prevented.
 *
 * Several runs are under way at once: most of one that misses something is waiting for it.  What
 * they leave in directories of their own is removed.
 */
#include "sweep.h"
#include "torture.h"

#include <errno.h>
#include <ftw.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

#define PATIENCE_FAILING_S 2
#define HANG_SECONDS 60u /* more than an ask waits, and ten times what the test takes untouched */
#define REPORT_EXIT 66
#define VAIN_EXIT 68
#define FAULTS_PER_TEST 5u /* one fault is often met by many allocations */
#define REPORT_BYTES 6000u
#define FRAMES_BRIEF 3u
#define BRIEF_US 2000000u /* processor time of one test, in the brief sweep */
#define AT_ONCE 4u
#define DIRS_MAX 16u /* at a time, of one run; more are left */

struct slot {
    pid_t pid; /* 0: free */
    FILE *out;
    uint64_t way, nth;
    bool again; /* it has hung before, perhaps for want of a processor */
};

/* The directories that a run has made.  One that is gone has given its place away. */
struct dirs {
    char path[DIRS_MAX][64];
};

static struct {
    const char *program;
    enum cr__sweep_kind kind;
    unsigned long runs;
    const char *test_end;
    struct torture_run *run;   /* of each slot; shared */
    struct dirs *dirs;         /* of each slot; shared */
    struct dirs *own;          /* of this process, if it is a run */
    struct torture_map *map;   /* of the first run; shared */
    struct torture_way *known; /* ways of the tests before */
    struct slot slot[AT_ONCE];
    const struct cr__test *t; /* the test */
    const struct cr__options *o;
    unsigned seconds_max, n_faults;
    unsigned long n_runs, n_missed, n_vain, vain;                      /* of this test */
    unsigned long all_tests, all_ways, all_allocs, all_runs, all_vain; /* of all */
} s;

static void *shared(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return p != MAP_FAILED ? p : NULL;
}

bool cr__sweep_open(const char *program, enum cr__sweep_kind kind, unsigned long runs,
                    const void *test_end) {
    s.program = program;
    s.kind = kind;
    s.runs = kind == CR__SWEEP_TESTS ? runs : 1;
    s.test_end = test_end;
    s.run = shared(AT_ONCE * sizeof *s.run);
    s.dirs = shared(AT_ONCE * sizeof *s.dirs);
    s.map = shared(sizeof *s.map);
    s.known = shared(sizeof s.map->way);
    bool ok = s.run != NULL && s.dirs != NULL && s.map != NULL && s.known != NULL;
    for (unsigned i = 0; i < AT_ONCE && ok; i++)
        ok = (s.slot[i].out = tmpfile()) != NULL;
    return ok;
}

void cr__waited_in_vain(void) {
    if (cr__patience_s == PATIENCE_FAILING_S)
        exit(VAIN_EXIT);
}

/* ---- what a run leaves ----------------------------------------------------------------------- */

char *cr__mkdtemp(char *template) {
    char *dir = mkdtemp(template);
    for (unsigned i = 0; dir != NULL && s.own != NULL && i < DIRS_MAX; i++) {
        if (access(s.own->path[i], F_OK) == 0)
            continue;
        snprintf(s.own->path[i], sizeof s.own->path[i], "%s", dir);
        break;
    }
    return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at) {
    (void)st, (void)type, (void)at;
    (void)remove(path);
    return 0;
}

static void clear_up(unsigned slot) {
    for (unsigned i = 0; i < DIRS_MAX; i++) {
        (void)nftw(s.dirs[slot].path[i], remove_one, 8, FTW_DEPTH | FTW_PHYS);
        s.dirs[slot].path[i][0] = '\0';
    }
}

/* ---- one run --------------------------------------------------------------------------------- */

/* way 0: by number, and nth 0: nothing fails.  What it writes goes to `out`, if given. */
static pid_t start(const struct cr__test *t, const struct cr__options *o, uint64_t way,
                   uint64_t nth, unsigned seconds_max, unsigned slot, FILE *out) {
    struct torture_target target = {.nth = nth,
                                    .way = way,
                                    .frames = s.kind == CR__SWEEP_BRIEF ? FRAMES_BRIEF
                                                                        : TORTURE_FRAMES_MAX,
                                    .test_end = s.test_end,
                                    .say_where = out == NULL};
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    alarm(seconds_max);
    if (out != NULL) {
        (void)dup2(fileno(out), STDOUT_FILENO);
        (void)dup2(fileno(out), STDERR_FILENO);
    }
    if (nth != 0)
        cr__patience_s = PATIENCE_FAILING_S;
    s.own = &s.dirs[slot];
    torture_arm(&target, &s.run[slot], nth == 0 ? s.map : NULL);
    cr__run_here(t, o);
}

static bool is_sound(int status) {
    return WIFEXITED(status) && WEXITSTATUS(status) != REPORT_EXIT;
}

/* The end of one that was started in slot 0, alone. */
static bool ends_soundly(pid_t pid) {
    int status = cr__wait_for(pid);
    clear_up(0);
    return is_sound(status);
}

bool cr__sweep_replay(const struct cr__test *t, const struct cr__options *o, unsigned long k) {
    return ends_soundly(start(t, o, 0, k, 10 * HANG_SECONDS, 0, NULL));
}

static bool out_clear(FILE *out) {
    rewind(out);
    return ftruncate(fileno(out), 0) == 0;
}

static void say_fault(const struct slot *slot, unsigned long k, int status) {
    static char text[REPORT_BYTES + 1];
    rewind(slot->out);
    size_t n = fread(text, 1, REPORT_BYTES, slot->out);
    text[n] = '\0';
    fprintf(stderr, "[TORTURE] %s::%s, allocation %lu: %s\n%s\n  replay: %s --fail %lu %s::%s\n",
            s.t->suite, s.t->name, k,
            WIFEXITED(status)             ? "a report"
            : WTERMSIG(status) == SIGALRM ? "it hangs"
                                          : strsignal(WTERMSIG(status)),
            text, s.program, k, s.t->suite, s.t->name);
}

/* ---- many ------------------------------------------------------------------------------------ */

/* Waits for one of them.  False: none is under way. */
static bool reap(void) {
    int status;
    pid_t pid = waitpid(-1, &status, 0);
    if (pid < 0)
        return errno == EINTR;
    for (unsigned i = 0; i < AT_ONCE; i++) {
        struct slot *slot = &s.slot[i];
        if (slot->pid != pid)
            continue;
        slot->pid = 0;
        clear_up(i);
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM && !slot->again &&
            out_clear(slot->out)) {
            slot->again = true;
            slot->pid = start(s.t, s.o, slot->way, slot->nth, 2 * s.seconds_max, i, slot->out);
            return true;
        }
        unsigned long k = atomic_load(&s.run[i].failed_at);
        s.n_runs++;
        s.n_missed += k == 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) == VAIN_EXIT) {
            s.n_vain++;
            s.vain = k;
        }
        if (!is_sound(status) && s.n_faults++ < FAULTS_PER_TEST)
            say_fault(slot, k, status);
    }
    return true;
}

static void run_one(uint64_t way, uint64_t nth) {
    for (;;) {
        for (unsigned i = 0; i < AT_ONCE; i++) {
            struct slot *slot = &s.slot[i];
            if (slot->pid != 0 || !out_clear(slot->out))
                continue;
            slot->way = way;
            slot->nth = nth;
            slot->again = false;
            pid_t pid = start(s.t, s.o, way, nth, s.seconds_max, i, slot->out);
            slot->pid = pid > 0 ? pid : 0;
            s.n_missed += pid < 0;
            return;
        }
        (void)reap();
    }
}

/* Where the way stands among those of the tests before, or belongs. */
static struct torture_way *known_of(uint64_t id) {
    for (size_t i = 0; i < TORTURE_WAYS_MAX; i++) {
        struct torture_way *w = &s.known[(id + i) % TORTURE_WAYS_MAX];
        if (w->id == id || w->id == 0)
            return w;
    }
    return NULL;
}

static bool is_new(const struct torture_way *w) {
    if (w->id == 0 || s.kind == CR__SWEEP_TESTS)
        return w->id != 0;
    const struct torture_way *known = known_of(w->id);
    return known == NULL || known->id == 0;
}

static void run_way(uint64_t id, uint64_t n) {
    uint64_t runs = s.runs == 0 || s.runs > n ? n : s.runs, last = 0;
    for (uint64_t i = 0; i < runs && s.n_faults < FAULTS_PER_TEST; i++) {
        uint64_t nth = runs < 2 ? 1 : 1 + i * (n - 1) / (runs - 1);
        if (nth != last)
            run_one(id, nth);
        last = nth;
    }
}

/* *ret_us: of processor time. */
static bool is_sound_untouched(const struct cr__test *t, const struct cr__options *o,
                               uint64_t *ret_us) {
    struct rusage before, after;
    memset(s.map, 0, sizeof *s.map);
    FILE *out = s.slot[0].out;
    (void)getrusage(RUSAGE_CHILDREN, &before);
    if (o->signal != 0 || o->exit_code != 0 || !out_clear(out) ||
        !ends_soundly(start(t, o, 0, 0, 60 * HANG_SECONDS, 0, out)))
        return false;
    (void)getrusage(RUSAGE_CHILDREN, &after);
    struct timeval user, sys;
    timersub(&after.ru_utime, &before.ru_utime, &user);
    timersub(&after.ru_stime, &before.ru_stime, &sys);
    timeradd(&user, &sys, &user);
    *ret_us = (uint64_t)user.tv_sec * 1000000 + (uint64_t)user.tv_usec + 1;
    return true;
}

/* All ways of the test that are new, or as many as there is time for, some here and some there. */
static unsigned long run_ways(uint64_t us_per_run) {
    unsigned long n = 0, i = 0, done = 0;
    for (size_t at = 0; at < TORTURE_WAYS_MAX; at++)
        n += is_new(&s.map->way[at]);
    unsigned long most = s.kind == CR__SWEEP_BRIEF ? BRIEF_US / us_per_run + 1 : n;
    for (size_t at = 0; at < TORTURE_WAYS_MAX && s.n_faults < FAULTS_PER_TEST; at++) {
        struct torture_way *w = &s.map->way[at];
        if (!is_new(w))
            continue;
        if (n > most && i++ * most / n < done)
            continue;
        struct torture_way *known = known_of(w->id);
        if (known != NULL)
            known->id = w->id;
        run_way(w->id, w->n);
        done++;
    }
    return done;
}

bool cr__sweep(const struct cr__test *t, const struct cr__options *o) {
    time_t begin = time(NULL);
    s.t = t;
    s.o = o;
    s.n_faults = 0;
    s.n_runs = s.n_missed = s.n_vain = 0;
    uint64_t us;
    if (!is_sound_untouched(t, o, &us)) {
        fprintf(stderr, "%s::%s: left out\n", t->suite, t->name);
        return true; /* it ends the process on purpose, or fails anyway: the plain run tells */
    }
    s.seconds_max = HANG_SECONDS + 10 * (unsigned)(time(NULL) - begin);
    unsigned long n_allocs = atomic_load(&s.run[0].count), n_ways = run_ways(us);
    while (reap())
        ;
    fprintf(stderr, "%s::%s: %lu allocations, %lu ways, %lu runs, %ld s", t->suite, t->name,
            n_allocs, n_ways, s.n_runs, (long)(time(NULL) - begin));
    if (s.n_missed > 0)
        fprintf(stderr, ", %lu without the failure", s.n_missed);
    if (s.n_vain > 0)
        fprintf(stderr, ", %lu waited in vain (--fail %lu)", s.n_vain, s.vain);
    fprintf(stderr, s.map->left_out > 0 ? ", more ways than fit\n" : "\n");
    s.all_tests++;
    s.all_ways += n_ways;
    s.all_allocs += n_allocs;
    s.all_runs += s.n_runs;
    s.all_vain += s.n_vain;
    return s.n_faults == 0 && s.map->left_out == 0;
}

void cr__sweep_say(void) {
    fprintf(stderr, "%lu tests, %lu allocations, %lu ways, %lu runs, %lu waited in vain\n",
            s.all_tests, s.all_allocs, s.all_ways, s.all_runs, s.all_vain);
}
