/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_user.c - `postern user add|list|passwd`: accounts, straight in the database.
 *
 * SQLite's WAL and its busy timeout let this run beside a broker; the broker keeps no copy of
 * accounts.
 */
#include "broker/cli.h"
#include "broker/keys.h"

#include "actors/password.h"

#include <sodium.h>
#include <termios.h>
#include <unistd.h>

#include "broker/suggest.h"

#define LIST_PAGE 200u

static const struct cli_option add_options[] = {
    {"role", "ROLE", true}, {"password-file", "FILE", false}, {"household", "HOUSEHOLD", false}};
static const struct cli_option passwd_options[] = {{"password-file", "FILE", false}};

#define ADD_USAGE "user add NAME [--role ROLE]... [--password-file FILE] [--household HOUSEHOLD]"
#define LIST_USAGE "user list"
#define PASSWD_USAGE "user passwd NAME [--password-file FILE]"

/* ---- passwords --------------------------------------------------------------------------------
 */

/* One line of standard input, echo off when it is a terminal.  Its length, or negative. */
static int read_line(const char *prompt, char *buf, size_t buf_bytes) {
    struct termios before, quiet;
    bool terminal = isatty(STDIN_FILENO) != 0 && tcgetattr(STDIN_FILENO, &before) == 0;
    if (terminal) {
        quiet = before;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        /* Echo goes before the prompt comes: whoever answers at once is not shown, nor flushed
         * away. */
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
        fputs(prompt, stderr);
    }
    size_t n = 0;
    char c = 0;
    ssize_t got = 0;
    /* byte by byte: what comes after the line belongs to somebody else, and no stdio buffer keeps
     * it */
    while ((got = read(STDIN_FILENO, &c, 1)) == 1 && c != '\n' && n < buf_bytes)
        buf[n++] = c;
    if (terminal) {
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
        fputc('\n', stderr);
    }
    if (got < 0 || (n == buf_bytes && c != '\n'))
        return -PTN_EINVAL;
    if (n > 0 && buf[n - 1] == '\r')
        n--;
    return (int)n;
}

/* From --password-file, else from the terminal (twice), else one line of standard input.  Its
 * length, or -1 after the message was printed. */
static int read_password(const struct cli *c, char buf[PASSWORD_BYTES_MAX + 1]) {
    const char *file = cli_value(c, "password-file");
    struct config_error why = {""};
    int n;
    if (file != NULL) {
        n = keys_read_secret(file, buf, PASSWORD_BYTES_MAX + 1, &why);
        if (n < 0) {
            (void)cli_fail(CLI_FAILED, "%s: --password-file: %s", c->command, why.text);
            return -1;
        }
    } else {
        n = read_line("Password: ", buf, PASSWORD_BYTES_MAX + 1);
        if (n > 0 && isatty(STDIN_FILENO) != 0) {
            char again[PASSWORD_BYTES_MAX + 1];
            int m = read_line("Again: ", again, sizeof again);
            bool same = m == n && sodium_memcmp(buf, again, (size_t)n) == 0;
            sodium_memzero(again, sizeof again);
            if (!same) {
                (void)cli_fail(CLI_FAILED, "%s: the two passwords differ; start again", c->command);
                return -1;
            }
        }
    }
    if (n <= 0 || n > PASSWORD_BYTES_MAX || memchr(buf, 0, (size_t)n) != NULL) {
        (void)cli_fail(CLI_FAILED,
                       "%s: a password of 1 to %d bytes is needed: type it, pipe one line, or use "
                       "--password-file",
                       c->command, PASSWORD_BYTES_MAX);
        return -1;
    }
    if (n < PASSWORD_BYTES_MIN)
        fprintf(stderr, "postern: warning: the password is shorter than %d bytes\n",
                PASSWORD_BYTES_MIN);
    return n;
}

/* ---- the database -----------------------------------------------------------------------------
 */

