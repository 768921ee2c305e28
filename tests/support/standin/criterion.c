/* SPDX-License-Identifier: Apache-2.0
 *
 * criterion.c - runs the tests that criterion.h of this folder registers: see there.
 *
 *     foo_test [suite | suite::test]...
 *         runs them; without any, everything
 *
 *     foo_test --torture MAX [suite::test]...
 *         each test again and again, with another allocation failing
 *
 *     foo_test --fail K suite::test
 *         one test, with allocation K failing
 *
 * The options of a suite hold for each of its tests that does not set its own, as in Criterion.
 *
 * Torture (after curl's): a test that makes N allocations runs N times, with allocation 1, 2, .. N
 * failing; at most MAX times, then in the middle of MAX equal parts (0: no limit, but for tests
 * that make very many). What it asserts may well not hold then.  What must hold: no signal, no
 * report of a sanitizer, no leak, no hang.
 */
#include "torture.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

/* The sanitizer makes everything slower; a test's own limit is meant for a plain build. */
#define SLOWER 8
/* How long a test waits, in a plain run and in one with a failing allocation. */
#define PATIENCE_S 20
#define PATIENCE_FAILING_S 2
#define HANG_SECONDS 45u /* more than an ask waits, and ten times what the test takes untouched */
/* Runs times allocations of a test: what a bounded sweep spends on it, and one without a limit. */
#define WORK_BOUNDED 20000u
#define WORK_MAX 5000000u
#define REPORT_EXIT 66
#define FAULTS_PER_TEST 3u /* one fault is often met by many allocations */
#define REPORT_BYTES 6000u

static struct cr__test *tests, *suites;
static bool failed;

extern time_t cr__patience_s; /* unfailing.h */
time_t cr__patience_s = PATIENCE_S;

/* When no environment says otherwise, as ctest's does. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "exitcode=66:print_suppressions=0:strict_string_checks=1";
}

/* What a test makes for the very call that fails has no other owner. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:buf_u64\n";
}

void cr__add(struct cr__test *t) {
    struct cr__test **list = t->run == NULL ? &suites : &tests;
    t->next = *list;
    *list = t;
}

static void say(const char *file, int line, const char *what, const char *fmt, va_list ap) {
    fprintf(stderr, "%s:%d: %s: ", file, line, what);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    failed = true;
}

void cr__report(const char *file, int line, const char *what, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    say(file, line, what, fmt, ap);
    va_end(ap);
}

_Noreturn void cr__give_up(const char *file, int line, const char *what, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    say(file, line, what, fmt, ap);
    va_end(ap);
    exit(1); /* from here: what this stack still holds is no leak */
}

static struct cr__options options_of(const struct cr__test *t) {
    struct cr__options o = t->options;
    for (const struct cr__test *s = suites; s != NULL; s = s->next) {
        if (strcmp(s->suite, t->suite) != 0)
            continue;
        o.timeout = o.timeout > 0 ? o.timeout : s->options.timeout;
        o.init = o.init != NULL ? o.init : s->options.init;
        o.fini = o.fini != NULL ? o.fini : s->options.fini;
        o.disabled = o.disabled || s->options.disabled;
    }
    return o;
}

/* In the forked child.  The sanitizer's own exit code takes over from ours if it has something to
 * report. */
static void run_here(const struct cr__test *t, const struct cr__options *o) {
    if (o->init != NULL)
        o->init();
    t->run();
    if (o->fini != NULL)
        o->fini();
    exit(failed ? 1 : 0);
}

static int wait_for(pid_t pid) {
    int status = -1;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return status;
}

static bool run(const struct cr__test *t, const struct cr__options *o) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return false;
    if (pid == 0) {
        if (o->timeout > 0)
            alarm((unsigned)(o->timeout * SLOWER));
        run_here(t, o);
    }
    int status = wait_for(pid);
    if (o->signal != 0) /* the sanitizer may turn the signal into an exit of its own */
        return WIFSIGNALED(status) ? WTERMSIG(status) == o->signal : WEXITSTATUS(status) != 0;
    if (!WIFEXITED(status))
        return false;
    return WEXITSTATUS(status) == CR__SKIPPED || WEXITSTATUS(status) == o->exit_code;
}

/* ---- torture --------------------------------------------------------------------------------- */

static unsigned long *allocations; /* of the last run; shared with it */

static void store_count(void) {
    *allocations = torture_count();
}

