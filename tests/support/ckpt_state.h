/* A made-up state for the tests of checkpoints: fields whose every element is known from its index,
   dealt to the ranks in several ways. */
#ifndef SY_TESTS_SUPPORT_CKPT_STATE_H
#define SY_TESTS_SUPPORT_CKPT_STATE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "tests/support/test_device.h"

/* How the elements of a field lie over the ranks. */
typedef enum deal {
    DEAL_WHOLE,  /* on every rank; one of them writes */
    DEAL_ROWS,   /* blocks of dimension 0 */
    DEAL_FLAT,   /* equal flat ranges, cut into boxes, told last box first */
    DEAL_STRIPS, /* flat strips of STRIP elements, in turn */
    DEAL_ALONE,  /* on one rank */
    N_DEALS
} deal;

enum { CKPT_FIELDS = 16, CKPT_STRIP = 1000, CKPT_MAX_PARTS = 4096 };

typedef struct ckpt_field {
    const char *name;
    sy_dtype dtype;
    int32_t n_dim;
    int64_t shape[SY_MAX_DIM];
    deal deal;
    sy_device *dev;
    bool optional;
    void *data; /* the whole tensor, of which this rank fills its parts */
    const char *prefer, *instead;
} ckpt_field;

/* A host field; the dimensions come last. */
#define CKPT_FIELD(name_, dtype_, deal_, n_dim_, ...)                                              \
    {                                                                                              \
        .name = (name_), .dtype = (dtype_), .n_dim = (n_dim_), .shape = {__VA_ARGS__},             \
        .deal = (deal_)                                                                            \
    }

typedef struct ckpt_state {
    ckpt_field field[CKPT_FIELDS];
    int32_t n_fields, rank, size, n_restored;
    sy_part part[CKPT_MAX_PARTS];
    sy_owner owner;
    sy_state state;
} ckpt_state;

static inline int64_t ckpt_numel(const ckpt_field *f)
{
    int64_t n = 1;
    for (int32_t d = 0; d < f->n_dim; d++) {
        n *= f->shape[d];
    }
    return n;
}

static inline int64_t ckpt_bytes(const ckpt_field *f)
{
    return ckpt_numel(f) * (int64_t)sy_dtype_bytes(f->dtype);
}

/* Small whole numbers: the same in every float type. */
static inline double ckpt_value(const ckpt_field *f, int64_t i)
{
    uint64_t h = (uint64_t)i * 0x9e3779b97f4a7c15U + strlen(f->name) * 40503U;
    return (double)((h >> 40) % 255) - 127;
}

static inline void ckpt_put(sy_dtype dtype, void *data, int64_t i, double value)
{
    switch (dtype) {
    case SY_I32:
        ((int32_t *)data)[i] = (int32_t)value;
        break;
    case SY_I64:
        ((int64_t *)data)[i] = (int64_t)value;
        break;
    case SY_U8:
        ((uint8_t *)data)[i] = (uint8_t)(int)value;
        break;
    default:
        sy_convert(dtype, (char *)data + i * (int64_t)sy_dtype_bytes(dtype), SY_F64, &value, 1);
    }
}

/* The whole tensor as it should be; to be freed with free(). */
static inline void *ckpt_expected(const ckpt_field *f)
{
    void *data = calloc((size_t)ckpt_bytes(f) + 1, 1);
    for (int64_t i = 0; i < ckpt_numel(f); i++) {
        ckpt_put(f->dtype, data, i, ckpt_value(f, i));
    }
    return data;
}

/* ---- dealing ---- */

static inline void ckpt_add_range(ckpt_state *s, sy_field *field, const ckpt_field *f,
                                  int64_t begin, int64_t end, bool write)
{
    sy_box box[2 * SY_MAX_DIM];
    int32_t n = f->n_dim > 0 ? sy_boxes_from_range(f->n_dim, f->shape, begin, end, box) : 1;
    if (f->n_dim == 0) {
        box[0] = (sy_box){0};
        n = begin < end ? 1 : 0;
    }
    for (int32_t b = n - 1; b >= 0 && field->n_parts < CKPT_MAX_PARTS; b--) {
        int64_t at = sy_box_offset(&box[b], f->shape) * (int64_t)sy_dtype_bytes(f->dtype);
        s->part[field->n_parts++] =
            (sy_part){.box = box[b], .data = (char *)f->data + at, .write = write};
    }
}