/* Configuration, data directory and database of a subcommand; 0 or an exit code. */
static int open_database(const struct cli *c, store_db **ret_db) {
    struct postern_config config;
    struct config_error why = {""};
    int code = cli_load_config(c, &config);
    if (code != 0)
        return code;
    if (keys_prepare_data(config.data, &why) < 0 ||
        keys_open_database(config.data, ret_db, &why) < 0)
        code = cli_fail(CLI_FAILED, "%s: %s", c->command, why.text);
    config_done(&config);
    return code;
}

/* ---- add --------------------------------------------------------------------------------------
 */

/* Roles from --role flags (lists with commas too); none given: user.  0 or an exit code. */
static int read_roles(const struct cli *c, uint32_t *ret_roles) {
    static const char *const names[] = {
#define XX(id, name, bit) name,
        PTN_ROLE_MAP(XX)
#undef XX
    };
    uint32_t roles = 0;
    for (size_t i = 0; i < c->n_given; i++) {
        if (strcmp(c->given[i].name, "role") != 0)
            continue;
        const char *name = c->given[i].value;
        uint32_t role = ptn_role_of(ptn_str_of(name));
        if (role == 0)
            return cli_fail(CLI_USAGE,
                            "%s: no such role \"%.32s\"; did you mean %s? (user, admin, service)",
                            c->command, name, suggest_nearest(name, names, PTN_ARRAY_LEN(names)));
        roles |= role;
    }
    *ret_roles = roles == 0 ? PTN_ROLE_USER : roles;
    return 0;
}

static int user_add(int argc, char **argv) {
    struct cli c = {
        .command = "user add", .options = add_options, .n_options = PTN_ARRAY_LEN(add_options)};
    int code = cli_parse(&c, argc, argv);
    if (code == 0 && c.help) {
        puts("usage: postern " ADD_USAGE);
        return CLI_OK;
    }
    uint32_t roles = 0;
    if (code == 0)
        code = cli_expect_names(&c, 1, ADD_USAGE);
    if (code == 0)
        code = read_roles(&c, &roles);
    if (code != 0)
        return code;
    store_db *db = NULL;
    char password[PASSWORD_BYTES_MAX + 1];
    code =
        open_database(&c, &db); /* before the question: a wrong directory should not cost typing */
    if (code != 0)
        return code;
    int n = read_password(&c, password);
    struct config_error why = {""};
    if (n < 0)
        code = CLI_FAILED;
    else if (keys_user_add(db, ptn_str_of(c.names[0]), (ptn_str){password, (size_t)n}, roles,
                           ptn_str_of(cli_value(&c, "household")), &why) < 0)
        code = cli_fail(CLI_FAILED, "%s: %.64s: %s", c.command, c.names[0], why.text);
    sodium_memzero(password, sizeof password);
    store_db_close(db);
    return code;
}

/* ---- list -------------------------------------------------------------------------------------
 */

static void print_user(const struct keys_user *user) {
    static const struct {
        const char *name;
        uint32_t bit;
    } names[] = {
#define XX(id, name, bit) {name, bit},
        PTN_ROLE_MAP(XX)
#undef XX
    };
    char roles[64] = "", created[PTN_TIMESTAMP_LEN + 1];
    size_t at = 0;
    for (size_t i = 0; i < PTN_ARRAY_LEN(names); i++)
        if ((user->roles & names[i].bit) != 0)
            at += (size_t)snprintf(roles + at, sizeof roles - at, "%s%s", at > 0 ? "," : "",
                                   names[i].name);
    ptn_timestamp_format(user->created_ms, created);
    printf("%-20s %-36s %-12s %-12s %s\n", user->name, user->id, at > 0 ? roles : "-",
           user->household[0] != '\0' ? user->household : "-", created);
}

