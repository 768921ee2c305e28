/* SPDX-License-Identifier: Apache-2.0
 *
 * documents_test.c - the OpenAPI document beside the tables of messages.h: the same routes, the
 * same permissions, the same errors.  tests/system/apidoc_test.py looks at bodies and frames.
 */
#include "actors/documents.h"

#include <ctype.h>
#include <postern/codec.h>
#include <postern/messages.h>

#include <criterion/criterion.h>

#define BYTES_MAX (128u << 10) /* of a document: the program and each worker hold it */

static const struct {
    enum ptn_method method;
    const char *pattern, *permission;
} routes[] = {
#define XX(method, pattern, kind, permission, owner, shard) {PTN_##method, pattern, #permission},
    PTN_ROUTE_MAP(XX)
#undef XX
};

/* The document as msgpack; the caller gives it back. */
static ptn_buf *read_document(const struct document *d) {
    ptn_json_parser *parser = ptn_json_parser_new();
    ptn_codec_error error = {"no memory", 0};
    ptn_pack w;
    cr_assert_not_null(parser);
    ptn_pack_init(&w, d->text.n);
    int err = ptn_json_to_msgpack(parser, d->text, NULL, &w, &error);
    ptn_json_parser_free(parser);
    cr_assert_eq(err, 0, "%s, at %zu", error.what, error.offset);
    ptn_buf *b = ptn_pack_finish(&w);
    cr_assert_not_null(b);
    return b;
}

static ptn_bytes member(ptn_bytes map, const char *key) {
    ptn_bytes value;
    cr_assert(ptn_map_get(map, key, &value), "no member %s", key);
    return value;
}

static uint32_t count_of(ptn_bytes map) {
    ptn_unpack u = ptn_unpack_of(map);
    uint32_t n = 0;
    cr_assert(ptn_unpack_map(&u, &n));
    return n;
}

/* /a/{id}/b stands for /a/{}/b. */
static bool is_pattern(ptn_str path, const char *pattern) {
    size_t at = 0;
    for (; *pattern != '\0' && at < path.n; pattern++) {
        if (*pattern == '}')
            while (at < path.n && path.p[at] != '}')
                at++;
        if (at == path.n || path.p[at++] != *pattern)
            return false;
    }
    return *pattern == '\0' && at == path.n;
}

/* The path of the document that stands for a pattern. */
static ptn_bytes path_item(ptn_bytes paths, const char *pattern) {
    ptn_unpack u = ptn_unpack_of(paths);
    uint32_t n = 0;
    cr_assert(ptn_unpack_map(&u, &n));
    while (n-- > 0) {
        ptn_str path;
        ptn_bytes item;
        cr_assert(ptn_unpack_str(&u, &path) && ptn_unpack_any(&u, &item));
        if (is_pattern(path, pattern))
            return item;
    }
    cr_assert_fail("docs/openapi.json has no path %s", pattern);
    return (ptn_bytes){0};
}

static const char *lower(enum ptn_method m, char out[16]) {
    const char *name = ptn_method_name(m);
    size_t n = 0;
    for (; name[n] != '\0' && n < 15; n++)
        out[n] = (char)tolower((unsigned char)name[n]);
    out[n] = '\0';
    return out;
}

/* What `security` has to be, as msgpack. */
static ptn_bytes security_of(const char *permission) {
    static const char user[] = "\x91\x81\xa6"
                               "bearer\x90";
    static const char admin[] = "\x91\x81\xa6"
                                "bearer\x91\xa5"
                                "admin";
    if (strcmp(permission, "USER") == 0)
        return (ptn_bytes){(const uint8_t *)user, sizeof user - 1};
    if (strcmp(permission, "ADMIN") == 0)
        return (ptn_bytes){(const uint8_t *)admin, sizeof admin - 1};
    return (ptn_bytes){(const uint8_t *)"\x90", 1};
}

Test(documents, every_route_is_in_the_document) {
    ptn_buf *b = read_document(&document_openapi);
    ptn_bytes paths = member(ptn_buf_bytes(b), "paths"), operation, servers;
    char name[16];
    for (size_t i = 0; i < PTN_ARRAY_LEN(routes); i++) {
        ptn_bytes item = path_item(paths, routes[i].pattern);
        cr_assert(ptn_map_get(item, lower(routes[i].method, name), &operation), "no %s %s", name,
                  routes[i].pattern);
        ptn_bytes security = member(operation, "security"),
                  expected = security_of(routes[i].permission);
        cr_expect(security.n == expected.n && memcmp(security.p, expected.p, expected.n) == 0,
                  "security of %s %s", name, routes[i].pattern);
        cr_expect_eq(ptn_map_get(item, "servers", &servers),
                     strcmp(routes[i].permission, "PROBE") == 0, "servers of %s",
                     routes[i].pattern);
    }
    ptn_buf_unref(b);
}

Test(documents, every_operation_is_a_route) {
    ptn_buf *b = read_document(&document_openapi);
    ptn_unpack u = ptn_unpack_of(member(ptn_buf_bytes(b), "paths"));
    uint32_t paths = 0, operations = 0;
    cr_assert(ptn_unpack_map(&u, &paths));
    while (paths-- > 0) {
        ptn_str path;
        ptn_bytes item;
        cr_assert(ptn_unpack_str(&u, &path) && ptn_unpack_any(&u, &item));
        uint32_t members = count_of(item);
        ptn_unpack v = ptn_unpack_of(item);
        for ((void)ptn_unpack_map(&v, &members); members > 0; members--) {
            ptn_str key;
            cr_assert(ptn_unpack_str(&v, &key) && ptn_unpack_any(&v, NULL));
            operations += !ptn_str_eqz(key, "parameters") && !ptn_str_eqz(key, "servers");
        }
    }
    /* All routes are there, so one more is one that the router does not have. */
    cr_expect_eq(operations, PTN_ARRAY_LEN(routes));
    ptn_buf_unref(b);
}

Test(documents, errors_are_those_of_the_table) {
    ptn_buf *b = read_document(&document_openapi);
    ptn_bytes schemas = member(member(ptn_buf_bytes(b), "components"), "schemas");
    ptn_bytes code = member(schemas, "Code"), errors = member(code, "x-errors");
    ptn_unpack names = ptn_unpack_of(member(code, "enum"));
    uint32_t n = 0;
    cr_assert(ptn_unpack_array(&names, &n));
    cr_expect_eq(n, PTN_CODE_COUNT);
    cr_expect_eq(count_of(errors), PTN_CODE_COUNT);
    for (int i = 0; i < PTN_CODE_COUNT; i++) {
        const ptn_code_info *info = ptn_code_info_of(i);
        ptn_bytes error = member(errors, info->code);
        ptn_str name;
        uint64_t status = 0;
        bool retryable = !info->retryable;
        cr_expect(ptn_unpack_str(&names, &name) && ptn_str_eqz(name, info->code), "%s", info->code);
        cr_expect(ptn_map_get_uint(error, "status", &status) && (int)status == info->status, "%s",
                  info->code);
        cr_expect(ptn_map_get_bool(error, "retryable", &retryable) && retryable == info->retryable,
                  "%s", info->code);
    }
    ptn_buf_unref(b);
}

Test(documents, are_bounded_and_differ_in_their_tags) {
    cr_expect_lt(document_openapi.text.n, BYTES_MAX);
    cr_expect_lt(document_asyncapi.text.n, BYTES_MAX);
    cr_expect_eq(strlen(document_openapi.etag), 34u, "32 digits in quotes");
    cr_expect_str_neq(document_openapi.etag, document_asyncapi.etag);
}
