/* SPDX-License-Identifier: Apache-2.0
 *
 * disk.c - the simulated disk: two images of each file, a directory, faults, and the VFS over them.
 *
 * Invariant: in both images the bytes behind the size are zero.  A sector that differs between the
 * images is dirty, unless a failed sync has made the kernel forget it.
 */
#include "disk.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/mman.h>

#define FILES 6u
#define NAME_BYTES 64u
#define SECTOR 512u
#define FILE_BYTES_MAX ((uint64_t)32 << 20)
#define SECTORS (FILE_BYTES_MAX / SECTOR)
#define REGIONS 16u
#define JULIAN_2025_MS INT64_C(212602449600000)

struct image {
    uint64_t size;
    bool linked; /* its name is in the directory */
    uint8_t bytes[FILE_BYTES_MAX];
};

struct inode {
    char name[NAME_BYTES];
    uint64_t dirty_from, dirty_to; /* sectors; all dirty ones are between */
    bool dirty[SECTORS];
    struct image now, safe;
};

struct disk {
    struct disk_stats stats;
    struct inode files[FILES];
};

struct handle {
    sqlite3_file base;
    struct handle *next; /* open ones of this process */
    struct inode *f;
    bool sync_directory; /* with the first sync, as SQLite's own VFS does for logs and journals */
    int last_errno;
    int level;                   /* SQLITE_LOCK_* that it holds */
    unsigned shares, exclusives; /* locks of the index of the log that it holds, a bit each */
};

static struct disk *disk;
static struct { /* of this process */
    struct disk_opts opts;
    ptn_sim_rng rng;
    uint64_t ops, syncs, full_until;
    bool dead;
    struct handle *handles;
    void *region[FILES][REGIONS]; /* indexes of logs */
} D = {.dead = true};

/* ---- images ---------------------------------------------------------------------------------- */

static void mark_dirty(struct inode *f, uint64_t from_byte, uint64_t to_byte) {
    uint64_t from = from_byte / SECTOR, to = (to_byte + SECTOR - 1) / SECTOR;
    if (from >= to)
        return;
    memset(f->dirty + from, true, to - from);
    bool clean = f->dirty_from == f->dirty_to;
    f->dirty_from = clean || from < f->dirty_from ? from : f->dirty_from;
    f->dirty_to = clean || to > f->dirty_to ? to : f->dirty_to;
}

static void image_resize(struct image *i, uint64_t size) {
    if (size < i->size)
        memset(i->bytes + size, 0, i->size - size);
    i->size = size;
}

static void sector_to_disk(struct inode *f, uint64_t sector) {
    uint64_t at = sector * SECTOR, end = at + SECTOR;
    f->dirty[sector] = false;
    if (at >= f->now.size)
        return; /* cut off meanwhile */
    end = end < f->now.size ? end : f->now.size;
    memcpy(f->safe.bytes + at, f->now.bytes + at, SECTOR);
    if (f->safe.size < end)
        f->safe.size = end;
}

/* Each dirty sector with this probability; the others stay dirty. */
static void some_to_disk(struct inode *f, uint32_t ppm) {
    for (uint64_t i = f->dirty_from; i < f->dirty_to; i++)
        if (f->dirty[i] && ptn_sim_rng_chance(&D.rng, ppm))
            sector_to_disk(f, i);
}

static void all_to_disk(struct inode *f) {
    some_to_disk(f, 1000000);
    f->dirty_from = f->dirty_to = 0;
    image_resize(&f->safe, f->now.size);
}

/* The cache is clean now, whatever it holds. */
static void forget_dirty(struct inode *f) {
    memset(f->dirty + f->dirty_from, false, f->dirty_to - f->dirty_from);
    f->dirty_from = f->dirty_to = 0;
}

static void sync_failed(struct inode *f) {
    some_to_disk(f, (uint32_t)ptn_sim_rng_below(&D.rng, 3) * 500000);
    for (uint64_t i = f->dirty_from; i < f->dirty_to && D.opts.faults.forgetful; i++)
        if (f->dirty[i])
            memcpy(f->now.bytes + i * SECTOR, f->safe.bytes + i * SECTOR, SECTOR);
    forget_dirty(f);
}

static void directory_to_disk(void) {
    for (unsigned i = 0; i < FILES; i++)
        disk->files[i].safe.linked = disk->files[i].now.linked;
}

