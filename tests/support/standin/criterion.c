/* SPDX-License-Identifier: Apache-2.0
 *
 * criterion.c - runs the tests that criterion.h of this folder registers: see there.
 *
 *     foo_test [suite | suite::test]...
 *         runs them; without any, everything
 *
 *     foo_test --torture RUNS [suite::test]...
 *     foo_test --torture-ways | --torture-brief [suite::test]...
 *     foo_test --fail K suite::test
 *         with allocations that fail: sweep.c
 *
 * The options of a suite hold for each of its tests that does not set its own, as in Criterion.
 */
#include "sweep.h"

#include <criterion/criterion.h>

#include <errno.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>

/* The sanitizer makes everything slower; a test's own limit is meant for a plain build. */
#define SLOWER 8
#define PATIENCE_S 20

static struct cr__test *tests, *suites;
static bool failed;

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

_Noreturn void cr__run_here(const struct cr__test *t, const struct cr__options *o) {
    if (o->init != NULL)
        o->init();
    t->run();
    if (o->fini != NULL)
        o->fini();
    exit(failed ? 1 : 0);
}

int cr__wait_for(pid_t pid) {
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
        cr__run_here(t, o);
    }
    int status = cr__wait_for(pid);
    if (o->signal != 0) /* the sanitizer may turn the signal into an exit of its own */
        return WIFSIGNALED(status) ? WTERMSIG(status) == o->signal : WEXITSTATUS(status) != 0;
    if (!WIFEXITED(status))
        return false;
    return WEXITSTATUS(status) == CR__SKIPPED || WEXITSTATUS(status) == o->exit_code;
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

/* A test is linked before what it tests, and its functions stand in the order of its source. */
static const void *end_of_tests(void) {
    uintptr_t end = 0;
    for (const struct cr__test *t = tests; t != NULL; t = t->next)
        end = (uintptr_t)t->run > end ? (uintptr_t)t->run : end;
    return (const void *)end;
}

int main(int argc, char **argv) {
    unsigned n_passed = 0, n_failed = 0;
    bool ways = argc > 1 && strcmp(argv[1], "--torture-ways") == 0;
    bool brief = argc > 1 && strcmp(argv[1], "--torture-brief") == 0;
    bool tests_each = argc > 2 && strcmp(argv[1], "--torture") == 0;
    bool one = argc > 3 && strcmp(argv[1], "--fail") == 0, sweep = ways || brief || tests_each;
    unsigned long number = tests_each || one ? strtoul(argv[2], NULL, 10) : 0;
    char **names = argv + (tests_each || one ? 3 : sweep ? 2 : 1);
    enum cr__sweep_kind kind = ways ? CR__SWEEP_WAYS : brief ? CR__SWEEP_BRIEF : CR__SWEEP_TESTS;
    if ((sweep || one) && !cr__sweep_open(argv[0], kind, number, end_of_tests()))
        return 2;
    for (const struct cr__test *t = tests; t != NULL; t = t->next) {
        struct cr__options o = options_of(t);
        if (o.disabled || !is_wanted(t, names))
            continue;
        bool ok = sweep ? cr__sweep(t, &o) : one ? cr__sweep_replay(t, &o, number) : run(t, &o);
        n_passed += ok;
        n_failed += !ok;
        if (!ok)
            fprintf(stderr, "[FAIL] %s::%s\n", t->suite, t->name);
    }
    if (sweep)
        cr__sweep_say();
    fprintf(stderr, "%u passed, %u failed\n", n_passed, n_failed);
    return n_failed > 0 || n_passed == 0;
}
