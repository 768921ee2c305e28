/* SPDX-License-Identifier: Apache-2.0
 *
 * criterion.h - the part of Criterion's interface that our tests use, for the thread sanitizer only.
 *
 * Criterion runs each test in a process that it copies with a shared arena, and that does not start under
 * ThreadSanitizer.  This header stands in its place in the tsan preset: same names, one forked process per
 * test, before any thread exists.  Every other preset uses the real library.
 */
#ifndef POSTERN_TESTS_SUPPORT_CRITERION_H
#define POSTERN_TESTS_SUPPORT_CRITERION_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct cr__options {
    const char *description;
    double timeout;
    int signal, exit_code;
    bool disabled;
    void (*init)(void), (*fini)(void);
};

struct cr__test {
    const char *suite, *name;
    void (*run)(void);
    struct cr__options options;
    struct cr__test *next;
};

static struct cr__test *cr__tests;
static bool cr__failed;
#define CR__SKIPPED 77

#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_impl(void);                                                     \
    __attribute__((constructor)) static void suite_##_##name_##_add(void) {                        \
        static struct cr__test t = {                                                               \
            .suite = #suite_, .name = #name_, .run = suite_##_##name_##_impl, .options = {__VA_ARGS__}}; \
        t.next = cr__tests;                                                                        \
        cr__tests = &t;                                                                            \
    }                                                                                              \
    static void suite_##_##name_##_impl(void)

__attribute__((format(printf, 5, 6), unused)) static void
cr__report(bool fatal, const char *file, int line, const char *what, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s:%d: %s: ", file, line, what);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    cr__failed = true;
    if (fatal)
        exit(1);
}

#define CR__CHECK(fatal, cond, what, ...)                                                          \
    ((cond) ? (void)0 : cr__report(fatal, __FILE__, __LINE__, what, " " __VA_ARGS__))

#define cr_assert(e, ...) CR__CHECK(true, (e), #e, __VA_ARGS__)
#define cr_expect(e, ...) CR__CHECK(false, (e), #e, __VA_ARGS__)
#define cr_assert_fail(...) CR__CHECK(true, false, "failed", __VA_ARGS__)
#define cr_assert_not(e, ...) CR__CHECK(true, !(e), "not " #e, __VA_ARGS__)
#define cr_expect_not(e, ...) CR__CHECK(false, !(e), "not " #e, __VA_ARGS__)
#define cr_assert_null(e, ...) CR__CHECK(true, (e) == NULL, #e " is null", __VA_ARGS__)
#define cr_expect_null(e, ...) CR__CHECK(false, (e) == NULL, #e " is null", __VA_ARGS__)
#define cr_assert_not_null(e, ...) CR__CHECK(true, (e) != NULL, #e " is not null", __VA_ARGS__)
#define cr_expect_not_null(e, ...) CR__CHECK(false, (e) != NULL, #e " is not null", __VA_ARGS__)
#define CR__COMPARE(fatal, a, op, b, ...) CR__CHECK(fatal, (a)op(b), #a " " #op " " #b, __VA_ARGS__)
#define cr_assert_eq(a, b, ...) CR__COMPARE(true, a, ==, b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...) CR__COMPARE(false, a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) CR__COMPARE(true, a, !=, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) CR__COMPARE(false, a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) CR__COMPARE(true, a, <, b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) CR__COMPARE(false, a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) CR__COMPARE(true, a, <=, b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) CR__COMPARE(false, a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) CR__COMPARE(true, a, >, b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) CR__COMPARE(false, a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) CR__COMPARE(true, a, >=, b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) CR__COMPARE(false, a, >=, b, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) CR__CHECK(true, strcmp(a, b) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) CR__CHECK(false, strcmp(a, b) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) CR__CHECK(true, strcmp(a, b) != 0, #a " differs from " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) CR__CHECK(false, strcmp(a, b) != 0, #a " differs from " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...) CR__CHECK(true, memcmp(a, b, n) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...) CR__CHECK(false, memcmp(a, b, n) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_skip_test(...)                                                                          \
    do {                                                                                           \
        fprintf(stderr, "skipped: " __VA_ARGS__);                                                  \
        fputc('\n', stderr);                                                                       \
        exit(CR__SKIPPED);                                                                         \
    } while (0)
#define cr_skip(...) cr_skip_test(__VA_ARGS__)

static bool cr__run(const struct cr__test *t) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        if (t->options.timeout > 0)
            alarm((unsigned)t->options.timeout * 4); /* the sanitizer is slow */
        if (t->options.init != NULL)
            t->options.init();
        t->run();
        if (t->options.fini != NULL)
            t->options.fini();
        exit(cr__failed ? 1 : 0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (t->options.signal != 0) /* the sanitizer may turn the signal into an exit of its own */
        return WIFSIGNALED(status) ? WTERMSIG(status) == t->options.signal : WEXITSTATUS(status) != 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == CR__SKIPPED)
        return true;
    return WIFEXITED(status) && WEXITSTATUS(status) == t->options.exit_code;
}

int main(void) {
    unsigned passed = 0, failed = 0;
    for (const struct cr__test *t = cr__tests; t != NULL; t = t->next) {
        if (t->options.disabled)
            continue;
        bool ok = cr__run(t);
        passed += ok;
        failed += !ok;
        if (!ok)
            fprintf(stderr, "[FAIL] %s::%s\n", t->suite, t->name);
    }
    fprintf(stderr, "%u passed, %u failed\n", passed, failed);
    return failed > 0;
}

#endif