/* What the kernel had of this file is gone. */
static void lose_cache(struct inode *f, uint32_t kept_ppm, bool kept_names) {
    some_to_disk(f, kept_ppm);
    forget_dirty(f);
    if (f->now.size > f->safe.size) /* the size may be on disk without the content */
        f->safe.size += ptn_sim_rng_below(&D.rng, 2) *
                        ptn_sim_rng_below(&D.rng, f->now.size - f->safe.size + 1);
    else if (f->now.size < f->safe.size && ptn_sim_rng_below(&D.rng, 2) == 0)
        image_resize(&f->safe, f->now.size);
    if (kept_names)
        f->safe.linked = f->now.linked;
    uint64_t size = f->now.size > f->safe.size ? f->now.size : f->safe.size;
    memcpy(f->now.bytes, f->safe.bytes, size);
    f->now.size = f->safe.size;
    f->now.linked = f->safe.linked;
}

void disk_power_loss(void) {
    static const uint32_t kept[] = {0, 20000, 500000, 980000, 1000000};
    if (D.dead)
        return;
    uint32_t kept_ppm = kept[ptn_sim_rng_below(&D.rng, PTN_ARRAY_LEN(kept))];
    bool kept_names = ptn_sim_rng_below(&D.rng, 2) == 0; /* in their order, so all or none */
    for (unsigned i = 0; i < FILES; i++)
        lose_cache(&disk->files[i], kept_ppm, kept_names);
    D.dead = true;
}

void disk_unplug(void) {
    D.dead = true;
}

/* ---- names ----------------------------------------------------------------------------------- */

static struct inode *find(const char *name) {
    for (unsigned i = 0; i < FILES; i++)
        if (disk->files[i].now.linked && strcmp(disk->files[i].name, name) == 0)
            return &disk->files[i];
    return NULL;
}

static bool is_open(const struct inode *f) {
    const struct handle *h = D.handles;
    while (h != NULL && h->f != f)
        h = h->next;
    return h != NULL;
}

static struct inode *create(const char *name, bool durable) {
    for (unsigned i = 0; i < FILES; i++) {
        struct inode *f = &disk->files[i];
        if (f->now.linked || f->safe.linked || is_open(f))
            continue;
        image_resize(&f->now, 0);
        image_resize(&f->safe, 0);
        forget_dirty(f);
        f->now.linked = true;
        f->safe.linked = durable;
        (void)sqlite3_snprintf(NAME_BYTES, f->name, "%s", name);
        return f;
    }
    return NULL;
}

/* ---- operations and their faults ------------------------------------------------------------- */

static int failed(struct handle *h, int rc, int error) {
    disk->stats.errors++;
    h->last_errno = errno = error;
    return rc;
}

/* True: the process ends here. */
static bool operation(void) {
    D.ops++;
    if (D.opts.on_slow != NULL && ptn_sim_rng_chance(&D.rng, D.opts.faults.slow_ppm))
        D.opts.on_slow(1 + ptn_sim_rng_exp(&D.rng, D.opts.faults.slow_ns));
    return D.ops == D.opts.end_at;
}

static void end(void) {
    if (D.opts.end_power)
        disk_power_loss();
    D.dead = true;
    if (D.opts.on_end != NULL)
        D.opts.on_end();
}

/* False: the process ended before it. */
static bool happens(void) {
    if (!D.dead && operation())
        end();
    return !D.dead;
}

static void regions_free(unsigned file) {
    for (unsigned i = 0; i < REGIONS; i++) {
        free(D.region[file][i]);
        D.region[file][i] = NULL;
    }
}

static int file_close(sqlite3_file *file) {
    struct handle **h = &D.handles;
    while (*h != NULL && &(*h)->base != file)
        h = &(*h)->next;
    if (*h == NULL)
        return SQLITE_OK; /* from before the plug */
    struct inode *f = (*h)->f;
    *h = (*h)->next;
    if (!is_open(f))
        regions_free((unsigned)(f - disk->files));
    return SQLITE_OK;
}

