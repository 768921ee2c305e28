/* SPDX-License-Identifier: Apache-2.0
 *
 * config_env.c - settings from the environment: POSTERN_LISTEN__HTTP is listen.http.
 *
 * A variable with our prefix that nobody knows is an error, because a typing mistake must not pass
 * as "the default"; the exceptions are variables that orchestrators set by themselves.
 */
#include "broker/config_internal.h"

#include <ctype.h>
#include <strings.h>

#include "broker/suggest.h"

#define PREFIX "POSTERN_"
#define NAME_BYTES 64

/* Read elsewhere: by the command line and the first start; the last ones by the tests and tools. */
static const char *const other_names[] = {"CONFIG", "ADMIN_PASSWORD", "ADMIN_PASSWORD_FILE",
                                          "SHARED", "BIN"};

/* A Service or a linked container named "postern" injects POSTERN_SERVICE_HOST,
 * POSTERN_PORT_8771_TCP and the like into its neighbours. */
static const char *const foreign_prefixes[] = {"SERVICE_", "PORT", "TEST_"};

/* listen.http -> LISTEN__HTTP */
static void env_name(const struct config_key *k, char out[NAME_BYTES]) {
    size_t at = 0;
    for (const char *p = k->name; *p != '\0' && at + 3 < NAME_BYTES; p++) {
        out[at++] = (char)(*p == '.' ? '_' : toupper((unsigned char)*p));
        if (*p == '.')
            out[at++] = '_';
    }
    out[at] = '\0';
}

static bool is_other(const char *name, size_t n) {
    for (size_t i = 0; i < PTN_ARRAY_LEN(other_names); i++)
        if (strlen(other_names[i]) == n && strncasecmp(name, other_names[i], n) == 0)
            return true;
    for (size_t i = 0; i < PTN_ARRAY_LEN(foreign_prefixes); i++)
        if (strncasecmp(name, foreign_prefixes[i], strlen(foreign_prefixes[i])) == 0)
            return true;
    return false;
}

static int unknown(const char *name, size_t n, struct config_error *reterr) {
    char names[CONFIG_KEYS][NAME_BYTES], word[NAME_BYTES];
    const char *candidates[CONFIG_KEYS + PTN_ARRAY_LEN(other_names)];
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        env_name(&config_keys[i], names[i]);
        candidates[i] = names[i];
    }
    memcpy(candidates + CONFIG_KEYS, other_names, sizeof other_names);
    (void)snprintf(word, sizeof word, "%.*s", (int)(n < NAME_BYTES ? n : NAME_BYTES - 1), name);
    return config_fail(reterr, -PTN_EINVAL, "%s%s: no such setting; did you mean %s%s?", PREFIX,
                       word, PREFIX, suggest_nearest(word, candidates, PTN_ARRAY_LEN(candidates)));
}

static int apply_one(struct postern_config *c, const char *name, size_t n, const char *value,
                     struct config_error *reterr) {
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        char known[NAME_BYTES], where[NAME_BYTES + 16];
        env_name(&config_keys[i], known);
        if (strlen(known) != n || strncasecmp(known, name, n) != 0)
            continue;
        if (value[0] == '\0')
            return 0; /* compose files and unit files set variables to nothing to say "unset" */
        (void)snprintf(where, sizeof where, PREFIX "%s", known);
        return config_set_text(c, &config_keys[i], value, where, reterr);
    }
    return is_other(name, n) ? 0 : unknown(name, n, reterr);
}

int config_apply_env(struct postern_config *c, char *const *env, struct config_error *reterr) {
    for (; *env != NULL; env++) {
        const char *name = *env, *equals = strchr(name, '=');
        if (equals == NULL || strncmp(name, PREFIX, sizeof PREFIX - 1) != 0)
            continue;
        name += sizeof PREFIX - 1;
        int err = apply_one(c, name, (size_t)(equals - name), equals + 1, reterr);
        if (err < 0)
            return err;
    }
    return 0;
}
