/* Mutated checkpoints: every reader refuses them with one clean line, or reads what was saved; no
   crash, no hang, no leak. HDF5 itself is among what is tried: most mutations of its metadata are
   given the checksum that they need to be believed. Deterministic: case i is a function of i.
   fuzz_checkpoint [CASES [FIRST]] */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/log.h"
#include "core/rng.h"
#include "tests/support/ckpt_state.h"
#include "tests/support/scratch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* What HDF5 keeps over each block of metadata; it is in the library, though in no header. */
uint32_t H5_checksum_metadata(const void *data, size_t n, uint32_t seed);

enum {
    MAX_BYTES = 1 << 18,
    MAX_BLOCKS = 256,
    CASE_SECONDS = 10,
    MEMORY_BYTES = 1 << 30, /* more than that is no way to read a small file */
    N_SEEDS = 2
};

#define PROVE(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "case %" PRIu64 ": not so: %s; message: %s\n", now, #cond,             \
                    sy_error_message());                                                           \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static uint64_t now; /* the case */
static sy_comm *io;
static char path[2 * SCRATCH_PATH];

/* ---- what is read ---- */

static const ckpt_field small[] = {
    CKPT_FIELD("model/embed", SY_BF16, DEAL_WHOLE, 2, 16, 9),
    CKPT_FIELD("model/layers/000/attn_norm", SY_F32, DEAL_WHOLE, 1, 40),
    CKPT_FIELD("optim/exp_avg/embed", SY_F64, DEAL_WHOLE, 3, 2, 8, 9),
    CKPT_FIELD("state/step", SY_I64, DEAL_WHOLE, 0, 0),
};
/* So many names in one group that HDF5 keeps them in a heap and a tree. */
static const ckpt_field crowded[] = {
    CKPT_FIELD("m/0", SY_U8, DEAL_WHOLE, 1, 3),  CKPT_FIELD("m/1", SY_U8, DEAL_WHOLE, 1, 3),
    CKPT_FIELD("m/2", SY_I32, DEAL_WHOLE, 1, 3), CKPT_FIELD("m/3", SY_U8, DEAL_WHOLE, 1, 3),
    CKPT_FIELD("m/4", SY_U8, DEAL_WHOLE, 1, 3),  CKPT_FIELD("m/5", SY_F16, DEAL_WHOLE, 1, 3),
    CKPT_FIELD("m/6", SY_U8, DEAL_WHOLE, 1, 3),  CKPT_FIELD("m/7", SY_U8, DEAL_WHOLE, 1, 0),
    CKPT_FIELD("m/8", SY_U8, DEAL_WHOLE, 1, 3),  CKPT_FIELD("m/9", SY_U8, DEAL_WHOLE, 1, 3),
};

typedef struct block {
    size_t at, n; /* without the checksum, which follows */
} block;

typedef struct seed {
    const ckpt_field *fields;
    int32_t n_fields;
    uint8_t *bytes; /* [n] */
    size_t n;
    block block[MAX_BLOCKS]; /* of metadata */
    size_t n_blocks;
} seed;

static seed seeds[N_SEEDS] = {{.fields = small, .n_fields = 4},
                              {.fields = crowded, .n_fields = 10}};

/* ---- the readers ---- */

static bool is_printable(const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c < 0x20 || *c == 0x7f) {
            return false;
        }
    }
    return *text != '\0';
}

/* SY_OK or a refusal with a message that names the file. */
static bool is_clean(sy_status st)
{
    bool clean =
        st == SY_OK || ((st == SY_ERR_DAMAGED || st == SY_ERR_USAGE) &&
                        strstr(sy_error_message(), path) && is_printable(sy_error_message()));
    if (clean) {
        sy_error_clear();
    }
    return clean;
}

