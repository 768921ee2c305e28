/* SPDX-License-Identifier: Apache-2.0
 *
 * config_file.c - settings from a YAML file.
 *
 * Two passes.  The first walks libyaml's events: it knows lines, names the nearest key for an
 * unknown one, and writes a normal form of the document in which every list is a list.  The second
 * gives that form to libcyaml, whose schema, made from the table of keys, turns it into a struct.
 * Values are parsed by config_set(), as those from flags and environment are.
 */
#include "broker/config_internal.h"

#include <postern/codec.h>

#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdlib.h>
#include <yaml.h>

#include "broker/suggest.h"

#define FILE_BYTES_MAX (256u << 10)

/* ---- the schema, made from the table --------------------------------------------------------- */

struct file_list {
    char **items;
    unsigned items_count; /* the name that libcyaml's macros want */
};
#define FILE_TYPE_HTTP(key)                                                                        \
    char **key;                                                                                    \
    unsigned key##_count;
#define FILE_TYPE_ZMQ(key) FILE_TYPE_HTTP(key)
#define FILE_TYPE_RULES(key) FILE_TYPE_HTTP(key)
#define FILE_TYPE_PATH(key) char *key;
#define FILE_TYPE_COUNT(key) char *key;
#define FILE_TYPE_SIZE(key) char *key;
#define FILE_TYPE_DURATION(key) char *key;
#define FILE_TYPE_LEVEL(key) char *key;
#define FILE_TYPE_FORMAT(key) char *key;

#define XX(s, key, field, kind, def, min, max, help) FILE_TYPE_##kind(key)
#define SS(section, map, help)                                                                     \
    struct file_##section {                                                                        \
        map(XX, section)                                                                           \
    };
CONFIG_SECTION_MAP(SS)
#undef SS
struct file_config {
    CONFIG_TOP_MAP(XX, )
#define SS(section, map, help) struct file_##section section;
    CONFIG_SECTION_MAP(SS)
#undef SS
};
#undef XX

static const cyaml_schema_value_t text_schema = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 0, CONFIG_TEXT_BYTES_MAX),
};

#define TEXT_FIELD(type, key)                                                                      \
    CYAML_FIELD_STRING_PTR(#key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, type, key, 0,           \
                           CONFIG_TEXT_BYTES_MAX),
#define LIST_FIELD(type, key)                                                                      \
    CYAML_FIELD_SEQUENCE(#key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, type, key, &text_schema,  \
                         0, CONFIG_LIST_MAX + 1),
#define FIELD_HTTP LIST_FIELD
#define FIELD_ZMQ LIST_FIELD
#define FIELD_RULES LIST_FIELD
#define FIELD_PATH TEXT_FIELD
#define FIELD_COUNT TEXT_FIELD
#define FIELD_SIZE TEXT_FIELD
#define FIELD_DURATION TEXT_FIELD
#define FIELD_LEVEL TEXT_FIELD
#define FIELD_FORMAT TEXT_FIELD

#define XX(s, key, field, kind, def, min, max, help) FIELD_##kind(struct file_##s, key)
#define SS(section, map, help)                                                                     \
    static const cyaml_schema_field_t section##_fields[] = {map(XX, section) CYAML_FIELD_END};
CONFIG_SECTION_MAP(SS)
#undef SS
#undef XX
static const cyaml_schema_field_t file_fields[] = {
#define XX(s, key, field, kind, def, min, max, help) FIELD_##kind(struct file_config, key)
    CONFIG_TOP_MAP(XX, )
#undef XX
#define SS(section, map, help)                                                                     \
    CYAML_FIELD_MAPPING(#section, CYAML_FLAG_OPTIONAL, struct file_config, section,                \
                        section##_fields),
        CONFIG_SECTION_MAP(SS)
#undef SS
            CYAML_FIELD_END};
static const cyaml_schema_value_t file_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct file_config, file_fields),
};

