/* SPDX-License-Identifier: Apache-2.0
 *
 * cmd_store.c - `postern backup|restore|check`: the database as a file.
 *
 * backup and check work beside a running broker; restore takes the lock of the data directory.
 */
#include "broker/cli.h"
#include "broker/keys.h"

#include "actors/store_backup.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#define PATH_BYTES 4096

struct place { /* what the three commands begin with */
    struct cli cli;
    struct postern_config config;
    char path[PATH_BYTES]; /* of the database */
};

static int open_place(struct place *p, int argc, char **argv, size_t n_names, const char *usage) {
    struct config_error why = {""};
    int code = cli_parse(&p->cli, argc, argv);
    if (code == 0)
        code = cli_expect_names(&p->cli, p->cli.help ? p->cli.n_names : n_names, usage);
    if (code != 0 || p->cli.help)
        return code;
    code = cli_load_config(&p->cli, &p->config);
    if (code != 0)
        return code;
    if (keys_prepare_data(p->config.data, &why) == 0 &&
        keys_database_path(p->config.data, p->path, sizeof p->path) == 0)
        return 0;
    config_done(&p->config);
    return cli_fail(CLI_FAILED, "%s: %s", p->cli.command,
                    why.text[0] != '\0' ? why.text : "data: the path is too long");
}

static int print_usage(const char *usage) {
    printf("usage: postern %s\n", usage);
    return CLI_OK;
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal) {
    (void)signal;
    interrupted = 1;
}

static bool step_done(void *arg, uint32_t done, uint32_t total) {
    bool *terminal = arg;
    if (*terminal)
        fprintf(stderr, "\r%3u %%", total > 0 ? (unsigned)(100 * (uint64_t)done / total) : 100);
    return interrupted == 0;
}

int cmd_backup(int argc, char **argv) {
    static const char usage[] = "backup FILE [--data DIR]";
    struct place p = {.cli = {.command = "backup"}};
    int code = open_place(&p, argc, argv, 1, usage);
    if (p.cli.help || code != 0)
        return p.cli.help ? print_usage(usage) : code;
    struct sigaction stop = {.sa_handler = on_interrupt};
    (void)sigaction(SIGINT, &stop, NULL);
    (void)sigaction(SIGTERM, &stop, NULL);
    const char *why = "";
    bool terminal = isatty(STDERR_FILENO) != 0;
    store_backup_opts o = {.on_step = step_done, .arg = &terminal};
    int err = store_backup(p.path, p.cli.names[0], &o, &why);
    if (terminal)
        fputc('\n', stderr);
    if (err < 0)
        code = cli_fail(CLI_FAILED, "backup: %s", why);
    config_done(&p.config);
    return code;
}

int cmd_restore(int argc, char **argv) {
    static const char usage[] = "restore FILE [--data DIR]";
    struct place p = {.cli = {.command = "restore"}};
    int lock = -1, code = open_place(&p, argc, argv, 1, usage);
    if (p.cli.help || code != 0)
        return p.cli.help ? print_usage(usage) : code;
    struct config_error error = {""};
    const char *why = "";
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (keys_lock_data(p.config.data, &lock, &error) < 0)
        code = cli_fail(CLI_FAILED, "restore: %s", error.text);
    else if (store_restore(p.cli.names[0], p.path, now.tv_sec, &why) < 0)
        code = cli_fail(CLI_FAILED, "restore: %s", why);
    if (lock >= 0)
        (void)close(lock);
    config_done(&p.config);
    return code;
}

static void print_finding(void *arg, const char *text) {
    (void)arg;
    puts(text);
}

int cmd_check(int argc, char **argv) {
    static const char usage[] = "check [--data DIR]";
    struct place p = {.cli = {.command = "check"}};
    int code = open_place(&p, argc, argv, 0, usage);
    if (p.cli.help || code != 0)
        return p.cli.help ? print_usage(usage) : code;
    const char *why = "";
    int n = store_check(p.path, print_finding, NULL, &why);
    if (n < 0)
        code = cli_fail(CLI_FAILED, "check: %s", why);
    else if (n > 0)
        code = cli_fail(CLI_FAILED,
                        "check: the database is damaged; the next start salvages what can be read");
    else
        puts("ok");
    config_done(&p.config);
    return code;
}
