/* SPDX-License-Identifier: Apache-2.0
 *
 * keys_test.c - the data directory, the token key, the first account.
 */
#include "broker/keys.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], data[96], key_path[128];

static void setup(void) {
    (void)snprintf(dir, sizeof dir, "/tmp/postern-keys-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(data, sizeof data, "%s/a/data", dir);
    (void)snprintf(key_path, sizeof key_path, "%s/keys/token.key", data);
    unsetenv("POSTERN_ADMIN_PASSWORD");
    unsetenv("POSTERN_ADMIN_PASSWORD_FILE");
}

static void remove_tree(const char *name) {
    char path[160];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)remove(path);
}

static void teardown(void) {
    static const char *const names[] = {"a/data/keys/token.key",
                                        "a/data/keys",
                                        "a/data/postern.db",
                                        "a/data/postern.db-wal",
                                        "a/data/postern.db-shm",
                                        "a/data/reserve",
                                        "a/data",
                                        "a",
                                        "secret",
                                        ""};
    for (size_t i = 0; i < PTN_ARRAY_LEN(names); i++)
        remove_tree(names[i]);
    cr_expect_neq(access(dir, F_OK), 0, "nothing but what we know was left behind");
}

TestSuite(keys, .init = setup, .fini = teardown);

static mode_t mode_of(const char *path) {
    struct stat st;
    cr_assert_eq(stat(path, &st), 0, "%s", path);
    return st.st_mode & 07777;
}

static void write_text(const char *path, const char *text, mode_t mode) {
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
    cr_assert_eq(chmod(path, mode), 0);
}

Test(keys, first_start_makes_private_files_and_keeps_the_key) {
    uint8_t a[KEYS_TOKEN_BYTES], b[KEYS_TOKEN_BYTES], zero[KEYS_TOKEN_BYTES] = {0};
    struct config_error e;
    cr_assert_eq(keys_prepare_data(data, &e), 0, "%s", e.text);
    cr_assert_eq(keys_prepare_data(data, &e), 0, "again: %s", e.text);
    cr_expect_eq(mode_of(data), 0700);
    cr_assert_eq(keys_load(data, a, &e), 0, "%s", e.text);
    cr_expect_eq(mode_of(key_path), 0600);
    cr_assert_eq(keys_load(data, b, &e), 0, "%s", e.text);
    cr_expect_eq(memcmp(a, b, sizeof a), 0);
    cr_expect_neq(memcmp(a, zero, sizeof a), 0);
}

Test(keys, a_readable_key_is_refused_with_advice) {
    uint8_t key[KEYS_TOKEN_BYTES];
    struct config_error e;
    cr_assert_eq(keys_prepare_data(data, &e), 0);
    cr_assert_eq(keys_load(data, key, &e), 0);
    static const mode_t modes[] = {0640, 0604, 0660, 0610};
    for (size_t i = 0; i < PTN_ARRAY_LEN(modes); i++) {
        cr_assert_eq(chmod(key_path, modes[i]), 0);
        cr_expect_eq(keys_load(data, key, &e), -PTN_EACCESS, "mode %o", modes[i]);
        cr_expect_not_null(strstr(e.text, "chmod 600"), "%s", e.text);
    }
    cr_assert_eq(chmod(key_path, 0400), 0);
    cr_expect_eq(keys_load(data, key, &e), 0);
}

Test(keys, a_damaged_key_is_refused_and_not_replaced) {
    static const char *const texts[] = {
        "", "abc", "zz", "0000000000000000000000000000000000000000000000000000000000000000x",
        "000000000000000000000000000000000000000000000000000000000000000g\n"};
    uint8_t key[KEYS_TOKEN_BYTES];
    struct config_error e;
    cr_assert_eq(keys_prepare_data(data, &e), 0);
    cr_assert_eq(keys_load(data, key, &e), 0);
    for (size_t i = 0; i < PTN_ARRAY_LEN(texts); i++) {
        write_text(key_path, texts[i], 0600);
        cr_expect_eq(keys_load(data, key, &e), -PTN_EPROTO, "%s", texts[i]);
        cr_expect_not_null(strstr(e.text, "restore it"), "%s", e.text);
    }
}