/* Where each key of the table lives in struct file_config, in the order of the table. */
static const size_t file_offsets[CONFIG_KEYS] = {
#define XX(s, key, field, kind, def, min, max, help) offsetof(struct file_config, key),
    CONFIG_TOP_MAP(XX, )
#undef XX
#define XX(s, key, field, kind, def, min, max, help) offsetof(struct file_config, s.key),
#define SS(section, map, help) map(XX, section)
        CONFIG_SECTION_MAP(SS)
#undef SS
#undef XX
};

/* ---- first pass: keys, lines, normal form -----------------------------------------------------
 */

struct walk {
    yaml_parser_t parser;
    yaml_event_t event;
    bool have_event;
    const char *path;
    struct config_error *error;
    ptn_out out;              /* the normal form, JSON, which is YAML */
    size_t line[CONFIG_KEYS]; /* 0: not in the file */
    bool seen_section[CONFIG_KEYS];
};

static const char *const section_names[] = {
#define SS(section, map, help) #section,
    CONFIG_SECTION_MAP(SS)
#undef SS
};

static size_t line_of(const struct walk *w) {
    return w->event.start_mark.line + 1;
}

static int walk_next(struct walk *w) {
    if (w->have_event)
        yaml_event_delete(&w->event);
    w->have_event = false;
    if (!yaml_parser_parse(&w->parser, &w->event))
        return config_fail(w->error, -PTN_EINVAL, "%s:%zu: not YAML: %s", w->path,
                           w->parser.problem_mark.line + 1,
                           w->parser.problem != NULL ? w->parser.problem : "unreadable");
    w->have_event = true;
    if (w->event.type == YAML_ALIAS_EVENT)
        return config_fail(w->error, -PTN_EINVAL,
                           "%s:%zu: aliases are not supported; write the value out", w->path,
                           line_of(w));
    return 0;
}

static int walk_refuse(const struct walk *w, const char *name, const char *what) {
    return config_fail(w->error, -PTN_EINVAL, "%s:%zu: %s: %s", w->path, line_of(w), name, what);
}

/* The current event as text.  -PTN_EINVAL for anything but a scalar without NUL. */
static int walk_text(const struct walk *w, const char *name, const char **ret_text) {
    if (w->event.type != YAML_SCALAR_EVENT)
        return walk_refuse(w, name, "expected a plain value here");
    const char *text = (const char *)w->event.data.scalar.value;
    if (strlen(text) != w->event.data.scalar.length ||
        w->event.data.scalar.length > CONFIG_TEXT_BYTES_MAX)
        return walk_refuse(w, name, "the value is too long or holds a NUL");
    *ret_text = text;
    return 0;
}

