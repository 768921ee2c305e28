/* SPDX-License-Identifier: Apache-2.0
 *
 * log_test.c - log lines: form, escaping, bounds, levels.
 */
#include "broker/log.h"

#include <postern/codec.h>

#include <criterion/criterion.h>

static const char *line(bool json, const ptn_field *f, size_t n) {
    static char out[LOG_LINE_BYTES + 1];
    size_t bytes = log_format_line(json, 1700000000123, PTN_LOG_WARN, "thing.happened", f, n, out);
    cr_assert_leq(bytes, LOG_LINE_BYTES);
    out[bytes] = '\0';
    cr_expect_eq(strchr(out, '\n'), out + bytes - 1, "exactly one line: %s", out);
    return out;
}

Test(log, both_forms) {
    const ptn_field f[] = {PTN_F_Z("who", "ann"), PTN_F_INT("n", -5), PTN_F_Z("why", "two words")};
    cr_expect_str_eq(line(true, f, 3),
                     "{\"ts\":\"2023-11-14T22:13:20.123Z\",\"level\":\"warn\",\"event\":"
                     "\"thing.happened\",\"who\":\"ann\",\"n\":-5,\"why\":\"two words\"}\n");
    cr_expect_str_eq(
        line(false, f, 3),
        "2023-11-14T22:13:20.123Z warn  thing.happened who=ann n=-5 why=\"two words\"\n");
}

Test(log, hostile_fields_cannot_forge_lines) {
    const ptn_field f[] = {PTN_F_STR("evil", PTN_STR("a\"b\\c\n2023 error forged\x1b[31m\x7f\0z")),
                           PTN_F_STR("bytes", PTN_STR("\xff\xfe")), PTN_F_Z("empty", ""),
                           PTN_F_Z("utf8", "\xc3\xa9")};
    ptn_json_parser *p = ptn_json_parser_new();
    ptn_codec_error e;
    ptn_pack w;
    const char *text = line(true, f, 4);
    ptn_pack_init(&w, 256);
    ptn_codec_limits limits = {0};
    /* NUL is well-formed JSON, but refused at our own border: check the rest of the line as JSON */
    char copy[LOG_LINE_BYTES];
    (void)snprintf(copy, sizeof copy, "%s", text);
    char *nul = strstr(copy, "\\u0000");
    cr_assert_not_null(nul);
    memcpy(nul, "\\u0020", 6);
    cr_expect_eq(ptn_json_to_msgpack(p, ptn_str_of(copy), &limits, &w, &e), 0, "%s", copy);
    ptn_pack_abort(&w);
    ptn_json_parser_free(p);
    text = line(false, f, 4);
    for (const char *c = text; c[1] != '\0'; c++)
        cr_expect_geq((unsigned char)*c, 0x20);
}

Test(log, long_fields_are_cut_and_say_so) {
    static char big[LOG_LINE_BYTES * 2];
    memset(big, '"', sizeof big - 1);
    const ptn_field f[] = {PTN_F_INT("a", 1), PTN_F_Z("big", big), PTN_F_INT("b", 2)};
    const char *text = line(true, f, 3);
    cr_expect_not_null(strstr(text, "\"a\":1,\"cut\":true}"), "%s", text);
    cr_expect_not_null(strstr(line(false, f, 3), "a=1 cut=true\n"));
}

static unsigned lines;
static void count_lines(enum ptn_log_level level, const char *event, const ptn_field *f, size_t n,
                        void *arg) {
    (void)event, (void)f, (void)n;
    lines += level <= *(enum ptn_log_level *)arg;
}

Test(log, the_level_decides) {
    enum ptn_log_level all = PTN_LOG_DEBUG;
    PTN_LOG(PTN_LOG_ERROR, "dropped.without.sink", PTN_F_INT("n", 1));
    ptn_log_set_sink(count_lines, &all);
    ptn_log_set_level(PTN_LOG_WARN);
    PTN_LOG(PTN_LOG_ERROR, "e", PTN_F_INT("n", 1));
    PTN_LOG(PTN_LOG_WARN, "w", PTN_F_INT("n", 1));
    PTN_LOG(PTN_LOG_INFO, "i", PTN_F_INT("n", 1));
    cr_expect_eq(lines, 2);
    ptn_log_set_level(PTN_LOG_DEBUG);
    PTN_LOG(PTN_LOG_DEBUG, "d", PTN_F_INT("n", 1));
    cr_expect_eq(lines, 3);
}