Test(keys, two_first_starts_end_up_with_one_key) {
    struct config_error e;
    uint8_t keys[4][KEYS_TOKEN_BYTES];
    int pipes[4][2];
    cr_assert_eq(keys_prepare_data(data, &e), 0);
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(pipe(pipes[i]), 0);
        if (fork() == 0) {
            uint8_t key[KEYS_TOKEN_BYTES];
            if (keys_load(data, key, &e) == 0)
                (void)!write(pipes[i][1], key, sizeof key);
            _exit(0);
        }
        close(pipes[i][1]);
    }
    for (int i = 0; i < 4; i++) {
        cr_expect_eq(read(pipes[i][0], keys[i], sizeof keys[i]), (ssize_t)sizeof keys[i]);
        cr_expect_eq(memcmp(keys[i], keys[0], sizeof keys[0]), 0, "process %d", i);
        close(pipes[i][0]);
    }
    while (wait(NULL) > 0)
        ;
}

Test(keys, a_data_directory_that_others_write_to_is_refused) {
    struct config_error e;
    cr_assert_eq(keys_prepare_data(data, &e), 0);
    cr_assert_eq(chmod(data, 0770), 0);
    cr_expect_eq(keys_prepare_data(data, &e), -PTN_EACCESS);
    cr_expect_not_null(strstr(e.text, "chmod go-w"), "%s", e.text);
    cr_assert_eq(chmod(data, 0755), 0);
    cr_expect_eq(keys_prepare_data(data, &e), 0);
    cr_expect_eq(keys_prepare_data("/dev/null/x", &e), -PTN_EIO);
    cr_expect_eq(keys_prepare_data("/dev/null", &e), -PTN_EIO);
}

/* ---- accounts ---------------------------------------------------------------------------------
 */

static store_db *open_db(void) {
    struct config_error e;
    store_db *db = NULL;
    cr_assert_eq(keys_prepare_data(data, &e), 0, "%s", e.text);
    cr_assert_eq(keys_open_database(data, &db, &e), 0, "%s", e.text);
    return db;
}

Test(keys, first_start_makes_admin_and_tells_once) {
    struct config_error e;
    struct keys_user user;
    char *told = NULL;
    size_t n = 0;
    store_db *db = open_db();
    FILE *tell = open_memstream(&told, &n);
    cr_assert_eq(bootstrap_admin(db, tell, &e), 0, "%s", e.text);
    fflush(tell);
    cr_expect_not_null(strstr(told, "admin"));
    size_t before = n;
    cr_assert_eq(bootstrap_admin(db, tell, &e), 0, "%s", e.text);
    fclose(tell);
    cr_expect_eq(n, before, "nothing is told the second time");
    cr_assert_eq(keys_user_find(db, PTN_STR("admin"), &user, &e), 0, "%s", e.text);
    cr_expect_eq(user.roles, PTN_ROLE_USER | PTN_ROLE_ADMIN);
    free(told);
    store_db_close(db);
}