/* One page behind `after`; returns how many were printed, or negative. */
static int print_page(store_db *db, char after[65], struct config_error *why) {
    ptn_buf *users = NULL;
    struct keys_user user;
    int err = keys_user_list(db, ptn_str_of(after), LIST_PAGE, &users, why);
    if (err < 0)
        return err;
    ptn_unpack u = ptn_unpack_of(ptn_buf_bytes(users));
    uint32_t n = 0;
    bool good = ptn_unpack_array(&u, &n);
    for (uint32_t i = 0; i < n && good; i++) {
        good = keys_user_unpack(&u, &user);
        if (good) {
            print_user(&user);
            memcpy(after, user.name, sizeof user.name);
        }
    }
    ptn_buf_unref(users);
    return good ? (int)n : -PTN_EIO;
}

static int user_list(int argc, char **argv) {
    struct cli c = {.command = "user list"};
    int code = cli_parse(&c, argc, argv);
    if (code == 0 && c.help) {
        puts("usage: postern " LIST_USAGE);
        return CLI_OK;
    }
    if (code == 0)
        code = cli_expect_names(&c, 0, LIST_USAGE);
    store_db *db = NULL;
    if (code == 0)
        code = open_database(&c, &db);
    if (code != 0)
        return code;
    struct config_error why = {"the database gave a damaged list of accounts"};
    char after[65] = "";
    int n;
    printf("%-20s %-36s %-12s %-12s %s\n", "NAME", "ID", "ROLES", "HOUSEHOLD", "CREATED");
    do
        n = print_page(db, after, &why);
    while (n > 0);
    store_db_close(db);
    if (n < 0)
        return cli_fail(CLI_FAILED, "%s: %s", c.command, why.text);
    return fflush(stdout) == 0
               ? CLI_OK
               : cli_fail(CLI_FAILED, "%s: cannot write to standard output", c.command);
}

/* ---- passwd -----------------------------------------------------------------------------------
 */

static int user_passwd(int argc, char **argv) {
    struct cli c = {.command = "user passwd",
                    .options = passwd_options,
                    .n_options = PTN_ARRAY_LEN(passwd_options)};
    int code = cli_parse(&c, argc, argv);
    if (code == 0 && c.help) {
        puts("usage: postern " PASSWD_USAGE);
        return CLI_OK;
    }
    if (code == 0)
        code = cli_expect_names(&c, 1, PASSWD_USAGE);
    store_db *db = NULL;
    if (code == 0)
        code = open_database(&c, &db);
    if (code != 0)
        return code;
    struct config_error why = {""};
    struct keys_user user;
    char password[PASSWORD_BYTES_MAX + 1];
    if (keys_user_find(db, ptn_str_of(c.names[0]), &user, &why) < 0) {
        code = cli_fail(CLI_FAILED, "%s: %s", c.command, why.text);
    } else {
        int n = read_password(&c, password);
        if (n < 0)
            code = CLI_FAILED;
        else if (keys_user_password(db, ptn_str_of(c.names[0]), (ptn_str){password, (size_t)n},
                                    &why) < 0)
            code = cli_fail(CLI_FAILED, "%s: %s", c.command, why.text);
        sodium_memzero(password, sizeof password);
    }
    store_db_close(db);
    return code;
}

int cmd_user(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } commands[] = {{"add", user_add}, {"list", user_list}, {"passwd", user_passwd}};
    static const char *const names[] = {"add", "list", "passwd"};
    if (argc >= 1 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0)) {
        puts("usage: postern " ADD_USAGE "\n       postern " LIST_USAGE
             "\n       postern " PASSWD_USAGE);
        return CLI_OK;
    }
    if (argc < 1)
        return cli_fail(CLI_USAGE, "user: say add, list or passwd");
    for (size_t i = 0; i < PTN_ARRAY_LEN(commands); i++)
        if (strcmp(argv[0], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    return cli_fail(CLI_USAGE, "user: unknown subcommand \"%.32s\"; did you mean user %s?", argv[0],
                    suggest_nearest(argv[0], names, PTN_ARRAY_LEN(names)));
}