static inline void ckpt_deal(ckpt_state *s, int32_t k, sy_field *field)
{
    const ckpt_field *f = &s->field[k];
    const int64_t n = ckpt_numel(f), rows = f->n_dim > 0 ? f->shape[0] : 1;
    const int64_t row = rows > 0 ? n / rows : 0;
    switch (f->deal) {
    case DEAL_ROWS:
        ckpt_add_range(s, field, f, rows * s->rank / s->size * row,
                       rows * (s->rank + 1) / s->size * row, true);
        break;
    case DEAL_FLAT:
        ckpt_add_range(s, field, f, n * s->rank / s->size, n * (s->rank + 1) / s->size, true);
        break;
    case DEAL_STRIPS:
        for (int64_t at = CKPT_STRIP * s->rank; at < n; at += CKPT_STRIP * s->size) {
            ckpt_add_range(s, field, f, at, at + CKPT_STRIP < n ? at + CKPT_STRIP : n, true);
        }
        break;
    case DEAL_ALONE:
        if (k % s->size == s->rank) {
            ckpt_add_range(s, field, f, 0, n, true);
        }
        break;
    default:
        ckpt_add_range(s, field, f, 0, n, k % s->size == s->rank);
    }
}

static inline sy_status ckpt_walk(void *self, sy_emit *emit, void *to)
{
    sy_status st = SY_OK;
    ckpt_state *s = self;
    for (int32_t k = 0; k < s->n_fields; k++) {
        const ckpt_field *f = &s->field[k];
        sy_field field = {.name = f->name,
                          .dtype = f->dtype,
                          .dev = f->dev,
                          .n_dim = f->n_dim,
                          .parts = s->part,
                          .prefer = f->prefer,
                          .instead = f->instead,
                          .optional = f->optional};
        memcpy(field.shape_glb, f->shape, sizeof field.shape_glb);
        ckpt_deal(s, k, &field);
        SY_TRY(emit(to, &field));
    }
cleanup:
    return st;
}

static inline sy_status ckpt_restored(void *self)
{
    ((ckpt_state *)self)->n_restored++;
    return SY_OK;
}

/* ---- life ---- */

static inline sy_status ckpt_upload(const ckpt_field *f, const void *h_data)
{
    sy_status st = SY_OK;
    sy_stream *stream = NULL;
    if (!f->dev) {
        memcpy(f->data, h_data, (size_t)ckpt_bytes(f));
        return SY_OK;
    }
    SY_TRY(sy_stream_create(f->dev, "test", &stream));
    SY_TRY(test_upload(stream, f->data, h_data, ckpt_bytes(f)));
cleanup:
    sy_stream_destroy(&stream);
    return st;
}

static inline sy_status ckpt_download(const ckpt_field *f, void *h_data)
{
    sy_status st = SY_OK;
    sy_stream *stream = NULL;
    if (!f->dev) {
        memcpy(h_data, f->data, (size_t)ckpt_bytes(f));
        return SY_OK;
    }
    SY_TRY(sy_stream_create(f->dev, "test", &stream));
    SY_TRY(test_download(stream, h_data, f->data, ckpt_bytes(f)));
cleanup:
    sy_stream_destroy(&stream);
    return st;
}

/* Room for the tensors; zero. */
static inline sy_status ckpt_open(ckpt_state *s, const ckpt_field *fields, int32_t n, int32_t rank,
                                  int32_t size)
{
    sy_status st = SY_OK;
    memset(s, 0, sizeof *s);
    s->rank = rank;
    s->size = size;
    s->owner = (sy_owner){"made up", s, ckpt_walk, ckpt_restored};
    s->state = (sy_state){.owners = &s->owner,
                          .n_owners = 1,
                          .step = 7,
                          .tokens_seen = 700,
                          .kind = "training",
                          .config_yaml = "run:\n  name: made-up\n"};
    for (s->n_fields = 0; s->n_fields < n; s->n_fields++) {
        ckpt_field *f = &s->field[s->n_fields];
        *f = fields[s->n_fields];
        if (f->dev) {
            SY_TRY(sy_device_alloc(f->dev, ckpt_bytes(f), SY_MEM_OTHER, &f->data));
        } else {
            f->data = calloc((size_t)ckpt_bytes(f) + 1, 1);
        }
    }
cleanup:
    return st;
}

