/* Plain file calls that finish what they begin: short reads and writes are continued, EINTR is
   repeated, and an error names the file and the mend. */
#ifndef SY_CHECKPOINT_FILE_IMPL_H
#define SY_CHECKPOINT_FILE_IMPL_H

#include "core/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Open for reading, and the size. Missing, or not a file: SY_ERR_USAGE. Not collective. */
sy_status sy__file_open_read(const char *path, int *fd, int64_t *bytes);
/* A new, empty file; an old one of that name is replaced. Not collective. */
sy_status sy__file_create(const char *path, int *fd);
/* Open an existing file for reading and writing. Not collective. */
sy_status sy__file_open_write(const char *path, int *fd);
/* Close where it is open (fd >= 0) and set fd to -1; `written`: an error of close counts.
   Not collective. */
sy_status sy__file_close(int *fd, const char *path, bool written);
/* All n bytes at the offset. A file that ends before: SY_ERR_DAMAGED. Not collective. */
sy_status sy__file_read(int fd, const char *path, void *to, int64_t n, int64_t offset);
sy_status sy__file_write(int fd, const char *path, const void *from, int64_t n, int64_t offset);
sy_status sy__file_sync(int fd, const char *path);
/* Begin to bring bytes that were written to the disk, beside what follows: sy__file_sync has less
   left to do, and says what failed. Not collective. */
void sy__file_flush(int fd, int64_t n, int64_t offset);
sy_status sy__file_bytes(int fd, const char *path, int64_t *bytes);
/* Give the file its size. Not collective. */
sy_status sy__file_resize(int fd, const char *path, int64_t bytes);
/* Claim the disk space of all bytes now where the file system can, so that a full disk shows before
   the work. Not collective. */
sy_status sy__file_claim(int fd, const char *path, int64_t bytes);
/* Both. Not collective. */
sy_status sy__file_reserve(int fd, const char *path, int64_t bytes);
/* "folder/.name.tmp" for "folder/name". Not collective. */
sy_status sy__file_temporary(const char *path, char **out);
/* Remove it; that there is none is fine. Not collective. */
sy_status sy__file_remove(const char *path);
/* Give the whole file its final name; durably: and sync its folder. Not collective. */
sy_status sy__file_publish(const char *temporary, const char *path, bool durably);

#ifdef __cplusplus
}
#endif
#endif
