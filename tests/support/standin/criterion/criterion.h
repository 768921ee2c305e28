/* SPDX-License-Identifier: Apache-2.0
 *
 * criterion.h - the part of Criterion's interface that our tests use, for the sanitizers.
 *
 * Criterion runs each test in a process that it copies with a shared arena.  That does not start
 * under ThreadSanitizer, and starts too slowly to run a test once for each of its allocations under
 * AddressSanitizer (criterion.c: torture).  This header and criterion.c stand in its place in these
 * presets: same names, one forked process per test, before any thread exists.  Every other preset
 * uses the real library.
 */
#ifndef POSTERN_TESTS_SUPPORT_CRITERION_H
#define POSTERN_TESTS_SUPPORT_CRITERION_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct cr__options {
    const char *description;
    double timeout;
    int signal, exit_code;
    bool disabled;
    void (*init)(void), (*fini)(void);
};

/* A test, or with `run` NULL the options of a whole suite. */
struct cr__test {
    const char *suite, *name;
    void (*run)(void);
    struct cr__options options;
    struct cr__test *next;
};

#define CR__SKIPPED 77

/* Before main() only: puts the entry on the list of things to run. */
void cr__add(struct cr__test *t);

/* Says what failed and where; the second ends the test. */
__attribute__((format(printf, 4, 5))) void cr__report(const char *file, int line, const char *what,
                                                      const char *fmt, ...);
__attribute__((format(printf, 4, 5))) _Noreturn void
cr__give_up(const char *file, int line, const char *what, const char *fmt, ...);

#define CR__REGISTER(id, suite_, name_, run_, ...)                                                 \
    __attribute__((constructor)) static void id(void) {                                            \
        static struct cr__test t = {                                                               \
            .suite = suite_, .name = name_, .run = run_, .options = {__VA_ARGS__}};                \
        cr__add(&t);                                                                               \
    }
#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_impl(void);                                                     \
    CR__REGISTER(suite_##_##name_##_add, #suite_, #name_, suite_##_##name_##_impl, __VA_ARGS__)    \
    static void suite_##_##name_##_impl(void)
#define TestSuite(suite_, ...) CR__REGISTER(suite_##_suite_add, #suite_, NULL, NULL, __VA_ARGS__)

#define CR__CHECK(fatal, cond, what, ...)                                                          \
    ((cond)    ? (void)0                                                                           \
     : (fatal) ? cr__give_up(__FILE__, __LINE__, what, " " __VA_ARGS__)                            \
               : cr__report(__FILE__, __LINE__, what, " " __VA_ARGS__))

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
#define cr_assert_str_eq(a, b, ...)                                                                \
    CR__CHECK(true, strcmp(a, b) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)                                                                \
    CR__CHECK(false, strcmp(a, b) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)                                                               \
    CR__CHECK(true, strcmp(a, b) != 0, #a " differs from " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)                                                               \
    CR__CHECK(false, strcmp(a, b) != 0, #a " differs from " #b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, n, ...)                                                             \
    CR__CHECK(true, memcmp(a, b, n) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, n, ...)                                                             \
    CR__CHECK(false, memcmp(a, b, n) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_log_info(...) CR__LOG("info", __VA_ARGS__)
#define cr_log_warn(...) CR__LOG("warning", __VA_ARGS__)
#define cr_log_error(...) CR__LOG("error", __VA_ARGS__)
#define CR__LOG(level, ...)                                                                        \
    do {                                                                                           \
        fprintf(stderr, level ": " __VA_ARGS__);                                                   \
        fputc('\n', stderr);                                                                       \
    } while (0)
#define cr_skip_test(...)                                                                          \
    do {                                                                                           \
        fprintf(stderr, "skipped: " __VA_ARGS__);                                                  \
        fputc('\n', stderr);                                                                       \
        exit(CR__SKIPPED);                                                                         \
    } while (0)
#define cr_skip(...) cr_skip_test(__VA_ARGS__)

#endif
