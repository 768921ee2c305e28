/* SPDX-License-Identifier: Apache-2.0
 *
 * login.h - what can be said of an access token at a time, for those who log in.
 */
#ifndef POSTERN_TESTS_SIM_LOGIN_H
#define POSTERN_TESTS_SIM_LOGIN_H

#include "client.h"

struct moment {
    int64_t wall_ms;
    ptn_time at;
};
struct moment moment_of(const struct client *c);
/* Nobody has set the wall clock since. */
bool clock_went_on(const struct client *c, struct moment since);

struct times {
    int64_t issued_ms, expires_ms;
};
struct times token_times(const char *token);
/* The id of its session, in every token of it. */
void login_session(const struct login *l, char out[160]);
/* From then until now. */
bool token_was_good(const struct client *c, const char *token, struct moment since);

#endif
