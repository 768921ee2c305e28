/* SPDX-License-Identifier: Apache-2.0
 *
 * users.h - the users actor: accounts, preferences, households (routes /users and /admin/users).
 */
#ifndef POSTERN_ACTORS_USERS_H
#define POSTERN_ACTORS_USERS_H

#include <postern/messages.h>

typedef struct users_config {
    const ptn_directory *directory;
    uint32_t hashings_max; /* passwords hashed at the same time; 0: 8 */
    uint8_t id_key[32];    /* secret of the installation: idempotency.h */
} users_config;

#define USERNAME_BYTES_MAX 64
#define HOUSEHOLD_BYTES_MAX 64

/* NULL: fine; otherwise what is wrong, for people.  The command line checks with the same
 * functions. */
const char *username_check(ptn_str name);
const char *password_check(ptn_str password);
const char *household_check(ptn_str household);

extern const ptn_actor_ops users_actor; /* arg: users_config, which outlives it */

#endif