static int file_read(sqlite3_file *file, void *p, int n, sqlite3_int64 at) {
    struct handle *h = (struct handle *)file;
    uint64_t from = (uint64_t)at, size = h->f->now.size;
    if (!happens() || ptn_sim_rng_chance(&D.rng, D.opts.faults.read_ppm))
        return failed(h, SQLITE_IOERR_READ, EIO);
    uint64_t there = from >= size ? 0 : size - from < (uint64_t)n ? size - from : (uint64_t)n;
    memcpy(p, h->f->now.bytes + (from < size ? from : 0), there);
    memset((char *)p + there, 0, (size_t)n - there);
    return there == (uint64_t)n ? SQLITE_OK : SQLITE_IOERR_SHORT_READ;
}

static void store_bytes(struct inode *f, uint64_t at, const void *p, uint64_t n) {
    uint64_t end_at = at + n;
    if (n == 0)
        return;
    memcpy(f->now.bytes + at, p, n);
    mark_dirty(f, at < f->now.size ? at : f->now.size, end_at); /* a hole is written as zeros */
    if (end_at > f->now.size)
        f->now.size = end_at;
    if (ptn_sim_rng_chance(&D.rng, D.opts.faults.writeback_ppm))
        some_to_disk(f, 300000);
}

/* How much of it has room. */
static uint64_t room_for(const struct inode *f, uint64_t at, uint64_t n) {
    uint64_t limit = FILE_BYTES_MAX;
    if (D.ops >= D.full_until && ptn_sim_rng_chance(&D.rng, D.opts.faults.full_ppm))
        D.full_until = D.ops + 1 + ptn_sim_rng_exp(&D.rng, D.opts.faults.full_ops);
    if (D.ops < D.full_until)
        limit = f->now.size;
    return at >= limit ? 0 : limit - at < n ? limit - at : n;
}

static int file_write(sqlite3_file *file, const void *p, int size, sqlite3_int64 offset) {
    struct handle *h = (struct handle *)file;
    uint64_t at = (uint64_t)offset, n = (uint64_t)size;
    if (D.dead)
        return failed(h, SQLITE_IOERR_WRITE, EIO);
    bool ends = operation();
    uint64_t room = room_for(h->f, at, n);
    bool fails = ends || ptn_sim_rng_chance(&D.rng, D.opts.faults.write_ppm);
    store_bytes(h->f, at, p, fails ? ptn_sim_rng_below(&D.rng, room + 1) : room);
    if (ends)
        end();
    if (fails)
        return failed(h, SQLITE_IOERR_WRITE, EIO);
    if (room == n)
        return SQLITE_OK;
    disk->stats.full++;
    return D.opts.faults.quota ? failed(h, SQLITE_IOERR_WRITE, EDQUOT)
                               : failed(h, SQLITE_FULL, ENOSPC);
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size) {
    struct handle *h = (struct handle *)file;
    if (!happens())
        return failed(h, SQLITE_IOERR_TRUNCATE, EIO);
    if ((uint64_t)size < h->f->now.size)
        image_resize(&h->f->now, (uint64_t)size);
    return SQLITE_OK;
}

static int file_sync(sqlite3_file *file, int flags) {
    struct handle *h = (struct handle *)file;
    (void)flags;
    if (!D.dead && ++D.syncs == D.opts.end_at_sync)
        end();
    if (!happens())
        return failed(h, SQLITE_IOERR_FSYNC, EIO);
    if (ptn_sim_rng_chance(&D.rng, D.opts.faults.sync_ppm)) {
        sync_failed(h->f);
        return failed(h, SQLITE_IOERR_FSYNC, EIO);
    }
    all_to_disk(h->f);
    if (h->sync_directory)
        directory_to_disk();
    h->sync_directory = false;
    return SQLITE_OK;
}

static int file_size(sqlite3_file *file, sqlite3_int64 *ret_size) {
    *ret_size = (sqlite3_int64)((struct handle *)file)->f->now.size;
    return SQLITE_OK;
}

/* ---- locks: sqlite.org/lockingv3.html, sqlite.org/walformat.html -------------------------------
 */

static int level_of_others(const struct handle *me) {
    int level = SQLITE_LOCK_NONE;
    for (const struct handle *h = D.handles; h != NULL; h = h->next)
        if (h != me && h->f == me->f && h->level > level)
            level = h->level;
    return level;
}

static int file_lock(sqlite3_file *file, int level) {
    struct handle *h = (struct handle *)file;
    int others = level_of_others(h);
    bool busy = level == SQLITE_LOCK_SHARED     ? others >= SQLITE_LOCK_PENDING
                : level == SQLITE_LOCK_RESERVED ? others >= SQLITE_LOCK_RESERVED
                                                : others >= SQLITE_LOCK_SHARED;
    if (busy && level > h->level)
        return SQLITE_BUSY;
    h->level = level > h->level ? level : h->level;
    return SQLITE_OK;
}

