/* data: what is in a token file: how much, how long its documents are, which ids are frequent, and
   some of its sequences as text, cut as the model sees them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "data/data_config.h"
#include "data/tokenizer.h"
#include "launch/cli.h"
#include "launch/data_samples.h"
#include "launch/output.h"
#include "launch/settings.h"

enum {
    COUNTED_TOKENS = 64 << 20,
    CHUNK = 4096,
    FREQUENT = 16,
    SHOWN_IDS = 24,
    LARGEST_ID = 1 << 26
};

typedef struct view {
    const char *path;
    sy_token_file *file;
    sy_tokenizer *tokenizer; /* NULL: ids only */
    int64_t n_samples, seq_len;
    int64_t *count; /* [n_ids] of the first tokens */
    int64_t n_ids, n_counted;
    char *text;
    int32_t *ids; /* [CHUNK] or [seq_len + 1] */
} view;

/* ---- documents ---- */

static int by_size(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static sy_status print_documents(const view *v)
{
    static const int percent[] = {0, 5, 25, 50, 75, 95, 100};
    sy_status st = SY_OK;
    int64_t *length = NULL;
    if (!sy_token_file_has_documents(v->file)) {
        printf("  %" PRId64 " tokens, no index: documents end after %s\n",
               sy_token_file_n_tokens(v->file),
               sy_token_file_eod(v->file) >= 0 ? "the id of --eod" : "an id that --eod could name");
        return SY_OK;
    }
    const int64_t n = sy_token_file_n_documents(v->file);
    printf("  %" PRId64 " tokens in %" PRId64 " documents (%" PRId64 " sequences)\n",
           sy_token_file_n_tokens(v->file), n, sy_token_file_n_sequences(v->file));
    SY_TRY(sy_alloc(n, sizeof *length, (void **)&length));
    for (int64_t i = 0; i < n; i++) {
        length[i] = sy_token_file_document_length(v->file, i);
    }
    qsort(length, (size_t)n, sizeof *length, by_size);
    printf("  document length, shortest to longest:");
    for (size_t i = 0; i < sizeof percent / sizeof percent[0] && n > 0; i++) {
        printf("  %d %% %" PRId64, percent[i], length[(n - 1) * percent[i] / 100]);
    }
    printf("\n");
cleanup:
    sy_free(&length);
    return st;
}

/* ---- ids ---- */

static sy_status count_chunk(view *v, int64_t first, int64_t n)
{
    sy_status st = SY_OK;
    SY_TRY(sy_token_file_read(v->file, first, n, v->ids));
    for (int64_t i = 0; i < n; i++) {
        const int64_t id = v->ids[i];
        SY_REQUIRE(id < LARGEST_ID, SY_ERR_USAGE,
                   "token file '%s' has id %" PRId64 ", larger than any vocabulary: is --raw-type "
                   "right?",
                   sy_token_file_path(v->file), id);
        if (id >= v->n_ids) {
            int64_t *larger = NULL;
            const int64_t room = 2 * id + 256;
            SY_TRY(sy_alloc(room, sizeof *larger, (void **)&larger));
            if (v->n_ids > 0) {
                memcpy(larger, v->count, (size_t)v->n_ids * sizeof *larger);
            }
            sy_free(&v->count);
            v->count = larger;
            v->n_ids = room;
        }
        v->count[id]++;
    }
    v->n_counted += n;
cleanup:
    return st;
}

/* Ids [n], those without text in angle brackets. */
static sy_status print_text(const view *v, const int32_t *ids, int64_t n)
{
    sy_status st = SY_OK;
    int64_t n_text = 0, n_one = 0;
    putchar('"');
    for (int64_t i = 0; i < n; i++) {
        SY_TRY(sy_tokenizer_decode(v->tokenizer, ids + i, 1, v->text + n_text, &n_one));
        n_text += n_one;
        if (n_one == 0) {
            sy_print_escaped(v->text, n_text);
            printf("<%" PRId32 ">", ids[i]);
            n_text = 0;
        }
    }
    sy_print_escaped(v->text, n_text);
    putchar('"');
cleanup:
    return st;
}

static sy_status print_id(const view *v, int32_t id)
{
    sy_status st = SY_OK;
    printf("%" PRId32, id);
    if (v->tokenizer != NULL) {
        putchar(' ');
        SY_TRY(print_text(v, &id, 1));
    }
cleanup:
    return st;
}

static sy_status print_ids(view *v)
{
    sy_status st = SY_OK;
    const int64_t n_tokens = sy_token_file_n_tokens(v->file);
    const int64_t end = n_tokens < COUNTED_TOKENS ? n_tokens : COUNTED_TOKENS;
    int64_t n_distinct = 0, largest = 0;
    for (int64_t at = 0; at < end; at += CHUNK) {
        SY_TRY(count_chunk(v, at, end - at < CHUNK ? end - at : CHUNK));
    }
    for (int64_t i = 0; i < v->n_ids; i++) {
        n_distinct += v->count[i] > 0;
        largest = v->count[i] > 0 ? i : largest;
    }
    printf("  %" PRId64 " different ids, the largest %" PRId64 "%s\n  most frequent:", n_distinct,
           largest, end < n_tokens ? " (in the first 67 million tokens)" : "");
    for (int32_t k = 0; k < FREQUENT && k < n_distinct; k++) {
        int64_t most = 0;
        for (int64_t i = 1; i < v->n_ids; i++) {
            most = v->count[i] > v->count[most] ? i : most;
        }
        printf(k > 0 ? ", " : " ");
        SY_TRY(print_id(v, (int32_t)most));
        printf(" %.1f %%", 100 * (double)v->count[most] / (double)v->n_counted);
        v->count[most] = 0;
    }
    printf("\n");
cleanup:
    return st;
}

/* ---- sequences ---- */

/* Is there a border of documents before token `at` of the stream? */
static bool is_border(const view *v, int64_t at, int32_t before)
{
    return sy_token_file_has_documents(v->file)
               ? sy_token_file_document_start(v->file, sy_token_file_document_of(v->file, at)) == at
               : before == sy_token_file_eod(v->file);
}

/* Runs of tokens between borders. */
static sy_status print_sequence(view *v, int64_t first, int64_t n)
{
    sy_status st = SY_OK;
    SY_TRY(sy_token_file_read(v->file, first, n, v->ids));
    for (int64_t begin = 0, end = 1; begin < n; begin = end++) {
        while (end < n && !is_border(v, first + end, v->ids[end - 1])) {
            end++;
        }
        printf(begin > 0 ? "    | " : "    ");
        if (v->tokenizer != NULL) {
            SY_TRY(print_text(v, v->ids + begin, end - begin));
        }
        for (int64_t i = begin; i < end && i < begin + SHOWN_IDS && v->tokenizer == NULL; i++) {
            printf("%s%" PRId32, i > begin ? " " : "", v->ids[i]);
        }
        printf(v->tokenizer == NULL && end - begin > SHOWN_IDS ? " ...\n" : "\n");
    }
cleanup:
    return st;
}

static sy_status print_sequences(view *v)
{
    sy_status st = SY_OK;
    const int64_t n = (sy_token_file_n_tokens(v->file) - 1) / v->seq_len;
    const int64_t shown = n < v->n_samples ? n : v->n_samples;
    for (int64_t k = 0; k < shown; k++) {
        const int64_t i = n * k / shown;
        printf("  sequence %" PRId64 " of %" PRId64 ", %" PRId64 " tokens%s\n", i, n, v->seq_len,
               k == 0 ? " (a line for each document in it)" : "");
        SY_TRY(print_sequence(v, i * v->seq_len, v->seq_len));
    }
cleanup:
    return st;
}

/* ---- the command ---- */

static sy_status show(view *v, const sy_token_file_spec *spec)
{
    sy_status st = SY_OK;
    const int64_t room = v->seq_len > CHUNK ? v->seq_len : CHUNK;
    SY_TRY(sy_token_file_open_as(v->path, spec, &v->file));
    SY_TRY(sy_alloc(room, sizeof *v->ids, (void **)&v->ids));
    if (v->tokenizer != NULL) {
        SY_TRY(sy_alloc(sy_tokenizer_max_bytes(v->tokenizer, room), 1, (void **)&v->text));
    }
    printf("%s\n", sy_token_file_path(v->file));
    SY_TRY(print_documents(v));
    SY_TRY(print_ids(v));
    SY_TRY(print_sequences(v));
cleanup:
    sy_free(&v->text);
    sy_free(&v->ids);
    sy_free(&v->count);
    v->n_ids = v->n_counted = 0;
    sy_token_file_close(&v->file);
    return st;
}

static sy_status show_files(const sy_cli *cli, view *v)
{
    sy_status st = SY_OK;
    int64_t eod = -1;
    const char *tokenizer = sy_cli_text(cli, "tokenizer"), *type = sy_cli_text(cli, "raw-type");
    SY_TRY(sy_cli_i64(cli, "seq-len", 1, 1 << 24, &v->seq_len));
    SY_TRY(sy_cli_i64(cli, "eod", 0, INT32_MAX, &eod));
    SY_TRY(sy_data_raw_type_check(type));
    if (tokenizer == NULL || strcmp(tokenizer, "none") != 0) {
        SY_TRY(sy_tokenizer_open(tokenizer != NULL ? tokenizer : "bytes", &v->tokenizer));
    }
    for (int32_t i = 0; i < cli->n_operands; i++) {
        v->path = cli->operand[i];
        SY_TRY(
            show(v, &(sy_token_file_spec){.type = type, .has_eod = eod >= 0, .eod = (int32_t)eod}));
    }
cleanup:
    sy_tokenizer_close(&v->tokenizer);
    return st;
}

static sy_status show_config(const sy_cli *cli, sy_env *env, int64_t n_samples)
{
    static const char *const of_files[] = {"tokenizer", "seq-len", "raw-type", "eod"};
    sy_status st = SY_OK;
    sy_run_settings settings = {0};
    int32_t n = 0;
    const char *const *set = sy_cli_list(cli, "set", &n);
    for (size_t i = 0; i < sizeof of_files / sizeof of_files[0]; i++) {
        SY_REQUIRE(!sy_cli_given(cli, of_files[i]), SY_ERR_USAGE,
                   "data: --%s is for token files; the configuration says it", of_files[i]);
    }
    SY_TRY(sy_settings_load(sy_cli_text(cli, "config"), set, n, env->world, &settings));
    SY_TRY(sy_data_show_samples(&settings, n_samples));
cleanup:
    sy_run_settings_free(&settings);
    return st;
}

static sy_status run(const sy_cli *cli, sy_env *env, int *exit_code)
{
    sy_status st = SY_OK;
    view v = {.n_samples = 3, .seq_len = 128};
    const bool config = sy_cli_given(cli, "config");
    (void)exit_code;
    SY_TRY(sy_cli_i64(cli, "samples", 0, 1 << 20, &v.n_samples));
    SY_REQUIRE(config != (cli->n_operands > 0), SY_ERR_USAGE,
               "data: give token files, or --config FILE for what a run reads");
    SY_REQUIRE(config || !sy_cli_given(cli, "set"), SY_ERR_USAGE, "data: --set goes with --config");
    SY_TRY(config ? show_config(cli, env, v.n_samples) : show_files(cli, &v));
cleanup:
    return st;
}

static const sy_option options[] = {
    {"config", SY_OPTION_VALUE, "FILE",
     "Instead of files: the first training sequences of a configuration, with what is given and "
     "what is learned."},
    {"set", SY_OPTION_LIST, "KEY=VALUE", "Override a key of that configuration."},
    {"samples", SY_OPTION_VALUE, "N", "Sequences to show (3), of a file evenly spread."},
    {"tokenizer", SY_OPTION_VALUE, "NAME",
     "To decode with: bytes (default), a file as of `tokenize`, or none: ids only."},
    {"seq-len", SY_OPTION_VALUE, "S", "Tokens of a sequence (128)."},
    {"raw-type", SY_OPTION_VALUE, "TYPE",
     "Ids of a file without header: u8, u16 (default), u32, u64, i32 or i64."},
    {"eod", SY_OPTION_VALUE, "ID", "Id that ends a document, where there is no index."},
    {0},
};

const sy_command sy_cmd_data = {.name = "data",
                                .operands = "PATH... | --config FILE",
                                .help = "What is in token files, and how it reads.",
                                .min_operands = 0,
                                .max_operands = -1,
                                .options = options,
                                .alone = true,
                                .run = run};
