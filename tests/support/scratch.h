/* A folder of a test's own, and whole files in and out of it. */
#ifndef SY_TESTS_SUPPORT_SCRATCH_H
#define SY_TESTS_SUPPORT_SCRATCH_H

#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SCRATCH_PATH = 512 };

typedef struct scratch {
    char dir[SCRATCH_PATH];
} scratch;

static inline int scratch_remove_one(const char *path, const struct stat *info, int kind,
                                     struct FTW *place)
{
    (void)info, (void)kind, (void)place;
    return remove(path);
}

static inline int scratch_setup(void **state)
{
    scratch *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return -1;
    }
    const char *base = getenv("TMPDIR");
    snprintf(s->dir, sizeof s->dir, "%s/sy_test.XXXXXX", base != NULL ? base : "/tmp");
    *state = s;
    return mkdtemp(s->dir) != NULL ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
    scratch *s = *state;
    int failed = nftw(s->dir, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(s);
    return failed;
}

/* "<dir>/<name>" into path; returns path. */
static inline char *scratch_path(void **state, const char *name, char path[2 * SCRATCH_PATH])
{
    snprintf(path, 2 * SCRATCH_PATH, "%s/%s", ((scratch *)*state)->dir, name);
    return path;
}

static inline void scratch_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fputs(text, file) < 0 || fclose(file) != 0) {
        abort();
    }
}

/* The file's text, to be freed with free(); NULL if it cannot be opened. */
static inline char *scratch_read(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        return NULL;
    }
    char *text = NULL;
    size_t n = 0, got = 1;
    while (got > 0) {
        char *more = realloc(text, n + 65537);
        if (more == NULL) {
            abort();
        }
        text = more;
        got = fread(text + n, 1, 65536, file);
        n += got;
    }
    text[n] = '\0';
    fclose(file);
    return text;
}

static inline bool scratch_exists(const char *path)
{
    struct stat info;
    return lstat(path, &info) == 0;
}

#endif
