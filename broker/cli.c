/* SPDX-License-Identifier: Apache-2.0
 *
 * cli.c - reading arguments: flags of the subcommand, settings of the configuration table, names.
 */
#include "broker/cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "broker/config_internal.h"
#include "broker/suggest.h"

int cli_fail(enum cli_exit code, const char *fmt, ...) {
    char text[700];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (char *p = text; *p != '\0'; p++) /* one line, whatever a name or a file holds */
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' ';
    fprintf(stderr, "postern: %s\n", text);
    return (int)code;
}

static const struct cli_option *option_of(const struct cli *c, const char *name, size_t n) {
    for (size_t i = 0; i < c->n_options; i++)
        if (strlen(c->options[i].name) == n && memcmp(c->options[i].name, name, n) == 0)
            return &c->options[i];
    return NULL;
}

static int unknown_flag(const struct cli *c, const char *flag) {
    static const char *const everywhere[] = {"config", "set", "help"};
    const char *words[64 + CONFIG_KEYS];
    size_t n = 0;
    for (size_t i = 0; i < PTN_ARRAY_LEN(everywhere); i++)
        words[n++] = everywhere[i];
    for (size_t i = 0; i < c->n_options && n < 32; i++)
        words[n++] = c->options[i].name;
    for (size_t i = 0; i < CONFIG_KEYS; i++)
        words[n++] = config_keys[i].name;
    return cli_fail(CLI_USAGE, "%s: unknown flag --%.64s; did you mean --%s?", c->command, flag,
                    suggest_nearest(flag, words, n));
}

static int add_setting(struct cli *c, const char *key, size_t key_bytes, const char *value) {
    if (c->n_settings == CLI_FLAGS_MAX || key_bytes >= sizeof c->keys[0])
        return cli_fail(CLI_USAGE, "%s: too many or too long flags", c->command);
    char *copy = c->keys[c->n_settings];
    memcpy(copy, key, key_bytes);
    copy[key_bytes] = '\0';
    c->settings[c->n_settings++] = (struct config_flag){copy, value};
    return 0;
}

static int take_set(struct cli *c, const char *pair) {
    const char *equals = strchr(pair, '=');
    if (equals == NULL)
        return cli_fail(CLI_USAGE,
                        "%s: --set takes KEY=VALUE, such as --set listen.http=127.0.0.1:0",
                        c->command);
    char key[64];
    (void)snprintf(key, sizeof key, "%.*s", (int)(equals - pair), pair);
    if (config_key_find(key) == NULL)
        return cli_fail(CLI_USAGE, "%s: --set: no such key %s; did you mean %s?", c->command, key,
                        config_key_nearest(key));
    return add_setting(c, pair, (size_t)(equals - pair), equals + 1);
}

/* One flag; *ret_used says how many arguments it took. */
static int take_flag(struct cli *c, const char *flag, const char *next, int *ret_used) {
    size_t n = strcspn(flag, "=");
    const char *value = flag[n] == '=' ? flag + n + 1 : NULL;
    char name[64];
    (void)snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), flag);
    *ret_used = 1;
    if (strcmp(name, "help") == 0) {
        c->help = true;
        return 0;
    }
    const struct cli_option *option = option_of(c, flag, n);
    bool config = strcmp(name, "config") == 0, set = strcmp(name, "set") == 0;
    const struct config_key *key = n < sizeof name ? config_key_find(name) : NULL;
    if (option == NULL && !config && !set && key == NULL)
        return unknown_flag(c, name);
    bool wants = option == NULL || option->value != NULL;
    if (!wants && value != NULL)
        return cli_fail(CLI_USAGE, "%s: --%s takes no value", c->command, name);
    if (wants && value == NULL) {
        if (next == NULL)
            return cli_fail(CLI_USAGE, "%s: --%s needs a value", c->command, name);
        value = next;
        *ret_used = 2;
    }
    if (config)
        c->config_file = value;
    else if (set)
        return take_set(c, value);
    else if (option == NULL)
        return add_setting(c, key->name, strlen(key->name), value);
    else if (!option->repeated && cli_value(c, option->name) != NULL)
        return cli_fail(CLI_USAGE, "%s: --%s is given twice; keep one", c->command, name);
    else if (c->n_given == CLI_FLAGS_MAX)
        return cli_fail(CLI_USAGE, "%s: too many flags", c->command);
    else
        c->given[c->n_given++] = (struct cli_given){option->name, value == NULL ? "" : value};
    return 0;
}

int cli_parse(struct cli *c, int argc, char **argv) {
    bool flags = true;
    for (int i = 0; i < argc;) {
        const char *arg = argv[i];
        int used = 1;
        if (flags && strcmp(arg, "--") == 0) {
            flags = false;
        } else if (flags && strcmp(arg, "-h") == 0) {
            c->help = true;
        } else if (flags && strncmp(arg, "--", 2) == 0) {
            int err = take_flag(c, arg + 2, i + 1 < argc ? argv[i + 1] : NULL, &used);
            if (err != 0)
                return err;
        } else if (flags && arg[0] == '-' && arg[1] != '\0') {
            return cli_fail(CLI_USAGE, "%s: unknown flag %.64s; flags are written out, see --help",
                            c->command, arg);
        } else if (c->n_names == CLI_NAMES_MAX) {
            return cli_fail(CLI_USAGE, "%s: too many arguments", c->command);
        } else {
            c->names[c->n_names++] = arg;
        }
        i += used;
    }
    return 0;
}

const char *cli_value(const struct cli *c, const char *name) {
    for (size_t i = 0; i < c->n_given; i++)
        if (strcmp(c->given[i].name, name) == 0)
            return c->given[i].value;
    return NULL;
}

int cli_expect_names(const struct cli *c, size_t n, const char *usage) {
    if (c->n_names == n)
        return 0;
    return c->n_names > n
               ? cli_fail(CLI_USAGE, "%s: unexpected argument \"%.64s\"; usage: postern %s",
                          c->command, c->names[n], usage)
               : cli_fail(CLI_USAGE, "%s: an argument is missing; usage: postern %s", c->command,
                          usage);
}

void cli_sources(const struct cli *c, struct config_sources *ret_sources) {
    const char *file = c->config_file;
    if (file == NULL) {
        file = getenv("POSTERN_CONFIG");
        if (file != NULL && file[0] == '\0')
            file = NULL;
    }
    *ret_sources = (struct config_sources){
        .file = file, .env = environ, .flags = c->settings, .n_flags = c->n_settings};
}

int cli_load_config(const struct cli *c, struct postern_config *ret_config) {
    struct config_sources sources;
    struct config_error why = {""};
    cli_sources(c, &sources);
    return config_load(&sources, ret_config, &why) < 0 ? cli_fail(CLI_CONFIG, "%s", why.text) : 0;
}
