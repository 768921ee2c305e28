/* SPDX-License-Identifier: Apache-2.0
 *
 * common_chat.h - days of logged chat (gzip files of IRC lines) as conversations, people and
 * messages.
 */
#ifndef POSTERN_BENCH_COMMON_CHAT_H
#define POSTERN_BENCH_COMMON_CHAT_H

#include "bench/common.h"

struct chat_message {
    char *text; /* UTF-8, not empty, without NUL */
    uint32_t text_bytes;
    uint32_t day, person; /* indices */
    uint32_t minute;      /* of the day; where it stands in the replay */
    uint32_t line;
};

struct chat_day {
    char name[64]; /* of the file */
    uint32_t n_messages;
    uint32_t *people; /* who speaks, each once */
    uint32_t n_people, people_cap;
};

struct chat {
    struct chat_day *days;
    size_t n_days, days_cap;
    char **people; /* nicks */
    size_t n_people, people_cap;
    struct chat_message *messages; /* in the order of the replay: by minute, then day, then line */
    size_t n_messages, messages_cap;
    size_t n_skipped;   /* lines that are no messages: joins, topics, empty texts */
    size_t n_converted; /* texts that were not valid UTF-8 */
    uint32_t *index;    /* hash table of people, index + 1 */
    size_t index_cap;
};

/* One file, or every *.gz of a directory, at most days_max (0: all).  Dies on errors. */
void chat_load(struct chat *c, const char *path, size_t days_max);
void chat_done(struct chat *c);

#endif