static int file_unlock(sqlite3_file *file, int level) {
    struct handle *h = (struct handle *)file;
    h->level = level < h->level ? level : h->level;
    return SQLITE_OK;
}

static int file_check_reserved(sqlite3_file *file, int *ret_reserved) {
    *ret_reserved = level_of_others((struct handle *)file) >= SQLITE_LOCK_RESERVED;
    return SQLITE_OK;
}

static int file_control(sqlite3_file *file, int op, void *arg) {
    if (op != SQLITE_FCNTL_LAST_ERRNO)
        return SQLITE_NOTFOUND;
    *(int *)arg = ((struct handle *)file)->last_errno;
    return SQLITE_OK;
}

static int file_sector_size(sqlite3_file *file) {
    (void)file;
    return 4096; /* as SQLite's own VFS says, whatever the disk does */
}

static int file_characteristics(sqlite3_file *file) {
    (void)file;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static int shm_map(sqlite3_file *file, int region, int bytes, int extend, void volatile **ret_p) {
    void **r = D.region[((struct handle *)file)->f - disk->files];
    PTN_ASSERT((unsigned)region < REGIONS);
    if (r[region] == NULL && extend)
        r[region] = calloc(1, (size_t)bytes);
    *ret_p = r[region];
    return *ret_p == NULL && extend ? SQLITE_IOERR_NOMEM : SQLITE_OK;
}

static int shm_lock(sqlite3_file *file, int offset, int n, int flags) {
    struct handle *me = (struct handle *)file;
    unsigned bits = ((1u << n) - 1) << offset;
    if ((flags & SQLITE_SHM_UNLOCK) != 0) {
        me->shares &= ~bits;
        me->exclusives &= ~bits;
        return SQLITE_OK;
    }
    bool share = (flags & SQLITE_SHM_SHARED) != 0;
    for (const struct handle *h = D.handles; h != NULL; h = h->next)
        if (h != me && h->f == me->f &&
            ((h->exclusives & bits) != 0 || (!share && (h->shares & bits) != 0)))
            return SQLITE_BUSY;
    if (share)
        me->shares |= bits;
    else
        me->exclusives |= bits;
    return SQLITE_OK;
}

static void shm_barrier(sqlite3_file *file) {
    (void)file;
}

static int shm_unmap(sqlite3_file *file, int remove) {
    struct handle *h = (struct handle *)file;
    h->shares = h->exclusives = 0;
    if (remove != 0) /* nobody else has it */
        regions_free((unsigned)(h->f - disk->files));
    return SQLITE_OK;
}

static const sqlite3_io_methods file_methods = {
    .iVersion = 2,
    .xClose = file_close,
    .xRead = file_read,
    .xWrite = file_write,
    .xTruncate = file_truncate,
    .xSync = file_sync,
    .xFileSize = file_size,
    .xLock = file_lock,
    .xUnlock = file_unlock,
    .xCheckReservedLock = file_check_reserved,
    .xFileControl = file_control,
    .xSectorSize = file_sector_size,
    .xDeviceCharacteristics = file_characteristics,
    .xShmMap = shm_map,
    .xShmLock = shm_lock,
    .xShmBarrier = shm_barrier,
    .xShmUnmap = shm_unmap,
};

/* ---- the VFS --------------------------------------------------------------------------------- */

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags,
                    int *ret_flags) {
    struct handle *h = (struct handle *)file;
    (void)vfs;
    memset(h, 0, sizeof *h);
    PTN_ASSERT(name != NULL && strlen(name) < NAME_BYTES); /* temporary files stay in memory */
    if (!happens())
        return SQLITE_CANTOPEN;
    bool log = (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL)) != 0;
    struct inode *f = find(name);
    if (f == NULL && (flags & SQLITE_OPEN_CREATE) != 0)
        f = create(name, !log); /* store_db.c syncs the directory of a new database */
    if (f == NULL)
        return SQLITE_CANTOPEN;
    h->f = f;
    h->next = D.handles;
    D.handles = h;
    h->sync_directory = log;
    h->base.pMethods = &file_methods;
    if (ret_flags != NULL)
        *ret_flags = flags;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_directory) {
    (void)vfs;
    if (!happens())
        return SQLITE_IOERR_DELETE;
    struct inode *f = find(name);
    if (f == NULL)
        return SQLITE_IOERR_DELETE_NOENT;
    f->now.linked = false;
    if (sync_directory != 0)
        directory_to_disk();
    return SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret_there) {
    const struct inode *f = find(name);
    (void)vfs;
    *ret_there = f != NULL && (flags != SQLITE_ACCESS_EXISTS || f->now.size > 0);
    return SQLITE_OK;
}

