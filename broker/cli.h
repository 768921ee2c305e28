/* SPDX-License-Identifier: Apache-2.0
 *
 * cli.h - the command line: what main.c and the cmd_*.c files share.
 *
 * Errors are one line on standard error that says what to do.  Arguments are read strictly: an
 * unknown flag is an error with the nearest known one.
 */
#ifndef POSTERN_BROKER_CLI_H
#define POSTERN_BROKER_CLI_H

#include "broker/config.h"

enum cli_exit { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_CONFIG = 78 /* EX_CONFIG */ };

#define CLI_FLAGS_MAX 64
#define CLI_NAMES_MAX 8

/* A flag of one subcommand. */
struct cli_option {
    const char *name;  /* "password-file" */
    const char *value; /* what it takes ("FILE"), NULL: nothing */
    bool repeated;
};

struct cli_given { /* one use of such a flag */
    const char *name, *value;
};

struct cli {
    const char *command; /* for messages: "user add" */
    const struct cli_option *options;
    size_t n_options;
    const char *names[CLI_NAMES_MAX]; /* words that are not flags */
    size_t n_names;
    struct cli_given given[CLI_FLAGS_MAX];
    size_t n_given;
    struct config_flag settings[CLI_FLAGS_MAX]; /* --data, --listen.http, --set K=V */
    size_t n_settings;
    const char *config_file;
    char keys[CLI_FLAGS_MAX][64]; /* room for keys cut out of K=V */
    bool help;
};

/* Prints "postern: ..." as one line on standard error; returns code. */
int cli_fail(enum cli_exit code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Reads argv[0..argc) after the subcommand.  c->command and c->options are set by the caller.  0,
 * or the exit code after the message was printed. */
int cli_parse(struct cli *c, int argc, char **argv);
/* The value of a given option; NULL: not given.  "" when it takes none. */
const char *cli_value(const struct cli *c, const char *name);
/* CLI_USAGE with a message unless there are exactly n names. */
int cli_expect_names(const struct cli *c, size_t n, const char *usage);

/* Where the configuration comes from: a view into c and the environment. */
void cli_sources(const struct cli *c, struct config_sources *ret_sources);
/* Loads the configuration that the flags, the environment and --config give.  0, or CLI_CONFIG
 * after the message was printed. */
int cli_load_config(const struct cli *c, struct postern_config *ret_config);

/* Subcommands, after their name was taken off argv.  They return an exit code. */
int cmd_user(int argc, char **argv);
int cmd_token(int argc, char **argv);
int cmd_backup(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_check(int argc, char **argv);

#endif