/* `key:` with nothing behind it means "as if it were not there". */
static bool walk_at_null(const struct walk *w) {
    if (w->event.type != YAML_SCALAR_EVENT || w->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    const char *text = (const char *)w->event.data.scalar.value;
    return text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0;
}

static void put_text(struct walk *w, const char *text) {
    ptn_json_string(&w->out, ptn_str_of(text));
}

static void put_member(struct walk *w, const char *key) {
    char last = w->out.len > 0 ? (char)w->out.p[w->out.len - 1] : '{';
    if (last != '{')
        ptn_out_put(&w->out, ",", 1);
    put_text(w, key);
    ptn_out_put(&w->out, ": ", 2);
}

/* The current event begins the value of k; afterwards it is the last event of that value. */
static int walk_value(struct walk *w, const struct config_key *k) {
    size_t at = (size_t)(k - config_keys);
    const char *text;
    if (w->line[at] != 0)
        return walk_refuse(w, k->name, "appears twice; keep one");
    w->line[at] = line_of(w);
    if (walk_at_null(w)) {
        w->line[at] = 0;
        return 0;
    }
    put_member(w, k->key);
    if (!config_key_is_list(k) || w->event.type != YAML_SEQUENCE_START_EVENT) {
        int err = walk_text(w, k->name, &text);
        if (err < 0)
            return err;
        ptn_out_put(&w->out, "[", config_key_is_list(k) ? 1 : 0);
        put_text(w, text);
        ptn_out_put(&w->out, "]", config_key_is_list(k) ? 1 : 0);
        return 0;
    }
    ptn_out_put(&w->out, "[", 1);
    for (unsigned n = 0;; n++) {
        int err = walk_next(w);
        if (err < 0)
            return err;
        if (w->event.type == YAML_SEQUENCE_END_EVENT)
            break;
        if (n == CONFIG_LIST_MAX)
            return walk_refuse(w, k->name, "too many addresses");
        err = walk_text(w, k->name, &text);
        if (err < 0)
            return err;
        ptn_out_put(&w->out, ",", n > 0 ? 1 : 0);
        put_text(w, text);
    }
    ptn_out_put(&w->out, "]", 1);
    return 0;
}

static int walk_unknown(const struct walk *w, const char *section, const char *key, size_t line) {
    char name[160];
    (void)snprintf(name, sizeof name, "%s%s%.64s", section, section[0] == '\0' ? "" : ".", key);
    const char *nearest = config_key_nearest(name);
    if (section[0] == '\0') {
        const char *section_nearest =
            suggest_nearest(key, section_names, PTN_ARRAY_LEN(section_names));
        if (suggest_distance(key, section_nearest) <= suggest_distance(key, nearest))
            nearest = section_nearest;
    }
    return config_fail(w->error, -PTN_EINVAL, "%s:%zu: %s: no such key; did you mean %s?", w->path,
                       line, name, nearest);
}

static const struct config_key *key_in(const char *section, const char *key) {
    for (size_t i = 0; i < CONFIG_KEYS; i++)
        if (strcmp(config_keys[i].section, section) == 0 && strcmp(config_keys[i].key, key) == 0)
            return &config_keys[i];
    return NULL;
}

static int walk_section(struct walk *w, const char *section);

/* The current event is a key of a mapping; afterwards it is the last event of its value. */
static int walk_entry(struct walk *w, const char *section) {
    const char *text;
    char key[65];
    int err = walk_text(w, section[0] == '\0' ? "top level" : section, &text);
    if (err < 0)
        return err;
    (void)snprintf(key, sizeof key, "%s", text);
    size_t line = line_of(w);
    const struct config_key *k = key_in(section, key);
    err = walk_next(w);
    if (err < 0)
        return err;
    if (k != NULL)
        return walk_value(w, k);
    for (size_t i = 0; section[0] == '\0' && i < PTN_ARRAY_LEN(section_names); i++)
        if (strcmp(section_names[i], key) == 0) {
            if (w->seen_section[i])
                return walk_refuse(w, key, "appears twice; join the two");
            w->seen_section[i] = true;
            return walk_at_null(w) ? 0 : walk_section(w, section_names[i]);
        }
    return walk_unknown(w, section, key, line);
}

/* A mapping: the whole document (section empty) or one section.  Depth two at most. */
static int walk_section(struct walk *w, const char *section) {
    if (w->event.type != YAML_MAPPING_START_EVENT)
        return walk_refuse(w, section[0] == '\0' ? "top level" : section,
                           "expected `key: value` lines here");
    if (section[0] != '\0')
        put_member(w, section);
    ptn_out_put(&w->out, "{", 1);
    for (;;) {
        int err = walk_next(w);
        if (err < 0)
            return err;
        if (w->event.type == YAML_MAPPING_END_EVENT)
            break;
        err = walk_entry(w, section);
        if (err < 0)
            return err;
    }
    ptn_out_put(&w->out, "}", 1);
    return 0;
}

static int walk_document(struct walk *w) {
    int err = 0;
    bool documents = false;
    while ((err = walk_next(w)) == 0 && w->event.type != YAML_STREAM_END_EVENT) {
        if (w->event.type == YAML_DOCUMENT_START_EVENT) {
            if (documents)
                return walk_refuse(w, "top level", "one document per file");
            documents = true;
            err = walk_next(w);
            if (err == 0 && !walk_at_null(w))
                err = walk_section(w, "");
            if (err < 0)
                return err;
        }
    }
    if (err == 0 && w->out.len == 0)
        ptn_out_put(&w->out, "{}", 2);
    return err < 0 ? err : w->out.err;
}

/* ---- second pass ------------------------------------------------------------------------------
 */

static int apply_loaded(struct postern_config *c, const struct walk *w,
                        const struct file_config *f) {
    for (size_t i = 0; i < CONFIG_KEYS; i++) {
        const struct config_key *k = &config_keys[i];
        if (w->line[i] == 0)
            continue;
        char where[256];
        (void)snprintf(where, sizeof where, "%.180s:%zu: %s", w->path, w->line[i], k->name);
        const char *at = (const char *)f + file_offsets[i];
        int err;
        if (config_key_is_list(k)) {
            struct file_list list; /* a pointer and its count stand side by side in every section */
            memcpy(&list.items, at, sizeof list.items);
            memcpy(&list.items_count, at + sizeof list.items, sizeof list.items_count);
            err = config_set(c, k, (const char *const *)list.items, list.items_count, where,
                             w->error);
        } else {
            const char *text;
            memcpy(&text, at, sizeof text);
            if (text == NULL)
                text = "";
            err = config_set(c, k, &text, 1, where, w->error);
        }
        if (err < 0)
            return err;
    }
    return 0;
}

static int load_normal_form(struct postern_config *c, const struct walk *w) {
    static const cyaml_config_t config = {
        .log_level = CYAML_LOG_ERROR,
        .mem_fn = cyaml_mem,
        .flags = CYAML_CFG_NO_ALIAS,
    };
    cyaml_data_t *data = NULL;
    cyaml_err_t rc = cyaml_load_data(w->out.p, w->out.len, &config, &file_schema, &data, NULL);
    if (rc != CYAML_OK)
        return config_fail(w->error, -PTN_EINVAL, "%s: %s; compare with `postern default-config`",
                           w->path, cyaml_strerror(rc));
    int err = apply_loaded(c, w, (const struct file_config *)data);
    (void)cyaml_free(&config, &file_schema, data, 0);
    return err;
}

static int read_file(const char *path, unsigned char **ret_text, size_t *ret_n,
                     struct config_error *reterr) {
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return config_fail(reterr, -PTN_EIO, "%s: %s; check --config", path, strerror(errno));
    unsigned char *text = malloc(FILE_BYTES_MAX + 1);
    size_t n = text == NULL ? 0 : fread(text, 1, FILE_BYTES_MAX + 1, f);
    bool failed = ferror(f) != 0;
    fclose(f);
    if (text == NULL || failed || n > FILE_BYTES_MAX) {
        free(text);
        return config_fail(reterr, -PTN_EIO, "%s: cannot be read, or is larger than %u bytes", path,
                           FILE_BYTES_MAX);
    }
    *ret_text = text;
    *ret_n = n;
    return 0;
}

int config_apply_file(struct postern_config *c, const char *path, struct config_error *reterr) {
    unsigned char *text = NULL;
    size_t n = 0;
    int err = read_file(path, &text, &n, reterr);
    if (err < 0)
        return err;
    struct walk w = {.path = path, .error = reterr};
    if (!yaml_parser_initialize(&w.parser)) {
        free(text);
        return config_fail(reterr, -PTN_ENOMEM, "%s: out of memory", path);
    }
    yaml_parser_set_input_string(&w.parser, text, n);
    err = walk_document(&w);
    if (w.have_event)
        yaml_event_delete(&w.event);
    yaml_parser_delete(&w.parser);
    free(text);
    if (err == 0)
        err = load_normal_form(c, &w);
    else if (err == -PTN_ENOMEM)
        (void)config_fail(reterr, err, "%s: out of memory", path);
    ptn_out_done(&w.out);
    return err;
}
