/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - the program `postern`: finds the subcommand and runs it.
 */
#include "broker/cli.h"
#include "broker/log.h"
#include "broker/suggest.h"
#include "broker/version.h"
#include "broker/wiring.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static const char help_text[] =
    "postern - message broker and API router for edge hosts\n"
    "\n"
    "usage: postern SUBCOMMAND [--config FILE] [--data DIR] [flags]\n"
    "\n"
    "  run [--print-listen]       the broker, in the foreground; prints its real addresses as JSON "
    "first\n"
    "      [--hello]              then addresses, a token and commands to paste\n"
    "  check-config               reads the configuration and says what is wrong with it\n"
    "  default-config             prints every key with its default\n"
    "  token NAME [--ttl 1h]      prints an access token for an account\n"
    "  user add NAME [--role ROLE]... [--password-file FILE] [--household HOUSEHOLD]\n"
    "  user list\n"
    "  user passwd NAME [--password-file FILE]\n"
    "  backup FILE                copies the database, also of a running broker\n"
    "  restore FILE               puts a backup in its place; the broker must not run\n"
    "  check                      reads the whole database and says what is damaged\n"
    "  bench SCENARIO             measures a broker, or another server; `postern bench --help`\n"
    "  version\n"
    "\n"
    "Every key of the configuration is a flag too (--listen.http=127.0.0.1:0, or --set KEY=VALUE) "
    "and an\n"
    "environment variable (POSTERN_LISTEN__HTTP).  Flags win over the environment, the environment "
    "over the\n"
    "file.  Exit codes: 0 success, 1 the work failed, 2 wrong usage, 78 bad configuration.\n";

static int print_help(void) {
    fputs(help_text, stdout);
    return CLI_OK;
}

static int cmd_run(int argc, char **argv) {
    static const struct cli_option options[] = {{"print-listen", NULL, false},
                                                {"hello", NULL, false}};
    struct cli c = {.command = "run", .options = options, .n_options = PTN_ARRAY_LEN(options)};
    int code = cli_parse(&c, argc, argv);
    if (code == 0 && c.help)
        return print_help();
    if (code == 0)
        code = cli_expect_names(&c, 0, "run [--config FILE] [--data DIR] [--print-listen]");
    struct postern_config config;
    if (code == 0)
        code = cli_load_config(&c, &config);
    if (code != 0)
        return code;
    /* Peers that go away are errors of a write, not a reason to die. */
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    (void)sigaction(SIGPIPE, &ignore, NULL);
    log_install(config.log.format, config.log.level);
    struct config_sources sources;
    cli_sources(&c, &sources);
    const wiring_options how = {.print_listen = cli_value(&c, "print-listen") != NULL,
                                .hello = cli_value(&c, "hello") != NULL,
                                .out = stdout,
                                .sources = &sources};
    code = wiring_run(&config, &how);
    config_done(&config);
    return code;
}

static int cmd_check_config(int argc, char **argv) {
    struct cli c = {.command = "check-config"};
    int code = cli_parse(&c, argc, argv);
    if (code == 0 && c.help)
        return print_help();
    if (code == 0)
        code = cli_expect_names(&c, 0, "check-config [--config FILE] [--data DIR]");
    struct postern_config config;
    if (code == 0)
        code = cli_load_config(&c, &config);
    if (code != 0)
        return code;
    config_done(&config);
    puts("ok");
    return CLI_OK;
}

static int cmd_default_config(int argc, char **argv) {
    struct cli c = {.command = "default-config"};
    int code = cli_parse(&c, argc, argv);
    if (code == 0 && c.help)
        return print_help();
    if (code == 0)
        code = cli_expect_names(&c, 0, "default-config");
    if (code == 0)
        config_print_default(stdout);
    return code;
}

/* The load generator is a program of its own, beside this one: nothing of it is in the broker. */
static int cmd_bench(int argc, char **argv) {
    char path[4096];
    (void)argc;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - sizeof "postern-bench");
    path[n < 0 ? 0 : n] = '\0';
    char *slash = strrchr(path, '/');
    if (slash == NULL)
        return cli_fail(CLI_FAILED, "bench: cannot tell where this program is");
    memcpy(slash + 1, "postern-bench", sizeof "postern-bench");
    (void)execv(path, argv - 1); /* argv[-1] is our own subcommand, its new name */
    return cli_fail(CLI_FAILED, "bench: cannot run %s: %s; it belongs beside postern", path,
                    strerror(errno));
}

static int cmd_version(int argc, char **argv) {
    struct cli c = {.command = "version"};
    int code = cli_parse(&c, argc, argv);
    if (code == 0 && c.help)
        return print_help();
    if (code == 0)
        code = cli_expect_names(&c, 0, "version");
    if (code == 0)
        printf("postern %s (%s)\n", postern_version(), postern_revision());
    return code;
}

static int cmd_help(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return print_help();
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {{"run", cmd_run},
                {"check-config", cmd_check_config},
                {"default-config", cmd_default_config},
                {"token", cmd_token},
                {"user", cmd_user},
                {"backup", cmd_backup},
                {"restore", cmd_restore},
                {"check", cmd_check},
                {"bench", cmd_bench},
                {"version", cmd_version},
                {"help", cmd_help},
                {"--help", cmd_help},
                {"-h", cmd_help},
                {"--version", cmd_version}};

int main(int argc, char **argv) {
    const char *names[PTN_ARRAY_LEN(commands)];
    size_t n = 0;
    if (argc < 2)
        return cli_fail(CLI_USAGE,
                        "say what to do: run, check-config, default-config, token, user, backup, "
                        "restore, check, bench or version; see `postern --help`");
    for (size_t i = 0; i < PTN_ARRAY_LEN(commands); i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            int code = commands[i].run(argc - 2, argv + 2);
            if (fflush(stdout) != 0 && code == CLI_OK)
                code = cli_fail(CLI_FAILED, "cannot write to standard output");
            return code;
        }
        if (commands[i].name[0] != '-')
            names[n++] = commands[i].name;
    }
    return cli_fail(CLI_USAGE,
                    "unknown subcommand \"%.32s\"; did you mean %s? see `postern --help`", argv[1],
                    suggest_nearest(argv[1], names, n));
}
