/* SPDX-License-Identifier: Apache-2.0
 *
 * accounts.c - adding accounts to an open database, and the first one at the first start.
 *
 * Secrets live in stack buffers that are wiped on every way out.
 */
#include "broker/keys.h"

#include "actors/password.h"
#include "actors/users.h"

#include <sodium.h>
#include <stdlib.h>
#include <time.h>

#include "broker/config_internal.h"

#define ADMIN_NAME "admin"
#define MADE_UP_CHARS 24 /* of 32 symbols: 120 bits */

static int64_t wall_ms(void) {
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Runs one STORE_* message; a reply of another kind becomes an error with its message. */
static int execute(store_db *db, uint32_t type, ptn_pack *w, uint32_t expected, ptn_buf **ret_reply,
                   struct config_error *reterr) {
    ptn_buf *payload = ptn_pack_finish(w);
    uint32_t reply_type = 0;
    ptn_buf *reply =
        payload == NULL ? NULL : store_db_execute(db, type, ptn_buf_bytes(payload), &reply_type);
    ptn_buf_unref(payload);
    if (reply_type == 0 && reply == NULL)
        return config_fail(reterr, -PTN_ENOMEM, "out of memory");
    if (reply_type == expected) {
        *ret_reply = reply;
        return 0;
    }
    ptn_problem p;
    int err = -PTN_EIO;
    if (reply_type != PTN_MSG_PROBLEM || !ptn_problem_unpack(ptn_buf_bytes(reply), &p)) {
        (void)config_fail(reterr, err, "the database gave an unexpected answer");
    } else {
        err = p.code == PTN_CODE_CONFLICT    ? -PTN_EEXIST
              : p.code == PTN_CODE_NOT_FOUND ? -PTN_ENOTFOUND
                                             : err;
        (void)config_fail(reterr, err, "%.*s", (int)p.message.n, p.message.p);
    }
    ptn_buf_unref(reply);
    return err;
}

int keys_user_add(store_db *db, ptn_str name, ptn_str password, uint32_t roles, ptn_str household,
                  struct config_error *reterr) {
    char hash[PASSWORD_HASH_BYTES] = "", id[PTN_ULID_LEN + 1];
    uint8_t entropy[10];
    const char *advice = username_check(name);
    if (advice != NULL)
        return config_fail(reterr, -PTN_EINVAL, "user name: %s", advice);
    advice = household.n == 0 ? NULL : household_check(household);
    if (advice != NULL)
        return config_fail(reterr, -PTN_EINVAL, "household: %s", advice);
    if (sodium_init() < 0)
        return config_fail(reterr, -PTN_EIO, "no source of random numbers");
    if (password.n > 0 && password_hash(password, hash, sizeof hash) < 0)
        return config_fail(reterr, -PTN_EINVAL,
                           "password: 1 to %d bytes, and 64 MiB of free memory",
                           PASSWORD_BYTES_MAX);
    randombytes_buf(entropy, sizeof entropy);
    ptn_ulid_make(wall_ms(), entropy, id);
    ptn_pack w;
    ptn_pack_init(&w, 512);
    ptn_pack_array(&w, 6);
    ptn_pack_cstr(&w, id);
    ptn_pack_str(&w, name);
    ptn_pack_str(&w, ptn_str_of(hash));
    ptn_pack_uint(&w, roles);
    ptn_pack_str_or_nil(&w, household);
    ptn_pack_int(&w, wall_ms());
    ptn_buf *reply = NULL;
    int err = execute(db, PTN_MSG_STORE_USER_ADD, &w, PTN_MSG_STORE_USER, &reply, reterr);
    ptn_buf_unref(reply);
    sodium_memzero(hash, sizeof hash);
    return err;
}

int keys_user_find(store_db *db, ptn_str name, struct keys_user *ret_user,
                   struct config_error *reterr) {
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 1);
    ptn_pack_str(&w, name);
    ptn_buf *reply = NULL;
    int err = execute(db, PTN_MSG_STORE_USER_BY_NAME, &w, PTN_MSG_STORE_USER, &reply, reterr);
    if (err < 0)
        return err == -PTN_ENOTFOUND
                   ? config_fail(reterr, err, "%.*s: no such account; see `postern user list`",
                                 (int)(name.n < 64 ? name.n : 64), name.p)
                   : err;
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(reply));
    if (!keys_user_unpack(&u, ret_user))
        err = config_fail(reterr, -PTN_EIO, "the database gave a damaged account");
    ptn_buf_unref(reply);
    return err;
}

/* Copies a text that must fit, terminated. */
static bool copy_text(ptn_str s, char *out, size_t out_bytes) {
    if (s.n >= out_bytes)
        return false;
    if (s.n > 0)
        memcpy(out, s.p, s.n);
    out[s.n] = '\0';
    return true;
}

bool keys_user_unpack(ptn_unpack *u, struct keys_user *ret_user) {
    uint32_t n;
    uint64_t roles;
    ptn_str id, name, hash, household;
    if (!ptn_unpack_array(u, &n) || n != 8 || !ptn_unpack_str(u, &id) ||
        !ptn_unpack_str(u, &name) || !ptn_unpack_str_or_nil(u, &hash) ||
        !ptn_unpack_uint(u, &roles) || !ptn_unpack_str_or_nil(u, &household) ||
        !ptn_unpack_int(u, &ret_user->created_ms) || !ptn_unpack_any(u, NULL) ||
        !ptn_unpack_any(u, NULL)) /* preferences, version */
        return false;
    ret_user->roles = (uint32_t)roles;
    return copy_text(id, ret_user->id, sizeof ret_user->id) &&
           copy_text(name, ret_user->name, sizeof ret_user->name) &&
           copy_text(household, ret_user->household, sizeof ret_user->household);
}

