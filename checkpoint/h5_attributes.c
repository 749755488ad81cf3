/* The attributes of /, bounded before they are read. Specification, IV.A.2.m "The Attribute
   Message". */
#include <inttypes.h>
#include <string.h>

#include "checkpoint/h5_read_impl.h"
#include "core/alloc.h"

enum { MAX_WORD_BYTES = 256, MAX_CONFIG_BYTES = 16 << 20, HEAD = 9, VERSION = 3 };

typedef enum kind { TEXT, NUMBER } kind;

typedef struct wanted {
    const char *name;
    kind kind;
    int64_t max_bytes; /* of a text */
    char *text;
    int64_t number;
    bool found;
} wanted;

typedef struct reader {
    sy__h5_file *file;
    wanted *wanted; /* [n] */
    int32_t n;
} reader;

/* ---- one attribute ---- */

static bool is_plain(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    while (*c >= 0x20 && *c != 0x7f) {
        c++;
    }
    return *c == '\0';
}

static sy_status take_text(const reader *r, wanted *w, const unsigned char *type, int64_t n_type,
                           const unsigned char *value, int64_t n)
{
    enum { TEXT_CLASS = 3 };
    sy_status st = SY_OK;
    const int64_t bytes =
        n_type >= 8 && (type[0] & 0x0f) == TEXT_CLASS ? sy__h5_number(type + 4, 4) : 0;
    SY_REQUIRE(bytes > 0 && bytes <= w->max_bytes && bytes <= n, SY_ERR_DAMAGED,
               "checkpoint '%s': attribute '%s' is not a text of 1 to %" PRId64 " bytes",
               r->file->path, w->name, w->max_bytes);
    SY_TRY(sy_alloc(bytes + 1, 1, (void **)&w->text));
    memcpy(w->text, value, (size_t)bytes);
    SY_REQUIRE(w->max_bytes > MAX_WORD_BYTES || is_plain(w->text), SY_ERR_DAMAGED,
               "checkpoint '%s': attribute '%s' cannot be printed", r->file->path, w->name);
cleanup:
    return st;
}

static sy_status take_number(const reader *r, wanted *w, const unsigned char *type, int64_t n_type,
                             const unsigned char *value, int64_t n)
{
    sy_status st = SY_OK;
    SY_REQUIRE(sy__h5_get_type(type, n_type) == SY_I64 && n >= 8, SY_ERR_DAMAGED,
               "checkpoint '%s': attribute '%s' is not an integer of 64 bits", r->file->path,
               w->name);
    memcpy(&w->number, value, sizeof w->number);
    SY_REQUIRE(w->number >= 0, SY_ERR_DAMAGED, "checkpoint '%s': attribute '%s' is %" PRId64,
               r->file->path, w->name, w->number);
cleanup:
    return st;
}

/* The parts of its message: name, type, space and value, each right behind the other. */
static sy_status take_value(const reader *r, wanted *w, const sy__h5_message *m)
{
    sy_status st = SY_OK;
    const int64_t n_type = sy__h5_number(m->body + 4, 2), n_space = sy__h5_number(m->body + 6, 2);
    const int64_t type_at = HEAD + sy__h5_number(m->body + 2, 2),
                  value_at = type_at + n_type + n_space;
    const unsigned char *type = m->body + type_at, *value = m->body + value_at;
    sy__item space;
    int64_t numel = 0;
    SY_REQUIRE(value_at <= m->n && m->body[1] == 0 && !w->found, SY_ERR_DAMAGED,
               "checkpoint '%s': attribute '%s' is not as we write it", r->file->path, w->name);
    const bool one =
        sy__h5_get_space(&(sy__h5_message){.body = type + n_type, .n = n_space}, &space, &numel);
    SY_REQUIRE(one && numel == 1, SY_ERR_DAMAGED,
               "checkpoint '%s': attribute '%s' is not one value", r->file->path, w->name);
    SY_TRY(w->kind == TEXT ? take_text(r, w, type, n_type, value, m->n - value_at)
                           : take_number(r, w, type, n_type, value, m->n - value_at));
    w->found = true;
cleanup:
    return st;
}

