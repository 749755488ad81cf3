/* safetensors files byte by byte from the format's description, not by the writer under test. */
#ifndef SY_TESTS_SUPPORT_SAFETENSORS_BYTES_H
#define SY_TESTS_SUPPORT_SAFETENSORS_BYTES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct st_bytes {
    uint8_t *at; /* of exactly n bytes, so that a read past them is found */
    size_t n;
} st_bytes;

/* Length, header, data. data NULL: n_data bytes that count up. */
static inline st_bytes st_make_n(const void *header, size_t n_header, const void *data,
                                 size_t n_data)
{
    st_bytes file = {.n = 8 + n_header + n_data};
    file.at = malloc(file.n);
    if (file.at == NULL) {
        abort();
    }
    for (size_t i = 0; i < 8; i++) {
        file.at[i] = (uint8_t)((uint64_t)n_header >> (8 * i));
    }
    memcpy(file.at + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++) {
        file.at[8 + n_header + i] = data != NULL ? ((const uint8_t *)data)[i] : (uint8_t)i;
    }
    return file;
}

static inline st_bytes st_make(const char *header, size_t n_data)
{
    return st_make_n(header, strlen(header), NULL, n_data);
}

static inline void st_free(st_bytes *file)
{
    free(file->at);
    *file = (st_bytes){0};
}

static inline void st_write_file(const char *path, const st_bytes *file)
{
    FILE *f = fopen(path, "wb");
    if (f == NULL || fwrite(file->at, 1, file->n, f) != file->n || fclose(f) != 0) {
        abort();
    }
}

#endif
