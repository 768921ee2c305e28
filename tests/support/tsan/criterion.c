/* SPDX-License-Identifier: Apache-2.0
 *
 * criterion.c - runs the tests that criterion.h of this folder registers: see there.
 *
 * The options of a suite hold for each of its tests that does not set its own, as in Criterion.
 * Arguments are names, `suite` or `suite::test`; without any, everything runs.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <sys/wait.h>

/* The sanitizer makes everything slower; a test's own limit is meant for a plain build. */
#define SLOWER 8

static struct cr__test *tests, *suites;
static bool failed;

void cr__add(struct cr__test *t) {
    struct cr__test **list = t->run == NULL ? &suites : &tests;
    t->next = *list;
    *list = t;
}

void cr__report(bool fatal, const char *file, int line, const char *what, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s:%d: %s: ", file, line, what);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    failed = true;
    if (fatal)
        exit(1);
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
    if (o->timeout > 0)
        alarm((unsigned)(o->timeout * SLOWER));
    if (o->init != NULL)
        o->init();
    t->run();
    if (o->fini != NULL)
        o->fini();
    exit(failed ? 1 : 0);
}

static bool run(const struct cr__test *t, const struct cr__options *o) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        return false;
    if (pid == 0)
        run_here(t, o);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return false;
    if (o->signal != 0) /* the sanitizer may turn the signal into an exit of its own */
        return WIFSIGNALED(status) ? WTERMSIG(status) == o->signal : WEXITSTATUS(status) != 0;
    if (!WIFEXITED(status))
        return false;
    return WEXITSTATUS(status) == CR__SKIPPED || WEXITSTATUS(status) == o->exit_code;
}

static bool is_wanted(const struct cr__test *t, int argc, char **argv) {
    char full[256];
    snprintf(full, sizeof full, "%s::%s", t->suite, t->name);
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], t->suite) == 0 || strcmp(argv[i], full) == 0)
            return true;
    return argc <= 1;
}

int main(int argc, char **argv) {
    unsigned n_passed = 0, n_failed = 0;
    for (const struct cr__test *t = tests; t != NULL; t = t->next) {
        struct cr__options o = options_of(t);
        if (o.disabled || !is_wanted(t, argc, argv))
            continue;
        bool ok = run(t, &o);
        n_passed += ok;
        n_failed += !ok;
        if (!ok)
            fprintf(stderr, "[FAIL] %s::%s\n", t->suite, t->name);
    }
    fprintf(stderr, "%u passed, %u failed\n", n_passed, n_failed);
    return n_failed > 0 || n_passed == 0;
}