static inline sy_status ckpt_fill(ckpt_state *s)
{
    sy_status st = SY_OK;
    void *h_data = NULL;
    for (int32_t k = 0; k < s->n_fields; k++) {
        h_data = ckpt_expected(&s->field[k]);
        SY_TRY(ckpt_upload(&s->field[k], h_data));
        free(h_data);
        h_data = NULL;
    }
cleanup:
    free(h_data);
    return st;
}

static inline sy_status ckpt_clear(ckpt_state *s)
{
    sy_status st = SY_OK;
    for (int32_t k = 0; k < s->n_fields && st == SY_OK; k++) {
        void *zeros = calloc((size_t)ckpt_bytes(&s->field[k]) + 1, 1);
        st = ckpt_upload(&s->field[k], zeros);
        free(zeros);
    }
    return st;
}

static inline void ckpt_close(ckpt_state *s)
{
    for (int32_t k = 0; k < s->n_fields; k++) {
        ckpt_field *f = &s->field[k];
        if (f->dev) {
            sy_device_free(f->dev, &f->data);
        } else {
            free(f->data);
        }
    }
    s->n_fields = 0;
}

/* Does this rank hold, in its parts of field k, what it should, and zeros elsewhere? */
static inline bool ckpt_field_holds(ckpt_state *s, int32_t k)
{
    const ckpt_field *f = &s->field[k];
    const int64_t elem_bytes = (int64_t)sy_dtype_bytes(f->dtype);
    char *want = calloc((size_t)ckpt_bytes(f) + 1, 1), *full = ckpt_expected(f);
    char *have = calloc((size_t)ckpt_bytes(f) + 1, 1);
    sy_field field = {.n_dim = f->n_dim};
    ckpt_deal(s, k, &field);
    for (int32_t p = 0; p < field.n_parts; p++) {
        int64_t at = sy_box_offset(&s->part[p].box, f->shape) * elem_bytes;
        memcpy(want + at, full + at, (size_t)(sy_box_numel(&s->part[p].box) * elem_bytes));
    }
    bool ok = ckpt_download(f, have) == SY_OK && memcmp(have, want, (size_t)ckpt_bytes(f)) == 0;
    if (!ok) {
        fprintf(stderr, "rank %d of %d: field '%s' holds something else\n", s->rank, s->size,
                f->name);
    }
    free(have);
    free(full);
    free(want);
    return ok;
}

static inline bool ckpt_holds(ckpt_state *s)
{
    bool ok = true;
    for (int32_t k = 0; k < s->n_fields; k++) {
        ok = ckpt_field_holds(s, k) && ok;
    }
    return ok;
}

/* ---- files ---- */

/* The bytes of a file, to be freed with free(); NULL where there is none. */
static inline unsigned char *ckpt_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes = NULL;
    *n = 0;
    if (file && fseek(file, 0, SEEK_END) == 0) {
        *n = (size_t)ftell(file);
        bytes = malloc(*n + 1);
        rewind(file);
        *n = fread(bytes, 1, *n, file);
    }
    if (file) {
        fclose(file);
    }
    return bytes;
}

/* Do two files differ in at most so many bytes? Says where they differ otherwise. */
enum { CKPT_CREATED_BYTES = 20, CKPT_CHECKSUM_BYTES = 4 };
static inline bool ckpt_files_are_alike(const char *path_a, const char *path_b, int64_t most)
{
    enum { SHOWN = 8 };
    size_t n_a = 0, n_b = 0;
    unsigned char *a = ckpt_file(path_a, &n_a), *b = ckpt_file(path_b, &n_b);
    int64_t n = 0;
    bool alike = a && b && n_a == n_b;
    if (!alike) {
        fprintf(stderr, "'%s' has %zu bytes, '%s' %zu\n", path_a, n_a, path_b, n_b);
    }
    for (size_t i = 0; alike && i < n_a; i++) {
        n += a[i] != b[i];
    }
    alike = alike && n <= most;
    for (size_t i = 0, shown = 0; !alike && i < n_a && i < n_b && shown < SHOWN; i++) {
        if (a[i] != b[i]) {
            fprintf(stderr, "byte %zu: %02x and %02x, one of %lld\n", i, a[i], b[i], (long long)n);
            shown++;
        }
    }
    free(b);
    free(a);
    return alike;
}

#endif
