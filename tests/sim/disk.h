/* SPDX-License-Identifier: Apache-2.0
 *
 * disk.h - a simulated disk under SQLite: a VFS over files in memory that outlives the process.
 *
 * A file has two images: what was written, and what a power loss leaves.  A sync copies one to the
 * other; without one, the kernel writes back what it likes when it likes, sector by sector, and a
 * power loss keeps a drawn part of the rest.  A name that was made or removed is durable after a
 * sync of the directory.  A sync that fails has written a part, and the kernel forgets that the
 * other part is dirty: the next sync succeeds without it (Rebello et al., "Can Applications Recover
 * from fsync Failures?", USENIX ATC 2020).  Bytes beside a write never change, as SQLite assumes of
 * real disks too (SQLITE_IOCAP_POWERSAFE_OVERWRITE, the default of its own VFS); nothing else is
 * promised.
 *
 * It is here and not in runtime/env because that floor knows no SQLite.  One process at a time has
 * the disk plugged in, and one thread of it uses the disk: a lock that is taken is busy at once.
 */
#ifndef POSTERN_TESTS_SIM_DISK_H
#define POSTERN_TESTS_SIM_DISK_H

#include "runtime/env/env_sim.h"

#define DISK_VFS "postern-disk"

struct disk_faults {                        /* ppm: per operation of that kind */
    uint32_t read_ppm, write_ppm, sync_ppm; /* EIO; a write has stored a part */
    uint32_t full_ppm, full_ops; /* a write finds the disk full, for about so many operations */
    bool quota;                  /* ...or rather a quota at its end */
    uint32_t writeback_ppm;      /* after a write the kernel writes some sectors back */
    bool forgetful;              /* after a failed sync the cache has the old content again */
    uint32_t slow_ppm;
    ptn_time slow_ns;
};

struct disk_opts {
    uint64_t seed;
    struct disk_faults faults;
    uint64_t end_at;      /* in the middle of this operation the process ends; 0: never */
    uint64_t end_at_sync; /* ...or of this one among the syncs */
    bool end_power;       /* ...because the power fails */
    void (*on_end)(void);
    void (*on_slow)(ptn_time ns);
};

/* Shared memory for a disk, empty; again: the disk is emptied.  Before the processes that use it
 * are forked. */
void disk_make(void);
/* Makes DISK_VFS, and the default of SQLite, lead to the disk.  As often as wanted: the power comes
 * back.  opts NULL: a perfect disk. */
void disk_plug(const struct disk_opts *opts);
void disk_faults_set(const struct disk_faults *f); /* NULL: none any more */
/* A drawn part of what was not synced is lost.  Every operation fails until the next plug. */
void disk_power_loss(void);
/* The process can do nothing any more, the kernel's cache stays: as after a kill. */
void disk_unplug(void);

uint64_t disk_ops(void); /* since it was plugged in */

struct disk_stats { /* of the disk since it was made */
    uint64_t errors, full;
};
struct disk_stats disk_stats(void);

/* Most kinds of fault are absent from most mixtures. */
void disk_faults_draw(ptn_sim_rng *r, struct disk_faults *ret_f);

#endif
