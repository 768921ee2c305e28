/* SPDX-License-Identifier: Apache-2.0
 *
 * common_chat.c - reads "[HH:MM] <nick> text" and "[HH:MM]  * nick action" lines.
 *
 * Old logs mix encodings: bytes that are no UTF-8 are taken for Latin-1, one by one, so that the
 * same file always gives the same texts.
 */
#include "bench/common_chat.h"

#include <postern/codec.h>

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FILES_MAX 10000u
#define NICK_BYTES_MAX 63u

static void *grow(void *p, size_t *cap, size_t n, size_t item_bytes) {
    if (n < *cap)
        return p;
    *cap = *cap == 0 ? 64 : *cap * 2;
    p = realloc(p, *cap * item_bytes);
    if (p == NULL)
        bench_die("out of memory");
    return p;
}

/* ---- people ------------------------------------------------------------------------------- */

static size_t slot_of(const struct chat *c, const char *nick) {
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (const char *p = nick; *p != '\0'; p++)
        h = (h ^ (uint8_t)*p) * UINT64_C(0x100000001b3);
    size_t at = (size_t)(h ^ h >> 32) & (c->index_cap - 1);
    while (c->index[at] != 0 && strcmp(c->people[c->index[at] - 1], nick) != 0)
        at = (at + 1) & (c->index_cap - 1);
    return at;
}

static void index_grow(struct chat *c) {
    free(c->index);
    c->index_cap = c->index_cap == 0 ? 1024 : c->index_cap * 2;
    c->index = calloc(c->index_cap, sizeof *c->index);
    if (c->index == NULL)
        bench_die("out of memory");
    for (size_t i = 0; i < c->n_people; i++)
        c->index[slot_of(c, c->people[i])] = (uint32_t)i + 1;
}

static uint32_t person(struct chat *c, const char *nick) {
    if (c->index_cap < 2 * (c->n_people + 1))
        index_grow(c);
    size_t at = slot_of(c, nick);
    if (c->index[at] == 0) {
        c->people = grow(c->people, &c->people_cap, c->n_people, sizeof *c->people);
        c->people[c->n_people] = strdup(nick);
        if (c->people[c->n_people] == NULL)
            bench_die("out of memory");
        c->index[at] = (uint32_t)++c->n_people;
    }
    return c->index[at] - 1;
}

static void join_day(struct chat_day *d, uint32_t who) {
    for (uint32_t i = 0; i < d->n_people; i++)
        if (d->people[i] == who)
            return;
    size_t cap = d->people_cap;
    d->people = grow(d->people, &cap, d->n_people, sizeof *d->people);
    d->people_cap = (uint32_t)cap;
    d->people[d->n_people++] = who;
}

/* ---- lines -------------------------------------------------------------------------------- */

/* Length of the well-formed UTF-8 sequence at p, or 0. */
static size_t sequence(const uint8_t *p, size_t n) {
    for (size_t len = 1; len <= 4 && len <= n; len++)
        if (ptn_utf8_valid(p, len))
            return len;
    return 0;
}

/* Copies text without NUL, Latin-1 bytes converted. */
static char *to_utf8(const char *text, size_t n, uint32_t *ret_bytes, bool *ret_converted) {
    char *out = malloc(2 * n + 1);
    if (out == NULL)
        bench_die("out of memory");
    size_t len = 0;
    *ret_converted = false;
    for (size_t at = 0; at < n;) {
        const uint8_t *p = (const uint8_t *)text + at;
        size_t take = sequence(p, n - at);
        if (take > 0 && *p != 0) {
            memcpy(out + len, p, take);
            len += take;
        } else if (*p != 0) {
            out[len++] = (char)(0xc0 | *p >> 6);
            out[len++] = (char)(0x80 | (*p & 0x3f));
            *ret_converted = true;
        }
        at += take > 0 ? take : 1;
    }
    out[len] = '\0';
    *ret_bytes = (uint32_t)len;
    return out;
}

/* The speaker and what is said; false: not a message. */
static bool split(char *line, size_t n, uint32_t *ret_minute, char nick[NICK_BYTES_MAX + 1],
                  char **ret_text) {
    unsigned hour = 0, minute = 0;
    char *p;
    if (sscanf(line, "[%2u:%2u]", &hour, &minute) != 2 || hour > 23 || minute > 59 || n < 9)
        return false;
    *ret_minute = hour * 60 + minute;
    p = line + 7;
    char *end;
    if (strncmp(p, " <", 2) == 0) {
        p += 2;
        end = strchr(p, '>');
    } else if (strncmp(p, "  * ", 4) == 0) {
        p += 4;
        end = strchr(p, ' ');
    } else {
        return false;
    }
    if (end == NULL || end == p || (size_t)(end - p) > NICK_BYTES_MAX || end[1] == '\0')
        return false;
    memcpy(nick, p, (size_t)(end - p));
    nick[end - p] = '\0';
    *ret_text = *end == '>' && end[1] == ' ' ? end + 2 : end + 1;
    return true;
}

