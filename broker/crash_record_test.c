/* SPDX-License-Identifier: Apache-2.0
 *
 * crash_record_test.c - the record of before: told once, kept once.
 */
#include "broker/crash_record.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned told;
static char told_why[64];

static void sink(enum ptn_log_level level, const char *event, const ptn_field *f, size_t n,
                 void *arg) {
    (void)arg;
    cr_expect_eq(level, PTN_LOG_ERROR);
    told += strcmp(event, "broker.crashed_before") == 0;
    for (size_t i = 0; i < n; i++)
        if (strcmp(f[i].key, "why") == 0)
            (void)snprintf(told_why, sizeof told_why, "%.*s", (int)f[i].s.n, f[i].s.p);
}

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    cr_assert_geq(fputs(text, f), 0);
    cr_assert_eq(fclose(f), 0);
}

static void read_file(const char *path, char *out, size_t bytes) {
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f, "%s", path);
    out[fread(out, 1, bytes - 1, f)] = '\0';
    (void)fclose(f);
}

Test(crash_record, is_told_once_and_the_last_one_is_kept) {
    char dir[] = "/tmp/ptn-record-XXXXXX", now[64], before[64], text[256];
    struct config_error why;
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(now, sizeof now, "%s/crash.txt", dir);
    (void)snprintf(before, sizeof before, "%s/crash-previous.txt", dir);
    ptn_log_set_sink(sink, NULL);
    cr_expect_eq(crash_record_open(dir, &why), 0);
    cr_expect_eq(told, 0, "nothing has happened yet");
    for (unsigned i = 1; i <= 2; i++) {
        (void)snprintf(text, sizeof text,
                       "postern crash record\nversion: 1\nwhy: reason %u\nthread: x\n", i);
        write_file(now, text);
        for (unsigned start = 0; start < 2; start++)
            cr_expect_eq(crash_record_open(dir, &why), 0);
        cr_expect_eq(told, i, "once for each record");
        char want[16], kept[256];
        (void)snprintf(want, sizeof want, "reason %u", i);
        cr_expect_str_eq(told_why, want);
        read_file(before, kept, sizeof kept);
        cr_expect_str_eq(kept, text);
        cr_expect_neq(access(now, F_OK), 0);
    }
    (void)unlink(before);
    cr_expect_eq(rmdir(dir), 0, "nothing else was left behind");
}

Test(crash_record, lines_are_found_whatever_the_file_holds) {
    char v[8];
    cr_expect(crash_record_find("a: 1\nwhy: it\nwhy: no\n", "why: ", v, sizeof v));
    cr_expect_str_eq(v, "it");
    cr_expect(crash_record_find("why: longer than that", "why: ", v, sizeof v));
    cr_expect_str_eq(v, "longer ");
    cr_expect_not(crash_record_find("", "why: ", v, sizeof v));
    cr_expect_eq(v[0], 0);
    cr_expect_not(crash_record_find("wh\n\n not why: x", "why: ", v, sizeof v));
}
