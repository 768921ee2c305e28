/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_token.c - `postern token NAME`: one access token for an existing account, signed with the key
 * of the data directory.
 *
 * Such a token has no session: it cannot be refreshed or revoked, and ends at its expiry.
 */
#include "broker/cli.h"
#include "broker/keys.h"

#include "actors/jwt.h"

#include <sodium.h>
#include <time.h>

#include "broker/config_internal.h"

#define USAGE "token NAME [--ttl 1h]"
#define TTL_DEFAULT_NS (3600 * PTN_SEC)
#define TTL_MAX_NS (UINT64_C(366) * 86400 * PTN_SEC)

static int sign(const uint8_t key[KEYS_TOKEN_BYTES], const struct keys_user *user, uint64_t ttl_ns,
                char token[JWT_BYTES_MAX]) {
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    int64_t now_ms = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
    uint8_t random[10];
    char jti[PTN_ULID_LEN + 1];
    randombytes_buf(random, sizeof random);
    ptn_ulid_make(now_ms, random, jti);
    ptn_principal p = {
        .user = ptn_str_of(user->id), .name = ptn_str_of(user->name), .roles = user->roles};
    return jwt_sign(key, KEYS_TOKEN_BYTES, &p, ptn_str_of(jti), now_ms,
                    now_ms + (int64_t)(ttl_ns / PTN_MS), token, JWT_BYTES_MAX);
}

static int make_token(const char *data, const char *name, uint64_t ttl_ns,
                      struct config_error *why) {
    store_db *db = NULL;
    struct keys_user user;
    uint8_t key[KEYS_TOKEN_BYTES];
    char token[JWT_BYTES_MAX];
    int err = keys_prepare_data(data, why);
    if (err == 0)
        err = keys_open_database(data, &db, why);
    if (err == 0)
        err = keys_user_find(db, ptn_str_of(name), &user, why);
    store_db_close(db);
    if (err == 0)
        err = keys_load(data, key, why);
    if (err < 0)
        return err;
    err = sign(key, &user, ttl_ns, token);
    sodium_memzero(key, sizeof key);
    if (err < 0)
        return config_fail(why, err, "%.64s: cannot be put into a token: %s", name,
                           ptn_err_text(err));
    if (puts(token) < 0 || fflush(stdout) != 0)
        return config_fail(why, -PTN_EIO, "cannot write to standard output");
    return 0;
}

int cmd_token(int argc, char **argv) {
    static const struct cli_option options[] = {{"ttl", "DURATION", false}};
    struct cli c = {.command = "token", .options = options, .n_options = PTN_ARRAY_LEN(options)};
    int code = cli_parse(&c, argc, argv);
    if (code == 0 && c.help) {
        puts("usage: postern " USAGE);
        return CLI_OK;
    }
    if (code == 0)
        code = cli_expect_names(&c, 1, USAGE);
    if (code != 0)
        return code;
    uint64_t ttl_ns = TTL_DEFAULT_NS;
    const char *ttl = cli_value(&c, "ttl");
    if (ttl != NULL &&
        (config_parse_duration(ttl, &ttl_ns) < 0 || ttl_ns < PTN_SEC || ttl_ns > TTL_MAX_NS))
        return cli_fail(CLI_USAGE,
                        "token: --ttl: \"%.32s\" is not a duration from 1s to 366d, such as 1h",
                        ttl);
    struct postern_config config;
    code = cli_load_config(&c, &config);
    if (code != 0)
        return code;
    struct config_error why = {""};
    if (make_token(config.data, c.names[0], ttl_ns, &why) < 0)
        code = cli_fail(CLI_FAILED, "token: %s", why.text);
    config_done(&config);
    return code;
}
