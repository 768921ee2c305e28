/* SPDX-License-Identifier: Apache-2.0
 *
 * password_test.c - hashes verify their own password and no other; accounts without one cost the
 * same.
 */
#include "actors/password.h"

#include <criterion/criterion.h>
#include <sodium.h>
#include <time.h>

Test(password, verifies_its_own_and_no_other) {
    char hash[PASSWORD_HASH_BYTES];
    cr_assert_eq(password_hash(PTN_STR("correct horse"), hash, sizeof hash), 0);
    cr_expect_eq(strncmp(hash, "$argon2id$v=19$m=65536,t=2,p=1$", 31), 0,
                 "the cost is recorded: %s", hash);
    cr_expect(password_verify(PTN_STR("correct horse"), ptn_str_of(hash)));
    cr_expect_not(password_verify(PTN_STR("correct hors"), ptn_str_of(hash)));
    cr_expect_not(password_verify(PTN_STR("correct horse "), ptn_str_of(hash)));
    cr_expect_not(password_verify(PTN_STR(""), ptn_str_of(hash)));
}

Test(password, two_hashes_of_one_password_differ) {
    char a[PASSWORD_HASH_BYTES], b[PASSWORD_HASH_BYTES];
    cr_assert_eq(password_hash(PTN_STR("same"), a, sizeof a), 0);
    cr_assert_eq(password_hash(PTN_STR("same"), b, sizeof b), 0);
    cr_expect_str_neq(a, b);
}

Test(password, bounds) {
    static char big[PASSWORD_BYTES_MAX + 1];
    char hash[PASSWORD_HASH_BYTES];
    memset(big, 'p', sizeof big);
    cr_expect_eq(password_hash(PTN_STR(""), hash, sizeof hash), -PTN_EINVAL);
    cr_expect_eq(password_hash((ptn_str){big, sizeof big}, hash, sizeof hash), -PTN_EINVAL);
    cr_expect_eq(password_hash(PTN_STR("x"), hash, sizeof hash - 1), -PTN_ETOOBIG);
    cr_expect_eq(password_hash((ptn_str){big, PASSWORD_BYTES_MAX}, hash, sizeof hash), 0);
    cr_expect(password_verify((ptn_str){big, PASSWORD_BYTES_MAX}, ptn_str_of(hash)));
}

/* Processor time of this thread, so that a busy machine does not matter. */
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

Test(password, no_hash_and_a_bad_hash_cost_as_much_as_a_real_one) {
    static const char *const bad[] = {"", "plain", "$argon2id$v=19$m=65536,t=2,p=1$",
                                      "$2b$12$abcdefghijklmnopqrstuv"};
    char hash[PASSWORD_HASH_BYTES];
    cr_assert_eq(password_hash(PTN_STR("x"), hash, sizeof hash), 0);
    double start = seconds();
    cr_expect_not(password_verify(PTN_STR("y"), ptn_str_of(hash)));
    double real = seconds() - start;
    for (size_t i = 0; i < PTN_ARRAY_LEN(bad); i++) {
        start = seconds();
        cr_expect_not(password_verify(PTN_STR("y"), ptn_str_of(bad[i])));
        double fake = seconds() - start;
        cr_expect_gt(fake, real / 4, "\"%s\" was refused in %g s, a real hash takes %g s", bad[i],
                     fake, real);
    }
}