/* The wait status of a run in which allocation k fails; what it writes goes to `out`, if given. */
static int run_failing(const struct cr__test *t, const struct cr__options *o, unsigned long k,
                       unsigned seconds_max, FILE *out) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(seconds_max);
        if (out != NULL) {
            (void)dup2(fileno(out), STDOUT_FILENO);
            (void)dup2(fileno(out), STDERR_FILENO);
        }
        (void)atexit(store_count);
        cr__patience_s = k != 0 ? PATIENCE_FAILING_S : PATIENCE_S;
        torture_arm(k, out == NULL);
        run_here(t, o);
    }
    return wait_for(pid);
}

static bool is_sound(int status) {
    return WIFEXITED(status) && WEXITSTATUS(status) != REPORT_EXIT;
}

static void say_fault(const char *program, const struct cr__test *t, unsigned long k, int status,
                      FILE *out) {
    static char text[REPORT_BYTES + 1];
    rewind(out);
    size_t n = fread(text, 1, REPORT_BYTES, out);
    text[n] = '\0';
    fprintf(stderr, "[TORTURE] %s::%s, allocation %lu: %s\n%s\n  replay: %s --fail %lu %s::%s\n",
            t->suite, t->name, k,
            WIFEXITED(status)             ? "a report"
            : WTERMSIG(status) == SIGALRM ? "it hangs"
                                          : strsignal(WTERMSIG(status)),
            text, program, k, t->suite, t->name);
}

/* How many faults it found. */
static unsigned torture(const char *program, const struct cr__test *t, const struct cr__options *o,
                        unsigned long max) {
    unsigned n_faults = 0;
    FILE *out = tmpfile();
    time_t begin = time(NULL);
    if (out == NULL || o->signal != 0 || o->exit_code != 0 ||
        !is_sound(run_failing(t, o, 0, 60 * HANG_SECONDS, out))) {
        if (out != NULL)
            fclose(out);
        return 0; /* it ends the process on purpose, or fails anyway: the plain run tells */
    }
    unsigned seconds_max = HANG_SECONDS + 10 * (unsigned)(time(NULL) - begin);
    unsigned long n = *allocations, runs = max == 0 || n < max ? n : max;
    unsigned long work_max = max == 0 ? WORK_MAX : WORK_BOUNDED;
    if (n > 0 && runs > work_max / n)
        runs = work_max / n;
    for (unsigned long i = 0; i < runs && n_faults < FAULTS_PER_TEST; i++) {
        unsigned long k = 1 + (2 * i + 1) * n / (2 * runs);
        rewind(out);
        if (ftruncate(fileno(out), 0) != 0)
            break;
        int status = run_failing(t, o, k, seconds_max, out);
        if (is_sound(status))
            continue;
        n_faults++;
        say_fault(program, t, k, status, out);
    }
    fclose(out);
    fprintf(stderr, "%s::%s: %lu allocations, %lu runs\n", t->suite, t->name, n, runs);
    return n_faults;
}

/* ---- command line ---------------------------------------------------------------------------- */

static bool is_wanted(const struct cr__test *t, char **names) {
    char full[256];
    snprintf(full, sizeof full, "%s::%s", t->suite, t->name);
    for (char **name = names; *name != NULL; name++)
        if (strcmp(*name, t->suite) == 0 || strcmp(*name, full) == 0)
            return true;
    return *names == NULL;
}

int main(int argc, char **argv) {
    unsigned n_passed = 0, n_failed = 0;
    bool sweep = argc > 2 && strcmp(argv[1], "--torture") == 0;
    bool one = argc > 3 && strcmp(argv[1], "--fail") == 0;
    unsigned long number = sweep || one ? strtoul(argv[2], NULL, 10) : 0;
    char **names = argv + (sweep || one ? 3 : 1);
    allocations =
        mmap(NULL, sizeof *allocations, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (allocations == MAP_FAILED)
        return 2;
    for (const struct cr__test *t = tests; t != NULL; t = t->next) {
        struct cr__options o = options_of(t);
        if (o.disabled || !is_wanted(t, names))
            continue;
        bool ok = sweep ? torture(argv[0], t, &o, number) == 0
                  : one ? is_sound(run_failing(t, &o, number, 10 * HANG_SECONDS, NULL))
                        : run(t, &o);
        n_passed += ok;
        n_failed += !ok;
        if (!ok)
            fprintf(stderr, "[FAIL] %s::%s\n", t->suite, t->name);
    }
    fprintf(stderr, "%u passed, %u failed\n", n_passed, n_failed);
    return n_failed > 0 || n_passed == 0;
}
