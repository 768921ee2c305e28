/* SPDX-License-Identifier: Apache-2.0
 *
 * store_testing.h - what the tests of the store and of its callers share: a directory of their own,
 * and catalogue messages written in one line.
 */
#ifndef POSTERN_ACTORS_STORE_TESTING_H
#define POSTERN_ACTORS_STORE_TESTING_H

#include "actors/store_db.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct test_dir {
    char path[64];
    char db[96];
};

static inline void test_dir_open(struct test_dir *d) {
    (void)snprintf(d->path, sizeof d->path, "/tmp/postern-test-XXXXXX");
    cr_assert_not_null(mkdtemp(d->path));
    (void)snprintf(d->db, sizeof d->db, "%s/postern.db", d->path);
}

static inline void test_dir_remove_file(const struct test_dir *d, const char *name) {
    char path[160];
    (void)snprintf(path, sizeof path, "%s/%s", d->path, name);
    (void)unlink(path);
}

static inline void test_dir_close(struct test_dir *d) {
    static const char *const names[] = {"postern.db", "postern.db-wal", "postern.db-shm",
                                        "copy.db",    "copy.db-wal",    "copy.db-shm"};
    for (size_t i = 0; i < PTN_ARRAY_LEN(names); i++)
        test_dir_remove_file(d, names[i]);
    cr_expect_eq(rmdir(d->path), 0, "the test directory is empty at the end");
}

/* One array from a format: s text, S text or nil (NULL), i integer (int64_t), n nil, b bin (text),
 * t true, f false, m map of one pair (two texts), [ and ] array (count after the bracket as int), e
 * empty map. */
static inline void pack_fmt(ptn_pack *w, const char *fmt, va_list ap) {
    uint32_t n = 0, depth = 0;
    for (const char *p = fmt; *p != '\0'; p++) {
        n += depth == 0 && *p != ']';
        depth += *p == '[';
        depth -= *p == ']';
    }
    ptn_pack_array(w, n);
    for (const char *p = fmt; *p != '\0'; p++) {
        const char *z;
        switch (*p) {
        case 's':
        case 'S':
            ptn_pack_cstr(w, va_arg(ap, const char *));
            break;
        case 'i':
            ptn_pack_int(w, va_arg(ap, int64_t));
            break;
        case 'n':
            ptn_pack_nil(w);
            break;
        case 't':
        case 'f':
            ptn_pack_bool(w, *p == 't');
            break;
        case 'b':
            z = va_arg(ap, const char *);
            ptn_pack_bin(w, (ptn_bytes){(const uint8_t *)z, strlen(z)});
            break;
        case 'm':
            ptn_pack_map(w, 1);
            ptn_pack_cstr(w, va_arg(ap, const char *));
            ptn_pack_cstr(w, va_arg(ap, const char *));
            break;
        case 'e':
            ptn_pack_map(w, 0);
            break;
        case '[':
            n = 0;
            for (const char *q = p + 1; *q != ']'; q++)
                n++;
            ptn_pack_array(w, n);
            break;
        default:
            break;
        }
    }
}

static inline ptn_buf *packed(const char *fmt, ...) {
    ptn_pack w;
    va_list ap;
    ptn_pack_init(&w, 256);
    va_start(ap, fmt);
    pack_fmt(&w, fmt, ap);
    va_end(ap);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_not_null(b);
    return b;
}

/* Element i of an encoded array; fails the test when there is none. */
static inline ptn_bytes element(ptn_bytes array, uint32_t i) {
    ptn_unpack u = ptn_unpack_of(array);
    uint32_t n;
    ptn_bytes v = {0};
    cr_assert(ptn_unpack_array(&u, &n));
    cr_assert_lt(i, n);
    for (uint32_t k = 0; k <= i; k++)
        cr_assert(ptn_unpack_any(&u, &v));
    return v;
}

static inline uint32_t count_of(ptn_bytes array) {
    ptn_unpack u = ptn_unpack_of(array);
    uint32_t n;
    cr_assert(ptn_unpack_array(&u, &n));
    return n;
}

static inline int64_t int_of(ptn_bytes v) {
    ptn_unpack u = ptn_unpack_of(v);
    int64_t i = 0;
    cr_assert(ptn_unpack_int(&u, &i));
    return i;
}

static inline bool bool_of(ptn_bytes v) {
    ptn_unpack u = ptn_unpack_of(v);
    bool b = false;
    cr_assert(ptn_unpack_bool(&u, &b));
    return b;
}

static inline ptn_str str_of(ptn_bytes v) {
    ptn_unpack u = ptn_unpack_of(v);
    ptn_str s = {"", 0};
    cr_assert(ptn_unpack_str(&u, &s));
    return s;
}

static inline bool str_is(ptn_bytes v, const char *z) {
    return ptn_str_eqz(str_of(v), z);
}

static inline bool map_str_is(ptn_bytes map, const char *key, const char *z) {
    ptn_str s;
    return ptn_map_get_str(map, key, &s) && ptn_str_eqz(s, z);
}

#endif
