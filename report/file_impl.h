/* Files as report/ needs them: whole reads, atomic writes, and lines with their place in the file.
 */
#ifndef SY_REPORT_FILE_IMPL_H
#define SY_REPORT_FILE_IMPL_H

#include "core/status.h"

/* Write all bytes to fd, whatever short writes and signals come between. Returns 0 or errno. */
int sy__write_all(int fd, const char *bytes, int64_t n);
/* Replace `path` by a file with these bytes: temporary file beside it, fsync, rename, fsync of the
   folder. Whoever opens `path` sees the old or the new contents, never a part. SY_ERR_IO; the old
   file then stays. */
sy_status sy__text_file_replace(const char *path, const char *bytes, int64_t n);
/* The whole file as a terminated string; SY_ERR_USAGE if it is missing, SY_ERR_IO if it cannot be
 * read or is larger than n_max. */
sy_status sy__text_file_read(const char *path, int64_t n_max, char **out);
/* Make a rename in `dir` durable. */
sy_status sy__dir_sync(const char *dir);
/* The folder part of a path ("." if there is none); free with sy_free. */
sy_status sy__path_folder(const char *path, char **out);

/* Lines of a file, one after the other. */
typedef struct sy__lines {
    int fd;
    char *buf;
    int64_t begin, end, buf_bytes; /* unread bytes are buf[begin .. end-1] */
    int64_t offset;                /* in the file, of buf[begin] */
    bool at_eof;
} sy__lines;

typedef struct sy__line {
    char *text;     /* without its line break, terminated; valid until the next call */
    int64_t n;      /* bytes of text */
    int64_t offset; /* of its first byte in the file */
    bool complete;  /* false: the file ends before a line break */
} sy__line;

/* fd stays the caller's. */
void sy__lines_init(sy__lines *lines, int fd);
/* *found false at the end of the file. */
sy_status sy__lines_next(sy__lines *lines, sy__line *line, bool *found);
void sy__lines_free(sy__lines *lines);

#endif
