/* SPDX-License-Identifier: Apache-2.0
 *
 * testing.h - what the codec's unit tests share: conversions in one call, and the sample data.
 */
#ifndef POSTERN_CODEC_TESTING_H
#define POSTERN_CODEC_TESTING_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include <criterion/criterion.h>
#include <postern/codec.h>

#define BYTES(...)                                                                                 \
    ((ptn_bytes){(const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})})
#define BYTES_OF(literal) ((ptn_bytes){(const uint8_t *)"" literal, sizeof(literal) - 1})

/* JSON to msgpack with a fresh parser.  NULL: refused with *ret_err and *reterr. */
static inline ptn_buf *testing_pack_json(ptn_str json, const ptn_codec_limits *limits, int *ret_err,
                                         ptn_codec_error *reterr) {
    ptn_json_parser *p = ptn_json_parser_new();
    ptn_pack w;
    ptn_pack_init(&w, 0);
    *ret_err = ptn_json_to_msgpack(p, json, limits, &w, reterr);
    ptn_json_parser_free(p);
    if (*ret_err == 0)
        return ptn_pack_finish(&w);
    ptn_pack_abort(&w);
    return NULL;
}

/* A copy of exactly n bytes on the heap, so that the address sanitizer sees one byte too far. */
static inline uint8_t *testing_tight_copy(const void *p, size_t n) {
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    cr_assert_not_null(copy);
    if (n > 0)
        memcpy(copy, p, n);
    return copy;
}

/* The folder of sample data, below which sub names one; false when it is not there. */
static inline bool testing_data_path(const char *sub, char *ret_path, size_t path_bytes) {
    const char *shared = getenv("POSTERN_SHARED");
    (void)snprintf(ret_path, path_bytes, "%s/data/%s", shared != NULL ? shared : "../shared", sub);
    DIR *d = opendir(ret_path);
    if (d == NULL)
        return false;
    (void)closedir(d);
    return true;
}

/* The whole file; free() it. */
static inline uint8_t *testing_read_file(const char *path, size_t *ret_n) {
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f, "cannot open %s", path);
    cr_assert_eq(fseek(f, 0, SEEK_END), 0);
    long n = ftell(f);
    cr_assert_geq(n, 0);
    rewind(f);
    uint8_t *p = malloc((size_t)n + 1);
    cr_assert_not_null(p);
    cr_assert_eq(fread(p, 1, (size_t)n, f), (size_t)n);
    (void)fclose(f);
    *ret_n = (size_t)n;
    return p;
}

#endif