static int vfs_full_path(sqlite3_vfs *vfs, const char *name, int n, char *out) {
    (void)vfs;
    (void)sqlite3_snprintf(n, out, "%s", name);
    return SQLITE_OK;
}

static int vfs_random(sqlite3_vfs *vfs, int n, char *out) {
    (void)vfs;
    for (int i = 0; i < n; i++)
        out[i] = (char)ptn_sim_rng_below(&D.rng, 256);
    return n;
}

static int vfs_sleep(sqlite3_vfs *vfs, int us) {
    (void)vfs;
    return us;
}

static int vfs_time(sqlite3_vfs *vfs, sqlite3_int64 *ret_ms) {
    (void)vfs;
    *ret_ms = JULIAN_2025_MS;
    return SQLITE_OK;
}

static int vfs_last_error(sqlite3_vfs *vfs, int n, char *out) {
    (void)vfs;
    (void)n;
    (void)out;
    return errno;
}

void disk_plug(const struct disk_opts *opts) {
    static sqlite3_vfs vfs = {
        .iVersion = 2,
        .szOsFile = sizeof(struct handle),
        .mxPathname = NAME_BYTES,
        .zName = DISK_VFS,
        .xOpen = vfs_open,
        .xDelete = vfs_delete,
        .xAccess = vfs_access,
        .xFullPathname = vfs_full_path,
        .xRandomness = vfs_random,
        .xSleep = vfs_sleep,
        .xGetLastError = vfs_last_error,
        .xCurrentTimeInt64 = vfs_time,
    };
    D.opts = opts != NULL ? *opts : (struct disk_opts){0};
    D.ops = D.syncs = D.full_until = 0;
    D.dead = false;
    ptn_sim_rng_seed(&D.rng, D.opts.seed);
    for (unsigned i = 0; i < FILES; i++)
        regions_free(i);
    D.handles = NULL;                                       /* whoever had one is dead */
    PTN_ASSERT(sqlite3_vfs_register(&vfs, 1) == SQLITE_OK); /* its random numbers are ours, too */
}

void disk_make(void) {
    if (disk != NULL) /* not madvise(): an emulator of processors may take that for a hint */
        (void)munmap(disk, sizeof *disk);
    disk = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    PTN_ASSERT(disk != MAP_FAILED);
}

void disk_faults_set(const struct disk_faults *f) {
    D.opts.faults = f != NULL ? *f : (struct disk_faults){0};
    D.full_until = 0;
}

uint64_t disk_ops(void) {
    return D.ops;
}

struct disk_stats disk_stats(void) {
    return disk->stats;
}

void disk_faults_draw(ptn_sim_rng *r, struct disk_faults *ret_f) {
    uint32_t v[6];
    for (unsigned i = 0; i < PTN_ARRAY_LEN(v); i++)
        v[i] = ptn_sim_rng_below(r, 2) == 0 ? 100 + (uint32_t)ptn_sim_rng_below(r, 20000) : 0;
    bool healthy = ptn_sim_rng_below(r, 2) == 0;
    *ret_f = (struct disk_faults){
        .read_ppm = healthy ? 0 : v[0] / 4,
        .write_ppm = healthy ? 0 : v[1],
        .sync_ppm = healthy ? 0 : v[2] * 4,
        .full_ppm = healthy ? 0 : v[3] / 4,
        .full_ops = 10 + (uint32_t)ptn_sim_rng_below(r, 1000),
        .quota = ptn_sim_rng_below(r, 2) == 0,
        .writeback_ppm = v[4] * 20,
        .forgetful = ptn_sim_rng_below(r, 2) == 0,
        .slow_ppm = v[5] / 4,
        .slow_ns = (1 + ptn_sim_rng_below(r, 500)) * PTN_MS,
    };
}