int keys_user_list(store_db *db, ptn_str after, uint32_t limit, ptn_buf **ret_users,
                   struct config_error *reterr) {
    ptn_pack w;
    ptn_pack_init(&w, 128);
    ptn_pack_array(&w, 2);
    ptn_pack_str_or_nil(&w, after);
    ptn_pack_uint(&w, limit);
    return execute(db, PTN_MSG_STORE_USER_LIST, &w, PTN_MSG_STORE_USERS, ret_users, reterr);
}

int keys_user_password(store_db *db, ptn_str name, ptn_str password, struct config_error *reterr) {
    struct keys_user user;
    char hash[PASSWORD_HASH_BYTES];
    int err = keys_user_find(db, name, &user, reterr);
    if (err < 0)
        return err;
    if (password_hash(password, hash, sizeof hash) < 0)
        return config_fail(reterr, -PTN_EINVAL,
                           "password: 1 to %d bytes, and 64 MiB of free memory",
                           PASSWORD_BYTES_MAX);
    ptn_pack w;
    ptn_pack_init(&w, 256);
    ptn_pack_array(&w, 3);
    ptn_pack_cstr(&w, user.id);
    ptn_pack_str(&w, ptn_str_of(hash));
    ptn_pack_int(&w, wall_ms());
    ptn_buf *reply = NULL;
    err = execute(db, PTN_MSG_STORE_USER_PASSWORD, &w, PTN_MSG_OK, &reply, reterr);
    ptn_buf_unref(reply);
    sodium_memzero(hash, sizeof hash);
    return err;
}

/* ---- first start ------------------------------------------------------------------------------
 */

/* Crockford's base 32: no letters that are taken for digits. */
static void make_up_password(char out[MADE_UP_CHARS + 1]) {
    static const char symbols[] = "0123456789abcdefghjkmnpqrstvwxyz";
    for (size_t i = 0; i < MADE_UP_CHARS; i++)
        out[i] = symbols[randombytes_uniform(sizeof symbols - 1)];
    out[MADE_UP_CHARS] = '\0';
}

/* 1 from the environment, 0 made up, or negative. */
static int admin_password(char *buf, size_t buf_bytes, size_t *ret_n, struct config_error *reterr) {
    const char *given = getenv("POSTERN_ADMIN_PASSWORD"),
               *file = getenv("POSTERN_ADMIN_PASSWORD_FILE");
    if (given != NULL && given[0] != '\0') {
        size_t n = strlen(given);
        if (n > PASSWORD_BYTES_MAX)
            return config_fail(reterr, -PTN_EINVAL, "POSTERN_ADMIN_PASSWORD: at most %d bytes",
                               PASSWORD_BYTES_MAX);
        memcpy(buf, given, n);
        *ret_n = n;
        return 1;
    }
    if (file != NULL && file[0] != '\0') {
        struct config_error why;
        int n = keys_read_secret(file, buf, buf_bytes, &why);
        if (n < 0)
            return config_fail(reterr, n, "POSTERN_ADMIN_PASSWORD_FILE: %s", why.text);
        if (n == 0)
            return config_fail(reterr, -PTN_EINVAL,
                               "POSTERN_ADMIN_PASSWORD_FILE: the first line is empty");
        *ret_n = (size_t)n;
        return 1;
    }
    make_up_password(buf);
    *ret_n = MADE_UP_CHARS;
    return 0;
}

int bootstrap_admin(store_db *db, FILE *tell, struct config_error *reterr) {
    ptn_buf *users = NULL;
    uint32_t n = 0;
    int err = keys_user_list(db, (ptn_str){0}, 1, &users, reterr);
    if (err < 0)
        return err;
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(users));
    bool good = ptn_unpack_array(&u, &n);
    ptn_buf_unref(users);
    if (!good)
        return config_fail(reterr, -PTN_EIO, "the database gave a damaged list of accounts");
    if (n > 0)
        return 0;
    if (sodium_init() < 0)
        return config_fail(reterr, -PTN_EIO, "no source of random numbers");
    char password[PASSWORD_BYTES_MAX + 1];
    size_t bytes = 0;
    int given = admin_password(password, sizeof password, &bytes, reterr);
    if (given < 0)
        return given;
    err = keys_user_add(db, PTN_STR(ADMIN_NAME), (ptn_str){password, bytes},
                        PTN_ROLE_USER | PTN_ROLE_ADMIN, (ptn_str){0}, reterr);
    if (err == 0 && given == 0) {
        fprintf(tell,
                "postern: first start: made the account \"" ADMIN_NAME "\" with the password %.*s\n"
                "postern: it is shown only now; change it with `postern user passwd " ADMIN_NAME
                "`\n",
                (int)bytes, password);
        (void)fflush(tell);
    }
    sodium_memzero(password, sizeof password);
    /* Another process that started at the same time was quicker: the account is there. */
    return err == -PTN_EEXIST ? 0 : err;
}