static void prove_info(const sy_checkpoint_info *info, size_t n)
{
    PROVE(info->step >= 0 && info->tokens_seen >= 0);
    for (int32_t i = 0; i < info->n_entries; i++) {
        const sy_checkpoint_entry *e = &info->entry[i];
        int64_t bytes = (int64_t)sy_dtype_bytes(e->dtype);
        PROVE(is_printable(e->path) && e->n_dim >= 0 && e->n_dim <= SY_MAX_DIM);
        for (int32_t d = 0; d < e->n_dim; d++) {
            PROVE(e->shape[d] >= 0 && !__builtin_mul_overflow(bytes, e->shape[d], &bytes));
        }
        PROVE(bytes <= (int64_t)n);
    }
}

static bool try_load(const seed *s)
{
    ckpt_state state;
    PROVE(ckpt_open(&state, s->fields, s->n_fields, 0, 1) == SY_OK);
    sy_status st = sy_checkpoint_load(path, &state.state, SY_LOAD_ALL, io);
    PROVE(is_clean(st));
    PROVE(st != SY_OK || ckpt_holds(&state)); /* never other values than were saved */
    ckpt_close(&state);
    return st == SY_OK;
}

/* Is it whole? */
static bool try_file(const uint8_t *bytes, size_t n, const seed *s)
{
    FILE *file = fopen(path, "wb");
    PROVE(file && fwrite(bytes, 1, n, file) == n && fclose(file) == 0);
    const int64_t live = sy_alloc_live();
    sy_checkpoint_info info = {0};
    void *blob = NULL;
    int64_t n_blob = 0;
    alarm(CASE_SECONDS);
    sy_status known = sy_checkpoint_info_read(path, &info);
    PROVE(is_clean(known));
    if (known == SY_OK) {
        prove_info(&info, n);
        sy_checkpoint_info_free(&info);
    }
    sy_status whole = sy_checkpoint_verify(path, NULL, NULL);
    PROVE(is_clean(whole));
    PROVE(is_clean(sy_checkpoint_read_blob(path, "a", &blob, &n_blob)) && !blob);
    const bool loaded = s && try_load(s);
    PROVE(sy_alloc_live() == live);
    PROVE(whole != SY_OK || !s || loaded);
    return whole == SY_OK;
}

static void tell_case(int number)
{
    char line[64];
    int n = snprintf(line, sizeof line, "signal %d in case %" PRIu64 "\n", number, now);
    (void)!write(STDERR_FILENO, line, (size_t)n);
    signal(number, SIG_DFL);
    raise(number);
}

static void begin(void)
{
    static void *state;
    static const int deaths[] = {SIGSEGV, SIGBUS, SIGFPE, SIGALRM, SIGABRT};
    if (io) {
        return;
    }
    for (size_t i = 0; i < sizeof deaths / sizeof deaths[0]; i++) {
        signal(deaths[i], tell_case);
    }
    sy_log_setup(0, 1, SY_LOG_ERROR);
    PROVE(scratch_setup(&state) == 0 && sy_comm_world(false, &io) == SY_OK);
    scratch_path(&state, "a.h5", path);
#if !defined(__SANITIZE_ADDRESS__) && !defined(SY_LIBFUZZER)
    const struct rlimit memory = {MEMORY_BYTES, MEMORY_BYTES};
    PROVE(setrlimit(RLIMIT_DATA, &memory) == 0);
#endif
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    begin();
    (void)try_file(data, size, NULL);
    return 0;
}

#ifndef SY_LIBFUZZER

/* ---- seeds ---- */

static uint32_t stored_checksum(const uint8_t *bytes)
{
    uint32_t sum = 0;
    memcpy(&sum, bytes, sizeof sum);
    return sum;
}

/* A block of metadata begins with one of these words, and ends where its checksum holds. */
static void find_blocks(seed *s)
{
    static const char words[][5] = {"\x89HDF", "OHDR", "OCHK", "FRHP", "FHDB",
                                    "FHIB",    "BTHD", "BTIN", "BTLF"};
    for (size_t at = 0; at + 8 < s->n; at++) {
        bool begins = false;
        for (size_t w = 0; w < sizeof words / sizeof words[0]; w++) {
            begins = begins || memcmp(s->bytes + at, words[w], 4) == 0;
        }
        for (size_t n = 4; begins && at + n + 4 <= s->n && n < 4096 && s->n_blocks < MAX_BLOCKS;
             n++) {
            if (H5_checksum_metadata(s->bytes + at, n, 0) == stored_checksum(s->bytes + at + n)) {
                s->block[s->n_blocks++] = (block){at, n};
                break;
            }
        }
    }
}

