/* doctor: how fast files are written and read here, and whether what checkpoints rely on works. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "launch/doctor_disk_impl.h"

enum { BLOCK = 1 << 20, N_BLOCKS = 64 };

const char *sy__doctor_kind_of_disk(const char *path, bool *is_memory)
{
    static const struct {
        unsigned long magic;
        const char *name;
    } known[] = {
        {0xEF53, "ext"},       {0x58465342, "xfs"},     {0x9123683E, "btrfs"},
        {0x2FC12FC1, "zfs"},   {0x794C7630, "overlay"}, {0x01021994, "tmpfs"},
        {0x858458F6, "ramfs"}, {0x6969, "nfs"},         {0x0BD00BD0, "lustre"},
        {0x47504653, "gpfs"},  {0x19830326, "beegfs"},  {0x00C36400, "ceph"},
        {0xFF534D42, "cifs"},  {0xFE534D42, "smb2"},    {0x01021997, "9p"},
        {0x65735546, "fuse"},  {0xAAD7AAEA, "panfs"},   {0x20030528, "orangefs"},
    };
    struct statfs s;
    *is_memory = false;
    if (statfs(path, &s) != 0) {
        return "not known";
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (((unsigned long)s.f_type & 0xFFFFFFFFUL) == known[i].magic) {
            *is_memory = strcmp(known[i].name, "tmpfs") == 0 || strcmp(known[i].name, "ramfs") == 0;
            return known[i].name;
        }
    }
    return "of a kind not known";
}

static bool write_blocks(int fd, const char *block, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        for (ssize_t done = 0, k; done < BLOCK; done += k) {
            k = write(fd, block + done, (size_t)(BLOCK - done));
            if (k <= 0) {
                errno = k == 0 ? ENOSPC : errno;
                return false;
            }
        }
    }
    return true;
}

static bool read_blocks(int fd, char *block)
{
    ssize_t k;
    do {
        k = read(fd, block, BLOCK);
    } while (k > 0);
    return k == 0;
}

/* As a checkpoint is made: written, synced, renamed, its folder synced. The step that failed, or
   NULL. */
static const char *make_file(const char *folder, const char *temporary, const char *final,
                             char *block, int32_t n, double *seconds)
{
    const char *failed = NULL;
    int fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666), dir = -1;
    const double begun = sy_clock_s();
    if (fd < 0) {
        return "making a file";
    }
    failed = !write_blocks(fd, block, n) ? "writing" : fsync(fd) != 0 ? "fsync of a file" : NULL;
    seconds[0] = sy_clock_s() - begun;
    if (failed == NULL) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        failed = rename(temporary, final) != 0 ? "renaming a file" : NULL;
    }
    if (failed == NULL) {
        dir = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        failed = dir < 0 || fsync(dir) != 0 ? "fsync of a folder" : NULL;
    }
    seconds[1] = sy_clock_s();
    if (failed == NULL && (lseek(fd, 0, SEEK_SET) != 0 || !read_blocks(fd, block))) {
        failed = "reading";
    }
    seconds[1] = sy_clock_s() - seconds[1];
    const int error = errno;
    if (dir >= 0) {
        close(dir);
    }
    close(fd);
    errno = error;
    return failed;
}

void sy__doctor_disk_speed(sy__doctor *d, const char *folder, int32_t number, double free_bytes)
{
    char temporary[SY__DOCTOR_PATH + 32], final[SY__DOCTOR_PATH + 32], *block = NULL;
    double seconds[2] = {0};
    const double room = free_bytes / 4 / BLOCK;
    const int32_t n = room < N_BLOCKS ? (int32_t)room : N_BLOCKS;
    snprintf(temporary, sizeof temporary, "%s/.host%d.tmp", folder, number);
    snprintf(final, sizeof final, "%s/host%d", folder, number);
    if (n < 1 || sy_alloc(BLOCK, 1, (void **)&block) != SY_OK) {
        sy_error_clear();
        return; /* that there is no room is said elsewhere */
    }
    memset(block, 0x5A, BLOCK);
    const char *failed = make_file(folder, temporary, final, block, n, seconds);
    if (failed != NULL) {
        sy__doctor_say(d, "files", SY__PROBLEM, "let runs live on a file system where this works",
                       "%s fails: %s; no checkpoint can be saved", failed, strerror(errno));
    } else {
        const double mb = (double)n * BLOCK / 1e6;
        const bool slow = mb / seconds[0] < 50;
        sy__doctor_say(d, "files", slow ? SY__NOTE : SY__FINE,
                       slow ? "a checkpoint takes 12 bytes a parameter: choose a faster disk, or "
                              "save less often (train.checkpoint_every, checkpoint_async)"
                            : NULL,
                       "%.0f MB written and synced at %.0f MB/s, read at %.0f MB/s; renaming and "
                       "fsync of a folder work",
                       mb, mb / seconds[0], mb / seconds[1]);
    }
    unlink(temporary);
    unlink(final);
    sy_free(&block);
}