static sy_status take_attribute(void *self, const sy__h5_message *m)
{
    const reader *r = self;
    const int64_t n_name = m->n >= HEAD ? sy__h5_number(m->body + 2, 2) : 0;
    if (m->n < HEAD + n_name || m->body[0] != VERSION || n_name == 0) {
        return SY_OK; /* by another program: none of ours, or it will be missed */
    }
    for (int32_t i = 0; i < r->n; i++) {
        wanted *w = &r->wanted[i];
        if (strlen(w->name) + 1 == (size_t)n_name &&
            memcmp(m->body + HEAD, w->name, (size_t)n_name) == 0) {
            return take_value(r, w, m);
        }
    }
    return SY_OK;
}

/* ---- all of them ---- */

static sy_status take_message(void *self, const sy__h5_message *m)
{
    const reader *r = self;
    if (m->type == SY__H5_ATTRIBUTE && (m->flags & SY__H5_SHARED) == 0) {
        return take_attribute(self, m);
    }
    if (m->type == SY__H5_ATTRIBUTES &&
        m->n >= 18) { /* behind the flags, and a number if bit 0 is set */
        const int64_t at = m->body[1] & 1 ? 4 : 2;
        return m->n >= at + 16 ? sy__h5_dense(r->file, m->body + at, SY__H5_TREE_ATTRIBUTES,
                                              take_attribute, self)
                               : SY_OK;
    }
    return SY_OK;
}

static sy_status find_all(sy__h5_file *file, wanted *w, int32_t n)
{
    sy_status st = SY_OK;
    reader r = {file, w, n};
    SY_TRY(sy__h5_messages(file, file->root, take_message, &r));
    for (int32_t i = 0; i < n; i++) {
        SY_REQUIRE(w[i].found, SY_ERR_DAMAGED, "'%s' is not a checkpoint: it has no attribute '%s'",
                   file->path, w[i].name);
    }
cleanup:
    return st;
}

static void free_texts(wanted *w, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        sy_free(&w[i].text);
    }
}

/* Before anything else: another version may mean everything else. */
static sy_status check_format(sy__h5_file *file)
{
    sy_status st = SY_OK;
    wanted w[] = {{.name = "format", .kind = TEXT, .max_bytes = MAX_WORD_BYTES},
                  {.name = "format_version", .kind = NUMBER}};
    SY_TRY(find_all(file, w, 2));
    SY_REQUIRE(strcmp(w[0].text, SY__FORMAT) == 0, SY_ERR_DAMAGED,
               "'%s' is not a checkpoint: its format is '%s'", file->path, w[0].text);
    SY_REQUIRE(w[1].number == SY__FORMAT_VERSION, SY_ERR_DAMAGED,
               "checkpoint '%s' has format_version %" PRId64 ", this program reads %d; use the "
               "program that wrote it, or a newer one",
               file->path, w[1].number, SY__FORMAT_VERSION);
cleanup:
    free_texts(w, 2);
    return st;
}

sy_status sy__h5_attributes(sy__h5_file *file, sy__attributes *out)
{
    enum { COMPLETE, PRODUCER, KIND, CONFIG, STEP, TOKENS_SEEN, CREATED, N };
    sy_status st = SY_OK;
    wanted w[N] = {[COMPLETE] = {"complete", NUMBER},
                   [PRODUCER] = {"producer", TEXT, .max_bytes = MAX_WORD_BYTES},
                   [KIND] = {"kind", TEXT, .max_bytes = MAX_WORD_BYTES},
                   [CONFIG] = {"config", TEXT, .max_bytes = MAX_CONFIG_BYTES},
                   [STEP] = {"step", NUMBER},
                   [TOKENS_SEEN] = {"tokens_seen", NUMBER},
                   [CREATED] = {"created", TEXT, .max_bytes = MAX_WORD_BYTES}};
    SY_TRY(check_format(file));
    SY_TRY(find_all(file, w, N));
    SY_REQUIRE(w[COMPLETE].number == 1, SY_ERR_DAMAGED,
               "checkpoint '%s' is not complete: the run that wrote it was cut short", file->path);
    *out = (sy__attributes){.kind = w[KIND].text,
                            .config_yaml = w[CONFIG].text,
                            .producer = w[PRODUCER].text,
                            .created = w[CREATED].text,
                            .step = w[STEP].number,
                            .tokens_seen = w[TOKENS_SEEN].number,
                            .complete = w[COMPLETE].number};
    w[KIND].text = w[CONFIG].text = w[PRODUCER].text = w[CREATED].text = NULL;
cleanup:
    free_texts(w, N);
    return st;
}