Test(keys, the_first_password_may_come_from_outside) {
    struct config_error e;
    char *told = NULL, path[96];
    size_t n = 0;
    store_db *db = open_db();
    FILE *tell = open_memstream(&told, &n);
    (void)snprintf(path, sizeof path, "%s/secret", dir);
    write_text(path, "", 0600);
    setenv("POSTERN_ADMIN_PASSWORD_FILE", path, 1);
    cr_expect_eq(bootstrap_admin(db, tell, &e), -PTN_EINVAL, "an empty file is no password");
    setenv("POSTERN_ADMIN_PASSWORD_FILE", "/nowhere", 1);
    cr_expect_lt(bootstrap_admin(db, tell, &e), 0);
    cr_expect_not_null(strstr(e.text, "POSTERN_ADMIN_PASSWORD_FILE: /nowhere"), "%s", e.text);
    setenv("POSTERN_ADMIN_PASSWORD_FILE", path, 1);
    write_text(path, "from a file\r\nmore\n", 0600);
    cr_assert_eq(bootstrap_admin(db, tell, &e), 0, "%s", e.text);
    fclose(tell);
    cr_expect_eq(n, 0, "a given password is never shown: %s", told);
    free(told);
    store_db_close(db);
}

Test(keys, accounts_are_checked) {
    struct config_error e;
    struct keys_user user;
    store_db *db = open_db();
    cr_assert_eq(
        keys_user_add(db, PTN_STR("ann"), (ptn_str){0}, PTN_ROLE_USER, PTN_STR("home"), &e), 0,
        "%s", e.text);
    cr_expect_eq(keys_user_add(db, PTN_STR("ann"), (ptn_str){0}, PTN_ROLE_USER, (ptn_str){0}, &e),
                 -PTN_EEXIST);
    cr_expect_eq(keys_user_add(db, PTN_STR("a b"), (ptn_str){0}, PTN_ROLE_USER, (ptn_str){0}, &e),
                 -PTN_EINVAL);
    cr_expect_eq(keys_user_add(db, PTN_STR("bob"), (ptn_str){0}, PTN_ROLE_USER, PTN_STR("a b"), &e),
                 -PTN_EINVAL);
    cr_expect_eq(keys_user_find(db, PTN_STR("bob"), &user, &e), -PTN_ENOTFOUND);
    cr_expect_not_null(strstr(e.text, "user list"));
    cr_assert_eq(keys_user_find(db, PTN_STR("ann"), &user, &e), 0);
    cr_expect_str_eq(user.household, "home");
    cr_expect_eq(keys_user_password(db, PTN_STR("ann"), PTN_STR("new password"), &e), 0, "%s",
                 e.text);
    cr_expect_eq(keys_user_password(db, PTN_STR("bob"), PTN_STR("new password"), &e),
                 -PTN_ENOTFOUND);
    store_db_close(db);
}

Test(keys, room_for_a_start_is_kept) {
    char path[128];
    struct config_error e;
    struct stat st;
    cr_assert_eq(keys_prepare_data(data, &e), 0, "%s", e.text);
    (void)snprintf(path, sizeof path, "%s/reserve", data);
    keys_reserve_release(data); /* there is none */
    keys_reserve_make(data, /* last= */ true);
    cr_assert_eq(stat(path, &st), 0);
    cr_expect_eq(st.st_size, 1 << 20);
    cr_expect_geq((int64_t)st.st_blocks * 512, 1 << 20, "not a hole");
    keys_reserve_make(data, /* last= */ true);
    keys_reserve_release(data);
    cr_expect_lt(stat(path, &st), 0);
}

Test(keys, secrets_are_one_bounded_line) {
    char path[96], buf[8];
    struct config_error e;
    (void)snprintf(path, sizeof path, "%s/secret", dir);
    write_text(path, "abc\ndef", 0600);
    cr_expect_eq(keys_read_secret(path, buf, sizeof buf, &e), 3);
    write_text(path, "abc", 0600);
    cr_expect_eq(keys_read_secret(path, buf, sizeof buf, &e), 3);
    write_text(path, "1234567\n", 0600);
    cr_expect_eq(keys_read_secret(path, buf, sizeof buf, &e), 7);
    write_text(path, "12345678\n", 0600);
    cr_expect_eq(keys_read_secret(path, buf, sizeof buf, &e), -PTN_ETOOBIG);
    cr_expect_eq(keys_read_secret("/nonexistent", buf, sizeof buf, &e), -PTN_EIO);
}
