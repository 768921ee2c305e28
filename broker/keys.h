/* SPDX-License-Identifier: Apache-2.0
 *
 * keys.h - the data directory, the token key in it, and the first account.
 *
 * Main thread, before the runtime runs; also used by the command line.
 */
#ifndef POSTERN_BROKER_KEYS_H
#define POSTERN_BROKER_KEYS_H

#include "actors/store_db.h"
#include "broker/config.h"

#define KEYS_TOKEN_BYTES 32

/* Makes the data directory (0700, parents by their own umask) when it is absent; checks that it is
 * a directory of ours that others cannot write to.  0 or -PTN_EIO / -PTN_EACCESS. */
int keys_prepare_data(const char *data, struct config_error *reterr);

/* One broker on a data directory: takes <data>/lock until the process ends, however it ends.
 * -PTN_EEXIST: another broker has it.  ret_fd is only to be closed. */
int keys_lock_data(const char *data, int *ret_fd, struct config_error *reterr);

/* Reads <data>/keys/token.key, or makes it with fresh random bytes.  Two processes that start at
 * the same time end up with the same key.  -PTN_EACCESS: others can read it; -PTN_EPROTO: damaged.
 */
int keys_load(const char *data, uint8_t ret_key[KEYS_TOKEN_BYTES], struct config_error *reterr);

/* The path of the database below the data directory.  -PTN_ETOOBIG. */
int keys_database_path(const char *data, char *out, size_t out_bytes);
/* Opens it; a one-line reason on failure. */
int keys_open_database(const char *data, store_db **ret_db, struct config_error *reterr);

/* Before a broker opens it: when it is damaged, what can be read becomes a new one
 * (actors/store_salvage.h), which the log and a counter say.  0 or an error; -PTN_EFULL: there is
 * no room for that, the next start tries again, and perhaps it can be used as it is. */
int keys_salvage_database(const char *data, struct config_error *reterr);

/* A file `reserve` of 1 MiB keeps the room that a start needs on a full disk: the log's index and a
 * commit.  A start lets it go before it opens the database.  It is made again when the database is
 * open and the disk has plenty, and after an orderly end (`last`) whatever room there is. */
void keys_reserve_release(const char *data);
void keys_reserve_make(const char *data, bool last);

/* First start: when there is no user at all, makes `admin` (roles user and admin).  Its password
 * comes from POSTERN_ADMIN_PASSWORD, or the file named by POSTERN_ADMIN_PASSWORD_FILE, or is made
 * up and then written once to `tell` (never to the log).  0 also when there are users already. */
int bootstrap_admin(store_db *db, FILE *tell, struct config_error *reterr);

/* Adds an account; password may be empty: it cannot log in.  Name and household are checked.
 * -PTN_EEXIST: the name is taken; -PTN_EINVAL; -PTN_EIO. */
int keys_user_add(store_db *db, ptn_str name, ptn_str password, uint32_t roles, ptn_str household,
                  struct config_error *reterr);

struct keys_user {
    char id[65], name[65], household[65]; /* terminated; household may be empty */
    uint32_t roles;
    int64_t created_ms;
};
/* -PTN_ENOTFOUND: no such account. */
int keys_user_find(store_db *db, ptn_str name, struct keys_user *ret_user,
                   struct config_error *reterr);
/* One USER of the catalogue; false when it is damaged. */
bool keys_user_unpack(ptn_unpack *u, struct keys_user *ret_user);
/* STORE_USERS payload, ordered by name, starting behind `after` (n == 0: at the start). */
int keys_user_list(store_db *db, ptn_str after, uint32_t limit, ptn_buf **ret_users,
                   struct config_error *reterr);
int keys_user_password(store_db *db, ptn_str name, ptn_str password, struct config_error *reterr);

/* First line of a small file, without its line end, into buf.  Its length, or negative. */
int keys_read_secret(const char *path, char *buf, size_t buf_bytes, struct config_error *reterr);

#endif