static void make_seed(seed *s)
{
    ckpt_state state;
    PROVE(ckpt_open(&state, s->fields, s->n_fields, 0, 1) == SY_OK && ckpt_fill(&state) == SY_OK);
    PROVE(sy_checkpoint_save(path, &state.state, io) == SY_OK);
    ckpt_close(&state);
    s->bytes = ckpt_file(path, &s->n);
    PROVE(s->bytes && s->n > 0 && s->n <= MAX_BYTES);
    find_blocks(s);
    PROVE(s->n_blocks > 10);
}

/* ---- mutations ---- */

typedef struct dice {
    uint64_t n_drawn;
} dice;

static size_t below(dice *d, size_t n)
{
    return (size_t)(sy_rng_u64(now, SY_RNG_TEST, d->n_drawn++) % n);
}

/* A bit, a byte, or a number of 2, 4 or 8 bytes that is small, or about to overflow. */
static void change(dice *d, uint8_t *bytes, size_t n)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   2,
                                   0x7f,
                                   0xff,
                                   0x100,
                                   0x7fff,
                                   0xffff,
                                   0x7fffffff,
                                   0xffffffff,
                                   0x80000000,
                                   0x7fffffffffffffff,
                                   ~(uint64_t)0,
                                   (uint64_t)1 << 63,
                                   4096,
                                   1 << 20};
    const size_t at = below(d, n), kind = below(d, 6);
    size_t width = kind < 3 ? 1 : (size_t)1 << (kind - 2);
    uint64_t value = odd[below(d, sizeof odd / sizeof odd[0])];
    width = width < n - at ? width : n - at;
    if (kind == 0) {
        bytes[at] ^= (uint8_t)(1U << below(d, 8));
    } else if (kind == 1) {
        bytes[at] = (uint8_t)below(d, 256);
    } else if (kind == 2) {
        bytes[at] = (uint8_t)(bytes[at] + below(d, 9) - 4);
    } else {
        memcpy(bytes + at, &value, width);
    }
}

/* Returns the new size. */
static size_t mutate(dice *d, const seed *s, uint8_t *bytes)
{
    const size_t kind = below(d, 16), n_changes = 1 + below(d, 3);
    if (kind == 0) {
        return below(d, s->n); /* cut */
    }
    for (size_t i = 0; i < n_changes; i++) {
        const block *b = &s->block[below(d, s->n_blocks)];
        if (kind < 3) {
            change(d, bytes, s->n); /* anywhere */
        } else {
            change(d, bytes + b->at, b->n);
        }
        if (kind > 4) {
            uint32_t sum = H5_checksum_metadata(bytes + b->at, b->n, 0);
            memcpy(bytes + b->at + b->n, &sum, sizeof sum);
        }
    }
    return s->n;
}

int main(int argc, char **argv)
{
    const uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000;
    const uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    static uint8_t bytes[MAX_BYTES];
    uint64_t n_whole = 0;
    begin();
    for (int i = 0; i < N_SEEDS; i++) {
        make_seed(&seeds[i]);
        PROVE(try_file(seeds[i].bytes, seeds[i].n, &seeds[i]));
    }
    for (now = first; now < first + n; now++) {
        dice d = {0};
        const seed *s = &seeds[below(&d, N_SEEDS)];
        memcpy(bytes, s->bytes, s->n);
        n_whole += try_file(bytes, mutate(&d, s, bytes), s);
    }
    alarm(0);
    printf("%" PRIu64 " checkpoints, %" PRIu64 " whole\n", n, n_whole);
    return 0;
}

#endif
