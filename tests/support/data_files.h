/* Files for the tests of data/: a folder of the test's own, and token files built byte by byte from
   the format's description, not by the writer under test. */
#ifndef SY_TESTS_SUPPORT_DATA_FILES_H
#define SY_TESTS_SUPPORT_DATA_FILES_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/status.h"

enum { DATA_PATHS = 64 };

typedef struct data_dir {
    char path[64];
    char (*name)[128]; /* [DATA_PATHS] the last few paths made by data_path */
    int32_t n;
} data_dir;

static inline data_dir *data_dir_open(void)
{
    data_dir *dir = calloc(1, sizeof *dir);
    assert_non_null(dir);
    dir->name = calloc(DATA_PATHS, sizeof *dir->name);
    assert_non_null(dir->name);
    strcpy(dir->path, "/tmp/sy_data_XXXXXX");
    assert_non_null(mkdtemp(dir->path));
    return dir;
}

static inline void data_dir_close(data_dir *dir)
{
    DIR *open = opendir(dir->path);
    assert_non_null(open);
    for (struct dirent *e = readdir(open); e != NULL; e = readdir(open)) {
        if (e->d_name[0] != '.') {
            assert_int_equal(unlinkat(dirfd(open), e->d_name, 0), 0);
        }
    }
    closedir(open);
    assert_int_equal(rmdir(dir->path), 0);
    free(dir->name);
    free(dir);
}

/* DIR/name; stays valid for DATA_PATHS more calls. */
static inline const char *data_path(data_dir *dir, const char *name)
{
    char *path = dir->name[dir->n++ % DATA_PATHS];
    snprintf(path, sizeof dir->name[0], "%s/%s", dir->path, name);
    return path;
}

static inline void data_write(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline size_t data_read(const char *path, void *bytes, size_t max)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, max, f);
    fclose(f);
    return n;
}

static inline size_t data_put(uint8_t *to, size_t at, uint64_t value, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++) {
        to[at + i] = (uint8_t)(value >> (8 * i));
    }
    return at + n_bytes;
}

/* An index of n_seq sequences [lengths] without gaps and n_doc + 1 document entries. Returns its
 * size. */
static inline size_t data_make_idx(uint8_t *idx, int32_t type, size_t item_bytes,
                                   const int32_t *lengths, size_t n_seq, const int64_t *documents,
                                   size_t n_doc)
{
    uint64_t pointer = 0;
    memcpy(idx, "MMIDIDX\0\0", 9);
    size_t at = data_put(idx, 9, 1, 8);
    at = data_put(idx, at, (uint64_t)type, 1);
    at = data_put(idx, at, n_seq, 8);
    at = data_put(idx, at, n_doc + 1, 8);
    for (size_t i = 0; i < n_seq; i++) {
        at = data_put(idx, at, (uint64_t)lengths[i], 4);
    }
    for (size_t i = 0; i < n_seq; i++) {
        at = data_put(idx, at, pointer, 8);
        pointer += (uint64_t)lengths[i] * item_bytes;
    }
    for (size_t i = 0; i <= n_doc; i++) {
        at = data_put(idx, at, (uint64_t)documents[i], 8);
    }
    return at;
}

/* PREFIX.bin/.idx of i32 tokens base, base+1, ... in documents of the given lengths (none empty).
 */
static inline void data_write_counting(const char *prefix, int32_t base, const int32_t *lengths,
                                       size_t n)
{
    char path[160];
    uint8_t *idx = malloc(64 + 20 * n);
    int64_t *documents = malloc((n + 1) * sizeof *documents);
    size_t n_tokens = 0;
    for (size_t i = 0; i < n; i++) {
        n_tokens += (size_t)lengths[i];
    }
    for (size_t i = 0; i <= n; i++) {
        documents[i] = (int64_t)i;
    }
    int32_t *tokens = malloc(n_tokens * sizeof *tokens);
    for (size_t i = 0; i < n_tokens; i++) {
        tokens[i] = base + (int32_t)i;
    }
    snprintf(path, sizeof path, "%s.idx", prefix);
    data_write(path, idx, data_make_idx(idx, 4, 4, lengths, n, documents, n));
    snprintf(path, sizeof path, "%s.bin", prefix);
    data_write(path, tokens, n_tokens * sizeof *tokens);
    free(tokens);
    free(documents);
    free(idx);
}

/* The call failed as it should, and its message is one line with the words. Clears the error. */
static inline void data_expect_error(sy_status st, sy_status want, const char *word1,
                                     const char *word2)
{
    if (st != want || strstr(sy_error_message(), word1) == NULL ||
        strstr(sy_error_message(), word2) == NULL || strchr(sy_error_message(), '\n') != NULL) {
        print_error("status %d, wanted %d; message '%s' lacks '%s' or '%s', or is not one line\n",
                    (int)st, (int)want, sy_error_message(), word1, word2);
        fail();
    }
    sy_error_clear();
}

#endif
