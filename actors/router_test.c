/* SPDX-License-Identifier: Apache-2.0
 *
 * router_test.c - the route table: what matches, what does not, which methods a path has.
 */
#include "actors/router.h"

#include <criterion/criterion.h>

static int match(enum ptn_method m, const char *path, bool admin) {
    char allow[64];
    return router_match(m, ptn_str_of(path), admin, allow, sizeof allow);
}

Test(router, finds_routes_with_and_without_the_base_path) {
    cr_assert_eq(match(PTN_GET, "/health", false), PTN_MSG_ROUTE_HEALTH);
    cr_assert_eq(match(PTN_GET, "/api/v1/health", false), PTN_MSG_ROUTE_HEALTH);
    cr_assert_eq(match(PTN_POST, "/api/v1/conversations/messages", false), PTN_MSG_ROUTE_MSG_SEND);
    cr_assert_eq(match(PTN_POST, "/api/v1/conversations/01X/messages", false),
                 PTN_MSG_ROUTE_MSG_SEND_TO);
    cr_assert_eq(match(PTN_GET, "/api/v1/conversations/current", false), PTN_MSG_ROUTE_CONV_GET);
    cr_assert_eq(match(PTN_POST, "/api/v1/topics/a.b", false), PTN_MSG_ROUTE_TOPIC_POST);
}

Test(router, refuses_what_is_not_there) {
    static const char *const absent[] = {"/",
                                         "/api/v1",
                                         "/api/v1/",
                                         "/api/v1/healthz",
                                         "/api/v1/topics",
                                         "/api/v1/topics/",
                                         "/api/v1/topics/a/b",
                                         "/api/v2/health",
                                         "/api/v1/users/me/",
                                         "/x",
                                         ""};
    for (size_t i = 0; i < PTN_ARRAY_LEN(absent); i++)
        cr_assert_eq(match(PTN_GET, absent[i], false), 0, "%s", absent[i]);
}

Test(router, names_the_methods_of_a_path) {
    char allow[64] = "";
    cr_assert_eq(
        router_match(PTN_DELETE, PTN_STR("/api/v1/conversations"), false, allow, sizeof allow), -1);
    cr_assert_str_eq(allow, "GET, HEAD, POST, OPTIONS");
    cr_assert_eq(router_match(PTN_GET, PTN_STR("/api/v1/auth/login"), false, allow, sizeof allow),
                 -1);
    cr_assert_str_eq(allow, "POST, OPTIONS");
}

Test(router, probes_are_on_the_admin_listener_only) {
    cr_assert_eq(match(PTN_GET, "/metrics", false), 0);
    cr_assert_eq(match(PTN_GET, "/metrics", true), PTN_MSG_ROUTE_METRICS);
    cr_assert_eq(match(PTN_GET, "/livez", true), PTN_MSG_ROUTE_LIVEZ);
    cr_assert_eq(match(PTN_POST, "/livez", true), -1);
    cr_assert_eq(match(PTN_POST, "/livez", false), 0);
}
