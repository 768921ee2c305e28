/* SPDX-License-Identifier: Apache-2.0
 *
 * ws_upgrade_test.c - the opening handshake: what is refused, which subprotocol is taken, the
 * accept key.
 */
#include <criterion/criterion.h>

#include "protocols/ws/internal.h"

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="

Test(ws_upgrade, accept_key_of_the_rfc) {
    char out[WS_ACCEPT_LEN + 1];
    ws__accept_key(PTN_STR(KEY), out);
    cr_assert_str_eq(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

Test(ws_upgrade, subprotocols) {
    static const struct {
        const char *list;
        enum ws_subprotocol expected;
    } cases[] = {
        {"", WS_SUB_NONE},
        {"postern.v1.json", WS_SUB_JSON},
        {"postern.v1.msgpack", WS_SUB_MSGPACK},
        {"postern.v1.msgpack, postern.v1.json", WS_SUB_MSGPACK},
        {"postern.v1.json,postern.v1.msgpack", WS_SUB_JSON},
        {"graphql-ws ,\tpostern.v1.msgpack ", WS_SUB_MSGPACK},
        {"graphql-ws", WS_SUB_UNKNOWN},
        {"Postern.V1.Json", WS_SUB_UNKNOWN},
        {"postern.v1.json2", WS_SUB_UNKNOWN},
        {"postern.v1", WS_SUB_UNKNOWN},
        {",", WS_SUB_UNKNOWN},
        {" ", WS_SUB_UNKNOWN},
        {",postern.v1.json,", WS_SUB_JSON},
    };
    for (size_t i = 0; i < PTN_ARRAY_LEN(cases); i++)
        cr_expect_eq(ws__negotiate(ptn_str_of(cases[i].list)), cases[i].expected, "%s",
                     cases[i].list);
}

static int check(const char *key, const char *version, const char *protocols) {
    const ws_upgrade u = {
        .key = ptn_str_of(key), .version = ptn_str_of(version), .protocols = ptn_str_of(protocols)};
    const char *message = NULL;
    const int status = ws_upgrade_check(&u, &message);
    cr_expect_eq(status == 0, message == NULL, "a refusal has a message");
    return status;
}

Test(ws_upgrade, checks) {
    cr_expect_eq(check(KEY, "13", ""), 0);
    cr_expect_eq(check(KEY, "13", "postern.v1.json"), 0);
    cr_expect_eq(check(KEY, "13", "chat"), 400);
    cr_expect_eq(check(KEY, "", ""), 426);
    cr_expect_eq(check(KEY, "8", ""), 426);
    cr_expect_eq(check(KEY, "13, 13", ""), 426);
    cr_expect_eq(check("", "13", ""), 400);
    cr_expect_eq(check("short==", "13", ""), 400);
    cr_expect_eq(check("dGhlIHNhbXBsZSBub25jZQ=A", "13", ""), 400);
    cr_expect_eq(check("dGhlIHNhbXBsZSBub25jZ!==", "13", ""), 400);
    cr_expect_eq(check(KEY "A", "13", ""), 400);
}
