/* SPDX-License-Identifier: Apache-2.0
 *
 * frame.c - output frames from per-thread size-class free lists.
 *
 * A frame lives and dies on one worker, so its count and the lists behind it are plain memory: the
 * steady path neither locks nor calls the allocator.  Classes are powers of two, header included,
 * from 128 bytes to 64 KiB; each list keeps at most FRAME_LIST_BYTES, and larger frames go straight
 * to the allocator.  Under a sanitizer every frame does, so that a use after the last reference is
 * seen.
 */
#include <postern/memory.h>
#include <postern/stream.h>

#include "runtime/stream_internal.h"

#include <stdlib.h>

#define FRAME_CLASS_MIN 7u  /* 128 bytes */
#define FRAME_CLASS_MAX 16u /* 64 KiB */
#define FRAME_CLASSES (FRAME_CLASS_MAX - FRAME_CLASS_MIN + 1)
#define FRAME_UNPOOLED UINT32_MAX
#define FRAME_LIST_BYTES (256u << 10)

#ifdef PTN_SANITIZE
#define FRAMES_ARE_POOLED false
#else
#define FRAMES_ARE_POOLED true
#endif

struct frame_list {
    ptn_frame *head; /* linked through the first bytes of data */
    uint32_t n;
};

static _Thread_local struct frame_list frame_lists[FRAME_CLASSES];

static ptn_frame *frame_next(const ptn_frame *f) {
    ptn_frame *next;
    memcpy(&next, f->data, sizeof next);
    return next;
}

/* Smallest class that holds n bytes; n <= 1 << FRAME_CLASS_MAX. */
static uint32_t class_of(size_t n) {
    uint32_t bits = n <= 1 ? 0 : 64u - (uint32_t)__builtin_clzll((unsigned long long)n - 1);
    return bits < FRAME_CLASS_MIN ? 0 : bits - FRAME_CLASS_MIN;
}

ptn_frame *ptn_frame_new(size_t cap) {
    if (cap > UINT32_MAX - sizeof(ptn_frame))
        return NULL;
    size_t bytes = sizeof(ptn_frame) + cap;
    uint32_t pool_class = FRAME_UNPOOLED;
    ptn_frame *f = NULL;
    if (FRAMES_ARE_POOLED && bytes <= (size_t)1 << FRAME_CLASS_MAX) {
        pool_class = class_of(bytes);
        bytes = (size_t)1 << (pool_class + FRAME_CLASS_MIN);
        struct frame_list *l = &frame_lists[pool_class];
        f = l->head;
        if (f != NULL) {
            l->head = frame_next(f);
            l->n--;
        }
    }
    if (f == NULL) {
        f = malloc(bytes);
        if (f == NULL)
            return NULL;
        ptn_memory_charge(PTN_POOL_OUTPUT, (int64_t)bytes);
    }
    f->refs = 1;
    f->len = 0;
    f->cap = (uint32_t)(bytes - sizeof(ptn_frame));
    f->pool_class = pool_class;
    return f;
}

static void frame_release(ptn_frame *f) {
    ptn_memory_charge(PTN_POOL_OUTPUT, -(int64_t)(sizeof(ptn_frame) + f->cap));
    free(f);
}

void ptn__frame_free(ptn_frame *f) {
    if (f->pool_class < FRAME_CLASSES) {
        struct frame_list *l = &frame_lists[f->pool_class];
        if (l->n < FRAME_LIST_BYTES >> (f->pool_class + FRAME_CLASS_MIN)) {
            memcpy(f->data, &l->head, sizeof l->head);
            l->head = f;
            l->n++;
            return;
        }
    }
    frame_release(f);
}

void ptn__frame_pool_done(void) {
    for (uint32_t i = 0; i < FRAME_CLASSES; i++) {
        struct frame_list *l = &frame_lists[i];
        for (ptn_frame *f = l->head; f != NULL;) {
            ptn_frame *next = frame_next(f);
            frame_release(f);
            f = next;
        }
        *l = (struct frame_list){0};
    }
}