static void add_line(struct chat *c, uint32_t day, char *line, size_t n, uint32_t line_number) {
    char nick[NICK_BYTES_MAX + 1];
    char *text;
    struct chat_message m = {.day = day, .line = line_number};
    bool converted = false;
    if (!split(line, n, &m.minute, nick, &text)) {
        c->n_skipped++;
        return;
    }
    m.text = to_utf8(text, n - (size_t)(text - line), &m.text_bytes, &converted);
    if (m.text_bytes == 0) {
        free(m.text);
        c->n_skipped++;
        return;
    }
    c->n_converted += converted;
    m.person = person(c, nick);
    join_day(&c->days[day], m.person);
    c->days[day].n_messages++;
    c->messages = grow(c->messages, &c->messages_cap, c->n_messages, sizeof *c->messages);
    c->messages[c->n_messages++] = m;
}

/* ---- files -------------------------------------------------------------------------------- */

static FILE *gunzip(const char *path, pid_t *ret_pid) {
    int fds[2];
    if (pipe(fds) < 0)
        bench_die("pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        bench_die("fork: %s", strerror(errno));
    if (pid == 0) {
        (void)dup2(fds[1], 1);
        (void)close(fds[0]);
        (void)close(fds[1]);
        (void)execlp("gzip", "gzip", "-dc", "--", path, (char *)NULL);
        _exit(127);
    }
    (void)close(fds[1]);
    *ret_pid = pid;
    return fdopen(fds[0], "r");
}

static void load_file(struct chat *c, const char *path) {
    const char *base = strrchr(path, '/') != NULL ? strrchr(path, '/') + 1 : path;
    c->days = grow(c->days, &c->days_cap, c->n_days, sizeof *c->days);
    c->days[c->n_days] = (struct chat_day){0};
    (void)snprintf(c->days[c->n_days].name, sizeof c->days->name, "%.*s", (int)strcspn(base, "."),
                   base);
    pid_t pid = 0;
    FILE *f = gunzip(path, &pid);
    if (f == NULL)
        bench_die("%s: %s", path, strerror(errno));
    char *line = NULL;
    size_t cap = 0;
    uint32_t line_number = 0;
    for (ssize_t n; (n = getline(&line, &cap, f)) >= 0;) {
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        add_line(c, (uint32_t)c->n_days, line, (size_t)n, ++line_number);
    }
    free(line);
    (void)fclose(f);
    int status = 0;
    if (waitpid(pid, &status, 0) != pid || status != 0)
        bench_die("gzip cannot read %s", path);
    c->n_days++;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int compare_messages(const void *a, const void *b) {
    const struct chat_message *x = a, *y = b;
    if (x->minute != y->minute)
        return x->minute < y->minute ? -1 : 1;
    if (x->day != y->day)
        return x->day < y->day ? -1 : 1;
    return x->line < y->line ? -1 : x->line > y->line;
}

static void load_directory(struct chat *c, const char *path, size_t days_max) {
    DIR *d = opendir(path);
    if (d == NULL)
        bench_die("%s: %s", path, strerror(errno));
    char **names = NULL;
    size_t n = 0, cap = 0;
    for (struct dirent *e; (e = readdir(d)) != NULL && n < FILES_MAX;) {
        size_t len = strlen(e->d_name);
        if (len < 4 || strcmp(e->d_name + len - 3, ".gz") != 0)
            continue;
        names = grow(names, &cap, n, sizeof *names);
        if (asprintf(&names[n], "%s/%s", path, e->d_name) < 0)
            bench_die("out of memory");
        n++;
    }
    (void)closedir(d);
    if (n > 0)
        qsort(names, n, sizeof *names, compare_names);
    for (size_t i = 0; i < n; i++) {
        if (days_max == 0 || i < days_max)
            load_file(c, names[i]);
        free(names[i]);
    }
    free(names);
}

void chat_load(struct chat *c, const char *path, size_t days_max) {
    struct stat sb;
    *c = (struct chat){0};
    if (stat(path, &sb) < 0)
        bench_die("%s: %s", path, strerror(errno));
    if (S_ISDIR(sb.st_mode))
        load_directory(c, path, days_max);
    else
        load_file(c, path);
    if (c->n_messages == 0)
        bench_die("%s holds no messages: it wants gzip files of lines '[HH:MM] <nick> text'", path);
    qsort(c->messages, c->n_messages, sizeof *c->messages, compare_messages);
}

void chat_done(struct chat *c) {
    for (size_t i = 0; i < c->n_messages; i++)
        free(c->messages[i].text);
    for (size_t i = 0; i < c->n_people; i++)
        free(c->people[i]);
    for (size_t i = 0; i < c->n_days; i++)
        free(c->days[i].people);
    free(c->messages);
    free(c->people);
    free(c->days);
    free(c->index);
    *c = (struct chat){0};
}
