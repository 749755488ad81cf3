/* What tests of suite fuzz share: dice, by which case i is a function of i alone, mutations of
   text, and seeds from a folder. */
#ifndef SY_TESTS_SUPPORT_FUZZ_H
#define SY_TESTS_SUPPORT_FUZZ_H

#include <dirent.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "core/status.h"

#define PROVE(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "%s:%d: case %" PRIu64 ": not so: %s; message: %s\n", __FILE__,        \
                    __LINE__, fuzz_case, #cond, sy_error_message());                               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static uint64_t fuzz_case; /* that of the last dice */

typedef struct dice {
    uint64_t n_drawn;
} dice;

static inline dice dice_of(int64_t i)
{
    fuzz_case = (uint64_t)i;
    return (dice){0};
}

static inline size_t below(dice *d, size_t n)
{
    return (size_t)(sy_rng_u64(fuzz_case, SY_RNG_TEST, d->n_drawn++) % n);
}

enum { FUZZ_BYTES = 1 << 15 };

typedef struct input {
    size_t n;
    uint8_t bytes[FUZZ_BYTES];
} input;

static inline void input_copy(input *to, const input *from)
{
    to->n = from->n;
    memcpy(to->bytes, from->bytes, from->n);
}

/* n bytes in the place of n_old at `at`, as far as there is room. */
static inline void splice(input *in, size_t at, size_t n_old, const void *bytes, size_t n)
{
    uint8_t copy[FUZZ_BYTES];
    if (in->n - n_old + n > FUZZ_BYTES) {
        return;
    }
    memcpy(copy, bytes, n); /* may be a part of it */
    memmove(in->bytes + at + n, in->bytes + at + n_old, in->n - at - n_old);
    memcpy(in->bytes + at, copy, n);
    in->n += n - n_old;
}

/* Up to 4 bytes changed, taken out, cut off, or pieces put in, which have room; none is zero, and a
   zero stands behind them. */
static inline void mutate_text(dice *d, char *bytes, size_t *n, const char *const *pieces,
                               size_t n_pieces)
{
    for (size_t k = below(d, 5); k > 0 && *n > 0; k--) {
        const char *piece = pieces[below(d, n_pieces)];
        const size_t at = below(d, *n), n_piece = strlen(piece);
        switch (below(d, 4)) {
        case 0:
            bytes[at] = (char)(uint8_t)(1 + below(d, 255));
            break;
        case 1:
            *n = below(d, 8) == 0 ? at : *n;
            break;
        case 2:
            memmove(bytes + at, bytes + at + 1, *n - at - 1);
            (*n)--;
            break;
        default:
            memmove(bytes + at + n_piece, bytes + at, *n - at);
            memcpy(bytes + at, piece, n_piece);
            *n += n_piece;
        }
    }
    bytes[*n] = '\0';
}

static inline void read_seed(const char *folder, const char *name, input *in)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    PROVE(f);
    in->n = fread(in->bytes, 1, FUZZ_BYTES, f);
    fclose(f);
}

static inline int is_seed(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* All files of a folder in the order of their names; to be freed with free(). */
static inline input *read_corpus(const char *folder, size_t *n_seeds)
{
    struct dirent **names = NULL;
    const int n = scandir(folder, &names, is_seed, alphasort);
    PROVE(n > 0);
    input *seeds = malloc((size_t)n * sizeof *seeds);
    PROVE(seeds);
    for (int i = 0; i < n; i++) {
        read_seed(folder, names[i]->d_name, &seeds[i]);
        free(names[i]);
    }
    free(names);
    *n_seeds = (size_t)n;
    return seeds;
}

/* The input in memory of exactly its size, so that a sanitizer finds a read past it. */
static inline bool try_exact(bool (*try_input)(const uint8_t *bytes, size_t n), const input *in)
{
    uint8_t *exact = malloc(in->n > 0 ? in->n : 1);
    PROVE(exact);
    memcpy(exact, in->bytes, in->n);
    const bool accepted = try_input(exact, in->n);
    free(exact);
    return accepted;
}

#endif
